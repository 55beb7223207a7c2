"""From labelled pictures to training batches: one path, as `tf.data` or `keras.utils.PyDataset`.

Random numbers come from (seed, epoch, index): an interrupted run that resumes sees the same crops, and
the order of loading, the number of workers and the framework do not matter.
"""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from posezoo.codecs import HeatmapCodec
from posezoo.data.augment import Augmentation, random_colour, random_crop_matrix, random_cutout
from posezoo.data.sample import KeypointSet
from posezoo.geometry import apply, box_of_points, box_to_crop, crop_matrix
from posezoo.inference.images import ImageError, crop

log = logging.getLogger(__name__)

#: Value of a target map whose keypoint is not labelled; losses leave it out.
UNLABELLED = -1.0


@dataclass
class Crop:
    """One person, cut out.

    Attributes:
        image: RGB uint8 `(height, width, 3)`.
        keypoints: `(K, 2)` in crop pixels.
        visible: `(K,)` COCO visibility.
        matrix: `(2, 3)` from picture to crop.
    """

    image: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    matrix: np.ndarray


class PersonCrops:
    """Every labelled person of a set as a crop of the network's input size.

    Args:
        people: The labelled pictures.
        input_wh: Width and height of the crops.
        box: `keypoints` takes the box of the labelled joints, `annotated` the record's own box.
        enlarge: Factor on the box's longer side. 1.35 around the joints is the standard crop for LSPet.
        augmentation: Random variation, or None for the plain crop.
        seed: Seed of every random number.
        cache_bytes: Memory for decoded pictures; 0 decodes anew each time.
    """

    def __init__(
        self,
        people: KeypointSet,
        input_wh: tuple[int, int],
        *,
        box: str = "keypoints",
        enlarge: float = 1.35,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
    ):
        if box not in ("keypoints", "annotated"):
            raise ValueError(f"box must be 'keypoints' or 'annotated', got {box!r}")
        self.people, self.input_wh, self.enlarge = people, tuple(input_wh), enlarge
        self.augmentation, self.seed = augmentation, seed
        self.index = [
            (record, person)
            for record in people.records
            for person in range(len(record.keypoints))
            if (record.keypoints[person, :, 2] > 0).sum() >= 2
        ]
        self.own_box = box == "annotated"
        self.broken: Counter = Counter()
        self._cache: dict = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.index)

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch; unshuffled without augmentation."""
        if self.augmentation is None:
            return np.arange(len(self))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def crop(self, index: int, epoch: int = 0) -> Crop:
        """Load one example.

        A picture that cannot be read is logged by name, counted in `broken`, and replaced by the
        next one, so that an epoch never stops in its middle.

        Raises:
            ImageError: No picture of the set can be read.
        """
        for substitute in range(len(self)):
            record, person = self.index[(index + substitute) % len(self)]
            try:
                image = self._image(record)
                break
            except ImageError as error:
                if not self.broken[record.path.name]:
                    log.warning("%s: skipped: %s", self.people.name, error)
                self.broken[record.path.name] += 1
        else:
            raise ImageError(f"{self.people.name}: none of its {len(self.people)} pictures can be read")
        keypoints = record.keypoints[person]
        labelled = keypoints[:, 2] > 0
        box = record.boxes[person] if self.own_box else box_of_points(keypoints[labelled, :2])
        width, height = self.input_wh
        centre, size = box_to_crop(box, enlarge=self.enlarge, aspect=width / height)
        if self.augmentation is None:
            matrix, flip = crop_matrix(centre, size, self.input_wh), False
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            matrix, flip = random_crop_matrix(rng, centre, size, self.input_wh, self.augmentation)
        pixels = crop(image, matrix, self.input_wh)
        if self.augmentation is not None:
            pixels = random_colour(rng, pixels, self.augmentation)
            pixels = random_cutout(rng, pixels, self.augmentation.cutout)
        if flip:
            keypoints = keypoints[list(self.people.skeleton.flip_indices)]
        return Crop(pixels, apply(matrix, keypoints[:, :2]).astype(np.float32), keypoints[:, 2], matrix)

    def _image(self, record) -> np.ndarray:
        image = self._cache.get(record.path)
        if image is None:
            image = record.load().image
            if image.nbytes <= self._room:
                self._room -= image.nbytes
                self._cache[record.path] = image
        return image


def scale_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 pixels to [-1, 1], MobileNet's input."""
    return images.astype(np.float32) * np.float32(1 / 127.5) - 1


def heatmap_batch(crops: list[Crop], codec: HeatmapCodec) -> tuple[np.ndarray, np.ndarray]:
    """Stack crops into network inputs and target maps; maps of unlabelled keypoints are `UNLABELLED`.

    Returns:
        Images `(batch, height, width, 3)` in [-1, 1] and maps `(batch, map height, map width, K)`.
    """
    images = scale_pixels(np.stack([c.image for c in crops]))
    visible = np.stack([c.visible for c in crops])
    maps = codec.encode(np.stack([c.keypoints for c in crops]), visible)
    maps += UNLABELLED * (visible == 0)[:, None, None, :]
    return images, maps


def batch_indices(crops: PersonCrops, epoch: int, batch: int) -> list[np.ndarray]:
    """Divide an epoch's order into full batches."""
    order = crops.order(epoch)
    return [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]


def keras_dataset(crops: PersonCrops, codec: HeatmapCodec, batch: int, *, epoch: int = 0, workers: int = 2):
    """Return a `keras.utils.PyDataset` of `(images, maps)`, for any Keras backend."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__(workers=workers, max_queue_size=8)
            self.epoch = epoch
            self.batches = batch_indices(crops, epoch, batch)

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, step):
            return heatmap_batch([crops.crop(int(i), self.epoch) for i in self.batches[step]], codec)

        def on_epoch_end(self):
            self.epoch += 1
            self.batches = batch_indices(crops, self.epoch, batch)

    return Batches()


def tf_dataset(crops: PersonCrops, codec: HeatmapCodec, batch: int, *, epochs: range = range(1), workers: int = 2):
    """Return a `tf.data.Dataset` of `(images, maps)`, epoch after epoch, loaded by `workers` threads."""
    import tensorflow as tf

    width, height = crops.input_wh
    map_width, map_height = codec.map_wh
    keypoints = crops.people.skeleton.num_keypoints

    def steps():
        for epoch in epochs:
            for indices in batch_indices(crops, epoch, batch):
                yield epoch, indices

    def load(epoch, indices):
        images, maps = tf.numpy_function(
            lambda epoch, rows: heatmap_batch([crops.crop(int(i), int(epoch)) for i in rows], codec),
            [epoch, indices],
            (tf.float32, tf.float32),
        )
        images.set_shape((batch, height, width, 3))
        maps.set_shape((batch, map_height, map_width, keypoints))
        return images, maps

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((batch,), tf.int64))
    data = tf.data.Dataset.from_generator(steps, output_signature=signature)
    return data.map(load, num_parallel_calls=workers, deterministic=True).prefetch(4)


def load_all(crops: PersonCrops, *, epoch: int = 0, workers: int = 2):
    """Yield every crop in order, loaded ahead by threads; for evaluation."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda i: crops.crop(i, epoch), range(len(crops)))
