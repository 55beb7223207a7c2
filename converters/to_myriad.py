"""Compile a network for Myriad X (NCS2, OAK) without a device: a .blob, and what of it runs in hardware.

    python to_myriad.py model_v10.xml -o model.blob --input U8
    python to_myriad.py model.onnx -o model.blob --golden model.golden.npz

The compiler is that of OpenVINO 2021.3, the last one that PyPI has; it runs in an environment of its own (Python 3.8,
180 MB), which is made on the first run. The model is an IR of version 10, as `posezoo export MODEL --to openvino_v10`
writes it, or an ONNX file of opset 11. With golden outputs the same OpenVINO runs the model on the processor first.
A layer that the compiler does not take ends it with 1 and the compiler's message; a missing tool or a full disk with 2.
"""

import argparse
import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import environments

ENVIRONMENT = "myriad"
#: Stage types that move or rename data and compute nothing.
IDLE = {"StubConcat", "StubReshape", "Split", "Reshape", "Empty"}
HARDWARE = "MyriadXHwOp"


class Refused(Exception):
    """The compiler does not take the model, or its numbers are wrong."""


def libraries():
    """The folder of OpenVINO's libraries in the environment."""
    (folder,) = environments.place(ENVIRONMENT).glob("lib/python*/site-packages/openvino/libs")
    return folder


def run(command, cwd=None):
    """Run a program of the environment; return its exit code and what it said."""
    variables = environments.variables(ENVIRONMENT)
    variables["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(libraries()), variables.get("LD_LIBRARY_PATH")]))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, cwd=cwd
    )  # fmt: skip
    return done.returncode, done.stdout


def last_words(text):
    """The lines that say what went wrong."""
    lines = [re.sub(r"^\S*/\S+\.cpp:\d+ ", "", line.strip()) for line in text.splitlines() if line.strip()]
    return " ".join([line for line in lines if "rror" in line or "nsupported" in line][-3:] or lines[-3:])


def to_ir(onnx, folder):
    """Convert an ONNX file to an IR by OpenVINO 2021.3 itself; return the .xml."""
    xml = folder / (onnx.stem + ".xml")
    code = (
        "import sys; from openvino.inference_engine import IECore; "
        "IECore().read_network(sys.argv[1]).serialize(sys.argv[2], sys.argv[3])"
    )
    failed, said = run(
        [str(environments.python_of(ENVIRONMENT)), "-c", code, str(onnx), str(xml), str(xml.with_suffix(".bin"))]
    )
    if failed:
        raise Refused(f"OpenVINO 2021.3 cannot read {onnx.name}: {last_words(said)}")
    return xml


def numerics(xml, golden, precision):
    """Let OpenVINO 2021.3 run the model on the processor; return its version and the rows of the comparison."""
    script = Path(__file__).with_name("read_ir.py")
    failed, said = run(
        [str(environments.python_of(ENVIRONMENT)), str(script), str(xml), str(golden), "--precision", precision]
    )
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise Refused(f"OpenVINO 2021.3 did not run the model: {last_words(said)}")
    answer = json.loads(lines[-1])
    if "refused" in answer:
        raise Refused(f"OpenVINO 2021.3 refuses the model: {answer['refused']}")
    wrong = [f"output '{row['output']}' {row['wrong']}" for row in answer["rows"] if row["wrong"]]
    if wrong or failed:
        raise Refused(f"OpenVINO 2021.3 on the processor: {'; '.join(wrong) or last_words(said)}")
    return answer


def compile_blob(xml, blob, folder, kind, shaves):
    """Compile; return the text of the graph of stages.

    Raises:
        Refused: The compiler's own message.
        OSError: The disk is full; the compiler does not tell, and leaves what it could write.
    """
    compiler = libraries() / "myriad_compile"
    compiler.chmod(0o755)  # the wheel forgets it
    (folder / "config").write_text("MYRIAD_DUMP_INTERNAL_GRAPH_FILE_NAME stages.dot\n")
    command = [str(compiler), "-m", str(xml), "-o", str(blob), "-c", "config", "-ip", kind, "-op", "FP16"]
    command += ["-VPU_NUMBER_OF_SHAVES", str(shaves), "-VPU_NUMBER_OF_CMX_SLICES", str(shaves)]
    failed, said = run(command, cwd=str(folder))
    check_room(folder)
    if failed or not blob.exists():
        raise Refused(f"myriad_compile does not take {xml.name}: {last_words(said)}")
    return (folder / "stages.dot").read_text(errors="replace")


def check_room(folder):
    """Raise an OSError if the disk is full."""
    try:
        (folder / "probe").write_bytes(bytes(64 * 1024))
    finally:
        with contextlib.suppress(OSError):
            (folder / "probe").unlink()


def stages(graph):
    """Count the stages of a compiled graph.

    Args:
        graph: The compiler's dump.

    Returns:
        `hardware`: blocks of the convolution hardware; `programs`: stages that the vector processors run, by kind;
        `hardware_share`: the hardware's share of both; `idle`: stages that only rename or join data.
    """
    found = re.findall(r'label="(?:\[[^\]]*\] )?Stage .*?\\ltype = (\w+)\\l', graph)
    if not found:
        raise Refused("the compiler's dump holds no stage; its form has changed")
    programs = {}
    for kind in found:
        if kind != HARDWARE and kind not in IDLE:
            programs[kind] = programs.get(kind, 0) + 1
    hardware, rest = found.count(HARDWARE), sum(programs.values())
    return {
        "hardware": hardware, "programs": dict(sorted(programs.items(), key=lambda item: -item[1])),
        "hardware_share": round(hardware / max(hardware + rest, 1), 4),
        "idle": sum(kind in IDLE for kind in found),
    }  # fmt: skip


def convert(model, out, kind, shaves, golden=None, precision="float16", say=print):
    """Compile one model.

    Returns:
        What is known of the blob, for JSON.

    Raises:
        Refused: The compiler or the comparison says no; nothing is written.
        environments.EnvironmentMissing: The environment cannot be made.
    """
    environments.make(ENVIRONMENT, say=say)
    answer = None
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        xml = model if model.suffix == ".xml" else to_ir(model, folder)
        if golden:
            answer = numerics(xml.resolve(), golden.resolve(), precision)
        blob = folder / "model.blob"
        begin = time.perf_counter()
        counted = stages(compile_blob(xml.resolve(), blob, folder, kind, shaves))
        seconds = time.perf_counter() - begin
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{os.getpid()}.{out.name}")
        try:
            shutil.copyfile(str(blob), str(part))
            part.replace(out)
        finally:
            if part.exists():
                part.unlink()
    return {
        "blob": out.name, "bytes": out.stat().st_size, "compiler": "OpenVINO 2021.3 myriad_compile", "input": kind,
        "shaves": shaves, "seconds": round(seconds, 1), "stages": counted, "numerics": answer,
    }  # fmt: skip


def main(argv=None):
    """Read the command line, compile, print, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an IR of version 10 (.xml) or an ONNX file of opset 11")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .blob to write")
    parser.add_argument("--input", choices=("U8", "FP16"), default="FP16", help="its input (default: %(default)s)")
    parser.add_argument("--shaves", type=int, default=8, help="processors and memory slices (default: %(default)s)")
    parser.add_argument("--golden", type=Path, help="compare on the processor with these outputs first")
    parser.add_argument("--precision", default="float16", help="whose limits hold (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.model.is_file():
            raise environments.EnvironmentMissing(f"{arguments.model} is no file")
        told = convert(
            arguments.model, arguments.out, arguments.input, arguments.shaves, arguments.golden, arguments.precision,
            say=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
    except Refused as error:
        print(json.dumps({"refused": str(error)}) if arguments.json else f"to_myriad: nothing written: {error}")
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if arguments.json:
            print(json.dumps({"full": error.strerror} if full else {"missing": str(error)}))
        else:
            print(f"to_myriad: nothing written: {error}")
        return 2
    except environments.EnvironmentMissing as error:
        print(json.dumps({"missing": str(error)}) if arguments.json else f"to_myriad: {error}")
        return 2
    if arguments.json:
        print(json.dumps(told))
        return 0
    counted = told["stages"]
    print(f"written: {arguments.out} ({told['bytes'] / 1e6:.2f} MB, {told['seconds']} s, {told['shaves']} SHAVEs)")
    print(f"hardware stages {counted['hardware']}, {100 * counted['hardware_share']:.0f} % of all stages that work")
    print("on SHAVEs: " + (", ".join(f"{kind} {n}" for kind, n in counted["programs"].items()) or "nothing"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
