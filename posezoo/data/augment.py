"""Augmentation of person crops. Every random number comes from the generator that is passed in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posezoo.geometry import crop_matrix
from posezoo.skeletons import Skeleton, joint_kind

#: Joint kinds of the parts that `Augmentation.part` crops.
_BUST = ("nose", "eye", "ear", "head_top", "neck", "shoulder", "elbow")
BODY_PARTS = (_BUST, (*_BUST, "wrist", "hip"), ("hip", "knee", "ankle"))


@dataclass(frozen=True)
class Augmentation:
    """How far a person crop may vary.

    Attributes:
        rotation_deg: Largest rotation to either side.
        any_rotation: Probability of a rotation by any angle instead, for sets with people upside down.
        scale: Smallest and largest magnification of the person.
        translate: Largest shift, as a fraction of the crop.
        flip: Probability of mirroring.
        colour: Strength of brightness, contrast, saturation and channel-gain changes, 0 to 1.
        grey: Probability of turning the crop grey.
        cutout: Probability of covering a random rectangle; joints stay labelled.
        part: Probability of cropping around a part of the body (bust, upper body, legs) instead of all
            of it, so that portraits are learnt from pictures of whole people.
    """

    rotation_deg: float = 30.0
    any_rotation: float = 0.0
    scale: tuple[float, float] = (0.75, 1.25)
    translate: float = 0.0
    flip: float = 0.5
    colour: float = 0.0
    grey: float = 0.0
    cutout: float = 0.0
    part: float = 0.0


def random_crop_matrix(
    rng: np.random.Generator, centre: np.ndarray, size: np.ndarray, out_wh: tuple[int, int], augmentation: Augmentation
) -> tuple[np.ndarray, bool]:
    """Draw a rotated, scaled, shifted, possibly mirrored crop.

    Returns:
        The affine map `(2, 3)` and whether it mirrors.
    """
    a = augmentation
    rotation = rng.uniform(-a.rotation_deg, a.rotation_deg)
    if a.any_rotation and rng.random() < a.any_rotation:
        rotation = rng.uniform(-180, 180)
    magnify = np.exp(rng.uniform(*np.log(a.scale)))
    shift = rng.uniform(-a.translate, a.translate, 2) * size
    flip = bool(rng.random() < a.flip)
    return crop_matrix(centre + shift, size / magnify, out_wh, rotation_deg=rotation, flip=flip), flip


def random_part(rng: np.random.Generator, labelled: np.ndarray, skeleton: Skeleton, probability: float) -> np.ndarray:
    """Choose the joints that the crop is laid around: a part of the body, or all.

    Args:
        rng: Source of the choice.
        labelled: bool `(K,)`.
        skeleton: Names of the joints.
        probability: Of choosing a part. Parts with fewer than three labelled joints are not chosen.

    Returns:
        bool `(K,)`, a subset of `labelled`.
    """
    if rng.random() >= probability:
        return labelled
    kinds = BODY_PARTS[rng.integers(len(BODY_PARTS))]
    chosen = labelled & np.array([joint_kind(k) in kinds for k in skeleton.keypoints])
    return chosen if chosen.sum() >= 3 else labelled


def random_colour(rng: np.random.Generator, image: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Vary brightness, contrast, saturation and white balance of an RGB uint8 crop."""
    import cv2

    strength = augmentation.colour
    gains = 1 + strength * rng.uniform(-0.25, 0.25, 3)
    contrast, brightness = 1 + strength * rng.uniform(-0.5, 0.5), strength * rng.uniform(-50, 50)
    saturation = 1 + strength * rng.uniform(-0.6, 0.6)
    grey = rng.random() < augmentation.grey
    if strength == 0 and not grey:
        return image
    # One 3x3 matrix does all: saturation mixes with luma, gains and contrast scale.
    luma = np.array([0.299, 0.587, 0.114])
    mix = (0.0 if grey else saturation) * np.eye(3) + (1 - (0.0 if grey else saturation)) * luma
    matrix = contrast * gains[:, None] * mix
    offset = 127 * (1 - contrast) + brightness
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))


def random_cutout(rng: np.random.Generator, image: np.ndarray, probability: float) -> np.ndarray:
    """Cover a rectangle of up to 40 % of each side with a random colour, in a copy."""
    covered = rng.random() < probability
    height, width = image.shape[:2]
    h, w = (int(side * rng.uniform(0.1, 0.4)) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    colour = rng.integers(0, 256, 3)
    if covered:
        image = image.copy()
        image[top : top + h, left : left + w] = colour
    return image
