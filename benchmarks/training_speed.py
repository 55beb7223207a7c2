"""Pictures a second: training steps on each backend in turns, and the data pipeline alone.

    python benchmarks/training_speed.py                   # writes benchmarks/results/training_speed.json and .md
    python benchmarks/training_speed.py --width 1.0 --input-px 224 --threads 2

Every backend runs in its own process; the processes take turns, so that a noisy moment touches all alike.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import RESULTS, markdown_table, processor

from posezoo.files import replacing

# Name -> (Keras backend, whether PyTorch's own kernels run the network, whether in bfloat16).
BACKENDS = {
    "TensorFlow": ("tensorflow", False, False),
    "Keras on torch": ("torch", False, False),
    "native torch, float32": ("torch", True, False),
    "native torch, bfloat16": ("torch", True, True),
}
BATCH = 16


def measure_step(arguments) -> float:
    """Return pictures a second of training steps, in this process."""
    backend, native, bfloat16 = BACKENDS[arguments.backend]
    os.environ["KERAS_BACKEND"] = backend
    if backend == "torch":
        import torch

        torch.set_num_threads(arguments.threads)
    else:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    from posezoo.models.mobilenet_split import mobilenet_split
    from posezoo.training.losses import heatmap_loss

    network = trainer = mobilenet_split(width=arguments.width, input_px=arguments.input_px)
    if native:
        from posezoo.training.native_torch import NativeTorch

        trainer = NativeTorch(network, bfloat16=bfloat16)
    trainer.compile(keras.optimizers.Adam(1e-4), loss={"heatmaps": heatmap_loss}, jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (BATCH, *network.input_shape[1:])).astype("float32")
    maps = {"heatmaps": rng.random((BATCH, *network.output["heatmaps"].shape[1:])).astype("float32")}
    for _ in range(2):
        trainer.train_on_batch(images, maps)
    start = time.perf_counter()
    for _ in range(arguments.steps):
        trainer.train_on_batch(images, maps)
    return BATCH * arguments.steps / (time.perf_counter() - start)


def pipeline_rate(input_px: int, workers: int) -> float:
    """Return crops a second of the whole tf.data pipeline, all augmentation on, pictures decoded anew."""
    from posezoo.codecs import HeatmapCodec
    from posezoo.data.augment import Augmentation
    from posezoo.data.lsp import read_lsp
    from posezoo.data.pipeline import PersonCrops, tf_dataset
    from posezoo.data.stick_figures import write_stick_figures

    every = Augmentation(any_rotation=0.5, translate=0.1, colour=1.0, grey=0.1, cutout=0.5, part=0.2)
    with tempfile.TemporaryDirectory() as folder:
        people = read_lsp(write_stick_figures(folder, 64), "all")
        crops = PersonCrops(people, (input_px, input_px), augmentation=every, cache_bytes=0)
        data = tf_dataset(crops, HeatmapCodec((input_px, input_px)), BATCH, epochs=range(30), workers=workers)
        rows = iter(data)
        for _ in range(4):
            next(rows)
        start = time.perf_counter()
        count = sum(1 for _ in rows)
        return BATCH * count / (time.perf_counter() - start)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.5, help="width multiplier (default: %(default)s)")
    parser.add_argument("--input-px", type=int, default=192, help="side of the input (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each backend (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps a turn (default: %(default)s)")
    parser.add_argument("--backend", choices=BACKENDS, help="measure this one here and print its rate")
    arguments = parser.parse_args(argv)
    if arguments.backend:
        print(measure_step(arguments))
        return
    settings = [f"--{k.replace('_', '-')}={getattr(arguments, k)}" for k in ("width", "input_px", "threads", "steps")]
    rates: dict[str, list[float]] = {
        name: [] for name, (backend, _, _) in BACKENDS.items() if importlib.util.find_spec(backend)
    }
    for turn in range(arguments.rounds):
        for name in rates:
            command = [sys.executable, str(Path(__file__)), *settings, f"--backend={name}"]
            environment = {**os.environ, "KERAS_BACKEND": BACKENDS[name][0], "TF_CPP_MIN_LOG_LEVEL": "3"}
            told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rates[name].append(float(told.stdout.split()[-1]))
            print(f"turn {turn + 1}: {name}: {rates[name][-1]:.1f} pictures/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    medians["pipeline alone (tf.data)"] = pipeline_rate(arguments.input_px, workers=2)
    base = medians["TensorFlow"]
    rows = [
        {"what": name, "per_second": round(rate, 1), "ratio": round(rate / base, 2)} for name, rate in medians.items()
    ]
    record = {
        "command": f"python benchmarks/training_speed.py {' '.join(settings)}", "device": processor(),
        "date": datetime.date.today().isoformat(), "rows": rows,
    }  # fmt: skip
    with replacing(RESULTS / "training_speed.json") as path:
        path.write_text(json.dumps(record, indent=1))
    with replacing(RESULTS / "training_speed.md") as path:
        path.write_text(markdown_table(("what", "pictures/s", "ratio to TensorFlow"), [list(r.values()) for r in rows]))
    print((RESULTS / "training_speed.md").read_text())


if __name__ == "__main__":
    main()
