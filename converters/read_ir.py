"""Read an OpenVINO IR on the processor and compare it with golden outputs: the gate of old readers.

    python read_ir.py model.xml model.golden.npz --precision float16

Run it with the Python of an environment that holds any OpenVINO from 2021.3 on (`environments.py` makes two). It prints
one JSON object and ends with 0 where every output agrees, with 1 where one does not, with 2 where the file is refused.
"""

import argparse
import json
import sys

import numpy as np
from golden import Golden, told


def reader_2021(path):
    """Open a file with the Inference Engine of 2021: its version, the input's shape, and a function that runs it."""
    from openvino.inference_engine import IECore, get_version

    engine = IECore()
    network = engine.read_network(path, path[: -len(".xml")] + ".bin")
    ((name, info),) = network.input_info.items()
    loaded = engine.load_network(network, "CPU", {"ENFORCE_BF16": "NO"})
    return get_version(), info.input_data.shape, lambda image: loaded.infer({name: image})


def reader_2022(runtime, path):
    """The same with the runtime of 2022 and later."""
    core = runtime.Core()
    model = core.read_model(path)
    loaded = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(image):
        values = loaded.create_infer_request().infer({0: image})
        return {port.get_any_name(): value for port, value in values.items()}

    return runtime.get_version(), [int(side) for side in model.input(0).shape], run


def compare(path, golden, precision):
    """Run a file on the golden inputs; return the reader's version and the rows of the comparison."""
    import openvino

    if hasattr(openvino, "Core"):  # 2023 and later
        version, shape, run = reader_2022(openvino, path)
    else:
        try:
            import openvino.runtime as runtime
        except ImportError:
            version, shape, run = reader_2021(path)
        else:
            version, shape, run = reader_2022(runtime, path)
    each = [run(image) for image in golden.inputs_for(shape)]
    got = {name: np.concatenate([values[name] for values in each]) for name in each[0]}
    return version, golden.compare(got, precision, channels_first=golden.channels_first(shape))


def main():
    """Compare, print, end with the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .xml")
    parser.add_argument("golden", help="the .golden.npz that came with it")
    parser.add_argument("--precision", default="float16", help="whose limits hold (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        version, rows = compare(arguments.model, Golden(arguments.golden), arguments.precision)
    except (RuntimeError, ValueError) as error:
        print(json.dumps({"refused": str(error)}))
        sys.exit(2)
    print(json.dumps({"openvino": version, "rows": rows}))
    print(told(rows), file=sys.stderr)
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


if __name__ == "__main__":
    main()
