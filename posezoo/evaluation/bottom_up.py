"""Evaluate bottom-up networks on scenes whose people are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from posezoo.data.pipeline import Examples, batches, load_all
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import Scene
from posezoo.evaluation.coco import CocoScores, Known, oks_ap
from posezoo.evaluation.pck import LIMB_JOINTS, PCK, pck, torso_size
from posezoo.evaluation.top_down import Runner, by_name
from posezoo.inference.bottom_up import BottomUpCodec
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import ImageError, read_image
from posezoo.inference.poses import Poses
from posezoo.skeletons import Skeleton, joint_kind


def limb_joints(skeleton: Skeleton) -> list[str]:
    """Names of the joints of arms and legs, which every data set labels alike."""
    return [k for k in skeleton.keypoints if joint_kind(k) in LIMB_JOINTS]


def finding_everybody(model: PoseModel) -> PoseModel:
    """Return a model that leaves out nobody, however low the score, as average precision ranks people itself."""
    return PoseModel(replace(model.card, person_threshold=0.0), model.runner)


def find_in_scenes(
    run: Runner,
    scenes: Examples,
    codec: BottomUpCodec,
    skeleton: Skeleton,
    *,
    batch: int = 8,
    workers: int = 2,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[tuple[Scene, Poses]]:
    """Run a network on scenes of its own input size and group what it sees.

    A person that lies mostly where nobody is labelled is left out, as COCO does with crowds.

    Args:
        run: The network on any runtime.
        scenes: The examples.
        codec: Groups keypoints into people.
        skeleton: The network's keypoints.
        batch: Scenes per call of `run`.
        workers: Loader threads.
        progress: Wraps the iteration, for a progress bar.
    """
    found: list[tuple[Scene, Poses]] = []
    for loaded in batches(progress(load_all(scenes, workers=workers)), batch):
        outputs = run(np.stack([scene.image for scene in loaded]))
        for i, scene in enumerate(loaded):
            maps = codec.merge({name: np.asarray(value[i], np.float32) for name, value in outputs.items()})
            keypoints, scores, people = codec.decode(maps, skeleton)
            known = ~mostly_ignored(keypoints, scores, scene.ignore)
            found.append((scene, Poses(keypoints[known], scores[known], skeleton, people[known])))
    return found


def find_in_whole(
    model: Callable[[np.ndarray], Poses], scenes: Iterable[Scene], *, images: int = 0
) -> list[tuple[Scene, Poses]]:
    """Run a model on scenes of any size, one by one, as `posezoo eval` runs it on pictures.

    A person that lies mostly where nobody is labelled is left out, as COCO does with crowds.

    Args:
        model: Picture to poses, such as a `PoseModel`.
        scenes: The examples.
        images: How many of the scenes returned keep their pictures; the others' are empty, to save memory.
    """
    found: list[tuple[Scene, Poses]] = []
    for scene in scenes:
        poses = model(scene.image)
        known = poses[~mostly_ignored(poses.keypoints, poses.scores, scene.ignore)]
        kept = scene if len(found) < images else replace(scene, image=scene.image[:0], ignore=scene.ignore[:0])
        found.append((kept, known))
    return found


def mostly_ignored(keypoints: np.ndarray, scores: np.ndarray, ignore: np.ndarray) -> np.ndarray:
    """Whether more than half of each person's found keypoints lie where nobody is labelled, `(N,)`."""
    height, width = ignore.shape
    x = np.clip(np.rint(keypoints[..., 0]).astype(int), 0, width - 1)
    y = np.clip(np.rint(keypoints[..., 1]).astype(int), 0, height - 1)
    there = scores > 0
    return (ignore[y, x] & there).sum(axis=1) > 0.5 * there.sum(axis=1)


def score_scenes(found: Sequence[tuple[Scene, Poses]], *, joints: Sequence[str] | None = None) -> CocoScores:
    """Average precision of what `find_in_scenes` found.

    Args:
        found: Scenes and the poses found in them.
        joints: Names of the keypoints that count; all by default.
    """
    return oks_ap([Known(poses, scene.keypoints, scene.areas) for scene, poses in found], joints=joints)


def best_person_pck(
    model: Callable[[np.ndarray], Poses],
    people: KeypointSet,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> PCK:
    """PCK of the best-scoring person in whole pictures of one labelled person each.

    A picture in which nobody was found counts as wrong; one that cannot be read does not count.

    Args:
        model: Picture to poses, such as a `PoseModel`.
        people: Pictures of one labelled person.
        progress: Wraps the iteration, for a progress bar.
    """
    truth = np.concatenate([record.keypoints[:1] for record in people.records])
    predicted = np.full((len(people), people.skeleton.num_keypoints, 2), np.nan, np.float32)
    for i, record in enumerate(progress(people.records)):
        try:
            found = model(read_image(record.path))
        except ImageError:
            continue
        predicted[i] = np.inf
        if len(found):
            missing = np.where(found.scores[:1, :, None] > 0, found.keypoints[:1], np.inf)
            predicted[i] = by_name(missing, found.skeleton, people.skeleton)[0]
    return pck(predicted, truth, torso_size(truth, people.skeleton), people.skeleton)
