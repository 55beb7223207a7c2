"""Other projects' networks behind posezoo's own interfaces: yardsticks, and a person detector.

    from peers import PersonDetector

    detector = PersonDetector("peers/ssd_mobilenet_v1_coco_300_uint8.tflite")
    pose = posezoo.load("mobilenet_split_224", detector=detector)

The files are not part of posezoo. `PEERS` names the pose networks, `LATENCY_ONLY` those that are only timed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.codecs import HeatmapCodec
from posezoo.geometry import apply, box_to_crop, crop_matrix, invert
from posezoo.inference.images import crop
from posezoo.inference.poses import Poses
from posezoo.inference.runners import RunnerError, dequantise
from posezoo.skeletons import COCO17, Skeleton

if TYPE_CHECKING:
    from typing_extensions import Self

#: Keypoints of AI Challenger in its order, which starts with the person's right side. Measured on LSPet: read the
#: other way round, the two networks that use it find a quarter of the joints they find so.
AI_CHALLENGER14 = Skeleton(
    "ai_challenger14",
    (
        "head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    ),
)  # fmt: skip

GREY = 127


class TFLiteFile:
    """Any TFLite file with one input, on the CPU.

    Args:
        path: The file.
        threads: Number of threads; the runtime's choice by default.

    Raises:
        RunnerError: The file is missing, or the runtime cannot load it.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None):
        from ai_edge_litert.interpreter import Interpreter

        path = Path(path)
        if not path.is_file():
            raise RunnerError(f"{path}: no such file; expected a TFLite model")
        try:
            self._interpreter = Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise RunnerError(f"{path}: not a TFLite model that this runtime can load ({error})") from error
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.bytes = path.stat().st_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input tensor, batch included."""
        return tuple(int(side) for side in self._input["shape"])

    def blank(self) -> np.ndarray:
        """An input tensor of zeros."""
        return np.zeros(self.input_shape, self._input["dtype"])

    def invoke(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Run an input tensor; return the outputs as the file holds them, in its order."""
        self._interpreter.set_tensor(self._input["index"], tensor)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(details["index"]) for details in self._outputs]

    def finish(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        """The file's own outputs to float32."""
        return [dequantise(value, details) for value, details in zip(raw, self._outputs, strict=True)]


# ------------------------------------------------------------------------------------------ pose networks


def decode_movenet(outputs: list[np.ndarray], input_px: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Read MoveNet's output `(1, 1, 17, 3)` of y, x, score; y and x are fractions of the input.

    Returns:
        Keypoints `(17, 2)` in input pixels and scores `(17,)`.
    """
    points = outputs[0].reshape(-1, 3)
    return points[:, 1::-1] * input_px - 0.5, points[:, 2]


def decode_posenet(
    heatmaps: np.ndarray, offsets: np.ndarray, *, stride: int = 16, left_px: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Decode PoseNet's maps for a single person: the highest cell of each map plus the offset told there.

    Args:
        heatmaps: `(height, width, K)` before the sigmoid.
        offsets: `(height, width, 2K)` in input pixels, first all y, then all x.
        stride: Input pixels per cell.
        left_px: Columns of the input left of the crop.

    Returns:
        Keypoints `(K, 2)` in crop pixels and scores `(K,)`.
    """
    height, width, count = heatmaps.shape
    flat = heatmaps.reshape(-1, count)
    cell, k = flat.argmax(axis=0), np.arange(count)
    y, x = np.divmod(cell, width)
    shift = offsets.reshape(height * width, 2, count)[cell, :, k]
    xy = np.stack([x, y], axis=-1) * stride + shift[:, ::-1] - (left_px, 0)
    return xy.astype(np.float32), 1 / (1 + np.exp(-flat[cell, k]))


POSENET_SIZE = (353, 481)
POSENET_LEFT_PX = (POSENET_SIZE[1] - POSENET_SIZE[0]) // 2


def _uint8(crop: np.ndarray) -> np.ndarray:
    return crop[None]


def _beside_grey(crop: np.ndarray) -> np.ndarray:
    """The square crop in the middle of PoseNet's wider input."""
    right = POSENET_SIZE[1] - POSENET_SIZE[0] - POSENET_LEFT_PX
    return np.pad(crop, ((0, 0), (POSENET_LEFT_PX, right), (0, 0)), constant_values=GREY)[None]


def _float_bgr(crop: np.ndarray) -> np.ndarray:
    """Blue first, 0 to 255: of six ways tried on LSPet the one that works best, by far."""
    return np.ascontiguousarray(crop[None, ..., ::-1], np.float32)


def _posenet(outputs):
    return decode_posenet(outputs[0][0], outputs[1][0], left_px=POSENET_LEFT_PX)


def _maps(stride: int):
    codec = HeatmapCodec((192, 192), stride=stride, decoder="quarter")
    return lambda outputs: codec.decode(outputs[0][0])


@dataclass(frozen=True)
class PeerSpec:
    """How to use a pose network's file.

    Attributes:
        precision: What the file computes in.
        crop_px: Side of the square crop that it takes.
        skeleton: Its keypoints.
        prepare: Crop `(crop_px, crop_px, 3)` RGB uint8 to input tensor.
        decode: Float outputs to keypoints `(K, 2)` in crop pixels and scores `(K,)`.
        person_box: Factor on a person's box that suits it.
    """

    precision: str
    crop_px: int
    skeleton: Skeleton
    prepare: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]
    person_box: float = 1.25


#: File name without its ending -> how to use it.
PEERS = {
    "movenet_lightning_int8_v4": PeerSpec("int8", 192, COCO17, _uint8, decode_movenet, 1.0),
    "movenet_lightning_ptq_uint8": PeerSpec("int8", 192, COCO17, _uint8, decode_movenet, 1.0),
    "posenet_mbv1_075_353_481_quant_nodecoder": PeerSpec("int8", 353, COCO17, _beside_grey, _posenet),
    "cpm_mobile_192_float": PeerSpec("float32", 192, AI_CHALLENGER14, _float_bgr, _maps(2)),
    "hourglass_mobile_192_float": PeerSpec("float32", 192, AI_CHALLENGER14, _float_bgr, _maps(4)),
}

#: The peer that others are compared with.
YARDSTICK = "movenet_lightning_int8_v4"

DETECTOR = "ssd_mobilenet_v1_coco_300_uint8"

#: Files that are timed, not measured for accuracy.
LATENCY_ONLY = ("blazepose_detector_128_float", "mediapipe_hand_landmark_3d_256_intquant", DETECTOR)


class Decoded:
    """The codec of a `Peer`, whose output is already keypoints; for `posezoo.evaluation.top_down`."""

    output = "keypoints"

    @staticmethod
    def decode(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split `(batch, K, 3)` into keypoints `(batch, K, 2)` and scores `(batch, K)`."""
        return points[..., :2], points[..., 2]


class Peer:
    """A pose network of another project as a runner of posezoo.

    Args:
        name: A name in `PEERS`.
        folder: Where the files are.
        threads: Threads of the runtime; its own choice by default.

    Raises:
        KeyError: Unknown name.
        RunnerError: No such file, or the runtime cannot load it.
    """

    def __init__(self, name: str, folder: Path | str, *, threads: int | None = None):
        if name not in PEERS:
            raise KeyError(f"unknown peer '{name}'; expected one of {', '.join(PEERS)}")
        self.name, self.spec = name, PEERS[name]
        self.file = TFLiteFile(peer_path(folder, name), threads=threads)

    def decode(self, raw: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The file's outputs to keypoints `(K, 2)` in crop pixels and scores `(K,)`."""
        return self.spec.decode(self.file.finish(raw))

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run crops `(batch, crop_px, crop_px, 3)`; return `keypoints` `(batch, K, 3)`: x, y, score."""
        found = [self.decode(self.file.invoke(self.spec.prepare(image))) for image in images]
        return {"keypoints": np.stack([np.column_stack([xy, score]) for xy, score in found]).astype(np.float32)}


class PaddleONNX:
    """A network of PaddleDetection (Apache-2.0) in ONNX, one RGB image normalised as ImageNet networks are.

    Args:
        path: The file, input `(1, 3, height, width)`.
        threads: Of onnxruntime; one by default.
    """

    name = ""
    MEAN = np.array([0.485, 0.456, 0.406], np.float32)
    STD = np.array([0.229, 0.224, 0.225], np.float32)

    def __init__(self, path: Path | str, *, threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads or 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self._input,) = self.session.get_inputs()
        height, width = self._input.shape[2:]
        self.input_wh, self.bytes = (int(width), int(height)), Path(path).stat().st_size

    @classmethod
    def find(cls, shared: Path, *, threads: int | None = None) -> Self | None:
        """Load it from a shared folder, or print that it is left out and return None."""
        path = shared / "tools" / "teachers" / "models" / f"{cls.name}.onnx"
        if not path.is_file():
            print(f"left out: no {path}")
            return None
        return cls(path, threads=threads)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 images `(batch, height, width, 3)` to the input tensor."""
        x = (images.astype(np.float32) / 255 - self.MEAN) / self.STD
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def invoke(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Run one image's tensor; return the outputs in the file's order."""
        return self.session.run(None, {self._input.name: tensor})


class TinyPose(PaddleONNX):
    """PP-TinyPose as a runner of posezoo: `(1, 3, 256, 192)` to `(1, 17, 64, 48)`."""

    name = "pp_tinypose_256x192"

    def __init__(self, path: Path | str, *, threads: int | None = None):
        super().__init__(path, threads=threads)
        # A pixel of its maps stands for the input pixel four times as far from the corner.
        self.codec = HeatmapCodec(self.input_wh, half_pixel=False)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run crops; return `heatmaps` `(batch, 64, 48, 17)`."""
        maps = [self.invoke(row[None])[0] for row in self.prepare(images)]
        return {"heatmaps": np.concatenate(maps).transpose(0, 2, 3, 1)}


class PicoDet(PaddleONNX):
    """PicoDet-S for people as the `detector` of `posezoo.load`: `(1, 3, 320, 320)` to boxes and scores.

    Attributes:
        score_threshold: Boxes that score lower are left out.
        overlap: Of two boxes that overlap more (intersection over union), the lower one is left out.
    """

    name = "picodet_s_320_pedestrian"
    score_threshold, overlap = 0.3, 0.6

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find people in RGB uint8 `(height, width, 3)`; return boxes `(N, 4)` in pixels and scores `(N,)`."""
        import cv2

        scale = np.array([image.shape[1] / self.input_wh[0], image.shape[0] / self.input_wh[1]])
        shrinks = scale[0] > 1
        resized = cv2.resize(image, self.input_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        corners, scores = self.invoke(self.prepare(resized[None]))
        corners, scores = corners[0].reshape(-1, 2, 2) * scale, scores[0, 0]
        low, high = (corners[:, i].clip(0, image.shape[1::-1]) for i in (0, 1))
        boxes = np.concatenate([low - 0.5, high - low], axis=1).astype(np.float32)
        wanted = (scores >= self.score_threshold) & (boxes[:, 2:] > 0).all(axis=1)
        boxes, scores = boxes[wanted], scores[wanted]
        if not len(boxes):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), self.score_threshold, self.overlap)
        kept = np.asarray(kept, int).ravel()
        return boxes[kept], scores[kept]


class TwoStage:
    """A detector, then PP-TinyPose in every box: picture to poses."""

    def __init__(self, detector: Callable, pose: TinyPose, *, padding: float = 1.25):
        self.detector, self.pose, self.padding = detector, pose, padding

    def __call__(self, image: np.ndarray) -> Poses:
        boxes, found = self.detector(image)
        if not len(boxes):
            return Poses.empty(COCO17)
        width, height = self.pose.input_wh
        matrices = []
        for box in boxes:
            centre, size = box_to_crop(box, enlarge=self.padding, aspect=width / height)
            matrices.append(crop_matrix(centre, size, (width, height)))
        crops = np.stack([crop(image, matrix, (width, height)) for matrix in matrices])
        points, scores = self.pose.codec.decode(self.pose(crops)["heatmaps"])
        keypoints = np.stack([apply(invert(m), p) for m, p in zip(matrices, points, strict=True)])
        scores = scores.clip(0, 1)
        return Poses(keypoints, scores, COCO17, scores.mean(axis=1) * found, boxes)


def peer_path(folder: Path | str, name: str) -> Path:
    """Where a peer's file is."""
    return Path(folder) / f"{name}.tflite"


def present(names: Iterable[str], folder: Path | str) -> list[str]:
    """Keep the peers whose files are there, each content once; print what is left out and why.

    Two of the MoveNet files that circulate under different names are the same file.
    """
    seen: dict[str, str] = {}
    for name in names:
        path = peer_path(folder, name)
        if not path.is_file():
            print(f"left out: no {path}")
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        if content in seen:
            print(f"left out: {name} is the same file as {seen[content]}")
        seen.setdefault(content, name)
    return list(seen.values())


# ------------------------------------------------------------------------------------------------ detector

#: Class of people in the detector's output.
PERSON = 0


def people_of(
    outputs: list[np.ndarray], width: int, height: int, *, score_threshold: float = 0.5, overlap: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a TFLite detector's four outputs into person boxes.

    Args:
        outputs: Boxes `(1, n, 4)` as top, left, bottom, right in fractions of the picture, classes `(1, n)`,
            scores `(1, n)`, and how many of the n are valid `(1,)`.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        score_threshold: Boxes that score lower are left out.
        overlap: Of two boxes that overlap more (intersection over union), the lower one is left out.

    Returns:
        Boxes `(N, 4)` as x, y, width, height in picture pixels, inside the picture, best first; scores `(N,)`.
    """
    import cv2

    boxes, classes, scores, count = (np.asarray(value, np.float32) for value in outputs)
    valid = int(count.item())
    corners, classes, scores = boxes[0, :valid].clip(0, 1), classes[0, :valid], scores[0, :valid]
    top, left, bottom, right = corners.T
    wanted = (np.rint(classes) == PERSON) & (scores >= score_threshold) & (right > left) & (bottom > top)
    found = np.stack([left * width - 0.5, top * height - 0.5, (right - left) * width, (bottom - top) * height], axis=-1)
    found, scores = found[wanted], scores[wanted]
    if not len(found):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    kept = np.asarray(cv2.dnn.NMSBoxes(found.tolist(), scores.tolist(), score_threshold, overlap), int).ravel()
    return found[kept], scores[kept]


class PersonDetector:
    """SSD MobileNet v1 as the `detector` of `posezoo.load`.

    The file returns ten objects of all classes at most: use another detector for crowds.

    Args:
        path: The TFLite file.
        threads: Threads of the runtime; its own choice by default.
        score_threshold: Boxes that score lower are left out.
        overlap: Of two boxes that overlap more (intersection over union), the lower one is left out.

    Raises:
        RunnerError: No such file, or it is no detector with four outputs.
    """

    def __init__(
        self, path: Path | str, *, threads: int | None = None, score_threshold: float = 0.5, overlap: float = 0.5
    ):
        self.file = TFLiteFile(path, threads=threads)
        self.score_threshold, self.overlap = score_threshold, overlap
        given = len(self.file.invoke(self.file.blank()))
        if given != 4:
            raise RunnerError(f"{path}: has {given} outputs; expected boxes, classes, scores and count of a detector")

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find people in RGB uint8 `(height, width, 3)`; return boxes `(N, 4)` in pixels and scores `(N,)`."""
        import cv2

        height, width = image.shape[:2]
        _, rows, columns, _ = self.file.input_shape
        resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        outputs = self.file.finish(self.file.invoke(resized[None]))
        return people_of(outputs, width, height, score_threshold=self.score_threshold, overlap=self.overlap)
