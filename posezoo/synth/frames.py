"""Rendered data sets as labelled depth frames, for training and evaluation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posezoo.data.depth_scenes import DepthFrame
from posezoo.skeletons import DEPTH17, Skeleton
from posezoo.synth.sensor import Backgrounds
from posezoo.synth.write import INDEX, SynthShards


class SynthFrames:
    """The frames of a folder that `posezoo synth` wrote.

    Args:
        folder: The data set.
        skeleton: Which landmarks count as keypoints.
        first: Number of the first frame to take.
        count: How many frames to take; all by default.
        cache_bytes: Memory for shards.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        skeleton: Skeleton = DEPTH17,
        first: int = 0,
        count: int | None = None,
        cache_bytes: int = 2 << 30,
    ):
        self.shards = SynthShards(folder, cache_bytes=cache_bytes)
        self.skeleton, self.name = skeleton, Path(folder).name
        self.numbers: Sequence[int] = range(len(self.shards))[first:][: count or None]

    def __len__(self) -> int:
        return len(self.numbers)

    def chosen(self, indices: Sequence[int]) -> SynthFrames:
        """Return the same data set with these of its frames alone."""
        some = copy.copy(self)
        some.numbers = [self.numbers[i] for i in indices]
        return some

    def __getitem__(self, index: int) -> DepthFrame:
        sample = self.shards[self.numbers[index]]
        return DepthFrame(
            sample.depth.astype(np.float32) / 1000, sample.keypoints(self.skeleton), sample.boxes, sample.people > 0,
            complete=True,
        )  # fmt: skip


class EmptyRooms:
    """A data set without people, as backgrounds.

    Args:
        folder: What `posezoo synth --people 0` wrote.
    """

    def __init__(self, folder: Path | str):
        self.shards = SynthShards(folder)

    def draw(self, rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """Return a random frame at a size, mirrored in one of two cases, float32 metres, and its number."""
        import cv2

        number = int(rng.integers(len(self.shards)))
        depth = self.shards[number].depth.astype(np.float32) / 1000
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        return (depth[:, ::-1].copy() if rng.random() < 0.5 else depth), str(number)


class NewBackgrounds:
    """Puts a random background frame behind the people of a frame whose own background is to be replaced.

    Where the background is nearer than a person it hides the person; a background that hides more than a tenth of
    the people is not taken.

    Args:
        folder: Depth frames without people: files as `posezoo.synth.sensor.Backgrounds` takes them, or a data set of
            empty rooms (`posezoo synth rooms --people 0`).
        tries: Backgrounds that are tried before the frame is left as it is.
        keep: Probability of leaving the frame as it is.
    """

    def __init__(self, folder: Path | str, *, tries: int = 5, keep: float = 0.1):
        self.backgrounds = EmptyRooms(folder) if (Path(folder) / INDEX).exists() else Backgrounds(folder)
        self.tries, self.keep = tries, keep

    def __call__(self, rng: np.random.Generator, frame: DepthFrame) -> np.ndarray:
        """Return the new depth, float32 `(height, width)` in metres.

        Raises:
            ValueError: The frame does not say where its people are.
        """
        if frame.people is None:
            raise ValueError("a frame needs a mask of its people to get another background")
        if rng.random() < self.keep:
            return frame.depth
        there = frame.people & (frame.depth > 0)
        for _ in range(self.tries):
            behind, _ = self.backgrounds.draw(rng, frame.depth.shape[1], frame.depth.shape[0])
            nearer = there & (behind > 0) & (behind < frame.depth)
            if nearer.sum() <= 0.1 * there.sum():
                return np.where(there & ~nearer, frame.depth, behind).astype(np.float32)
        return frame.depth
