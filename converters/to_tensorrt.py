"""Build TensorRT engines on the device and compare them with the network's own outputs.

    python3 to_tensorrt.py                            # fp16 engine of model.onnx beside this script
    python3 to_tensorrt.py FOLDER --precision int8    # from model_int8.onnx

Run it on the Jetson, in the folder that `posezoo export MODEL --to tensorrt -o FOLDER` wrote. It needs JetPack's own
TensorRT (8.2 of JetPack 4.6 or later) and NumPy, nothing else. An engine whose outputs differ from the golden ones by
more than its precision may is not kept: it ends with 1 and says which output, by how much. It ends with 2 where
something is missing. Engines fit the device and the TensorRT version that built them, and no other.
"""

import argparse
import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np
from golden import Golden, told

PRECISIONS = ("fp32", "fp16", "int8")
#: Whose limits of the golden file hold.
LIMITS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


class Problem(Exception):
    """What the user must change, in one line."""


class Cuda:
    """The four calls of CUDA's runtime that are needed, without a package for it."""

    def __init__(self):
        for name in ("libcudart.so", "libcudart.so.10.2", "libcudart.so.11.0", "libcudart.so.12", "libcudart.so.13"):
            try:
                self._library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise Problem("CUDA's runtime (libcudart.so) is not found; add its folder to LD_LIBRARY_PATH")

    def _call(self, name, *arguments):
        code = getattr(self._library, name)(*arguments)
        if code:
            raise Problem(f"{name} failed with CUDA error {code}")

    def allocate(self, size):
        """Return the address of device memory."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def to_device(self, address, array):
        """Copy an array there."""
        self._call("cudaMemcpy", ctypes.c_void_p(address), array.ctypes.data_as(ctypes.c_void_p),
                   ctypes.c_size_t(array.nbytes), 1)  # fmt: skip

    def from_device(self, array, address):
        """Copy into an array."""
        self._call("cudaMemcpy", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(address),
                   ctypes.c_size_t(array.nbytes), 2)  # fmt: skip

    def wait(self):
        """Wait until the device has done everything."""
        self._call("cudaDeviceSynchronize")


def import_tensorrt():
    """Return the module `tensorrt`."""
    try:
        import tensorrt
    except ImportError as error:
        raise Problem(
            f"TensorRT's Python package is missing ({error}); JetPack brings it (sudo apt-get install "
            "python3-libnvinfer), for the system's own python3"
        ) from error
    major, minor = (int(part) for part in tensorrt.__version__.split(".")[:2])
    if (major, minor) < (8, 2):
        raise Problem(f"TensorRT {tensorrt.__version__} is too old; 8.2 (JetPack 4.6) or later is needed")
    return tensorrt


def build(trt, onnx, precision, workspace_mib):
    """Parse an ONNX file and build an engine.

    Returns:
        The serialised engine, bytes-like.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Networks have an explicit batch dimension; from TensorRT 10 on there is no other kind.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise Problem(f"TensorRT cannot read {onnx.name}: {errors}")
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    else:
        config.max_workspace_size = workspace_mib << 20
    for name in {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[precision]:
        # The newest TensorRT has no such flags: there the types of the ONNX file alone decide.
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))
        elif name == "FP16" and precision == "fp16":
            raise Problem(
                f"TensorRT {trt.__version__} builds float16 engines from float16 files alone; use --precision int8 "
                "or fp32, or JetPack 4.6 to 6"
            )
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Problem("TensorRT built no engine; the lines above say why")
    return engine


class Engine:
    """An engine on the device, batch 1."""

    def __init__(self, trt, content, cuda):
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise Problem("TensorRT cannot read the engine; it was built by another version or for another device")
        self._context, self._cuda = self._engine.create_execution_context(), cuda
        self.borders = dict(self._tensors(trt))
        self._addresses = {name: cuda.allocate(int(np.prod(shape)) * 4) for name, (shape, _) in self.borders.items()}

    def _tensors(self, trt):
        """Name, shape, whether it goes in; in the engine's order, from whichever interface this version has."""
        engine = self._engine
        if hasattr(engine, "num_io_tensors"):
            for i in range(engine.num_io_tensors):
                name = engine.get_tensor_name(i)
                going_in = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
                yield name, (tuple(engine.get_tensor_shape(name)), going_in)
        else:
            for i in range(engine.num_bindings):
                name = engine.get_binding_name(i)
                yield name, (tuple(engine.get_binding_shape(i)), engine.binding_is_input(i))

    @property
    def input_shape(self):
        """Shape of the only input."""
        return next(shape for shape, going_in in self.borders.values() if going_in)

    def execute(self):
        """Run what lies on the device."""
        if hasattr(self._context, "execute_v2"):
            done = self._context.execute_v2([self._addresses[name] for name in self.borders])
        else:
            for name, address in self._addresses.items():
                self._context.set_tensor_address(name, address)
            done = self._context.execute_async_v3(0)
        self._cuda.wait()
        if not done:
            raise Problem("the engine did not run; the lines above say why")

    def __call__(self, image):
        """Run one input (1, ...); return name -> output (1, ...)."""
        source = next(name for name, (_, going_in) in self.borders.items() if going_in)
        self._cuda.to_device(self._addresses[source], np.ascontiguousarray(image, np.float32))
        self.execute()
        outputs = {}
        for name, (shape, going_in) in self.borders.items():
            if not going_in:
                outputs[name] = np.empty(shape, np.float32)
                self._cuda.from_device(outputs[name], self._addresses[name])
        return outputs


def compare(engine, golden, precision):
    """Run the golden inputs; return the rows of the comparison."""
    each = [engine(image) for image in golden.inputs_for(engine.input_shape)]
    got = {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}
    first = golden.channels_first(engine.input_shape)
    return golden.compare(got, LIMITS[precision], channels_first=first)


def latency_ms(engine, runs):
    """Median time of the network alone, data on the device."""
    times = []
    for _ in range(runs + 10):
        begin = time.perf_counter()
        engine.execute()
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times[10:])[runs // 2]


def why_missing(folder, name):
    """What to do about a file that the folder lacks."""
    report = folder / "report.json"
    left_out = json.loads(report.read_text()).get("left out", {}) if report.exists() else {}
    if name in left_out:
        return f"the export left it out ({left_out[name]}); take --precision fp16"
    return "write the folder with: posezoo export MODEL --to tensorrt -o FOLDER"


def convert(folder, precision, out, workspace_mib, runs, trt=None, cuda=None):
    """Build, compare, and only then keep an engine.

    Returns:
        Whether every output agreed.
    """
    onnx = folder / ("model_int8.onnx" if precision == "int8" else "model.onnx")
    for path in (onnx, folder / "model.golden.npz"):
        if not path.exists():
            raise Problem(f"{path} is missing; {why_missing(folder, path.name)}")
    golden = Golden(str(folder / "model.golden.npz"))
    trt = trt or import_tensorrt()
    content = build(trt, onnx, precision, workspace_mib)
    engine = Engine(trt, content, cuda or Cuda())
    rows = compare(engine, golden, precision)
    print(f"{precision} engine, TensorRT {trt.__version__}, {len(golden.input)} golden inputs")
    print(told(rows))
    if any(row["wrong"] for row in rows):
        print("not written: the engine does not agree with the network", file=sys.stderr)
        return False
    print(f"network alone: {latency_ms(engine, runs):.2f} ms (median of {runs} runs)")
    part = out.with_name(out.name + ".part")
    try:
        part.write_bytes(bytes(content))
        part.replace(out)
    except OSError as error:
        if part.exists():
            part.unlink()
        raise Problem(f"{out} cannot be written ({error.strerror})") from error
    print(f"written: {out}")
    return True


def main(argv=None):
    """Read the command line, convert, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="(default: %(default)s)")
    parser.add_argument(
        "-o", "--out", type=Path, help="the engine to write (default: model_PRECISION.engine in the folder)"
    )
    parser.add_argument("--workspace", type=int, default=512, help="MiB for the builder (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="timed runs (default: %(default)s)")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.folder / f"model_{arguments.precision}.engine"
    try:
        agreed = convert(arguments.folder, arguments.precision, out, arguments.workspace, arguments.runs)
    except (Problem, ValueError) as error:
        print(f"to_tensorrt: {error}", file=sys.stderr)
        return 2
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
