"""Training data: readers, augmentation and pipelines, in NumPy and OpenCV."""

from posezoo.data.sample import KeypointSet, Record, Sample

__all__ = ["KeypointSet", "Record", "Sample"]
