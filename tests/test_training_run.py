"""Settings, resumable runs, and starting from other weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.training.config import as_json, input_size, option, parse  # noqa: E402
from posezoo.training.initialise import layers_of, load_backbone, read_layers  # noqa: E402
from posezoo.training.run import Checkpoint, Plateau, Run, RunError, averaged_weights, replacing  # noqa: E402


@dataclass
class Config:
    data: Path = option(Path("data"), "folder")
    init: Path | None = option(None, "weights")
    rate: float = option(0.5, "learning rate")
    epochs: int = option(3, "epochs")
    fast_mode: bool = option(False, "speed")
    resume: bool = option(True, "go on")


# Settings


def test_flags_fill_the_settings():
    assert parse(Config, []) == Config()
    given = ["--data", "x/y", "--init", "w.h5", "--rate", "1e-3", "--epochs", "7", "--fast-mode", "--no-resume"]
    assert parse(Config, given) == Config(Path("x/y"), Path("w.h5"), 1e-3, 7, True, False)
    assert as_json(parse(Config, given))["init"] == "w.h5" and json.dumps(as_json(Config()))


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--rat", "1"], "unrecognized arguments: --rat"),  # no guessing from the first letters
        (["--momentum", "1"], "unrecognized arguments: --momentum"),
        (["--epochs", "many"], "invalid int value: 'many'"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_unknown_flags_are_errors(capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        parse(Config, argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_sides_of_an_input():
    assert input_size("") == {}
    assert input_size("368") == {"input_px": (368, 368)}
    assert input_size("184X224") == {"input_px": (184, 224)}
    for told in ("x", "12x", "1x2x3", "-4", "large"):
        with pytest.raises(SystemExit, match="expected a side such as 368, or HEIGHTxWIDTH"):
            input_size(told)


def test_fields_without_a_default_are_required(capsys):
    @dataclass
    class Strict:
        steps: int

    Strict.__annotations__ = {"steps": int}
    assert parse(Strict, ["--steps", "4"]).steps == 4
    with pytest.raises(SystemExit):
        parse(Strict, [])
    assert "required: --steps" in capsys.readouterr().err


# Files


def test_replacing_leaves_nothing_behind_on_failure(tmp_path):
    path = tmp_path / "state.bin"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError), replacing(tmp_path / "never") as temporary:
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == [path]


# Runs


def tiny_model(seed=1, *, ema=False):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(3)(image))
    model = keras.Model(image, keras.layers.Dense(1)(x))
    averaging = {"use_ema": True, "ema_momentum": 0.5} if ema else {}
    model.compile(keras.optimizers.AdamW(0.01, **averaging), "mse", jit_compile=False)
    return model


def values(variables):
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def train(model, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        model.train_on_batch(rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 1)).astype("float32"))


def test_save_and_restore_everything(tmp_path):
    model, run, plateau = tiny_model(ema=True), Run.start_or_resume(Config(), tmp_path), Plateau(2)
    train(model, 3)
    for score in (0.5, 0.4, 0.4, 0.6, 0.1):
        plateau.update(score)
    run.epoch, run.best, run.history = 2, 0.75, [{"epoch": 0}, {"epoch": 1}]
    with averaged_weights(model):
        averaged = values(model.variables)
    run.save(model, averaged, plateau)
    saved = values(model.variables), values(model.optimizer.variables)
    train(model, 4, seed=9)
    after = values(model.variables)
    assert not same(after, saved[0])

    again = Run.start_or_resume(Config(epochs=9), tmp_path)
    assert (again.epoch, again.best, len(again.history)) == (2, 0.75, 2)
    other, fresh = tiny_model(seed=5, ema=True), Plateau(2)
    again.restore(other, fresh)
    assert same(values(other.variables), saved[0]) and same(values(other.optimizer.variables), saved[1])
    assert fresh.state == plateau.state == {"scale": 0.5, "best": 0.6, "waited": 1}
    train(other, 4, seed=9)
    assert same(values(other.variables), after)
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "state.npz"}


def test_next_stage_starts_from_the_averages(tmp_path):
    model, run = tiny_model(ema=True), Run.start_or_resume(Config(), tmp_path)
    train(model, 3)
    raw = values(model.variables)
    with averaged_weights(model):
        averaged = values(model.variables)
    assert not same(raw, averaged)
    run.epoch = 1
    run.save(model, averaged)
    other = tiny_model(seed=5, ema=True)
    Run.start_or_resume(Config(), tmp_path).restore_averages(other)
    assert same(values(other.variables), averaged)


def test_a_fresh_run_restores_nothing(tmp_path):
    model = tiny_model()
    before = values(model.variables)
    Run.start_or_resume(Config(), tmp_path).restore(model)
    assert same(values(model.variables), before)


def test_no_resume_starts_again(tmp_path):
    run = Run.start_or_resume(Config(), tmp_path)
    run.epoch = 4
    run.save(tiny_model(), [])
    assert Run.start_or_resume(Config(rate=7.0), tmp_path, resume=False).epoch == 0


def test_other_settings_are_refused(tmp_path):
    run = Run.start_or_resume(Config(), tmp_path)
    run.save(tiny_model(), [])
    with pytest.raises(RunError, match=r"rate was 0.5, now 0.25.*--no-resume"):
        Run.start_or_resume(Config(rate=0.25), tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match="no whole run.json.*--no-resume"):
        Run.start_or_resume(Config(), tmp_path)


def test_another_model_is_refused(tmp_path):
    run = Run.start_or_resume(Config(), tmp_path)
    run.save(tiny_model(), [])
    wider = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9), keras.layers.Dense(1)])
    wider.compile("adam", "mse", jit_compile=False)
    with pytest.raises(RunError, match="does not fit this model"):
        Run.start_or_resume(Config(), tmp_path).restore(wider)


def test_averaged_weights_come_and_go():
    model = tiny_model(ema=True)
    train(model, 1)  # Keras starts the averages from the weights after the first step
    first = values(model.trainable_variables)
    train(model, 1, seed=1)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        inside = values(model.trainable_variables)
    assert same(values(model.trainable_variables), raw)
    for before, after, mean in zip(first, raw, inside, strict=True):
        assert np.allclose(mean, 0.5 * before + 0.5 * after, atol=1e-6)
    assert not same(inside, raw)
    with pytest.raises(KeyError), averaged_weights(model):
        raise KeyError
    assert same(values(model.trainable_variables), raw)


def test_averaged_weights_without_averaging():
    model = tiny_model()
    train(model, 1)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        assert same(values(model.trainable_variables), raw)


def test_plateau():
    plateau = Plateau(2, factor=0.1)
    scales = [plateau.update(s) for s in (0.1, 0.2, 0.2, 0.1, 0.15, 0.19, 0.3, 0.2, 0.2)]
    assert np.allclose(scales, [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


def test_checkpoint_keeps_the_best_and_resumes(tmp_path):
    x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    scores = iter([0.3, 0.9, 0.5, 0.4])
    rates = []

    def fit(run, model, first, last):
        checkpoint = Checkpoint(
            run, model, lambda: {"val": next(scores)}, learning_rate=lambda step: rates.append(step) or 0.1 / (1 + step)
        )
        model.fit(x, y, batch_size=4, epochs=last, initial_epoch=first, callbacks=[checkpoint], verbose=0)

    run, model = Run.start_or_resume(Config(), tmp_path), tiny_model()
    fit(run, model, 0, 2)
    best = values(model.variables)
    again, other = Run.start_or_resume(Config(), tmp_path), tiny_model(seed=3)
    again.restore(other)
    fit(again, other, again.epoch, 4)
    assert rates == list(range(8)) and again.best == 0.9 and again.epoch == 4
    assert [h["val"] for h in again.history] == [0.3, 0.9, 0.5, 0.4]
    assert [h["val"] for h in json.loads((tmp_path / "run.json").read_text())["history"]] == [0.3, 0.9, 0.5, 0.4]
    other.load_weights(again.best_weights)
    assert same(values(other.variables), best)
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "state.npz", "best.weights.h5"}


# Starting from other weights


def test_read_layers(tmp_path):
    arrays = {"conv1/kernel": np.ones((3, 3, 3, 8)), "conv_preds/bias": np.ones(4)}
    arrays |= {f"conv1/{name}": np.full(8, i) for i, name in enumerate(("gamma", "beta", "mean", "variance"))}
    np.savez(tmp_path / "a.npz", **arrays)
    layers = read_layers(tmp_path / "a.npz")
    assert set(layers) == {"conv1", "conv1_bn", "conv_preds"} and set(layers["conv1"]) == {"kernel"}
    assert layers["conv1_bn"]["variance"].tolist() == [3] * 8 and layers["conv1"]["kernel"].dtype == np.float32
    with pytest.raises(ValueError, match=r"expected an .npz of layers or Keras's MobileNet .h5"):
        read_layers(tmp_path / "a.pt")


def test_read_layers_of_keras_h5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["conv_dw_1/conv_dw_1/depthwise_kernel:0"] = np.ones((3, 3, 8, 1))
        file["conv_dw_1_bn/conv_dw_1_bn/moving_mean:0"] = np.ones(8)
    layers = read_layers(tmp_path / "a.h5")
    assert list(layers["conv_dw_1"]) == ["kernel"] and list(layers["conv_dw_1_bn"]) == ["mean"]


def backbone(width):
    from posezoo.models.mobilenet_split import mobilenet_trunk

    image = keras.Input((64, 64, 3), name="image")
    return keras.Model(image, mobilenet_trunk(image, width=width, depth=5)[-1])


def randomise(network, seed):
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        weights = layer.get_weights()
        if type(layer).__name__ == "BatchNormalization":
            channels = len(weights[0])
            weights = [rng.uniform(0.5, 2, channels), rng.normal(0, 0.5, channels), rng.normal(0, 0.1, channels)]
            weights.append(rng.uniform(0.5, 2, channels))
        else:
            weights = [rng.normal(0, 1 / np.sqrt(w[..., 0].size), w.shape) for w in weights]
        if weights:
            layer.set_weights(weights)


def test_narrow_backbone_keeps_the_channels_that_matter():
    """Where the dropped channels are silent, the narrow network computes what the wide one does."""
    wide, narrow = backbone(1.0), backbone(0.5)
    randomise(wide, 1)
    rng = np.random.default_rng(2)
    alive = None
    for layer in wide.layers:
        if type(layer).__name__ != "BatchNormalization":
            continue
        gamma, beta, *moments = layer.get_weights()
        if "dw" not in layer.name:  # a depthwise layer's channels are its input's
            alive = np.sort(rng.permutation(len(gamma))[: len(gamma) // 2])
        silent = np.setdiff1d(np.arange(len(gamma)), alive)
        gamma[silent], beta[silent] = 0, 0
        layer.set_weights([gamma, beta, *moments])
    filled = load_backbone(narrow, layers_of(wide))
    assert len(filled) == 2 * (1 + 2 * 5)
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(wide(images))[..., alive]
    got = keras.ops.convert_to_numpy(narrow(images))
    assert expected.std() > 0.1 and np.allclose(got, expected, atol=1e-4)


def test_equal_width_copies_exactly():
    source, target = backbone(0.5), backbone(0.5)
    randomise(source, 4)
    load_backbone(target, layers_of(source))
    assert same([w for layer in target.layers for w in layer.get_weights()],
                [w for layer in source.layers for w in layer.get_weights()])  # fmt: skip


def test_load_backbone_leaves_other_layers_alone():
    from posezoo.models.mobilenet_split import mobilenet_split

    source = backbone(1.0)
    randomise(source, 6)
    network = mobilenet_split(width=0.35, input_px=64)
    before = {layer.name: layer.get_weights() for layer in network.layers}
    filled = load_backbone(network, layers_of(source))
    for layer in network.layers:
        if layer.get_weights():
            assert same(layer.get_weights(), before[layer.name]) == (layer.name not in filled), layer.name


@pytest.mark.parametrize("merges", [("concat", "add"), ("add", "concat")], ids="-".join)
def test_narrow_network_from_a_whole_wide_one(merges):
    """Added branches keep the same channels and every stream keeps its own."""
    from posezoo.models.mobilenet_split import mobilenet_split

    settings = {"input_px": 64, "merge14": merges[0], "merge28": merges[1]}
    wide, narrow = mobilenet_split(width=1.0, **settings), mobilenet_split(width=0.5, **settings)
    randomise(wide, 1)
    streams = wide.get_layer("heatmaps").streams, narrow.get_layer("heatmaps").streams
    starts = np.cumsum([0, *streams[0]])
    rng = np.random.default_rng(2)
    added = {"add-concat": ("conv_pw_11", "skip14_pw"), "concat-add": ("head12_pw", "skip28_pw")}["-".join(merges)]
    alive = {}  # convolution -> channels that are not silent
    for layer in wide.layers:
        if type(layer).__name__ != "BatchNormalization" or "dw" in layer.name:
            continue
        name, gamma = layer.name.removesuffix("_bn"), layer.get_weights()[0]
        channels = np.sort(rng.permutation(len(gamma))[: len(gamma) // 2])
        if name == added[1]:
            channels = alive[added[0]]
        if name == "head13_pw":
            blocks = zip(starts, *streams, strict=False)
            channels = np.concatenate([start + np.sort(rng.permutation(n)[:m]) for start, n, m in blocks])
        alive[name] = channels
    for name, channels in alive.items():
        layer = wide.get_layer(f"{name}_bn")
        gamma, beta, *moments = layer.get_weights()
        silent = np.setdiff1d(np.arange(len(gamma)), channels)
        gamma[silent], beta[silent] = 0, 0
        layer.set_weights([gamma, beta, *moments])
    # Silent inputs must stay silent behind depthwise layers, whose own batch norm would wake them.
    for layer in wide.layers:
        if type(layer).__name__ == "BatchNormalization" and "dw" in layer.name:
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, 0 * beta, 0 * mean, variance])
    filled = load_backbone(narrow, layers_of(wide))
    assert "heatmaps" in filled and len(filled) == sum(bool(layer.get_weights()) for layer in narrow.layers)
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    expected, got = (keras.ops.convert_to_numpy(net(images)["heatmaps"]) for net in (wide, narrow))
    assert expected.std() > 1e-3 and np.allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_nothing_to_load_is_an_error():
    with pytest.raises(ValueError, match="no layer of the source"):
        load_backbone(backbone(0.5), {"other": {"kernel": np.ones(3)}})


def test_imagenet_backbone(shared):
    path = shared / "data" / "init_weights" / "mobilenet_v1_1.0_224_imagenet_bn.npz"
    if not path.exists():
        pytest.skip("no ImageNet backbone in the shared data")
    from posezoo.models.mobilenet_split import mobilenet_split

    filled = load_backbone(mobilenet_split(width=0.5, input_px=64), read_layers(path))
    assert len(filled) == 2 * (1 + 2 * 11)
