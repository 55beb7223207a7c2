"""Scenes: who stands where, what is seen, what is labelled."""

import cv2
import numpy as np
import pytest
from capsule_person import NAMES, capsule_person

from posezoo.errors import UserError
from posezoo.skeletons import COCO17, DEPTH17
from posezoo.synth.camera import Camera, Intrinsics
from posezoo.synth.posed import PARTS
from posezoo.synth.render import render
from posezoo.synth.room import Pieces
from posezoo.synth.scene import (
    HIDDEN_BY_OTHERS,
    HIDDEN_BY_SELF,
    OUTSIDE,
    SEEN,
    Recipe,
    Scene,
    SceneSettings,
    compose,
    label,
    make_sample,
    stand,
    visibility,
)
from posezoo.synth.sensor import SENSORS

pytestmark = pytest.mark.skipif(not hasattr(cv2, "triangleRasterize"), reason="needs OpenCV 5 (posezoo[synth])")

INTR = Intrinsics(285.63, 285.63, 159.5, 119.5, 320, 240)
CAMERA = Camera.looking(INTR, (0, 1.1, 0))
EXACT = Recipe(exact=True, silhouette_drop=0)


def seen_of(bodies, scenery=(), camera=CAMERA, person=1):
    view = render([*bodies, *scenery], camera)
    body = bodies[person - 1]
    found = visibility(camera.to_camera(body.landmarks), body, person, view, SceneSettings())
    return dict(zip(body.names, found.tolist()))


def test_somebody_who_faces_the_camera_is_seen():
    seen = seen_of([stand(capsule_person(), (0, -3), 0.0)])
    assert all(v == SEEN for v in seen.values()), {k: v for k, v in seen.items() if v != SEEN}


def test_from_behind_the_face_is_hidden_by_oneself():
    seen = seen_of([stand(capsule_person(), (0, -3), np.pi)])
    assert seen["left_eye"] == seen["right_eye"] == seen["nose"] == HIDDEN_BY_SELF
    assert seen["neck"] == seen["left_knee"] == SEEN


def test_from_the_side_the_far_arm_is_hidden_by_oneself():
    seen = seen_of([stand(capsule_person(), (0, -3), np.pi / 2)])  # looks along +x: the right side is towards us
    assert seen["right_elbow"] == seen["right_shoulder"] == SEEN
    assert seen["left_elbow"] == seen["left_shoulder"] == HIDDEN_BY_SELF


def test_somebody_in_front_hides_as_others_do():
    front, back = stand(capsule_person(), (0, -2.2), 0.0), stand(capsule_person(), (0, -3.4), 0.0)
    assert seen_of([front, back])["neck"] == SEEN
    behind = seen_of([front, back], person=2)
    assert behind["neck"] == behind["left_hip"] == HIDDEN_BY_OTHERS


def test_furniture_hides_as_others_do():
    pieces = Pieces()
    pieces.box((1.5, 0.7, 0.4), (0, 0.35, -2.4))
    seen = seen_of([stand(capsule_person(), (0, -3), 0.0)], [pieces.mesh()])
    assert seen["left_ankle"] == seen["right_knee"] == HIDDEN_BY_OTHERS
    assert seen["left_shoulder"] == SEEN


def test_a_thing_within_the_margin_hides_nothing():
    body = stand(capsule_person(), (0, -3), 0.0)
    chest = body.landmarks[NAMES.index("neck")]
    for gap, expected in ((0.04, SEEN), (0.3, HIDDEN_BY_OTHERS)):
        pieces = Pieces()
        pieces.box((0.2, 0.2, 0.01), chest + (0, 0, 0.07 + gap))
        assert seen_of([body], [pieces.mesh()])["neck"] == expected


def test_clothes_over_a_joint_do_not_hide_it_but_another_part_does():
    from dataclasses import replace

    body = stand(capsule_person(), (0, -3), 0.0)
    knee = body.landmarks[NAMES.index("left_knee")]
    for part, expected in (("left_thigh", SEEN), ("right_hand", HIDDEN_BY_SELF)):
        pieces = Pieces()
        pieces.box((0.3, 0.3, 0.01), knee + (0, 0, 0.05 + 0.09))
        cloth = pieces.mesh()
        clothed = replace(
            body,
            vertices=np.concatenate([body.vertices, cloth.vertices]),
            faces=np.concatenate([body.faces, cloth.faces + len(body.vertices)]),
            parts=np.concatenate([body.parts, np.full(len(cloth.faces), PARTS.index(part), np.uint8)]),
            colours=np.concatenate([body.colours, cloth.colours]),
            albedo=np.concatenate([body.albedo, cloth.albedo]),
        )
        assert seen_of([clothed])["left_knee"] == expected


def test_outside_the_picture():
    seen = seen_of([stand(capsule_person(), (0, -1.0), 0.0)])
    assert seen["left_ankle"] == OUTSIDE and seen["neck"] == SEEN


def test_labels_agree_with_the_picture():
    body = stand(capsule_person(), (0.2, -3), 0.0)
    sample = label(Scene([body], [], CAMERA, [{"activity": "standing"}]), render([body], CAMERA), SceneSettings())
    assert sample.landmarks_px.shape == (1, len(NAMES), 2) and sample.landmarks_mm.shape == (1, len(NAMES), 3)
    again = INTR.project(sample.landmarks_mm / 1000)
    assert np.abs(again - sample.landmarks_px).max() < 1e-3
    rows, columns = np.nonzero(sample.people)
    x, y, w, h = sample.boxes[0]
    assert abs(x - columns.min()) < 1.5 and abs(y - rows.min()) < 1.5
    assert abs(x + w - columns.max()) < 1.5 and abs(y + h - rows.max()) < 1.5
    # A landmark's 3-D place is a radius behind the depth that is read at its pixel.
    k = NAMES.index("left_knee")
    u, v = np.rint(sample.landmarks_px[0, k]).astype(int)
    assert 20 < sample.landmarks_mm[0, k, 2] - sample.depth[v, u] < 100
    assert sample.meta["people"][0]["activity"] == "standing"


def test_left_is_at_the_larger_u_in_samples_too():
    body = stand(capsule_person(), (0, -3), 0.0)
    sample = label(Scene([body], [], CAMERA), render([body], CAMERA), SceneSettings())
    for skeleton in (DEPTH17, COCO17):
        points = sample.keypoints(skeleton)[0]
        assert points[skeleton.index("left_shoulder"), 0] > points[skeleton.index("right_shoulder"), 0]
        assert set(points[:, 2]) <= {0, 1, 2}


def test_unknown_landmarks_are_named():
    body = stand(capsule_person(), (0, -3), 0.0)
    sample = label(Scene([body], [], CAMERA), render([body], CAMERA), SceneSettings())
    with pytest.raises(UserError, match="no head_top, neck|no neck, head_top"):
        sample.names = COCO17.keypoints
        sample.keypoints("lsp14")


def test_people_keep_their_distance_and_stand_on_the_floor():
    intrinsics = SENSORS["kinect1"].intrinsics.resized(320, 240)
    settings = SceneSettings(people=(4, 4), min_distance_m=0.8)
    several = 0
    for seed in range(20):
        scene = compose(np.random.default_rng(seed), capsule_person, intrinsics, settings)
        several += len(scene.bodies) == 4
        hips = [b.landmarks[[NAMES.index("left_hip"), NAMES.index("right_hip")]].mean(0)[[0, 2]] for b in scene.bodies]
        for i, a in enumerate(hips):
            assert settings.nearest_m - 1e-3 <= np.hypot(*a) <= settings.farthest_m + 1e-3
            assert all(np.hypot(*(a - b)) >= 0.8 - 1e-3 for b in hips[:i])
        assert all(abs(b.vertices[:, 1].min()) < 1e-4 for b in scene.bodies)
    assert several >= 18


def test_number_of_people():
    intrinsics = SENSORS["kinect1"].intrinsics.resized(160, 120)
    counts = {
        len(compose(np.random.default_rng(s), capsule_person, intrinsics, SceneSettings(people=(1, 3))).bodies)
        for s in range(30)
    }
    assert counts == {1, 2, 3}
    with pytest.raises(UserError, match="least and a largest"):
        SceneSettings(people=(3, 1))


def test_scenes_have_what_networks_must_learn():
    """Over many scenes: people cut by the border, people behind furniture, people behind people, people all seen."""
    kinds = {OUTSIDE: 0, HIDDEN_BY_SELF: 0, SEEN: 0, HIDDEN_BY_OTHERS: 0}
    people = 0
    for seed in range(60):
        sample = make_sample(np.random.default_rng(seed), capsule_person, Recipe(width=160, height=120))
        people += len(sample.landmarks_px)
        for kind in kinds:
            kinds[kind] += int((sample.visibility == kind).sum())
    total = sum(kinds.values())
    assert people > 60
    assert 0.4 < kinds[SEEN] / total < 0.9
    assert 0.02 < kinds[OUTSIDE] / total < 0.4
    assert 0.02 < kinds[HIDDEN_BY_OTHERS] / total < 0.4
    assert 0.03 < kinds[HIDDEN_BY_SELF] / total < 0.4


def test_the_same_seed_gives_the_same_sample():
    recipe = Recipe(width=160, height=120, rgb=True, amplitude=True)
    one, two, other = (make_sample(np.random.default_rng(s), capsule_person, recipe) for s in (3, 3, 4))
    for name in ("depth", "parts", "people", "landmarks_px", "visibility", "rgb", "amplitude"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert not np.array_equal(one.depth, other.depth)


def test_sample_has_the_promised_types():
    sample = make_sample(
        np.random.default_rng(0), capsule_person, Recipe(width=160, height=120, rgb=True, amplitude=True)
    )
    assert sample.depth.dtype == np.uint16 and sample.depth.shape == (120, 160)
    assert sample.parts.dtype == sample.people.dtype == np.uint8
    assert sample.rgb.shape == (120, 160, 3) and sample.amplitude.dtype == np.uint16
    assert sample.meta["sensor"] == "kinect1" and sample.meta["background"] == "room"


def test_a_source_may_tell_facts_and_give_nobody():
    sample = make_sample(
        np.random.default_rng(1), lambda rng: (capsule_person(rng), {"activity": "waving"}), EXACT
    )  # fmt: skip
    assert {p["activity"] for p in sample.meta["people"]} == {"waving"}
    empty = make_sample(
        np.random.default_rng(1), capsule_person, Recipe(scene=SceneSettings(people=(0, 0)), width=160, height=120)
    )  # fmt: skip
    assert not empty.people.any() and len(empty.landmarks_px) == 0 and empty.depth.any()


def test_somebody_who_is_hardly_visible_is_not_labelled():
    body = stand(capsule_person(), (0, -3), 0.0)
    far = stand(capsule_person(), (0.0, -7.9), 0.0)
    sample = label(Scene([far, body], [], CAMERA), render([far, body], CAMERA), SceneSettings(min_pixels=10_000))
    assert len(sample.landmarks_px) == 0 and not sample.people.any()
    sample = label(Scene([far, body], [], CAMERA), render([far, body], CAMERA), SceneSettings())
    assert set(np.unique(sample.people)) == {0, *range(1, len(sample.landmarks_px) + 1)}


def test_exact_depth_is_the_renderers():
    sample = make_sample(np.random.default_rng(2), capsule_person, EXACT)
    noisy = make_sample(np.random.default_rng(2), capsule_person, Recipe(silhouette_drop=0))
    both = (sample.depth > 0) & (noisy.depth > 0)
    assert np.array_equal(sample.people, noisy.people)
    assert 0 < np.median(np.abs(sample.depth[both].astype(int) - noisy.depth[both])) < 120


def test_inpainting_leaves_no_hole():
    sample = make_sample(np.random.default_rng(2), capsule_person, Recipe(inpaint=True))
    assert (sample.depth > 0).all()
