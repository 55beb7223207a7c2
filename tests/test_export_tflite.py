"""Conversion to TFLite and the gates that guard every file."""

import json

import numpy as np
import pytest

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from posezoo.export.elsewhere import OtherRuntime  # noqa: E402
from posezoo.export.flatbuffer import (  # noqa: E402
    ALIGNMENT,
    FileError,
    add_signature,
    kinds_of,
    layer_of,
    operators,
    packed,
    schema,
    unpacked,
)  # fmt: skip
from posezoo.export.foreign import MissingToolError  # noqa: E402
from posezoo.export.gates import GateError, OutputReport, PrecisionError, check, compare  # noqa: E402
from posezoo.export.selective import layer_errors  # noqa: E402
from posezoo.export.tflite import FLAVOURS, ConversionError, export_tflite, gate, to_tflite  # noqa: E402
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


@pytest.mark.parametrize(("precision", "kind", "psnr_db"), [
    ("float16", "float32", 60), ("dynamic", "float32", 35), ("int16x8", "int16", 35), ("int16x8", "float32", 35),
])  # fmt: skip
def test_every_precision_agrees_on_both_kernel_sets(
    tiny_network, tiny_spec, tiny_pictures, tiny_int8, precision, kind, psnr_db
):
    calibration = tiny_pictures if FLAVOURS[precision].calibrated else None
    content = to_tflite(tiny_network, tiny_spec, calibration, precision=precision, io=kind)
    rows = gate(content, tiny_network, tiny_spec, tiny_pictures[:4], min_psnr_db=psnr_db)
    assert {row.kernels for row in rows} == {"default", "builtin"}
    assert {k for k, _, _ in TFLiteRunner(content, tiny_spec).quantisation.values()} == {kind}
    types = {tensor.type for tensor in unpacked(content).subgraphs[0].tensors}
    stored = {"float16": "FLOAT16", "dynamic": "INT8", "int16x8": "INT16"}[precision]
    assert getattr(schema().TensorType, stored) in types


def test_transposed_convolutions_of_dynamic_files_keep_float_kernels(tiny_spec, tiny_pictures):
    keras.utils.set_random_seed(1)
    image = keras.Input((*tiny_spec.shape,), name="image")
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.Conv2DTranspose(32, 4, strides=2, padding="same", name="larger")(x)
    network = keras.Model(image, {"heatmaps": keras.layers.Conv2D(5, 3, padding="same", name="heatmaps")(x)})
    content = to_tflite(network, tiny_spec, precision="dynamic")
    model = unpacked(content)
    graph, kinds = model.subgraphs[0], kinds_of(model)
    kernels = {kinds[op.opcodeIndex][0]: graph.tensors[op.inputs[1]] for op in graph.operators}
    types = schema().TensorType
    assert (kernels["TRANSPOSE_CONV"].type, kernels["CONV_2D"].type) == (types.FLOAT32, types.INT8)
    kernel = np.asarray(model.buffers[kernels["TRANSPOSE_CONV"].buffer].data, np.uint8).view(np.float32)
    given = network.get_layer("larger").kernel.numpy().transpose(2, 0, 1, 3)  # channels out first
    np.testing.assert_allclose(kernel.reshape(given.shape), given, atol=np.abs(given).max() / 127)
    assert len(content) < 1.2 * 4 * (given.size + 32 * 9 * 5) + 8000  # the rounded kernel is not there as well
    gate(content, network, tiny_spec, tiny_pictures[:4], min_psnr_db=35)


def test_int16_tensors_are_finer_than_int8(tiny_network, tiny_spec, tiny_pictures, tiny_int8):
    fine = to_tflite(tiny_network, tiny_spec, tiny_pictures, precision="int16x8")
    expected = KerasRunner(tiny_network, tiny_spec)(tiny_pictures[:4])
    psnr = [
        compare(expected, TFLiteRunner(c, tiny_spec)(tiny_pictures[:4]), kernels="")[0].psnr_db
        for c in (tiny_int8, fine)
    ]
    assert psnr[1] > psnr[0] + 3


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


def test_sidecar_tells_what_a_user_of_the_file_asks(tiny_network, tiny_spec, tiny_pictures, tmp_path):
    sidecar = export_tflite(tiny_network, tiny_spec, tmp_path / "t.tflite", calibration=tiny_pictures, io="uint8")
    assert (sidecar["precision"], sidecar["io"], sidecar["calibration_pictures"]) == ("int8", "uint8", 12)
    assert sidecar["ranges"] == "mse"
    assert sidecar["input"]["shape"] == [1, 64, 64, 3]
    (levels,) = sidecar["report"]["outputs"]
    assert (levels["of"], levels["type"]) == (256, "uint8")
    assert 64 < levels["used"] <= 256
    assert 0 < levels["worst_steps"] < 30


def test_full_disk_leaves_both_old_files_alone(tiny_network, tiny_spec, tiny_pictures, tmp_path, monkeypatch):
    from pathlib import Path

    out = tmp_path / "t.tflite"
    for name in ("t.tflite", "t.tflite.json"):
        (tmp_path / name).write_text("finished work")

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        export_tflite(tiny_network, tiny_spec, out, check_pictures=tiny_pictures[:2])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict.fromkeys(
        ("t.tflite", "t.tflite.json"), b"finished work"
    )


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


def test_tampered_file_is_caught(tiny_network, tiny_int8, tiny_spec, tiny_pictures):
    model = unpacked(tiny_int8)
    kernel = model.subgraphs[0].tensors[model.subgraphs[0].operators[-1].inputs[1]]
    model.buffers[kernel.buffer].data = model.buffers[kernel.buffer].data[::-1]
    with pytest.raises(GateError, match="output 'heatmaps' on default kernels: PSNR"):
        gate(packed(model), tiny_network, tiny_spec, tiny_pictures[:2])


def test_gate_names_missing_outputs_and_nan():
    maps = np.random.default_rng(0).normal(size=(1, 4, 4, 20))
    with pytest.raises(GateError, match=r"\['heatmaps'\], the file \['Identity'\]"):
        compare({"heatmaps": maps}, {"Identity": maps}, kernels="default")
    with pytest.raises(GateError, match="NaN"):
        compare({"heatmaps": maps}, {"heatmaps": maps * np.nan}, kernels="default")


def test_gate_limits_the_largest_error():
    row = OutputReport("heatmaps", "default", psnr_db=50, max_error=0.3, mean_error=0.001, levels=200)
    check([row], min_psnr_db=40)
    with pytest.raises(GateError, match="largest error 0.3 "):
        check([row], min_psnr_db=40, max_error=0.1)


def test_gate_tells_rough_outputs_from_nearly_constant_ones():
    def row(name, psnr_db, levels=200):
        return OutputReport(name, "default", psnr_db=psnr_db, max_error=0, mean_error=0, levels=levels)

    with pytest.raises(PrecisionError, match="'tags' on default kernels: PSNR 22.0 dB, at least 30.0 expected$"):
        check([row("heatmaps", 40), row("tags", 22)], min_psnr_db=30)
    with pytest.raises(GateError, match="nearly constant") as told:
        check([row("heatmaps", 22), row("tags", 99, levels=2)], min_psnr_db=30)
    assert not isinstance(told.value, PrecisionError)


def test_values_that_nobody_reads_do_not_count():
    maps = np.random.default_rng(0).normal(size=(1, 4, 4, 20))
    read = np.zeros(maps.shape, bool)
    read[:, :2] = True
    got = {"tags": np.where(read, maps, 9), "heatmaps": maps + 0.1}
    rows = compare({"tags": maps, "heatmaps": maps}, got, kernels="default", where={"tags": read})
    assert [row.psnr_db > 100 for row in rows] == [True, False]
    assert compare({"tags": maps}, {"tags": got["tags"]}, kernels="default")[0].psnr_db < 10
    few = np.zeros(maps.shape, bool)
    few[0, 0, 0, :2] = True
    assert compare({"tags": maps}, {"tags": maps}, kernels="default", where={"tags": few})[0].levels == maps.size


def test_wrong_requests_are_told(tiny_network, tiny_spec, tiny_pictures):
    with pytest.raises(ValueError, match="unknown io 'int4' of int8 files; expected one of int8, uint8, float32"):
        to_tflite(tiny_network, tiny_spec, tiny_pictures, io="int4")
    with pytest.raises(ValueError, match="unknown precision 'int2'"):
        to_tflite(tiny_network, tiny_spec, precision="int2")
    with pytest.raises(ValueError, match="unknown io 'int8' of float16 files"):
        to_tflite(tiny_network, tiny_spec, precision="float16", io="int8")
    with pytest.raises(ValueError, match="calibration holds no picture"):
        to_tflite(tiny_network, tiny_spec, [])
    with pytest.raises(ValueError, match="int16x8 needs calibration"):
        to_tflite(tiny_network, tiny_spec, precision="int16x8")
    with pytest.raises(ValueError, match="keep_float is for int8"):
        to_tflite(tiny_network, tiny_spec, keep_float=["heatmaps"])


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


# ------------------------------------------------------------------------------------------------ layers


def test_tensors_are_named_after_layers(tiny_network, tiny_int8):
    graph = unpacked(tiny_int8).subgraphs[0]
    results = [graph.tensors[op.outputs[0]].name.decode() for op in graph.operators]
    assert set(results) <= {layer.name for layer in tiny_network.layers}
    assert {"up", "add", "concat", "heatmaps"} <= set(results)
    names = [tensor.name for tensor in graph.tensors]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("tensor", "layer"), [
    ("net_1/stem_act_1/Relu6;net_1/stem_bn_1/add;net_1/stem_1/convolution", "stem_act"),
    ("net/quant_stem_bn/add", "stem_bn"), ("net/stem/convolution1", "stem"), ("net/stem_2/Add", "stem_2"),
    ("arith.constant2", None),
])  # fmt: skip
def test_layer_of_a_tensors_name(tensor, layer):
    assert layer_of(tensor, ["stem", "stem_bn", "stem_act", "stem_2"]) == layer


def test_constants_lie_where_the_schema_says(tiny_int8):
    model = schema().Model.GetRootAs(tiny_int8)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [b._tab.Vector(b._tab.Offset(4)) for b in buffers if b.DataLength()]
    assert len(places) > 10
    assert all(place % ALIGNMENT == 0 for place in places)


def test_zero_points_that_are_alike_are_written_once(tiny_int8):
    import flatbuffers

    model = unpacked(tiny_int8)
    scales = sum(len(t.quantization.scale) for t in model.subgraphs[0].tensors if t.quantization.scale is not None)
    builder = flatbuffers.Builder(len(tiny_int8))
    builder.Finish(model.Pack(builder), b"TFL3")
    assert len(builder.Output()) - len(tiny_int8) > 3 * scales, "eight bytes for each channel's scale, but for a few"


def test_bytes_that_are_no_file_are_told():
    with pytest.raises(FileError, match="not a TFLite file"):
        operators(b"PK\x03\x04 this is something else")


def test_nearest_enlarging_is_one_operator_with_the_same_numbers(tiny_spec, tiny_pictures):
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input(tiny_spec.shape, name="image")
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="down")(image)
    x = keras.layers.UpSampling2D(4, interpolation="nearest", name="enlarge")(x)
    network = keras.Model(image, {"heatmaps": keras.layers.Conv2D(5, 1, name="heatmaps")(x)})
    content = to_tflite(network, tiny_spec, tiny_pictures)
    assert operators(content) == {"CONV_2D v3": 2, "RESIZE_NEAREST_NEIGHBOR v3": 1}
    gate(content, network, tiny_spec, tiny_pictures[:4], min_psnr_db=38)


def unsupported(tiny_spec):
    import keras
    import tensorflow as tf

    class Bessel(keras.layers.Layer):
        def call(self, x):
            return tf.math.bessel_i0(x)

    image = keras.Input(tiny_spec.shape, name="image")
    return keras.Model(image, {"out": Bessel(name="strange")(keras.layers.Conv2D(4, 3, name="conv")(image))})


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_layer_without_an_operator_is_named(tiny_spec, tiny_pictures, precision):
    calibration = tiny_pictures[:2] if precision == "int8" else None
    with pytest.raises(ConversionError, match=r"no operator for layer 'strange' \(BesselI0\); write it with"):
        to_tflite(unsupported(tiny_spec), tiny_spec, calibration, precision=precision)


def test_layer_is_named_where_the_converter_writes_its_operator_in_capitals(tiny_spec, tiny_pictures):
    import keras

    image = keras.Input(tiny_spec.shape, name="image")
    x = keras.layers.Reshape((8, 8, 64, 3))(image)
    x = keras.layers.Conv3D(2, 3, name="volume")(x)
    network = keras.Model(image, {"out": x})
    with pytest.raises(ConversionError, match=r"TFLite in int16x8 has no operator for layer 'volume' \(Conv3D\)"):
        to_tflite(network, tiny_spec, tiny_pictures[:2], precision="int16x8")


# ------------------------------------------------------------------------------------------- float layers


def test_layers_that_stay_in_float_lower_the_error(tiny_network, tiny_spec, tiny_pictures, tiny_int8):
    errors = layer_errors(tiny_network, tiny_spec, tiny_pictures, tiny_pictures[:4])
    assert [row.steps for row in errors] == sorted((row.steps for row in errors), reverse=True)
    assert {row.layer for row in errors} <= {layer.name for layer in tiny_network.layers}
    assert {"heatmaps", "add", "up"} <= {row.layer for row in errors}
    # A multiplication by rounded weights errs by more than a level's third, which rounding itself takes.
    assert 0.2 < errors[0].steps < 5
    worst = [row.layer for row in errors[:4]]
    kept = to_tflite(tiny_network, tiny_spec, tiny_pictures, keep_float=worst, io="float32")
    graph = unpacked(kept).subgraphs[0]
    types = {t.name.decode(): t.type for t in graph.tensors}
    assert {types[name] for name in worst} == {schema().TensorType.FLOAT32}
    assert schema().TensorType.INT8 in {types[name] for name in ("add", "concat", "up")}
    expected = KerasRunner(tiny_network, tiny_spec)(tiny_pictures[:4])
    psnr = [
        compare(expected, TFLiteRunner(c, tiny_spec)(tiny_pictures[:4]), kernels="")[0].psnr_db
        for c in (tiny_int8, kept)
    ]
    assert psnr[1] > psnr[0] + 1


def test_float_layers_that_do_not_fit_are_told(tiny_network, tiny_spec, tiny_pictures):
    with pytest.raises(ValueError, match="layers that no operator stores: haetmaps; expected some of add, concat"):
        to_tflite(tiny_network, tiny_spec, tiny_pictures[:2], keep_float=["haetmaps"])
    with pytest.raises(ValueError, match="at the input or an output, which io='int8' rounds; use io='float32'"):
        to_tflite(tiny_network, tiny_spec, tiny_pictures[:2], keep_float=["heatmaps"])


# ---------------------------------------------------------------------------------------- other runtimes


def test_older_runtime_agrees(tiny_network, tiny_int8, tiny_spec, tiny_pictures):
    from other_pythons import other_python

    other = OtherRuntime(tiny_int8, tiny_spec, other_python("tflite_214"))
    rows = gate(tiny_int8, tiny_network, tiny_spec, tiny_pictures[:2], others={"tflite-runtime 2.14": other})
    assert "tflite-runtime 2.14" in {row.kernels for row in rows}
    assert other.version == "tflite-runtime 2.14.0"


def test_interpreter_that_is_missing_is_told(tiny_int8, tiny_spec, tiny_pictures, tmp_path):
    with pytest.raises(MissingToolError, match=r"nowhere: no Python interpreter .*; make the environment"):
        OtherRuntime(tiny_int8, tiny_spec, tmp_path / "nowhere")(tiny_pictures[:1])


def test_runtime_that_is_missing_or_refuses_is_told(tiny_int8, tiny_spec, tiny_pictures, tmp_path):
    def runtime(lines: str):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return OtherRuntime(tiny_int8, tiny_spec, path)

    with pytest.raises(MissingToolError, match="could not run the file: No module named 'tflite_runtime'"):
        runtime("echo \"RUNTIME: No module named 'tflite_runtime'\" >&2; exit 3")(tiny_pictures[:1])
    with pytest.raises(GateError, match="refuses the file: Didn't find op for builtin opcode 'TILE'"):
        runtime("echo \"RUNTIME: Didn't find op for builtin opcode 'TILE'\" >&2; exit 3")(tiny_pictures[:1])


# --------------------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("name", [
    "tflite", "tflite_uint8", "tflite_float_io", "tflite_int16x8", "tflite_dynamic", "tflite_float16", "tflite_float32",
])  # fmt: skip
def test_every_flavour_is_a_target(tiny_job, tmp_path, name):
    from posezoo.export.metadata import read_metadata
    from posezoo.export.targets import get_target

    target = get_target(name)
    made = target.make(tiny_job, target.path(tmp_path, "tiny"))
    assert [p.name for p in made.files] == [f"tiny{target.ending}", f"tiny{target.ending}.json"]
    sidecar = json.loads(made.files[1].read_text())
    wanted = target.options
    assert sidecar["precision"] == wanted["precision"]
    assert sidecar["io"] == wanted.get("io", FLAVOURS[wanted["precision"]].io[0])
    assert sidecar["weights"] == "trained"
    assert read_metadata(made.files[0].read_bytes())["posezoo"]["model"] == "tiny"
    assert made.agreements[0].keypoints is not None
