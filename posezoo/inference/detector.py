"""A person detector: whole image in, boxes of people out; what `posezoo.load(..., detector=...)` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from posezoo.cards.card import Card, InputSpec
from posezoo.codecs import CenterCodec, make_codec
from posezoo.geometry import apply, invert
from posezoo.inference.bottom_up import fit
from posezoo.inference.images import as_rgb, crop
from posezoo.inference.runners import Runner


class PersonDetector:
    """A centre-point network on any runtime.

        detector = PersonDetector(TFLiteRunner(path, spec), CenterCodec(spec.wh), spec)
        pose = posezoo.load("mobilenet_split_224", detector=detector)

    Args:
        runner: The network.
        codec: Decodes its outputs.
        spec: Size of its input.
        score_threshold: Boxes that score lower are left out; by default the codec's.
        overlap: Of two boxes that overlap more (intersection over union), the lower one is left out; by default the
            codec's.

    Raises:
        ValueError: A threshold outside 0 to 1, or a codec of another input size.
    """

    def __init__(
        self,
        runner: Runner | Callable[[np.ndarray], dict[str, np.ndarray]],
        codec: CenterCodec,
        spec: InputSpec,
        *,
        score_threshold: float | None = None,
        overlap: float | None = None,
    ):
        if codec.input_wh != spec.wh:
            raise ValueError(
                f"the codec decodes an input of {codec.input_wh}, the network's is {spec.wh}; make them equal"
            )
        self.runner, self.spec = runner, spec
        self.codec = replace(
            codec,
            score_threshold=codec.score_threshold if score_threshold is None else score_threshold,
            overlap=codec.overlap if overlap is None else overlap,
        )

    @classmethod
    def of_card(
        cls,
        card: Card,
        runner: Runner | Callable[[np.ndarray], dict[str, np.ndarray]],
        *,
        score_threshold: float | None = None,
        overlap: float | None = None,
    ) -> PersonDetector:
        """Return the detector of a card, whose codec and input it has; the other arguments are the class's."""
        codec = make_codec(input_wh=card.input.wh, **card.codec)
        return cls(runner, codec, card.input, score_threshold=score_threshold, overlap=overlap)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find people.

        Args:
            image: RGB uint8 `(height, width, 3)`, or another array as `posezoo.inference.images.as_rgb` takes. All of
                it is seen, fitted into the network's input.

        Returns:
            Boxes `(N, 4)` as x, y, width, height in image pixels, within the image, best first, and scores `(N,)`.

        Raises:
            ImageError: An array that is no image.
            ValueError: The network's outputs are not the codec's, or hold NaN.
        """
        image = as_rgb(image)
        wh = (image.shape[1], image.shape[0])
        matrix = fit(wh, self.spec.wh)
        outputs = self.runner(crop(image, matrix, self.spec.wh)[None])
        boxes, scores = self.codec.decode({name: value[0] for name, value in outputs.items()})
        return to_image(boxes, scores, matrix, wh)


def to_image(
    boxes: np.ndarray, scores: np.ndarray, matrix: np.ndarray, image_wh: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring boxes of a fitted input back to the image, cut at its borders.

    Args:
        boxes: `(N, 4)` in input pixels.
        scores: `(N,)`.
        matrix: `(2, 3)` from image to input, which neither turns nor mirrors.
        image_wh: Width and height of the image.

    Returns:
        Boxes `(M, 4)` in image pixels, float32, those that lie in the image, and their scores `(M,)`.
    """
    back, limit = invert(matrix), np.array(image_wh) - 0.5
    low = np.clip(apply(back, boxes[:, :2]), -0.5, limit)
    high = np.clip(apply(back, boxes[:, :2] + boxes[:, 2:]), -0.5, limit)
    inside = (high > low).all(axis=1)
    return np.concatenate([low, high - low], axis=1)[inside].astype(np.float32), scores[inside]
