"""Gaussian heatmaps: keypoints to maps (training targets) and maps to keypoints (decoding).

Decoding: arg-max; arg-max with a quarter-pixel offset towards the higher neighbour (Newell et al. 2016,
arXiv:1603.06937); DARK, the peak of the Gaussian fitted to the log map (Zhang et al. 2020,
arXiv:1910.06278). Half-pixel shift and stride appear here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DECODERS = ("argmax", "quarter", "dark")

#: Value of a target map whose keypoint is not labelled; losses leave it out.
UNLABELLED = -1.0


@dataclass(frozen=True)
class HeatmapCodec:
    """Keypoints in input pixels to one Gaussian map per keypoint, and back.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
        stride: Input pixels per map pixel.
        sigma: Standard deviation of the Gaussians in map pixels.
        decoder: `argmax`, `quarter` or `dark`.
        half_pixel: Whether map pixel `u` covers input pixels around `(u + 0.5) * stride - 0.5`
            (true pixel areas). With False, `u * stride`, as HRNet's and older code reads.
        truncate: Whether a Gaussian's centre is truncated to a whole map pixel, as in HigherHRNet.
        decode_shift: Added to decoded map coordinates; 0.5 undoes the mean error of `truncate`.
        background: Whether the last map is 1 less the largest of the others, as pose machines' public code has it.
            Encoding adds it, decoding leaves it out.
        blur_sigma: Smoothing of the map before the DARK fit, in map pixels. The fit to a true
            Gaussian is exact with any value; noise in trained or int8 maps is averaged out.
        calibration: Pairs of a peak's height and the probability that such a keypoint is right, both rising; scores
            between them are interpolated. Without it a score is the peak's height.

    Borders: a keypoint outside the map leaves the tail of its Gaussian, and none beyond 3 sigma. A
    peak on the outermost row or column has no neighbour on one side: `quarter` and `dark` leave that
    axis at the arg-max; closer than 3 pixels to the border, smoothing pulls `dark` off by up to half a
    pixel. The refined position never leaves the arg-max pixel's 3x3 surrounding.

    Raises:
        ValueError: Unknown decoder, an input that is no multiple of the stride, or a calibration that falls.
    """

    input_wh: tuple[int, int]
    stride: int = 4
    sigma: float = 1.5
    decoder: str = "dark"
    half_pixel: bool = True
    truncate: bool = False
    decode_shift: float = 0.0
    blur_sigma: float = 1.0
    background: bool = False
    calibration: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(f"unknown decoder '{self.decoder}'; expected one of {', '.join(DECODERS)}")
        if any(side % self.stride for side in self.input_wh):
            raise ValueError(f"input {self.input_wh} is no multiple of the stride {self.stride}")
        object.__setattr__(self, "calibration", tuple(tuple(float(v) for v in pair) for pair in self.calibration))
        if self.calibration:
            heights, chances = np.array(self.calibration).T
            if len(heights) < 2 or (np.diff(heights) <= 0).any() or (np.diff(chances) < 0).any():
                raise ValueError(
                    f"calibration {self.calibration}: expected two or more pairs of height and probability, both rising"
                )

    #: Name of the network output that this codec reads.
    output = "heatmaps"
    outputs = (output,)
    #: Whether the codec finds the people itself, in a whole picture.
    bottom_up = False

    @property
    def map_wh(self) -> tuple[int, int]:
        """Width and height of the maps."""
        return self.input_wh[0] // self.stride, self.input_wh[1] // self.stride

    def to_map(self, xy: np.ndarray) -> np.ndarray:
        """Input pixels to map pixels."""
        return (xy + 0.5) / self.stride - 0.5 if self.half_pixel else xy / self.stride

    def to_input(self, xy: np.ndarray) -> np.ndarray:
        """Map pixels to input pixels."""
        return (xy + 0.5) * self.stride - 0.5 if self.half_pixel else xy * self.stride

    def encode(self, keypoints: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Draw the maps of one or many persons' keypoints.

        Args:
            keypoints: `(..., K, 2)` in input pixels.
            visible: `(..., K)`; the map of a keypoint with 0 is empty.

        Returns:
            float32 `(..., height, width, K)` with peaks of 1; K + 1 maps with `background`.
        """
        centres = self.to_map(np.asarray(keypoints, np.float32))
        if self.truncate:
            centres = np.floor(centres)
        # A Gaussian is separable: one profile per axis and an outer product.
        profiles = []
        for axis, length in enumerate(self.map_wh):
            distance = np.arange(length, dtype=np.float32) - centres[..., axis, None]
            # Clipped, as a keypoint may lie anywhere and the square of a huge distance overflows.
            distance = np.clip(distance / self.sigma, -100, 100)
            profiles.append(np.exp(-(distance**2) / 2))
        across, down = profiles
        inside = np.all((centres > -3 * self.sigma) & (centres < np.array(self.map_wh) - 1 + 3 * self.sigma), axis=-1)
        # Not a product: an unlabelled keypoint may be NaN.
        drawn = (inside & (np.asarray(visible) > 0))[..., None]
        across, down = np.where(drawn, across, 0), np.where(drawn, down, 0)
        maps = np.einsum("...kh,...kw->...hwk", down, across).astype(np.float32)
        return np.concatenate([maps, 1 - maps.max(axis=-1, keepdims=True)], axis=-1) if self.background else maps

    def targets(self, keypoints: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """As `encode`, but the map of a keypoint that is not labelled (visible 0) is `UNLABELLED`.

        So is then the background's.
        """
        unlabelled = np.asarray(visible) == 0
        if self.background:
            unlabelled = np.concatenate([unlabelled, unlabelled.any(axis=-1, keepdims=True)], axis=-1)
        maps = self.encode(keypoints, visible)
        return np.where(unlabelled[..., None, None, :], np.float32(UNLABELLED), maps)

    def mirror(self, heatmaps: np.ndarray, flip_indices: Sequence[int]) -> np.ndarray:
        """Return the maps of a mirrored picture `(..., height, width, K)` as those of the picture itself."""
        order = [*flip_indices, len(flip_indices)] if self.background else list(flip_indices)
        return heatmaps[..., ::-1, :][..., order]

    def decode(self, heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find each map's keypoint.

        Args:
            heatmaps: `(..., height, width, K)`, one more with `background`.

        Returns:
            Keypoints `(..., K, 2)` in input pixels, float32, and scores `(..., K)`: the maps' values
            at the peak, or what `calibration` makes of them.

        Raises:
            ValueError: The maps have another size than the codec's, or hold NaN.
        """
        width, height = self.map_wh
        if heatmaps.shape[-3:-1] != (height, width):
            raise ValueError(f"heatmaps are {heatmaps.shape[-3:-1]}, the codec expects {(height, width)}")
        if self.background:
            heatmaps = heatmaps[..., :-1]
        leading, num_keypoints = heatmaps.shape[:-3], heatmaps.shape[-1]
        flat = np.moveaxis(heatmaps, -1, -3).reshape(-1, height * width).astype(np.float32, copy=False)
        peak = flat.argmax(axis=1)
        score = flat[np.arange(len(flat)), peak]
        if np.isnan(score).any():
            raise ValueError("heatmaps hold NaN; the network's weights or its input are broken")
        y, x = np.divmod(peak, width)
        xy = np.stack([x, y], axis=-1).astype(np.float32)
        if self.decoder != "argmax":
            refine = self._quarter_offsets if self.decoder == "quarter" else self._dark_offsets
            offsets = refine(flat.reshape(-1, height, width), x, y)
            offsets[(x == 0) | (x == width - 1), 0] = 0
            offsets[(y == 0) | (y == height - 1), 1] = 0
            xy += offsets
        keypoints = self.to_input(xy + np.float32(self.decode_shift))
        if self.calibration:
            heights, chances = np.array(self.calibration).T
            score = np.interp(score, heights, chances).astype(np.float32)
        return keypoints.reshape(*leading, num_keypoints, 2), score.reshape(*leading, num_keypoints)

    def _quarter_offsets(self, maps, x, y):
        around = _patches(maps, x, y, radius=1)
        right_left = around[:, 1, 2] - around[:, 1, 0]
        below_above = around[:, 2, 1] - around[:, 0, 1]
        return 0.25 * np.sign(np.stack([right_left, below_above], axis=-1))

    def _dark_offsets(self, maps, x, y):
        """One Newton step on the log map: `-H^-1 g`, derivatives by central differences."""
        smooth = self._smoothing
        patch = _patches(maps, x, y, radius=smooth.shape[1] // 2)
        log = np.log(np.maximum(smooth @ patch @ smooth.T, 1e-6))
        dx, dy = (log[:, 1, 2] - log[:, 1, 0]) / 2, (log[:, 2, 1] - log[:, 0, 1]) / 2
        dxx = log[:, 1, 2] - 2 * log[:, 1, 1] + log[:, 1, 0]
        dyy = log[:, 2, 1] - 2 * log[:, 1, 1] + log[:, 0, 1]
        dxy = (log[:, 2, 2] - log[:, 2, 0] - log[:, 0, 2] + log[:, 0, 0]) / 4
        determinant = dxx * dyy - dxy**2
        is_peak = (determinant > 1e-6) & (dxx < 0)
        determinant = np.where(is_peak, determinant, 1)
        step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1) / determinant[:, None]
        return np.clip(np.where(is_peak[:, None], step, 0), -1, 1)

    @cached_property
    def _smoothing(self) -> np.ndarray:
        """Matrix `(3, 3 + 2r)` that smooths a patch and keeps its middle three rows."""
        radius = int(np.ceil(3 * self.blur_sigma))
        if not radius:
            return np.eye(3, dtype=np.float32)
        profile = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * self.blur_sigma**2))
        rows = [np.pad(profile / profile.sum(), (i, 2 - i)) for i in range(3)]
        return np.array(rows, np.float32)


def _patches(maps: np.ndarray, x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    """Cut `(n, 2r + 1, 2r + 1)` around a pixel of each map `(n, height, width)`; edges repeat."""
    reach = np.arange(-radius, radius + 1)
    rows = np.clip(y[:, None] + reach, 0, maps.shape[1] - 1)
    columns = np.clip(x[:, None] + reach, 0, maps.shape[2] - 1)
    return maps[np.arange(len(maps))[:, None, None], rows[:, :, None], columns[:, None, :]]
