"""What a body gives to the renderer: its posed surface with labels. Bodies make it, scenes place it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

#: Labels of surface parts, in the order of the colour-coded part masks; 0 is not a body.
PARTS = (
    "background", "head", "face", "neck", "torso", "pelvis",
    "left_upper_arm", "left_forearm", "left_hand", "right_upper_arm", "right_forearm", "right_hand",
    "left_thigh", "left_shin", "left_foot", "right_thigh", "right_shin", "right_foot",
)  # fmt: skip


@dataclass(frozen=True)
class PosedBody:
    """A body's surface in one pose.

    Coordinates are metres, right-handed: y up, a standing body with no rotation looks along +z and its left side
    is at larger x. Its feet or lowest point need not be at 0.

    Attributes:
        vertices: `(V, 3)`.
        faces: `(F, 3)` vertex numbers, counter-clockwise seen from outside.
        parts: `(F,)` index into `PARTS`. Clothes and hair carry the label of the part below them.
        colours: `(F, 3)` RGB reflectance 0..1.
        albedo: `(F,)` reflectance 0..1 in near infrared, as an active sensor sees it.
        landmarks: `(K, 3)` inside the body, in the order of `names`.
        names: Landmark names; those of `posezoo.skeletons.DEPTH17` and COCO17's are always among them.
        radii: `(K,)` how far below the skin's surface each landmark lies, for the test whether it is seen.
    """

    vertices: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    colours: np.ndarray
    albedo: np.ndarray
    landmarks: np.ndarray
    names: tuple[str, ...]
    radii: np.ndarray

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> PosedBody:
        """Return the body after `rotation` `(3, 3)`, then `translation` `(3,)` in metres."""
        return replace(
            self,
            vertices=self.vertices @ np.asarray(rotation, np.float32).T + np.asarray(translation, np.float32),
            landmarks=self.landmarks @ np.asarray(rotation, np.float32).T + np.asarray(translation, np.float32),
        )
