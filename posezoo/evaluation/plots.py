"""Curves of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from posezoo.evaluation.calibration import Reliability
from posezoo.evaluation.pck import LIMB_JOINTS, PCK
from posezoo.evaluation.pose_machines import UPPER_BODY, LandmarkScores
from posezoo.files import replacing


def pyplot() -> ModuleType:
    """Return `matplotlib.pyplot`, set to draw into files.

    Raises:
        ImportError: Matplotlib is not installed; the message names the extra.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("plots need matplotlib; install it with: pip install 'posezoo[eval]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _write(figure: Any, path: Path | str) -> None:
    """Write a figure as PNG and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot().close(figure)


def plot_pck(
    results: Mapping[str, PCK],
    path: Path | str,
    *,
    joints: tuple[str, ...] = LIMB_JOINTS,
    max_threshold: float = 0.5,
    title: str = "",
) -> None:
    """Draw PCK over thresholds, one panel for all joints and one per joint kind (paper, fig. 5).

    Args:
        results: Curves by name.
        path: The PNG to write.
        joints: Joint kinds, one panel each.
        max_threshold: Right end of the axis.
        title: Text above the panels.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    plt = pyplot()

    present = [j for j in joints if any(not np.isnan(r.at(0.2, joints=(j,))) for r in results.values())]
    panels = [("all limb joints", joints), *((joint, (joint,)) for joint in present)]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.9 * rows), sharex=True, sharey=True, squeeze=False
    )
    thresholds = np.linspace(0, max_threshold, 101)
    for axis, (name, kinds) in zip(axes.flat, panels, strict=False):
        for label, result in results.items():
            axis.plot(thresholds, [result.at(t, joints=kinds) for t in thresholds], label=label)
        axis.axvline(0.2, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25)
    spare = list(axes.flat[len(panels) :])
    for axis in spare:
        axis.axis("off")
    axes[0, 0].set_ylim(0, 1)
    axes[0, 0].set_xlim(0, max_threshold)
    figure.supxlabel("distance / normaliser", fontsize=10)
    figure.supylabel("share of joints (PCK)", fontsize=10)
    if spare:
        spare[0].legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="upper left")
    else:
        axes[0, 0].legend(fontsize=8, loc="lower right")
    if title:
        figure.suptitle(title)
    figure.tight_layout()
    _write(figure, path)


def plot_precision_recall(results: Mapping[str, LandmarkScores], path: Path | str, *, title: str = "") -> None:
    """Draw precision over recall as the score threshold rises, for all landmarks and the upper body.

    Args:
        results: Curves by name.
        path: The PNG to write.
        title: Text above the panels.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    plt = pyplot()

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharex=True, sharey=True)
    for axis, (name, kinds) in zip(axes, (("all body", None), ("upper body", UPPER_BODY)), strict=True):
        for label, result in results.items():
            _, precision, recall = result.curve(kinds=kinds)
            best = result.summary(kinds=kinds)
            axis.plot(recall, precision, marker=".", markersize=3, label=f"{label}, F {best.f_score:.3f}")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("recall")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="lower left")
    axes[0].set_ylabel("precision")
    axes[0].set_xlim(0, 1.02)
    axes[0].set_ylim(0, 1.02)
    if title:
        figure.suptitle(title)
    figure.tight_layout()
    _write(figure, path)


def plot_reliability(results: Mapping[str, Reliability], path: Path | str, *, title: str = "") -> None:
    """Draw how often keypoints are right over their score; the diagonal is a probability.

    Args:
        results: Curves by name.
        path: The PNG to write.
        title: Text above.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    plt = pyplot()

    figure, axis = plt.subplots(figsize=(4.6, 4.4))
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    for name, result in results.items():
        axis.plot(result.score, result.right, marker="o", label=f"{name}: error {result.error:.3f}")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share within 0.2 torso", title=title)
    axis.legend(loc="upper left", fontsize="small")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    _write(figure, path)
