"""OpenVINO files: current, version 10 for old readers, int8."""

import json
import sys

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
openvino = pytest.importorskip("openvino")

from posezoo.export.foreign import MissingToolError, converter, environment  # noqa: E402
from posezoo.export.frozen import UnsupportedLayerError  # noqa: E402
from posezoo.export.gates import GateError  # noqa: E402
from posezoo.export.golden import golden_path, write_golden  # noqa: E402
from posezoo.export.job import FLOAT16, Job, agree  # noqa: E402
from posezoo.export.openvino import (  # noqa: E402
    check_opsets,
    export_openvino,
    export_openvino_int8,
    export_openvino_v10,
    read_by,
)
from posezoo.export.seeded import seed_weights  # noqa: E402
from posezoo.inference.runners import OpenVinoRunner  # noqa: E402
from posezoo.models.person_detector import person_detector  # noqa: E402


@pytest.fixture(scope="module")
def mixed_v10(mixed_job, tmp_path_factory):
    path = tmp_path_factory.mktemp("v10") / "mixed_v10.xml"
    export_openvino_v10(mixed_job, path)
    return path


def test_current_files_agree(mixed_job, tmp_path):
    made = export_openvino(mixed_job, tmp_path / "mixed.xml")
    assert [p.name for p in made.files] == ["mixed.xml", "mixed.bin", "mixed.xml.json"]
    assert 'version="11"' in made.files[0].read_text()[:300]
    assert {row.output for row in made.agreements[0].rows} == {"heatmaps", "tags"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixed.bin", "mixed.xml", "mixed.xml.json"]


def test_version_10_holds_old_forms_alone(mixed_v10):
    kinds = check_opsets(mixed_v10)
    assert {"MaxPool", "AvgPool", "Interpolate", "GroupConvolution", "ConvolutionBackpropData"} <= set(kinds)
    text = mixed_v10.read_text()
    assert 'type="MaxPool" version="opset1"' in text
    assert 'type="Interpolate" version="opset4"' in text
    assert 'element_type="f16"' in text


def test_version_10_is_what_the_gate_says(mixed_v10, tmp_path):
    newer = tmp_path / "newer.xml"
    newer.write_text(
        mixed_v10.read_text().replace('type="MaxPool" version="opset1"', 'type="MaxPool" version="opset8"')
    )
    with pytest.raises(GateError, match="is MaxPool of opset8; 2021.3 knows 7".replace("opset8", "opset 8")):
        check_opsets(newer)
    newer.write_text(mixed_v10.read_text().replace('version="10"', 'version="11"', 1))
    with pytest.raises(GateError, match="IR version 11, expected 10"):
        check_opsets(newer)


def test_int8_agrees(tiny_job, tmp_path):
    made = export_openvino_int8(tiny_job, tmp_path / "int8.xml")
    (row,) = made.agreements[0].rows
    assert row.psnr_db > 30
    assert 'element_type="i8"' in made.files[0].read_text()


def test_a_layer_without_old_form_is_named_with_the_way_out(tiny_card, tiny_pictures, tmp_path):
    image = keras.Input(tiny_card.input.shape, name="image")
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="fine")(image)
    x = keras.layers.Activation("softsign", name="exotic")(x)
    network = keras.Model(image, {"heatmaps": keras.layers.Conv2D(14, 1, name="heatmaps")(x)})
    job = Job(network, tiny_card, tiny_pictures[:3])
    told = r"no form of layer 'exotic' \(SoftSign of opset 9\).*--to openvino"
    with pytest.raises(UnsupportedLayerError, match=told):
        export_openvino_v10(job, tmp_path / "x.xml")
    assert not list(tmp_path.iterdir())
    export_openvino(job, tmp_path / "x.xml")


class Determinant(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return x * tf.linalg.det(x[:, :2, :2, 0])[:, None, None, None]


def test_a_layer_that_openvino_lacks_is_named_with_the_way_out(tiny_card, tiny_pictures, tmp_path):
    image = keras.Input(tiny_card.input.shape, name="image")
    network = keras.Model(image, {"heatmaps": Determinant(name="exotic")(image)})
    told = r"OpenVINO has no operation for layer 'exotic' \(Det\); write the layer with other operations"
    for export in (export_openvino, export_openvino_v10):
        with pytest.raises(UnsupportedLayerError, match=told):
            export(Job(network, tiny_card, tiny_pictures[:3]), tmp_path / "x.xml")
    assert not list(tmp_path.iterdir())


def test_tampered_weights_are_caught(mixed_job, mixed_v10, tmp_path):
    for path in (mixed_v10, mixed_v10.with_suffix(".bin")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "mixed_v10.bin"
    values = np.frombuffer(weights.read_bytes(), np.float16).copy()
    values[:300] *= np.float16(1.5)
    weights.write_bytes(values.tobytes())
    with pytest.raises(GateError, match="on openvino kernels: PSNR"):
        agree(mixed_job, OpenVinoRunner(tmp_path / mixed_v10.name, mixed_job.card.input), FLOAT16, kernels="openvino")


def test_reader_gate_is_told_where_its_environment_is_missing(mixed_job, mixed_v10, tmp_path, monkeypatch):
    monkeypatch.setenv("POSEZOO_CACHE", str(tmp_path))
    told = read_by(mixed_v10, mixed_job, "openvino_2022")
    assert "make it with: python" in told["not run"]
    assert "environments.py openvino_2022" in told["not run"]


@pytest.fixture(scope="module")
def reader_2022():
    try:
        return environment("openvino_2022")
    except MissingToolError as error:
        pytest.skip(f"reader gate: {error}")


def test_openvino_2022_reads_version_10(reader_2022, mixed_job, mixed_v10):
    told = read_by(mixed_v10, mixed_job, "openvino_2022")
    assert told["openvino"].startswith("2022.3.2")
    assert {row["output"] for row in told["outputs"]} == {"heatmaps", "tags"}


def test_openvino_2022_finds_tampered_golden_outputs(reader_2022, mixed_job, mixed_v10, monkeypatch):
    wrong = {name: value[:, ::-1] for name, value in mixed_job.reference.items()}
    monkeypatch.setitem(mixed_job.__dict__, "reference", wrong)
    with pytest.raises(GateError, match=r"OpenVINO 2022.3.2.*output 'heatmaps' PSNR"):
        read_by(mixed_v10, mixed_job, "openvino_2022")


def test_todays_openvino_compares_with_golden_outputs_too(mixed_job, mixed_v10, tmp_path):
    """The script runs with any OpenVINO, this one included; what it prints is JSON."""
    import subprocess

    golden = write_golden(mixed_job, golden_path(tmp_path / "mixed.xml"))
    assert golden.name == "mixed.xml.golden.npz"
    command = [sys.executable, str(converter("read_ir.py")), str(mixed_v10), str(golden)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["wrong"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]} == {""}


def test_a_map_of_one_channel_keeps_its_outputs_name(tiny_card, tiny_pictures, tmp_path):
    """Compiled, OpenVINO drops the reshaping before it, and the output has the convolution's name too."""
    keras.utils.set_random_seed(1)
    network = person_detector(width=0.35, input_px=64, channels=8)
    seed_weights(network, tiny_card)
    job = Job(network, tiny_card, tiny_pictures[:2], trained=False)
    for export, file in ((export_openvino, "one.xml"), (export_openvino_v10, "one_v10.xml")):
        export(job, tmp_path / file)  # whose gate compares outputs by name
        names = {output.get_any_name() for output in openvino.Core().read_model(tmp_path / file).outputs}
        assert names == {"centers", "sizes", "offsets"}
