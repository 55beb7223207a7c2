"""List the operations that TF-TRT has converters for, as `posezoo/export/tftrt_operators.json`.

    $(python converters/environments.py tftrt) tools/make_tftrt_operators.py

Runs in an environment of its own: later TensorFlow has no TF-TRT. NVIDIA's libraries are not needed for the list.
"""

import json
from pathlib import Path

import tensorflow as tf

OUT = Path(__file__).parents[1] / "posezoo" / "export" / "tftrt_operators.json"


def main() -> None:
    """Ask TensorFlow, write the file."""
    from tensorflow.compiler.tf2tensorrt._pywrap_py_utils import get_registered_op_converters

    source = f"tensorflow {tf.__version__} from PyPI: get_registered_op_converters() of its TF-TRT, written by "
    content = {
        "source": source + f"tools/{Path(__file__).name}",
        "tensorflow": tf.__version__,
        "operators": sorted(get_registered_op_converters()),
    }
    OUT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{len(content['operators'])} operators: {OUT}")


if __name__ == "__main__":
    main()
