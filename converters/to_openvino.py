"""A network as an OpenVINO file that was run beside it.

    python to_openvino.py mobilenet_split_224 --calibration photos/ -o pose.xml
    python to_openvino.py mine.keras --card mine.yaml --calibration photos/ -o mine.xml

The same as 'posezoo export --to openvino'; --to openvino_v10 or openvino_int8 for the other kinds.
Needs posezoo itself: pip install 'posezoo[export]'.
"""

import sys

from posezoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", "--to", "openvino", *sys.argv[1:]]))
