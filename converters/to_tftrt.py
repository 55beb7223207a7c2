"""Convert a SavedModel by TF-TRT on the device and compare the result with the network's own outputs.

    python3 to_tftrt.py                               # fp16, of the folder that holds this script
    python3 to_tftrt.py FOLDER --precision int8       # calibrated on the folder's pictures
    python3 to_tftrt.py FOLDER --check                # compare the SavedModel alone, on any TensorFlow 2

Run it in the folder that `posezoo export MODEL --to tftrt -o FOLDER` wrote, on a machine with an NVIDIA GPU and a
TensorFlow that was built with TensorRT: JetPack's, or 2.17 and older from PyPI with NVIDIA's libraries. It builds the
engines, saves them with the model, loads that again, and keeps it only if every output agrees with the golden ones.
It ends with 1 where one does not, with 2 where something is missing.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from golden import Golden, told

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

#: Whose limits of the golden file hold.
LIMITS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
SIGNATURE = "serving_default"


class Problem(Exception):
    """What the user must change, in one line."""


def import_tensorflow():
    """Return the module `tensorflow`."""
    try:
        import tensorflow
    except ImportError as error:
        raise Problem(
            f"TensorFlow is missing ({error}); on a Jetson install NVIDIA's own package for its JetPack"
        ) from None
    return tensorflow


def import_converter(tf):
    """Return the class that converts.

    TensorRT's version is not asked for: without its libraries that question ends the process.
    """
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    way_out = "or build an engine from ONNX instead: posezoo export MODEL --to tensorrt, then to_tensorrt.py"
    if version > (2, 17):
        raise Problem(f"TensorFlow {tf.__version__} has no TF-TRT any more; use 2.17 or older, {way_out}")
    built = getattr(tf.sysconfig, "get_build_info", dict)().get("is_tensorrt_build", True)
    try:
        from tensorflow.compiler.tf2tensorrt._pywrap_py_utils import is_tensorrt_enabled
        from tensorflow.python.compiler.tensorrt import trt_convert
    except ImportError:
        built = False
    if not built or not is_tensorrt_enabled():
        raise Problem(
            f"this TensorFlow {tf.__version__} cannot use TensorRT (not built with it, or libnvinfer is not found); "
            f"use JetPack's TensorFlow, {way_out}"
        )
    return trt_convert


def make_converter(module, model, precision):
    """Return a converter; older versions take their settings as one tuple."""
    settings = {"precision_mode": precision.upper(), "use_calibration": precision == "int8"}
    try:
        return module.TrtGraphConverterV2(input_saved_model_dir=str(model), **settings)
    except TypeError:
        parameters = module.DEFAULT_TRT_CONVERSION_PARAMS._replace(**settings)
        return module.TrtGraphConverterV2(input_saved_model_dir=str(model), conversion_params=parameters)


def calibration_inputs(tf, folder, golden):
    """A function that yields calibration inputs, scaled as the network takes them."""
    path = folder / "calibration.npz"
    if not path.exists():
        raise Problem(f"{path} is missing; int8 needs it: export with --calibration or --data")
    with np.load(str(path)) as held:
        pictures = held["pictures"]
    mean, std = (np.array(golden.meta["input"][key], np.float32) for key in ("mean", "std"))

    def inputs():
        for picture in pictures:
            yield (tf.constant((picture[None].astype(np.float32) - mean) / std),)

    return inputs


def load(tf, path):
    """A SavedModel as a function of one input (1, height, width, channels) to name -> output."""
    model = tf.saved_model.load(str(path))
    run = model.signatures[SIGNATURE]
    ((name, _),) = run.structured_input_signature[1].items()

    def call(image):
        return {key: value.numpy() for key, value in run(**{name: tf.constant(image)}).items()}

    call.model = model  # the function needs its resources
    return call


def compare(run, golden, limits):
    """Run the golden inputs; return the rows of the comparison."""
    each = [run(image) for image in golden.inputs_for((1,) + golden.input.shape[1:])]
    return golden.compare({name: np.concatenate([o[name] for o in each]) for name in each[0]}, limits)


def engines(tf, path):
    """How many engines a converted SavedModel holds, and how many operations stayed with TensorFlow."""
    graph = tf.saved_model.load(str(path)).signatures[SIGNATURE].graph.as_graph_def()
    kinds = [node.op for node in graph.node] + [n.op for f in graph.library.function for n in f.node_def]
    silent = {"Const", "Identity", "Placeholder", "NoOp", "StatefulPartitionedCall", "PartitionedCall"}
    inside = sum(kind == "TRTEngineOp" for kind in kinds)
    # Every engine brings the operations that it stands for, to fall back on, as a function of the library.
    fallback = {f.signature.name for f in graph.library.function if "TRTEngineOp" in f.signature.name}
    rest = [n.op for f in graph.library.function if f.signature.name not in fallback for n in f.node_def]
    left = [kind for kind in [node.op for node in graph.node] + rest if kind not in silent | {"TRTEngineOp"}]
    return inside, len(left)


def convert(folder, precision, out, runs, tf, module):
    """Convert, build, save, read back, compare, and only then keep the result.

    Returns:
        Whether every output agreed.
    """
    golden = Golden(str(folder / "model.golden.npz"))
    converter = make_converter(module, folder / "model", precision)
    if precision == "int8":
        converter.convert(calibration_input_fn=calibration_inputs(tf, folder, golden))
    else:
        converter.convert()

    def inputs():
        yield (tf.constant(next(golden.inputs_for((1,) + golden.input.shape[1:]))),)

    converter.build(input_fn=inputs)
    part = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        converter.save(str(part))
        count, left = engines(tf, part)
        if not count:
            print("not written: no engine was made; TensorFlow would run everything itself", file=sys.stderr)
            return False
        run = load(tf, part)
        rows = compare(run, golden, LIMITS[precision])
        print(f"{precision}, TensorFlow {tf.__version__}: {count} engine(s), {left} operation(s) left to TensorFlow")
        print(told(rows))
        if any(row["wrong"] for row in rows):
            print("not written: the result does not agree with the network", file=sys.stderr)
            return False
        print(f"one picture: {latency_ms(run, golden, runs):.2f} ms (median of {runs} runs, copies included)")
        if out.exists():
            shutil.rmtree(str(out))
        part.replace(out)
    except OSError as error:
        raise Problem(f"{out} cannot be written ({error})") from error
    finally:
        shutil.rmtree(str(part), ignore_errors=True)
    print(f"written: {out}")
    return True


def latency_ms(run, golden, runs):
    """Median time of one picture."""
    image = next(golden.inputs_for((1,) + golden.input.shape[1:]))
    times = []
    for _ in range(runs + 10):
        begin = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times[10:])[runs // 2]


def main(argv=None):
    """Read the command line, convert or check, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--precision", choices=sorted(LIMITS), default="fp16", help="(default: %(default)s)")
    parser.add_argument(
        "-o", "--out", type=Path, help="the SavedModel to write (default: model_PRECISION in the folder)"
    )
    parser.add_argument("--runs", type=int, default=100, help="timed runs (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare the SavedModel as it is, convert nothing")
    arguments = parser.parse_args(argv)
    folder = arguments.folder
    try:
        for name in ("model", "model.golden.npz"):
            if not (folder / name).exists():
                raise Problem(
                    f"{folder / name} is missing; write the folder with: posezoo export MODEL --to tftrt -o FOLDER"
                )
        tf = import_tensorflow()
        if arguments.check:
            rows = compare(load(tf, folder / "model"), Golden(str(folder / "model.golden.npz")), "float32")
            print(f"SavedModel, TensorFlow {tf.__version__}")
            print(told(rows))
            return 1 if any(row["wrong"] for row in rows) else 0
        out = arguments.out or folder / f"model_{arguments.precision}"
        agreed = convert(folder, arguments.precision, out, arguments.runs, tf, import_converter(tf))
    except (Problem, ValueError) as error:
        print(f"to_tftrt: {error}", file=sys.stderr)
        return 2
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
