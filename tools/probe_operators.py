"""Find out which operators, in which versions, another TFLite runtime registers.

    python tools/probe_operators.py PYTHON

PYTHON is an interpreter with NumPy and `tflite-runtime` or TensorFlow. Every kind and version of the schema is put into
a file of one operator and loaded there; what loads is printed as Python, as `posezoo/export/tf25_operators.py` has it.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from posezoo.export.flatbuffer import packed, schema
from posezoo.export.foreign import converter

#: Versions up to this are tried.
NEWEST = 12
#: Runs in the other Python: prints the files that load.
LOADER = """
import glob, os, sys
sys.path.insert(0, sys.argv[2])
from run_tflite import interpreter_class
interpreter = interpreter_class()[0]
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.tflite"))):
    try:
        interpreter(model_path=path)
    except Exception:
        continue
    print("LOADS " + os.path.basename(path)[:-7])
"""


def one_operator(code: int, version: int) -> bytes:
    """A file whose only content is an operator code; runtimes look it up when they load the file."""
    s = schema()
    model, graph, operator = s.ModelT(), s.SubGraphT(), s.OperatorCodeT()
    operator.builtinCode, operator.deprecatedBuiltinCode, operator.version = code, min(code, 127), version
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [operator], [graph], [s.BufferT()]
    return packed(model)


def registered(python: Path) -> dict[str, int]:
    """Return kind of operator -> newest version that loads."""
    kinds = {k: v for k, v in vars(schema().BuiltinOperator).items() if isinstance(v, int)}
    with tempfile.TemporaryDirectory() as folder:
        for kind, code in kinds.items():
            for version in range(1, NEWEST + 1):
                (Path(folder) / f"{kind}-{version}.tflite").write_bytes(one_operator(code, version))
        command = [str(python), "-c", LOADER, folder, str(converter("run_tflite.py").parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = {}
    for line in done.stdout.splitlines():
        if line.startswith("LOADS "):
            kind, version = line.split()[1].rsplit("-", 1)
            found[kind] = max(found.get(kind, 0), int(version))
    return dict(sorted(found.items()))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path)
    print(registered(parser.parse_args(argv).python))


if __name__ == "__main__":
    main()
