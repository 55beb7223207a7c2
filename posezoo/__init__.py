"""posezoo: human-pose networks for phones, Coral, Myriad and Jetson.

    import posezoo

    pose = posezoo.load("mobilenet_split_075_192")
    people = pose("photo.jpg")

Importing is light: Keras, OpenCV and the runtimes load when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "load": "posezoo.zoo",
    "build": "posezoo.zoo",
    "list_models": "posezoo.zoo",
    "info": "posezoo.zoo",
    "Poses": "posezoo.inference.poses",
    "Skeleton": "posezoo.skeletons",
}
__all__ = ["Poses", "Skeleton", "__version__", "build", "info", "list_models", "load"]

if TYPE_CHECKING:
    from posezoo.inference.poses import Poses
    from posezoo.skeletons import Skeleton
    from posezoo.zoo import build, info, list_models, load


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'posezoo' has no attribute '{name}'; it has {', '.join(sorted(_PUBLIC))}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
