"""Golden outputs beside a file: what the network gives for a few inputs, for comparison on the device.

`converters/golden.py` reads them with nothing but NumPy.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.export.job import Job, Limits, facts
from posezoo.files import replacing
from posezoo.inference.runners import normalise

if TYPE_CHECKING:
    from posezoo.cards.card import InputSpec

#: Float32 on a device: its convolutions add in another order and often with a shortened mantissa (TF32).
FLOAT32_ON_DEVICE = Limits(60.0, 5e-3)
#: Pictures in a file.
PICTURES = 2


def golden_path(main: Path) -> Path:
    """Name of the golden outputs that belong to a file: `pose.onnx` -> `pose.onnx.golden.npz`."""
    return main.with_name(f"{main.name}.golden.npz")


def write_golden(job: Job, out: Path, *, takes: InputSpec | None = None) -> Path:
    """Write scaled inputs, the network's outputs and the limits of each precision.

    Args:
        job: The network and its pictures.
        out: The file.
        takes: How the file that it goes with has its inputs scaled; as the network by default.

    Returns:
        `out`.
    """
    limits = {"float32": FLOAT32_ON_DEVICE, "float16": job.float16, "int8": job.int8}
    meta = {**facts(job.card), "limits": {name: dataclasses.asdict(limit) for name, limit in limits.items()}}
    arrays: dict[str, Any] = {f"output.{name}": value[:PICTURES] for name, value in job.reference.items()}
    arrays["input"] = normalise(job.pictures[:PICTURES], takes or job.card.input)
    arrays["meta"] = np.array(json.dumps(meta))
    with replacing(out) as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return out
