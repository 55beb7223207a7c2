"""People's boxes as centre points: boxes to maps (training targets), and maps to boxes (decoding).

Zhou et al. 2019, arXiv:1904.07850, "Objects as Points". Three maps at one stride:

- `centers`: the logit of a person's centre in each cell. Its target is 1 in the cell that holds the centre and falls
  off as a Gaussian around it, whose deviations follow the box's sides (Liu et al. 2020, arXiv:1909.00700).
- `sizes`: logarithms of the box's width and height over `reference_px`. One int8 level is then the same share of every
  box, large or small, and intersection over union depends on that share alone.
- `offsets`: from the middle of the cell to the centre, x and y in cells.

Half-pixel shift and stride appear here and nowhere else. Boxes are `(x, y, width, height)` with pixel centres at
integers (`posezoo.geometry`): the box of a whole image of width `w` starts at -0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

#: Output -> values `(height, width, channels)` and weights `(height, width)`, 0 where nothing is learnt.
Targets = dict[str, tuple[np.ndarray, np.ndarray]]

#: Decoded sides lie between one pixel and this many times the input's longer side, whatever a network says.
LARGEST = 2.0


@dataclass(frozen=True)
class CenterCodec:
    """Boxes in input pixels to centre maps, sizes and offsets, and back.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
        stride: Input pixels per cell of the maps.
        reference_px: Side whose logarithm is 0 in `sizes`, in input pixels.
        spread: Deviations of a centre's Gaussian over the box's sides.
        min_sigma: Smallest deviation, in cells.
        box_level: Cells in which a person's Gaussian is at least this high learn size and offset, weighted by it: the
            peak of a large person may be found some cells off the centre.
        score_threshold: Boxes that score lower are not decoded.
        overlap: Of two boxes that overlap more (intersection over union), only the better one is decoded.
        max_boxes: Most boxes of an image.

    Raises:
        ValueError: An input that is no multiple of the stride, or a parameter outside its range.
    """

    input_wh: tuple[int, int]
    stride: int = 8
    reference_px: float = 64.0
    spread: float = 1 / 12
    min_sigma: float = 0.6
    box_level: float = 0.2
    score_threshold: float = 0.3
    overlap: float = 0.5
    max_boxes: int = 100

    #: Names of the network outputs that this codec reads.
    outputs = ("centers", "sizes", "offsets")
    #: Whether the codec finds the people itself, in a whole image.
    bottom_up = True

    def __post_init__(self) -> None:
        if any(side % self.stride for side in self.input_wh):
            raise ValueError(f"input {self.input_wh} is no multiple of the stride {self.stride}")
        if not (0 <= self.score_threshold <= 1 and 0 <= self.overlap <= 1):
            raise ValueError(
                f"score_threshold {self.score_threshold} and overlap {self.overlap} must lie between 0 and 1"
            )
        if min(self.reference_px, self.spread, self.min_sigma, self.max_boxes) <= 0 or not 0 < self.box_level <= 1:
            raise ValueError("reference_px, spread, min_sigma and max_boxes must be above 0, box_level above 0 to 1")

    @property
    def map_wh(self) -> tuple[int, int]:
        """Width and height of the maps in cells."""
        return self.input_wh[0] // self.stride, self.input_wh[1] // self.stride

    def encode(self, boxes: np.ndarray, ignored: np.ndarray | None = None) -> Targets:
        """Draw the maps of one image's people.

        A person whose centre lies outside the input is left out: cut boxes at the border first. Where two centres
        share a cell, the smaller person, who is mostly the one in front, gives size and offset.

        Args:
            boxes: `(N, 4)` in input pixels.
            ignored: `(M, 4)`: boxes in which people may be unlabelled. The cells that they touch have no weight in
                `centers`; only those that hold a labelled person's centre keep theirs.

        Returns:
            `centers` `(height, width, 1)`, `sizes` and `offsets` `(height, width, 2)`, float32, each with weights
            `(height, width)`; those of sizes and offsets sum to 1 for each person.

        Raises:
            ValueError: Boxes of another shape, not finite or without area.
        """
        boxes, ignored = _checked(boxes), _checked(np.zeros((0, 4)) if ignored is None else ignored)
        width, height = self.map_wh
        # The smaller person first: of equals, `argmax` takes the first.
        boxes = boxes[np.argsort(boxes[:, 2] * boxes[:, 3], kind="stable")]
        centers = self._to_cells(boxes[:, :2] + boxes[:, 2:] / 2)
        cells = np.floor(centers)
        inside = ((cells >= 0) & (cells < (width, height))).all(axis=1)
        boxes, centers, cells = boxes[inside], centers[inside], cells[inside]

        low, high = self._to_cells(ignored[:, :2]), self._to_cells(ignored[:, :2] + ignored[:, 2:])
        columns = (np.arange(width) + 1 > low[:, :1]) & (np.arange(width) < high[:, :1])
        rows = (np.arange(height) + 1 > low[:, 1:]) & (np.arange(height) < high[:, 1:])
        weights = 1 - (rows[:, :, None] & columns[:, None, :]).any(axis=0).astype(np.float32)
        empty = np.zeros((height, width, 2), np.float32)
        nothing = np.zeros((height, width), np.float32)
        if not len(boxes):
            return {
                "centers": (empty[..., :1], weights), "sizes": (empty, nothing), "offsets": (empty.copy(), nothing),
            }  # fmt: skip

        sigma = np.maximum(boxes[:, 2:] / self.stride * self.spread, self.min_sigma)
        away_x = np.arange(width) - cells[:, :1]
        away_y = np.arange(height) - cells[:, 1:]
        # A Gaussian is separable: one profile per axis and an outer product.
        across = np.exp(-((away_x / sigma[:, :1]) ** 2) / 2)
        down = np.exp(-((away_y / sigma[:, 1:]) ** 2) / 2)
        each = down[:, :, None] * across[:, None, :]
        peaks = each.max(axis=0)
        weights[peaks == 1] = 1

        own = np.where(each >= self.box_level, each, 0)
        owner, share = own.argmax(axis=0), own.max(axis=0)
        learnt = (share > 0)[..., None]
        sizes = np.where(learnt, np.log(boxes[:, 2:] / self.reference_px)[owner], 0)
        offsets = np.where(learnt, centers[owner] - self._middles(), 0)
        # Everybody counts alike, however many cells they have.
        total = np.bincount(owner.ravel(), share.ravel(), minlength=len(boxes))
        share = (share / np.maximum(total[owner], 1e-9)).astype(np.float32)
        return {
            "centers": (peaks[..., None].astype(np.float32), weights),
            "sizes": (sizes.astype(np.float32), share),
            "offsets": (offsets.astype(np.float32), share),
        }

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Find the people of one image: peaks of the centre map, best first, without those that overlap better ones.

        Args:
            outputs: `centers` `(height, width, 1)`, `sizes` and `offsets` `(height, width, 2)`.

        Returns:
            Boxes `(N, 4)` as x, y, width, height in input pixels and scores `(N,)`, 0 to 1, float32, best first. Boxes
            may reach beyond the input's border.

        Raises:
            ValueError: An output is missing, has another size than the codec's, or holds NaN.
        """
        maps = {name: self._map(outputs, name) for name in self.outputs}
        logits = maps["centers"][..., 0]
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-logits))
        y, x = np.nonzero(_is_peak(logits) & (scores >= self.score_threshold))
        best = np.argsort(-logits[y, x], kind="stable")[: self.max_boxes]
        y, x = y[best], x[best]
        limits = np.log(np.array([1, LARGEST * max(self.input_wh)]) / self.reference_px)
        sizes = np.exp(np.clip(maps["sizes"][y, x], *limits)) * self.reference_px
        shifts = np.clip(maps["offsets"][y, x], -max(self.map_wh), max(self.map_wh))
        middles = (self._middles()[y, x] + shifts) * self.stride - 0.5
        boxes = np.concatenate([middles - sizes / 2, sizes], axis=-1).astype(np.float32)
        found = scores[y, x].astype(np.float32)
        kept = suppress(boxes, self.overlap)
        return boxes[kept], found[kept]

    def _to_cells(self, xy: np.ndarray) -> np.ndarray:
        """Input pixels to cells: cell `u` reaches from `u` to `u + 1`."""
        return (xy + 0.5) / self.stride

    def _middles(self) -> np.ndarray:
        """Middle of every cell, x and y in cells, `(height, width, 2)`."""
        width, height = self.map_wh
        return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)

    def _map(self, outputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        if name not in outputs:
            raise ValueError(f"no output '{name}' among {', '.join(outputs)}; expected those of a centre-point network")
        values = np.asarray(outputs[name], np.float32)
        expected = (*self.map_wh[::-1], 1 if name == "centers" else 2)
        if values.shape != expected:
            raise ValueError(f"{name} is {values.shape}, the codec expects {expected} of one image")
        if np.isnan(values).any():
            raise ValueError(f"{name} holds NaN; the network's weights or its input are broken")
        return values


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of every pair of boxes `(N, 4)` and `(M, 4)`: `(N, M)`, 0 to 1."""
    shared = intersections(a, b)
    union = (a[:, 2] * a[:, 3])[:, None] + (b[:, 2] * b[:, 3])[None] - shared
    return shared / np.maximum(union, 1e-9)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the area that every pair of boxes `(N, 4)` and `(M, 4)` shares: `(N, M)` in square pixels."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    return np.maximum(high - low, 0).prod(axis=-1)


def suppress(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        boxes: `(N, 4)`, best first.
        overlap: A box that overlaps a better one that is kept by more (intersection over union) is left out.

    Returns:
        Indices of the boxes that are kept, in order.
    """
    clash = box_iou(boxes, boxes) > overlap
    kept = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if kept[i]:
            kept[i + 1 :] &= ~clash[i, i + 1 :]
    return np.flatnonzero(kept)


def _is_peak(values: np.ndarray) -> np.ndarray:
    """Whether each cell is the highest of its 3x3 surrounding; of equals, as int8 maps have them, the first."""
    height, width = values.shape
    padded = np.pad(values, 1, constant_values=-np.inf)
    peak = np.ones((height, width), bool)
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        other = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        peak &= values > other if (dy, dx) < (0, 0) else values >= other
    return peak


def _checked(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected boxes (N, 4) as x, y, width, height, got shape {boxes.shape}")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError("every box needs a finite position and a width and height above 0")
    return boxes
