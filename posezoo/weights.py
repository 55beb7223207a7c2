"""Find, verify and fetch released files: package data, then cache, then hosts.

The SHA-256 is always checked. A damaged copy is never used; a damaged cached copy is replaced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from posezoo.cards import WeightFile
from posezoo.errors import UserError
from posezoo.files import replacing

log = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "pretrained"


class WeightsError(UserError, RuntimeError):
    """Weights that are not there or are damaged."""


def cache_dir() -> Path:
    """Return the folder for fetched files: `POSEZOO_CACHE`, or `posezoo` in the user's cache folder."""
    if folder := os.environ.get("POSEZOO_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posezoo"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _is_whole(path: Path, spec: WeightFile) -> bool:
    return path.is_file() and path.stat().st_size == spec.bytes and sha256(path) == spec.sha256


def fetch(spec: WeightFile) -> Path:
    """Return a local file whose hash is the card's.

    Raises:
        WeightsError: The packaged copy is damaged, or no host served a valid file.
    """
    packaged = PACKAGED / spec.file
    if packaged.exists():
        if _is_whole(packaged, spec):
            return packaged
        if not spec.urls:
            raise WeightsError(
                f"{packaged.name} in the package is damaged (its SHA-256 is not the card's {spec.sha256[:12]}…); "
                "reinstall posezoo"
            )
    cached = cache_dir() / f"{spec.sha256[:12]}-{spec.file}"
    if _is_whole(cached, spec):
        return cached
    told = []
    for url in spec.urls:
        try:
            return _download(url, cached, spec)
        except (OSError, WeightsError) as error:
            told.append(f"{url}: {error}")
    tried = "; ".join(told) or "the card names no host"
    raise WeightsError(f"no valid {spec.file} ({tried}); make it with: {spec.recipe}")


def _download(url: str, target: Path, spec: WeightFile) -> Path:
    """Fetch into a name of this process's own and rename: two processes never see half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s (%.1f MB)", spec.file, spec.bytes / 1e6)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{spec.file}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=30) as answer:
            while block := answer.read(1 << 20):
                file.write(block)
                if file.tell() > spec.bytes:
                    break
        if not _is_whole(temporary, spec):
            raise WeightsError(f"served {temporary.stat().st_size} bytes that are not the file of {spec.bytes} bytes")
        temporary.replace(target)
        return target
    finally:
        temporary.unlink(missing_ok=True)


def save_float16(network, path: Path | str) -> None:
    """Save a Keras network's weights as `.weights.h5` with float16 storage; loading needs nothing special.

    An array with a value beyond float16's 65,504, as statistics of batch norms can have, stays in float32.

    Raises:
        WeightsError: A weight is not finite.
    """
    import h5py
    import numpy as np

    with tempfile.TemporaryDirectory() as folder, replacing(path) as half:
        full = Path(folder) / "full.weights.h5"
        network.save_weights(full)
        # HDF5's default layout, older than its version 1.10, spends more on bookkeeping than a small network's weights.
        with h5py.File(full) as source, h5py.File(half, "w", libver="v110") as target:

            def copy(name, item):
                if not isinstance(item, h5py.Dataset):
                    target.require_group(name).attrs.update(item.attrs)
                    return
                value = item[()]
                if not np.isfinite(value).all():
                    raise WeightsError(f"{name} holds NaN or infinity: the training diverged; take earlier weights")
                fits = value.dtype == np.float32 and np.abs(value).max(initial=0) <= np.finfo(np.float16).max
                small = value.astype(np.float16) if fits else value
                target.create_dataset(name, data=small, compression="gzip", shuffle=True).attrs.update(item.attrs)

            target.attrs.update(source.attrs)
            source.visititems(copy)
