"""Rendering against geometry that can be worked out by hand, and against Embree."""

import cv2
import numpy as np
import pytest
from capsule_person import NAMES, capsule_person

from posezoo.errors import UserError
from posezoo.synth import render as render_module
from posezoo.synth.camera import INTRINSICS, Camera, Intrinsics, tilt_towards
from posezoo.synth.posed import PARTS
from posezoo.synth.render import NEAR_M, Mesh, amplitude, cut_in_front, render, shaded_rgb, visible_triangles
from posezoo.synth.room import Floor, random_room
from posezoo.synth.scene import stand

pytestmark = pytest.mark.skipif(not hasattr(cv2, "triangleRasterize"), reason="needs OpenCV 5 (posezoo[synth])")

INTR = Intrinsics(285.63, 285.63, 159.5, 119.5, 320, 240)


def looking(position=(0, 1, 0), intrinsics=INTR, **angles) -> Camera:
    return Camera.looking(intrinsics, position, **angles)


def mesh(vertices, faces, albedo=0.5) -> Mesh:
    faces = np.array(faces, np.int32)
    grey = np.full((len(faces), 3), 0.5, np.float32)
    return Mesh(np.array(vertices, np.float32), faces, grey, np.full(len(faces), albedo, np.float32))


def wall(z, size=50.0) -> Mesh:
    return mesh([(-size, -size, z), (size, -size, z), (size, size, z), (-size, size, z)], [(0, 1, 2), (0, 2, 3)])


def sphere(centre, radius, steps=96) -> Mesh:
    latitude, longitude = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, steps), np.linspace(0, 2 * np.pi, 2 * steps, endpoint=False), indexing="ij"
    )
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.sin(latitude), np.cos(latitude) * np.sin(longitude)], -1
    )
    vertices = points.reshape(-1, 3) * radius + np.asarray(centre)
    i, j = np.meshgrid(np.arange(steps - 1), np.arange(2 * steps), indexing="ij")
    a, b = i * 2 * steps + j, i * 2 * steps + (j + 1) % (2 * steps)
    faces = np.concatenate([np.stack([a, b, a + 2 * steps], -1), np.stack([b, b + 2 * steps, a + 2 * steps], -1)])
    return mesh(vertices, faces.reshape(-1, 3))


# -------------------------------------------------------------------------------------------------- camera


def test_points_project_where_they_should():
    camera = looking((0, 1, 0))
    assert np.allclose(camera.project([(0, 1, -2)]), [(159.5, 119.5)], atol=1e-3)
    right_and_up = camera.project([(0.5, 1.25, -2)])[0]
    assert np.allclose(right_and_up, (159.5 + 285.63 / 4, 119.5 - 285.63 / 8), atol=1e-3)
    assert np.isnan(camera.project([(0, 1, 2)])).all()


def test_angles_turn_the_way_they_say():
    ahead = np.array([(0, 1, -3)])
    assert looking(yaw=0.1).project(ahead)[0, 0] > 180, "turning to its left moves things to the right"
    assert looking(tilt=0.1).project(ahead)[0, 1] < 100, "looking down moves things up"
    beside = looking(roll=0.1).project([(1, 1, -3)])[0]
    assert beside[1] < 119, "turned clockwise, what was level on the right comes up"
    rotation = looking(yaw=0.3, tilt=0.2, roll=0.1).rotation
    assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.isclose(np.linalg.det(rotation), 1)


def test_back_projection_is_the_inverse():
    points = np.random.default_rng(0).uniform((-1, -1, 1), (1, 1, 5), (20, 3))
    assert np.allclose(INTR.back_project(INTR.project(points), points[:, 2]), points)


@pytest.mark.parametrize("name", sorted(INTRINSICS))
def test_resized_cameras_see_the_same_through_the_middle(name):
    own = INTRINSICS[name]
    small = own.resized(160, 120)
    assert (small.width, small.height) == (160, 120)
    scale = max(160 / own.width, 120 / own.height)
    assert np.isclose(small.fx, own.fx * scale) and np.isclose(small.fy, own.fy * scale)
    point = np.array([(0.2, -0.1, 2.0)])
    offset_own = (own.project(point) - (own.width / 2 - 0.5, own.height / 2 - 0.5)) * scale
    assert np.allclose(offset_own, small.project(point) - (79.5, 59.5), atol=1e-6)


def test_known_focal_lengths():
    assert np.isclose(INTRINSICS["kinect1"].resized(320, 240).fx, 285.63)
    assert np.isclose(INTRINSICS["d435"].resized(640, 480).fx, 384)


def test_tilt_brings_a_point_to_its_row():
    tilt = tilt_towards(0.7, 3.0, rows_off_centre=20, intrinsics=INTR)
    assert np.isclose(looking((0, 1.5, 0), tilt=tilt).project([(0, 0.8, -3)])[0, 1], 119.5 + 20, atol=1e-3)


def test_an_impossible_camera_is_refused():
    with pytest.raises(UserError, match="larger than 0"):
        Intrinsics(0, 300, 1, 1, 10, 10)


# --------------------------------------------------------------------------------------------------- depth


def test_plane_has_its_depth_everywhere():
    view = render([wall(-3)], looking())
    assert (view.face >= 0).all() and np.abs(view.depth - 3).max() < 1e-5
    assert np.allclose(view.normals, (0, 0, -1), atol=1e-6)


def test_floor_depth_and_cosine_follow_the_formula():
    floor = mesh([(-30, 0, 5), (30, 0, 5), (30, 0, -40), (-30, 0, -40)], [(0, 1, 2), (0, 2, 3)])
    view = render([floor], looking((0, 1.5, 0)))
    rows = np.arange(160, 240)
    expected = 1.5 * INTR.fy / (rows - INTR.cy)
    assert np.abs(view.depth[160:, 100] / expected - 1).max() < 1e-4
    down = (rows - INTR.cy) / INTR.fy
    length = np.sqrt(1 + down**2 + ((100 - INTR.cx) / INTR.fx) ** 2)
    assert np.abs(view.cosine[160:, 100] - down / length).max() < 1e-4


def test_sphere_has_its_depth():
    view = render([sphere((0.3, 1.1, -2), 0.5)], looking())
    centre, rays = np.array((0.3, -0.1, 2)), INTR.rays.astype(float)
    a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - 0.25
    inside = b**2 - a * c
    expected = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    well_inside = inside > 0.02
    assert well_inside.sum() > 5000
    assert np.abs(view.depth - expected)[well_inside].max() < 2e-3
    assert not (view.depth[inside < -0.02]).any()
    outward = (rays * view.depth[..., None] - centre) / 0.5
    assert (np.einsum("hwi,hwi->hw", view.normals, outward)[well_inside] > 0.99).all()


def test_nearer_hides_farther_in_any_order():
    near, far = sphere((0, 1, -2), 0.3), wall(-4)
    one, other = render([near, far], looking()), render([far, near], looking())
    assert np.array_equal(one.depth, other.depth)
    assert 1.69 < one.depth[120, 160] < 1.71 and one.depth[0, 0] == pytest.approx(4, abs=1e-4)


def test_principal_point_and_oblong_pixels():
    odd = Intrinsics(300, 240, 100.3, 50.8, 201, 150)
    point = sphere((0.4, 1.2, -3), 0.02, 12)
    view = render([point], looking(intrinsics=odd))
    rows, columns = np.nonzero(view.face >= 0)
    assert np.allclose((columns.mean(), rows.mean()), odd.project((0.4, -0.2, 3.0)), atol=0.3)


def test_triangles_that_reach_behind_the_camera_are_cut_not_lost():
    view = render([wall(-3), mesh([(-9, 0, 9), (9, 0, 9), (0, 0, -30)], [(0, 1, 2)])], looking())
    assert np.isclose(view.depth[239, 160], INTR.fy / (239 - INTR.cy), rtol=1e-3)


@pytest.mark.parametrize("inside", [0, 1, 2, 3])
def test_cut_keeps_area_in_front(inside):
    z = np.where(np.arange(3) < inside, 2.0, -1.0)
    triangle = np.array([[(0, 0, z[0]), (1, 0, z[1]), (0, 1, z[2])]], np.float32)
    corners, number = cut_in_front(triangle, 0.5)
    # Of two corners on one side half of the height is cut: a quarter of the area stays, or goes.
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    whole = np.linalg.norm(np.cross(triangle[0, 1] - triangle[0, 0], triangle[0, 2] - triangle[0, 0])) / 2
    assert np.isclose(areas.sum() / whole, (0, 0.25, 0.75, 1)[inside])
    assert (corners[..., 2] >= 0.5 - 1e-6).all() and (number == 0).all()
    if len(corners):
        original = np.cross(triangle[0, 1] - triangle[0, 0], triangle[0, 2] - triangle[0, 0])
        turned = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (turned @ original > 0).all(), "the order around changed"


def test_nothing_in_sight():
    view = render([wall(3)], looking())
    assert (view.face == -1).all() and not view.depth.any() and not view.part.any() and not view.normals.any()


def test_room_agrees_with_embree():
    rtcore_scene = pytest.importorskip("embreex.rtcore_scene")
    from embreex.mesh_construction import TriangleMesh

    for seed in range(6):
        rng = np.random.default_rng(seed)
        people = rng.uniform((-1, -5), (1, -2), (2, 2))
        room = random_room(rng, Floor(people, np.zeros(2)), camera_height=1.4, occluder_chance=0.5)
        bodies = [stand(capsule_person(rng), p, rng.uniform(-3, 3)) for p in people]
        camera = looking((0, 1.4, 0), tilt=0.1, roll=0.02)
        view = render([*bodies, room], camera)
        triangles = np.concatenate([camera.to_camera(m.vertices)[m.faces] for m in (*bodies, room)])
        scene = rtcore_scene.EmbreeScene()
        TriangleMesh(scene, np.ascontiguousarray(triangles))
        rays = np.ascontiguousarray(INTR.rays.reshape(-1, 3))
        cast = scene.run(rays * 0, rays, output=True)
        face, depth = cast["primID"].reshape(240, 320), cast["tfar"].reshape(240, 320)
        there = (face >= 0) & (depth > NEAR_M)
        # Where furniture stands in furniture, surfaces coincide and either may win.
        assert (view.face == face)[there].mean() > 0.98
        error = np.abs(view.depth - depth)[there]
        assert (error < 1e-3).mean() > 0.9995 and np.median(error) < 1e-5


# -------------------------------------------------------------------------------------------------- labels


def test_left_shoulder_of_a_facing_person_is_at_the_larger_u():
    body = stand(capsule_person(), (0, -3), 0.0)
    camera = looking((0, 1.2, 0))
    at = dict(zip(NAMES, camera.project(body.landmarks)))
    assert at["left_shoulder"][0] > at["right_shoulder"][0] + 20
    assert at["left_eye"][0] > at["right_eye"][0] and at["head_top"][1] < at["left_ankle"][1]
    view = render([body], camera)
    left, right = (np.nonzero(view.part == PARTS.index(f"{s}_forearm"))[1].mean() for s in ("left", "right"))
    assert left > right + 20


def test_masks_name_people_and_parts():
    people = [stand(capsule_person(), (x, -3), 0.0) for x in (-0.5, 0.5)]
    view = render([people[0], wall(-5), people[1]], looking())
    assert np.nonzero(view.person == 1)[1].mean() < np.nonzero(view.person == 2)[1].mean()
    assert set(np.unique(view.person)) == {0, 1, 2}
    assert ((view.part > 0) == (view.person > 0)).all()
    for name in ("head", "torso", "left_hand", "right_foot"):
        assert (view.part == PARTS.index(name)).any()


def test_colour_is_bright_where_light_falls_and_reproducible():
    bodies = [stand(capsule_person(), (0, -2.5), 0.0), wall(-4)]
    one, two = (shaded_rgb(render(bodies, looking()), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two) and one.dtype == np.uint8 and one.shape == (240, 320, 3)
    assert one.std() > 3


def test_amplitude_falls_with_the_square_of_distance():
    def middle(z):
        return amplitude(render([wall(-z)], looking()), np.random.default_rng(0), full_scale_m=1.0)[
            100:140, 140:180
        ].mean()

    assert middle(1.0) / middle(2.0) == pytest.approx(4, rel=0.05)
    assert middle(1.5) / middle(3.0) == pytest.approx(4, rel=0.05)


def test_amplitude_follows_albedo_and_cosine():
    straight = render([wall(-2)], looking())
    dark = render([mesh([(-9, -9, -2), (9, -9, -2), (9, 9, -2), (-9, 9, -2)], [(0, 1, 2), (0, 2, 3)], 0.1)], looking())
    rng = np.random.default_rng
    bright, dim = amplitude(straight, rng(0)).mean(), amplitude(dark, rng(0)).mean()
    assert bright / dim == pytest.approx(5, rel=0.05)
    assert amplitude(straight, rng(0))[5, 5] < amplitude(straight, rng(0))[120, 160], "corners are darker"


def test_smooth_normals_are_nearer_to_the_sphere_than_flat_ones():
    from dataclasses import replace

    ball = sphere((0, 0, 0), 0.4, steps=10)
    body = replace(
        capsule_person(), vertices=ball.vertices, faces=ball.faces, colours=ball.colours, albedo=ball.albedo,
        parts=np.ones(len(ball.faces), np.uint8),
    )  # fmt: skip
    view = render([body.moved(np.eye(3), (0, 1, -2))], looking())
    truth = INTR.rays * view.depth[..., None] - (0, 0, 2)
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    there = view.cosine > 0.3

    def error(normals):
        return np.arccos(np.clip((normals * truth).sum(-1), -1, 1))[there].mean()

    assert error(view.smooth_normals) < 0.4 * error(view.normals)


# -------------------------------------------------------------------------------------------------- errors


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(UserError, match="at least one body or mesh"):
        render([], looking())
    with pytest.raises(UserError, match="names vertex 7"):
        render([mesh([(0, 0, -1), (1, 0, -1), (0, 1, -1)], [(0, 1, 7)])], looking())

    class Old:
        __version__ = "4.9.0"

    monkeypatch.setitem(__import__("sys").modules, "cv2", Old())
    with pytest.raises(render_module.RendererMissingError, match=r"found 4.9.0.*posezoo\[synth\]"):
        visible_triangles(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]]), INTR)
