"""The multi-person benchmark: PersonLab's decoding on maps made here, and the table without any network."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scripts import script

pytest.importorskip("ai_edge_litert")
from posezoo.skeletons import COCO17  # noqa: E402

multi_person = script("benchmarks/multi_person.py")

STRIDE = 16


def maps_of(people: np.ndarray, height=23, width=31):
    """PersonLab's maps of people `(N, 17, 2)` in pixels: heatmaps, offsets, displacements."""
    heatmaps = np.full((height, width, 17), -6.0, np.float32)
    shift = np.zeros((height, width, 2, 17), np.float32)
    fields = np.zeros((2, height, width, 2, len(multi_person.TREE)), np.float32)
    for person in people[:, :, ::-1]:  # y, x
        cells = np.rint(person / STRIDE).astype(int)
        for k, (y, x) in enumerate(cells):
            heatmaps[y, x, k] = 3.0
            shift[y, x, :, k] = person[k] - cells[k] * STRIDE
        for edge, (a, b) in enumerate(multi_person.TREE):
            parent, child = COCO17.index(a), COCO17.index(b)
            fields[0][tuple(cells[parent])][:, edge] = person[child] - person[parent]
            fields[1][tuple(cells[child])][:, edge] = person[parent] - person[child]
    displacements = np.stack([fields[0], fields[1]], axis=2).reshape(height, width, -1)
    return heatmaps, shift.reshape(height, width, -1), displacements


def people_of(rng, lefts) -> np.ndarray:
    people = rng.uniform((0, 20), (130, 330), (len(lefts), 17, 2))
    people[..., 0] += np.array(lefts)[:, None]
    return people


@pytest.mark.parametrize("lefts", [[20], [20, 300]])
def test_personlab_follows_its_tree(lefts):
    people = people_of(np.random.default_rng(1), lefts)
    keypoints, scores, person_scores = multi_person.PersonLab().decode(*maps_of(people))
    assert len(keypoints) == len(people)
    for person in people:
        assert np.abs(keypoints - person).max(axis=(1, 2)).min() < 1e-3
    assert (scores > 0.9).all() and (person_scores > 0.8).all()


def test_nobody():
    heatmaps, offsets, displacements = maps_of(np.zeros((0, 17, 2)))
    keypoints, scores, people = multi_person.PersonLab().decode(heatmaps, offsets, displacements)
    assert keypoints.shape == (0, 17, 2) and scores.shape == (0, 17) and people.shape == (0,)


def test_without_data_it_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="has none of lspet, coco_people"):
        multi_person.main(["--shared", str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.shared
def test_a_few_pictures_make_a_table(shared, tmp_path):
    if not (shared / "peers" / f"{multi_person.POSENET}.tflite").exists():
        pytest.skip("no PoseNet in the shared peers")
    pytest.importorskip("pycocotools")
    arguments = ["--shared", str(shared), "--out", str(tmp_path), "--pictures", "4", "--models", "none"]
    record = multi_person.main(arguments)
    assert [row["model"] for row in record["rows"]][:1] == [multi_person.POSENET]
    boxed = [row for row in record["rows"] if "pp_tinypose" in row["model"]]
    if boxed:  # the teachers' files are there: four pictures suffice to see a detector and a network at work
        assert boxed[0]["coco_ap"] > 0.4 and "lspet_pck" not in boxed[0]
    assert 0 <= record["rows"][0]["lspet_pck"] <= 1
    assert "| `posenet" in (tmp_path / "multi_person.md").read_text()


def test_what_is_not_measured_again_keeps_its_numbers_and_command(tmp_path):
    path = tmp_path / "multi_person.json"
    row = {"model": "m", "precision": "int8", "flip": False, "lspet_pck": 0.5, "canvases_ap": 0.1, "coco_ap": 0.2}
    protocol = dict.fromkeys(("lspet", "canvases", "coco_people"), "told")
    path.write_text(json.dumps({"rows": [row], "command": "before", "protocol": protocol}))
    kept = multi_person.kept_from(path, ["lspet"])
    assert kept["rows"] == {("m", "int8", False): {"lspet_pck": 0.5, "canvases_ap": 0.1}}
    assert kept["commands"] == {"lspet": "before", "canvases": "before"}
    assert multi_person.kept_from(path, []) == {"rows": {}, "commands": {}}
    assert multi_person.kept_from(tmp_path / "none.json", ["lspet"]) == {"rows": {}, "commands": {}}
