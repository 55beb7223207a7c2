"""ONNX and OpenVINO runners: the same pictures in, the same named outputs out, whatever the file's layout."""

from __future__ import annotations

import numpy as np
import pytest

from posezoo.cards.card import InputSpec
from posezoo.inference.runners import OnnxRunner, OpenVinoRunner, RunnerError, normalise

onnx = pytest.importorskip("onnx")

SPEC = InputSpec((8, 12, 3), (127.0,) * 3, (128.0,) * 3)
KERNEL = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype("f4")


def write_model(path, *, channels_first: bool, size=(8, 12)):
    """A 1x1 convolution to five maps, and their means."""
    from onnx import TensorProto, helper

    shape = [1, 3, *size] if channels_first else [1, *size, 3]
    maps = [1, 5, *size] if channels_first else [1, *size, 5]
    nodes, source, target = [], "image", "heatmaps"
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2]))
        source, target = "nchw", "maps"
    nodes.append(helper.make_node("Conv", [source, "kernel"], [target]))
    if not channels_first:
        nodes.append(helper.make_node("Transpose", ["maps"], ["heatmaps"], perm=[0, 2, 3, 1]))
    nodes.append(helper.make_node("GlobalAveragePool", [target], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["means"]))
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("heatmaps", maps), ("means", [1, 5]))],
        [helper.make_tensor("kernel", TensorProto.FLOAT, KERNEL.shape, KERNEL.ravel())],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


RUNNERS = {"onnxruntime": OnnxRunner, "openvino": OpenVinoRunner}


@pytest.mark.parametrize("runtime", RUNNERS)
@pytest.mark.parametrize("channels_first", [True, False])
def test_outputs_are_named_and_channels_last(tmp_path, runtime, channels_first):
    pytest.importorskip(runtime)
    runner = RUNNERS[runtime](write_model(tmp_path / "a.onnx", channels_first=channels_first), SPEC, threads=1)
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    outputs = runner(images)
    expected = normalise(images, SPEC) @ KERNEL[:, :, 0, 0].T
    assert outputs.keys() == {"heatmaps", "means"}
    np.testing.assert_allclose(outputs["heatmaps"], expected, atol=1e-5)
    np.testing.assert_allclose(outputs["means"], expected.mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("runtime", RUNNERS)
def test_what_does_not_fit_is_told(tmp_path, runtime):
    pytest.importorskip(runtime)
    other = write_model(tmp_path / "other.onnx", channels_first=True, size=(8, 8))
    with pytest.raises(RunnerError, match=r"takes \(1, 3, 8, 8\), the card says \(1, 8, 12, 3\)"):
        RUNNERS[runtime](other, SPEC)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RunnerError, match=r"broken\.onnx: not a"):
        RUNNERS[runtime](tmp_path / "broken.onnx", SPEC)


@pytest.mark.parametrize(("runtime", "kind"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_load_takes_files_of_ones_own(tmp_path, monkeypatch, runtime, kind):
    pytest.importorskip(kind)
    import dataclasses

    import posezoo
    from posezoo import zoo

    card = dataclasses.replace(posezoo.info("mobilenet_split_224"), input=SPEC)
    monkeypatch.setattr(zoo, "read_card", lambda name: card)
    path = write_model(tmp_path / "a.onnx", channels_first=True)
    if runtime == "openvino":
        import openvino

        openvino.save_model(openvino.convert_model(path), tmp_path / "a.xml", compress_to_fp16=False)
        path = tmp_path / "a.xml"
    model = posezoo.load("mobilenet_split_224", weights=str(path))
    assert model.runner.name == runtime
    with pytest.raises(ValueError, match=f"is a file for runtime '{runtime}'"):
        posezoo.load("mobilenet_split_224", weights=str(path), runtime="tflite")
