"""Make a released single-person model's scores probabilities: the chance that a keypoint is within 0.2 torso.

    python tools/calibrate_scores.py mobilenet_split_075_192 --data coco_people
    python tools/calibrate_scores.py mobilenet_split_075_192 --data coco_people --write --plot docs/images

Labelled keypoints of the validation people, person boxes, the released int8 file. The error of the calibration is
measured by halves: each half of the people is scored by the curve of the other. --write puts the curve of all people on
the card; the network and its files stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import yaml

import posezoo
from posezoo.cards.card import FOLDER
from posezoo.commands.display import track
from posezoo.data.pipeline import PersonCrops
from posezoo.data.readers import read
from posezoo.evaluation.calibration import fit_calibration, reliability
from posezoo.evaluation.pck import torso_size
from posezoo.evaluation.plots import plot_reliability
from posezoo.evaluation.top_down import labels_of, predict_crops

THRESHOLD = 0.2


def heights_and_answers(
    name: str, crops: PersonCrops, threads: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the int8 file; return peaks' heights, whether each is right, and which picture it is of, all `(N,)`."""
    model = posezoo.load(name, runtime="tflite", threads=threads)
    codec = dataclasses.replace(model.codec, calibration=())
    points, heights = predict_crops(
        model.runner, crops, codec, skeleton=model.card.skeleton, workers=1,
        progress=lambda rows: track(rows, name, total=len(crops)),
    )  # fmt: skip
    truth, _ = labels_of(crops)
    size = torso_size(truth, crops.people.skeleton)[:, None]
    counted = (truth[..., 2] > 0) & (size > 0)
    right = np.linalg.norm(points - truth[..., :2], axis=-1) < THRESHOLD * size
    pictures = np.array([record.image_id for record, _ in crops.index])[:, None].repeat(truth.shape[1], axis=1)
    return heights[counted], right[counted], pictures[counted]


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a released single-person model")
    parser.add_argument("--data", type=Path, required=True, help="COCO folder with validation people")
    parser.add_argument("--write", action="store_true", help="put the curve on the card")
    parser.add_argument("--plot", type=Path, help="folder for reliability_MODEL.png")
    parser.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    arguments = parser.parse_args(argv)
    card = posezoo.info(arguments.model)
    if card.codec["type"] != "heatmap" or card.input.colour != "RGB":
        raise SystemExit(f"{arguments.model}: expected a single-person network of heatmaps in colour pictures")
    crops = PersonCrops(read("coco", arguments.data, "val", card.skeleton), card.input.wh, box="annotated")
    heights, right, pictures = heights_and_answers(arguments.model, crops, arguments.threads)
    curve = fit_calibration(heights, right)
    half = np.isin(pictures, np.unique(pictures)[::2])
    crossed = np.empty_like(heights)
    for rows in (half, ~half):
        crossed[rows] = np.interp(heights[rows], *np.array(fit_calibration(heights[~rows], right[~rows])).T)
    before, after = (reliability(np.clip(s, 0, 1), right) for s in (heights, crossed))
    print(f"{len(heights)} labelled keypoints of {len(crops)} people, {right.mean():.3f} right")
    print(f"calibration error {before.error:.3f} of heights, {after.error:.3f} calibrated on the other half")
    print("curve: " + ", ".join(f"{height:g} -> {chance:g}" for height, chance in curve))
    if arguments.plot:
        path = arguments.plot / f"reliability_{arguments.model}.png"
        plot_reliability({"peaks' heights": before, "calibrated": after}, path, title=arguments.model)
        print(f"written: {path}")
    if arguments.write:
        path = FOLDER / f"{arguments.model}.yaml"
        values = yaml.safe_load(path.read_text())
        values["codec"]["calibration"] = [list(pair) for pair in curve]
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110))
        print(f"written: {path.name}")
    return {"before": before.error, "after": after.error, "curve": curve}


if __name__ == "__main__":
    main()
