"""Pictures of several people made from pictures of one: labelled people pasted onto a canvas.

A stand-in for data sets in which everybody is labelled. What it teaches: people of many sizes at many
places, overlapping, each with an identity of its own. What it cannot teach: how people really stand
together, and what real background is not a person. Loss is taken inside 1.2 times each person's joint box
(bystanders in the pasted rectangle are not labelled) and on the canvas between the rectangles, which is
blurred beyond recognition and holds nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posezoo.data.augment import Augmentation, random_colour, random_cutout
from posezoo.data.lsp import read_lsp
from posezoo.data.sample import ExampleSet, KeypointSet, cached
from posezoo.data.scenes import Scene, moved_keypoints
from posezoo.geometry import apply, box_of_points, crop_matrix
from posezoo.skeletons import COCO17, LSP14

FACE_FILE = "face5_pseudo.json"

#: Factor on the joint box inside which a person's surroundings are learnt.
KNOWN = 1.2
#: Person area over joint-box area, COCO's average: the scale of the object-keypoint similarity.
AREA_SHARE = 0.53
#: Largest and smallest size of somebody close by, in sides of the canvas.
CLOSE = (1.8, 0.9)


def read_lspet_coco17(root: Path | str, split: str) -> KeypointSet:
    """Read LSPet with COCO's keypoints: its twelve limb joints, and face points from `face5_pseudo.json`.

    The face points are another network's predictions: good enough to learn from, never to evaluate on.
    Without the file, and for the validation split, they are unlabelled.

    Args:
        root: LSPet's folder, as for `read_lsp`.
        split: `train`, `val` or `all`.

    Raises:
        FileNotFoundError: No annotation file in `root`.
        ValueError: An unknown split.
    """
    people = read_lsp(root, split)
    path = Path(root) / FACE_FILE
    faces = {}
    if path.exists() and split != "val":
        content = json.loads(path.read_text())
        names = [n.replace("l_", "left_", 1).replace("r_", "right_", 1) for n in content["keypoint_names"]]
        columns = [COCO17.index(n) for n in names]
        faces = {file: np.array(points, np.float32) for file, points in content["items"].items()}
    common = [k for k in COCO17.keypoints if k in LSP14.keypoints]
    for record in people.records:
        keypoints = np.zeros((1, COCO17.num_keypoints, 3), np.float32)
        keypoints[:, [COCO17.index(k) for k in common]] = record.keypoints[:, [LSP14.index(k) for k in common]]
        if record.path.name in faces:
            face = faces[record.path.name]
            kept = face[:, 3] > 0
            keypoints[0, np.array(columns)[kept]] = np.column_stack([face[kept, :2], np.full(kept.sum(), 2)])
        record.keypoints = keypoints
    people.skeleton = COCO17
    return people


@dataclass
class _Pasted:
    """One person on the canvas."""

    keypoints: np.ndarray
    unlabelled: np.ndarray
    area: float


class Canvases(ExampleSet):
    """Canvases of several pasted people, and whole pictures of one.

    Args:
        people: Pictures of one labelled person each; the records' boxes are their joint boxes.
        input_wh: Width and height of the canvas.
        count: Smallest and largest number of people.
        length: Number of examples; by default as many as people.
        single: Share of whole pictures of one person instead.
        close: Share of those in which the person is larger than the picture: about one of the joints.
        augmentation: How a pasted person may vary. Its scale is not used: sizes follow `count`.
        seed: Seed of every random number.
        fixed: Whether every epoch sees the same canvases in the same order, as for validation.
        cache_bytes: Memory for decoded pictures.
    """

    def __init__(
        self,
        people: KeypointSet,
        input_wh: tuple[int, int],
        *,
        count: tuple[int, int] = (2, 6),
        length: int | None = None,
        single: float = 0.0,
        close: float = 0.0,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        fixed: bool = False,
        cache_bytes: int = 2 << 30,
    ):
        self.people, self.input_wh, self.count = people, (int(input_wh[0]), int(input_wh[1])), count
        self.single, self.close = single, close
        self.augmentation = augmentation or Augmentation(rotation_deg=0, flip=0)
        files = cached(lambda i: people.records[i].path, cache_bytes)
        super().__init__(people.name, len(people), files, seed=seed, varied=not fixed, length=length)

    def crop(self, index: int, epoch: int = 0) -> Scene:
        """Make one canvas.

        Raises:
            ImageError: No picture of the set can be read.
        """
        rng = self.rng(epoch, index)
        alone = rng.random() < self.single
        count = 1 if alone else int(rng.integers(self.count[0], self.count[1] + 1))
        # Everybody but the first is drawn at random; the first goes through all people, however short an epoch.
        first = (index + (epoch * len(self) if self.varied else 0)) % len(self.people)
        chosen = [first, *rng.integers(0, len(self.people), count - 1)]
        canvas = self._background(rng)
        width, height = self.input_wh
        owner = np.full((height, width), -1, np.int8)
        near = np.zeros((height, width), bool)
        pasted: list[_Pasted] = []
        boxes: list[np.ndarray] = []
        for number, which in enumerate(chosen):
            found, image = self._readable(int(which))
            matrix, flip = self._place(rng, found, boxes, count, alone)
            canvas, covered, known = self._paste(rng, canvas, image, found, matrix, alone)
            owner[covered] = number
            near = np.where(covered, known, near)
            for earlier in pasted:
                hide(earlier.keypoints, covered)
            pasted.append(self._labels(found, matrix, flip))
        keep = [i for i, p in enumerate(pasted) if (p.keypoints[:, 2] > 0).sum() >= 3]
        # A person of whom next to nothing is left is not a person to find, nor background.
        ignore = (owner >= 0) & (~near | ~np.isin(owner, keep))
        unlabelled = np.zeros((height, width, self.people.skeleton.num_keypoints), bool)
        for i in keep:
            unlabelled[(owner == i) & near] = pasted[i].unlabelled
        canvas = random_cutout(rng, canvas, self.augmentation.cutout)
        keypoints = np.array([pasted[i].keypoints for i in keep], np.float32).reshape(-1, unlabelled.shape[-1], 3)
        return Scene(
            canvas, keypoints, ignore, np.array([pasted[i].area for i in keep], np.float32), unlabelled, index
        )  # fmt: skip

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """A random picture blurred beyond recognition, with its brightness and colours varied."""
        import cv2

        _, image = self._readable(int(rng.integers(len(self.people))))
        cells = int(rng.integers(2, 7))
        coarse = cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA)
        canvas = cv2.resize(coarse, self.input_wh, interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = rng.normal(0, rng.uniform(0, 12), (self.input_wh[1] // 2, self.input_wh[0] // 2, 1))
        canvas += cv2.resize(grain.astype(np.float32), self.input_wh)[..., None]
        return random_colour(rng, np.clip(canvas, 0, 255).astype(np.uint8), Augmentation(colour=0.8))

    def _place(self, rng: np.random.Generator, found: int, boxes: list[np.ndarray], count: int, alone: bool):
        """Choose where a person goes: the map from picture to canvas, and whether it mirrors.

        Sizes shrink with the number of people. Of several tries the first with little overlap wins. Any joint of
        somebody close by may be in the middle.
        """
        a, (width, height) = self.augmentation, self.input_wh
        source = self.people.records[found].boxes[0]
        side = min(width, height)
        largest, smallest = (0.9, 0.35) if alone else (min(0.9, 1.5 / count), min(0.4, 0.7 / count))
        close = bool(alone and self.close and rng.random() < self.close)
        if close:
            largest, smallest = CLOSE
        rotation = rng.uniform(-a.rotation_deg, a.rotation_deg)
        if a.any_rotation and rng.random() < a.any_rotation:
            rotation = rng.uniform(-180, 180)
        flip = bool(rng.random() < a.flip)
        zoom = rng.uniform(smallest, largest) * side / max(source[2:].max(), 1)
        middle = source[:2] + source[2:] / 2
        if close:
            joints = self.people.records[found].keypoints[0]
            middle = rng.choice(joints[joints[:, 2] > 0])[:2]
        tolerated = rng.uniform(0, 0.4)
        for _ in range(10):
            reach = side / 4 if close else source[2:].max() * zoom / 2 * 0.8
            low, high = np.minimum(reach, side / 2), np.array([width, height]) - np.minimum(reach, side / 2)
            centre = rng.uniform(np.minimum(low, high), np.maximum(low, high))
            # The rectangle of the picture that fills the canvas when the person stands at `centre`.
            matrix = crop_matrix(
                middle, np.array([width, height]) / zoom, self.input_wh, rotation_deg=rotation, flip=flip
            )
            matrix[:, 2] += centre - (np.array([width, height]) - 1) / 2
            corners = apply(matrix, _corners(source))
            box = box_of_points(corners)
            if all(_overlap(box, other) <= tolerated for other in boxes):
                break
        boxes.append(box)
        return matrix, flip

    def _paste(self, rng, canvas, image, found: int, matrix: np.ndarray, alone: bool):
        """Paste a rectangle around a person.

        Returns:
            The canvas, where it is covered now, and where of that is within the known surroundings.
        """
        import cv2

        x, y, w, h = self.people.records[found].boxes[0]
        grow = 10.0 if alone else rng.uniform(1.25, 1.7)
        height, width = image.shape[:2]
        rectangle = np.array([x - (grow - 1) * w / 2, y - (grow - 1) * h / 2, grow * w, grow * h])
        low = np.clip(np.rint(rectangle[:2]), 0, [width - 1, height - 1]).astype(int)
        high = np.clip(np.rint(rectangle[:2] + rectangle[2:]), low + 1, [width, height]).astype(int)
        part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
        part = random_colour(rng, part, self.augmentation)
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ low
        size = self.input_wh
        zoom = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        if zoom < 0.5:  # bilinear sampling skips pixels when shrinking
            part = cv2.blur(part, (int(1 / zoom),) * 2)
        pixels = cv2.warpAffine(part, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(
            np.full(part.shape[:2], 255, np.uint8), shifted, size, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )  # fmt: skip
        soft = cv2.blur(alpha, (5, 5)) if rng.random() < 0.5 else alpha
        share = np.minimum(soft, alpha)[..., None].astype(np.float32) / 255
        canvas = (canvas + share * (pixels.astype(np.float32) - canvas)).astype(np.uint8)
        known = np.zeros(size[::-1], np.uint8)
        centre, half = np.array([x + w / 2, y + h / 2]), np.array([w, h]) * KNOWN / 2
        polygon = apply(matrix, _corners(np.concatenate([centre - half, 2 * half])))
        cv2.fillPoly(known, [np.rint(polygon).astype(np.int32)], (1,))
        covered = alpha > 127
        return canvas, covered, known.astype(bool) & covered

    def _labels(self, found: int, matrix: np.ndarray, flip: bool) -> _Pasted:
        record = self.people.records[found]
        keypoints = record.keypoints[:1]
        if flip:
            keypoints = keypoints[:, list(self.people.skeleton.flip_indices)]
        area = AREA_SHARE * record.boxes[0, 2] * record.boxes[0, 3] * abs(np.linalg.det(matrix[:, :2]))
        return _Pasted(moved_keypoints(keypoints, matrix, self.input_wh)[0], keypoints[0, :, 2] == 0, float(area))


def validation_canvases(people: KeypointSet, input_wh: tuple[int, int], *, length: int = 200, seed: int = 2026):
    """The fixed canvases of two to four people on which the networks are compared."""
    return Canvases(people, input_wh, count=(2, 4), length=length, seed=seed, fixed=True)


def hide(keypoints: np.ndarray, covered: np.ndarray) -> None:
    """Unlabel, in place, the keypoints `(K, 3)` that lie where something was pasted over them."""
    height, width = covered.shape
    x = np.clip(np.rint(keypoints[:, 0]).astype(int), 0, width - 1)
    y = np.clip(np.rint(keypoints[:, 1]).astype(int), 0, height - 1)
    keypoints[covered[y, x]] = 0


def _corners(box: np.ndarray) -> np.ndarray:
    x, y, w, h = box
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller box."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / max(min(a[2] * a[3], b[2] * b[3]), 1e-6))
