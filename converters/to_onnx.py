"""A network as an ONNX file that was run beside it.

    python to_onnx.py mobilenet_split_224 --calibration photos/ -o pose.onnx
    python to_onnx.py mine.keras --card mine.yaml --calibration photos/ -o mine.onnx

The same as 'posezoo export --to onnx'; --to onnx_opset17 or onnx_int8 for the other kinds.
Needs posezoo itself: pip install 'posezoo[export]'.
"""

import sys

from posezoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", "--to", "onnx", *sys.argv[1:]]))
