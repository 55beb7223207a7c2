"""What a difference between two runtimes means to a user: by how many pixels keypoints move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posezoo.cards import Card
from posezoo.codecs import CODECS, HeatmapCodec, make_codec

#: The output whose maps, one per keypoint, bottom-up networks search for people.
MAPS = "heatmaps"


@dataclass(frozen=True)
class KeypointError:
    """How far keypoints lie from where the network puts them, in pixels of the network's input.

    Attributes:
        keypoints: How many were compared: those that score at least the card's threshold in the network.
        median_px: Median distance.
        p95_px: 95 of 100 are nearer than this.
        max_px: Largest distance.
    """

    keypoints: int
    median_px: float
    p95_px: float
    max_px: float


def keypoint_error(card: Card, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> KeypointError | None:
    """Decode two runtimes' outputs for the same pictures and compare keypoints.

    Bottom-up networks are compared by the strongest peak of each keypoint's map, before people are put together.

    Args:
        card: Says how outputs are decoded.
        expected: Outputs of the network, `(batch, ...)`.
        got: The other runtime's.

    Returns:
        None where the network finds no keypoint in the pictures, or has none to find.
    """
    here, scores = strongest(card, expected) or (None, None)
    if here is None or scores is None:
        return None
    there, _ = strongest(card, got) or (None, None)
    sure = scores >= card.score_threshold
    if there is None or not sure.any():
        return None
    distances = np.linalg.norm(there - here, axis=-1)[sure]
    return KeypointError(
        int(sure.sum()), float(np.median(distances)), float(np.percentile(distances, 95)), float(distances.max())
    )


def where_it_counts(card: Card, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return masks of the outputs of which not every value counts: name -> bool, of the output's shape.

    Grouping starts from tags where a keypoint may be. Elsewhere training leaves them free, and a network may be so
    unsteady there that float32's own rounding shows.

    Args:
        card: Says how outputs are decoded.
        expected: Outputs of the network, `(batch, ...)`.
    """
    if card.codec["type"] != "associative_embedding":
        return {}
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    tags = expected["tags"]
    mask = expected["heatmaps_low"][..., : tags.shape[-1]] >= codec.detection_threshold
    return {"tags": mask} if mask.any() else {}


def strongest(card: Card, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the strongest place of every keypoint `(batch, K, 2)` in input pixels and its score `(batch, K)`.

    Returns:
        None for networks without keypoints, such as classifiers.
    """
    if card.codec["type"] not in CODECS or not card.skeleton.num_keypoints:
        return None
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    if not codec.bottom_up:
        return codec.decode(outputs[codec.output])
    maps = np.asarray(outputs[MAPS], np.float32)[..., : card.skeleton.num_keypoints]
    stride = round(card.input.wh[0] / maps.shape[2])
    if maps.shape[1:3] != (card.input.wh[1] // stride, card.input.wh[0] // stride):
        return None
    return HeatmapCodec(card.input.wh, stride=stride, decoder="dark").decode(maps)
