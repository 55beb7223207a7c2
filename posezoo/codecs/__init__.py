"""Codecs: keypoints or boxes to training targets, and network outputs back to them."""

from posezoo.codecs.associative_embedding import AssociativeEmbeddingCodec
from posezoo.codecs.center import CenterCodec
from posezoo.codecs.coordinate import CoordinateCodec
from posezoo.codecs.hand import HandCodec
from posezoo.codecs.heatmap import HeatmapCodec
from posezoo.codecs.part_affinity import PartAffinityCodec

CODECS = {
    "heatmap": HeatmapCodec,
    "coordinate": CoordinateCodec,
    "associative_embedding": AssociativeEmbeddingCodec,
    "part_affinity": PartAffinityCodec,
    "hand": HandCodec,
    "center": CenterCodec,
}


def make_codec(type: str, input_wh: tuple[int, int], **parameters):
    """Make a codec by its name on cards.

    Raises:
        ValueError: Unknown name.
    """
    if type not in CODECS:
        raise ValueError(f"unknown codec '{type}'; expected one of {', '.join(CODECS)}")
    return CODECS[type](input_wh, **parameters)


__all__ = [
    "CODECS",
    "AssociativeEmbeddingCodec",
    "CenterCodec",
    "CoordinateCodec",
    "HandCodec",
    "HeatmapCodec",
    "PartAffinityCodec",
    "make_codec",
]
