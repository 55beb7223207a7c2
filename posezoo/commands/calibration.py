"""Labelled data as the pictures that files are calibrated and compared on: of the kind the network was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posezoo.cards import Card
from posezoo.commands.common import CommandError

if TYPE_CHECKING:
    from posezoo.data.hands import HandScenes
    from posezoo.data.pipeline import Examples

#: What a network looks at -> the layouts of data that show it, the default first.
LAYOUTS = {
    "one person": ("lsp", "flic", "coco"),
    "several people": ("lsp", "coco"),
    "depth": ("synth", "utd_mhad", "dih", "panoptic_depth", "itop"),
    "two hands": ("hands",),
}
#: Every layout once.
ALL_LAYOUTS = tuple(dict.fromkeys(name for names in LAYOUTS.values() for name in names))


def kind_of(card: Card) -> str:
    """What a network looks at, a key of `LAYOUTS`.

    Raises:
        CommandError: It finds no people, so that no labelled data say what it should see.
    """
    from posezoo.codecs import CODECS, make_codec

    codec = card.codec["type"]
    if codec not in CODECS:
        raise CommandError(
            f"{card.name} finds no people, so that no labelled people can be cut out for it; give --calibration FOLDER"
        )
    if codec == "hand":
        return "two hands"
    if card.input.depth:
        return "depth"
    bottom_up = make_codec(input_wh=card.input.wh, **card.codec).bottom_up
    return "several people" if bottom_up else "one person"


def training_examples(card: Card, data: Path, *, dataset: str | None = None, split: str = "train") -> Examples:
    """Open labelled data as a network sees them in training.

    One person is cut out by the box; networks that find several people see canvases of people (`lsp`) or whole pictures
    (`coco`); depth and hand networks see frames, varied as in training.

    Args:
        card: The network's card.
        data: The data set's folder. Of `synth` and `hands` the frames themselves or, in it, a folder per split.
        dataset: Its layout; by default the first that `LAYOUTS` has for the network.
        split: Which part.

    Raises:
        CommandError: A layout that does not hold what the network looks at, no such split, or nobody in it.
        FileNotFoundError: No annotations in the folder.
    """
    kind = kind_of(card)
    dataset = dataset or LAYOUTS[kind][0]
    if dataset not in LAYOUTS[kind]:
        raise CommandError(
            f"--dataset {dataset}: {card.name} looks at {kind}, which it does not hold; expected "
            + " or ".join(LAYOUTS[kind])
        )
    try:
        examples = _open(kind, card, data, dataset, split)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not len(examples):
        raise CommandError(f"{data}: nobody is labelled in split '{split}'")
    return examples


def _open(kind: str, card: Card, data: Path, dataset: str, split: str) -> Examples:
    from posezoo.data.canvases import Canvases, read_lspet_coco17
    from posezoo.data.depth_scenes import DepthAugmentation, DepthScenes, RecordFrames
    from posezoo.data.pipeline import PersonCrops
    from posezoo.data.readers import read
    from posezoo.data.scenes import Pictures
    from posezoo.synth.frames import SynthFrames

    if kind == "two hands":
        return hand_frames(card, _of_split(data, split))
    if kind == "depth":
        synth = dataset == "synth"
        frames = SynthFrames(_of_split(data, split)) if synth else RecordFrames(read(dataset, data, split))
        return DepthScenes(frames, card.input.wh, augmentation=DepthAugmentation())
    if kind == "one person":
        return PersonCrops(read(dataset, data, split), card.input.wh)
    if dataset == "coco":
        return Pictures(read(dataset, data, split), card.input.wh)
    return Canvases(read_lspet_coco17(data, split), card.input.wh, single=0.3)


def hand_frames(card: Card, data: Path) -> HandScenes:
    """Frames of hands as a hand network sees them, varied as in training."""
    from posezoo.data.hands import HandAugmentation, HandScenes
    from posezoo.synth.hand_folders import labelled_hands

    return HandScenes.for_input(labelled_hands(data), card.input, augmentation=HandAugmentation())


def _of_split(data: Path, split: str) -> Path:
    """A split's folder where there is one, else the folder itself."""
    return data / split if (data / split).is_dir() else data
