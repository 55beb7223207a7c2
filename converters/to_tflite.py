"""A network as a TFLite file that was run beside it.

    python to_tflite.py mobilenet_split_224 --calibration photos/ -o pose.tflite
    python to_tflite.py mine.keras --card mine.yaml --calibration photos/ -o mine.tflite

The same as 'posezoo export --to tflite'; --to tflite_float32 for the other kinds.
Needs posezoo itself: pip install 'posezoo[export]'.
"""

import sys

from posezoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", "--to", "tflite", *sys.argv[1:]]))
