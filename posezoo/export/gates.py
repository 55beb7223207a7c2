"""The gates: an exported file must agree with its network, output by output, on every kernel set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from posezoo.errors import UserError

Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


class GateError(UserError, RuntimeError):
    """An exported file that does not agree with its network."""


class PrecisionError(GateError):
    """A file whose outputs are too far from its network's, and not nearly constant: rounding may be the cause."""


@dataclass(frozen=True)
class OutputReport:
    """How one output of an exported file compares.

    Attributes:
        output: Name of the output.
        kernels: Kernel set that ran it.
        psnr_db: Peak signal-to-noise ratio; the peak is the reference's range.
        max_error: Largest difference, as a share of the reference's range.
        mean_error: Mean difference, as a share of the range.
        levels: Number of different values; a quantised output with few is nearly constant.
    """

    output: str
    kernels: str
    psnr_db: float
    max_error: float
    mean_error: float
    levels: int


def compare(
    reference: dict[str, np.ndarray],
    got: dict[str, np.ndarray],
    *,
    kernels: str,
    where: Mapping[str, np.ndarray] | None = None,
) -> list[OutputReport]:
    """Compare outputs by name.

    Args:
        reference: The network's.
        got: The file's.
        kernels: Kernel set or runtime that ran it.
        where: Name of an output -> bool mask of the values that count; of the others all do.

    Raises:
        GateError: The outputs have other names or shapes, or hold NaN.
    """
    if set(reference) != set(got):
        raise GateError(f"the network has outputs {sorted(reference)}, the file {sorted(got)}")
    rows = []
    for name, expected in reference.items():
        value = np.asarray(got[name], np.float64)
        if value.shape != expected.shape:
            raise GateError(f"output '{name}' is {value.shape}, expected {expected.shape}")
        if not np.isfinite(value).all():
            raise GateError(f"output '{name}' holds NaN or infinity on {kernels} kernels")
        levels = int(np.unique(value).size)
        if where and name in where:
            value, expected = value[where[name]], expected[where[name]]
        difference = np.abs(value - expected)
        span = float(np.ptp(expected)) or 1.0
        error = float(np.sqrt((difference**2).mean())) / span
        rows.append(
            OutputReport(
                name, kernels, float(-20 * np.log10(max(error, 1e-9))), float(difference.max() / span),
                float(difference.mean() / span), levels,
            )
        )  # fmt: skip
    return rows


def check(
    rows: list[OutputReport],
    *,
    min_psnr_db: float,
    max_error: float | None = None,
    min_levels: int = 32,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Refuse a file whose outputs differ too much or are nearly constant.

    Args:
        rows: Outputs' comparison.
        min_psnr_db: Least PSNR of each.
        max_error: Largest difference as a share of the range, if limited.
        min_levels: Least number of different values.
        sizes: Name of an output -> how many numbers were compared: a few coordinates are asked for fewer values.

    Raises:
        GateError: Names every output that failed, by how much, and what is allowed.
        PrecisionError: The same, where all that failed are too far from the reference.
    """
    failed: list[str] = []
    kind: type[GateError] = PrecisionError
    for row in rows:
        told = f"output '{row.output}' on {row.kernels} kernels"
        levels = min_levels if sizes is None else min(min_levels, sizes[row.output] // 4)
        if row.levels < levels:
            failed.append(f"{told} is nearly constant: {row.levels} different values, at least {levels} expected")
            kind = GateError
        elif row.psnr_db < min_psnr_db:
            failed.append(f"{told}: PSNR {row.psnr_db:.1f} dB, at least {min_psnr_db:.1f} expected")
        elif max_error is not None and row.max_error > max_error:
            failed.append(f"{told}: largest error {row.max_error:.2g} of the range, at most {max_error:.2g} allowed")
    if failed:
        raise kind("; ".join(failed))


def check_reacts(outputs: dict[str, np.ndarray], *, kernels: str) -> None:
    """Refuse a file whose outputs are the same for every picture.

    Args:
        outputs: `(batch, ...)` each; a batch of one picture cannot be judged and passes.
        kernels: Kernel set or runtime that ran it.

    Raises:
        GateError: Names the outputs.
    """
    deaf = [name for name, value in outputs.items() if len(value) > 1 and (value == value[:1]).all()]
    if deaf:
        raise GateError(f"output(s) {', '.join(sorted(deaf))} on {kernels} kernels are the same for every picture")
