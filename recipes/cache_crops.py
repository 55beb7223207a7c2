"""Cut the people of a data set into a cache of crops, so that training need not decode whole pictures.

    python recipes/cache_crops.py --data coco_people --out crops/coco_people --nobody 0.1
    python recipes/cache_crops.py --data stanford40 --out crops/stanford40 --teacher tinypose.onnx
    python recipes/train_mobilenet_split.py --crops crops/coco_people:0.6,crops/stanford40:0.4 ...

Crops are a little larger than a network needs, for rotation and scale. A teacher, any top-down heatmap network in ONNX
(one image, normalised as ImageNet networks are, to one map per keypoint), leaves its maps in the cache; the training
recipe's `--taught-share` learns them beside the labels. A cache that is whole is left alone: repeat the command freely.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from posezoo.commands.display import track
from posezoo.data.cached_crops import CachedCrops, CacheError, Teacher, write_crops, write_taught
from posezoo.data.readers import read

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def main(argv=None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--dataset", default="coco", help="its layout: coco, lsp or flic (default: %(default)s)")
    parser.add_argument("--split", default="train", help="train, val or all (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--side", type=int, default=256, help="side of the crops in pixels (default: %(default)s)")
    parser.add_argument("--enlarge", type=float, default=1.5, help="factor on the person's box (default: %(default)s)")
    parser.add_argument(
        "--nobody", type=float, default=0.0,
        help="crops without a person, as a share of the people; only where every person is labelled or ignored",
    )  # fmt: skip
    parser.add_argument("--teacher", type=Path, help="ONNX heatmap network whose maps are stored too")
    parser.add_argument("--threads", type=int, default=1, help="the teacher's threads (default: %(default)s)")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    try:
        cache = CachedCrops(arguments.out, (64, 64))
    except CacheError:
        people = read(arguments.dataset, arguments.data, arguments.split)
        count = write_crops(
            people, arguments.out, side_px=arguments.side, enlarge=arguments.enlarge, nobody=arguments.nobody,
            progress=lambda rows: track(rows, f"cutting {people.name}", total=len(people)),
        )  # fmt: skip
        if people.problems:
            print(f"left out: {dict(people.problems)}")
        cache = CachedCrops(arguments.out, (64, 64))
        print(f"{arguments.out}: {count} crops")
    if arguments.teacher and cache.taught is None:
        teacher, input_wh = onnx_teacher(arguments.teacher, arguments.threads)
        write_taught(
            arguments.out, teacher, input_wh,
            progress=lambda rows: track(rows, f"{arguments.teacher.stem} on {arguments.out.name}", total=len(rows)),
        )  # fmt: skip
        print(f"{arguments.out}: maps of {arguments.teacher.name} stored")
    return arguments.out


def onnx_teacher(path: Path, threads: int) -> tuple[Teacher, tuple[int, int]]:
    """Load a heatmap network; return a function from uint8 crops to maps, and its input's width and height."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    if len(entry.shape) != 4 or entry.shape[1] != 3:
        raise SystemExit(f"{path}: input of shape {entry.shape}; expected (batch, 3, height, width)")
    height, width = (int(side) for side in entry.shape[2:])
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else 0

    def teacher(images: np.ndarray) -> np.ndarray:
        x = ((images.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
        groups = [x[i : i + (batch or len(x))] for i in range(0, len(x), batch or len(x))]
        maps = [session.run(None, {entry.name: np.ascontiguousarray(group)})[0] for group in groups]
        return np.concatenate(maps).transpose(0, 2, 3, 1)

    return teacher, (width, height)


if __name__ == "__main__":
    main()
