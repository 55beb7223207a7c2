"""What `posezoo export --data` calibrates on, by the kind of network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scripts import script

from posezoo import cli
from posezoo.cards import read_card
from posezoo.commands.calibration import ALL_LAYOUTS, LAYOUTS, training_examples
from posezoo.commands.common import CommandError
from posezoo.data.canvases import Canvases
from posezoo.data.depth_scenes import DepthScenes
from posezoo.data.hands import HandScenes
from posezoo.data.pipeline import PersonCrops
from posezoo.data.readers import READERS
from posezoo.data.scenes import Pictures
from posezoo.data.stick_figures import write_stick_figures
from posezoo.synth.scene import Recipe, SceneSettings
from posezoo.synth.write import Job, write_dataset

PEOPLE, CROWDS, DEPTH, HANDS = "mobilenet_split_050_192", "efficienthrnet_lite_h-4", "mpm_1s", "hand25d"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A rendered frame, in the folder `train` of a folder."""
    from posezoo.synth.crowd import body_source

    folder = tmp_path_factory.mktemp("synth")
    alone = Recipe(width=80, height=60, scene=SceneSettings(people=(1, 1)))
    write_dataset(folder / "train", Job(body_source(["builtin"], [], []), 1, recipe=alone))
    return folder


@pytest.fixture
def like_coco(tmp_path, stick_figures):
    """A COCO-style set of one picture with one person."""
    (tmp_path / "images").symlink_to(stick_figures / "images")
    person = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9000, "bbox": [20, 20, 90, 110],
              "num_keypoints": 17, "keypoints": [50, 60, 2] * 17}  # fmt: skip
    images = [{"id": 1, "file_name": "im00001.jpg", "width": 160, "height": 160}]
    (tmp_path / "people.json").write_text(json.dumps({
        "images": images, "annotations": [person], "categories": [{"id": 1, "name": "person"}],
    }))  # fmt: skip
    return tmp_path


def test_every_layout_that_can_be_read_belongs_to_a_kind_of_network():
    assert set(ALL_LAYOUTS) == {*READERS, "synth", "hands"}


def test_one_person_is_cut_out(stick_figures):
    examples = training_examples(read_card(PEOPLE), stick_figures)
    assert isinstance(examples, PersonCrops) and len(examples) == 6
    assert examples.crop(0).image.shape == (192, 192, 3)


def test_networks_that_find_several_people_see_canvases_or_whole_pictures(stick_figures, like_coco):
    card = read_card(CROWDS)
    canvases = training_examples(card, stick_figures)
    assert isinstance(canvases, Canvases) and canvases.single == 0.3
    pictures = training_examples(card, like_coco, dataset="coco", split="all")
    assert isinstance(pictures, Pictures)
    assert canvases.crop(0).image.shape == pictures.crop(0).image.shape == card.input.shape


def test_depth_networks_see_frames_in_metres(rendered):
    card = read_card(DEPTH)
    within, alone = training_examples(card, rendered), training_examples(card, rendered / "train")
    assert isinstance(within, DepthScenes) and len(within) == len(alone) == 1
    image = within.crop(0).image
    assert image.dtype == np.float32 and image.shape == card.input.shape and 0.5 < image.max() <= 10


@pytest.mark.parametrize("name, kind", [(HANDS, np.uint8), ("hand25d_depth", np.float32)])
def test_hand_networks_see_what_they_look_at(name, kind):
    card = read_card(name)
    examples = training_examples(card, Path("drawn:4:1"))
    assert isinstance(examples, HandScenes)
    image = examples.crop(0).image
    assert image.dtype == kind and image.shape == card.input.shape and image.max() > image.min()


@pytest.mark.parametrize("name", [PEOPLE, CROWDS, DEPTH, HANDS])
def test_a_layout_that_does_not_hold_what_is_looked_at_is_refused(name, tmp_path):
    card = read_card(name)
    (kind,) = (k for k, names in LAYOUTS.items() if k in told_of(card, tmp_path))
    for dataset in set(ALL_LAYOUTS) - set(LAYOUTS[kind]):
        with pytest.raises(CommandError, match=f"--dataset {dataset}: {name} looks at {kind}.*{LAYOUTS[kind][0]}"):
            training_examples(card, tmp_path, dataset=dataset)


def told_of(card, folder) -> str:
    with pytest.raises(CommandError) as refused:
        training_examples(card, folder, dataset="nothing")
    return str(refused.value)


def test_classifiers_and_empty_or_unknown_splits_are_told(stick_figures, tmp_path):
    with pytest.raises(CommandError, match="compact_efficientnet_b0 finds no people.*--calibration FOLDER"):
        training_examples(read_card("compact_efficientnet_b0"), stick_figures)
    with pytest.raises(CommandError, match="unknown split 'holdout'"):
        training_examples(read_card(PEOPLE), stick_figures, split="holdout")
    with pytest.raises(CommandError, match="nobody is labelled in split 'train'"):
        training_examples(read_card(PEOPLE), write_stick_figures(tmp_path, 2, validation=2))


def test_command_takes_labelled_hands_for_a_hand_network(capsys, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    jobs = []
    monkeypatch.setattr(
        "posezoo.commands.export.export_tflite_file", lambda job, *_: jobs.append(job) or {"bytes": 0}
    )  # fmt: skip
    command = f"export {HANDS} --structure-only --data drawn:4:1 --pictures 3 --gate-pictures 2 -o {tmp_path}/x.tflite"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    assert jobs[0].pictures.shape == (2, *read_card(HANDS).input.shape)
    assert len(jobs[0].calibration) == 3
    assert cli.main([*command.split(), "--dataset", "lsp"]) == 2
    assert "expected hands" in capsys.readouterr().err


def test_released_files_are_calibrated_on_the_same(monkeypatch, stick_figures):
    release, seen = script("tools/release.py"), []

    def pictures_of(crops, *, limit):
        seen.append((type(crops), limit))
        return ["picture"]

    def stop(name, weights, calibration, recipe):
        seen.append((name, calibration))
        raise SystemExit

    monkeypatch.setattr(release, "person_crops", pictures_of)
    monkeypatch.setattr(release, "release", stop)
    for name, data in ((PEOPLE, stick_figures), (CROWDS, stick_figures), (HANDS, "drawn:4:1")):
        with pytest.raises(SystemExit):
            release.main([name, "weights.h5", "--data", str(data), "--pictures", "9"])
    assert seen[::2] == [(PersonCrops, 9), (Canvases, 9), (HandScenes, 9)]
    assert seen[1::2] == [(PEOPLE, ["picture"]), (CROWDS, ["picture"]), (HANDS, ["picture"])]


def test_weights_are_released_alone_or_with_pictures_for_int8(monkeypatch, capsys):
    release, seen = script("tools/release.py"), []

    def stop(name, weights, calibration, recipe):
        seen.append(calibration)
        raise SystemExit

    monkeypatch.setattr(release, "release", stop)
    with pytest.raises(SystemExit):
        release.main([PEOPLE, "weights.h5", "--no-int8"])
    assert seen == [[]]
    with pytest.raises(SystemExit):
        release.main([PEOPLE, "weights.h5"])
    assert "--no-int8 releases float16 weights alone" in capsys.readouterr().err
    assert seen == [[]]


def test_an_int8_file_of_training_joins_released_weights(monkeypatch, tmp_path, capsys):
    release = script("tools/release.py")
    packaged, cards, recipe = tmp_path / "pretrained", tmp_path / "cards", "python recipes/quantize_qat.py --model x"
    packaged.mkdir()
    cards.mkdir()
    monkeypatch.setattr(release, "PACKAGED", packaged)
    monkeypatch.setattr(release, "FOLDER", cards)
    (cards / f"{PEOPLE}.yaml").write_text("recipe: train\nweights: {float16: {file: w.h5, recipe: train}}\n")
    file = tmp_path / "trained.tflite"

    def sidecar(**changes):
        told = {"sha256": release.sha256(file), "model": PEOPLE}
        told["input"] = {"shape": [1, *read_card(PEOPLE).input.shape]}
        (tmp_path / "trained.tflite.json").write_text(json.dumps(told | changes))

    command = [PEOPLE, "--trained-int8", str(file), "--recipe", recipe]
    with pytest.raises(SystemExit, match="expected it and"):
        release.main(command)
    file.write_bytes(b"int8")
    for wrong, word in (
        ({"sha256": "0"}, "not the file"),
        ({"model": CROWDS}, "released weights are of"),
        ({"input": {"shape": [1, 8, 8, 3]}}, "released weights are of"),
    ):
        sidecar(**wrong)
        with pytest.raises(SystemExit, match=word):
            release.main(command)
    assert not list(packaged.iterdir())
    sidecar()
    release.main(command)
    card = yaml.safe_load((cards / f"{PEOPLE}.yaml").read_text())
    assert card["recipe"] == "train" and card["weights"]["float16"]["recipe"] == "train"
    made = card["weights"]["int8"]
    assert (packaged / made["file"]).read_bytes() == b"int8" and made["bytes"] == 4 and made["recipe"] == recipe
    release.on_card(PEOPLE, {"float16": release.entry(file, "train more")})
    card = yaml.safe_load((cards / f"{PEOPLE}.yaml").read_text())
    assert card["recipe"] == "train more" and list(card["weights"]) == ["float16"]
    for incomplete in (command[:3], [*command, "--data", "x", "weights.h5"][:1]):
        with pytest.raises(SystemExit):
            release.main(incomplete)
    assert "needs --recipe" in capsys.readouterr().err
