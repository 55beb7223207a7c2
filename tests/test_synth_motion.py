"""Motion files and Kinect joints as poses."""

import gzip

import numpy as np
import pytest

from posezoo.synth.motion import (
    KINECT20,
    MotionError,
    MotionLibrary,
    facing_front,
    parse_amc,
    parse_asf,
    parse_bvh,
    poses_of_kinect,
    read_kinect,
    read_motion,
)
from posezoo.synth.poses import pose_from_angles, random_pose, self_overlap
from posezoo.synth.procedural import BuiltinPeople
from posezoo.synth.rig import Pose, rotation_vectors, rotations


@pytest.fixture(scope="module")
def body():
    return BuiltinPeople().person(np.random.default_rng(0), traits={}, height_m=1.72)


def mark(posed, name):
    return posed.landmarks[posed.names.index(name)]


def joint(name, offset, children="", *, end=None):
    site = f"End Site {{ OFFSET {end} }}" if end else ""
    return f"JOINT {name} {{ OFFSET {offset} CHANNELS 3 Zrotation Xrotation Yrotation {children}{site} }}\n"


def little_bvh(frames):
    """A person of CMU's walking skeleton at rest with arms down, then `frames` of {joint: (z, x, y) degrees}."""

    def leg(side, x):
        foot = joint(f"{side}Ankle", "0 -7 0", end="0 -1 2")
        return joint(f"{side}Hip", f"{x} -2 0", joint(f"{side}Knee", "0 -7 0", foot))

    def arm(side, x):
        hand = joint(f"{side}Wrist", "0 -4 0", end="0 -1 0")
        return joint(f"{side}Collar", "0 0 0",
                     joint(f"{side}Shoulder", f"{x} 1 0", joint(f"{side}Elbow", "0 -5 0", hand)))  # fmt: skip

    trunk = joint("Chest", "0 2 0", joint("Chest2", "0 2 0", joint("Neck", "0 2 0", joint("Head", "0 1 0", end="0 2 0"))
                  + arm("Left", 3) + arm("Right", -3)))  # fmt: skip
    hierarchy = (
        "HIERARCHY ROOT Hips { OFFSET 0 0 0 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
        + leg("Left", 1.5) + leg("Right", -1.5) + trunk + "}\n"
    )  # fmt: skip
    names = [w for k, w in enumerate(hierarchy.split()) if k and hierarchy.split()[k - 1] in ("ROOT", "JOINT")]
    rows = []
    for turns in frames:
        row = ["0 16 0", *(" ".join(map(str, turns.get(n, (0, 0, 0)))) for n in names)]
        rows.append(" ".join(row))
    return f"{hierarchy}MOTION\nFrames: {len(frames)}\nFrame Time: 0.0333\n" + "\n".join(rows) + "\n"


ASF = """# a comment
:version 1.10
:units
  angle deg
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
""" + "".join(
    f"  begin\n id {k}\n name {name}\n direction {direction}\n length {length}\n axis {axis} XYZ\n{dof}  end\n"
    for k, (name, direction, length, axis, dof) in enumerate([
        ("lhipjoint", "1 0 0", 1.5, "0 0 0", ""),
        ("lfemur", "0 -1 0", 7, "0 0 20", "dof rx ry rz\nlimits (-160 20)\n (-70 70)\n (-60 70)\n"),
        ("ltibia", "0 -1 0", 7, "0 0 20", "dof rx\nlimits (-10 170)\n"),
        ("rhipjoint", "-1 0 0", 1.5, "0 0 0", ""),
        ("rfemur", "0 -1 0", 7, "0 0 -20", "dof rx ry rz\n"),
        ("rtibia", "0 -1 0", 7, "0 0 -20", "dof rx\n"),
        ("lowerback", "0 1 0", 2, "0 0 0", "dof rx ry rz\n"),
        ("thorax", "0 1 0", 4, "0 0 0", "dof rx ry rz\n"),
        ("head", "0 1 0", 2, "0 0 0", "dof rx ry rz\n"),
        ("lhumerus", "1 0 0", 5, "180 30 90", "dof rx ry rz\n"),
        ("lradius", "1 0 0", 4, "180 30 90", "dof rx\n"),
        ("rhumerus", "-1 0 0", 5, "180 -30 -90", "dof rx ry rz\n"),
        ("rradius", "-1 0 0", 4, "180 -30 -90", "dof rx\n"),
    ], 1)
) + """:hierarchy
  begin
    root lhipjoint rhipjoint lowerback
    lhipjoint lfemur
    lfemur ltibia
    rhipjoint rfemur
    rfemur rtibia
    lowerback thorax
    thorax head lhumerus rhumerus
    lhumerus lradius
    rhumerus rradius
  end
"""  # fmt: skip


def little_amc(frames):
    three = ("lfemur", "rfemur", "lowerback", "thorax", "head", "lhumerus", "rhumerus")
    lines = ["#!OML:ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for k, turns in enumerate(frames, 1):
        lines += [str(k), "root 0 16 0 " + turns.get("root", "0 0 0")]
        lines += [f"{n} {turns.get(n, '0 0 0')}" for n in three]
        lines += [f"{n} {turns.get(n, '0')}" for n in ("ltibia", "rtibia", "lradius", "rradius")]
    return "\n".join(lines)


# ---- BVH


def test_bvh_rest_hangs_the_arms(body):
    posed = body.posed(parse_bvh(little_bvh([{}])).pose(0))
    for side in ("left", "right"):
        arm = mark(posed, f"{side}_wrist") - mark(posed, f"{side}_shoulder")
        assert arm[1] / np.linalg.norm(arm) < -0.99
        leg = mark(posed, f"{side}_ankle") - mark(posed, f"{side}_hip")
        assert leg[1] / np.linalg.norm(leg) < -0.99


def test_bvh_rotations_reach_the_right_limb(body):
    motion = parse_bvh(little_bvh([{"LeftHip": (0, -60, 0), "RightElbow": (0, -90, 0)}, {"Hips": (0, 0, 90)}]))
    assert len(motion) == 2
    assert motion.frame_s == pytest.approx(0.0333)
    posed = body.posed(motion.pose(0))
    knee = mark(posed, "left_knee") - mark(posed, "left_hip")
    assert knee[2] / np.linalg.norm(knee) == pytest.approx(np.sin(np.radians(60)), abs=0.02)
    fore = mark(posed, "right_wrist") - mark(posed, "right_elbow")
    assert fore[2] / np.linalg.norm(fore) > 0.98
    right = mark(posed, "right_knee") - mark(posed, "right_hip")
    assert right[1] / np.linalg.norm(right) < -0.99


def test_bvh_heading_is_kept_only_on_request(body):
    motion = parse_bvh(little_bvh([{"Hips": (0, 0, 90)}]))
    kept = body.posed(motion.pose(0, heading=True))
    assert (mark(kept, "nose") - mark(kept, "head"))[0] > 0.05  # turned to +x
    front = body.posed(motion.pose(0))
    assert (mark(front, "nose") - mark(front, "head"))[2] > 0.05
    assert mark(front, "left_shoulder")[0] > mark(front, "right_shoulder")[0]


def test_bvh_channel_order_is_followed():
    angles = (20.0, 30.0, 40.0)
    turn = parse_bvh(little_bvh([{"Chest": angles}])).turns[0]
    z, x, y = (rotations(np.radians(a) * np.eye(3)[k]) for a, k in zip(angles, (2, 0, 1)))
    chest = parse_bvh(little_bvh([{}])).names.index("Chest")
    np.testing.assert_allclose(turn[chest], z @ x @ y, atol=1e-12)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: "<html></html>", "expected HIERARCHY, then MOTION"),
        (lambda t: t[: len(t) // 3], "expected HIERARCHY, then MOTION"),
        (lambda t: t[:-20], r"expected 1 frames of \d+ numbers = \d+; found"),
        (lambda t: t.replace("Frames: 1", "Frames: many"), "expected 'Frames: N'"),
        (lambda t: t.replace("Zrotation", "Wrotation"), "unknown channels Wrotation"),
        (lambda t: t.replace("OFFSET 0 -7 0", "OFFSET 0 -7", 1), "cut off or damaged"),
        (lambda t: t.replace("}\nMOTION", "MOTION"), "braces do not match"),
        (lambda t: t.replace("0 16 0", "0 nan 0"), "not finite"),
        (lambda t: t.replace("JOINT LeftHip", "KNUCKLE LeftHip"), "unexpected 'KNUCKLE'"),
    ],
)
def test_damaged_bvh_is_told(damage, message):
    with pytest.raises(MotionError, match=message):
        parse_bvh(damage(little_bvh([{}])), "walk.bvh")


def test_unknown_bones_are_told():
    motion = parse_bvh(little_bvh([{}]).replace("LeftShoulder", "Wing"), "bird.bvh")
    with pytest.raises(MotionError, match=r"bird.bvh: the bones \(Hips.* are of no known skeleton; known are CMU"):
        motion.pose(0)


def test_frames_beyond_the_end_are_told():
    with pytest.raises(IndexError, match="has frames 0 to 0; got 3"):
        parse_bvh(little_bvh([{}]), "walk.bvh").pose(3)


# ---- ASF and AMC


def test_amc_rest_is_a_t(body):
    posed = body.posed(parse_amc(little_amc([{}]), parse_asf(ASF)).pose(0))
    arm = mark(posed, "left_wrist") - mark(posed, "left_shoulder")
    assert arm[0] / np.linalg.norm(arm) > 0.99


def test_amc_rotations_are_in_the_bones_axes(body):
    motion = parse_amc(little_amc([{"lfemur": "-60 0 0", "rtibia": "80", "root": "0 90 0"}]), parse_asf(ASF))
    posed = body.posed(motion.pose(0))
    knee = mark(posed, "left_knee") - mark(posed, "left_hip")
    assert knee[2] > 0.25  # bent forward
    shin = mark(posed, "right_ankle") - mark(posed, "right_knee")
    assert shin[2] < -0.2  # bent back
    # The bone's own axes are turned by 20 degrees about z, so the thigh swings out a little.
    local = rotations(np.radians(20) * np.array([0, 0, 1.0]))
    swing = local @ rotations(np.radians(-60) * np.array([1.0, 0, 0])) @ local.T
    expected = swing @ np.array([0, -1.0, 0])
    np.testing.assert_allclose(knee / np.linalg.norm(knee), expected, atol=0.03)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: "", "no frames"),
        (lambda t: t.replace("lfemur 0 0 0", "lfemur 0 0"), "bone lfemur: expected 3 numbers, found 2"),
        (lambda t: t.replace("lfemur", "lwing"), "no bone 'lwing'; is it another subject's"),
        (lambda t: t.replace("rradius 0", ""), "frame 1 lacks some bones"),
        (lambda t: t.replace("lfemur 0 0 0", "lfemur 0 0 zero"), "damaged"),
    ],
)
def test_damaged_amc_is_told(damage, message):
    with pytest.raises(MotionError, match=message):
        parse_amc(damage(little_amc([{}])), parse_asf(ASF), "02_01.amc")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[:200], "lacks the sections"),
        (lambda t: t.replace("length 7\n axis 0 0 20 XYZ\ndof rx ry rz", "length seven\n axis 0 0 20 XYZ"), "damaged"),
        (lambda t: t.replace("    thorax head lhumerus rhumerus\n", ""), "damaged"),
    ],
)
def test_damaged_asf_is_told(damage, message):
    with pytest.raises(MotionError, match=message):
        parse_asf(damage(ASF), "02.asf")


# ---- files


def test_files_are_read_gzipped_or_not(tmp_path):
    (tmp_path / "a.bvh").write_text(little_bvh([{}, {"LeftHip": (0, -30, 0)}]))
    (tmp_path / "b.bvh.gz").write_bytes(gzip.compress((tmp_path / "a.bvh").read_bytes()))
    np.testing.assert_array_equal(read_motion(tmp_path / "a.bvh").turns, read_motion(tmp_path / "b.bvh.gz").turns)
    (tmp_path / "02.asf").write_text(ASF)
    (tmp_path / "02_01.amc.gz").write_bytes(gzip.compress(little_amc([{}]).encode()))
    assert len(read_motion(tmp_path / "02_01.amc.gz")) == 1
    assert len(read_motion(tmp_path / "02_01.amc.gz", skeleton=tmp_path / "02.asf")) == 1


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(MotionError, match="no such file"):
        read_motion(tmp_path / "none.bvh")
    with pytest.raises(MotionError, match=r"ends in .bvh or .amc"):
        read_motion(tmp_path / "walk.fbx")
    (tmp_path / "cut.bvh.gz").write_bytes(gzip.compress(little_bvh([{}]).encode())[:80])
    with pytest.raises(MotionError, match="damaged gzip data"):
        read_motion(tmp_path / "cut.bvh.gz")
    (tmp_path / "07_01.amc").write_text(little_amc([{}]))
    with pytest.raises(MotionError, match=r"no skeleton '07.asf' beside it"):
        read_motion(tmp_path / "07_01.amc")


def test_library_draws_from_all_files(tmp_path, body):
    (tmp_path / "a.bvh").write_text(little_bvh([{}]))
    (tmp_path / "b.bvh").write_text(little_bvh([{"LeftHip": (0, -80, 0)}]))
    np.savez(tmp_path / "kinect.npz", a01=kinect_of(body, [pose_from_angles({"right_upper_arm.raise": 90})]))
    library = MotionLibrary.in_folders(tmp_path)
    poses = [library.random(np.random.default_rng(seed)) for seed in range(20)]
    posed = [body.posed(p) for p in poses]
    knees = [mark(p, "left_knee")[2] - mark(p, "left_hip")[2] for p in posed]
    elbows = [mark(p, "right_elbow")[1] - mark(p, "right_shoulder")[1] for p in posed]
    assert max(knees) > 0.3 > min(knees)
    assert max(elbows) > -0.1 > min(elbows)
    again = library.random(np.random.default_rng(5))
    np.testing.assert_array_equal(again.rotations, poses[5].rotations)
    # Fingers are drawn, since none of these files has any.
    assert not np.allclose(poses[0]["left_index1"], np.eye(3))
    # Of several draws, the one that passes least through a stout person.
    free = [self_overlap(library.random(np.random.default_rng(s), girth=1.3), girth=1.3) for s in range(10)]
    assert max(free) < 0.06
    with pytest.raises(MotionError, match="no motion files given"):
        MotionLibrary([])
    with pytest.raises(MotionError, match="no such folder, or no .bvh"):
        MotionLibrary.in_folders(tmp_path / "nowhere")
    with pytest.raises(MotionError, match="none of its sequences is kept"):
        MotionLibrary([tmp_path / "kinect.npz"], keep=lambda name: name == "b").random(np.random.default_rng(0))


# ---- Kinect

_KINECT_OF_LANDMARK = {
    "head": "head", "l_shoulder": "left_shoulder", "l_elbow": "left_elbow", "l_wrist": "left_wrist",
    "l_hand": "left_middle_finger1", "r_shoulder": "right_shoulder", "r_elbow": "right_elbow",
    "r_wrist": "right_wrist", "r_hand": "right_middle_finger1", "l_hip": "left_hip", "l_knee": "left_knee",
    "l_ankle": "left_ankle", "l_foot": "left_big_toe", "r_hip": "right_hip", "r_knee": "right_knee",
    "r_ankle": "right_ankle", "r_foot": "right_big_toe",
}  # fmt: skip


def kinect_of(body, poses):
    """What a Kinect would say of a body 3 m away, `(F, 20, 3)` millimetres."""
    frames = []
    for pose in poses:
        posed = body.posed(pose)
        at = {k: mark(posed, v) for k, v in _KINECT_OF_LANDMARK.items()}
        hips = (at["l_hip"] + at["r_hip"]) / 2
        at["shoulder_center"] = (at["l_shoulder"] + at["r_shoulder"]) / 2
        at["spine"] = hips + 0.45 * (at["shoulder_center"] - hips)
        at["hip_center"] = hips
        joints = np.stack([at[n] for n in KINECT20])
        frames.append((joints * (1, 1, -1) + (0, -1, 3)) * 1000)
    return np.array(frames)


def test_kinect_poses_come_back(body):
    rng = np.random.default_rng(3)
    poses = [
        random_pose(rng, activity=a) for a in ("walking", "waving", "reaching", "sitting", "gesturing", "stretching")
    ]
    joints = kinect_of(body, poses)
    for pose, back in zip(poses, poses_of_kinect(joints)):
        truth, found = body.posed(pose), body.posed(back)
        for side in ("left", "right"):
            for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
                u, v = (mark(p, f"{side}_{b}") - mark(p, f"{side}_{a}") for p in (truth, found))
                cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                assert cosine > 0.999, f"{side} {a} to {b}: {np.degrees(np.arccos(cosine)):.1f} degrees off"


def test_kinect_twist_follows_the_bent_elbow(body):
    """A forearm in front of the belly comes from a turned-in upper arm, not from an elbow that bends sideways."""
    angles = {"left_upper_arm.raise": 20, "left_upper_arm.inward": 60, "left_forearm.flex": 90}
    back = poses_of_kinect(kinect_of(body, [pose_from_angles(angles)]))[0]
    bend = rotation_vectors(back["left_forearm"])
    assert -np.degrees(bend[1]) == pytest.approx(90, abs=12)
    assert np.degrees(np.abs(bend[[0, 2]])).max() < 15


def test_kinect_person_who_faces_the_camera_has_the_left_at_larger_x(body):
    joints = kinect_of(body, [pose_from_angles({})])
    left, right = (KINECT20.index(n) for n in ("l_shoulder", "r_shoulder"))
    assert joints[0, left, 0] > joints[0, right, 0]
    posed = body.posed(poses_of_kinect(joints)[0])
    assert mark(posed, "left_shoulder")[0] > mark(posed, "right_shoulder")[0]
    assert (mark(posed, "nose") - mark(posed, "head"))[2] > 0.05


def test_wrong_kinect_arrays_are_told(tmp_path):
    with pytest.raises(MotionError, match=r"shape \(frames, 20, 3\)"):
        poses_of_kinect(np.zeros((5, 25, 3)))
    with pytest.raises(MotionError, match="no such file"):
        read_kinect(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_text("<html>")
    with pytest.raises(MotionError, match="not a readable NPZ file"):
        read_kinect(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(MotionError, match="expected arrays of shape"):
        read_kinect(tmp_path / "other.npz")


def test_facing_front_leaves_those_who_lie_alone():
    lying = Pose.reference().turned(rotations(np.array([0, 0, np.pi / 2])))
    np.testing.assert_array_equal(facing_front(lying).rotations, lying.rotations)


# ---- real files


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "mocap_cmu_asfamc/02_01.amc.gz",
        "mocap_cmu_walk_bvh/07_01.bvh.gz",
        "mocap_cmu_bvh/006_01.bvh.gz",
        "makehuman_cc0/poses/standing03.bvh",
    ],
)
def test_real_walks_keep_feet_below_the_hips(shared, body, name):
    path = shared / "data" / name
    if not path.exists():
        pytest.skip(f"no motion file at {path}")
    motion = read_motion(path)
    steps = []
    for frame in range(1 if len(motion) > 1 else 0, len(motion), max(1, len(motion) // 12)):
        posed = body.posed(motion.pose(frame))
        for side in ("left", "right"):
            assert mark(posed, f"{side}_ankle")[1] < mark(posed, f"{side}_hip")[1] - 0.4
            assert mark(posed, f"{side}_elbow")[1] < mark(posed, f"{side}_shoulder")[1] - 0.1
            knee = mark(posed, f"{side}_knee") - (mark(posed, f"{side}_hip") + mark(posed, f"{side}_ankle")) / 2
            assert knee[2] > -0.03, "knees bend forward"
        assert mark(posed, "head")[1] > mark(posed, "neck")[1] + 0.1
        assert mark(posed, "left_hip")[0] > mark(posed, "right_hip")[0]
        assert (mark(posed, "nose") - mark(posed, "head"))[2] > 0
        steps.append(mark(posed, "left_ankle")[2] - mark(posed, "right_ankle")[2])
    if len(motion) > 1:
        assert max(steps) > 0.1 > -0.1 > min(steps), "the legs swing past each other"


@pytest.mark.shared
def test_every_real_motion_file_gives_poses(shared):
    folders = [shared / "data" / n for n in ("mocap_cmu_asfamc", "mocap_cmu_bvh", "mocap_cmu_walk_bvh")]
    folders.append(shared / "data" / "makehuman_cc0" / "poses")
    if not all(f.is_dir() for f in folders):
        pytest.skip("no motion capture in the shared data")
    library = MotionLibrary.in_folders(*folders)
    assert len(library.paths) > 100
    for path in library.paths[::6]:
        motion = read_motion(path)
        for frame in (0, len(motion) - 1):
            turns = motion.pose(frame).rotations
            np.testing.assert_allclose(
                turns @ turns.swapaxes(-1, -2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6
            )


@pytest.mark.shared
def test_real_kinect_sequences(shared, body):
    path = shared / "data" / "utd_mhad_depth" / "skeleton_sequences_mm.npz"
    if not path.exists():
        pytest.skip(f"no Kinect sequences at {path}")
    sequences = read_kinect(path)
    assert len(sequences) > 700
    lefts = []
    for name in sorted(sequences)[::60]:
        joints = sequences[name]
        for frame, pose in zip(joints[::20], poses_of_kinect(joints[::20])):
            posed = body.posed(pose)
            for side, letter in (("left", "l"), ("right", "r")):
                a, b = (frame[KINECT20.index(f"{letter}_{n}")] * (1.0, 1, -1) for n in ("shoulder", "elbow"))
                found = mark(posed, f"{side}_elbow") - mark(posed, f"{side}_shoulder")
                cosine = (b - a) @ found / np.linalg.norm(b - a) / np.linalg.norm(found)
                assert cosine > 0.999
            lefts.append(mark(posed, "left_shoulder")[0] > mark(posed, "right_shoulder")[0])
    assert np.mean(lefts) > 0.9  # they face the camera
