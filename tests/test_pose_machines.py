"""Pose machines: the paper's counts, parity with the public networks, stages, and int8 export."""

from __future__ import annotations

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from test_torch_weights import parity_error, rule, state_of  # noqa: E402

from posezoo import counts  # noqa: E402
from posezoo.models import pose_machines  # noqa: E402
from posezoo.models.pose_machines import copy_weights, pose_machine, stages_of, start_from, with_features  # noqa: E402
from posezoo.skeletons import COCO17, DEPTH17, NONE, Skeleton  # noqa: E402
from posezoo.torch_weights import CheckpointError, load_torch  # noqa: E402

#: Family, stages, changes -> parameters, GMACs at 368x368, GMACs at 368x444 (architectures.md, 2.6).
COUNTS = [
    ("rpm", 1, {}, 511_794, 8.492, 10.240), ("rpm", 2, {}, 2_844_644, 13.427, 16.140),
    ("rpm", 3, {}, 5_177_494, 18.361, 22.040), ("rpm", 2, {"features": 128}, 10_532_068, 43.702, 52.506),
    ("mpm", 1, {}, 99_890, 0.5913, 0.7149), ("mpm", 2, {}, 168_240, 0.7297, 0.8834),
    ("mpm", 3, {}, 236_590, 0.8681, 1.0519), ("mpm", 4, {}, 304_940, 1.0065, 1.2204),
    ("spm", 1, {}, 308_890, 1.7055, 2.0524), ("spm", 2, {}, 455_988, 2.1038, 2.5291),
    ("spm", 3, {}, 660_038, 2.5281, 3.0364), ("spm", 4, {}, 921_040, 2.9784, 3.5743),
    ("spm", 1, {"extractor": "flat"}, 251_938, 1.6795, 2.0218),
    ("spm", 4, {"extractor": "flat"}, 864_088, 2.9524, 3.5437),
    ("cpm", 1, {}, 8_383_730, 43.000, None), ("cpm", 2, {}, 17_079_844, 61.397, None),
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_names():
    keras.backend.clear_session()


@pytest.mark.parametrize(("family", "stages", "changes", "params", "square", "wide"), COUNTS)
def test_counts_are_the_papers(family, stages, changes, params, square, wide):
    network = pose_machine(family, stages=stages, **changes)
    assert counts.params(network) == params
    assert counts.macs(network) / 1e9 == pytest.approx(square, rel=1e-3)
    assert network.output["heatmaps"].shape == (None, 46, 46, 18)
    assert network.output["pafs"].shape == (None, 46, 46, 32)
    if wide:
        network = pose_machine(family, stages=stages, input_px=(368, 444), **changes)
        assert counts.macs(network) / 1e9 == pytest.approx(wide, rel=1e-3)
        assert network.output["pafs"].shape[1:3] == (46, 56 if family == "mpm" else 55)


#: Reference -> family, stages. Outputs: fields, confidence maps, features.
PARITY = {"mpm_2": ("mpm", 2), "rpm_1": ("rpm", 1), "spm_2": ("spm", 2)}


@pytest.mark.shared
@pytest.mark.parametrize("name", PARITY)
def test_outputs_are_those_of_the_public_network(name, shared):
    if not (shared / "parity" / f"{name}.npz").exists():
        pytest.skip(f"no parity/{name}.npz in the shared data")
    family, stages = PARITY[name]
    names = json.loads((shared / "parity" / f"{name}.json").read_text())["state_dict"]
    network = with_features(pose_machine(family, stages=stages, input_px=(112, 144)))
    load_torch(network, {k: rule(k, v) for k, v in names.items()}, family="pose_machines")
    with np.load(shared / "parity" / f"{name}.npz") as reference:
        assert parity_error(network, (("pafs",), ("heatmaps",), ("features",)), reference) < 1e-4


@pytest.mark.shared
@pytest.mark.parametrize("name", PARITY)
def test_names_are_those_of_the_public_network(name, shared):
    """Every name that the importer expects is in the public list, and with that shape."""
    if not (shared / "parity" / f"{name}.json").exists():
        pytest.skip(f"no parity/{name}.json in the shared data")
    family, stages = PARITY[name]
    public = json.loads((shared / "parity" / f"{name}.json").read_text())["state_dict"]
    network = pose_machine(family, stages=stages, input_px=64)
    for key, value in state_of(network, pose_machines.torch_modules(network)).items():
        assert list(value.shape) == public[key], key


def randomised(network, seed=0):
    """Random weights everywhere, so that no two layers hold the same."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if layer.weights:
            shapes = [w.shape for w in layer.get_weights()]
            layer.set_weights([
                rng.uniform(0.5, 1.5, s) if len(s) == 1 else rng.normal(0, np.prod(s[:-1]) ** -0.5, s) for s in shapes
            ])  # fmt: skip
    return network


def outputs_of(network, size=64):
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (1, size, size, 1)).astype("f4")
    return network.predict_on_batch(x)


IMPORTABLE = [
    ("mpm", 1, {}), ("mpm", 3, {}), ("rpm", 2, {}), ("rpm", 2, {"features": 128}), ("spm", 1, {}), ("spm", 2, {}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "stages", "changes"), IMPORTABLE)
def test_a_checkpoint_fills_every_member(family, stages, changes):
    network = randomised(pose_machine(family, stages=stages, input_px=64, **changes))
    modules = pose_machines.torch_modules(network)
    assert len(set(modules.values())) == len(modules), "two layers of one name"
    state = state_of(network, modules)
    other = pose_machine(family, stages=stages, input_px=64, **changes)
    load_torch(other, {f"module.{k}": v for k, v in state.items()}, family="pose_machines")
    first, second = outputs_of(network), outputs_of(other)
    assert set(first) == {"pafs", "heatmaps"}
    assert all(np.array_equal(first[k], second[k]) for k in first)
    del state[next(k for k in state if k.startswith("stagesL2.0."))]
    with pytest.raises(CheckpointError, match="1 missing: stagesL2.0."):
        load_torch(other, state, family="pose_machines")


def test_shared_tensors_may_be_stored_under_either_name():
    network = randomised(pose_machine("spm", stages=2, input_px=64))
    state = state_of(network, pose_machines.torch_modules(network))

    def alone(key):
        key = key.replace("Seq.1.", "_batchnorm.")
        return key.replace("Seq.0.", ".")

    other = pose_machine("spm", stages=2, input_px=64)
    load_torch(other, {alone(k): v for k, v in state.items()}, family="pose_machines")
    assert np.array_equal(outputs_of(network)["pafs"], outputs_of(other)["pafs"])
    both = {**{alone(k): v + 1 for k, v in state.items()}, **state}
    fresh = pose_machine("spm", stages=2, input_px=64)
    load_torch(fresh, both, family="pose_machines")
    assert np.array_equal(outputs_of(network)["pafs"], outputs_of(fresh)["pafs"])


def test_cpm_has_no_public_code():
    with pytest.raises(CheckpointError, match="'vgg0' has no counterpart"):
        load_torch(pose_machine("cpm", input_px=64), {"a.weight": np.zeros(1)}, family="pose_machines")


# Stages


@pytest.mark.parametrize("family", ["mpm", "spm"])
def test_training_and_deployed_networks_share_files_of_weights(family, tmp_path):
    training = randomised(pose_machine(family, stages=3, input_px=64, intermediate=True))
    assert list(training.output) == ["pafs_s1", "heatmaps_s1", "pafs_s2", "heatmaps_s2", "pafs", "heatmaps"]
    training.save_weights(tmp_path / "a.weights.h5")
    deployed = pose_machine(family, stages=3, input_px=64)
    assert set(deployed.output) == {"pafs", "heatmaps"}
    deployed.load_weights(tmp_path / "a.weights.h5")
    first, second = outputs_of(training), outputs_of(deployed)
    assert all(np.array_equal(first[k], second[k]) for k in second)
    assert not np.allclose(first["pafs_s1"], first["pafs"])


def test_a_larger_network_starts_from_a_smaller_one():
    small = randomised(pose_machine("mpm", stages=2, input_px=64, intermediate=True))
    large = pose_machine("mpm", stages=3, input_px=64, intermediate=True)
    fresh = start_from(large, small)
    assert fresh and all(name.startswith("stage3_") or name in ("pafs", "heatmaps") for name in fresh)
    first, second = outputs_of(small), outputs_of(large)
    assert np.array_equal(first["pafs_s1"], second["pafs_s1"])
    assert np.array_equal(first["heatmaps"], second["heatmaps_s2"])
    assert stages_of(small) == 2 and stages_of(large) == 3
    with pytest.raises(ValueError, match="such as"):
        start_from(large, pose_machine("rpm", stages=2, input_px=64))


def test_a_smaller_network_starts_from_the_first_stages_of_a_larger_one():
    large = randomised(pose_machine("mpm", stages=3, input_px=64, intermediate=True))
    small = pose_machine("mpm", stages=2, input_px=64)
    assert start_from(small, large) == []
    first, second = outputs_of(large), outputs_of(small)
    assert np.array_equal(first["pafs_s2"], second["pafs"])
    assert np.array_equal(first["heatmaps_s2"], second["heatmaps"])


def test_any_skeleton_gives_its_own_maps():
    limbs = Skeleton("arm", ("neck", "left_wrist", "right_wrist"), (("neck", "left_wrist"), ("neck", "right_wrist")))
    network = pose_machine("mpm", stages=2, input_px=(64, 96), skeleton=limbs)
    assert network.output["pafs"].shape == (None, 8, 12, 4)
    assert network.output["heatmaps"].shape == (None, 8, 12, 4)
    assert pose_machine("mpm", input_px=64, skeleton=COCO17).output["pafs"].shape[-1] == 2 * len(COCO17.limbs)


def test_features_come_out_for_hints():
    for family, width in (("mpm", 64), ("rpm", 64), ("spm", 64), ("cpm", 128)):
        network = with_features(pose_machine(family, input_px=64, intermediate=True))
        assert network.output["features"].shape == (None, 8, 8, width)
        assert set(network.output) == {"pafs", "heatmaps", "features"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"family": "vpm"}, "unknown family 'vpm'; expected one of cpm, rpm, mpm, spm"),
        ({"family": "mpm", "stages": 0}, "at least one stage"),
        ({"family": "mpm", "extractor": "flat"}, "for the spm family"),
        ({"family": "spm", "extractor": "round"}, "unknown extractor 'round'; expected one of flat, expand"),
        ({"family": "mpm", "join": "mean"}, "unknown join 'mean'; expected one of concat, sum"),
        ({"family": "mpm", "skeleton": NONE}, "has no limbs"),
        ({"family": "mpm", "input_px": (64, 8)}, "at least 16 on each side, got 64x8"),
    ],
)
def test_impossible_networks_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        pose_machine(**arguments)


def test_the_depth_skeleton_has_the_papers_channels():
    assert DEPTH17.num_keypoints == 17 and len(DEPTH17.limbs) == 16
    assert DEPTH17.limb_indices == (
        (0, 1), (1, 2), (0, 3), (3, 4), (4, 5), (0, 6), (6, 7), (7, 8), (0, 9), (9, 10), (10, 11), (0, 12), (12, 13),
        (13, 14), (1, 15), (1, 16),
    )  # fmt: skip


# Stages whose inputs stay apart


@pytest.mark.parametrize("family", ["mpm", "rpm", "spm", "cpm"])
def test_both_joins_are_one_function(family):
    joined = randomised(pose_machine(family, stages=2, input_px=64, intermediate=True))
    apart = pose_machine(family, stages=2, input_px=64, intermediate=True, join="sum")
    assert counts.params(apart) == counts.params(joined) and counts.macs(apart) == counts.macs(joined)
    assert not any(layer.name.endswith("_input") for layer in apart.layers)
    copy_weights(apart, joined)
    first, second = outputs_of(joined), outputs_of(apart)
    for name in first:
        assert np.abs(first[name] - second[name]).max() < 1e-4 * np.abs(first[name]).max()
    back = pose_machine(family, stages=2, input_px=64, join="concat")
    copy_weights(back, apart)
    assert np.array_equal(outputs_of(back)["pafs"], first["pafs"])


def test_copies_refuse_other_networks():
    network = pose_machine("mpm", stages=2, input_px=64, join="sum")
    with pytest.raises(ValueError, match="differ in .* layers, such as"):
        copy_weights(network, pose_machine("mpm", stages=3, input_px=64))
    with pytest.raises(ValueError, match="has another shape"):
        copy_weights(network, pose_machine("mpm", stages=2, input_px=64, features=32))


@pytest.mark.parametrize(("family", "stages"), [("mpm", 2), ("spm", 2), ("rpm", 2)])
def test_a_checkpoint_fills_either_join(family, stages):
    network = randomised(pose_machine(family, stages=stages, input_px=64))
    state = state_of(network, pose_machines.torch_modules(network))
    apart = pose_machine(family, stages=stages, input_px=64, join="sum")
    load_torch(apart, state, family="pose_machines")
    first, second = outputs_of(network), outputs_of(apart)
    assert np.abs(first["pafs"] - second["pafs"]).max() < 1e-4 * np.abs(first["pafs"]).max()


def test_the_command_imports_a_checkpoint(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    from posezoo.cli import main

    network = randomised(pose_machine("mpm", stages=1, input_px=64))
    state = state_of(network, pose_machines.torch_modules(network))
    files.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "a.safetensors")
    out = tmp_path / "mpm_1s.weights.h5"
    assert main(["import-torch", str(tmp_path / "a.safetensors"), "--model", "mpm_1s", "-o", str(out)]) == 0
    other = pose_machine("mpm", stages=1, input_px=64)
    other.load_weights(out)
    assert np.array_equal(outputs_of(network)["heatmaps"], outputs_of(other)["heatmaps"])
