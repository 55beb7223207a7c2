"""Networks that find all people themselves: a whole picture in, everybody's keypoints out.

EfficientHRNet (arXiv:2007.08090) and HigherHRNet (arXiv:1908.10357) resize the picture to the network's
short side and keep its aspect, which asks for a network of any size. Files with a fixed input get the
picture fitted into it instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from posezoo.geometry import apply, box_to_crop, crop_matrix, invert, whole_picture
from posezoo.inference.images import crop
from posezoo.inference.runners import Runner
from posezoo.skeletons import Skeleton

#: Sides of a resized picture are multiples of this, so that the branches' sizes agree.
MULTIPLE = 64


class BottomUpCodec(Protocol):
    """What `find_people` needs of a codec of `posezoo.codecs`; its maps are its own."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def input_wh(self) -> tuple[int, int]:
        """Width and height of the network's input."""

    def merge(
        self,
        outputs: dict[str, np.ndarray],
        mirrored: dict[str, np.ndarray] | None = None,
        skeleton: Skeleton | None = None,
    ) -> Any:
        """Return the maps of one picture, averaged with those of the mirrored one."""

    def merge_scales(self, scales: Sequence[Any], reference: int, /) -> Any:
        """Average the maps of several sizes."""

    def decode(self, maps: Any, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return keypoints `(N, K, 2)` in input pixels, scores `(N, K)` and person scores `(N,)`."""


def find_people(
    run: Runner,
    codec: BottomUpCodec,
    image: np.ndarray,
    skeleton: Skeleton,
    *,
    flip: bool = False,
    scales: Sequence[float] | None = None,
    cut: Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray] = crop,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run a bottom-up network on one picture.

    Args:
        run: The network; with `scales` on a runtime that takes any size (Keras).
        codec: Groups keypoints into people.
        image: RGB uint8 `(height, width, 3)`, or depth `(height, width)` with its `cut`.
        skeleton: The network's keypoints.
        flip: Whether the mirrored picture's outputs are merged in.
        scales: None fits the picture into the network's input. Otherwise its short side is brought to
            the network's own times each scale, as in the papers: `(1,)`, or `(0.5, 1, 1.5)` for the
            multi-scale test.
        cut: Cuts a crop of the image by an affine map; `posezoo.inference.depth.crop_depth` for depth.

    Returns:
        Keypoints `(N, K, 2)` in picture pixels, scores `(N, K)` and person scores `(N,)`, best person
        first; a keypoint with score 0 was not found and lies at 0, 0.

    Raises:
        ValueError: `scales` is empty, or given on a runtime with a fixed input.
    """
    wh = (image.shape[1], image.shape[0])
    if scales is None:
        sizes, reference = [codec.input_wh], 0
    else:
        if not len(scales):
            raise ValueError("scales= is empty; give (1,) for a single scale")
        if not hasattr(run, "at_size"):
            raise ValueError(f"runtime '{run.name}' has a fixed input; scales= needs runtime='keras'")
        sizes = sizes_at(wh, codec.input_wh, scales)
        reference = int(np.argmin([abs(np.log(scale)) for scale in scales]))
    passes = []
    for size in sizes:
        runner = run.at_size(size) if hasattr(run, "at_size") else run
        at_size = codec if size == codec.input_wh else replace(codec, input_wh=size)
        pixels = cut(image, fit(wh, size), size)[None]
        outputs = _first(runner(pixels))
        mirrored = _first(runner(np.ascontiguousarray(pixels[:, :, ::-1]))) if flip else None
        passes.append((at_size, at_size.merge(outputs, mirrored, skeleton)))
    at_size, maps = passes[reference]
    if len(passes) > 1:
        maps = at_size.merge_scales([maps for _, maps in passes], reference)
    keypoints, scores, people = at_size.decode(maps, skeleton)
    keypoints = apply(invert(fit(wh, sizes[reference])), keypoints)
    return np.where(scores[..., None] > 0, keypoints, 0).astype(np.float32), np.clip(scores, 0, 1), people


def fit(picture_wh: tuple[int, int], input_wh: tuple[int, int]) -> np.ndarray:
    """Affine map that shows the whole picture in the middle of the input, its aspect kept."""
    centre, size = box_to_crop(whole_picture(*picture_wh), aspect=input_wh[0] / input_wh[1])
    return crop_matrix(centre, size, input_wh)


def sizes_at(picture_wh: tuple[int, int], input_wh: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """Sizes of the resized picture at each scale.

    At the smallest scale the short side is the network's own times that scale, both sides rounded up to
    multiples of 64; the others are its multiples, so that all show the picture alike.

    Raises:
        ValueError: A scale's size is no multiple of 32.
    """
    smallest = min(scales)
    target = -(-min(input_wh) * smallest // MULTIPLE) * MULTIPLE
    base = [max(MULTIPLE, -(-round(side / min(picture_wh) * target) // MULTIPLE) * MULTIPLE) for side in picture_wh]
    sizes = []
    for scale in scales:
        width, height = (side * scale / smallest for side in base)
        if width % 32 or height % 32:
            raise ValueError(
                f"scale {scale} gives a picture of {width:g}x{height:g}, no multiples of 32; choose multiples of "
                f"the smallest scale, {smallest}"
            )
        sizes.append((int(width), int(height)))
    return sizes


def _first(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[0] for name, value in outputs.items()}
