"""What compressing a network takes, whatever its family: examples, targets, losses and a score, by its card's codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from posezoo.cards import Card
from posezoo.codecs import make_codec
from posezoo.data.augment import Augmentation
from posezoo.data.calibration import person_crops
from posezoo.data.canvases import Canvases, read_lspet_coco17, validation_canvases
from posezoo.data.depth_scenes import DepthAugmentation, DepthScenes, RecordFrames
from posezoo.data.hand_frames import HandFrames
from posezoo.data.hands import HandAugmentation, HandScenes, hand_batch
from posezoo.data.pipeline import Examples, PersonCrops, training_batch
from posezoo.data.readers import read
from posezoo.data.scenes import Pictures, scene_batch
from posezoo.data.stick_figures import write_stick_figures
from posezoo.evaluation.bottom_up import find_in_scenes, limb_joints, score_scenes
from posezoo.evaluation.hands import find_hands, score_hands
from posezoo.evaluation.pose_machines import from_scenes, score_landmarks
from posezoo.evaluation.top_down import evaluate_pck
from posezoo.inference.runners import normalise
from posezoo.synth.hand_folders import labelled_hands
from posezoo.training import associative_embedding, losses
from posezoo.training.hand import released_losses
from posezoo.training.pose_machines import squared_error

#: Function from pictures (as the card's input takes them before scaling) to outputs by name: any runtime.
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Task:
    """What a network was trained for.

    Attributes:
        metric: Name of the score.
        dataset: Name of the data, as on cards.
        examples: How many validation examples the score looks at.
        protocol: What is measured on them.
        train: Training examples, varied.
        encode: Function from a list of examples to network inputs and targets.
        losses: Loss of each output.
        score: Function from a runner to the metric on the validation examples, 0 to 1.
        calibration: Function from a number to so many pictures like those that the network will see.
    """

    metric: str
    dataset: str
    examples: int
    protocol: str
    train: Examples
    encode: Callable
    losses: dict[str, Callable]
    score: Callable[[Runner], float]
    calibration: Callable[[int], list[np.ndarray]]


def task_of(card: Card, dataset: str, data: Path, *, limit: int = 0, workers: int = 2, seed: int = 1) -> Task:
    """Return the task of a card's network on a data set.

    Args:
        card: The network's card.
        dataset: Layout: lsp, flic or coco; for bottom-up networks lspet (canvases) or coco; for depth utd_mhad, dih,
            panoptic_depth, itop or synth; for hands: hands.
        data: The data set's folder. Of synth and hands a folder with train/ and val/, each written by 'posezoo synth';
            of hands also recordings, or `drawn:COUNT:SEED`, whose validation frames have the next seed.
        limit: Most validation examples; 0 for all.
        workers: Loader threads.
        seed: Of every random number.

    Raises:
        SystemExit: A data set that does not fit the network.
    """
    kind = card.codec["type"]
    makers = {
        "heatmap": _crops, "coordinate": _crops, "associative_embedding": _scenes, "part_affinity": _frames,
        "hand": _hands,
    }  # fmt: skip
    if kind == "classes":
        raise SystemExit(
            f"{card.name} classifies pictures, and these recipes score keypoints; compress the pose network that is "
            "trained from it, such as efficienthrnet_h-1"
        )
    if kind not in makers:
        raise SystemExit(f"{card.name}: networks of codec '{kind}' have no task; expected one of {', '.join(makers)}")
    return makers[kind](card, dataset, data, limit, workers, seed)


def _crops(card: Card, dataset: str, data: Path, limit: int, workers: int, seed: int) -> Task:
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    varied = Augmentation(any_rotation=0.3, colour=0.5, grey=0.05)
    people = {split: read(dataset, data, split) for split in ("train", "val")}
    people["val"].records = people["val"].records[: limit or None]
    train = PersonCrops(people["train"], card.input.wh, augmentation=varied, seed=seed)
    checked = PersonCrops(people["val"], card.input.wh)
    told = "labelled validation people, cropped as in training"
    encode = partial(training_batch, codec=codec, scale=partial(normalise, spec=card.input))
    return Task(
        "PCK@0.2", _named(dataset, data), len(checked), told, train, encode,
        {codec.output: losses.LOSSES[codec.output]},
        lambda run: float(evaluate_pck(run, checked, codec, skeleton=card.skeleton, workers=workers).at(0.2)),
        lambda count: person_crops(PersonCrops(people["train"], card.input.wh), limit=count),
    )  # fmt: skip


def _scenes(card: Card, dataset: str, data: Path, limit: int, workers: int, seed: int) -> Task:
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    varied = Augmentation(any_rotation=0.3, colour=0.5, grey=0.05)
    if dataset == "coco":
        people = {split: read("coco", data, split) for split in ("train", "val")}
        people["val"].records = people["val"].records[: limit or None]
        train = Pictures(people["train"], card.input.wh, augmentation=varied, seed=seed)
        checked, plain, joints = Pictures(people["val"], card.input.wh), Pictures(people["train"], card.input.wh), None
    elif dataset in ("lspet", "lsp"):
        singles = {split: read_lspet_coco17(data, split) for split in ("train", "val")}
        train = Canvases(singles["train"], card.input.wh, augmentation=varied, seed=seed)
        checked = validation_canvases(singles["val"], card.input.wh, length=limit or 200)
        plain, joints = Canvases(singles["train"], card.input.wh, single=0.3), limb_joints(card.skeleton)
    else:
        raise SystemExit(f"--dataset {dataset}: {card.name} finds several people; expected coco or lspet")

    def score(run: Runner) -> float:
        found = find_in_scenes(run, checked, codec, card.skeleton, workers=workers)
        return float(score_scenes(found, joints=joints).ap)

    told = "validation canvases of several people" if joints else "validation pictures"
    return Task(
        "AP", _named(dataset, data), len(checked), told, train,
        partial(scene_batch, codec=codec, scale=partial(normalise, spec=card.input)),
        associative_embedding.losses(adaptive=0.01), score, lambda count: person_crops(plain, limit=count),
    )  # fmt: skip


def _frames(card: Card, dataset: str, data: Path, limit: int, workers: int, seed: int) -> Task:
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    if dataset == "synth":
        from posezoo.synth.frames import SynthFrames

        sets = {split: SynthFrames(Path(data) / split) for split in ("train", "val")}
    else:
        sets = {split: RecordFrames(read(dataset, data, split)) for split in ("train", "val")}
    train = DepthScenes(sets["train"], card.input.wh, augmentation=DepthAugmentation(), seed=seed)
    checked = DepthScenes(sets["val"], card.input.wh, length=min(limit or len(sets["val"]), len(sets["val"])))

    def score(run: Runner) -> float:
        found = from_scenes(find_in_scenes(run, checked, codec, card.skeleton, workers=workers))
        return float(score_landmarks(found).summary(threshold=card.score_threshold).f_score)

    encode = partial(scene_batch, codec=codec, scale=partial(normalise, spec=card.input), skeleton=card.skeleton)
    return Task(
        "F-score", _named(dataset, data), len(checked), "landmarks in validation frames", train, encode,
        {"heatmaps": squared_error, "pafs": squared_error}, score, lambda count: person_crops(train, limit=count),
    )  # fmt: skip


def _hands(card: Card, dataset: str, data: Path, limit: int, workers: int, seed: int) -> Task:
    if dataset != "hands":
        raise SystemExit(f"--dataset {dataset}: {card.name} looks at two hands; expected hands")
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    train = HandScenes.for_input(_hand_frames(data, "train"), card.input, augmentation=HandAugmentation(), seed=seed)
    frames = _hand_frames(data, "val")
    length = min(limit or len(frames), len(frames))
    checked = HandScenes.for_input(frames, card.input, length=length, seed=seed)
    trained = {"heatmaps": "points", "visibility": "visibility"}

    def encode(scenes: list) -> tuple:
        images, targets = hand_batch(scenes, codec, scale=partial(normalise, spec=card.input), skeleton=card.skeleton)
        return images, {output: targets[name] for output, name in trained.items()}

    def score(run: Runner) -> float:
        return score_hands(find_hands(run, checked, codec, card.skeleton, workers=workers), card.skeleton).pck

    return Task(
        "PCK@0.1", _named(dataset, data), len(checked), "seen keypoints in validation frames, by the hand's box", train,
        encode, released_losses(input_height=card.input.wh[1]), score, lambda count: person_crops(train, limit=count),
    )  # fmt: skip


def _hand_frames(data: Path, split: str) -> HandFrames:
    """A split's labelled hands: those of its folder, or drawn ones."""
    if str(data).startswith("drawn:"):
        _, count, seed = str(data).split(":")
        return labelled_hands(f"drawn:{count}:{int(seed) + (split == 'val')}")
    return labelled_hands(Path(data) / split)


def _named(dataset: str, data: Path) -> str:
    """A data set's name on cards: its folder's where the layout has several."""
    return Path(data).name if dataset in ("lsp", "synth", "hands") else dataset


def generated(card: Card) -> tuple[str, Path]:
    """Data for smoke runs: layout and folder."""
    import tempfile

    if card.codec["type"] == "hand":
        return "hands", Path("drawn:8:1")
    if card.input.depth:
        from depth_recipes import rendered_as_dih

        return "dih", rendered_as_dih(4, seed=1)
    layout = "lspet" if card.codec["type"] == "associative_embedding" else "lsp"
    return layout, write_stick_figures(tempfile.mkdtemp())
