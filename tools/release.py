"""Make a model's released files from trained weights: float16 weights and a gated int8 file.

    python tools/release.py mobilenet_split_224 runs/w100_224/best.weights.h5 --data lspet

The int8 file is calibrated on training data, seen as `posezoo export --data` sees them, and made from the float16
weights, so that both files are the same network. The gates run before anything in the package is replaced. --no-int8
releases the weights alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from posezoo.cards.card import FOLDER
from posezoo.commands.calibration import ALL_LAYOUTS, training_examples
from posezoo.data.calibration import person_crops
from posezoo.export.tflite import export_tflite
from posezoo.weights import PACKAGED, save_float16, sha256
from posezoo.zoo import build_released, released_card


def release(name: str, trained: Path, calibration: Sequence[np.ndarray]) -> dict[str, dict]:
    """Write the files of one model into the package; return their card entries.

    Args:
        name: The model.
        trained: Its weights.
        calibration: Pictures for the int8 file; without any there is none.
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
    return {
        precision: {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), "recipe": card.recipe}
        for precision, path in made.items()
    }


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name from 'posezoo list'")
    parser.add_argument("weights", type=Path, help="trained .weights.h5")
    parser.add_argument("--data", type=Path, help="labelled data set for calibration; needed for an int8 file")
    parser.add_argument("--dataset", choices=ALL_LAYOUTS, help="its layout; by default the first for such a network")
    parser.add_argument("--pictures", type=int, default=300, help="calibration pictures")
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True, help="make an int8 file")
    parser.add_argument("--recipe", help="the command that trained the weights, for the card")
    arguments = parser.parse_args(argv)
    calibration: list[np.ndarray] = []
    if arguments.int8:
        if not arguments.data:
            parser.error("--data is needed to calibrate the int8 file; --no-int8 releases float16 weights alone")
        crops = training_examples(released_card(arguments.model), arguments.data, dataset=arguments.dataset)
        calibration = person_crops(crops, limit=arguments.pictures)
    entries = release(arguments.model, arguments.weights, calibration)
    path = FOLDER / f"{arguments.model}.yaml"
    values = yaml.safe_load(path.read_text())
    if arguments.recipe:
        values["recipe"] = arguments.recipe
    values["weights"] = {k: {**entry, "recipe": values["recipe"]} for k, entry in entries.items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110))
    print(f"{arguments.model}: {sum(e['bytes'] for e in entries.values()) / 1e6:.1f} MB released")


if __name__ == "__main__":
    main()
