"""Make a model's released files from trained weights: float16 weights and a gated int8 file.

    python tools/release.py mobilenet_split_224 runs/w100_224/best.weights.h5 --data lspet

The int8 file is calibrated on training data, seen as `posezoo export --data` sees them, and made from the float16
weights, so that both files are the same network. The gates run before anything in the package is replaced. --no-int8
releases the weights alone. A file of quantisation-aware training joins the weights that are released already:

    python tools/release.py efficienthrnet_h-2 --trained-int8 runs/qat/efficienthrnet_h-2_int8.tflite \\
        --recipe "python recipes/quantize_qat.py --model efficienthrnet_h-2 ..."
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from posezoo.cards.card import FOLDER
from posezoo.commands.calibration import ALL_LAYOUTS, training_examples
from posezoo.data.calibration import person_crops
from posezoo.export.tflite import export_tflite
from posezoo.files import replacing
from posezoo.weights import PACKAGED, save_float16, sha256
from posezoo.zoo import build_released, released_card


def release(name: str, trained: Path, calibration: Sequence[np.ndarray], recipe: str) -> dict[str, dict]:
    """Write the files of one model into the package; return their card entries.

    Args:
        name: The model.
        trained: Its weights.
        calibration: Pictures for the int8 file; without any there is none.
        recipe: The command that trained the weights.
    """
    card = released_card(name)
    network = build_released(name)
    network.load_weights(trained)
    with tempfile.TemporaryDirectory(dir=PACKAGED) as folder:
        made = {"float16": Path(folder) / f"{name}.weights.h5"}
        save_float16(network, made["float16"])
        if len(calibration):
            made["int8"] = Path(folder) / f"{name}_int8.tflite"
            network.load_weights(made["float16"])
            sidecar = export_tflite(
                network, card.input, made["int8"], card=card, calibration=calibration,
                check_pictures=np.stack(calibration[:16]),
            )  # fmt: skip
            for row in sidecar["gates"]:
                print(f"  {row['output']} on {row['kernels']} kernels: PSNR {row['psnr_db']:.1f} dB")
        made = {precision: path.replace(PACKAGED / path.name) for precision, path in made.items()}
    return {precision: entry(path, recipe) for precision, path in made.items()}


def release_trained_int8(name: str, file: Path, recipe: str) -> dict[str, dict]:
    """Put an int8 file of quantisation-aware training beside a model's released weights; return its card entry.

    Args:
        name: The model.
        file: What `recipes/quantize_qat.py` wrote, with the sidecar that says that it passed the gates.
        recipe: The command that made it.

    Raises:
        SystemExit: No sidecar, one of another file, or a file of another model or input size.
    """
    beside = file.with_name(file.name + ".json")
    if not (file.exists() and beside.exists()):
        raise SystemExit(f"{file}: expected it and {beside.name}, as recipes/quantize_qat.py writes them")
    sidecar, card = json.loads(beside.read_text()), released_card(name)
    if sidecar["sha256"] != sha256(file):
        raise SystemExit(f"{file}: not the file that {beside.name} tells of; run the recipe again")
    expected = {"model": name, "shape": [1, *card.input.shape]}
    told = {"model": sidecar.get("model"), "shape": sidecar["input"]["shape"]}
    if told != expected:
        raise SystemExit(f"{file}: made from {told}; the released weights are of {expected}")
    out = PACKAGED / f"{name}_int8.tflite"
    with replacing(out) as path:
        shutil.copyfile(file, path)
    return {"int8": entry(out, recipe)}


def entry(path: Path, recipe: str) -> dict:
    """What a card says of a released file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), "recipe": recipe}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name from 'posezoo list'")
    parser.add_argument("weights", type=Path, nargs="?", help="trained .weights.h5")
    parser.add_argument("--data", type=Path, help="labelled data set for calibration; needed for an int8 file")
    parser.add_argument("--dataset", choices=ALL_LAYOUTS, help="its layout; by default the first for such a network")
    parser.add_argument("--pictures", type=int, default=300, help="calibration pictures")
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True, help="make an int8 file")
    parser.add_argument("--trained-int8", type=Path, help="an int8 file of recipes/quantize_qat.py to release")
    parser.add_argument("--recipe", help="the command that trained the weights, or the int8 file, for the card")
    arguments = parser.parse_args(argv)
    if (arguments.weights is None) == (arguments.trained_int8 is None):
        parser.error("expected trained weights, or --trained-int8 FILE beside those that are released")
    if arguments.trained_int8:
        if not arguments.recipe:
            parser.error("--trained-int8 needs --recipe: the command that made the file")
        on_card(arguments.model, release_trained_int8(arguments.model, arguments.trained_int8, arguments.recipe))
        return
    calibration: list[np.ndarray] = []
    if arguments.int8:
        if not arguments.data:
            parser.error("--data is needed to calibrate the int8 file; --no-int8 releases float16 weights alone")
        crops = training_examples(released_card(arguments.model), arguments.data, dataset=arguments.dataset)
        calibration = person_crops(crops, limit=arguments.pictures)
    recipe = arguments.recipe or released_card(arguments.model).recipe
    on_card(arguments.model, release(arguments.model, arguments.weights, calibration, recipe))


def on_card(name: str, entries: dict[str, dict]) -> None:
    """Write the entries of released files on a model's card.

    Args:
        name: The model.
        entries: Precision -> what the card says of its file. Weights bring their recipe, and files made from other
            weights go.
    """
    path = FOLDER / f"{name}.yaml"
    values = yaml.safe_load(path.read_text())
    if "float16" in entries:
        values |= {"recipe": entries["float16"]["recipe"], "weights": entries}
    else:
        values["weights"] = {**values["weights"], **entries}
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110))
    print(f"{name}: {sum(e['bytes'] for e in entries.values()) / 1e6:.1f} MB released")


if __name__ == "__main__":
    main()
