"""What TFLite files say about themselves: written, read by us and by TensorFlow's own reader."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from other_pythons import other_python, run_there  # noqa: E402

from posezoo.cards import all_cards, read_card  # noqa: E402
from posezoo.codecs import make_codec  # noqa: E402
from posezoo.export.flatbuffer import FileError, packed, unpacked  # noqa: E402
from posezoo.export.metadata import (  # noqa: E402
    KEYPOINTS_FILE,
    OURS,
    facts,
    read_metadata,
    with_metadata,
    without_archive,
)  # fmt: skip
from posezoo.inference.runners import TFLiteRunner  # noqa: E402
from posezoo.weights import PACKAGED  # noqa: E402


@pytest.fixture(scope="module")
def card(tiny_spec):
    return replace(read_card("mobilenet_split_050_192"), input=tiny_spec)


@pytest.fixture(scope="module")
def described(tiny_int8, card):
    return with_metadata(tiny_int8, card)


def test_everything_comes_back(described, card):
    found = read_metadata(described)
    assert found["posezoo"] == json.loads(json.dumps(facts(card)))
    assert found["associated_files"] == {KEYPOINTS_FILE: "\n".join(card.skeleton.keypoints) + "\n"}
    standard = found["standard"]
    assert standard["name"] == "mobilenet_split_050_192"
    assert "weights: research and evaluation use" in standard["license"]
    (image,), (heatmaps,) = standard["inputs"], standard["outputs"]
    assert (image["name"], image["colour"], image["width"], image["height"]) == ("image", "RGB", 64, 64)
    assert (image["mean"], image["std"]) == ([127.5] * 3, [127.5] * 3)
    assert (image["min"], image["max"]) == ([-1] * 3, [1] * 3)
    assert heatmaps["name"] == "heatmaps"
    assert heatmaps["dimension_names"] == ["batch", "height", "width", "channel"]
    assert heatmaps["associated_files"] == [KEYPOINTS_FILE]


def test_facts_rebuild_the_codec(card):
    told = json.loads(json.dumps(facts(card)))["codec"]
    wh = told.pop("input_wh")
    assert make_codec(input_wh=tuple(wh), **told) == make_codec(input_wh=card.input.wh, **card.codec)


@pytest.mark.parametrize("name", sorted(all_cards()))
def test_facts_of_every_card_are_plain(name):
    told = facts(read_card(name))
    assert json.loads(json.dumps(told)) == told


def test_the_network_is_the_same(described, tiny_int8, tiny_spec, tiny_pictures):
    before, after = (TFLiteRunner(c, tiny_spec)(tiny_pictures[:2])["heatmaps"] for c in (tiny_int8, described))
    np.testing.assert_array_equal(before, after)


def test_equal_networks_give_equal_files_and_writing_twice_changes_nothing(described, tiny_int8, card):
    assert with_metadata(tiny_int8, card) == described
    assert with_metadata(described, card) == described


def test_other_metadata_is_replaced(described, card):
    other = read_metadata(with_metadata(described, read_card("mpm_1s")))
    assert other["posezoo"]["model"] == "mpm_1s"
    assert other["standard"]["inputs"][0]["colour"] == "grey"
    assert other["associated_files"][KEYPOINTS_FILE].startswith("neck\n")


def test_archive_opens_with_any_zip_program(described, tmp_path):
    (tmp_path / "m.tflite").write_bytes(described)
    assert zipfile.ZipFile(tmp_path / "m.tflite").namelist() == [KEYPOINTS_FILE]
    assert zipfile.ZipFile(tmp_path / "m.tflite").testzip() is None


def test_files_without_metadata_say_nothing(tiny_int8):
    assert read_metadata(tiny_int8) == {"associated_files": {}}
    assert without_archive(tiny_int8) == tiny_int8


def test_released_files_are_read():
    path = next(PACKAGED.glob("*.tflite"))
    assert "associated_files" in read_metadata(path.read_bytes())


def test_networks_without_keypoints_have_no_list_of_them(tiny_int8):
    classifier = read_card("compact_efficientnet_b0")
    assert read_metadata(with_metadata(tiny_int8, classifier))["associated_files"] == {}


def test_damage_is_told(described):
    model = unpacked(without_archive(described))
    entry = next(e for e in model.metadata if e.name.decode() == OURS)
    model.buffers[entry.buffer].data = model.buffers[entry.buffer].data[:-20]
    with pytest.raises(FileError, match="the metadata 'POSEZOO_METADATA' is damaged"):
        read_metadata(packed(model))
    with pytest.raises(FileError, match="not a TFLite file"):
        read_metadata(b"no file at all")


READER = """
import sys
from tensorflow_lite_support.metadata.python import metadata
shown = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
print(shown.get_metadata_json())
print(shown.get_packed_associated_file_list(), shown.get_associated_file_buffer("keypoints.txt"))
"""


def test_tensorflows_own_reader_agrees(described, card, tmp_path):
    (tmp_path / "m.tflite").write_bytes(described)
    printed = run_there(other_python("tflite_support"), READER, tmp_path / "m.tflite")
    end = printed.rindex("}") + 1
    graph = json.loads(printed[:end])["subgraph_metadata"][0]
    image, heatmaps = graph["input_tensor_metadata"][0], graph["output_tensor_metadata"][0]
    assert image["content"]["content_properties"] == {
        "color_space": "RGB", "default_size": {"width": 64, "height": 64},
    }  # fmt: skip
    assert image["process_units"][0]["options"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert image["stats"] == {"max": [1.0] * 3, "min": [-1.0] * 3}
    assert heatmaps["associated_files"][0]["type"] == "TENSOR_AXIS_LABELS"
    assert "right_ankle" in printed[end:]
