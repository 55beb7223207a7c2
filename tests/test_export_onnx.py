"""ONNX files: every layer of every family, the gates, and what a user is told."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

from posezoo.export.frozen import blame, freeze  # noqa: E402
from posezoo.export.gates import GateError, check_reacts  # noqa: E402
from posezoo.export.job import FLOAT32, Job, agree  # noqa: E402
from posezoo.export.onnx import (  # noqa: E402
    UnsupportedLayerError,
    check_structure,
    export_onnx,
    export_onnx_int8,
    model_of,
    operators,
    quantise,
    refuse_newer,
    save_gated,
    to_onnx,
)
from posezoo.export.simplify import batch_norms_to_fold, is_graph_of_layers, simplified  # noqa: E402
from posezoo.export.targets import TARGETS  # noqa: E402
from posezoo.inference.runners import OnnxRunner, normalise  # noqa: E402


@pytest.fixture(scope="module")
def tiny_onnx(tiny_job, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(tiny_job, path)
    return path


def test_simpler_networks_compute_the_same(mixed_job):
    x = normalise(mixed_job.pictures, mixed_job.card.input)
    plain = simplified(mixed_job.network)
    for name, expected in mixed_job.network(x, training=False).items():
        got = plain(x, training=False)[name]
        np.testing.assert_allclose(got, expected, atol=2e-6 * float(np.ptp(expected)))
    norms = [layer.name for layer in plain.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms == ["concat_bn"]  # the only one that no convolution can take in
    assert set(batch_norms_to_fold(mixed_job.network)) == {"stem", "grouped", "depthwise", "up"}


def test_networks_that_are_no_graph_of_layers_are_left_alone(tiny_network):
    image = keras.Input(tiny_network.input_shape[1:])
    nested = keras.Model(image, tiny_network(image))
    assert not is_graph_of_layers(nested)
    assert simplified(nested) is nested


def test_a_norm_behind_an_activation_or_an_output_is_not_folded():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="active")(image)
    x = keras.layers.BatchNormalization(name="after_active")(x)
    y = keras.layers.Conv2D(4, 3, name="y")(x)
    network = keras.Model(image, {"y": y, "z": keras.layers.BatchNormalization(name="z")(y)})
    assert batch_norms_to_fold(network) == {}


@pytest.mark.parametrize("opset", [11, 17])
def test_every_layer_is_taken_and_agrees(mixed_job, tmp_path, opset):
    made = export_onnx(mixed_job, tmp_path / "mixed.onnx", opset=opset)
    assert {row.output for row in made.agreements[0].rows} == {"heatmaps", "tags"}
    model = onnx.load(made.files[0])
    kinds = operators(model)
    assert model.opset_import[0].version == opset
    assert not {"Tile", "Transpose", "BatchNormalization"} & set(kinds)
    assert kinds["ConvTranspose"] == 1
    groups = {a.i for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"}
    assert {1, 2, 4, 16} <= groups
    nearest = [n for n in model.graph.node if n.op_type == "Resize" and b"nearest" in [a.s for a in n.attribute]]
    assert {a.s for a in nearest[0].attribute if a.name == "coordinate_transformation_mode"} == {b"asymmetric"}


def test_borders_are_channels_first_and_named(tiny_onnx):
    graph = onnx.load(tiny_onnx).graph
    (image,), (heatmaps,) = graph.input, graph.output
    assert (image.name, heatmaps.name) == ("image", "heatmaps")
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, 64, 64]
    assert [d.dim_value for d in heatmaps.type.tensor_type.shape.dim] == [1, 14, 16, 16]


def test_sidecar_and_metadata_tell_what_a_program_needs(tiny_onnx):
    sidecar = json.loads(tiny_onnx.with_name("tiny.onnx.json").read_text())
    assert sidecar["files"]["tiny.onnx"]["bytes"] == tiny_onnx.stat().st_size
    assert sidecar["gates"][0]["keypoint_error"]["max_px"] < 0.01
    (entry,) = onnx.load(tiny_onnx).metadata_props
    facts = json.loads(entry.value)
    assert facts["keypoints"][0] == "right_ankle"
    assert facts["input"]["mean"] == [127.5] * 3
    assert sorted(p.name for p in tiny_onnx.parent.iterdir()) == ["tiny.onnx", "tiny.onnx.golden.npz", "tiny.onnx.json"]


def test_int8_agrees(tiny_job, tmp_path):
    made = export_onnx_int8(tiny_job, tmp_path / "int8.onnx")
    (row,) = made.agreements[0].rows
    assert row.psnr_db > 30
    assert [p.name for p in made.files] == ["int8.onnx", "int8.onnx.golden.npz", "int8.onnx.json"]


@pytest.mark.parametrize("for_tensorrt", [False, True])
def test_int8_comes_in_the_form_asked_for(tiny_job, tmp_path, for_tensorrt):
    spec = tiny_job.card.input
    model = quantise(to_onnx(tiny_job.network, spec, opset=13), spec, tiny_job.calibration, for_tensorrt=for_tensorrt)
    save_gated(model, tiny_job, tmp_path / "int8.onnx", tiny_job.int8)
    constants = {i.name: i.data_type for i in model.graph.initializer}
    sources = {constants.get(n.input[0]) for n in model.graph.node if n.op_type == "DequantizeLinear"}
    stored = {onnx.TensorProto.INT8, onnx.TensorProto.INT32}
    # TensorRT reads no integer constants, and no zero points but 0.
    assert (sources == {None}) if for_tensorrt else (stored & sources)
    if for_tensorrt:
        zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
        values = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name in zeros]
        assert len(values) == len(zeros)
        assert not any(v.any() for v in values)


def test_no_convolution_of_an_int8_file_is_computed_in_float(tmp_path):
    """Nor one beside a sum, as those of signed activations are on x86."""
    import onnxruntime as ort

    from posezoo.export.seeded import seed_weights, smooth_pictures
    from posezoo.zoo import build, info

    card = info("mpm_1s")
    network = build("mpm_1s")
    seed_weights(network, card)
    model = quantise(to_onnx(network, card.input, opset=13), card.input, smooth_pictures(card, 2))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == sum(node.op_type == "Conv" for node in model.graph.node) > 40
    assert "Conv" not in kinds


def test_calibration_is_asked_for(tiny_job):
    with pytest.raises(ValueError, match="calibration holds no picture"):
        quantise(None, tiny_job.card.input, [])


def test_tampered_outputs_are_caught(tiny_job, tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    weight = next(i for i in model.graph.initializer if len(i.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "tampered.onnx")
    with pytest.raises(GateError, match=r"output 'heatmaps' on onnxruntime kernels: PSNR .* at least 80.0 expected"):
        agree(tiny_job, OnnxRunner(tmp_path / "tampered.onnx", tiny_job.card.input), FLOAT32, kernels="onnxruntime")


def test_constant_output_is_caught_and_leaves_the_old_file(tiny_job, tmp_path):
    dead = keras.models.clone_model(tiny_job.network)
    for layer in dead.layers:
        layer.set_weights([w * 0 for w in layer.get_weights()])
    out = tmp_path / "dead.onnx"
    out.write_bytes(b"finished work")
    with pytest.raises(GateError, match="same for every picture"):
        export_onnx(dataclasses.replace(tiny_job, network=dead), out)
    assert [p.name for p in tmp_path.iterdir()] == ["dead.onnx"]
    assert out.read_bytes() == b"finished work"


def test_outputs_that_ignore_the_picture_are_caught():
    value = np.random.default_rng(0).normal(size=(1, 4, 4, 2))
    check_reacts({"heatmaps": value}, kernels="any")
    with pytest.raises(GateError, match=r"output\(s\) heatmaps, tags on any kernels are the same"):
        check_reacts({"tags": np.repeat(value, 2, 0), "heatmaps": np.repeat(value, 3, 0)}, kernels="any")


def test_wrong_borders_are_caught(tiny_job, tiny_onnx):
    model = onnx.load(tiny_onnx)
    model.graph.output[0].name = "Identity"
    model.graph.node[-1].output[0] = "Identity"
    with pytest.raises(GateError, match=r"borders are .*'Identity'.*, expected .*'heatmaps'"):
        check_structure(model, tiny_job)
    model.graph.node[0].input.pop()
    model.graph.node[0].input.pop()
    with pytest.raises(GateError, match="ONNX's checker refuses"):
        check_structure(model, tiny_job)


def refused_network(tiny_card):
    """A network with a layer that ONNX has no operation for."""
    image = keras.Input(tiny_card.input.shape, name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", name="fine")(image)
    x = Bessel(name="exotic")(x)
    return keras.Model(image, {"heatmaps": keras.layers.Conv2D(14, 1, name="heatmaps")(x)})


class Bessel(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.special.bessel_i0(x)


def test_a_layer_that_onnx_lacks_is_named_with_the_way_out(tiny_card, tiny_pictures, tmp_path):
    job = Job(refused_network(tiny_card), tiny_card, tiny_pictures[:2])
    with pytest.raises(UnsupportedLayerError, match=r"layer 'exotic' \(BesselI0\); write the layer with"):
        export_onnx(job, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def attending_network(card):
    """A network with a layer that ONNX has an operation for (Einsum) from opset 12 on."""
    layers, image = keras.layers, keras.Input(card.input.shape, name="image")
    x = layers.Conv2D(8, 4, strides=4, name="patches")(image)
    x = layers.Reshape((256, 8), name="tokens")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Reshape((16, 16, 8), name="map")(x)
    return keras.Model(image, {"heatmaps": layers.Conv2D(3, 1, name="heatmaps")(x)})


def test_a_layer_that_only_later_opsets_have_is_named_with_the_target_that_takes_it(tiny_card, tiny_pictures, tmp_path):
    job = Job(attending_network(tiny_card), tiny_card, tiny_pictures[:2], trained=False)
    told = (
        r"ONNX opset 11 has no operation for layer 'attention' \(Einsum\); export a later one "
        r"\(--to onnx_opset17\), or write the layer with"
    )
    with pytest.raises(UnsupportedLayerError, match=told):
        TARGETS["onnx"].make(job, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    assert TARGETS["onnx_opset17"].make(job, tmp_path / "x.onnx").files[0].exists()


def test_what_tf2onnx_logs_is_not_shown():
    """Its loggers are made while it converts; what it has no operation for is told by an error."""
    code = (
        "import logging; from posezoo.export.onnx import _quiet\n"
        "with _quiet(): logging.getLogger('tf2onnx.later').warning('one')\n"
        "logging.getLogger('tf2onnx.later').warning('two')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "two" in lines and "one" not in lines


def test_a_later_opset_is_no_way_out_where_it_has_no_such_operation_either(tiny_job):
    model = model_of(tiny_job, 11)
    model.graph.node[0].op_type = "Gelu"  # of opset 20
    with pytest.raises(UnsupportedLayerError, match=r"ONNX opset 11 has no operation for .* \(Gelu\); write the layer"):
        refuse_newer(model, tiny_job)


def test_blame_finds_layers_in_scopes():
    layers = ("stem", "stem_2", "block")
    assert blame("net_1/stem_1/convolution", layers) == "stem"
    assert blame("net/stem_2/convolution", layers) == "stem_2"
    assert blame("net/block/stem/mul", layers) == "stem"
    assert blame("Resize__17", layers) == "Resize__17"


def test_frozen_graphs_have_no_call_and_no_variable(mixed_job):
    frozen = freeze(mixed_job.network, mixed_job.card.input)
    kinds = frozen.operators()
    assert not {"StatefulPartitionedCall", "PartitionedCall", "ReadVariableOp"} & set(kinds)
    assert "keras_groups" in {frozen.layer_of(node) for node in kinds["Conv2D"]}
