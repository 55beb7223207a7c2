"""Conversion to TFLite and the gates that guard every file."""

import json

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from posezoo.export.gates import GateError, OutputReport, check, compare  # noqa: E402
from posezoo.export.tflite import add_signature, export_tflite, gate, operators, to_tflite  # noqa: E402
from posezoo.inference.runners import KerasRunner, RunnerError, TFLiteRunner  # noqa: E402


@pytest.mark.parametrize("kernels", ["default", "builtin"])
def test_int8_agrees_with_float(tiny_network, tiny_int8, tiny_spec, tiny_pictures, kernels):
    expected = KerasRunner(tiny_network, tiny_spec)(tiny_pictures[:4])
    got = TFLiteRunner(tiny_int8, tiny_spec, kernels=kernels)(tiny_pictures[:4])
    (row,) = compare(expected, got, kernels=kernels)
    assert row.levels > 32
    assert row.psnr_db > 30


def test_int8_file_has_no_float_operator_and_names_its_tensors(tiny_int8, tiny_spec):
    assert set(operators(tiny_int8)) == {
        "ADD v2", "CONCATENATION v2", "CONV_2D v3", "DEPTHWISE_CONV_2D v3", "RESIZE_BILINEAR v3",
    }  # fmt: skip
    runner = TFLiteRunner(tiny_int8, tiny_spec)
    assert {name: kind for name, (kind, _, _) in runner.quantisation.items()} == {"image": "int8", "heatmaps": "int8"}


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_other_input_types_give_the_same_maps(tiny_network, tiny_int8, tiny_spec, tiny_pictures, io):
    runner = TFLiteRunner(to_tflite(tiny_network, tiny_spec, tiny_pictures, io=io), tiny_spec)
    assert {kind for kind, _, _ in runner.quantisation.values()} == {io}
    same = TFLiteRunner(tiny_int8, tiny_spec)(tiny_pictures[:2])["heatmaps"]
    step = TFLiteRunner(tiny_int8, tiny_spec).quantisation["heatmaps"][1]
    np.testing.assert_allclose(
        runner(tiny_pictures[:2])["heatmaps"], same, atol=2.01 * step
    )  # rounding of the input differs by a step


def test_float_file_equals_keras(tiny_network, tiny_spec, tiny_pictures, tmp_path):
    sidecar = export_tflite(tiny_network, tiny_spec, tmp_path / "f.tflite", check_pictures=tiny_pictures[:2])
    assert sidecar["io"] == "float32"
    assert all(row["psnr_db"] > 80 for row in sidecar["gates"])


def test_export_writes_file_and_sidecar(tiny_network, tiny_spec, tiny_pictures, tmp_path):
    out = tmp_path / "deep" / "tiny.tflite"
    export_tflite(tiny_network, tiny_spec, out, calibration=tiny_pictures)
    sidecar = json.loads((out.parent / "tiny.tflite.json").read_text())
    assert sidecar["bytes"] == out.stat().st_size
    assert {row["kernels"] for row in sidecar["gates"]} == {"default", "builtin"}
    assert sorted(p.name for p in out.parent.iterdir()) == ["tiny.tflite", "tiny.tflite.json"]


def test_failed_gate_leaves_the_old_file_alone(tiny_network, tiny_spec, tiny_pictures, tmp_path):
    out = tmp_path / "tiny.tflite"
    out.write_bytes(b"finished work")
    with pytest.raises(GateError, match=r"output 'heatmaps' on default kernels: PSNR .* at least 99.0 expected"):
        export_tflite(tiny_network, tiny_spec, out, calibration=tiny_pictures, min_psnr_db=99)
    assert out.read_bytes() == b"finished work"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.tflite"]


def test_constant_output_is_caught(tiny_network, tiny_spec, tiny_pictures):
    import keras

    dead = keras.models.clone_model(tiny_network)
    for layer in dead.layers:
        layer.set_weights([w * 0 for w in layer.get_weights()])
    content = to_tflite(dead, tiny_spec, tiny_pictures)
    with pytest.raises(GateError, match="nearly constant: 1 different values"):
        gate(content, dead, tiny_spec, tiny_pictures[:2])


def test_file_of_another_network_is_caught(tiny_network, tiny_int8, tiny_spec, tiny_pictures):
    import keras

    other = keras.models.clone_model(tiny_network)
    with pytest.raises(GateError, match="PSNR"):
        gate(tiny_int8, other, tiny_spec, tiny_pictures[:2])


def test_gate_names_missing_outputs_and_nan():
    maps = np.random.default_rng(0).normal(size=(1, 4, 4, 20))
    with pytest.raises(GateError, match=r"\['heatmaps'\], the file \['Identity'\]"):
        compare({"heatmaps": maps}, {"Identity": maps}, kernels="default")
    with pytest.raises(GateError, match="NaN"):
        compare({"heatmaps": maps}, {"heatmaps": maps * np.nan}, kernels="default")


def test_gate_limits_the_largest_error():
    row = OutputReport("heatmaps", "default", psnr_db=50, max_error=0.3, mean_error=0.001, levels=200)
    check([row], min_psnr_db=40)
    with pytest.raises(GateError, match="largest error 0.300"):
        check([row], min_psnr_db=40, max_error=0.1)


def test_wrong_requests_are_told(tiny_network, tiny_spec, tiny_pictures):
    with pytest.raises(ValueError, match="unknown io 'int4'"):
        to_tflite(tiny_network, tiny_spec, tiny_pictures, io="int4")
    with pytest.raises(ValueError, match="calibration holds no picture"):
        to_tflite(tiny_network, tiny_spec, [])


def test_runner_refuses_what_it_cannot_read(tiny_int8, tiny_spec, tmp_path):
    from dataclasses import replace

    bad = tmp_path / "bad.tflite"
    bad.write_bytes(tiny_int8[: len(tiny_int8) // 3])
    with pytest.raises(RunnerError, match="bad.tflite"):
        TFLiteRunner(bad, tiny_spec)
    with pytest.raises(RunnerError, match=r"takes \(1, 64, 64, 3\), the card says \(1, 96, 96, 3\)"):
        TFLiteRunner(tiny_int8, replace(tiny_spec, shape=(96, 96, 3)))


def test_signature_is_kept_when_written_twice(tiny_int8, tiny_spec, tiny_pictures):
    again = add_signature(tiny_int8, "image", ["heatmaps"])
    before, after = (TFLiteRunner(c, tiny_spec)(tiny_pictures[:1])["heatmaps"] for c in (tiny_int8, again))
    np.testing.assert_array_equal(before, after)


def test_preprocessing_table_equals_the_formula(tiny_int8, tiny_spec, tiny_pictures):
    from posezoo.inference.runners import normalise

    runner = TFLiteRunner(tiny_int8, tiny_spec)
    kind, scale, zero = runner.quantisation["image"]
    expected = np.clip(np.rint(normalise(tiny_pictures[:1], tiny_spec) / scale) + zero, -128, 127)
    got = runner.prepare(tiny_pictures[0])
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, expected)


def test_zero_points_that_are_alike_are_written_once(tiny_int8):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_int8))
    scales = sum(len(t.quantization.scale) for t in model.subgraphs[0].tensors if t.quantization.scale is not None)
    builder = flatbuffers.Builder(len(tiny_int8))
    builder.Finish(model.Pack(builder), b"TFL3")
    assert len(builder.Output()) - len(tiny_int8) > 5 * scales, "eight bytes for each channel's scale, but for a few"
    names = [t.name.decode() for t in model.subgraphs[0].tensors]
    assert not [name for name in names if ";" in name]
