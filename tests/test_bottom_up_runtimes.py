"""A bottom-up network through `posezoo eval` on every runtime: the same people, the same average precision."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import shallow_networks

pytest.importorskip("tensorflow")
pytest.importorskip("pycocotools")

import posezoo  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.cli import main  # noqa: E402
from posezoo.export.seeded import seed_weights, smooth_pictures  # noqa: E402
from posezoo.inference.runners import normalise  # noqa: E402
from posezoo.skeletons import COCO17  # noqa: E402

MODEL, SIDE = "efficienthrnet_lite_h-3", 64


def to_tflite_file(network, spec, folder):
    pytest.importorskip("ai_edge_litert")
    from posezoo.export.tflite import to_tflite

    path = folder / "small.tflite"
    path.write_bytes(to_tflite(network, spec))
    return path


def to_onnx_file(network, spec, folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    onnx = pytest.importorskip("onnx")
    from posezoo.export.onnx import to_onnx

    path = folder / "small.onnx"
    if not path.exists():
        onnx.save(to_onnx(network, spec), path)
    return path


def to_openvino_file(network, spec, folder):
    openvino = pytest.importorskip("openvino")
    onnx_file = to_onnx_file(network, spec, folder)
    openvino.save_model(openvino.convert_model(onnx_file), folder / "small.xml", compress_to_fp16=False)
    return folder / "small.xml"


FILES = {"tflite": to_tflite_file, "onnx": to_onnx_file, "openvino": to_openvino_file}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A seeded network at 64 px, and pictures labelled with the people that it finds in them in Keras."""
    folder = tmp_path_factory.mktemp("coco")
    with shallow_networks():
        network = posezoo.build(MODEL, input_px=SIDE)
        card = read_card(MODEL)
        card = replace(card, input=replace(card.input, shape=(SIDE, SIDE, 3)))
        seed_weights(network, card)
        calm(network, normalise(smooth_pictures(card, 3), card.input))
        entries = []
        for i, picture in enumerate(smooth_pictures(card, 3), start=1):
            (folder / "val2017").mkdir(exist_ok=True)
            cv2.imwrite(str(folder / "val2017" / f"{i}.png"), cv2.resize(picture, (96, 96)))
            entries.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        truth = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        write_truth(folder, truth)
        weights = folder / "small.weights.h5"
        network.save_weights(weights)
        found, _ = evaluated(folder, weights)
        for number, row in enumerate(found, start=1):
            keypoints = np.array(row["keypoints"]).reshape(-1, 3)
            keypoints[:, 2] = np.where(keypoints[:, 2] > 0, 2, 0)
            low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
            truth["annotations"].append({
                "id": number, "image_id": row["image_id"], "category_id": 1, "iscrowd": 0, "area": 3000.0,
                "bbox": [*low, *(high - low)], "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "keypoints": keypoints.ravel().tolist(),
            })  # fmt: skip
        write_truth(folder, truth)
        yield network, card.input, folder, evaluated(folder, weights)


def calm(network, x) -> None:
    """Scale the last convolutions as training does: heatmaps near zero nearly everywhere, tags of few people."""
    outputs = network.predict_on_batch(x)
    for name, deviation in {"heatmaps": 0.2, "heatmaps_low": 0.2, "tags": 0.3}.items():
        layer = network.get_layer(name)
        kernel, bias = layer.get_weights()
        scale = deviation / outputs[name].std(axis=(0, 1, 2))
        layer.set_weights([kernel * scale, (bias - outputs[name].mean(axis=(0, 1, 2))) * scale])


def write_truth(folder, truth) -> None:
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(truth))


def evaluated(folder, weights, *flags) -> tuple[list[dict], dict]:
    """Results and scores of `posezoo eval`."""
    results, scores = folder / "results.json", folder / "scores.json"
    command = ["eval", MODEL, "--dataset", "coco", "--data", folder, "--weights", weights, "--flip"]
    command += [
        "--set",
        f"input_px={SIDE}",
        "--codec",
        "upsample=true,max_people=4,score_in_cost=false,detection_threshold=0.3",
        "--results",
        results,
        *flags,
    ]
    assert main([str(word) for word in [*command, "--json", scores]]) == 0
    return json.loads(results.read_text()), json.loads(scores.read_text())


@pytest.mark.parametrize("runtime", FILES)
def test_every_runtime_finds_the_same_people(small, runtime):
    network, spec, folder, (expected, known) = small
    assert len(expected) >= 6 and np.mean([np.count_nonzero(row["keypoints"][2::3]) for row in expected]) > 6
    found, scores = evaluated(folder, FILES[runtime](network, spec, folder))
    assert (known["runtime"], scores["runtime"], scores["pictures"]) == ("keras", runtime, 3)
    assert [row["image_id"] for row in found] == [row["image_id"] for row in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.02)
        assert a["score"] == pytest.approx(b["score"], abs=1e-3)
    for name in ("ap", "ap50", "ar"):
        assert scores[name] == pytest.approx(known[name], abs=1e-3) and known[name] > 0.5


def test_unlabelled_pictures_are_written_and_not_scored(small, capsys):
    folder = small[2]
    truth = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())
    (folder / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps({"images": truth["images"]}))
    if not (folder / "test2017").exists():
        (folder / "test2017").symlink_to(folder / "val2017")
    command = [
        "eval",
        MODEL,
        "--dataset",
        "coco",
        "--split",
        "test",
        "--data",
        str(folder),
        "--set",
        f"input_px={SIDE}",
    ]
    command += ["--weights", str(folder / "small.weights.h5")]
    assert main(command) == 2
    assert "COCO keeps the labels of these pictures" in capsys.readouterr().err
    assert main([*command, "--results", str(folder / "dev.json")]) == 0
    assert "3 pictures" in (told := capsys.readouterr().out) and "not scored: COCO's server has the labels" in told
    rows = json.loads((folder / "dev.json").read_text())
    assert rows and set(rows[0]) == {"image_id", "category_id", "keypoints", "score"}
    assert len(rows[0]["keypoints"]) == 3 * COCO17.num_keypoints
