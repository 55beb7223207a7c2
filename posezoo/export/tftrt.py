"""A folder for TF-TRT: SavedModel, calibration pictures, golden outputs, and the script that converts on the device.

TF-TRT left TensorFlow after 2.17, so the conversion runs where that is. What it will take is known here from the list
of its converters.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.export.foreign import converter
from posezoo.export.frozen import Frozen
from posezoo.export.golden import write_golden
from posezoo.export.job import FLOAT32, Job, Made, agree, sidecar
from posezoo.export.saved_model import SavedModelRunner, save
from posezoo.files import replacing_folder, write_json

#: Calibration pictures in the folder, at most.
PICTURES = 64
DENSE = "--no-groups (posezoo.export.rewrite.without_groups in Python) makes it dense"


@cache
def operator_list() -> dict[str, Any]:
    """The operations that have a converter, with the list's source."""
    return json.loads(Path(__file__).with_name("tftrt_operators.json").read_text())


def coverage(frozen: Frozen) -> dict[str, Any]:
    """Count what TF-TRT has converters for in a frozen graph.

    Returns:
        `operations` and `converted`: how many nodes, and how many of them have a converter; `left`: what TensorFlow
        itself must run, by layer, with the reason; `list`: where that is known from. A grouped convolution counts as
        left: the converter takes its groups for one [judged from its source, not tried on a device].
    """
    known, groups = set(operator_list()["operators"]), frozen.grouped()
    left, total = [], 0
    for kind, nodes in frozen.operators().items():
        for node in nodes:
            total += 1
            why = "" if kind in known else "has no converter"
            if node in groups:
                why = f"is grouped ({groups[node]}); {DENSE}"
            if why:
                left.append({"layer": frozen.layer_of(node), "operator": kind, "why": why})
    return {"operations": total, "converted": total - len(left), "left": left, "list": operator_list()["source"]}


def export_tftrt(job: Job, out: Path) -> Made:
    """Write the folder, after the SavedModel was read back and agreed.

    Raises:
        GateError: It does not agree with the network; nothing is written.
    """
    report = coverage(job.frozen_for_tensorflow)
    with replacing_folder(out, ours="report.json") as folder:
        save(job.frozen_for_tensorflow, job.card.input, folder / "model")
        agreement = agree(job, SavedModelRunner(folder / "model", job.card.input), FLOAT32, kernels="tensorflow")
        write_golden(job, folder / "model.golden.npz")
        if len(job.calibration):
            rows = np.linspace(0, len(job.calibration) - 1, min(PICTURES, len(job.calibration))).round().astype(int)
            np.savez_compressed(folder / "calibration.npz", pictures=np.stack([job.calibration[i] for i in rows]))
        for script in ("to_tftrt.py", "golden.py"):
            shutil.copyfile(converter(script), folder / script)
        command = "python3 to_tftrt.py --precision fp16"
        inside = Made(tuple(sorted(folder.iterdir())), (agreement,), {"coverage": report, "on the device": command})
        write_json(folder / "report.json", sidecar(job, inside, target="tftrt", packages=("tensorflow", "keras")))
    left = ", ".join(f"'{row['layer']}' ({row['operator']} {row['why']})" for row in report["left"][:5])
    notes = (
        f"{report['converted']} of {report['operations']} operations have a converter in TF-TRT "
        f"{operator_list()['tensorflow']}{'; left to TensorFlow: ' + left if left else ''}",
        f"on the device, in this folder: {command}",
    )
    return Made((out,), (agreement,), {"coverage": report}, notes)
