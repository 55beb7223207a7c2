"""The registry of targets, networks of users' own, weights that nobody trained, and the command."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

import cv2  # noqa: E402

from posezoo import cli  # noqa: E402
from posezoo.cards import CardError, WeightFile, read_card_file  # noqa: E402
from posezoo.commands.calibration import LAYOUTS  # noqa: E402
from posezoo.export.everything import LEFT_OUT, WRITTEN, read_manifest  # noqa: E402
from posezoo.export.gates import PrecisionError  # noqa: E402
from posezoo.export.job import Limits  # noqa: E402
from posezoo.export.own import NetworkError, open_network  # noqa: E402
from posezoo.export.pixels import keypoint_error, strongest, where_it_counts  # noqa: E402
from posezoo.export.seeded import seed_weights, smooth_pictures  # noqa: E402
from posezoo.export.targets import TARGETS, UnknownTargetError, get_target  # noqa: E402
from posezoo.export.tflite import operators  # noqa: E402
from posezoo.files import replacing_folder  # noqa: E402
from posezoo.inference.runners import KerasRunner, TFLiteRunner  # noqa: E402
from posezoo.zoo import build, changed_card, info, released_card  # noqa: E402

CARD = """
name: dog
skeleton: {name: dog, keypoints: [nose, left_ear, right_ear]}
input: {shape: [32, 48, 3], mean: [0, 0, 0], std: [255, 255, 255]}
codec: {type: heatmap, stride: 4}
"""


@pytest.fixture
def dog(tmp_path):
    """A user's own network, its card, and pictures for it."""
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 48, 3))
    # A stride above the kernel's side would give zeros in tflite-runtime 2.14, and its gate would refuse the file.
    x = keras.layers.Conv2D(8, 5, strides=4, padding="same", activation="relu")(image)
    keras.Model(image, keras.layers.Conv2D(3, 1, name="my_maps")(x)).save(tmp_path / "dog.keras")
    (tmp_path / "dog.yaml").write_text(CARD)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 64))
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), picture)
    return tmp_path


# ---------------------------------------------------------------------------------------------- registry


def test_targets_have_files_of_their_own_and_functions_that_exist():
    import importlib

    assert len({t.ending for t in TARGETS.values()}) == len(TARGETS)
    for target in TARGETS.values():
        module, function = target.function.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function)), target.name


def test_near_target_is_suggested():
    with pytest.raises(UnknownTargetError, match="unknown target 'openvin'; did you mean 'openvino'"):
        get_target("openvin")


def test_tflite_is_a_target_like_any_other(tiny_job, tmp_path):
    made = get_target("tflite").make(tiny_job, tmp_path / "tiny.tflite")
    assert [p.name for p in made.files] == ["tiny.tflite", "tiny.tflite.json"]
    # Where the environment of an older runtime is made, that is a third.
    assert [a.rows[0].kernels for a in made.agreements][:2] == ["default", "builtin"]


DOCS = Path(__file__).parents[1] / "docs" / "export.md"


def test_page_tells_of_every_target_and_its_commands_are_right():
    page = DOCS.read_text()
    assert [name for name in TARGETS if f"`{name}`" not in page and f"--to {name}" not in page] == []
    lines = [line[2:] for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
             if line.startswith("$ ")]  # fmt: skip
    assert len(lines) > 10
    for line in lines:
        program, *words = shlex.split(line)
        if program == "posezoo":
            _, unknown = cli._parser().parse_known_args(words)
            assert not unknown, line
            targets = [words[i + 1] for i, word in enumerate(words) if word == "--to"]
            assert all(target in TARGETS for target in targets), line
        else:
            script = DOCS.parents[1] / "converters" / Path(words[0]).name
            told = script.read_text()
            assert [flag for flag in words if flag.startswith("--") and f'"{flag}"' not in told] == [], line


def test_page_shows_every_target_of_the_example_and_of_the_table():
    page = DOCS.read_text()
    example = page[page.index(" --all ") :].split("```")[0]
    assert re.findall(r"^written +(\w+) ", example, re.MULTILINE) == list(TARGETS)
    count = len(TARGETS)
    assert f"\n{count} of {count} targets: exported/manifest.json" in example
    lines = page[page.index("| `--to` |") :].split("\n\n")[0].splitlines()[2:]
    listed = [name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert sorted(listed) == sorted([*TARGETS, "c"])


def test_page_tells_of_every_layout_of_labelled_data():
    """Rows in the order of `LAYOUTS`, the default first."""
    page = DOCS.read_text()
    lines = page[page.index("| the network looks at |") :].split("\n\n")[0].splitlines()[2:]
    found = {line.split("|")[1].strip(): re.findall(r"`(\w+)`", line.split("|")[3]) for line in lines}
    hands = LAYOUTS["two hands"]
    expected = {kind: names for kind, names in LAYOUTS.items() if names != hands}
    expected |= {"two hands, amplitude": hands, "two hands, depth": hands}
    assert found == {kind: list(names) for kind, names in expected.items()}


# ------------------------------------------------------------------------------------------ own networks


def test_own_network_is_exported_by_the_command(dog, capsys, monkeypatch):
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    command = "export dog.keras --card dog.yaml --to onnx --calibration pictures -o out/dog.onnx"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    assert "out/dog.onnx" in capsys.readouterr().out
    network = open_network(dog / "dog.keras", read_card_file(dog / "dog.yaml"))
    assert list(network.output) == ["heatmaps"]


def test_own_saved_model_is_exported(dog, capsys, monkeypatch):
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    keras.models.load_model("dog.keras").export("dog_saved", verbose=False)
    command = "export dog_saved --card dog.yaml --to onnx --calibration pictures -o dog.onnx"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    command = "export dog_saved --card dog.yaml --calibration pictures -o dog.tflite"
    assert cli.main(command.split()) == 0, capsys.readouterr().err


@pytest.mark.parametrize("network", ["dog.keras", "dog_saved"])
def test_own_network_reaches_every_target(dog, capsys, monkeypatch, network):
    """As a file of layers, and as a SavedModel with variables as Keras writes it."""
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    keras.models.load_model("dog.keras").export("dog_saved", verbose=False)
    command = ["export", network, "--card", "dog.yaml", "--all", "--calibration", "pictures", "-o", "out"]
    assert cli.main(command) == 0, capsys.readouterr()
    entries = read_manifest(dog / "out")["models"]["dog"]["targets"]
    assert list(entries) == list(TARGETS)
    missing = {name for name, entry in entries.items() if entry["status"] == LEFT_OUT}
    assert missing <= {name for name, target in TARGETS.items() if target.environment}
    refused = {name: entry["reason"] for name, entry in entries.items() if entry["status"] not in (WRITTEN, LEFT_OUT)}
    assert refused == {}


@pytest.mark.parametrize("target, out", [("tflite", "dog.tflite"), ("onnx", "dog.onnx")])
def test_own_sequential_network_is_exported(dog, capsys, monkeypatch, target, out):
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    functional = keras.models.load_model("dog.keras")
    network = keras.Sequential([keras.Input((32, 48, 3)), *functional.layers[1:]])
    network.save("sequence.keras")
    command = f"export sequence.keras --card dog.yaml --to {target} --calibration pictures -o {out}"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    opened = open_network(dog / "sequence.keras", read_card_file(dog / "dog.yaml"))
    assert list(opened.output) == ["heatmaps"]
    pictures = np.random.default_rng(0).uniform(size=(2, 32, 48, 3)).astype("float32")
    np.testing.assert_array_equal(opened(pictures)["heatmaps"], functional(pictures))


def test_own_sequential_network_that_was_never_built_is_told(dog):
    keras.Sequential([keras.layers.Conv2D(3, 1)]).save(dog / "sequence.keras")
    with pytest.raises(
        NetworkError, match="a sequential one that was built, with one input; build it with keras.Input"
    ):
        open_network(dog / "sequence.keras", read_card_file(dog / "dog.yaml"))


@pytest.mark.parametrize("options", ["--to edgetpu", "--to tflite --no-groups"])
def test_grouped_convolutions_of_an_own_backbone_become_dense(dog, capsys, monkeypatch, options):
    monkeypatch.chdir(dog)
    image, inside = keras.Input((32, 48, 3)), keras.Input((32, 48, 3))
    x = keras.layers.Conv2D(8, 5, strides=4, padding="same", activation="relu")(inside)
    backbone = keras.Model(inside, keras.layers.Conv2D(8, 3, groups=2, padding="same")(x), name="backbone")
    keras.Model(image, keras.layers.Conv2D(3, 1)(backbone(image))).save("nested.keras")
    command = f"export nested.keras --card dog.yaml {options} --calibration pictures -o dog.tflite"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    assert operators((dog / "dog.tflite").read_bytes()) == {"CONV_2D v3": 3}


def test_own_saved_model_is_checked_for_edge_tpu(dog, capsys, monkeypatch):
    monkeypatch.chdir(dog)
    keras.models.load_model("dog.keras").export("dog_saved", verbose=False)
    command = "export dog_saved --card dog.yaml --to edgetpu --check --calibration pictures"
    assert cli.main(command.split()) == 0, capsys.readouterr().err
    assert "2 to 2 of 2 operators" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--no-groups", "--no-dilation"])
def test_layers_of_a_saved_model_cannot_be_replaced(dog, capsys, monkeypatch, flag):
    monkeypatch.chdir(dog)
    save_with_constants(dog / "frozen", 0)
    command = f"export frozen --card dog.yaml {flag} --calibration pictures -o x.tflite"
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert f"{flag} replaces layers of Keras, but layer 'saved_model' is a SavedModel" in told
    assert f"give the network as one, or leave out {flag}" in told
    command = f"export dog.keras --card dog.yaml {flag} --calibration pictures -o x.tflite"
    assert cli.main(command.split()) == 0, capsys.readouterr().err


def test_everything_by_the_command(dog, capsys, monkeypatch):
    pytest.importorskip("tf2onnx")
    from posezoo.export import targets

    monkeypatch.chdir(dog)
    monkeypatch.setattr(targets, "TARGETS", {name: TARGETS[name] for name in ("tflite_float32", "onnx")})
    monkeypatch.setattr("posezoo.export.everything.TARGETS", targets.TARGETS)
    command = ["export", "dog.keras", "--card", "dog.yaml", "--all", "--calibration", "pictures", "-o", "out"]
    assert cli.main(command) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "written   onnx " in told
    assert "2 of 2 targets: out/manifest.json, out/exports.md" in told
    assert cli.main(command) == 0
    assert "kept      onnx " in capsys.readouterr().out


def save_with_constants(folder: Path, seed: int, last: Callable = lambda maps: maps) -> None:
    """Write a SavedModel for the dog's card whose weights are constants of its graph, with something behind them."""
    import tensorflow as tf

    kernel = np.random.default_rng(seed).normal(size=(5, 5, 3, 3)).astype("float32")
    module = tf.Module()
    module.serve = tf.function(
        lambda image: {"heatmaps": last(tf.nn.conv2d(image, tf.constant(kernel), 4, "SAME"))},
        input_signature=[tf.TensorSpec((1, 32, 48, 3))],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def repeat(maps):
    import tensorflow as tf

    return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, tf.nn.relu(x) * 1.1), (0, maps))[1]


def choose(maps):
    import tensorflow as tf

    return tf.cond(tf.reduce_mean(maps) > 0, lambda: maps * 2, lambda: maps + 1)


@pytest.mark.parametrize(
    "flow, options, told",
    [
        (repeat, "-o x.tflite", "repeats or branches as it runs, layer 'saved_model' (while); write a loop's rounds"),
        (choose, "-o x.tflite", "repeats or branches as it runs, layer 'saved_model' (cond); write a loop's rounds"),
        (choose, "--precision int16x8 -o x.tflite", "TFLite in int16x8 has no ranges for what repeats or branches"),
        (choose, "--to edgetpu -o x.tflite", "or convert to float16"),
        (repeat, "--to onnx -o x.onnx", "layer 'saved_model' (while) repeats as it runs"),
        (repeat, "--to tftrt -o x", "write the rounds out, or convert to TFLite in float32 or float16"),
        (repeat, "--precision float16 -o x.tflite", None),
        (choose, "--precision float16 -o x.tflite", None),
        (choose, "--to onnx -o x.onnx", None),
    ],
)
def test_loops_and_branches_go_where_they_can_and_are_named_elsewhere(dog, capsys, monkeypatch, flow, options, told):
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    save_with_constants(dog / "flow", 0, flow)
    answer = cli.main(f"export flow --card dog.yaml {options} --calibration pictures".split())
    error = capsys.readouterr().err
    assert answer == (2 if told else 0), error
    assert told is None or told in error
    assert bool(list(dog.glob("x*"))) == (told is None)


def test_a_saved_model_that_was_trained_again_is_exported_again(dog, capsys, monkeypatch):
    """Its weights are constants: the network that Keras makes of it is the same as before."""
    monkeypatch.chdir(dog)
    monkeypatch.setattr("posezoo.export.everything.TARGETS", {"tflite_float32": TARGETS["tflite_float32"]})
    command = ["export", "frozen", "--card", "dog.yaml", "--all", "--calibration", "pictures", "-o", "out"]
    for seed, status in ((0, "written"), (None, "kept"), (1, "written")):
        if seed is not None:
            save_with_constants(dog / "frozen", seed)
        assert cli.main(command) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.startswith(f"{status:9} tflite_float32 ")


@pytest.mark.parametrize(
    "command, told",
    [
        ("dog.keras --to onnx --calibration pictures -o x.onnx", "describe it with --card FILE.yaml"),
        (
            "dog.keras --card nothing.yaml --to onnx --calibration pictures -o x.onnx",
            "nothing.yaml: no card that can be read",
        ),
        (
            "pictures --card dog.yaml --to onnx --calibration pictures -o x.onnx",
            "expected a .keras file or the folder of a",
        ),
        ("dog.keras --card dog.yaml --to onnxx --calibration pictures -o x", "did you mean 'onnx'"),
        ("dog.keras --card dog.yaml --to onnx --calibration pictures -o x", "writes a .onnx file; name it so"),
        ("dog.keras --card dog.yaml --to onnx -o x.onnx", "give --calibration FOLDER"),
        ("dog.keras --card dog.yaml --to onnx --calibration pictures", "say where to write: -o FILE"),
        ("dog.keras --card dog.yaml --set input_px=64 --calibration pictures -o x.tflite", "is exported as it is"),
        ("hand25d --structure-only --set sides=3 -o x.tflite", "hand25d has no 'sides'; it has"),
        ("hand25d --to onnx --precision int8 -o x.onnx", "is for --to tflite and --to c; take --to onnx_int8"),
        ("hand25d --to openvino_v10 --precision int8 -o x.xml", "take --to openvino_int8"),
        ("hand25d --to tflite_uint8 --precision float16 -o x.tflite", "take --to tflite_float16"),
        ("hand25d --to myriad --precision float16 -o x.blob", "--to myriad writes one kind of file"),
        ("hand25d --to tensorrt --precision int8 -o x", "chosen on the device, with --precision of the script"),
        ("hand25d --all --precision int8 -o x", "--all writes every precision"),
        ("hand25d --all --to onnx -o x", "--all writes every target; leave out --to, or --all for that one alone"),
        ("hand25d --all --to tflite -o x", "--all writes every target"),
        ("hand25d --all --check", "--check is for --to edgetpu"),
        ("hand25d --to c --check", "--check is for --to edgetpu"),
        ("hand25d --to onnx --io uint8 -o x.onnx", "--io is for --to tflite, --to c and --to edgetpu"),
        ("hand25d --precision float16 --io uint8 -o x.tflite", "--io uint8: --precision float16 takes float32"),
        ("hand25d --to edgetpu --io float32 -o x.tflite", "--io float32: --to edgetpu takes int8 or uint8"),
        ("hand25d --to onnx --min-mapped 0.5 -o x.onnx", "--min-mapped is for --to edgetpu"),
        (
            "hand25d --to edgetpu --min-mapped 2 -o x.tflite",
            "--min-mapped 2: expected a share of the operators, 0 to 1",
        ),
        ("hand25d --to edgetpu --min-mapped nan -o x.tflite", "--min-mapped nan: expected a share"),
        (
            "hand25d --calibration pictures --gate-pictures 0 -o x.tflite",
            "--gate-pictures 0: the gates need at least 2",
        ),
        ("hand25d --calibration pictures --gate-pictures 1 -o x.tflite", "one cannot show whether a file reacts to"),
        ("hand25d --calibration pictures --pictures 0 -o x.tflite", "--pictures 0: the gates need at least 2"),
        ("dog.keras --card dog.yaml --calibration pictures/0.png -o x.tflite", "pictures/0.png: 1 picture found; the"),
        ("hand25d --calibration pictures --dataset hands -o x.tflite", "--dataset is the layout of --data"),
        ("hand25d --structure-only --split val -o x.tflite", "--split is of --data; give --data FOLDER"),
        ("hand25d --structure-only --weights x.weights.h5 -o x.tflite", "leave out --structure-only"),
        ("dog.keras --card dog.yaml --weights x.h5 --calibration pictures -o x.tflite", "holds its weights"),
        (
            "hand25d --to c --precision float32 -o x.h",
            "--precision is for a new file, and --to c without pictures takes",
        ),
        ("hand25d --to c --no-groups -o x.h", "--no-groups is for a new file"),
        ("hand25d --to c --set input_px=64 -o x.h", "--set is for a new file"),
        ("dog.keras --card dog.yaml --to c -o x.h", "--card is for a new file"),
        ("hand25d --structure-only --set input_px=50 -o x.tflite", "must be multiples of 8"),
    ],
)
def test_wrong_requests_are_told(dog, capsys, monkeypatch, command, told):
    monkeypatch.chdir(dog)
    assert cli.main(["export", *command.split()]) == 2
    assert told in capsys.readouterr().err


def test_a_model_of_the_zoo_is_built_as_asked_for(tmp_path, capsys):
    out = tmp_path / "small.tflite"
    command = ["export", "hand25d", "--structure-only", "--precision", "float32", "--set", "input_px=48,64"]
    assert cli.main([*command, "-o", str(out)]) == 0, capsys.readouterr().err
    runner = TFLiteRunner(out, changed_card(info("hand25d"), {"input_px": (48, 64)}, {}).input)
    assert runner(np.zeros((1, 48, 64, 1), "uint16"))["heatmaps"].shape[1:3] == (24, 32)


def test_a_header_is_made_of_a_network_without_weights_too(tmp_path, capsys):
    command = "export hand25d --to c --structure-only --precision float32 --set input_px=48,64 -o"
    assert cli.main([*command.split(), str(tmp_path / "hand.h")]) == 0, capsys.readouterr().err
    assert "unsigned char hand25d_float32[]" in (tmp_path / "hand.h").read_text()


def test_unwritable_folder_is_told_and_leaves_nothing(dog, capsys, monkeypatch):
    pytest.importorskip("tf2onnx")
    monkeypatch.chdir(dog)
    (dog / "file").write_text("no folder")
    command = "export dog.keras --card dog.yaml --to onnx --calibration pictures -o file/dog.onnx"
    assert cli.main(command.split()) == 2
    assert "file/dog.onnx: cannot be written" in capsys.readouterr().err
    assert (dog / "file").read_text() == "no folder"


def test_missing_package_is_told(dog, capsys, monkeypatch):
    import sys

    monkeypatch.chdir(dog)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    command = "export dog.keras --card dog.yaml --to onnx --calibration pictures -o x.onnx"
    assert cli.main(command.split()) == 2
    assert "pip install 'posezoo[export]'" in capsys.readouterr().err


def test_network_that_does_not_fit_its_card_is_told(dog):
    other = dog / "other.yaml"
    other.write_text(CARD.replace("[32, 48, 3]", "[64, 48, 3]"))
    with pytest.raises(NetworkError, match=r"takes \(32, 48, 3\), the card says \(64, 48, 3\)"):
        open_network(dog / "dog.keras", read_card_file(other))
    (dog / "broken.keras").write_bytes(b"nothing")
    with pytest.raises(NetworkError, match="Keras cannot open it"):
        open_network(dog / "broken.keras", read_card_file(other))


def test_own_card_needs_four_entries(dog):
    card = read_card_file(dog / "dog.yaml")
    assert (card.name, card.skeleton.keypoints[1], card.licences["data"]) == ("dog", "left_ear", "not stated")
    for entry in ("name", "skeleton", "input", "codec"):
        (dog / "less.yaml").write_text("\n".join(line for line in CARD.splitlines() if not line.startswith(entry)))
        with pytest.raises(CardError, match=entry):
            read_card_file(dog / "less.yaml")
    (dog / "less.yaml").write_text(CARD.replace("right_ear", "tail"))
    with pytest.raises(CardError, match="left_ and right_ keypoints come in pairs"):
        read_card_file(dog / "less.yaml")


# ------------------------------------------------------------------------- weights that nobody trained


@pytest.mark.parametrize("name", ["mpm_1s", "mobilenet_split_035_160"])
def test_seeded_networks_answer_pictures_differently(name):
    card, pictures = info(name), smooth_pictures(info(name), 2)
    network = build(name)
    seed_weights(network, card)
    for value in KerasRunner(network, card.input)(pictures).values():
        assert np.abs(value[0] - value[1]).mean() > 0.05 * value.std()
        assert np.abs(value).max() < 6e4  # float16 holds it


@pytest.mark.parametrize("name", ["mpm_1s", "efficienthrnet_lite_h-4"])
def test_seeded_weights_are_the_same_to_the_last_bit(name, monkeypatch):
    """Whatever layers drop out in training, and in whatever order pictures are summed up."""
    card, networks = info(name), [build(name), build(name)]
    seed_weights(networks[0], card)
    backwards = smooth_pictures(card, 4)[::-1]
    monkeypatch.setattr("posezoo.export.seeded.smooth_pictures", lambda card, count: backwards)
    seed_weights(networks[1], card)
    for a, b in zip(networks[0].weights, networks[1].weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


# ------------------------------------------------------------------------------- keypoints, folders


def test_keypoint_error_is_in_pixels_of_the_input(tiny_card):
    maps = np.zeros((1, 16, 16, 14), np.float32)
    maps[0, 5, 6] = 1
    moved = np.roll(maps, 1, axis=2)
    error = keypoint_error(tiny_card, {"heatmaps": maps}, {"heatmaps": moved})
    assert error.keypoints == 14
    assert error.median_px == pytest.approx(4)
    assert keypoint_error(tiny_card, {"heatmaps": maps - 2}, {"heatmaps": moved}) is None


def test_bottom_up_networks_are_compared_by_their_strongest_peaks():
    card = info("mpm_1s")
    maps = np.zeros((2, 46, 46, card.skeleton.num_keypoints + 1), np.float32)
    maps[:, 10, 20] = 1
    places, scores = strongest(card, {"heatmaps": maps})
    assert places.shape == (2, card.skeleton.num_keypoints, 2)
    np.testing.assert_allclose(places[0, 0], [(20 + 0.5) * 8 - 0.5, (10 + 0.5) * 8 - 0.5], atol=0.01)
    assert scores.min() == 1
    assert strongest(info("compact_efficientnet_b0"), {"classes": np.zeros((1, 1000))}) is None


def test_tags_count_where_a_keypoint_may_be():
    card = released_card("efficienthrnet_lite_h-4")
    low, tags = np.zeros((1, 64, 64, 17), np.float32), np.ones((1, 64, 64, 17), np.float32)
    assert where_it_counts(card, {"heatmaps_low": low, "tags": tags}) == {}
    low[0, 3, 5, 2] = 0.2
    ((name, mask),) = where_it_counts(card, {"heatmaps_low": low, "tags": tags}).items()
    assert name == "tags" and mask.shape == tags.shape and np.argwhere(mask).tolist() == [[0, 3, 5, 2]]
    assert where_it_counts(info("mpm_1s"), {"heatmaps": low}) == {}


@pytest.mark.parametrize("name", ["tflite", "onnx_int8"])
def test_int8_that_is_too_rough_is_told_with_the_way_out(name, tiny_job, tmp_path, monkeypatch):
    monkeypatch.setattr("posezoo.export.job.INT8", Limits(90.0))
    target = TARGETS[name]
    with pytest.raises(PrecisionError, match=r"'heatmaps' on .* at least 90.0 expected.*; .*quantize_qat.py.*int16x8"):
        target.make(tiny_job, target.path(tmp_path, "tiny"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision, told", [("int8", True), ("int16x8", False)])
def test_the_command_tells_the_way_out_of_8_bits(dog, capsys, monkeypatch, precision, told):
    monkeypatch.chdir(dog)
    monkeypatch.setattr("posezoo.export.job.INT8", Limits(300.0))
    command = f"export dog.keras --card dog.yaml --precision {precision} --calibration pictures -o out.tflite"
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert "nothing written: " in error and ("quantize_qat" in error) == told
    assert not (dog / "out.tflite").exists()


def test_a_released_int8_file_is_a_way_out(tiny_job, tmp_path, monkeypatch):
    monkeypatch.setattr("posezoo.export.job.INT8", Limits(90.0))
    released = {"int8": WeightFile("tiny_int8.tflite", 1, "0" * 64, "python recipe.py")}
    job = replace(tiny_job, card=replace(tiny_job.card, weights=released))
    with pytest.raises(PrecisionError, match="else take the released tiny_int8.tflite, train the network"):
        TARGETS["tflite"].make(job, tmp_path / "tiny.tflite")


@pytest.mark.parametrize("name, limits", [("tensorrt", "FLOAT32"), ("tflite_int16x8", "INT8")])
def test_way_out_of_8_bits_is_not_told_of_other_files(name, limits, tiny_job, tmp_path, monkeypatch):
    for module in ("job", "tensorrt", "tflite_targets"):
        monkeypatch.setattr(f"posezoo.export.{module}.{limits}", Limits(300.0), raising=False)
    target = TARGETS[name]
    with pytest.raises(PrecisionError) as told:
        target.make(tiny_job, target.path(tmp_path, "tiny"))
    assert "quantize_qat" not in str(told.value)


def test_folders_are_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "folder"
    with replacing_folder(target, ours="a") as work:
        (work / "a").write_text("1")
    with pytest.raises(RuntimeError), replacing_folder(target, ours="a") as work:
        (work / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    with replacing_folder(target, ours="a") as work:
        (work / "c").write_text("3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert [p.name for p in target.parent.iterdir()] == ["folder"]


def test_folders_with_other_things_are_not_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("...")
    with pytest.raises(FileExistsError, match="holds other things"), replacing_folder(tmp_path / "letters", ours="a"):
        pass
    with pytest.raises(FileExistsError, match="is a file"), replacing_folder(tmp_path / "letters/dear.txt", ours="a"):
        pass
    assert (tmp_path / "letters" / "dear.txt").read_text() == "..."
    (tmp_path / "empty").mkdir()
    with replacing_folder(tmp_path / "empty", ours="a") as work:
        (work / "a").write_text("1")
    assert (tmp_path / "empty" / "a").exists()
