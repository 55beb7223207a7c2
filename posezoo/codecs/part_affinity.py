"""Part affinity fields: confidence maps say where keypoints are, fields along the limbs say which belong together.

Cao et al. 2017, arXiv:1611.08050; on depth images Martinez-Gonzalez et al. 2019, arXiv:1912.00711, whose public
code's parameters are the defaults. The product decoder finds peaks between the pixels of the small maps and reads
the fields there by bilinear interpolation; the papers enlarge all maps to the picture first (`upsample`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from posezoo.codecs.outputs import as_planes, checked
from posezoo.skeletons import Skeleton, mirrored

PEAK_TESTS = ("cross", "window")

#: Value of a target pixel about which nothing is known. Losses leave it out: fields lie in -1 to 1, maps in 0 to 1.
UNKNOWN = -2.0

#: OpenPose's sigma of 7 input pixels, in the papers' `exp(-d^2 / sigma^2)` without the factor 2.
SIGMA_PX = 7 * math.sqrt(2)

#: What single precision may be wrong by when it leaves pairs out.
_MARGIN = 1e-4
#: Candidates that are nearer than this have no direction from one to the other, in map pixels.
_NO_LENGTH = 1e-3
#: Neighbours of a peak count as at least this share of it when the peak between pixels is searched.
_FLOOR = 0.01


class Maps(NamedTuple):
    """What one or two passes over a picture give, plane by plane.

    Attributes:
        heatmaps: `(K, height, width)`, without the background.
        pafs: `(2 * limbs, height, width)`.
    """

    heatmaps: np.ndarray
    pafs: np.ndarray


@dataclass(frozen=True)
class PartAffinityCodec:
    """People in input pixels to confidence maps and fields, and network outputs back to people.

    Map pixel `u` holds the input pixels that it covers: its middle is at `(u + 0.5) * stride - 0.5`.

    `PartAffinityCodec.idiap(input_wh)` and `.openpose(input_wh)` decode as the papers do. The defaults are idiap's
    thresholds on the small maps, with peaks that may tie: in int8 maps neighbours are often equal.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
        stride: Input pixels per map pixel.
        sigma_px: Sigma of the confidence maps `exp(-d^2 / sigma^2)`, in input pixels.
        limb_width_px: Field vectors are drawn within this distance of the limb, in input pixels.
        floor_maps: Whether an input that is no multiple of the stride loses the rest (networks with poolings: 55
            columns of 444 pixels) or gets one more pixel (strided convolutions: 56).
        max_candidates: Most candidates per keypoint, the strongest.
        peak_threshold: A candidate is larger than this.
        peak_test: `cross`: strictly larger than its 4 neighbours; `window`: none of its 8 neighbours is larger.
        peak_distance_px: A candidate nearer than this to a stronger one is left out, in input pixels.
        sub_pixel: Whether candidates lie between pixels, at the peak of the Gaussian through the neighbours.
        samples: Points of a limb at which the field is read, evenly spaced from end to end.
        bilinear: Whether the field is interpolated there, or that of the nearest pixel is taken.
        sample_threshold: Least dot product of a point's field with the limb's direction.
        min_share: Share of the points that must be exceeded by those above the threshold.
        length_prior: Limbs longer than this times the input's height lose score.
        min_parts: Least keypoints of a person.
        min_score: Least mean of a person's keypoint and limb scores over its keypoints.
        upsample: Whether the maps are enlarged to the input's size first, bicubically, as in the papers.

    Raises:
        ValueError: Parameters out of range.
    """

    input_wh: tuple[int, int]
    stride: int = 8
    sigma_px: float = SIGMA_PX
    limb_width_px: float = 8.0
    floor_maps: bool = False
    max_candidates: int = 40
    peak_threshold: float = 0.1
    peak_test: str = "window"
    peak_distance_px: float = 6.0
    sub_pixel: bool = True
    samples: int = 10
    bilinear: bool = True
    sample_threshold: float = 0.05
    min_share: float = 0.8
    length_prior: float = 0.5
    min_parts: int = 3
    min_score: float = 0.2
    upsample: bool = False

    #: Names of the network outputs that this codec reads.
    outputs = ("heatmaps", "pafs")
    #: Whether the codec finds the people itself, in a whole picture.
    bottom_up = True

    def __post_init__(self) -> None:
        if self.peak_test not in PEAK_TESTS:
            raise ValueError(f"unknown peak_test '{self.peak_test}'; expected one of {', '.join(PEAK_TESTS)}")
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, the limb's ends, got {self.samples}")
        if not 0 <= self.min_share < 1:
            raise ValueError(f"min_share must lie in 0 to 1, without 1, got {self.min_share}")
        if self.peak_threshold < 0:
            raise ValueError(f"peak_threshold must not be negative, got {self.peak_threshold}")
        for name in ("stride", "sigma_px", "limb_width_px", "max_candidates", "min_parts"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @classmethod
    def idiap(cls, input_wh: tuple[int, int], **changes: Any) -> PartAffinityCodec:
        """The parameters of the depth papers' public code."""
        return cls(input_wh, **{**_ENLARGED, "peak_test": "cross", **changes})

    @classmethod
    def openpose(cls, input_wh: tuple[int, int], **changes: Any) -> PartAffinityCodec:
        """OpenPose's parameters for COCO people; for its MPI model give `min_share=0.7`."""
        own = {**_ENLARGED, "peak_test": "window", "peak_threshold": 0.05, "min_score": 0.4}
        return cls(input_wh, **{**own, **changes})

    @cached_property
    def map_wh(self) -> tuple[int, int]:
        """Width and height of the maps."""
        width, height = self.input_wh
        if self.floor_maps:
            return width // self.stride, height // self.stride
        return -(-width // self.stride), -(-height // self.stride)

    def to_map(self, xy: np.ndarray) -> np.ndarray:
        """Input pixels to map pixels."""
        return (xy + 0.5) / self.stride - 0.5

    def to_input(self, xy: np.ndarray) -> np.ndarray:
        """Map pixels to input pixels."""
        return (xy + 0.5) * self.stride - 0.5

    # ------------------------------------------------------------------------------------------ training

    def targets(
        self, keypoints: np.ndarray, ignore: np.ndarray | None = None, *, skeleton: Skeleton
    ) -> dict[str, np.ndarray]:
        """Draw the training targets of one picture (section 2.7 of the house's facts; paper, eq. 1 and 2).

        A keypoint outside the picture counts as not labelled.

        Args:
            keypoints: `(N, K, 3)`: x, y in input pixels and COCO visibility.
            ignore: bool `(height, width)` or `(height, width, K)` of the input's size, True where nothing is
                learnt, such as where a person has keypoints that nobody labelled (`unlabelled_joints`). A limb is
                unknown where one of its ends is, the background where any keypoint is.
            skeleton: Names the limbs.

        Returns:
            float32 `heatmaps` `(height / stride, width / stride, K + 1)`: the largest value of all people, and last
            the background, 1 less the largest of all keypoints; `pafs` `(height / stride, width / stride,
            2 * limbs)`: the limb's direction, averaged over the people whose limbs pass there. `UNKNOWN` where
            ignored.

        Raises:
            ValueError: Keypoints or `ignore` of another shape.
        """
        keypoints = np.asarray(keypoints, np.float32)
        joints = skeleton.num_keypoints
        if keypoints.ndim != 3 or keypoints.shape[1:] != (joints, 3):
            raise ValueError(f"expected keypoints (N, {joints}, 3) as x, y, visibility, got {keypoints.shape}")
        size = self.input_wh[::-1]
        if ignore is not None and ignore.shape not in ((*size,), (*size, joints)):
            raise ValueError(f"expected ignore {(*size,)} or {(*size, joints)}, the input's size, got {ignore.shape}")
        inside = (keypoints[..., :2] >= -0.5) & (keypoints[..., :2] < np.array(self.input_wh) - 0.5)
        labelled = (keypoints[..., 2] > 0) & inside.all(axis=-1)
        xy = self.to_map(np.where(labelled[..., None], keypoints[..., :2], 0)).astype(np.float32)
        heatmaps = np.moveaxis(self._draw_joints(xy, labelled), 0, -1)
        pafs = np.moveaxis(self._draw_limbs(xy, labelled, skeleton), 0, -1)
        heatmaps, pafs = np.ascontiguousarray(heatmaps), np.ascontiguousarray(pafs)
        if ignore is not None:
            width, height = self.map_wh
            rows = np.minimum(np.arange(height) * self.stride + self.stride // 2, size[0] - 1)
            columns = np.minimum(np.arange(width) * self.stride + self.stride // 2, size[1] - 1)
            unknown = ignore[rows[:, None], columns]
            if unknown.ndim == 2:
                unknown = np.repeat(unknown[..., None], joints, axis=2)
            heatmaps[..., :joints][unknown] = UNKNOWN
            heatmaps[unknown.any(axis=-1), joints] = UNKNOWN
            a, b = np.array(skeleton.limb_indices).T
            pafs[np.repeat(unknown[..., a] | unknown[..., b], 2, axis=-1)] = UNKNOWN
        return {"heatmaps": heatmaps, "pafs": pafs}

    def _draw_joints(self, xy: np.ndarray, labelled: np.ndarray) -> np.ndarray:
        """Confidence maps `(K + 1, height, width)` of keypoints `(N, K, 2)` in map pixels."""
        width, height = self.map_wh
        maps = np.zeros((xy.shape[1] + 1, height, width), np.float32)
        if len(xy):
            sigma = self.sigma_px / self.stride
            across, down = (
                np.exp(-np.square((np.arange(n, dtype=np.float32) - xy[..., axis, None]) / np.float32(sigma)))
                for axis, n in enumerate(self.map_wh)
            )
            down = down * labelled[..., None]
            np.max(down[..., :, None] * across[..., None, :], axis=0, out=maps[:-1])
        maps[-1] = 1 - maps[:-1].max(axis=0)
        return maps

    def _draw_limbs(self, xy: np.ndarray, labelled: np.ndarray, skeleton: Skeleton) -> np.ndarray:
        """Fields `(2 * limbs, height, width)` of keypoints `(N, K, 2)` in map pixels."""
        width, height = self.map_wh
        limbs = len(skeleton.limbs)
        fields = np.zeros((limbs, 2, height, width), np.float32)
        starts, ends = np.array(skeleton.limb_indices).T
        vector = xy[:, ends] - xy[:, starts]
        length = np.sqrt(np.square(vector).sum(axis=-1))
        drawn = labelled[:, starts] & labelled[:, ends] & (length > _NO_LENGTH)
        person, limb = np.nonzero(drawn)
        if not len(person):
            return fields.reshape(2 * limbs, height, width)
        start, length = xy[person, starts[limb]], length[person, limb][:, None, None]
        unit = vector[person, limb] / length[:, 0]
        # Along and across the limb: each is a column's share plus a row's.
        x = np.arange(width, dtype=np.float32) - start[:, 0, None]
        y = np.arange(height, dtype=np.float32) - start[:, 1, None]
        along = (y * unit[:, 1, None])[:, :, None] + (x * unit[:, 0, None])[:, None]
        aside = (y * unit[:, 0, None])[:, :, None] - (x * unit[:, 1, None])[:, None]
        beyond = along - np.clip(along, 0, length)
        reach = np.float32(self.limb_width_px / self.stride)
        near = beyond * beyond + aside * aside <= reach * reach
        count = np.zeros((limbs, height, width), np.float32)
        for i, k in enumerate(limb):
            count[k] += near[i]
            fields[k] += near[i] * unit[i, :, None, None]
        fields /= np.maximum(count, 1)[:, None]
        return fields.reshape(2 * limbs, height, width)

    # ------------------------------------------------------------------------------------------ decoding

    def merge(
        self,
        outputs: dict[str, np.ndarray],
        mirrored: dict[str, np.ndarray] | None = None,
        skeleton: Skeleton | None = None,
    ) -> Maps:
        """Check the outputs, and average them with those of the mirrored picture if there is one.

        Args:
            outputs: Of one picture, `(height, width, channels)` each.
            mirrored: Outputs of the mirrored picture.
            skeleton: Names left and right; needed with `mirrored`.

        Raises:
            ValueError: An output is missing, holds NaN or infinity, or has another size than the codec's; or the
                mirrored picture's maps cannot be laid over the picture's.
        """
        maps = self._one_pass(outputs)
        if mirrored is None:
            return maps
        if skeleton is None:
            raise ValueError("a mirrored pass needs the skeleton, which names left and right")
        if self.input_wh[0] % self.stride:
            raise ValueError(
                f"an input {self.input_wh[0]} pixels wide is no multiple of the stride {self.stride}: the mirrored "
                "maps would lie between the picture's; choose a multiple for the flip test"
            )
        other = mirrored_maps(self._one_pass(mirrored), skeleton)
        return Maps((maps.heatmaps + other.heatmaps) / 2, (maps.pafs + other.pafs) / 2)

    def _one_pass(self, outputs: dict[str, np.ndarray]) -> Maps:
        heatmaps, pafs = map(as_planes, checked(outputs, dict.fromkeys(self.outputs, self.map_wh)))
        return Maps(heatmaps[:-1], pafs)

    def merge_scales(self, scales: Sequence[Maps], reference: int) -> Maps:
        """Average the maps of several sizes of one picture at the size of scale `reference`."""
        height, width = scales[reference].heatmaps.shape[1:]
        return Maps(*(np.stack([resized(m, (width, height)) for m in kind]).mean(axis=0) for kind in zip(*scales)))

    def decode(self, maps: Maps, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the people in the maps of one picture.

        Returns:
            Keypoints `(N, K, 2)` in input pixels, scores `(N, K)`, and person scores `(N,)`, the mean of the
            person's keypoint and limb scores; people in order of falling score. A keypoint that was not found
            has score 0 and position 0.

        Raises:
            ValueError: The maps have other numbers of channels than the skeleton.
        """
        expected = (skeleton.num_keypoints, 2 * len(skeleton.limbs))
        got = (len(maps.heatmaps), len(maps.pafs))
        if got != expected:
            raise ValueError(
                f"skeleton '{skeleton.name}' has {expected[0]} keypoints and {expected[1]} field maps, the network "
                f"gave {got[0]} and {got[1]}"
            )
        px = self.stride
        if self.upsample:
            size = (maps.heatmaps.shape[2] * px, maps.heatmaps.shape[1] * px)
            maps, px = Maps(*(resized(planes, size) for planes in maps)), 1
        keypoints, scores, people = self.group(maps.heatmaps, maps.pafs, skeleton.limb_indices, px=px)
        on_input = keypoints if self.upsample else self.to_input(keypoints)
        return np.where(scores[..., None] > 0, on_input, 0).astype(np.float32), scores, people

    def group(
        self, heatmaps: np.ndarray, pafs: np.ndarray, limbs: Sequence[tuple[int, int]], *, px: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Group the peaks of confidence maps into people, greedily (Cao et al., section 2.3 and 2.4).

        Limb by limb in the given order the candidates of its ends are joined by falling score of the connection,
        each candidate once. A connection attaches one end to the person that holds the other; where nobody holds
        either it opens a person; where two people hold one each and share no keypoint, they become one (that only
        happens where limbs do not run from parent to child). Where one end has no candidates at all, those of the
        other that nobody holds open people of one keypoint. Of equal candidates the first in reading order comes
        first, of equal connections that of the first candidates. Keypoints that no chain of limbs joins never come
        into one person.

        Args:
            heatmaps: `(K, height, width)`.
            pafs: `(2 * limbs, height, width)`.
            limbs: Pairs of keypoints.
            px: Input pixels per pixel of these maps.

        Returns:
            Keypoints `(N, K, 2)` in map pixels, scores `(N, K)`, person scores `(N,)`, falling.
        """
        joint, place, value = self._candidates(heatmaps, px)
        starts = np.searchsorted(joint, np.arange(len(heatmaps) + 1))
        connections = self._connections(pafs, limbs, starts, place, px)
        people = _assemble(limbs, starts.tolist(), value.tolist(), connections)
        keypoints = np.zeros((len(people), len(heatmaps), 2), np.float64)
        scores = np.zeros((len(people), len(heatmaps)), np.float32)
        totals = np.array([[p.parts, p.joined, p.total] for p in people]).reshape(-1, 3)
        rows = [i for i, p in enumerate(people) for _ in p.members]
        members = np.array([m for p in people for m in p.members], int)
        keypoints[rows, joint[members]], scores[rows, joint[members]] = place[members], value[members]
        parts, joined, total = totals.T
        keep = np.flatnonzero((parts >= self.min_parts) & (total >= self.min_score * parts))
        person_scores = (total[keep] / (parts[keep] + joined[keep])).astype(np.float32)
        falling = np.argsort(-person_scores, kind="stable")
        keep = keep[falling]
        return keypoints[keep], scores[keep], person_scores[falling]

    def _candidates(self, planes: np.ndarray, px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Peaks by keypoint, then falling: keypoint `(n,)`, place `(n, 2)` in map pixels, value `(n,)`."""
        joints, height, width = planes.shape
        padded = np.full((joints, height + 2, width + 2), -np.inf, np.float32)
        padded[:, 1:-1, 1:-1] = planes
        is_peak = planes > np.float32(self.peak_threshold)
        if self.peak_test == "cross":
            for rows, columns in ((slice(1, -1), 0), (slice(1, -1), 2), (0, slice(1, -1)), (2, slice(1, -1))):
                is_peak &= planes > padded[:, _span(rows, height), _span(columns, width)]
        else:
            tall = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
            is_peak &= planes >= np.maximum(np.maximum(tall[..., :-2], tall[..., 1:-1]), tall[..., 2:])
        joint, row, column = np.nonzero(is_peak)
        value = planes[joint, row, column]
        order = np.lexsort((-value, joint))
        rank = np.arange(len(joint)) - np.searchsorted(joint, joint)
        order = order[rank < self.max_candidates]
        joint, row, column, value = joint[order], row[order], column[order], value[order].astype(np.float64)
        place = np.stack([column, row], axis=-1).astype(np.float64)
        if self.sub_pixel:
            shift, value = _between_pixels(padded, joint, row + 1, column + 1, value)
            place += shift
        keep = self._apart(joint, place * px)
        return joint[keep], place[keep], value[keep]

    def _apart(self, joint: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Whether no kept candidate before lies within `peak_distance_px`, `(n,)`; places in input pixels."""
        keep = np.ones(len(joint), bool)
        counts = np.bincount(joint) if len(joint) else np.zeros(1, int)
        if self.peak_distance_px <= 0 or counts.max() < 2:
            return keep
        starts = np.concatenate([[0], np.cumsum(counts)])
        tables = np.full((2, len(counts), counts.max()), 1e9)
        tables[:, joint, np.arange(len(joint)) - starts[joint]] = place.T
        x, y = (table[:, :, None] - table[:, None] for table in tables)
        near = x * x + y * y < self.peak_distance_px**2
        # Pairs come by keypoint, then by the earlier candidate.
        for k, earlier, later in np.argwhere(near).tolist():
            if earlier < later < counts[k] and keep[starts[k] + earlier]:
                keep[starts[k] + later] = False
        return keep

    def _connections(self, pafs, limbs, starts, place, px: int) -> list[list[tuple[int, int, float]]]:
        """The accepted connections of each limb: candidates of both ends and score, falling, each end used once."""
        found: list[list[tuple[int, int, float]]] = [[] for _ in limbs]
        fields = _Fields(pafs, self.bilinear)
        limb, first, second = self._pairs(fields, np.array(limbs), starts, place)
        vector = place[second] - place[first]
        length = np.sqrt(vector[:, 0] * vector[:, 0] + vector[:, 1] * vector[:, 1])
        keep = length > _NO_LENGTH
        limb, first, second, vector, length = (v[keep] for v in (limb, first, second, vector, length))
        if not len(limb):
            return found
        share = np.arange(self.samples)[:, None] / (self.samples - 1)
        x, y = place[first, 0] + vector[:, 0] * share, place[first, 1] + vector[:, 1] * share
        fx, fy = fields.at(limb, x, y)
        along = (fx * vector[:, 0] + fy * vector[:, 1]) / length
        above = along > self.sample_threshold
        passing = above.sum(axis=0)
        prior = np.minimum(self.length_prior * self.input_wh[1] / (length * px) - 1, 0)
        score = np.where(above, along, 0).sum(axis=0) / np.maximum(passing, 1) + prior
        good = (score > 0) & (passing >= self._needed)
        limb, first, second, score = limb[good], first[good], second[good], score[good]
        order = np.lexsort((-score, limb))
        limb, first, second, score = (v[order].tolist() for v in (limb, first, second, score))
        last_first, last_second = ([-1] * len(place) for _ in range(2))  # the limb that used a candidate last
        for k, one, other, value in zip(limb, first, second, score, strict=True):
            if last_first[one] != k and last_second[other] != k:
                last_first[one] = last_second[other] = k
                found[k].append((one, other, value))
        return found

    @property
    def _needed(self) -> int:
        """How many samples of a connection must be above the threshold."""
        return math.floor(self.min_share * self.samples) + 1

    def _pairs(self, fields: _Fields, limbs, starts, place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of candidates that may be connected: limb, and numbers of both candidates, all `(n,)`.

        Most pairs have nothing in common. Those of which too many samples lie below the threshold are left out here,
        in single precision with a margin; what is kept is computed again, exactly.
        """
        counts = np.diff(starts)
        most = counts.max(initial=0)
        a, b = limbs.T
        rank = np.arange(most)
        there = rank < counts[:, None]
        both = there[a][:, :, None] & there[b][:, None]
        if not self.bilinear or not most:
            limb, i, j = np.nonzero(both)
            return limb, starts[a[limb]] + i, starts[b[limb]] + j
        table = np.zeros((2, len(counts), most), np.float32)
        table[:, there] = place.T
        threshold, allowed = self.sample_threshold - _MARGIN, self.samples - self._needed
        shares = [np.float32(s / (self.samples - 1)) for s in _spread(self.samples)[: 4 * allowed + 4]]
        # Where no field is longer than the threshold, none can point along the limb.
        starts_at, ends_at, plane = table[:, a][..., None], table[:, b][:, :, None], np.arange(len(a))[:, None, None]
        quiet, failed = fields.quiet(threshold), np.zeros(both.shape, np.uint8)
        for share in shares[: 2 * allowed + 2]:
            x, y = starts_at * (1 - share) + ends_at * share
            failed += quiet.take(fields.cell(plane, x, y))
        both &= failed <= allowed
        limb, i, j = np.nonzero(both)
        x, y = table.reshape(2, -1)
        start, end = a[limb] * most + i, b[limb] * most + j
        pairs = [limb, i, j, x.take(start), y.take(start)]
        pairs += [x.take(end) - pairs[3], y.take(end) - pairs[4]]
        pairs.append(np.sqrt(pairs[5] * pairs[5] + pairs[6] * pairs[6]) * np.float32(threshold))
        failed = np.zeros(len(limb), np.uint8)
        for n in range(0, len(shares), allowed + 1):
            limb, _, _, x, y, dx, dy, least = pairs
            for share in shares[n : n + allowed + 1]:
                fx, fy = fields.at(limb, x + dx * share, y + dy * share)
                failed += fx * dx + fy * dy <= least
            good = np.flatnonzero(failed <= allowed)
            pairs, failed = [v.take(good) for v in pairs], failed.take(good)
        limb, i, j = pairs[:3]
        return limb, starts[a[limb]] + i, starts[b[limb]] + j


#: What both papers' codes do alike.
_ENLARGED: dict[str, Any] = {"upsample": True, "sub_pixel": False, "bilinear": False}


def mirrored_maps(maps: Maps, skeleton: Skeleton) -> Maps:
    """Return the maps of a mirrored picture as those of the picture itself.

    Left and right change places among keypoints and limbs, and the fields' x changes its sign.

    Raises:
        ValueError: A limb has no counterpart on the other side.
    """
    order, sign = limb_flip(skeleton)
    heatmaps = maps.heatmaps[list(skeleton.flip_indices), :, ::-1]
    fields = maps.pafs.reshape(-1, 2, *maps.pafs.shape[1:])[order][..., ::-1]
    fields = fields * (sign[:, None] * np.array([-1, 1], np.float32))[..., None, None]
    return Maps(heatmaps, fields.reshape(maps.pafs.shape))


def limb_flip(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Return each limb's counterpart in a mirrored picture, and -1 where that runs the other way, `(limbs,)`.

    Raises:
        ValueError: A limb has no counterpart on the other side.
    """
    order, sign = [], []
    for a, b in skeleton.limbs:
        twin = (mirrored(a), mirrored(b))
        if twin in skeleton.limbs:
            order.append(skeleton.limbs.index(twin))
            sign.append(1)
        elif twin[::-1] in skeleton.limbs:
            order.append(skeleton.limbs.index(twin[::-1]))
            sign.append(-1)
        else:
            raise ValueError(f"skeleton '{skeleton.name}': limb {a}-{b} has no counterpart {twin[0]}-{twin[1]}")
    return np.array(order), np.array(sign, np.float32)


def unlabelled_joints(
    keypoints: np.ndarray, boxes: np.ndarray, input_wh: tuple[int, int], *, enlarge: float = 1.2
) -> np.ndarray:
    """Mark where keypoints that nobody labelled may lie: their persons' boxes.

    Args:
        keypoints: `(N, K, 3)`; those of visibility 0 are unlabelled.
        boxes: `(N, 4)` x, y, width, height in the same pixels, such as of the labelled keypoints.
        input_wh: Width and height of the picture.
        enlarge: Factor on the boxes.

    Returns:
        bool `(height, width, K)`, `ignore` of `PartAffinityCodec.targets`.
    """
    width, height = input_wh
    mask = np.zeros((height, width, keypoints.shape[1]), bool)
    for person, (x, y, w, h) in zip(keypoints, boxes, strict=True):
        grow_x, grow_y = w * (enlarge - 1) / 2, h * (enlarge - 1) / 2
        left, top = max(0, math.floor(x - grow_x)), max(0, math.floor(y - grow_y))
        right, bottom = math.ceil(x + w + grow_x) + 1, math.ceil(y + h + grow_y) + 1
        mask[top : max(bottom, 0), left : max(right, 0)] |= person[:, 2] == 0
    return mask


def resized(planes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Resize planes `(n, height, width)` bicubically, half-pixel centres."""
    import cv2

    width, height = size_wh
    if planes.shape[1:] == (height, width):
        return planes
    return np.stack([cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC) for p in planes])


def _span(at: slice | int, length: int) -> slice:
    return at if isinstance(at, slice) else slice(at, at + length)


def _spread(samples: int) -> list[int]:
    """Sample numbers, each far from those before it: the third points first, as the ends lie on other limbs too."""
    order = [samples // 3, samples - 1 - samples // 3]
    while len(order) < samples:
        rest = [s for s in range(samples) if s not in order]
        order.append(max(rest, key=lambda s: (min(abs(s - o) for o in order), -abs(2 * s - samples + 1))))
    return order


def _between_pixels(padded, joint, row, column, value) -> tuple[np.ndarray, np.ndarray]:
    """The peak of the Gaussian through each peak's neighbours: shift `(n, 2)` in pixels and value `(n,)`.

    At most half a pixel; none on an axis at whose side the map ends. The value stays below 1 and above the pixel's.
    """
    shift = np.zeros((len(joint), 2))
    centre, height = np.log(value), np.log(value)
    for axis, (dy, dx) in enumerate(((0, 1), (1, 0))):
        before = padded[joint, row - dy, column - dx].astype(np.float64)
        after = padded[joint, row + dy, column + dx].astype(np.float64)
        whole = np.isfinite(before) & np.isfinite(after)
        before, after = (np.log(np.maximum(v, _FLOOR * value)) for v in (before, after))
        curve = before - 2 * centre + after
        bent = whole & (curve < -1e-9)
        step = np.where(bent, (before - after) / np.where(bent, 2 * curve, 1), 0)
        shift[:, axis] = np.clip(step, -0.5, 0.5)
        height = height + (after - before) * shift[:, axis] / 4
    return shift, np.maximum(value, np.minimum(np.exp(height), 1))


class _Fields:
    """Fields read between pixels or at the nearest one; beyond the border lies the border."""

    def __init__(self, pafs: np.ndarray, bilinear: bool):
        self._planes, self._bilinear = pafs.reshape(-1, 2, *pafs.shape[1:]), bilinear
        self._height, self._width = pafs.shape[1:]
        # One complex number holds both components: half as many look-ups.
        field = np.empty((len(self._planes), self._height, self._width), np.complex64)
        field.real, field.imag = self._planes[:, 0], self._planes[:, 1]
        self._field = field.ravel()

    def cell(self, limb, x, y):
        """Flat number of the pixel left of and above each place, which must not be negative."""
        return (limb * self._height + y.astype(np.int32)) * self._width + x.astype(np.int32)

    def quiet(self, threshold: float) -> np.ndarray:
        """Whether between a pixel and its right and lower neighbours no field is longer than the threshold, flat."""
        loud = np.square(self._planes).sum(axis=1) > max(threshold, 0) ** 2
        if threshold < 0:
            loud[:] = True
        loud[:, :-1] |= loud[:, 1:]
        loud[..., :-1] |= loud[..., 1:]
        return ~loud.ravel()

    def at(self, limb, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Both components of the field at places `(..., n)` of planes `(n,)`, in the places' precision."""
        if not self._bilinear:
            column = np.clip(np.rint(x), 0, self._width - 1).astype(np.int32)
            row = np.clip(np.rint(y), 0, self._height - 1).astype(np.int32)
            field = self._field[(limb * self._height + row) * self._width + column]
            return field.real, field.imag
        # Places lie inside the map: only the last column and row have no pixel beyond.
        column = np.minimum(x.astype(np.int32), max(self._width - 2, 0))
        row = np.minimum(y.astype(np.int32), max(self._height - 2, 0))
        right, below = x - column.astype(x.dtype), y - row.astype(y.dtype)
        step_x, step_y = int(self._width > 1), self._width if self._height > 1 else 0
        at = (limb * self._height + row) * self._width + column
        kind = np.complex64 if x.dtype == np.float32 else np.complex128
        corners = [self._field[d:].take(at).astype(kind) for d in (0, step_x, step_y, step_x + step_y)]
        return _blend([c.real for c in corners], right, below), _blend([c.imag for c in corners], right, below)


def _blend(corners: list[np.ndarray], right: np.ndarray, below: np.ndarray) -> np.ndarray:
    top = corners[0] + (corners[1] - corners[0]) * right
    bottom = corners[2] + (corners[3] - corners[2]) * right
    return top + (bottom - top) * below


@dataclass
class _Person:
    """Candidates that belong together.

    Attributes:
        members: Candidate numbers.
        joints: Their keypoints.
        total: Sum of the scores of keypoints and connections.
        joined: Number of connections.
    """

    members: list[int]
    joints: set[int]
    total: float
    joined: int = 0

    @property
    def parts(self) -> int:
        return len(self.members)


def _assemble(
    limbs: Sequence[tuple[int, int]],
    starts: list[int],
    value: list[float],
    connections: list[list[tuple[int, int, float]]],
) -> list[_Person]:
    """People from connections, limb by limb; see `PartAffinityCodec.group`."""
    people: list[_Person] = []
    holder: dict[int, _Person] = {}
    for (a, b), joined in zip(limbs, connections, strict=True):
        ends = [range(starts[k], starts[k + 1]) for k in (a, b)]
        if not all(ends):
            for joint, candidates in ((a, ends[0]), (b, ends[1])):
                for candidate in candidates:
                    if candidate not in holder:
                        holder[candidate] = _Person([candidate], {joint}, value[candidate])
                        people.append(holder[candidate])
            continue
        for first, second, score in joined:
            one, other = holder.get(first), holder.get(second)
            if one is None and other is None:
                person = _Person([first, second], {a, b}, value[first] + value[second] + score, 1)
                people.append(person)
                holder[first] = holder[second] = person
            elif one is other:
                one.total, one.joined = one.total + score, one.joined + 1  # type: ignore[union-attr]
            elif one is None or other is None:
                held, joint, candidate = (one, b, second) if other is None else (other, a, first)
                assert held is not None
                if joint not in held.joints:
                    held.members.append(candidate)
                    held.joints.add(joint)
                    held.total += value[candidate] + score
                    held.joined += 1
                    holder[candidate] = held
            elif not one.joints & other.joints:
                one.members += other.members
                one.joints |= other.joints
                one.total += other.total + score
                one.joined += other.joined + 1
                people = [p for p in people if p is not other]
                for candidate in other.members:
                    holder[candidate] = one
    return people
