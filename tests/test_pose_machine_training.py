"""Losses and trainers of pose machines, and their recipes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import script

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from keras import ops  # noqa: E402

from posezoo.cards import all_cards  # noqa: E402
from posezoo.codecs.heatmap import UNLABELLED, HeatmapCodec  # noqa: E402
from posezoo.codecs.part_affinity import UNKNOWN, PartAffinityCodec  # noqa: E402
from posezoo.data.depth_scenes import (  # noqa: E402
    DepthAugmentation,
    DepthFrame,
    DepthPeople,
    DepthScenes,
    MixedScenes,
    person_batch,
    silhouette,
)
from posezoo.evaluation.pose_machines import Labelled, from_scenes, score_landmarks  # noqa: E402
from posezoo.inference.poses import Poses  # noqa: E402
from posezoo.models.pose_machines import pose_machine, with_features  # noqa: E402
from posezoo.skeletons import DEPTH17  # noqa: E402
from posezoo.training.config import parse  # noqa: E402
from posezoo.training.pose_machines import (  # noqa: E402
    AdversarialTrainer,
    StageTrainer,
    confusion,
    domain_classifier,
    labels_loss,
    reversal_strength,
    reverse_gradient,
    squared_error,
    stage_names,
    teacher_loss,
)
from posezoo.training.run import Checkpoint, Run  # noqa: E402

ROOT = Path(__file__).parents[1]
NOBODY = Poses.empty(DEPTH17)


def maps(value: float, stages: int = 1, batch: int = 1) -> dict:
    names = [name for s in range(1, stages) for name in (f"heatmaps_s{s}", f"pafs_s{s}")] + ["heatmaps", "pafs"]
    return {name: np.full((batch, 2, 2, 3), value, "float32") for name in names}


def test_squared_error_is_summed_and_leaves_out_the_unknown():
    target, predicted = np.zeros((1, 2, 2, 1), "float32"), np.full((1, 2, 2, 1), 3.0, "float32")
    target[0, 0, 0] = UNKNOWN
    assert float(squared_error(target, predicted)[0]) == 27.0


def test_every_stage_and_branch_counts():
    assert [s["pafs"] for s in stage_names(maps(0, 3))] == ["pafs_s1", "pafs_s2", "pafs"]
    # 2 branches x 12 values x 2^2, for each of three stages
    assert float(labels_loss(maps(0), maps(2, 3))[0]) == 3 * 2 * 12 * 4


@pytest.mark.parametrize("protocol, last, expected", [
    ("standard", 1, 1 * 24 * 1), ("stagewise", 2, 2 * 24 * 1), ("stagewise*", 1, 3 * 24 * 1),
])  # fmt: skip
def test_distillation_protocols(protocol, last, expected):
    assert float(teacher_loss(maps(1, 4), maps(2, 3), protocol=protocol, last=last)[0]) == expected


def test_stagewise_matches_stages_from_the_end():
    taught, predicted = maps(0, 3), maps(0, 2)
    taught["pafs_s2"] += 2  # the teacher's second of three stages meets the student's first of two
    assert float(teacher_loss(taught, predicted, protocol="stagewise", last=2)[0]) == 12 * 4


def test_wrong_distillation_is_told():
    with pytest.raises(
        ValueError, match="last 3 stages needs as many in both networks; the teacher has 4, the student 2"
    ):
        teacher_loss(maps(0, 4), maps(0, 2), protocol="stagewise", last=3)
    with pytest.raises(ValueError, match="unknown protocol 'stages'"):
        teacher_loss(maps(0), maps(0), protocol="stages")


def batch(size: int = 2, px: int = 32):
    rng = np.random.default_rng(0)
    side = px // 8
    y = {"heatmaps": rng.random((size, side, side, 18)), "pafs": rng.normal(size=(size, side, side, 32))}
    x = rng.uniform(-0.5, 0.5, (size, px, px, 1)).astype("float32")
    return x, {k: v.astype("float32") for k, v in y.items()}


def test_trainer_without_a_teacher_is_the_labels_loss():
    network = pose_machine("mpm", stages=2, input_px=32, intermediate=True)
    trainer = StageTrainer(network)
    x, y = batch()
    expected = float(np.mean(labels_loss(y, network(x, training=False))))
    assert float(trainer.compute_loss(x, y, network(x, training=False))) == pytest.approx(expected, rel=1e-5)


def test_a_student_learns_its_teachers_maps_and_features_and_the_teacher_stays(eager):
    teacher = with_features(pose_machine("mpm", stages=2, input_px=32, intermediate=True))
    student = with_features(pose_machine("mpm", input_px=32, intermediate=True))
    before = [w.copy() for w in teacher.get_weights()]
    trainer = StageTrainer(student, teacher=teacher, protocol="stagewise*", alpha=0.0, gamma=1.0)
    trainer.build((None, 32, 32, 1))
    trainer.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    x, y = batch()
    losses = [trainer.train_on_batch(x, y) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    for old, new in zip(before, teacher.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_hints_without_features_are_told():
    networks = [pose_machine("mpm", input_px=32, intermediate=True) for _ in range(2)]
    trainer = StageTrainer(networks[0], teacher=networks[1], gamma=1.0)
    x, y = batch()
    with pytest.raises(ValueError, match="output 'features' of the teacher and the student"):
        trainer.compute_loss(x, y, networks[0](x))


def test_gradient_is_reversed_and_the_value_stays():
    import tensorflow as tf

    x = tf.Variable([1.0, -2.0])
    with tf.GradientTape() as tape:
        y = reverse_gradient(x, 3.0)
        total = ops.sum(y * ops.convert_to_tensor([1.0, 10.0]))
    np.testing.assert_allclose(y, x.numpy(), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(total, x), [-3.0, -30.0], rtol=1e-5)


def test_strength_follows_the_papers_schedule():
    assert reversal_strength(0.0) == 0.0
    assert reversal_strength(1.0) == pytest.approx(100 * (2 / (1 + np.exp(-10)) - 1))
    assert reversal_strength(0.1, 1.0) == pytest.approx(0.46211716)


def test_confusion_counts_both_kinds_of_mistakes():
    assert confusion([0, 0, 1, 1], [-1.0, 2.0, 3.0, -4.0]) == 0.5


def test_adversarial_training_makes_domains_alike():
    """Frames of two domains that differ in brightness: without reversal the classifier tells them apart."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-0.2, 0.2, (16, 32, 32, 1)).astype("float32")
    x[8:] += 0.3
    y = batch(16)[1] | {"domain": np.repeat([[0.0], [1.0]], 8, axis=0).astype("float32")}
    y["heatmaps"][8:], y["pafs"][8:] = UNKNOWN, UNKNOWN

    keras.utils.set_random_seed(3)
    network = with_features(pose_machine("mpm", input_px=32, intermediate=True))
    trainer = AdversarialTrainer(network, domain_classifier(64), scale=0.0)
    trainer.build((None, 32, 32, 1))
    trainer.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    trainer.optimizer.build(trainer.trainable_variables)
    start = [np.array(v) for v in (*trainer.variables, *trainer.optimizer.variables)]

    def guesses(strength: float) -> float:
        """Train from the same start; one graph serves both strengths."""
        for variable, value in zip((*trainer.variables, *trainer.optimizer.variables), start, strict=True):
            variable.assign(value)
        trainer.strength.assign(strength)
        for _ in range(40):
            trainer.train_on_batch(x, y)
        logits = np.asarray(trainer(x, training=True)["domain"])
        return float(np.mean(ops.binary_crossentropy(y["domain"], logits, from_logits=True)))

    told_apart = guesses(0.0)
    assert told_apart < 0.2
    assert guesses(1.0) > 2 * told_apart


# ----------------------------------------------------------------------------------------------- scenes


class Frames:
    """Two frames of one person whose head is a bright square."""

    name, skeleton = "frames", DEPTH17

    def __init__(self, *, complete: bool = True):
        self.complete = complete

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> DepthFrame:
        depth = np.full((60, 80), 4.0, np.float32)
        depth[20:40, 30:50] = 2.0
        keypoints = np.zeros((1, 17, 3), np.float32)
        keypoints[0, :, :2] = 39.5, 29.5
        keypoints[0, DEPTH17.index("left_wrist")] = 49, 29.5, 2
        keypoints[0, DEPTH17.index("right_wrist")] = 30, 29.5, 2
        return DepthFrame(depth, keypoints, np.array([[30, 20, 20, 20]], np.float32), depth < 3, self.complete)


def test_whole_frame_is_fitted_and_its_keypoints_go_with_it():
    scene = DepthScenes(Frames(), (80, 80)).crop(0)
    assert scene.image.shape == (80, 80, 1)
    assert scene.image[0, 0] == 0
    assert scene.image[40, 40] == pytest.approx(2.0)
    left = scene.keypoints[0, DEPTH17.index("left_wrist")]
    np.testing.assert_allclose(left, [49, 39.5, 2], atol=1e-4)


def test_scenes_and_whole_frames_are_measured_alike():
    """The recipes measure at the network's size, `posezoo eval` in the frame's pixels: one result."""
    frame, scene = Frames()[0], DepthScenes(Frames(), (160, 160)).crop(0)
    assert scene.boxes.tolist() == [[60.5, 60.5, 40, 40]]
    kappas, marks = np.linspace(0.01, 1, 100), []
    for off, truth, boxes in (
        (5, frame.keypoints, frame.boxes),
        (10, scene.keypoints, from_scenes([(scene, NOBODY)])[0].boxes),
    ):
        found = Poses(truth[..., :2] + (off, 0), truth[..., 2] / 2, DEPTH17)
        marks.append(score_landmarks([Labelled(found, truth, boxes)], kappas=kappas).recall())
    np.testing.assert_array_equal(*marks)
    # Five pixels of the box's 20 are a quarter; between the wrists, all that is labelled, there is no height at all.
    assert np.nanmean(marks[0]) == pytest.approx(0.76)


def test_one_person_is_cut_out_around_the_box():
    class Two(Frames):
        def __getitem__(self, index):
            frame = super().__getitem__(index)
            near = frame.keypoints + np.float32([10, 0, 0])
            boxes = np.concatenate([frame.boxes, [[35, 10, 30, 40]]])
            return replace(frame, keypoints=np.concatenate([frame.keypoints, near]), boxes=boxes.astype("f4"))

    scene = DepthPeople(Two(), (80, 80), enlarge_box=1.0).crop(0)
    # The larger box's 40 pixels fill the crop: twice the size, its middle at (50, 30).
    assert scene.boxes.tolist() == [[9.5, -0.5, 60, 80]]
    left = DEPTH17.index("left_wrist")
    np.testing.assert_allclose(scene.keypoints[:, left], [[(59 - 50) * 2 + 39.5, (29.5 - 30) * 2 + 39.5, 2]], atol=1e-4)
    varied = DepthPeople(Two(), (80, 80), augmentation=DepthAugmentation(rotate=0, crop=0, flip=0))
    sides = {round(float(varied.crop(i % 2, i).boxes[0, 2])) for i in range(20)}
    assert sides == {64, 48}  # either person: 80 / 1.25 by the longer side
    codec = HeatmapCodec((80, 80), background=True)
    images, targets = person_batch([scene, nobody(scene)], codec, scale=lambda x: x, skeleton=DEPTH17)
    assert images.shape == (2, 80, 80, 1) and targets["heatmaps"].shape == (2, 20, 20, 18)
    assert targets["heatmaps"][0, ..., left].max() > 0.8 and (targets["heatmaps"][1] == UNLABELLED).all()


def nobody(scene):
    return replace(scene, keypoints=np.zeros((0, 17, 3), np.float32), boxes=np.zeros((0, 4), np.float32))


def test_varied_scenes_keep_keypoints_on_the_person():
    scenes = DepthScenes(Frames(), (64, 64), augmentation=DepthAugmentation(drop=0.0), seed=3)
    for epoch in range(40):
        scene = scenes.crop(epoch % 2, epoch)
        for point in scene.keypoints[0]:
            if point[2]:
                x, y = np.clip(np.rint(point[:2]).astype(int), 1, 62)
                assert (np.abs(scene.image[y - 1 : y + 2, x - 1 : x + 2] - 2) < 0.5).any()
        left, right = (scene.keypoints[0, DEPTH17.index(f"{side}_wrist")] for side in ("left", "right"))
        # Mirrored or not, who faces the camera has the left hand at the larger x.
        assert not (left[2] and right[2]) or left[0] > right[0]
    again = scenes.crop(1, 7)
    np.testing.assert_array_equal(again.image, scenes.crop(1, 7).image)


def test_silhouette_pixels_are_dropped():
    none, some = (
        DepthScenes(Frames(), (80, 80), augmentation=DepthAugmentation(drop=d, crop=0, rotate=0)) for d in (0, 0.5)
    )
    lost = (none.crop(0).image > 0) & (some.crop(0).image == 0)
    people = np.abs(none.crop(0).image[..., 0] - 2) < 0.1
    edge = silhouette(people, 3)
    assert 0.3 < lost[..., 0].sum() / silhouette(people, 2).sum() < 0.7
    assert not lost[..., 0][~edge].any()


def test_only_unlabelled_keypoints_are_left_out_of_the_loss():
    complete, partial = (DepthScenes(Frames(complete=c), (64, 64)).crop(0) for c in (True, False))
    assert complete.unlabelled is None
    codec = PartAffinityCodec((64, 64))
    targets = codec.targets(partial.keypoints, partial.ignored, skeleton=DEPTH17)
    unknown = (targets["heatmaps"] == UNKNOWN).any(axis=(0, 1))[:17]
    assert not unknown[DEPTH17.index("left_wrist")]
    assert unknown[DEPTH17.index("neck")]


def test_mixed_scenes_draw_by_shares():
    parts = [DepthScenes(Frames(), (32, 32)), DepthScenes(Frames(), (32, 32))]
    mixed = MixedScenes(parts, [3, 1], length=200, seed=1)
    drawn = [mixed.crop(i).index for i in range(200)]
    assert 0.65 < drawn.count(0) / 200 < 0.85
    assert sorted(mixed.order(2)) == list(range(200))


# ---------------------------------------------------------------------------------------------- recipes


def run(name: str, out: Path, *flags: str) -> None:
    script(f"recipes/{name}.py").main(["--smoke", "--out", str(out), *flags])


@pytest.mark.slow
def test_progressive_training_and_distillation_run(tmp_path, eager):
    run("train_pose_machine", tmp_path / "one")
    weights = tmp_path / "one" / "best.weights.h5"
    run("train_pose_machine", tmp_path / "two", "--model", "mpm_2s", "--start-from", f"mpm_1s:{weights}")
    run(
        "distill_pose_machine",
        tmp_path / "taught",
        "--teacher",
        f"mpm_2s:{tmp_path}/two/best.weights.h5",
        "--gamma",
        "1",
    )
    for name in ("one", "two", "taught"):
        history = json.loads((tmp_path / name / "run.json").read_text())["history"]
        assert len(history) == 2
        assert all(np.isfinite(row["loss"]) for row in history)
        assert (tmp_path / name / "pictures" / "epoch_001.png").exists()


@pytest.fixture
def narrow(monkeypatch):
    """Hourglasses of a few features."""
    for name, width in {"FEATURES": 8, "STACK_INPUT": 8, "LEVELS": 1, "BLOCKS": 1}.items():
        monkeypatch.setattr(f"posezoo.models.hourglass.{name}", width)


@pytest.mark.parametrize("name, flags", [
    ("train_pose_machine", ["--ema", "0.9", "--patience", "1"]),
    ("distill_pose_machine", ["--teacher", "mpm_1s", "--model", "mpm_1s", "--protocol", "standard", "--gamma", "1"]),
    ("adapt_pose_machine", ["--real-dataset", "dih"]),
])  # fmt: skip
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, eager, monkeypatch, name, flags):
    """From what lies on disk in the middle of the second epoch, as a kill leaves it, the same weights and history."""
    flags = [*flags, "--input-px", "64", "--learning-rate", "1e-5", "--pictures", "0"]
    if name == "adapt_pose_machine":
        flags += ["--real", str(script("recipes/depth_recipes.py").rendered_as_dih(4, seed=3))]
    folders = [tmp_path / "whole", tmp_path / "broken"]
    begin = Checkpoint.on_train_batch_begin

    def begin_and_copy(self, batch, logs=None):
        if self.run.epoch == batch == 1:
            shutil.copytree(folders[0], folders[1])
        begin(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_begin", begin_and_copy)
        run(name, folders[0], *flags)
    assert len(json.loads((folders[1] / "run.json").read_text())["history"]) == 1
    run(name, folders[1], *flags)
    histories = [json.loads((folder / "run.json").read_text())["history"] for folder in folders]
    for one, other in zip(*histories, strict=True):
        assert one.keys() == other.keys()
        assert all(one[k] == pytest.approx(other[k], rel=1e-4) for k in one if k != "seconds")
    with np.load(folders[0] / "state.npz") as a, np.load(folders[1] / "state.npz") as b:
        assert set(a.files) == set(b.files)
        assert json.loads(str(a["json"]))["plateau"] == json.loads(str(b["json"]))["plateau"]
        for key in set(a.files) - {"json"}:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-3, atol=1e-5, err_msg=key)
        if name == "adapt_pose_machine":
            # The last step of four is the third quarter of the paper's schedule.
            single = [float(v) for key, v in b.items() if key.startswith("model/") and v.shape == ()]
            assert pytest.approx(reversal_strength(0.75)) in single
            files = ("best.weights.h5", "confused.weights.h5")
            assert all((folder / file).exists() for folder in folders for file in files)
            assert all(0 <= row["val_confusion"] <= 1 for row in histories[0])


def test_the_most_confusing_weights_outlive_a_kill(tmp_path):
    """A third is a third: an equal confusion after the kill does not take the file's place."""
    adapt = script("recipes/adapt_pose_machine.py")
    run_before = Run(tmp_path, adapt.Config())
    run_before.history = [{"val_confusion": 0.25}, {"val_confusion": round(1 / 3, 6)}]
    judge = adapt.Judge(adapt.Config(), run_before, None, None, [], [], None)
    assert not judge.more_confused(1 / 3)
    assert judge.more_confused(0.34)
    assert not judge.more_confused(0.34)


def test_schedules_of_the_learning_rate():
    shared, distill = script("recipes/depth_recipes.py"), script("recipes/distill_pose_machine.py")
    rate = shared.schedule(shared.DepthConfig(schedule="linear", learning_rate=0.1), 10)
    assert [rate(step) for step in (0, 5, 10)] == pytest.approx([0.1, 0.05, 0])
    assert distill.Config().schedule == "linear"  # the paper's students
    rising = shared.schedule(shared.DepthConfig(schedule="cosine", learning_rate=0.1, warm_up=2), 10)
    assert rising(0) < rising(1) > rising(9)
    assert shared.schedule(shared.DepthConfig(learning_rate=0.1), 10)(9) == 0.1
    with pytest.raises(SystemExit, match="unknown --schedule square; expected plateau, constant, cosine, linear"):
        shared.schedule(shared.DepthConfig(schedule="square"), 10)


def test_a_hourglass_learns_from_one_person_of_each_frame(tmp_path, eager, narrow):
    """The recipe's whole way, with a narrow network: crops, both stacks' loss, evaluation, pictures."""
    run("train_pose_machine", tmp_path, "--model", "hourglass_2s", "--optimizer", "adamw", "--learning-rate", "1e-3")
    history = json.loads((tmp_path / "run.json").read_text())["history"]
    # Two stacks' mean squares: with the sum over 16 x 16 x 18 values it would be thousands.
    assert all(0 < row["loss"] < 50 for row in history) and 0 <= history[-1]["val_f"] <= 1


def test_every_card_of_depth_names_a_recipe_that_builds_its_network(narrow):
    """What the cards say can be typed: the recipe knows the flags and makes the network with all its stages.

    Of each family the network of two stages is built; `test_cards.py` builds them all.
    """
    shared = script("recipes/depth_recipes.py")
    for name, card in all_cards().items():
        words = card.recipe.split()
        if words[1] != "recipes/train_pose_machine.py":
            continue
        cfg = parse(shared.DepthConfig, words[2:])
        assert cfg.model == name
        if not name.endswith("_2s"):
            continue
        network = shared.staged(cfg.model, input_px=64)
        assert len(stage_names(network.output)) == int(name[-2])
        assert set(shared.codec_of(cfg, network).outputs) <= set(network.output)


def test_networks_that_a_recipe_cannot_train_are_told():
    shared = script("recipes/depth_recipes.py")
    with pytest.raises(SystemExit, match="trains cpm_1s, .*mobilenet_split_224 is: python recipes/train_mobilenet"):
        shared.staged("mobilenet_split_224")
    with pytest.raises(SystemExit, match="--teacher hourglass_2s: has no part affinity fields"):
        shared.trained(shared.DepthConfig(), "--teacher", "hourglass_2s:x.weights.h5")


def test_teacher_without_weights_is_told():
    recipes = script("recipes/depth_recipes.py")
    for flag in ("--teacher", "--start-from"):
        with pytest.raises(SystemExit, match=f"{flag} 'mpm_4s': expected NAME:WEIGHTS"):
            recipes.trained(recipes.DepthConfig(), flag, "mpm_4s")
