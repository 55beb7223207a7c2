"""Pictures per second of one training step on each backend, and of the input pipeline alone.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --data lspet --batch 16
    python benchmarks/training_speed.py --quick

TensorFlow, Keras on torch, and the network run by PyTorch's own kernels in float32 and bfloat16, the batch as a whole
and divided between threads, each in a process of its own. The processes take turns, so that a noisy moment of the
machine touches all of them alike. A step is the recipe's: forward, loss, backward, AdamW with moving averages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from report import RESULTS, environment, machine_line, markdown_table, write_results

from posezoo.cards import read_card
from posezoo.codecs import make_codec
from posezoo.commands.display import track
from posezoo.data.augment import Augmentation
from posezoo.data.pipeline import PersonCrops, training_batch
from posezoo.data.readers import read
from posezoo.data.stick_figures import write_stick_figures

#: Variant -> (Keras backend, what it is).
TRAINING = {
    "tensorflow": ("tensorflow", "Keras on TensorFlow, float32"),
    "keras_torch": ("torch", "Keras on PyTorch, float32"),
    "native_float32": ("torch", "NativeTorch, float32"),
    "native_bfloat16": ("torch", "NativeTorch, bfloat16"),
    "native_divided_bfloat16": ("torch", "NativeTorch, bfloat16, a share of the batch for each thread (`--devices`)"),
}
#: Variant -> (Keras backend, what it is); neither uses the backend.
PIPELINE = {
    "pipeline_decoding": ("tensorflow", "pipeline alone, every picture decoded anew"),
    "pipeline_in_memory": ("tensorflow", "pipeline alone, decoded pictures kept in memory"),
}
VARIANTS = {**TRAINING, **PIPELINE}
BASE = "tensorflow"
SMALL_MODEL = "mobilenet_split_050_192"
MODELS = ("mobilenet_split_224", SMALL_MODEL)

#: Pause between turns, in which the threads of the one that just ran fall asleep.
PAUSE_S = 0.3


# ------------------------------------------------------------------------------------------ inside a process


def person_crops(settings: dict, *, cache_bytes: int = 2 << 30) -> tuple[PersonCrops, object]:
    """The data set's people with the recipe's augmentation, and the model's codec."""
    card = read_card(settings["model"])
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    people = read(settings["dataset"], settings["data"], "train")
    crops = PersonCrops(people, card.input.wh, augmentation=Augmentation(), cache_bytes=cache_bytes)
    if not len(crops):
        raise SystemExit(f"{settings['data']}: no labelled person to train on")
    return crops, codec


def training_runner(variant: str, settings: dict) -> Callable[[int], None]:
    """Return a function that trains for a number of steps on one batch, whose loading is not timed."""
    import keras

    import posezoo
    from posezoo.training.losses import LOSSES

    threads = settings["threads"]
    if threads and keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    elif threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
    crops, codec = person_crops(settings)
    batch = training_batch([crops.crop(i % len(crops)) for i in range(settings["batch"])], codec)
    keras.utils.set_random_seed(1)
    trainer = posezoo.build(settings["model"], skeleton=crops.people.skeleton)
    shape = trainer.input_shape
    if variant.startswith("native"):
        from posezoo.training.native_torch import NativeTorch

        trainer = NativeTorch(trainer, bfloat16=variant.endswith("bfloat16"))
    trainer.build(shape)
    if "divided" in variant:
        import torch

        from posezoo.training.divided_torch import divide_steps

        divide_steps(trainer, torch.get_num_threads())
    optimizer = keras.optimizers.AdamW(1e-4, use_ema=True, ema_momentum=0.9)
    trainer.compile(optimizer, loss={codec.output: LOSSES[codec.output]}, jit_compile=False)

    def run(steps: int) -> None:
        for _ in range(steps):
            loss = trainer.train_on_batch(*batch)
        if not np.isfinite(np.asarray(loss)).all():
            raise SystemExit(f"{variant}: the loss is {loss}; such a step's speed says nothing")

    return run


def pipeline_runner(variant: str, settings: dict) -> Callable[[int], None]:
    """Return a function that makes a number of batches: read, crop, augment, draw the targets."""
    import cv2

    cv2.setNumThreads(1)
    crops, codec = person_crops(settings, cache_bytes=0 if variant == "pipeline_decoding" else 4 << 30)
    batch, done = settings["batch"], 0
    pool = ThreadPoolExecutor(settings["workers"])

    def load(step: int) -> None:
        indices = [(step * batch + i) % len(crops) for i in range(batch)]
        training_batch([crops.crop(i, epoch=step) for i in indices], codec)

    def run(steps: int) -> None:
        nonlocal done
        list(pool.map(load, range(done, done + steps)))
        done += steps

    if variant == "pipeline_in_memory":
        # Measured over pictures that are in memory: those of the turns to come.
        run(min(settings["turns"] * settings["pipeline_steps"], -(-len(crops) // batch)))
        done = 0
    return run


def serve(variant: str, settings: dict) -> None:
    """Answer each line "steps" on standard input with the seconds that they took."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever libraries print goes to the standard error
        run = (training_runner if variant in TRAINING else pipeline_runner)(variant, settings)
        run(2)  # compiles, allocates
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            start = time.perf_counter()
            run(int(line))
            print(time.perf_counter() - start, file=answers, flush=True)


# ------------------------------------------------------------------------------------------------- the parent


class Worker:
    """A variant in a process of its own.

    Args:
        variant: A name in `VARIANTS`.
        settings: For `serve`.

    Raises:
        RuntimeError: The process ended; the message holds the end of what it said.
    """

    def __init__(self, variant: str, settings: dict):
        self.variant = variant
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environ = {**os.environ, "KERAS_BACKEND": VARIANTS[variant][0], "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", variant, json.dumps(settings)], env=environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        self._answer()

    def seconds(self, steps: int) -> float:
        """Run a number of steps; return how long they took."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            told = "\n".join(self._said.read().strip().splitlines()[-8:])
            self.close()
            raise RuntimeError(f"{self.variant}: the process ended with code {self._process.returncode}:\n{told}")
        return line

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()


def rates(model: str, variants: list[str], settings: dict) -> dict[str, dict]:
    """Measure variants in turns; return pictures per second of each: median and distance of the quartiles."""
    settings = {**settings, "model": model}
    workers: list[Worker] = []
    taken: dict[str, list[float]] = {variant: [] for variant in variants}
    try:
        for variant in track(variants, f"starting {model}"):
            workers.append(Worker(variant, settings))
        for _ in track(range(settings["turns"]), f"measuring {model}"):
            for worker in workers:
                time.sleep(PAUSE_S)
                steps = settings["steps" if worker.variant in TRAINING else "pipeline_steps"]
                taken[worker.variant].append(steps * settings["batch"] / worker.seconds(steps))
    finally:
        for worker in workers:
            worker.close()
    measured = {}
    for variant, values in taken.items():
        low, median, high = np.percentile(values, (25, 50, 75))
        measured[variant] = {"pictures_per_s": round(float(median), 2), "quartile_spread": round(float(high - low), 2)}
    return measured


def rows_of(measured: dict[str, dict[str, dict]]) -> list[dict]:
    """One row per model and variant.

    `ratio` compares training with TensorFlow's, and the pipeline with the fastest training of the same model.
    """
    rows = []
    for model, by_variant in measured.items():
        speed = {variant: value["pictures_per_s"] for variant, value in by_variant.items()}
        fastest = max((speed[v] for v in TRAINING if v in speed), default=None)
        for variant, value in by_variant.items():
            base = speed.get(BASE) if variant in TRAINING else fastest
            ratio = round(speed[variant] / base, 2) if base else None
            rows.append({"model": model, "variant": variant, **value, "ratio": ratio})
    return rows


def markdown(record: dict) -> str:
    """Two tables: training, and the pipeline beside it."""
    settings = record["settings"]
    threads = settings["threads"] or "the framework's choice of"
    parts = [
        "# Training speed\n",
        f"Pictures per second of whole training steps, batch {settings['batch']}, {threads} compute threads; medians "
        f"of {settings['turns']} turns of {settings['steps']} steps. Made by `{record['command']}` on "
        f"{machine_line(record['environment'])}.\n",
    ]

    def table(variants, columns):
        chosen = [r for r in record["rows"] if r["variant"] in variants]
        cells = [
            (
                f"`{r['model']}`", VARIANTS[r["variant"]][1], f"{r['pictures_per_s']:.1f}",
                f"{r['quartile_spread']:.1f}", None if r["ratio"] is None else f"{r['ratio']:.2f}",
            )
            for r in chosen
        ]  # fmt: skip
        return markdown_table(columns, cells)

    parts.append(table(TRAINING, ("network", "training on", "pictures/s", "quartile spread", "to TensorFlow")))
    parts.append(
        f"\n## Input pipeline\n\nCrops per second with {settings['workers']} loader threads and nothing else running, "
        "against the fastest training above of the same network: above 1 the pipeline keeps up.\n"
    )
    parts.append(table(PIPELINE, ("network", "what", "crops/s", "quartile spread", "to training")))
    return "\n".join(parts)


def main(argv=None) -> dict | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="(default: all)")
    parser.add_argument("--data", type=Path, help="folder of a data set (default: generated stick figures)")
    parser.add_argument("--dataset", default="lsp", help="its layout: lsp, flic or coco (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="training steps per turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=9, help="turns of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads; 0 leaves the framework's choice")
    parser.add_argument("--workers", type=int, default=2, help="loader threads of the pipeline (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the small network, batch 4, two turns of one step")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for training_speed.json and .md")
    parser.add_argument("--serve", nargs=2, metavar=("VARIANT", "SETTINGS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve(arguments.serve[0], json.loads(arguments.serve[1]))
        return None
    if arguments.quick:
        arguments.models, arguments.batch, arguments.steps, arguments.turns = [SMALL_MODEL], 4, 1, 2
    for name in arguments.models:
        read_card(name)
    settings = {key: getattr(arguments, key) for key in ("dataset", "batch", "steps", "turns", "threads", "workers")}
    settings["pipeline_steps"] = 4 * arguments.steps * arguments.workers
    told = f"--batch {arguments.batch} --steps {arguments.steps} --turns {arguments.turns}"
    told += f" --threads {arguments.threads}" if arguments.threads else ""
    told += f" --data {arguments.data.name}" if arguments.data else ""
    record = {
        "command": f"python benchmarks/training_speed.py {told} --models {' '.join(arguments.models)}",
        "data": arguments.data.name if arguments.data else "stick figures",
        "settings": settings,
        "environment": environment("keras", "tensorflow", "torch"),
    }
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or write_stick_figures(folder, 66)
        measured = {
            model: rates(model, arguments.variants, {**settings, "data": str(Path(data).absolute())})
            for model in arguments.models
        }
    record["rows"] = rows_of(measured)
    text = markdown(record)
    print(text)
    write_results(arguments.out, "training_speed", record, text)
    return record


if __name__ == "__main__":
    main()
