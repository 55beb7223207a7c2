"""PyTorch checkpoints: parity with the public networks' outputs, and refusal of what does not fit."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.models import efficienthrnet as ehr  # noqa: E402
from posezoo.models.hourglass import hourglass  # noqa: E402
from posezoo.models.hrnet import hrnet, hrnetv2_head  # noqa: E402
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


def efficienthrnet_h4(**changes):
    return ehr.efficienthrnet(-4, input_px=128, **changes)


#: Reference -> builder, family, names of the outputs as y0, y1 (joined where the reference joins them).
PARITY = {
    "ehr_H-4": (efficienthrnet_h4, "efficienthrnet", (("heatmaps_low", "tags"), ("heatmaps",))),
    "hrnet32_38": (lambda: hrnet(input_px=(128, 96), num_keypoints=38), "hrnet", (("heatmaps",),)),
    "head18_21": (lambda: hrnetv2_head(input_px=32, projection=False), "hrnet", (("heatmaps",),)),
    "hg": (lambda: hourglass(input_px=128, num_maps=18), "hourglass", (("heatmaps_1",), ("heatmaps",))),
}


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
    keras.backend.clear_session()
    build, family, outputs = PARITY[name]
    names = json.loads((shared / "parity" / f"{name}.json").read_text())["state_dict"]
    network = build()
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
