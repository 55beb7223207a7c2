"""What the benchmarks share: where files are, which machine this is, tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from posezoo.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"

#: Folder of data sets (`data/`) and of other projects' networks (`peers/`), which are not part of the repository.
SHARED = Path(os.environ.get("POSEZOO_SHARED", ROOT / ".." / "shared"))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; columns of numbers are aligned right, None is "not measured".

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"expected {len(columns)} cells ({', '.join(columns)}), got {len(row)}: {list(row)}")
    text = [["not measured" if v is None else str(v).replace("|", "\\|") for v in row] for row in rows]
    rules = ["---:" if text and all(_is_number(row[i]) for row in text) else "---" for i in range(len(columns))]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(rules) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in text])


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text in ("not measured", "none")
    return True


def environment(*packages: str) -> dict:
    """Return what a measurement depends on: date, processor, load, versions.

    Args:
        *packages: Distributions whose versions are recorded.
    """
    versions = {}
    for package in ("posezoo", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if versions["posezoo"] is None:
        from posezoo import __version__

        versions["posezoo"] = __version__
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable,
        "load_average": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_model() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_line(record: Mapping) -> str:
    """One line that says where and when something was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    load = record["load_average"]
    told = f", load average {load[0]} at the start" if load else ""
    return f"{record['cpu']}, {record['usable_cpus']} of {record['cpus']} CPUs{told}; {versions}; {record['date']}"


def write_results(folder: Path, name: str, record: Mapping, markdown: str) -> None:
    """Write `name.json` and `name.md` into a folder and say so."""
    for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", markdown.rstrip() + "\n")):
        with replacing(folder / f"{name}{suffix}") as path:
            path.write_text(text)
    print(f"written: {folder / name}.json, {folder / name}.md")
