"""Make a model's released files from trained weights: float16 weights and a gated int8 file.

    python tools/release.py mobilenet_split_224 runs/w100_224/best.weights.h5 --data lspet

The int8 file is calibrated on the crops of training people (bottom-up networks: on canvases of them) and made from
the float16 weights, so that both files are the same network. The gates run before anything in the package is replaced.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import yaml

import posezoo
from posezoo.cards import Card, read_card
from posezoo.cards.card import FOLDER
from posezoo.codecs import make_codec
from posezoo.data.calibration import person_crops
from posezoo.data.canvases import Canvases, read_lspet_coco17
from posezoo.data.depth_scenes import DepthAugmentation, DepthScenes, RecordFrames
from posezoo.data.hands import HandAugmentation, HandScenes
from posezoo.data.pipeline import Examples, PersonCrops
from posezoo.data.readers import read
from posezoo.export.tflite import export_tflite
from posezoo.synth.frames import SynthFrames
from posezoo.synth.hand_folders import labelled_hands
from posezoo.weights import PACKAGED, save_float16, sha256


def release(name: str, trained: Path, crops: Examples, *, pictures: int) -> dict[str, dict]:
    """Write the files of one model into the package; return their card entries."""
    card, network = read_card(name), posezoo.build(name)
    network.load_weights(trained)
    calibration = person_crops(crops, limit=pictures)
    with tempfile.TemporaryDirectory(dir=PACKAGED) as folder:
        weights = Path(folder) / f"{name}.weights.h5"
        int8 = Path(folder) / f"{name}_int8.tflite"
        save_float16(network, weights)
        network.load_weights(weights)
        sidecar = export_tflite(
            network, card.input, int8, card=card, calibration=calibration, check_pictures=np.stack(calibration[:16])
        )
        for row in sidecar["gates"]:
            print(f"  {row['output']} on {row['kernels']} kernels: PSNR {row['psnr_db']:.1f} dB")
        made = {"float16": weights.replace(PACKAGED / weights.name), "int8": int8.replace(PACKAGED / int8.name)}
    return {
        precision: {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), "recipe": card.recipe}
        for precision, path in made.items()
    }


def depth_frames(dataset: str, data: Path, input_wh: tuple[int, int]) -> DepthScenes:
    """Training frames of a depth network, varied as in training."""
    if dataset == "synth":
        return DepthScenes(SynthFrames(data), input_wh, augmentation=DepthAugmentation())
    return DepthScenes(RecordFrames(read(dataset, data, "train")), input_wh, augmentation=DepthAugmentation())


def hand_frames(card: Card, data: Path) -> HandScenes:
    """Training frames of a hand network, varied as in training."""
    return HandScenes(
        labelled_hands(data), card.input.wh, looks_at=card.input.colour, farthest_m=card.input.farthest_m,
        augmentation=HandAugmentation(),
    )  # fmt: skip


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name from 'posezoo list'")
    parser.add_argument("weights", type=Path, help="trained .weights.h5")
    parser.add_argument("--data", type=Path, required=True, help="labelled data set for calibration")
    parser.add_argument("--dataset", default="lsp", help="its layout: lsp, flic or coco; depth: utd_mhad, synth...")
    parser.add_argument("--pictures", type=int, default=300, help="calibration pictures")
    parser.add_argument("--recipe", help="the command that trained the weights, for the card")
    arguments = parser.parse_args(argv)
    card = read_card(arguments.model)
    if card.family == "hand":
        crops = hand_frames(card, arguments.data)
    elif card.input.depth:
        crops = depth_frames(arguments.dataset, arguments.data, card.input.wh)
    elif make_codec(input_wh=card.input.wh, **card.codec).bottom_up:
        crops = Canvases(read_lspet_coco17(arguments.data, "train"), card.input.wh, single=0.3)
    else:
        crops = PersonCrops(read(arguments.dataset, arguments.data, "train"), card.input.wh)
    entries = release(arguments.model, arguments.weights, crops, pictures=arguments.pictures)
    path = FOLDER / f"{arguments.model}.yaml"
    values = yaml.safe_load(path.read_text())
    if arguments.recipe:
        values["recipe"] = arguments.recipe
    values["weights"] = {k: {**entry, "recipe": values["recipe"]} for k, entry in entries.items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110))
    print(f"{arguments.model}: {sum(e['bytes'] for e in entries.values()) / 1e6:.1f} MB released")


if __name__ == "__main__":
    main()
