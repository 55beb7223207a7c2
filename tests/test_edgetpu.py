"""Edge TPU: what its compiler takes, what it is expected to map, and the file that is written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from keras import layers as L  # noqa: E402
from other_pythons import other_python  # noqa: E402

from posezoo import cli  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.export import edgetpu  # noqa: E402
from posezoo.export.edgetpu import (  # noqa: E402
    MIB,
    EdgeTpuError,
    MappingReport,
    check_mapping,
    export_edgetpu,
    mapping_report,
    ready,
    refuse_new_operators,
    to_edgetpu,
    without_fused_transposed,
)  # fmt: skip
from posezoo.export.elsewhere import OtherRuntime  # noqa: E402
from posezoo.export.flatbuffer import operators  # noqa: E402
from posezoo.export.foreign import MissingToolError  # noqa: E402
from posezoo.export.gates import GateError  # noqa: E402
from posezoo.export.tflite import to_tflite  # noqa: E402
from posezoo.inference.runners import TFLiteRunner  # noqa: E402
from posezoo.layers import GroupedConv2D  # noqa: E402


@pytest.fixture(scope="module")
def card(tiny_spec):
    return replace(read_card("mobilenet_split_050_192"), input=tiny_spec, codec={"type": "heatmap", "stride": 1})


def network_of(spec, *middle, name: str = "net"):
    """A convolution, layers, and a head."""
    keras.utils.set_random_seed(2)
    image = keras.Input(spec.shape, name="image")
    x = L.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
    for layer in middle:
        x = layer(x)
    return keras.Model(image, {"heatmaps": L.Conv2D(14, 1, name="heatmaps")(x)}, name=name)


def enlarged(spec):
    """A network of everything that has to be rewritten: groups, nearest enlarging, a transposed convolution's ReLU."""
    return network_of(
        spec, GroupedConv2D(16, 3, padding="same", groups=4, name="grouped"), L.MaxPooling2D(4, name="pool"),
        L.UpSampling2D(4, name="enlarge"), L.Conv2DTranspose(8, 4, 2, padding="same", name="up"),
        L.BatchNormalization(beta_initializer="random_uniform", name="up_bn"), L.ReLU(name="up_act"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(card, tiny_pictures):
    """The network, its file as TFLite has it, and its file for Edge TPU with its report."""
    network = enlarged(card.input)
    return network, to_tflite(network, card.input, tiny_pictures), *to_edgetpu(network, card, tiny_pictures)


def test_operators_are_of_the_compilers_age(made):
    _, plain, content, report = made
    assert {"CONV_2D v6", "TRANSPOSE_CONV v4"} <= set(operators(plain))
    assert set(operators(content)) == {
        "CONV_2D v3", "MAX_POOL_2D v2", "RESIZE_NEAREST_NEIGHBOR v3", "TRANSPOSE_CONV v3",
    }  # fmt: skip
    assert operators(content)["RESIZE_NEAREST_NEIGHBOR v3"] == 2
    assert (report.low, report.high) == (len(report.operators), len(report.operators))
    assert report.blamed is None


def test_taking_the_activation_out_changes_no_bit(made, card, tiny_pictures):
    network = network_of(
        card.input, L.Conv2DTranspose(8, 4, 2, padding="same", name="up"),
        L.BatchNormalization(beta_initializer="random_uniform", name="up_bn"), L.ReLU(6.0, name="up_act"),
    )  # fmt: skip
    plain = to_tflite(network, card.input, tiny_pictures)
    fixed = without_fused_transposed(plain)
    assert fixed != plain
    assert without_fused_transposed(fixed) == fixed
    for before, after in ((plain, fixed), (made[1], without_fused_transposed(made[1]))):
        a, b = (TFLiteRunner(c, card.input)(tiny_pictures[:4])["heatmaps"] for c in (before, after))
        np.testing.assert_array_equal(a, b)


def test_activation_that_does_real_work_is_not_taken_out(card, tiny_pictures):
    plain = to_tflite(enlarged(card.input), card.input, tiny_pictures)
    model = edgetpu.unpacked(plain)
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == b"up_act")
    tensor.quantization.zeroPoint = np.array([-100])
    with pytest.raises(EdgeTpuError, match="layer 'up_act': the activation of its transposed convolution cannot"):
        without_fused_transposed(edgetpu.packed(model))


def test_the_compilers_refusal_names_layers_and_ways_out(made):
    with pytest.raises(EdgeTpuError) as caught:
        refuse_new_operators(made[1])
    told = str(caught.value)
    assert "refuses the whole file for CONV_2D version 6 of layer 'grouped' (it knows CONV_2D up to version 5)" in told
    assert "TRANSPOSE_CONV version 4 of layer 'up_act'" in told
    assert "writes groups as one dense convolution" in told


def test_a_runtime_of_the_compilers_age_agrees_with_the_table(made, card, tiny_pictures):
    python = other_python("edgetpu")
    _, plain, content, _ = made
    with pytest.raises(GateError, match="Didn't find op for builtin opcode 'CONV_2D' version '6'"):
        OtherRuntime(plain, card.input, python)(tiny_pictures[:1])
    there = OtherRuntime(content, card.input, python)(tiny_pictures[:2])["heatmaps"]
    here = TFLiteRunner(content, card.input)
    np.testing.assert_allclose(there, here(tiny_pictures[:2])["heatmaps"], atol=2.01 * here.quantisation["heatmaps"][1])


# -------------------------------------------------------------------------------------------------- rules


def verdicts(network, spec, pictures) -> dict[str, tuple[str, str]]:
    report = mapping_report(to_tflite(network, spec, pictures[:2]))
    return {row.layer: (row.verdict, row.reason) for row in report.operators}


@pytest.mark.parametrize(("layer", "verdict", "reason"), [
    (L.Activation("hard_swish", name="odd"), "cpu", "it never maps"),
    (L.LeakyReLU(name="odd"), "cpu", "it never maps"),
    (L.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform", name="odd"), "ok", ""),
    (L.PReLU(alpha_initializer="random_uniform", name="odd"), "cpu", "its slopes differ from place to place"),
    (L.Softmax(name="odd"), "cpu", "it is computed at every pixel"),
    (L.UpSampling2D(2, interpolation="bilinear", name="odd"), "ok", ""),
    (L.UpSampling2D(3, interpolation="bilinear", name="odd"), "uncertain", "it enlarges 3 times to 0.07 MiB"),
    (L.UpSampling2D(8, interpolation="bilinear", name="odd"), "cpu", "it enlarges 8 times to 0.50 MiB"),
    (L.Permute((2, 1, 3), name="odd"), "uncertain", "transpositions"),
    (L.Reshape((16, 64, 8), name="odd"), "uncertain", "it changes the layout"),
    (L.Activation("sigmoid", name="odd"), "ok", ""),
    (L.DepthwiseConv2D(3, padding="same", name="odd"), "ok", ""),
    (L.AveragePooling2D(2, name="odd"), "ok", ""),
    (GroupedConv2D(16, 3, padding="same", groups=4, name="odd"), "cpu", "it has groups"),
])  # fmt: skip
def test_verdict_on_a_layer(card, tiny_pictures, layer, verdict, reason):
    network = network_of(card.input, layer)
    found = verdicts(network, card.input, tiny_pictures)
    assert found["stem"] == ("ok", "")
    row = next(v for k, v in found.items() if k.startswith("odd"))
    assert row[0] == verdict
    assert reason in row[1]
    # All that depends on what stays on the processor stays there too.
    after = {"ok": "ok", "uncertain": "uncertain", "cpu": "cpu"}[verdict]
    assert found["heatmaps"][0] == after


def test_means_and_squeeze_excite(card, tiny_pictures):
    image = keras.Input(card.input.shape, name="image")
    x = L.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
    pooled = L.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    gate = L.Activation("sigmoid", name="gate")(L.Conv2D(8, 1, name="expand")(pooled))
    x = L.Multiply(name="scale")([x, gate])
    flat = L.Dense(6, name="dense")(L.GlobalAveragePooling2D(name="flat")(x))
    network = keras.Model(image, {"heatmaps": L.Conv2D(14, 1, name="heatmaps")(x), "classes": flat})
    assert {v for v, _ in verdicts(network, card.input, tiny_pictures).values()} == {"ok"}


def test_float_files_map_nothing(tiny_network, tiny_spec):
    report = mapping_report(to_tflite(tiny_network, tiny_spec))
    assert report.high == 0
    assert "not int8" in report.blamed.reason


@pytest.mark.parametrize(("name", "expected"), [
    ("movenet_lightning_int8_v4", 98), ("ssd_mobilenet_v1_coco_300_uint8", 63),
    ("posenet_mbv1_075_353_481_quant_nodecoder", 32),
])  # fmt: skip
@pytest.mark.shared
def test_prediction_at_best_is_what_the_compiler_did_to_public_files(shared, name, expected):
    path = shared / "peers" / f"{name}.tflite"
    if not path.exists():
        pytest.skip(f"no {path.name} in the shared data")
    assert mapping_report(path.read_bytes()).high == expected


@pytest.mark.parametrize(("size", "told"), [
    (1.25, "1.25 MiB of parameters: cached"), (7, "borderline"), (10, "about 2.1 MiB are streamed at every inference"),
])  # fmt: skip
def test_parameter_memory(size, told):
    assert told in MappingReport((), 0, 0, int(size * MIB)).memory


def test_parameters_are_weights_and_biases(made):
    _, _, content, report = made
    # Dense kernels of stem, grouped, up and heatmaps; four bytes per bias.
    weights = 9 * 3 * 8 + 9 * 8 * 16 + 16 * 16 * 8 + 8 * 14
    biases = 8 + 16 + 8 + 14
    assert report.parameter_bytes == weights + 4 * biases


def test_too_little_mapped_is_refused_with_layer_and_way_out(card, tiny_pictures):
    network = network_of(card.input, L.Activation("hard_swish", name="odd"), L.Conv2D(8, 3, name="later"))
    _, report = to_edgetpu(network, card, tiny_pictures[:2])
    with pytest.raises(EdgeTpuError, match="at most 1 of 4 .* HARD_SWISH of layer 'odd' .*: use relu6 or swish"):
        check_mapping(report)
    check_mapping(report, min_mapped=0.2)


def test_layer_that_the_converter_leaves_in_floats_is_blamed_itself(card, tiny_pictures):
    """Not the conversion to floats before it, nor a number behind its name."""
    _, report = to_edgetpu(network_of(card.input, L.LayerNormalization(name="odd")), card, tiny_pictures[:2])
    assert {row.layer for row in report.operators} == {"stem", "odd", "heatmaps"}
    with pytest.raises(EdgeTpuError, match=r"because of NEG of layer 'odd' \(it never maps\): .*BatchNormalization"):
        check_mapping(report)


def test_report_says_that_nothing_was_compiled(made):
    lines = made[3].lines()
    assert lines[0] == "predicted mapping (not compiled): 7 to 7 of 7 operators, 100% to 100%"
    assert not any("compiled to" in line for line in lines)


# ------------------------------------------------------------------------------------------------- export


def test_file_is_written_with_its_report(made, card, tiny_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(edgetpu.shutil, "which", lambda name: None)
    out = tmp_path / "pose.tflite"
    sidecar = export_edgetpu(made[0], card, out, calibration=tiny_pictures)
    assert json.loads((tmp_path / "pose.tflite.json").read_text()) == sidecar
    assert sidecar["edgetpu"]["predicted_mapping"] == {"low": 7, "high": 7, "operators": 7}
    assert sidecar["edgetpu"]["compiled"] is None
    assert sidecar["keypoints"][0] == card.skeleton.keypoints[0]
    assert ready(out.read_bytes())[1] == made[3]


def fake_compiler(folder, monkeypatch, script: str):
    path = folder / "edgetpu_compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_compiler_is_called_where_it_is_installed(made, card, tiny_pictures, tmp_path, monkeypatch):
    # --show_operations --out_dir FOLDER FILE
    script = 'cp "$4" "$3/$(basename "$4" .tflite)_edgetpu.tflite"; echo "Number of operations that will run: 7"'
    fake_compiler(tmp_path, monkeypatch, script)
    out = tmp_path / "made" / "pose.tflite"
    sidecar = export_edgetpu(made[0], card, out, calibration=tiny_pictures)
    assert sidecar["edgetpu"]["compiled"]["words"] == "Number of operations that will run: 7"
    names = sorted(p.name for p in out.parent.iterdir())
    assert names == ["pose.tflite", "pose.tflite.json", "pose_edgetpu.tflite"]


def test_compilers_refusal_leaves_nothing(made, card, tiny_pictures, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, "echo 'Internal compiler error. Aborting!'; exit 1")
    out = tmp_path / "made" / "pose.tflite"
    with pytest.raises(EdgeTpuError, match="edgetpu_compiler refuses pose.tflite: Internal compiler error"):
        export_edgetpu(made[0], card, out, calibration=tiny_pictures)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_missing_compiler_is_told(made, tmp_path, monkeypatch):
    monkeypatch.setattr(edgetpu.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="edgetpu_compiler is not installed; get it from Coral"):
        edgetpu.compiled(made[2], tmp_path / "x.tflite")


def test_wrong_io_is_told(made, card, tiny_pictures):
    with pytest.raises(ValueError, match="unknown io 'float32' of Edge TPU files; expected int8 or uint8"):
        to_edgetpu(made[0], card, tiny_pictures, io="float32")


# ------------------------------------------------------------------------------------------------ command

CARD = """
name: own
skeleton: {name: own, keypoints: [nose, left_ear, right_ear]}
input: {shape: [64, 64, 3], mean: [0, 0, 0], std: [255, 255, 255]}
codec: {type: heatmap, stride: 2}
"""


@pytest.fixture
def own(tmp_path, card, monkeypatch):
    """A user's own network, with a layer that is given, and its card."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(CARD)

    def make(*middle):
        network_of(card.input, *middle).save(tmp_path / "own.keras")
        return ["export", "own.keras", "--card", "own.yaml", "--to", "edgetpu"]

    return make


def test_check_prints_the_report_and_writes_nothing(own, capsys, tmp_path):
    assert cli.main([*own(L.ReLU(name="act")), "--check"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert told.startswith("predicted mapping (not compiled): 2 to 2 of 2 operators, 100% to 100%")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.keras", "own.yaml"]


def test_check_names_the_layer_that_does_not_map_and_the_way_out(own, capsys):
    assert cli.main([*own(L.Activation("hard_swish", name="odd")), "--check"]) == 0
    assert "HARD_SWISH of layer 'odd' (it never maps): use relu6 or swish" in capsys.readouterr().out


def test_export_of_such_a_network_is_refused(own, capsys, tmp_path):
    command = [*own(L.Activation("hard_swish", name="odd")), "--structure-only", "-o", "own.tflite"]
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert "at most 1 of 3 operators would map, because of HARD_SWISH of layer 'odd'" in told
    assert "ask for less with --min-mapped SHARE (min_mapped in Python)" in told
    assert not (tmp_path / "own.tflite").exists()
    assert cli.main([*command, "--min-mapped", "0.34"]) == 2
    assert cli.main([*command, "--min-mapped", "0.3"]) == 0, capsys.readouterr().err
    assert "1 to 1 of 3 operators" in capsys.readouterr().out


def test_check_tells_by_the_share_asked_for(own, capsys):
    command = [*own(L.Activation("hard_swish", name="odd")), "--check", "--min-mapped"]
    assert cli.main([*command, "0.3"]) == 0
    assert "would map, because of" not in capsys.readouterr().out
    assert cli.main([*command, "0.5"]) == 0
    assert "would map, because of" in capsys.readouterr().out


def test_help_tells_the_share_asked_for(capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    assert f"0 to 1 (default: {edgetpu.MIN_MAPPED})" in " ".join(capsys.readouterr().out.split())


def test_bytes_go_in_and_come_out_where_asked_for(own, card, tmp_path, capsys):
    assert cli.main([*own(), "--structure-only", "--io", "uint8", "-o", "own.tflite"]) == 0, capsys.readouterr().err
    kinds = TFLiteRunner(tmp_path / "own.tflite", card.input).quantisation
    assert {kind for kind, _, _ in kinds.values()} == {"uint8"}
    assert json.loads((tmp_path / "own.tflite.json").read_text())["io"] == "uint8"


def test_export_tells_the_prediction(own, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(edgetpu.shutil, "which", lambda name: None)
    assert cli.main([*own(), "--structure-only", "-o", "own.tflite"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "predicted mapping (not compiled): 2 to 2 of 2 operators" in told
    sidecar = json.loads((tmp_path / "own.tflite.json").read_text())
    assert sidecar["edgetpu"]["predicted_mapping"]["operators"] == 2
    assert sidecar["weights"].startswith("structure only")


def test_check_of_other_targets_is_told(own, capsys):
    command = own()[:-1]
    assert cli.main([*command, "onnx", "--check"]) == 2
    assert "--check is for edgetpu; leave it out and --to onnx writes a gated file" in capsys.readouterr().err
