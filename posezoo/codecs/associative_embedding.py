"""Associative embedding: heatmaps say where keypoints are, tags say whose they are.

Newell et al. 2017, arXiv:1611.05424; with heatmaps at two sizes in HigherHRNet (Cheng et al. 2020,
arXiv:1908.10357), whose public code EfficientHRNet (Neff et al. 2020, arXiv:2007.08090) follows. The
parameters are that code's; its values are the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from posezoo.codecs.heatmap import UNLABELLED, HeatmapCodec
from posezoo.codecs.outputs import as_planes, checked
from posezoo.skeletons import Skeleton, joint_kind

#: The order in which joints join people: those that are found best come first.
KIND_ORDER = ("nose", "eye", "ear", "head_top", "neck", "shoulder", "hip", "elbow", "wrist", "knee", "ankle")

#: Cost of a person that does not exist, when there are more candidates than people.
_NOBODY = 1e10


def grouping_order(skeleton: Skeleton, kind_order: Sequence[str] = KIND_ORDER) -> list[int]:
    """Return keypoint columns in the order of grouping; kinds that are not named come last."""
    kinds = [joint_kind(k) for k in skeleton.keypoints]
    rank = [kind_order.index(kind) if kind in kind_order else len(kind_order) for kind in kinds]
    return sorted(range(len(kinds)), key=lambda i: (rank[i], i))


class Maps(NamedTuple):
    """What one or two passes over a picture give, plane by plane.

    Attributes:
        heatmaps: `(K, height, width)`, both sizes averaged.
        tags: `(T, K, height, width)`; T is 2 with the mirrored pass.
    """

    heatmaps: np.ndarray
    tags: np.ndarray


@dataclass(frozen=True)
class AssociativeEmbeddingCodec:
    """People in input pixels to heatmaps and tag places, and network outputs back to people.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
        stride: Input pixels per pixel of `heatmaps`.
        low_stride: The same for `heatmaps_low` and `tags`.
        sigma: Standard deviation of the target Gaussians in map pixels, at both sizes.
        truncate: Whether a Gaussian's centre is the middle of the map pixel that holds the keypoint, as in
            the public code, which truncates coordinates and adds half a pixel when decoding.
        half_pixel: As in `HeatmapCodec`. With True, map pixel `u` holds the input pixels that it covers, and
            its middle needs no `decode_shift`. The public code's networks were trained with False.
        max_people: Most people encoded, and most candidates per keypoint decoded.
        nms_kernel: Side of the window in which a candidate must be the largest.
        detection_threshold: Smallest value of a candidate.
        tag_threshold: Largest tag distance between a keypoint and its person.
        score_in_cost: Whether the cost of joining is `100 * round(distance) - score` instead of the distance.
        ignore_too_many: Whether keypoints beyond `max_people` people open no new person.
        joint_order: Kinds of joints in the order in which they join people; others come last.
        adjust: Whether keypoints move a quarter pixel towards the higher neighbour.
        refine: Whether keypoints that a person lacks are searched in the whole map.
        decode_shift: Added to decoded coordinates of the maps that are grouped; 0.5 belongs to `truncate`
            without `half_pixel`, as in the public code.
        upsample: Whether maps are enlarged to the input's size before grouping, as in the public code.
            Without, grouping is 4 times faster and keypoints of drawn maps come back 0.2 input pixels worse.
        all_scale_tags: Multi-scale test: whether tags of every scale are kept, as the paper says; its
            code keeps those of scale 1.

    Raises:
        ValueError: An even `nms_kernel`, a `detection_threshold` outside 0 to 1, `max_people` below 1, or an
            input that is no multiple of the strides.
    """

    input_wh: tuple[int, int]
    stride: int = 2
    low_stride: int = 4
    sigma: float = 2.0
    truncate: bool = True
    half_pixel: bool = True
    max_people: int = 30
    nms_kernel: int = 5
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    score_in_cost: bool = True
    ignore_too_many: bool = False
    joint_order: Sequence[str] = KIND_ORDER
    adjust: bool = True
    refine: bool = True
    decode_shift: float = 0.0
    upsample: bool = False
    all_scale_tags: bool = False

    #: Names of the network outputs that this codec reads.
    outputs = ("heatmaps", "heatmaps_low", "tags")
    #: Whether the codec finds the people itself, in a whole picture.
    bottom_up = True

    def __post_init__(self) -> None:
        if self.nms_kernel % 2 == 0 or self.nms_kernel < 1:
            raise ValueError(f"nms_kernel must be odd, got {self.nms_kernel}")
        if not 0 <= self.detection_threshold <= 1:
            raise ValueError(f"detection_threshold must lie in 0 to 1, got {self.detection_threshold}")
        if self.max_people < 1:
            raise ValueError(f"max_people must be at least 1, got {self.max_people}")
        _ = self._high, self._low  # check the strides

    @cached_property
    def _high(self) -> HeatmapCodec:
        return HeatmapCodec(self.input_wh, stride=self.stride, sigma=self.sigma, half_pixel=self.half_pixel)

    @cached_property
    def _low(self) -> HeatmapCodec:
        return HeatmapCodec(self.input_wh, stride=self.low_stride, sigma=self.sigma, half_pixel=self.half_pixel)

    # ------------------------------------------------------------------------------------------ training

    def targets(self, keypoints: np.ndarray, ignore: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Draw the training targets of one picture.

        A keypoint outside the picture counts as not labelled.

        Args:
            keypoints: `(N, K, 3)`: x, y in input pixels and COCO visibility. Of more than `max_people`
                people the largest are kept.
            ignore: bool `(height, width)` or `(height, width, K)` of the input's size, True where nothing
                is learnt, such as where some keypoints of a person are not labelled.

        Returns:
            `heatmaps` and `heatmaps_low` `(height / stride, width / stride, K)`, with `UNLABELLED` where
            ignored, and `tags` `(max_people, K, 3)`: column and row on the low map, and 1 where labelled.

        Raises:
            ValueError: Keypoints or `ignore` of another shape.
        """
        keypoints = np.asarray(keypoints, np.float32)
        if keypoints.ndim != 3 or keypoints.shape[2] != 3:
            raise ValueError(f"expected keypoints (N, K, 3) as x, y, visibility, got {keypoints.shape}")
        size, joints = self.input_wh[::-1], keypoints.shape[1]
        if ignore is not None and ignore.shape not in ((*size,), (*size, joints)):
            raise ValueError(f"expected ignore {(*size,)} or {(*size, joints)}, the input's size, got {ignore.shape}")
        if len(keypoints) > self.max_people:
            keypoints = keypoints[self._largest(keypoints)]
        found = {}
        for name, codec in (("heatmaps", self._high), ("heatmaps_low", self._low)):
            found[name] = self._draw(codec, keypoints)
            if ignore is not None:
                half = codec.stride // 2
                found[name][ignore[half :: codec.stride, half :: codec.stride]] = UNLABELLED
        found["tags"] = self._tag_places(keypoints)
        return found

    def _draw(self, codec: HeatmapCodec, keypoints: np.ndarray) -> np.ndarray:
        """Draw a Gaussian of every labelled keypoint; where they overlap the largest value stays.

        Only inside a square of `3 sigma + 1` pixels to each side, as in the public code: whole maps of every
        person are some 25 times slower, and beyond the square less than 0.003 is left of `sigma` 2.
        """
        width, height = codec.map_wh
        pixel, labelled = self._pixels(codec, keypoints)
        maps = np.zeros((height, width, keypoints.shape[1]), np.float32)
        person, joint = np.nonzero(labelled)
        middle = pixel[person, joint]
        centre = middle if self.truncate else codec.to_map(keypoints[person, joint, :2])
        radius = int(3 * self.sigma + 1)
        places, profiles = [], []
        for axis, length in enumerate(codec.map_wh):
            place = middle[:, axis, None].astype(int) + np.arange(-radius, radius + 1)
            profile = np.exp(-np.square((place - centre[:, axis, None]) / self.sigma) / 2)
            profiles.append(np.where((place >= 0) & (place < length), profile, 0))
            places.append(np.clip(place, 0, length - 1))
        flat = (places[1][:, :, None] * width + places[0][:, None]) * keypoints.shape[1] + joint[:, None, None]
        np.maximum.at(maps.reshape(-1), flat, (profiles[1][:, :, None] * profiles[0][:, None]).astype(np.float32))
        return maps

    def _pixels(self, codec: HeatmapCodec, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map pixel `(N, K, 2)` that holds each keypoint, and whether there is one and it is labelled."""
        pixel = np.floor(codec.to_map(keypoints[..., :2]) + (0.5 if self.half_pixel else 0))
        inside = ((pixel >= 0) & (pixel < np.array(codec.map_wh))).all(axis=-1)
        return pixel, inside & (keypoints[..., 2] > 0)

    def _largest(self, keypoints: np.ndarray) -> np.ndarray:
        labelled = keypoints[..., 2:] > 0
        high = np.where(labelled, keypoints[..., :2], -np.inf).max(axis=1)
        low = np.where(labelled, keypoints[..., :2], np.inf).min(axis=1)
        areas = np.where(np.isfinite(high - low), high - low, 0).prod(axis=1)
        return np.sort(np.argsort(-areas, kind="stable")[: self.max_people])

    def _tag_places(self, keypoints: np.ndarray) -> np.ndarray:
        places = np.zeros((self.max_people, keypoints.shape[1], 3), np.float32)
        pixel, labelled = self._pixels(self._low, keypoints)
        places[: len(keypoints), :, :2] = np.where(labelled[..., None], pixel, 0)
        places[: len(keypoints), :, 2] = labelled
        return places

    # ------------------------------------------------------------------------------------------ decoding

    def merge(
        self,
        outputs: dict[str, np.ndarray],
        mirrored: dict[str, np.ndarray] | None = None,
        skeleton: Skeleton | None = None,
    ) -> Maps:
        """Average the heatmaps of both sizes, and of the mirrored picture if there is one.

        Args:
            outputs: Of one picture, `(height, width, K)` each.
            mirrored: Outputs of the mirrored picture; its tags become a second tag.
            skeleton: Names left and right; needed with `mirrored`.

        Raises:
            ValueError: An output is missing, holds NaN or infinity, or has another size than the codec's; or
                the skeleton has another number of keypoints.
        """
        maps = self._one_pass(outputs)
        if mirrored is None:
            return maps
        other = self._one_pass(mirrored)
        if skeleton is None or skeleton.num_keypoints != len(maps.heatmaps):
            got = "none" if skeleton is None else f"'{skeleton.name}' with {skeleton.num_keypoints}"
            raise ValueError(f"a mirrored pass needs the skeleton of the {len(maps.heatmaps)} keypoints, got {got}")
        order = list(skeleton.flip_indices)
        heatmaps = (maps.heatmaps + other.heatmaps[order, :, ::-1]) / 2
        return Maps(heatmaps, np.concatenate([maps.tags, other.tags[:, order, :, ::-1]]))

    def _one_pass(self, outputs: dict[str, np.ndarray]) -> Maps:
        sizes = {"heatmaps": self._high.map_wh, "heatmaps_low": self._low.map_wh, "tags": self._low.map_wh}
        given = checked(outputs, sizes)
        channels = {name: outputs[name].shape[2] for name in sizes}
        if len(set(channels.values())) > 1:
            raise ValueError(f"expected as many channels in every output, one per keypoint, got {channels}")
        high, low, tags = map(as_planes, given)
        size = self._high.map_wh
        return Maps((high + resized(low, size)) / 2, resized(tags, size)[None])

    def merge_scales(self, scales: Sequence[Maps], reference: int) -> Maps:
        """Average the heatmaps of several sizes of one picture at the size of scale `reference`."""
        height, width = scales[reference].heatmaps.shape[1:]
        heatmaps = np.stack([resized(maps.heatmaps, (width, height)) for maps in scales]).mean(axis=0)
        tags = scales[reference].tags
        if self.all_scale_tags:
            tags = np.stack([resized(planes, (width, height)) for maps in scales for planes in maps.tags])
        return Maps(heatmaps, tags)

    def decode(self, maps: Maps, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the people in the maps of one picture.

        Returns:
            Keypoints `(N, K, 2)` in input pixels, scores `(N, K)`, and person scores `(N,)`, the mean of
            the scores before `refine`; people in order of falling score. A keypoint that was not found
            has score 0 and position 0.
        """
        if self.upsample:
            tags = np.stack([resized(planes, self.input_wh) for planes in maps.tags])
            maps = Maps(resized(maps.heatmaps, self.input_wh), tags)
        keypoints, scores, people = self.group(maps.heatmaps, maps.tags, grouping_order(skeleton, self.joint_order))
        keypoints = keypoints + np.float32(self.decode_shift)
        on_input = keypoints if self.upsample else self._high.to_input(keypoints)
        return np.where(scores[..., None] > 0, on_input, 0).astype(np.float32), scores, people

    def group(
        self, heatmaps: np.ndarray, tags: np.ndarray, order: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Group the peaks of heatmaps into people (section 3.3 of the associative-embedding paper).

        Joint by joint in the given order, candidates are matched to the people so far by the smallest total
        cost (Hungarian algorithm). A candidate further than `tag_threshold` from its person opens a new one.
        Ties: of equal candidates the first in reading order comes first; of equal assignments SciPy's is taken;
        candidates of equal tags that open people open one each (the public code, which knows people by their
        first tag, would keep the last only).

        Args:
            heatmaps: `(K, height, width)`.
            tags: `(T, K, height, width)`.
            order: Columns in the order of grouping.

        Returns:
            Keypoints `(N, K, 2)` in map pixels, scores `(N, K)`, person scores `(N,)`, falling.
        """
        joints = len(heatmaps)
        column, row, value, above = self._candidates(heatmaps)
        tag = np.moveaxis(tags[:, np.arange(joints)[:, None], row, column], 0, -1)  # (K, candidates, T)
        counts = (value > self.detection_threshold).sum(axis=1)
        people = _People(joints, len(tags), most=int(counts.sum()))
        for joint in order:
            n = counts[joint]
            if n:
                place = np.stack([column[joint, :n], row[joint, :n]], axis=-1)
                self._join(people, joint, place, value[joint, :n], tag[joint, :n])
        keypoints, scores, means = people.arrays()
        if not len(keypoints):
            return keypoints, scores, np.zeros(0, np.float32)
        person_scores = scores.mean(axis=1)
        if self.adjust:
            person, found = np.nonzero(scores > 0)
            keypoints[person, found] += _quarter(heatmaps, found, *keypoints[person, found].astype(int).T)
        if self.refine:
            self._refine(heatmaps, tags, above, keypoints, scores, means)
        falling = np.argsort(-person_scores, kind="stable")
        return keypoints[falling], scores[falling], person_scores[falling]

    def _candidates(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """The largest peaks of each plane, falling: columns, rows and values `(K, max_people)`.

        Equal values come in reading order. Also each plane's flat pixels above the threshold.
        """
        import cv2

        joints, height, width = planes.shape
        window = np.ones((self.nms_kernel, self.nms_kernel), np.uint8)
        column, row = (np.zeros((joints, self.max_people), np.int64) for _ in range(2))
        value = np.zeros((joints, self.max_people), np.float32)
        above = []
        for j, plane in enumerate(planes):
            pixels = np.flatnonzero(plane > self.detection_threshold)
            above.append(pixels)
            largest = cv2.dilate(plane, window)  # beyond the border lies nothing larger
            strength = plane.ravel()[pixels]
            is_peak = strength == largest.ravel()[pixels]
            peaks, strength = pixels[is_peak], strength[is_peak]
            best = np.argsort(-strength, kind="stable")[: self.max_people]
            row[j, : len(best)], column[j, : len(best)] = np.divmod(peaks[best], width)
            value[j, : len(best)] = strength[best]
        return column, row, value, above

    def _join(self, people: _People, joint: int, place, value, tag) -> None:
        """Give one joint's candidates `(n,)` to people."""
        from scipy.optimize import linear_sum_assignment

        if not people.count:
            people.open(joint, place, value, tag)
            return
        means = people.means()
        distance = np.sqrt(np.square(tag[:, None] - means[None]).sum(axis=-1))
        cost = np.rint(distance) * 100 - value[:, None] if self.score_in_cost else distance
        n, existing = cost.shape
        if n > existing:
            cost = np.concatenate([cost, np.full((n, n - existing), _NOBODY)], axis=1)
        rows, columns = linear_sum_assignment(cost)
        near = columns < existing
        near[near] = distance[rows[near], columns[near]] < self.tag_threshold
        people.add(joint, columns[near], place[rows[near]], value[rows[near]], tag[rows[near]])
        alone = rows[~near]
        if self.ignore_too_many:
            alone = alone[: max(0, self.max_people - people.count)]
        people.open(joint, place[alone], value[alone], tag[alone])

    def _refine(self, planes, tags, above, keypoints, scores, means) -> None:
        """Search missing keypoints: the largest heatmap value less the rounded tag distance, in place."""
        joint, person = np.nonzero(scores.T == 0)
        place, value = best_with_tag(planes, tags, joint, means[person], above=above, floor=self.detection_threshold)
        found = value > 0
        person, joint, place, value = person[found], joint[found], place[found], value[found]
        y, x = np.divmod(place, planes.shape[2])
        at = np.stack([x, y], axis=-1).astype(np.float32)
        keypoints[person, joint] = at + _quarter(planes, joint, x, y) if self.adjust else at
        scores[person, joint] = planes[joint, y, x]


def best_with_tag(
    planes: np.ndarray,
    tags: np.ndarray,
    joint: np.ndarray,
    means: np.ndarray,
    *,
    above: Sequence[np.ndarray],
    floor: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each wanted keypoint, the pixel with the largest `heatmap - round(|tag - mean|)`.

    The public code computes that for every pixel and every wanted keypoint. Exact and shorter: first the few
    pixels above `floor`; where one of them stays above it, no other can be better. Else only pixels of
    rounded distance 0 are left, since the others need a heatmap above 1 and were among the first.

    Args:
        planes: Heatmaps `(K, height, width)`.
        tags: `(T, K, height, width)`.
        joint: `(n,)`, ascending: the keypoint wanted.
        means: `(n, T)`: the tag it should have.
        above: Flat pixels of each plane above `floor`.
        floor: 0 to 1.

    Returns:
        Flat pixel `(n,)` and the largest value `(n,)`, 0 where none is above 0. Of equal values the first
        pixel in reading order wins.
    """
    best, place = np.zeros(len(joint), np.float32), np.zeros(len(joint), np.int64)
    starts = np.searchsorted(joint, np.arange(len(planes) + 1))
    for k, (first, last) in enumerate(zip(starts, starts[1:], strict=False)):
        if first == last:
            continue
        plane, tag = planes[k].ravel(), tags[:, k].reshape(len(tags), -1)
        high = above[k]
        if len(high):
            distance = _distance(np.take(tag, high, axis=1)[:, None] - means[first:last].T[..., None])
            value = np.subtract(plane[high], np.rint(distance, out=distance), out=distance)
            top = value.argmax(axis=1)
            best[first:last] = np.maximum(value[np.arange(last - first), top], 0)
            place[first:last] = high[top]
        for i in first + np.flatnonzero(best[first:last] <= floor):
            near = _near(tag, means[i])
            if len(near):
                pixel = near[plane[near].argmax()]
                if plane[pixel] > best[i] or (plane[pixel] == best[i] and pixel < place[i]):
                    best[i], place[i] = plane[pixel], pixel
    return place, best


def _near(tag: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Flat pixels whose tag `(T, pixels)` is at rounded distance 0 from a mean `(T,)`."""
    # A coarse choice by the first tag, a little too wide because sums round, spares most of the distances.
    reach = np.float32(0.5) + 1e-6 * np.abs(mean[0])
    near = np.flatnonzero((tag[0] >= mean[0] - reach) & (tag[0] <= mean[0] + reach))
    return near[np.rint(_distance(np.take(tag, near, axis=1) - mean[:, None])) == 0]


def _distance(difference: np.ndarray) -> np.ndarray:
    """Euclidean length over the first axis; what was given is overwritten."""
    if len(difference) == 1:
        return np.abs(difference[0], out=difference[0])
    return np.sqrt(np.square(difference, out=difference).sum(axis=0))


def _quarter(planes: np.ndarray, joint, x, y) -> np.ndarray:
    """A quarter pixel towards the higher neighbour on each axis; at the border the pixel itself stands in."""
    _, height, width = planes.shape
    right = planes[joint, y, np.minimum(x + 1, width - 1)] > planes[joint, y, np.maximum(x - 1, 0)]
    below = planes[joint, np.minimum(y + 1, height - 1), x] > planes[joint, np.maximum(y - 1, 0), x]
    return np.stack([np.where(right, 0.25, -0.25), np.where(below, 0.25, -0.25)], axis=-1).astype(np.float32)


def resized(planes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Resize planes `(K, height, width)` bilinearly, half-pixel centres."""
    import cv2

    width, height = size_wh
    if planes.shape[1:] == (height, width):
        return planes
    return np.stack([cv2.resize(plane, (width, height)) for plane in planes])


class _People:
    """The people found so far, the first `count` rows of arrays that hold as many as there can be."""

    def __init__(self, joints: int, tags: int, *, most: int):
        self.count = 0
        self._place = np.zeros((most, joints, 2), np.float32)
        self._value = np.zeros((most, joints), np.float32)
        self._sum = np.zeros((most, tags), np.float32)
        self._members = np.zeros(most, np.float32)

    def means(self) -> np.ndarray:
        """Mean tag of each person's keypoints."""
        return self._sum[: self.count] / self._members[: self.count, None]

    def add(self, joint: int, who, place, value, tag) -> None:
        """Give people one keypoint each."""
        self._place[who, joint], self._value[who, joint] = place, value
        self._sum[who] += tag
        self._members[who] += 1

    def open(self, joint: int, place, value, tag) -> None:
        """Begin people with one keypoint each."""
        who = np.arange(self.count, self.count + len(value))
        self.count += len(value)
        self.add(joint, who, place, value, tag)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, scores and mean tags."""
        return self._place[: self.count], self._value[: self.count], self.means()
