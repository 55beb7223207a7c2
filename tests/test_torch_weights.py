"""PyTorch checkpoints: parity with the public networks' outputs, and refusal of what does not fit."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import posezoo  # noqa: E402
from posezoo.commands.training import network_to_fill  # noqa: E402
from posezoo.models import efficienthrnet as ehr  # noqa: E402
from posezoo.models import pose_machines  # noqa: E402
from posezoo.torch_weights import CheckpointError, load_torch, read_checkpoint  # noqa: E402


def rule(name: str, shape) -> np.ndarray:
    """The weights with which the reference outputs were made (`parity/README.md`)."""
    r, last = np.random.default_rng(zlib.crc32(name.encode())), name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last in ("running_mean", "bias"):
        return r.normal(0, 0.1, shape).astype("f4")
    if last == "running_var" or len(shape) == 1:
        return r.uniform(0.5, 1.5, shape).astype("f4")
    return r.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape).astype("f4")


#: Reference -> name and settings for the command, and outputs as y0, y1 (joined where the reference joins them).
PARITY = {
    "ehr_H-4": (("efficienthrnet_h-4", "input_px=128"), (("heatmaps_low", "tags"), ("heatmaps",))),
    "hrnet32_38": (("hrnet_w32", "num_keypoints=38", "input_px=128,96"), (("heatmaps",),)),
    "head18_21": (("hrnet.hrnetv2_head", "input_px=32", "projection=false"), (("heatmaps",),)),
    "hg": (("hourglass_2s", "input_px=128"), (("heatmaps_1",), ("heatmaps",))),
    "mpm_2": (("mpm_2s", "input_px=112,144"), (("pafs",), ("heatmaps",))),
    "rpm_1": (("rpm_1s", "input_px=112,144"), (("pafs",), ("heatmaps",))),
    "spm_2": (("spm_2s", "input_px=112,144", "extractor=flat"), (("pafs",), ("heatmaps",))),
}


def imported(state, model: str, *settings: str, folder) -> object:
    """The network that `posezoo import-torch` makes of a checkpoint, loaded as the command says at its end."""
    import contextlib
    import io

    from posezoo.cli import main

    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, folder / "a.safetensors")
    told = io.StringIO()
    given = ("--set", *settings) if settings else ()
    command = ["import-torch", str(folder / "a.safetensors"), "--model", model, "-o", str(folder / "a.weights.h5")]
    with contextlib.redirect_stdout(told):
        assert main([*command, *given]) == 0
    scope = {"posezoo": posezoo}
    exec(told.getvalue().split("load it with: ")[1], scope)
    return scope["network"] if "network" in scope else scope["model"].network


def parity_error(network, outputs, reference) -> float:
    """Largest difference over the largest value, over all outputs."""
    got = network.predict_on_batch(reference["x"].transpose(0, 2, 3, 1))
    errors = []
    for i, names in enumerate(outputs):
        y = np.concatenate([np.asarray(got[name]) for name in names], axis=-1).transpose(0, 3, 1, 2)
        errors.append(np.abs(y - reference[f"y{i}"]).max() / np.abs(reference[f"y{i}"]).max())
    return max(errors)


@pytest.mark.shared
@pytest.mark.parametrize("name", PARITY)
def test_outputs_are_those_of_the_public_network(name, shared):
    if not (shared / "parity" / f"{name}.npz").exists():
        pytest.skip(f"no parity/{name}.npz in the shared data")
    keras.backend.clear_session()
    (model, *settings), outputs = PARITY[name]
    names = json.loads((shared / "parity" / f"{name}.json").read_text())["state_dict"]
    network, family, _ = network_to_fill(model, settings, "made.weights.h5")
    load_torch(network, {k: rule(k, v) for k, v in names.items()}, family=family)
    with np.load(shared / "parity" / f"{name}.npz") as reference:
        assert parity_error(network, outputs, reference) < 1e-4


def state_of(network, family_modules) -> dict[str, np.ndarray]:
    """A checkpoint that fits a network: the inverse of the import, for tests."""
    from posezoo.torch_weights import LAYOUTS

    parts: dict[str, list] = {}
    for layer in network.layers:
        if not layer.weights or layer.name not in family_modules:
            continue
        module = family_modules[layer.name]
        path = module if isinstance(module, str) else module[0]
        names, axes = LAYOUTS[type(layer).__name__]
        for name, value in zip(names, layer.get_weights(), strict=False):
            if axes and name == "weight":
                value = value.transpose(np.argsort(axes))
            parts.setdefault(f"{path}.{name}", []).append(value)
    return {k: np.concatenate(v) for k, v in parts.items()}


@pytest.fixture(scope="module")
def small():
    """H-4 at 64 px with random batch norms, and its checkpoint."""
    keras.utils.set_random_seed(3)
    network = ehr.efficienthrnet(-4, input_px=64)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network, state_of(network, ehr.torch_modules(network))


def outputs_equal(a, b, tolerance=1e-5) -> bool:
    x = np.random.default_rng(1).normal(size=(1, 64, 64, 3)).astype("f4")
    first, second = a.predict_on_batch(x), b.predict_on_batch(x)
    return all(np.abs(first[k] - second[k]).max() <= tolerance * max(1, np.abs(first[k]).max()) for k in first)


def test_a_checkpoint_fills_the_network_and_its_other_head(small, tmp_path):
    network, state = small
    for head in ("concat", "sum"):
        other = ehr.efficienthrnet(-4, input_px=64, head=head)
        assert not outputs_equal(network, other)
        load_torch(other, state, family="efficienthrnet")
        assert outputs_equal(network, other)


@pytest.mark.parametrize("prefix", ["module.", "net."])
def test_prefixes_of_wrapping_modules_are_taken_off(small, prefix):
    network, state = small
    other = ehr.efficienthrnet(-4, input_px=64)
    load_torch(other, {prefix + k: v for k, v in state.items()}, family="efficienthrnet")
    assert outputs_equal(network, other)


def test_what_does_not_fit_is_listed_and_nothing_changes(small):
    _, state = small
    broken = dict(state)
    del broken["trans1_branch1.0.weight"]
    broken["surplus.weight"] = np.zeros(3)
    broken["final_layers.1.bias"] = np.zeros(5)
    other = ehr.efficienthrnet(-4, input_px=64)
    before = [w.copy() for w in other.get_weights()]
    with pytest.raises(CheckpointError) as error:
        load_torch(other, broken, family="efficienthrnet")
    told = str(error.value)
    for part in ("1 missing: trans1_branch1.0.weight", "1 left over: surplus.weight", "final_layers.1.bias is (5,)"):
        assert part in told
    assert all((a == b).all() for a, b in zip(before, other.get_weights(), strict=True))


def test_another_size_of_the_family_does_not_fit(small):
    _, state = small
    with pytest.raises(CheckpointError, match="of another shape"):
        load_torch(ehr.efficienthrnet(-3, input_px=64), state, family="efficienthrnet")


def test_files_are_read_without_running_their_code(small, tmp_path):
    torch = pytest.importorskip("torch")
    _, state = small
    tensors = {f"module.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert read.keys() == state.keys()
    assert all((read[k] == state[k]).all() for k in state)

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": tensors, "evil": Runs()}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="tensors alone"):
        read_checkpoint(tmp_path / "b.pth")
    assert not (tmp_path / "ran").exists()
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(tmp_path / "c.pth")
    (tmp_path / "d.pth").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"d\.pth"):
        read_checkpoint(tmp_path / "d.pth")


def test_safetensors_need_no_torch(small, tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    _, state = small
    numpy_files.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "a.safetensors")
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert all((read[k] == state[k]).all() for k in state)
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "b.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        read_checkpoint(tmp_path / "no.pth")


def test_the_command_writes_weights_that_load(small, tmp_path, capsys):
    numpy_files = pytest.importorskip("safetensors.numpy")
    from posezoo.cli import main

    _, state = small
    source, out = tmp_path / "a.safetensors", tmp_path / "a.weights.h5"
    numpy_files.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, source)
    command = ["import-torch", str(source), "--model", "efficienthrnet_h-4"]
    assert main([*command, "-o", str(out)]) == 0
    network = ehr.efficienthrnet(-4, input_px=64)
    network.load_weights(out)
    assert outputs_equal(network, small[0])
    assert (
        main(["import-torch", str(source), "--model", "efficienthrnet_h-3", "-o", str(tmp_path / "b.weights.h5")]) == 2
    )
    assert "of another shape" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "b.h5")]) == 2
    assert not list(tmp_path.glob("*b.*"))


def predicted(capsys, *argv) -> tuple[int, str]:
    from posezoo.cli import main

    return main([str(a) for a in argv]), capsys.readouterr().err


def test_imported_weights_predict(tmp_path, capsys):
    """A model without released weights, of another width than its card's, works with a file of the user's own."""
    cv2 = pytest.importorskip("cv2")
    keras.backend.clear_session()
    network = pose_machines.pose_machine("rpm", input_px=64, features=16)
    imported(state_of(network, pose_machines.torch_modules(network)), "rpm_1s", "features=16", folder=tmp_path)
    cv2.imwrite(str(tmp_path / "depth.png"), np.full((64, 80), 2000, np.uint16))
    command = ("predict", tmp_path / "depth.png", "--model", "rpm_1s", "--set", "features=16", "input_px=64")
    command = (*command, "--weights", tmp_path / "a.weights.h5", "-o", tmp_path / "out")
    assert predicted(capsys, *command, "--scales", "1", "--codec", "upsample=true,peak_threshold=0.2") == (0, "")
    assert isinstance(json.loads((tmp_path / "out" / "results.json").read_text()), list)
    for wrong, told in (
        (("--codec", "upsampel=true"), "the codec 'part_affinity' has no 'upsampel'; it has stride, "),
        (("--codec", "samples=1"), "samples must be at least 2, the limb's ends, got 1"),
        (("--codec", "samples=many"), "samples=many: expected int"),
        (("--scales", "one"), "--scales one: expected numbers"),
        (("--runtime", "tflite"), "is a file for runtime 'keras', not 'tflite'"),
        (("--weights", tmp_path / "none.weights.h5"), "none.weights.h5: no such file"),
    ):
        code, error = predicted(capsys, *command, *wrong)
        assert code == 2 and told in error and error.count("\n") == 1, error


@pytest.mark.parametrize("model", [("rpm_1s",), ("pose_machines.pose_machine", "family=rpm")], ids=lambda m: m[0])
def test_what_the_command_says_at_its_end_loads_what_it_wrote(model, tmp_path):
    keras.backend.clear_session()
    network = pose_machines.pose_machine("rpm", input_px=64, features=16)
    state = state_of(network, pose_machines.torch_modules(network))
    loaded = imported(state, *model, "features=16", "input_px=64", folder=tmp_path)
    for a, b in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_maps_without_names_are_loaded_as_a_network():
    keras.backend.clear_session()
    network, family, hint = network_to_fill("hourglass_2s", ["stacks=1", "num_maps=9", "input_px=64"], "a.weights.h5")
    assert family == "hourglass" and network.output["heatmaps"].shape == (None, 16, 16, 9)
    assert hint.startswith("network = posezoo.build('hourglass_2s', stacks=1, num_maps=9, input_px=64); network.load")


def test_weights_of_another_form_are_told_with_what_to_give(tmp_path):
    keras.backend.clear_session()
    pose_machines.pose_machine("rpm", input_px=64, features=16).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(posezoo.weights.WeightsError, match="does not fit 'rpm_1s'.*give the arguments"):
        posezoo.load("rpm_1s", weights=str(tmp_path / "a.weights.h5"))
    with pytest.raises(ValueError, match="num_keypoints=38: 'coco17' names 17 keypoints; give a Skeleton"):
        posezoo.load("hrnet_w32", weights=str(tmp_path / "a.weights.h5"), build={"num_keypoints": 38})


@pytest.mark.parametrize(
    ("model", "setting", "told"),
    [
        ("rpm_1s", "featurs=128", "the builder of rpm_1s has no 'featurs'; it has family, stages, features, extractor"),
        ("rpm_1s", "features=wide", "features=wide: expected int | None"),
        ("rpm_1s", "features", "'features': expected NAME=VALUE"),
        ("rpm_1s", "skeleton=cat9", "skeleton=cat9: expected Skeleton"),
        ("rpm_1s", "extractor=flat", "extractor= is for the spm family"),
        ("hrnet.head", "width=3", "hrnet has no builder 'head'; it has hrnet, hrnetv2, hrnetv2_head"),
        ("hrnte.hrnet", "width=3", "unknown family 'hrnte'"),
    ],
)
def test_settings_that_no_builder_takes_are_told(model, setting, told, tmp_path, capsys):
    source = tmp_path / "a.safetensors"
    source.touch()
    out = tmp_path / "a.weights.h5"
    code, error = predicted(capsys, "import-torch", source, "--model", model, "--set", setting, "-o", out)
    assert code == 2 and told in error and error.count("\n") == 1, error
