"""Codecs: keypoints to training targets, and network outputs back to keypoints."""

from posezoo.codecs.heatmap import HeatmapCodec

__all__ = ["HeatmapCodec"]
