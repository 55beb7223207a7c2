"""Labelled hands from a folder, whatever laid it out."""

from __future__ import annotations

from pathlib import Path

from posezoo.data.drawn_hands import DrawnHands
from posezoo.data.hand_frames import HandFrames
from posezoo.data.hand_readers import HandRecording, IcvlHands, MsraHands, NyuHands
from posezoo.errors import UserError
from posezoo.synth.write import INDEX


class HandFolderError(UserError, ValueError):
    """A folder that holds no labelled hands."""


def labelled_hands(folder: Path | str, *, count: int | None = None) -> HandFrames:
    """Open labelled hands.

    Args:
        folder: What `posezoo synth --hands` wrote, a recording (`posezoo.data.hand_readers.HandRecording`), or the
            folder of MSRA's, NYU's or ICVL's hands; `drawn:COUNT:SEED` draws flat ones, for smoke tests.
        count: How many frames to take, of rendered and recorded ones; all by default.

    Raises:
        HandFolderError: None of these.
    """
    name, *numbers = str(folder).split(":")
    if name == "drawn" and len(numbers) == 2 and all(n.isdecimal() for n in numbers):
        return DrawnHands(int(numbers[0]), seed=int(numbers[1]))
    folder = Path(folder)
    if (folder / INDEX).exists():
        from posezoo.synth.hand_frames import SynthHands

        return SynthHands(folder, count=count)
    if (folder / "labels").is_dir():
        return HandRecording(folder, count=count)
    if (folder / "joint_data.mat").exists():
        return NyuHands(folder)
    if (folder / "labels.txt").exists():
        return IcvlHands(folder / "labels.txt")
    if any(folder.glob("P*/*/joint.txt")):
        return MsraHands(folder)
    raise HandFolderError(
        f"{folder}: no labelled hands; expected what 'posezoo synth --hands' writes, a recording as docs/hand.md "
        "describes it, or the unpacked hands of MSRA, NYU or ICVL"
    )
