"""From labelled pictures to training batches: one path, as `tf.data` or `keras.utils.PyDataset`.

Random numbers come from (seed, epoch, index): an interrupted run that resumes sees the same crops, and
the order of loading, the number of workers and the framework do not matter.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from posezoo.data.augment import Augmentation, random_colour, random_crop_matrix, random_cutout, random_part
from posezoo.data.sample import ExampleSet, KeypointSet, cached
from posezoo.geometry import apply, box_of_points, box_to_crop, crop_matrix
from posezoo.inference.images import crop

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from posezoo.skeletons import Skeleton

log = logging.getLogger(__name__)

T = TypeVar("T")


#: Factor on the longer side of the box that a crop is laid around: the person's own box, or that of the joints, which
#: ends at ankles and eyes.
PADDING = {"annotated": 1.25, "keypoints": 1.35}


@dataclass
class Crop:
    """One person, cut out.

    Attributes:
        image: RGB uint8 `(height, width, 3)`.
        keypoints: `(K, 2)` in crop pixels.
        visible: `(K,)` COCO visibility.
        matrix: `(2, 3)` from picture to crop.
        index: Which example of the set this is; another than asked for where that could not be read.
        weights: `(K,)` how far each keypoint's label counts, 0 where there is none; None counts all labelled ones.
        taught: A teacher's maps `(height, width, K)` uint8 (255 is a peak of 1) and the affine map `(2, 3)` from their
            pixels to the crop's, or None. Already in this crop's left and right.
    """

    image: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    matrix: np.ndarray
    index: int = 0
    weights: np.ndarray | None = None
    taught: tuple[np.ndarray, np.ndarray] | None = None


def cut_person(
    image: np.ndarray,
    keypoints: np.ndarray,
    box: np.ndarray,
    input_wh: tuple[int, int],
    *,
    enlarge: float,
    skeleton: Skeleton,
    augmentation: Augmentation | None,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> tuple[Crop, bool]:
    """Cut one person out of an image, varied as an augmentation says.

    Args:
        image: RGB uint8.
        keypoints: `(K, 3)`.
        box: Of the person; a chosen part of the body has the box of its joints instead.
        input_wh: Width and height of the crop.
        enlarge: Factor on the box's longer side.
        skeleton: What the keypoints are.
        augmentation: Random variation, or None for the plain crop.
        rng: Its random numbers.
        weights: `(K,)` of the labels.

    Returns:
        The crop, and whether it is mirrored.
    """
    labelled = keypoints[:, 2] > 0
    if augmentation is not None and augmentation.part:
        part = random_part(rng, labelled, skeleton, augmentation.part)
        if part is not labelled:
            box, enlarge = box_of_points(keypoints[part, :2]), PADDING["keypoints"]
    centre, size = box_to_crop(box, enlarge=enlarge, aspect=input_wh[0] / input_wh[1])
    if augmentation is None:
        matrix, flip = crop_matrix(centre, size, input_wh), False
    else:
        matrix, flip = random_crop_matrix(rng, centre, size, input_wh, augmentation)
    pixels = crop(image, matrix, input_wh)
    if augmentation is not None:
        pixels = random_colour(rng, pixels, augmentation)
        pixels = random_cutout(rng, pixels, augmentation.cutout)
    if flip:
        order = list(skeleton.flip_indices)
        keypoints, weights = keypoints[order], None if weights is None else weights[order]
    points = apply(matrix, keypoints[:, :2]).astype(np.float32)
    return Crop(pixels, points, keypoints[:, 2], matrix, weights=weights), flip


class PersonCrops(ExampleSet):
    """Every labelled person of a set as a crop of the network's input size.

    Args:
        people: The labelled pictures.
        input_wh: Width and height of the crops.
        box: `keypoints` takes the box of the labelled joints, `annotated` the record's own box; by default the latter
            where the set has persons' boxes.
        enlarge: Factor on the box's longer side; by default that of `PADDING`.
        augmentation: Random variation, or None for the plain crop.
        seed: Seed of every random number.
        cache_bytes: Memory for decoded pictures; 0 decodes anew each time.
    """

    def __init__(
        self,
        people: KeypointSet,
        input_wh: tuple[int, int],
        *,
        box: str | None = None,
        enlarge: float | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
    ):
        box = box or ("annotated" if people.person_boxes else "keypoints")
        if box not in PADDING:
            raise ValueError(f"box must be 'keypoints' or 'annotated', got {box!r}")
        self.people, self.input_wh, self.augmentation = people, (input_wh[0], input_wh[1]), augmentation
        self.enlarge = PADDING[box] if enlarge is None else enlarge
        self.index = [
            (record, person)
            for record in people.records
            for person in range(len(record.keypoints))
            if (record.keypoints[person, :, 2] > 0).sum() >= 2
        ]
        self.own_box = box == "annotated"
        files = cached(lambda i: self.index[i][0].path, cache_bytes)
        super().__init__(people.name, len(self.index), files, seed=seed, varied=augmentation is not None)

    def crop(self, index: int, epoch: int = 0) -> Crop:
        """Load one example.

        A picture that cannot be read is logged by name, counted in `broken`, and replaced by the
        next one, so that an epoch never stops in its middle.

        Raises:
            ImageError: No picture of the set can be read.
        """
        found, image = self._readable(index)
        record, person = self.index[found]
        keypoints = record.keypoints[person]
        box = record.boxes[person] if self.own_box else box_of_points(keypoints[keypoints[:, 2] > 0, :2])
        cut, _ = cut_person(
            image, keypoints, box, self.input_wh, enlarge=self.enlarge, skeleton=self.people.skeleton,
            augmentation=self.augmentation, rng=self.rng(epoch, index),
            weights=None if record.weights is None else record.weights[person],
        )  # fmt: skip
        cut.index = found
        return cut


def scale_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 pixels to [-1, 1], MobileNet's input."""
    return images.astype(np.float32) * np.float32(1 / 127.5) - 1


def training_batch(
    crops: list[Crop], codec, *, scale: Callable[[np.ndarray], np.ndarray] = scale_pixels
) -> tuple[np.ndarray, np.ndarray]:
    """Stack crops into network inputs `(batch, height, width, 3)` and the codec's targets.

    Args:
        crops: The persons.
        codec: Encodes their keypoints.
        scale: Brings uint8 pixels to the network's input; [-1, 1] by default.
    """
    images = scale(np.stack([c.image for c in crops]))
    return images, codec.targets(np.stack([c.keypoints for c in crops]), np.stack([c.visible for c in crops]))


def weighted_batch(
    crops: list[Crop], codec, *, scale: Callable[[np.ndarray], np.ndarray] = scale_pixels, teacher_share: float = 0.0
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Stack crops into network inputs, heatmaps and the weight of each map.

    A teacher's maps are blended in: to learn `w` times the label's map and `s` times the teacher's by squared error or
    cross-entropy is to learn their weighted mean with the weight `w + s`, up to a constant. A keypoint without a label
    is learnt from the teacher alone; without either its weight is 0.

    Args:
        crops: The persons.
        codec: Encodes their keypoints.
        scale: Brings uint8 pixels to the network's input; [-1, 1] by default.
        teacher_share: Weight of a teacher's map beside a label's 1.

    Returns:
        Images `(batch, height, width, 3)`, the codec's output -> maps `(batch, height, width, K)`, and the codec's
        output -> weights `(batch, K)`.
    """
    images = scale(np.stack([c.image for c in crops]))
    visible = np.stack([c.visible for c in crops])
    maps = codec.encode(np.stack([c.keypoints for c in crops]), visible)
    told = [(c.visible > 0).astype(np.float32) if c.weights is None else c.weights for c in crops]
    weights = np.stack(told).astype(np.float32)
    for i, one in enumerate(crops):
        if teacher_share and one.taught is not None:
            taught = resample_maps(*one.taught, codec)
            total = weights[i] + np.float32(teacher_share)
            maps[i] = (weights[i] * maps[i] + np.float32(teacher_share) * taught) / total
            weights[i] = total
    return images, {codec.output: maps}, {codec.output: weights}


def resample_maps(maps: np.ndarray, matrix: np.ndarray, codec) -> np.ndarray:
    """Bring maps of one crop to the map pixels of another.

    Args:
        maps: uint8 `(height, width, K)`, 255 is 1.
        matrix: Affine map `(2, 3)` from the maps' pixels to the other crop's input pixels.
        codec: Of the other crop.

    Returns:
        float32 `(map height, map width, K)`; 0 where the maps do not reach.
    """
    import cv2

    origin, step = codec.to_map(np.zeros(2)), codec.to_map(np.ones(2)) - codec.to_map(np.zeros(2))
    there = np.column_stack([matrix[:, :2] * step[:, None], matrix[:, 2] * step + origin])
    parts = [
        # OpenCV warps four channels at a time.
        cv2.warpAffine(np.ascontiguousarray(maps[..., i : i + 4]), there, codec.map_wh, flags=cv2.INTER_LINEAR)
        for i in range(0, maps.shape[-1], 4)
    ]
    stacked = [part[..., None] if part.ndim == 2 else part for part in parts]
    return np.concatenate(stacked, axis=-1).astype(np.float32) / np.float32(255)


class Examples(Protocol):
    """What a training set offers: examples drawn by (index, epoch), and an order for each epoch."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch."""

    def crop(self, index: int, epoch: int = 0) -> Any:
        """Load one example."""


#: Turns a list of examples into network inputs, targets and, where they differ, weights: arrays or dicts of arrays.
Encode = Callable[[list], tuple]


def batch_indices(examples: Examples, epoch: int, batch: int) -> list[np.ndarray]:
    """Divide an epoch's order into full batches.

    Raises:
        ValueError: There are too few examples for one batch.
    """
    order = examples.order(epoch)
    if len(order) < batch:
        raise ValueError(f"{len(order)} examples are too few for one batch of {batch}")
    return [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]


def keras_dataset(
    examples: Examples, encode: Encode, batch: int, *, epoch: int = 0, workers: int = 2
) -> keras.utils.PyDataset:
    """Return a `keras.utils.PyDataset` of `(images, targets)`, for any Keras backend.

    It goes on from epoch to epoch without end: give `fit` the `steps_per_epoch`. Keras shuffles finite
    sets by itself and takes a batch for building, so that a resumed run would see other batches.
    """
    import keras

    steps = len(batch_indices(examples, epoch, batch))

    @functools.lru_cache(maxsize=2)
    def rows_of(epoch: int) -> list[np.ndarray]:
        return batch_indices(examples, epoch, batch)

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.pool = ThreadPoolExecutor(workers)
            self.waiting = {}

        @property
        def num_batches(self):
            return None

        def load(self, step):
            now = epoch + step // steps
            return encode([examples.crop(int(i), now) for i in rows_of(now)[step % steps]])

        def __getitem__(self, step):
            wanted = range(step, step + 1 + 2 * workers)
            self.waiting = {i: self.waiting.get(i) or self.pool.submit(self.load, i) for i in wanted}
            return self.waiting.pop(step).result()

    return Batches()


def tf_dataset(
    examples: Examples, encode: Encode, batch: int, *, epochs: range = range(1), workers: int = 2
) -> tf.data.Dataset:
    """Return a `tf.data.Dataset` of `(images, targets)`, epoch after epoch, loaded by `workers` threads."""
    import tensorflow as tf

    like = encode([examples.crop(0)] * batch)
    flat = tf.nest.flatten(like)

    def steps():
        for epoch in epochs:
            for indices in batch_indices(examples, epoch, batch):
                yield epoch, indices

    def load(epoch, indices):
        arrays = tf.numpy_function(
            lambda epoch, rows: tf.nest.flatten(encode([examples.crop(int(i), int(epoch)) for i in rows])),
            [epoch, indices],
            [a.dtype for a in flat],
        )
        for array, known in zip(arrays, flat, strict=True):
            array.set_shape(known.shape)
        return tf.nest.pack_sequence_as(like, arrays)

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((batch,), tf.int64))
    data = tf.data.Dataset.from_generator(steps, output_signature=signature)
    return data.map(load, num_parallel_calls=workers, deterministic=True).prefetch(4)


def load_all(crops: Examples, *, epoch: int = 0, workers: int = 2) -> Iterator[Any]:
    """Yield every example in order, loaded a little ahead by threads; for evaluation."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for index in range(len(crops)):
            waiting.append(pool.submit(crops.crop, index, epoch))
            if len(waiting) > 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter where they do not come out even."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
