"""Synthetic people: rigs, the built-in body, MakeHuman bodies, poses and their limits."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from posezoo.skeletons import COCO17, DEPTH17, mirrored
from posezoo.synth.anatomy import RIG_JOINTS, TRAITS, surface_of_grid, template
from posezoo.synth.body import HAND_LANDMARKS, LANDMARKS, vertex_normals
from posezoo.synth.makehuman import MakeHumanError, MakeHumanPeople, parse_mhclo, parse_obj, parse_target
from posezoo.synth.posed import PARTS
from posezoo.synth.poses import (
    ACTIVITIES,
    ANGLES,
    DEPTH_ALLOWED_M,
    angles_of_pose,
    pose_from_angles,
    random_pose,
    self_overlap,
    with_random_hands,
)
from posezoo.synth.procedural import BuiltinPeople
from posezoo.synth.rig import JOINTS, PARENTS, Pose, rotation_between, rotation_vectors, rotations, twist_about


@pytest.fixture(scope="module")
def makehuman(shared):
    folder = shared / "data" / "makehuman_cc0"
    if not (folder / "3dobjs" / "base.obj").exists():
        pytest.skip(f"no MakeHuman data at {folder}")
    return folder


def body_of(source, seed=0, **options):
    return source(**options).random(np.random.default_rng(seed))


def signed_volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]].astype(float) for k in range(3))
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


def unpaired_edges(faces):
    """Directed edges that do not occur as often as their opposites: none on a closed, consistently wound surface."""
    edges = Counter(map(tuple, np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()))
    return [e for e, n in edges.items() if edges.get(e[::-1], 0) != n]


def mark(posed, name):
    return posed.landmarks[posed.names.index(name)]


STANDING = pose_from_angles({})


# ---- rotations and rigs


def test_rotation_vectors_come_back():
    vectors = np.random.default_rng(0).normal(0, 1, (50, 3))
    np.testing.assert_allclose(rotation_vectors(rotations(vectors)), vectors, atol=1e-9)


def test_rotation_between_turns_one_direction_onto_the_other():
    a, b = np.random.default_rng(1).normal(size=(2, 40, 3))
    b[0] = -a[0]  # opposite: any half turn will do, but it must be one
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    turn = rotation_between(a, b)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", turn, a), b, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-9)


def test_twist_is_told_from_swing():
    axis = np.array([0.6, 0.0, 0.8])
    swing = rotations(np.cross(axis, [0.3, 1.0, 0.2]))  # about a perpendicular axis
    for angle in (-2.0, 0.3, 1.5):
        assert twist_about(swing @ rotations(axis * angle), axis) == pytest.approx(angle)


def test_world_rotations_come_back():
    pose = random_pose(np.random.default_rng(4), activity="any")
    np.testing.assert_allclose(Pose.from_world(pose.world()).rotations, pose.rotations, atol=1e-9)


def test_mirrored_pose_mirrors_the_landmarks():
    body = BuiltinPeople().person(np.random.default_rng(0), traits={}, height_m=1.7)
    pose = random_pose(np.random.default_rng(7), activity="reaching")
    one, other = body.posed(pose), body.posed(pose.mirrored())
    swapped = [other.names.index(mirrored(n)) for n in one.names]
    np.testing.assert_allclose(one.landmarks * (-1, 1, 1), other.landmarks[swapped], atol=1e-4)


def test_wrong_poses_are_told():
    with pytest.raises(ValueError, match="rotations of 51 joints"):
        Pose(np.eye(3)[None])
    with pytest.raises(KeyError, match="no joint 'left_wing'"):
        Pose.from_vectors({"left_wing": (0, 0, 1)})
    with pytest.raises(KeyError, match="unknown angle"):
        pose_from_angles({"left_forearm.twirl": 3})
    with pytest.raises(ValueError, match="left_forearm.flex is 200 degrees; people reach 0 to 150"):
        pose_from_angles({"left_forearm.flex": 200})


# ---- the built-in body


def test_grid_surface_is_a_closed_ball():
    axis = np.linspace(-1, 1, 24)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = surface_of_grid(np.sqrt(x**2 + y**2 + z**2) - 0.7)
    assert not unpaired_edges(faces)
    step = axis[1] - axis[0]
    assert signed_volume(vertices * step, faces) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.03)


def test_no_edge_of_the_grid_surface_joins_more_than_two_faces():
    """Rods along a grid's diagonal that just touch its points: the case in which sheets would meet in one vertex."""
    axis = np.arange(20.0)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    for radius in (2.05, 3.05, 4.02):
        values = np.sqrt((x - y) ** 2 / 2 + (z - 9.0) ** 2) - radius
        rod = np.maximum(values, np.abs(x + y - 19) - 12)
        _, faces = surface_of_grid(rod)
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        assert len(np.unique(edges, axis=0)) == len(edges)
        assert not unpaired_edges(faces)


def test_template_has_no_folds():
    t = template()
    a, b, c = (t.vertices[t.faces[:, k]].astype(float) for k in range(3))
    flat = np.cross(b - a, c - a)
    around = vertex_normals(t.vertices.astype(float), t.faces)[t.faces].sum(1)
    assert ((flat * around).sum(1) > 0).all()


def test_template_is_closed_and_weighs_what_people_weigh():
    t = template()
    assert not unpaired_edges(t.faces)
    assert 0.050 < signed_volume(t.vertices, t.faces) < 0.075  # cubic metres; people have about the density of water
    np.testing.assert_allclose(np.asarray(t.weights.sum(1)).ravel(), 1, atol=1e-5)


def test_template_is_symmetric():
    t = template()
    away, _ = cKDTree(t.vertices).query(t.vertices * (-1, 1, 1))
    # Quadrilaterals across the middle are split one way or the other; all else is mirrored.
    assert away.mean() < 0.0005
    assert (away > 0.004).mean() < 0.001
    assert away.max() < 0.015
    where = {n: k for k, n in enumerate(RIG_JOINTS)}
    for name, at in zip(RIG_JOINTS, t.joints):
        np.testing.assert_allclose(t.joints[where[mirrored(name)]], at * (-1, 1, 1), atol=1e-9)


@pytest.mark.parametrize("trait", TRAITS)
def test_each_trait_changes_the_body_smoothly(trait):
    t = template()
    change = t.vertex_changes[TRAITS.index(trait)]
    assert 0.001 < np.linalg.norm(change, axis=1).max() < 0.2
    # Neighbours move alike: no vertex is torn out of the surface.
    apart = np.linalg.norm(change - t.average @ change, axis=1)
    assert apart.max() < 0.012


@pytest.mark.parametrize("seed", range(6))
def test_random_people_are_closed_upright_and_complete(seed):
    body = body_of(BuiltinPeople, seed)
    posed = body.posed(STANDING)
    assert 8_000 < len(posed.faces) < 20_000
    assert not unpaired_edges(posed.faces)
    assert signed_volume(posed.vertices, posed.faces) > 0.012
    assert set(DEPTH17.keypoints) | set(COCO17.keypoints) <= set(posed.names)
    assert set(HAND_LANDMARKS["left"]) | set(HAND_LANDMARKS["right"]) <= set(posed.names)
    assert len(HAND_LANDMARKS["left"]) == 21
    tall = mark(posed, "head_top")[1] - posed.vertices[:, 1].min()
    assert tall == pytest.approx(body.about["height_m"], abs=0.06)  # shoes and stance
    assert posed.colours.min() >= 0
    assert posed.colours.max() <= 1
    assert 0 < posed.albedo.min() <= posed.albedo.max() <= 1
    assert (posed.parts > 0).all()
    assert {PARTS[k] for k in np.unique(posed.parts)} == set(PARTS) - {"background"}


def test_same_generator_same_person():
    first, again, other = (body_of(BuiltinPeople, seed).posed(STANDING) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.vertices, again.vertices)
    np.testing.assert_array_equal(first.colours, again.colours)
    assert first.vertices.shape != other.vertices.shape or not np.allclose(first.vertices, other.vertices)


def test_people_differ_in_height_and_girth():
    people = [body_of(BuiltinPeople, seed) for seed in range(60)]
    heights = np.array([p.about["height_m"] for p in people])
    assert heights.min() < 1.4  # children
    assert heights.max() > 1.8
    girths = np.array([p.girth for p in people])
    assert np.ptp(girths) > 0.4


def test_unknown_trait_is_told():
    with pytest.raises(ValueError, match="unknown traits wings; expected some of female"):
        BuiltinPeople().person(np.random.default_rng(0), traits={"wings": 1.0}, height_m=1.7)


def pieces(faces, count):
    """The faces `(F, 3)` of each connected piece of a surface."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = csr_matrix((np.ones(len(edges)), edges.T), (count, count))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    return [faces[label == k] for k in np.unique(label)]


def test_skirts_coats_hats_and_packs_are_closed_shells_that_face_outward():
    seen = Counter()
    for seed in range(60):
        body = body_of(BuiltinPeople, seed)
        about = body.about
        things = {
            "skirt": about["lower"] in ("skirt", "dress"),
            "coat": about["upper"] == "coat",
            "hat": about["hat"] in ("hat", "cap"),
            "pack": about["backpack"],
            "hair": about["hair"] in ("long", "ponytail", "bun"),
        }
        shells = pieces(body.faces, len(body.vertices))
        assert len(shells) == 1 + sum(map(bool, things.values())), f"seed {seed}: {about}"
        for shell in shells:
            assert not unpaired_edges(shell)
            assert signed_volume(body.vertices, shell) > 0, f"seed {seed}: {about}"
        seen.update(name for name, there in things.items() if there)
    assert set(seen) == {"skirt", "coat", "hat", "pack", "hair"}


# ---- every source of people


SOURCES = ["builtin", "makehuman"]


@pytest.fixture(params=SOURCES)
def person(request):
    if request.param == "builtin":
        return body_of(BuiltinPeople, 1)
    return MakeHumanPeople(request.getfixturevalue("makehuman")).random(np.random.default_rng(1))


def test_reference_pose_stretches_the_arms_sideways(person):
    posed = person.posed(Pose.reference())
    for side, out in (("left", 1), ("right", -1)):
        arm = mark(posed, f"{side}_wrist") - mark(posed, f"{side}_shoulder")
        assert arm[0] * out > 0.99 * np.linalg.norm(arm)
        leg = mark(posed, f"{side}_ankle") - mark(posed, f"{side}_hip")
        assert -leg[1] > 0.99 * np.linalg.norm(leg)
        # Palms down: thumbs point forward.
        thumb = mark(posed, f"{side}_thumb4") - mark(posed, f"{side}_pinky_finger1")
        assert thumb[2] > 0.05


def test_faces_forward_with_the_left_at_larger_x(person):
    posed = person.posed(STANDING)
    for name in ("shoulder", "hip", "eye", "ear", "wrist", "ankle"):
        assert mark(posed, f"left_{name}")[0] > mark(posed, f"right_{name}")[0]
    assert mark(posed, "nose")[2] > mark(posed, "left_ear")[2] + 0.05
    assert mark(posed, "left_big_toe")[2] > mark(posed, "left_heel")[2] + 0.1
    order = ("head_top", "head", "neck", "left_shoulder", "left_elbow", "left_wrist", "left_knee", "left_ankle")
    heights = [mark(posed, n)[1] for n in order]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("activity", ["walking", "sitting", "stretching"])
def test_bones_keep_their_length(person, activity):
    pose = random_pose(np.random.default_rng(2), activity=activity)
    rest, posed = person.posed(Pose.reference()), person.posed(pose)
    for side in ("left", "right"):
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
                     ("forefinger1", "forefinger2")):  # fmt: skip
            length, now = (np.linalg.norm(mark(p, f"{side}_{a}") - mark(p, f"{side}_{b}")) for p in (rest, posed))
            assert now == pytest.approx(length, abs=2e-4)


@pytest.mark.parametrize("activity", sorted(ACTIVITIES))
def test_landmarks_stay_inside_the_surface(person, activity):
    posed = person.posed(random_pose(np.random.default_rng(11), activity=activity, rig=person.rig, girth=person.girth))
    low, high = posed.vertices.min(0) - 0.005, posed.vertices.max(0) + 0.005
    assert (posed.landmarks >= low).all()
    assert (posed.landmarks <= high).all()
    # The surface is about as far from each landmark as it was at rest: skinning tears nothing away.
    away, _ = cKDTree(posed.vertices).query(posed.landmarks)
    assert (away < posed.radii + 0.03).all()
    assert np.isfinite(posed.vertices).all()


def test_radii_are_depths_below_the_skin(person):
    radius = dict(zip(LANDMARKS, person.radii))
    assert 0.03 < radius["left_hip"] < 0.16
    assert 0.02 < radius["left_knee"] < 0.12
    assert 0.05 < radius["head"] < 0.13
    assert radius["left_forefinger3"] < 0.012


def test_turning_the_body_turns_everything(person):
    pose = random_pose(np.random.default_rng(5), activity="waving")
    turn = rotations(np.array([0, 1.1, 0]))
    still, turned = person.posed(pose), person.posed(pose.turned(turn))
    centre = person.rig.rest[0]
    np.testing.assert_allclose((still.vertices - centre) @ turn.T + centre, turned.vertices, atol=2e-4)


# ---- poses


def test_angles_come_back():
    rng = np.random.default_rng(0)
    for _ in range(30):
        angles = {n: rng.uniform(low, high) for n, (low, high) in ANGLES.items()}
        angles |= {n: a * 0.95 for n, a in angles.items() if n.endswith("pelvis.flex")}
        back = angles_of_pose(pose_from_angles(angles))
        worst = max(abs((angles[n] - back[n] + 180) % 360 - 180) for n in angles)
        assert worst < 1e-6


@pytest.mark.parametrize("activity", sorted(ACTIVITIES))
def test_activities_respect_limits_and_do_not_pass_through_themselves(activity):
    for seed in range(15):
        pose = random_pose(np.random.default_rng(seed), activity=activity)
        for name, angle in angles_of_pose(pose).items():
            low, high = ANGLES[name]
            assert low - 1e-3 <= angle <= high + 1e-3, f"{activity}, seed {seed}: {name} is {angle:.1f}"
        assert self_overlap(pose) <= DEPTH_ALLOWED_M + 1e-9


def test_a_hand_in_the_belly_is_found():
    through = {"left_upper_arm.inward": 80, "left_forearm.flex": 90}
    assert self_overlap(pose_from_angles(through)) > 0.05
    assert self_overlap(STANDING) < DEPTH_ALLOWED_M + 0.02
    assert self_overlap(Pose.reference()) == 0
    assert self_overlap(STANDING, girth=1.6) > self_overlap(STANDING)


def test_angles_mean_what_they_say():
    body = body_of(BuiltinPeople, 2)
    for side, out in (("left", 1), ("right", -1)):
        up = body.posed(pose_from_angles({f"{side}_upper_arm.raise": 90}))
        assert (mark(up, f"{side}_elbow") - mark(up, f"{side}_shoulder"))[0] * out > 0.15
        ahead = body.posed(pose_from_angles({f"{side}_upper_arm.raise": 90, f"{side}_upper_arm.plane": 90}))
        assert (mark(ahead, f"{side}_elbow") - mark(ahead, f"{side}_shoulder"))[2] > 0.15
        bent = body.posed(pose_from_angles({f"{side}_forearm.flex": 90}))
        assert (mark(bent, f"{side}_wrist") - mark(bent, f"{side}_elbow"))[2] > 0.12
        knee = body.posed(pose_from_angles({f"{side}_shin.flex": 90}))
        assert (mark(knee, f"{side}_ankle") - mark(knee, f"{side}_knee"))[2] < -0.2
        thigh = body.posed(pose_from_angles({f"{side}_thigh.flex": 90}))
        assert (mark(thigh, f"{side}_knee") - mark(thigh, f"{side}_hip"))[2] > 0.2
        fist = body.posed(pose_from_angles({f"{side}_middle{k}.curl": 80 for k in (1, 2, 3)}))
        open_hand = body.posed(STANDING)
        reach = [
            np.linalg.norm(mark(p, f"{side}_middle_finger4") - mark(p, f"{side}_wrist")) for p in (fist, open_hand)
        ]
        assert reach[0] < 0.75 * reach[1]


def test_sitting_is_told_from_standing():
    body = body_of(BuiltinPeople, 2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        sitting = body.posed(random_pose(rng, activity="sitting"))
        assert mark(sitting, "left_hip")[1] - mark(sitting, "left_knee")[1] < 0.2
        standing = body.posed(random_pose(rng, activity="standing"))
        assert mark(standing, "left_hip")[1] - mark(standing, "left_knee")[1] > 0.25


def test_same_generator_same_pose_and_unknown_activity():
    first, again = (random_pose(np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first.rotations, again.rotations)
    with pytest.raises(KeyError, match="unknown activity 'flying'; expected one of standing"):
        random_pose(np.random.default_rng(0), activity="flying")


def test_random_hands_change_fingers_only():
    pose = random_pose(np.random.default_rng(1), activity="walking")
    other = with_random_hands(pose, np.random.default_rng(2))
    changed = {n for n in JOINTS if not np.allclose(pose[n], other[n])}
    assert len(changed) >= 20
    assert all(n[-1].isdigit() for n in changed)


# ---- MakeHuman's files


CUBE = """# a comment
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
g body
f 1/1 2/1 3/1 4/1
g joint-x
f 1 2 3
"""


def test_obj_groups_and_quads():
    mesh = parse_obj(CUBE)
    assert mesh.vertices.shape == (4, 3)
    np.testing.assert_array_equal(mesh.groups["body"], [[0, 1, 2], [0, 2, 3]])
    assert len(mesh.faces) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>not found</html>", "expected lines 'v x y z'"),
        ("v 0 0 0\nf 1 2 3\n", "cut off"),
        ("v 0 0 zero\nf 1 1 1\n", "damaged"),
        ("v 0 0 0\nv 0 0 1\nf 1 2\n", "fewer than 3 corners"),
    ],
)
def test_damaged_obj_is_told(text, message):
    with pytest.raises(MakeHumanError, match=message):
        parse_obj(text)


def test_garment_follows_the_body():
    mesh = parse_obj("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n")
    text = """name shirt
x_scale 0 1 1.0
verts 0
0 1 2 0.5 0.5 0 0.1 0 0.2
3
1 2 3 1 0 0 0 0 0
delete_verts
0 - 1 3
"""
    garment = parse_mhclo(text, mesh, name="shirt", base_vertices=4)
    np.testing.assert_array_equal(garment.hides, [0, 1, 3])
    base = parse_obj(CUBE).vertices
    np.testing.assert_allclose(garment.fitted(base), [[0.6, 0, 0.2], [0, 1, 0], [1, 0, 0]])
    # A body twice as wide: the offset along x doubles, that along z has no scale.
    np.testing.assert_allclose(garment.fitted(base * (2, 1, 1))[0], [1.2, 0, 0.2])
    with pytest.raises(MakeHumanError, match="do not belong together"):
        parse_mhclo("verts 0\n0\n", mesh, name="shirt", base_vertices=4)
    with pytest.raises(MakeHumanError, match="names base vertex 9; the base mesh has 4"):
        parse_mhclo("verts 0\n9\n1\n2\n", mesh, name="shirt", base_vertices=4)


def test_targets():
    index, moves = parse_target("# target\n3 .1 0 -.2\n7 0 1 0\n")
    np.testing.assert_array_equal(index, [3, 7])
    np.testing.assert_allclose(moves[0], [0.1, 0, -0.2])
    with pytest.raises(MakeHumanError, match="index dx dy dz"):
        parse_target("3 .1 0\n")


def test_incomplete_makehuman_folder_is_told(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(MakeHumanError, match="no such folder"):
        MakeHumanPeople(tmp_path / "nowhere").random(rng)
    with pytest.raises(MakeHumanError, match=r"base.obj: no such file"):
        MakeHumanPeople(tmp_path).random(rng)
    (tmp_path / "3dobjs").mkdir()
    (tmp_path / "3dobjs" / "base.obj").write_text(CUBE)
    (tmp_path / "rigs").mkdir()
    (tmp_path / "rigs" / "default.mhskel").write_text("{")
    with pytest.raises(MakeHumanError, match=r"default.mhskel: damaged"):
        MakeHumanPeople(tmp_path).random(rng)
    (tmp_path / "rigs" / "default.mhskel").write_text(json.dumps({"bones": {}, "joints": {}}))
    (tmp_path / "rigs" / "default_weights.mhw").write_text(json.dumps({"weights": {}}))
    with pytest.raises(MakeHumanError, match="lacks the bones root, spine05"):
        MakeHumanPeople(tmp_path).random(rng)


def test_makehuman_folder_without_targets_is_told(makehuman, tmp_path):
    for name in ("3dobjs", "rigs"):
        (tmp_path / name).symlink_to(makehuman / name)
    with pytest.raises(MakeHumanError, match="lacks 12 shape targets, first 'macrodetails/african-male-young.target'"):
        MakeHumanPeople(tmp_path).random(np.random.default_rng(0))


def test_makehuman_damaged_target_is_told(makehuman, tmp_path):
    for name in ("3dobjs", "rigs"):
        (tmp_path / name).symlink_to(makehuman / name)
    (tmp_path / "targets" / "macrodetails").mkdir(parents=True)
    for file in (makehuman / "targets" / "macrodetails").glob("*.target.gz"):
        (tmp_path / "targets" / "macrodetails" / file.name).write_bytes(file.read_bytes()[:500])
    with pytest.raises(MakeHumanError, match="damaged gzip data"):
        MakeHumanPeople(tmp_path).random(np.random.default_rng(0))


def test_makehuman_people(makehuman):
    source = MakeHumanPeople(makehuman)
    heights = []
    for seed in range(4):
        body = source.random(np.random.default_rng(seed))
        posed = body.posed(Pose.reference())
        assert 20_000 < len(posed.faces) < 60_000
        assert signed_volume(posed.vertices, posed.faces) > 0.03
        # Helper geometry (joint cubes, skirt and hair cages, the ground) is left out.
        height = np.ptp(posed.vertices[:, 1])
        assert height == pytest.approx(body.about["height_m"], abs=0.2)
        assert {PARTS[k] for k in np.unique(posed.parts)} == set(PARTS) - {"background"}
        np.testing.assert_allclose(np.asarray(body.weights.sum(1)).ravel(), 1, atol=1e-4)
        heights.append(body.about["height_m"])
    again = source.random(np.random.default_rng(3)).posed(Pose.reference())
    np.testing.assert_array_equal(again.vertices, posed.vertices)
    assert np.ptp(heights) > 0.02


def test_both_sources_agree_where_joints_are(makehuman):
    """Landmarks at rest, relative to height, lie within a few centimetres of each other."""
    sources = BuiltinPeople(clothes=False, things=False), MakeHumanPeople(makehuman, clothes=False)
    means = []
    for source in sources:
        rows = []
        for seed in range(8):
            body = source.random(np.random.default_rng(seed))
            if body.about["height_m"] < 1.5:
                continue
            posed = body.posed(Pose.reference())
            at = posed.landmarks - mark(posed, "left_hip") / 2 - mark(posed, "right_hip") / 2
            rows.append(at / body.about["height_m"])
        means.append(np.mean(rows, 0))
    for name in ("neck", "head", "head_top", "left_knee", "left_ankle", "left_shoulder", "left_eye", "nose"):
        k = LANDMARKS.index(name)
        assert np.abs(means[0][k] - means[1][k])[:2].max() < 0.03, name
    assert np.abs(means[0] - means[1]).max() < 0.08


def test_gzipped_and_plain_files_are_the_same(makehuman, tmp_path):
    for name in ("3dobjs", "rigs"):
        (tmp_path / name).symlink_to(makehuman / name)
    (tmp_path / "targets" / "macrodetails").mkdir(parents=True)
    for file in (makehuman / "targets" / "macrodetails").glob("*.target.gz"):
        plain = tmp_path / "targets" / "macrodetails" / file.name.removesuffix(".gz")
        plain.write_bytes(gzip.decompress(file.read_bytes()))
    body = MakeHumanPeople(tmp_path, clothes=False).random(np.random.default_rng(0))
    assert body.about["height_m"] > 1.3


def test_every_joint_has_limits_and_a_parent_before_it():
    assert {n.partition(".")[0] for n in ANGLES} == set(JOINTS)
    assert all(p is None or JOINTS.index(p) < k for k, p in enumerate(PARENTS.values()))
