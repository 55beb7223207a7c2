"""What is carried to devices: SavedModel, folders for TensorRT and TF-TRT, Myriad X blobs.

TensorRT and TF-TRT are not available here: the scripts that run on the device are tested with stand-ins for NVIDIA's
modules, which run the same files on onnxruntime and TensorFlow. What TensorRT itself makes of a file only the device
can say. The Myriad compiler and TensorFlow 2.17 run where their environments are made.
"""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from test_converters import CONVERTERS, load_script

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")
pytest.importorskip("openvino")

from posezoo.export.foreign import MissingToolError, environment  # noqa: E402
from posezoo.export.frozen import UnsupportedLayerError, freeze  # noqa: E402
from posezoo.export.gates import GateError  # noqa: E402
from posezoo.export.job import Job, Limits  # noqa: E402
from posezoo.export.myriad import check_float16, export_myriad, largest_activations  # noqa: E402
from posezoo.export.onnx import to_onnx  # noqa: E402
from posezoo.export.rewrite import without_groups  # noqa: E402
from posezoo.export.saved_model import SavedModelRunner, export_saved_model  # noqa: E402
from posezoo.export.simplify import simplified  # noqa: E402
from posezoo.export.targets import TARGETS  # noqa: E402
from posezoo.export.tensorrt import export_tensorrt, op_report, refuse  # noqa: E402
from posezoo.export.tftrt import coverage, export_tftrt, operator_list  # noqa: E402
from posezoo.inference.runners import RunnerError  # noqa: E402

# ------------------------------------------------------------------------------------- every target here

HERE = ("edgetpu", "saved_model", "tensorrt", "tftrt")


@pytest.fixture
def old(tmp_path) -> Path:
    """A folder that holds what an earlier run finished."""
    (tmp_path / "other.txt").write_text("finished work")
    return tmp_path


def left(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize("name", HERE)
def test_a_file_that_does_not_give_the_networks_outputs_is_not_written(name, tiny_job, old):
    target, spoilt = TARGETS[name], dataclasses.replace(tiny_job)
    vars(spoilt).update(
        # What is converted stays; what the network gave for the pictures is another picture's.
        frozen=tiny_job.frozen, kept=tiny_job.kept, reference={k: v[::-1] for k, v in tiny_job.reference.items()}
    )  # fmt: skip
    with pytest.raises(GateError, match="heatmaps"):
        target.make(spoilt, target.path(old, "tiny"))
    assert left(old) == ["other.txt"]


# -------------------------------------------------------------------------------------------- SavedModel


@pytest.fixture(scope="module")
def saved(mixed_job, tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "mixed_saved_model"
    return export_saved_model(mixed_job, out)


def test_saved_model_is_read_back_and_agrees(saved, mixed_job):
    assert {row.output for row in saved.agreements[0].rows} == {"heatmaps", "tags"}
    assert [p.name for p in saved.files] == [
        "mixed_saved_model", "mixed_saved_model.golden.npz", "mixed_saved_model.json",
    ]  # fmt: skip
    weights = sum(w.numpy().nbytes for w in mixed_job.network.weights)
    assert (saved.files[0] / "saved_model.pb").stat().st_size < 2 * weights  # stored once, beside the graph
    run = SavedModelRunner(saved.files[0], mixed_job.card.input)
    assert list(run._run.structured_input_signature[1]) == ["image"]


def test_saved_model_of_another_size_and_no_saved_model_are_told(saved, mixed_job, tmp_path):
    other = dataclasses.replace(mixed_job.card.input, shape=(32, 32, 3))
    with pytest.raises(RunnerError, match=r"takes \(1, 64, 64, 3\), the card says \(1, 32, 32, 3\)"):
        SavedModelRunner(saved.files[0], other)
    with pytest.raises(RunnerError, match="no SavedModel with the signature serving_default"):
        SavedModelRunner(tmp_path, other)


def test_failed_saved_model_keeps_the_old_one(mixed_job, tmp_path):
    out = tmp_path / "x"
    out.mkdir()
    (out / "saved_model.pb").write_text("finished work")
    dead = keras.models.clone_model(mixed_job.network)
    for layer in dead.layers:
        layer.set_weights([w * 0 for w in layer.get_weights()])
    with pytest.raises(GateError, match="same for every picture"):
        export_saved_model(dataclasses.replace(mixed_job, network=dead), out)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (out / "saved_model.pb").read_text() == "finished work"


# ---------------------------------------------------------------------------------------------- TensorRT


@pytest.fixture(scope="module")
def tensorrt_folder(mixed_job, tmp_path_factory):
    out = tmp_path_factory.mktemp("trt") / "mixed"
    made = export_tensorrt(mixed_job, out)
    assert made.files == (out,)
    return out


def test_folder_holds_what_the_jetson_needs(tensorrt_folder):
    assert sorted(p.name for p in tensorrt_folder.iterdir()) == [
        "golden.py", "model.golden.npz", "model.onnx", "model_int8.onnx", "report.json", "to_tensorrt.py",
    ]  # fmt: skip
    report = json.loads((tensorrt_folder / "report.json").read_text())
    assert report["reports"]["model.onnx"]["opset"] == 11
    assert report["reports"]["model.onnx"]["refused"] == []
    assert report["files"]["model.onnx"]["bytes"] == (tensorrt_folder / "model.onnx").stat().st_size


def test_folder_goes_without_int8_where_8_bits_are_too_few(mixed_job, tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "int8", Limits(90.0))
    made = export_tensorrt(mixed_job, tmp_path / "mixed")
    assert not (tmp_path / "mixed" / "model_int8.onnx").exists()
    assert made.notes[0].startswith(
        "no model_int8.onnx: output 'heatmaps' on onnxruntime, model_int8.onnx kernels: PSNR"
    )
    report = json.loads((tmp_path / "mixed" / "report.json").read_text())
    assert list(report["reports"]) == ["model.onnx"]
    assert "PSNR" in report["left out"]["model_int8.onnx"]


def test_script_on_the_jetson_says_why_there_is_no_int8_file(to_tensorrt, mixed_job, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Job, "int8", Limits(90.0))
    export_tensorrt(mixed_job, tmp_path / "mixed")
    assert to_tensorrt.main([str(tmp_path / "mixed"), "--precision", "int8"]) == 2
    assert "the export left it out (output 'heatmaps'" in capsys.readouterr().err


def one_node(kind, *, inputs=(), constants=(), side=8, **attributes):
    """A model of one operation on an image (1, 4, 8, side)."""
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 8, side])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    more = ["indices"] if kind == "TopK" else []
    node = helper.make_node(kind, ["image", *inputs], ["result", *more], name=f"net/my_layer/{kind}", **attributes)
    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()]
    graph = helper.make_graph([node], "g", [image], [result], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


SIZES = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}


@pytest.mark.parametrize(
    "model, why",
    [
        (one_node("Hardmax", axis=1), "TensorRT has no such layer"),
        (one_node("Resize", inputs=["roi", "scales"], constants=SIZES, mode="cubic"), "mode cubic is not taken"),
        (one_node("Resize", inputs=["roi", "scales"], constants=SIZES, mode="linear",
                  coordinate_transformation_mode="tf_crop_and_resize"), "coordinates tf_crop_and_resize are not taken"),
        (one_node("TopK", inputs=["k"], constants={"k": np.array([5000])}, side=6000, axis=3), "k is 5000, at most"),
        (one_node("Conv", inputs=["image"]), "its weights are no constant"),
        (one_node("Clip", inputs=["image"]), "its bounds are no constants"),
        (one_node("QuantizeLinear", inputs=["s", "z"], constants={"s": np.float32(1), "z": np.int8(3)}),
         "its zero point is not 0"),
        (one_node("QuantizeLinear", inputs=["s", "z"], constants={"s": np.float32(1), "z": np.uint8(0)}),
         "it quantises to uint8; only int8"),
    ],
)  # fmt: skip
def test_what_tensorrt_does_not_take_is_named(model, why):
    report = op_report(model, ("my_layer",))
    rows = [row for row in report["refused"] if row["operator"] != "tensor"]
    assert [row["layer"] for row in rows] == ["my_layer"]
    assert why in rows[0]["why"]
    with pytest.raises(UnsupportedLayerError, match="TensorRT does not take layer 'my_layer'.*; the way out"):
        refuse(report, target="TensorRT", way_out="the way out")


def test_a_layer_that_tensorrt_lacks_is_told_and_nothing_is_written(tiny_card, tiny_pictures, tmp_path):
    image = keras.Input(tiny_card.input.shape, name="image")
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="fine")(image)
    network = keras.Model(image, {"heatmaps": Watchful(name="exotic")(x)})
    with pytest.raises(UnsupportedLayerError, match=r"'exotic' \(IsInf\): TensorRT has no such layer; end the network"):
        export_tensorrt(Job(network, tiny_card, tiny_pictures[:3]), tmp_path / "x")
    assert not list(tmp_path.iterdir())


class Watchful(keras.layers.Layer):
    def call(self, x):
        return x + tf.cast(tf.math.is_inf(x), tf.float32)


class Arc(keras.layers.Layer):
    def call(self, x):
        return tf.math.atan(x)


class FakeTensorRT(types.ModuleType):
    """Stands in for `tensorrt`: reads the same ONNX file and runs it on onnxruntime, on memory of this machine.

    Args:
        version: As `tensorrt.__version__`; decides which interface there is.
        spoil: Added to every output.
    """

    def __init__(self, version="10.3.0", spoil=0.0):
        import onnxruntime

        super().__init__("tensorrt")
        fake, self.__version__, self.flags = self, version, []
        new = int(version.split(".")[0]) >= 10
        self.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda s, level: None})
        self.NetworkDefinitionCreationFlag = types.SimpleNamespace(**({} if new else {"EXPLICIT_BATCH": 0}))
        self.BuilderFlag = types.SimpleNamespace(FP16="fp16", INT8="int8")
        self.MemoryPoolType = types.SimpleNamespace(WORKSPACE=0)
        self.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")

        class Builder:
            def __init__(self, logger):
                self.content = [b""]

            def create_network(self, flags):
                assert flags == (0 if new else 1)
                return self.content

            def create_builder_config(self):
                class Config:
                    def set_flag(self, flag):
                        fake.flags.append(flag)

                    if new:

                        def set_memory_pool_limit(self, pool, size):
                            assert size == 512 << 20

                return Config()

            def build_serialized_network(self, network, config):
                assert new or config.max_workspace_size == 512 << 20
                return network[0] or None

        class OnnxParser:
            num_errors = 1

            def __init__(self, network, logger):
                self.network = network

            def parse(self, content):
                self.network[0] = content
                return not content.startswith(b"broken")

            def get_error(self, i):
                return "unsupported operator"

        class Engine:
            def __init__(self, content):
                self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
                self.tensors = [(t, True) for t in self.session.get_inputs()]
                self.tensors += [(t, False) for t in self.session.get_outputs()]

            def create_execution_context(self):
                return Context(self)

            if new:

                @property
                def num_io_tensors(self):
                    return len(self.tensors)

                def get_tensor_name(self, i):
                    return self.tensors[i][0].name

                def _find(self, name):
                    return next(t for t in self.tensors if t[0].name == name)

                def get_tensor_mode(self, name):
                    return "in" if self._find(name)[1] else "out"

                def get_tensor_shape(self, name):
                    return self._find(name)[0].shape

            else:

                @property
                def num_bindings(self):
                    return len(self.tensors)

                def get_binding_name(self, i):
                    return self.tensors[i][0].name

                def get_binding_shape(self, i):
                    return self.tensors[i][0].shape

                def binding_is_input(self, i):
                    return self.tensors[i][1]

        class Context:
            def __init__(self, engine):
                self.engine = engine

            def execute_v2(self, addresses):
                arrays = [MEMORY[address] for address in addresses]
                names = [t.name for t, _ in self.engine.tensors]
                (given,) = [t for t, going_in in self.engine.tensors if going_in]
                image = arrays[names.index(given.name)].reshape(given.shape)
                for value, (t, _) in zip(
                    self.engine.session.run(None, {given.name: image}), self.engine.tensors[1:], strict=True
                ):
                    arrays[names.index(t.name)][:] = value.ravel() + spoil
                return True

        self.Builder, self.OnnxParser = Builder, OnnxParser
        self.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=Engine)


MEMORY: dict = {}


class FakeCuda:
    """Device memory in a dictionary."""

    def allocate(self, size):
        MEMORY[len(MEMORY) + 1] = np.zeros(size // 4, np.float32)
        return len(MEMORY)

    def to_device(self, address, array):
        MEMORY[address][:] = array.ravel()

    def from_device(self, array, address):
        array[...] = MEMORY[address].reshape(array.shape)

    def wait(self):
        pass


@pytest.fixture(scope="module")
def to_tensorrt():
    return load_script("to_tensorrt")


@pytest.mark.parametrize("version", ["8.2.1", "8.5.2", "10.3.0"])
@pytest.mark.parametrize("precision, flags", [("fp32", []), ("fp16", ["fp16"]), ("int8", ["int8", "fp16"])])
def test_engines_are_built_and_compared_with_a_stand_in(
    to_tensorrt, tensorrt_folder, tmp_path, capsys, version, precision, flags
):
    fake, out = FakeTensorRT(version), tmp_path / "engine"
    assert to_tensorrt.convert(tensorrt_folder, precision, out, 512, 3, trt=fake, cuda=FakeCuda())
    assert fake.flags == flags
    told = capsys.readouterr().out
    assert f"{precision} engine, TensorRT {version}, 2 golden inputs" in told
    assert "network alone:" in told
    name = "model_int8.onnx" if precision == "int8" else "model.onnx"
    assert out.read_bytes() == (tensorrt_folder / name).read_bytes()


def test_engine_that_disagrees_is_not_kept(to_tensorrt, tensorrt_folder, tmp_path, capsys):
    wrong = FakeTensorRT(spoil=5.0)
    assert not to_tensorrt.convert(tensorrt_folder, "fp16", tmp_path / "e", 512, 3, trt=wrong, cuda=FakeCuda())
    assert not list(tmp_path.iterdir())
    told = capsys.readouterr()
    assert "PSNR" in told.out
    assert "not written: the engine does not agree" in told.err


def test_what_goes_wrong_on_the_jetson_is_told(to_tensorrt, tensorrt_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert to_tensorrt.main([str(tensorrt_folder)]) == 2
    assert "TensorRT's Python package is missing" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("7.1.3"))
    assert to_tensorrt.main([str(tensorrt_folder)]) == 2
    assert "TensorRT 7.1.3 is too old" in capsys.readouterr().err
    assert to_tensorrt.main([str(tmp_path)]) == 2
    assert "posezoo export MODEL --to tensorrt" in capsys.readouterr().err
    for path in tensorrt_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"broken")
    with pytest.raises(to_tensorrt.Problem, match=r"cannot read model.onnx: unsupported operator"):
        to_tensorrt.convert(tmp_path, "fp16", tmp_path / "e", 512, 3, trt=FakeTensorRT(), cuda=FakeCuda())


def test_full_disk_on_the_jetson_leaves_nothing(to_tensorrt, tensorrt_folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(to_tensorrt.Problem, match="cannot be written"):
        to_tensorrt.convert(
            tensorrt_folder, "fp32", tmp_path / "file" / "e", 512, 3, trt=FakeTensorRT(), cuda=FakeCuda()
        )


# ------------------------------------------------------------------------------------------------ TF-TRT


@pytest.fixture(scope="module")
def tftrt_folder(mixed_job, tmp_path_factory):
    out = tmp_path_factory.mktemp("tftrt") / "mixed"
    return export_tftrt(mixed_job, out)


def test_coverage_names_what_tensorflow_must_run(tftrt_folder, mixed_job):
    assert operator_list()["tensorflow"] == "2.17.1"
    assert tftrt_folder.details["coverage"]["left"] == []  # convolutions are written by groups
    report = coverage(mixed_job.frozen)
    assert report["converted"] == report["operations"] - 2
    assert [(row["layer"], row["why"].split(";")[0]) for row in report["left"]] == [
        ("grouped", "is grouped (4)"), ("keras_groups", "is grouped (2)"),
    ]  # fmt: skip
    dense = freeze(simplified(without_groups(mixed_job.network)), mixed_job.card.input)
    assert coverage(dense)["left"] == []


def test_operation_without_converter_is_named(tiny_card):
    image = keras.Input(tiny_card.input.shape, name="image")
    dilated = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, name="dilated")(image)
    report = coverage(freeze(keras.Model(image, {"heatmaps": dilated}), tiny_card.input))
    assert {(row["layer"], row["operator"]) for row in report["left"]} == {
        ("dilated", "SpaceToBatchND"), ("dilated", "BatchToSpaceND"),
    }  # fmt: skip


def test_folder_holds_what_the_device_needs(tftrt_folder):
    folder = tftrt_folder.files[0]
    assert sorted(p.name for p in folder.iterdir()) == [
        "calibration.npz", "golden.py", "model", "model.golden.npz", "report.json", "to_tftrt.py",
    ]  # fmt: skip
    with np.load(folder / "calibration.npz") as held:
        assert held["pictures"].shape == (12, 64, 64, 3)


class FakeConverter:
    """Stands in for TrtGraphConverterV2: copies the model and gives it an operation named as an engine.

    Attributes:
        seen: What the converters were told, newest last.
    """

    seen: list = []
    spoil = 0.0
    engines = True

    def __init__(self, input_saved_model_dir, precision_mode, use_calibration):
        self.told = {"precision": precision_mode, "calibrated": 0, "built": 0, "calibrate": use_calibration}
        self.model = tf.saved_model.load(input_saved_model_dir)
        FakeConverter.seen.append(self.told)

    def convert(self, calibration_input_fn=None):
        if calibration_input_fn:
            for (image,) in calibration_input_fn():
                assert image.dtype == tf.float32
                self.told["calibrated"] += 1

    def build(self, input_fn):
        self.told["built"] = sum(1 for _ in input_fn())

    def save(self, folder):
        run = self.model.signatures["serving_default"]

        @tf.function(input_signature=[tf.TensorSpec((1, 64, 64, 3), tf.float32, name="image")])
        def serve(image):
            return {name: value + self.spoil for name, value in run(image=image).items()}

        module = tf.Module()
        module.kept = self.model
        tf.saved_model.save(module, folder, signatures={"serving_default": serve.get_concrete_function()})


@pytest.fixture
def to_tftrt(monkeypatch):
    script = load_script("to_tftrt")
    monkeypatch.setattr(FakeConverter, "seen", [])
    # The real count needs real engines; here one is said to be there, or none.
    monkeypatch.setattr(script, "engines", lambda tf, path: (int(FakeConverter.engines), 3))
    return script


@pytest.mark.parametrize("precision, calibrated", [("fp32", 0), ("fp16", 0), ("int8", 12)])
def test_conversion_with_a_stand_in(to_tftrt, tftrt_folder, tmp_path, capsys, precision, calibrated):
    module = types.SimpleNamespace(TrtGraphConverterV2=FakeConverter)
    out = tmp_path / "converted"
    assert to_tftrt.convert(tftrt_folder.files[0], precision, out, 2, tf, module)
    assert FakeConverter.seen == [
        {"precision": precision.upper(), "calibrated": calibrated, "built": 1, "calibrate": precision == "int8"}
    ]
    assert "1 engine(s), 3 operation(s) left to TensorFlow" in capsys.readouterr().out
    assert (out / "saved_model.pb").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["converted"]


def test_engines_and_what_is_left_are_counted(monkeypatch):
    script = load_script("to_tftrt")
    graph = tf.compat.v1.GraphDef()
    for i, kind in enumerate(("Placeholder", "TRTEngineOp", "Resize", "TRTEngineOp", "Identity")):
        graph.node.add(name=f"n{i}", op=kind)
    fallback = graph.library.function.add()
    fallback.signature.name = "TRTEngineOp_000_000_native_segment"
    fallback.node_def.add(name="c", op="Conv2D")
    own = graph.library.function.add()
    own.signature.name = "serve"
    own.node_def.add(name="w", op="Where")
    function = types.SimpleNamespace(graph=types.SimpleNamespace(as_graph_def=lambda: graph))
    loaded = types.SimpleNamespace(signatures={"serving_default": function})
    fake = types.SimpleNamespace(saved_model=types.SimpleNamespace(load=lambda path: loaded))
    assert script.engines(fake, "x") == (2, 2)


def test_older_converters_take_their_settings_as_a_tuple(to_tftrt):
    from collections import namedtuple

    Settings = namedtuple("Settings", "precision_mode use_calibration max_workspace_size_bytes")

    class Old:
        def __init__(self, input_saved_model_dir, conversion_params):
            self.settings = conversion_params

    module = types.SimpleNamespace(TrtGraphConverterV2=Old, DEFAULT_TRT_CONVERSION_PARAMS=Settings("FP32", True, 1))
    assert to_tftrt.make_converter(module, "model", "fp16").settings == Settings("FP16", False, 1)


@pytest.mark.parametrize(
    "change, told", [({"spoil": 9.0}, "does not agree with the network"), ({"engines": False}, "no engine was made")]
)
def test_wrong_conversion_is_not_kept(to_tftrt, tftrt_folder, tmp_path, capsys, monkeypatch, change, told):
    for name, value in change.items():
        monkeypatch.setattr(FakeConverter, name, value)
    module = types.SimpleNamespace(TrtGraphConverterV2=FakeConverter)
    assert not to_tftrt.convert(tftrt_folder.files[0], "fp16", tmp_path / "x", 2, tf, module)
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tensorflow_without_tftrt_is_told_with_the_way_out(tftrt_folder, capsys):
    script = load_script("to_tftrt")
    assert script.main([str(tftrt_folder.files[0])]) == 2
    told = capsys.readouterr().err
    assert f"TensorFlow {tf.__version__} has no TF-TRT any more" in told
    assert "--to tensorrt" in told
    assert script.main([str(tftrt_folder.files[0]), "--check"]) == 0
    assert "PSNR" in capsys.readouterr().out


def python_of(name):
    try:
        return environment(name)
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_saved_model_loads_and_agrees_in_tensorflow_2_17(tftrt_folder):
    python = python_of("tftrt")
    script = tftrt_folder.files[0] / "to_tftrt.py"
    done = subprocess.run([str(python), str(script), "--check"], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr[-2000:]
    assert "SavedModel, TensorFlow 2.17.1" in done.stdout
    assert done.stdout.count("ok") == 2
    # Without NVIDIA's libraries the conversion says so, and does not end the process.
    done = subprocess.run([str(python), str(script)], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 2
    assert "cannot use TensorRT" in done.stderr


# --------------------------------------------------------------------------------------------- Myriad X


def test_stages_are_counted_by_who_runs_them():
    label = 'label="[{0} / 9] Stage net/conv_{0}\\ltype = {1}\\lorigLayer = [\\l    type = Convolution\\l]\\l"'
    kinds = ["MyriadXHwOp"] * 6 + ["Copy", "Copy", "StubConcat", "Interp"]
    graph = "\n".join(label.format(i, kind) for i, kind in enumerate(kinds))
    counted = load_script("to_myriad").stages(graph)
    assert counted == {
        "hardware": 6, "programs": {"Copy": 2, "Interp": 1}, "hardware_share": 0.6667, "idle": 1,
    }  # fmt: skip
    with pytest.raises(Exception, match="holds no stage"):
        load_script("to_myriad").stages("digraph {}")


def test_values_beyond_float16_are_named(tiny_job):
    largest = largest_activations(tiny_job.network, tiny_job.card.input, tiny_job.pictures[:1])
    assert largest["image"] == pytest.approx(1.0, abs=0.1)
    assert set(largest) == {layer.name for layer in tiny_job.network.layers}
    check_float16(largest)
    with pytest.raises(GateError, match=r"beyond go layer 'up' \(1e\+05\), layer 'add' \(nan\)"):
        check_float16({**largest, "up": 1e5, "add": float("nan")})


def test_missing_compiler_is_told(tiny_job, tmp_path, monkeypatch):
    monkeypatch.setenv("POSEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(MissingToolError, match="the Myriad X compiler: no Python 3.8 found; install it"):
        export_myriad(tiny_job, tmp_path / "x.blob")
    assert not (tmp_path / "x.blob").exists()


@pytest.mark.slow
def test_blob_is_compiled_and_gated(mixed_job, tmp_path):
    python_of("myriad")
    made = export_myriad(mixed_job, tmp_path / "mixed.blob")
    assert [p.name for p in made.files] == ["mixed.blob", "mixed.blob.golden.npz", "mixed.blob.json"]
    assert made.files[0].read_bytes()[:4] == b"\x7felf"
    told = made.details["myriad"]
    assert told["input"] == "U8"
    assert told["stages"]["hardware"] > 5
    assert told["numerics"]["openvino"].endswith("centos_py38")
    golden = load_script("golden").Golden(made.files[1])
    np.testing.assert_array_equal(golden.input, mixed_job.pictures[:2].astype(np.float32))


@pytest.mark.slow
def test_layer_that_the_compiler_lacks_is_named(tiny_card, tiny_pictures, tmp_path):
    python_of("myriad")
    image = keras.Input(tiny_card.input.shape, name="image")
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="fine")(image)
    network = keras.Model(image, {"heatmaps": Arc(name="exotic")(x)})
    job = Job(network, tiny_card, tiny_pictures[:3])
    with pytest.raises(UnsupportedLayerError, match=r"layer 'exotic'.*write the layer with"):
        export_myriad(job, tmp_path / "x.blob")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_onnx_files_are_compiled_too(tiny_job, tmp_path):
    python_of("myriad")
    path = tmp_path / "tiny.onnx"
    onnx.save(to_onnx(tiny_job.network, tiny_job.card.input), path)
    command = [sys.executable, str(CONVERTERS / "to_myriad.py"), str(path), "-o", str(tmp_path / "tiny.blob")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hardware stages" in done.stdout
