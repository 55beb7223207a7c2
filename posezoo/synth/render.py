"""Pictures of triangle meshes: depth, parts, people, surface normals, colour and active infrared.

The visible triangle of every pixel is found by OpenCV's rasteriser (`cv2.triangleRasterize`, OpenCV 5). Everything
else follows exactly from that triangle and the pixel's ray: depth and normal from its plane, labels from its number.
On one core a 320x240 picture of 52,000 triangles takes 13 ms. Casting the same rays by Embree takes 54 ms through
`embreex` itself and 64 ms through trimesh (`benchmarks/synth_speed.py`), nearly all of it to build the hierarchy, which
bodies that change with every picture never earn back. Open3D casts with the same Embree and is a much larger install;
pyrender needs a system OpenGL. The two see the same depth at 99.999 % of the pixels, and the tests compare
them. What the rasteriser lacks, cutting triangles that reach behind the camera, is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.body import vertex_normals
from posezoo.synth.camera import Camera, Intrinsics
from posezoo.synth.posed import PosedBody

#: What is nearer to the camera is not drawn, metres.
NEAR_M = 0.05
#: What is farther is not drawn, metres.
FAR_M = 60.0


@dataclass(frozen=True)
class Mesh:
    """A piece of scenery; its triangles are seen from both sides.

    Attributes:
        vertices: `(V, 3)` metres, in the world.
        faces: `(F, 3)` vertex numbers.
        colours: `(F, 3)` RGB reflectance 0..1.
        albedo: `(F,)` reflectance 0..1 in near infrared.
        curved: Its triangles stand for a curved surface, as bodies' do.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    albedo: np.ndarray
    curved: bool = False


class RendererMissingError(UserError, ImportError):
    """The installed OpenCV has no rasteriser."""


def _rasteriser():
    import cv2

    if not hasattr(cv2, "triangleRasterize"):
        raise RendererMissingError(
            f"rendering needs OpenCV 5, found {cv2.__version__}; install it by: pip install 'posezoo[synth]'"
        )
    return cv2


class View:
    """What a camera sees. Arrays have the picture's size and are made when first asked for.

    Attributes:
        intrinsics: The camera's.
        face: int32 `(height, width)`, number of the visible triangle over all meshes, -1 where there is none.
    """

    def __init__(
        self, intrinsics: Intrinsics, vertices: np.ndarray, faces: np.ndarray, meshes: Sequence[PosedBody | Mesh]
    ):
        self.intrinsics = intrinsics
        self._vertices, self._faces = vertices, faces
        self._meshes = meshes
        counts = np.array([len(m.faces) for m in meshes], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.face = visible_triangles(vertices, faces, intrinsics)
        self._hit = np.flatnonzero(self.face >= 0)
        self._hit_face = self.face.ravel()[self._hit]

    def _scattered(self, values: np.ndarray, empty=0) -> np.ndarray:
        """Lay values of the hit pixels `(hits, ...)` on the picture."""
        out = np.full((self.face.size, *values.shape[1:]), empty, values.dtype)
        out[self._hit] = values
        return out.reshape(*self.face.shape, *values.shape[1:])

    @cached_property
    def _hit_rays(self) -> np.ndarray:
        return self.intrinsics.rays.reshape(-1, 3)[self._hit]

    @cached_property
    def _visible(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the triangles that are seen, and for each hit pixel which of them it shows."""
        seen = np.zeros(len(self._faces), bool)
        seen[self._hit_face] = True
        chosen = np.flatnonzero(seen)
        place = np.zeros(len(seen), np.intp)
        place[chosen] = np.arange(len(chosen))
        return chosen, place[self._hit_face]

    @cached_property
    def _hit_plane(self) -> tuple[np.ndarray, ...]:
        """Planes of the hit triangles: normals `(hits, 3)` of any length, offsets, least and largest depth `(hits,)`.

        Worked out for the triangles that are seen alone, which are few of all.
        """
        chosen, which = self._visible
        a, b, c = (self._vertices[self._faces[chosen, i]] for i in range(3))
        normals = np.cross(b - a, c - a)
        offsets = np.einsum("ij,ij->i", normals, a)
        low = np.minimum(np.minimum(a[:, 2], b[:, 2]), c[:, 2])
        high = np.maximum(np.maximum(a[:, 2], b[:, 2]), c[:, 2])
        return normals[which], offsets[which], np.maximum(low, NEAR_M)[which], high[which]

    @cached_property
    def _hit_depth(self) -> np.ndarray:
        normals, offsets, low, high = self._hit_plane
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = offsets / np.einsum("ij,ij->i", normals, self._hit_rays)
        # A triangle seen from its edge has no plane to cut: stay within its own depths.
        depth[~np.isfinite(depth)] = 0
        return np.minimum(np.maximum(depth, low), high)

    @cached_property
    def depth(self) -> np.ndarray:
        """float32 metres along the optical axis, 0 where nothing is seen."""
        return self._scattered(self._hit_depth)

    @cached_property
    def normals(self) -> np.ndarray:
        """float32 `(height, width, 3)`, unit length, camera axes, towards the camera; 0 where nothing is seen."""
        return self._scattered(self._towards_camera(self._hit_plane[0]))

    def _towards_camera(self, normals: np.ndarray) -> np.ndarray:
        length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
        facing = np.einsum("ij,ij->i", normals, self._hit_rays)
        sign = np.where(facing > 0, np.float32(-1), np.float32(1))
        return normals * (sign / np.maximum(length, np.float32(1e-20)))[:, None]

    @cached_property
    def smooth_normals(self) -> np.ndarray:
        """As `normals`, but interpolated over curved surfaces, so that they do not look faceted."""
        return self._scattered(self._hit_smooth)

    @cached_property
    def _hit_smooth(self) -> np.ndarray:
        """float32 `(hits, 3)`."""
        flat = self._towards_camera(self._hit_plane[0])
        curved = np.repeat([isinstance(m, PosedBody) or m.curved for m in self._meshes], np.diff(self._starts))
        chosen, which = self._visible
        kept = curved[chosen]
        if not kept.any():
            return flat.astype(np.float32)
        normals = vertex_normals(self._vertices, self._faces[curved]).astype(np.float32)
        corners = self._faces[chosen[kept]]
        a, b, c = (self._vertices[corners[:, i]] for i in range(3))
        # A ray meets a triangle where the corners' shares are the ray's products with the corners' cross products.
        shares = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
        mixed = np.einsum("fki,fkj->fij", normals[corners], shares)
        mine = np.flatnonzero(kept[which])
        number = (np.cumsum(kept) - 1)[which[mine]]
        smooth = np.einsum("nij,nj->ni", mixed[number], self._hit_rays[mine])
        smooth /= np.maximum(np.sqrt(np.einsum("ij,ij->i", smooth, smooth)), np.float32(1e-20))[:, None]
        # Keep what the flat triangle says where the two disagree strongly, as inside of sleeves.
        agreement = np.einsum("ij,ij->i", smooth, flat[mine])
        towards = smooth * np.sign(agreement)[:, None]
        flat[mine] = np.where((np.abs(agreement) > 0.3)[:, None], towards, flat[mine])
        return flat.astype(np.float32)

    @cached_property
    def cosine(self) -> np.ndarray:
        """float32, cosine of the angle between the surface and the ray that sees it; 0 where nothing is seen."""
        return self._scattered(self._hit_cosine(self._hit_plane[0]))

    @cached_property
    def smooth_cosine(self) -> np.ndarray:
        """As `cosine`, of `smooth_normals`."""
        return self._scattered(self._hit_cosine(self._hit_smooth))

    def _hit_cosine(self, normals: np.ndarray) -> np.ndarray:
        """Return cosines `(hits,)` of normals `(hits, 3)` of any length."""
        rays = self._hit_rays
        squares = np.einsum("ij,ij->i", normals, normals) * np.einsum("ij,ij->i", rays, rays)
        facing = np.abs(np.einsum("ij,ij->i", normals, rays))
        return facing / np.maximum(np.sqrt(squares), np.float32(1e-20))

    @cached_property
    def person(self) -> np.ndarray:
        """uint8, 1 for the first body, 2 for the second and so on, 0 for everything else."""
        numbers = np.cumsum([isinstance(m, PosedBody) for m in self._meshes])
        of_mesh = [int(n) if isinstance(m, PosedBody) else 0 for n, m in zip(numbers, self._meshes)]
        which = np.searchsorted(self._starts, self._hit_face, side="right") - 1
        return self._scattered(np.array(of_mesh or [0], np.uint8)[which])

    @cached_property
    def part(self) -> np.ndarray:
        """uint8, index into `posezoo.synth.posed.PARTS`."""
        return self._per_face(lambda m: m.parts if isinstance(m, PosedBody) else np.zeros(len(m.faces)), np.uint8)

    @cached_property
    def albedo(self) -> np.ndarray:
        """float32, reflectance in near infrared; 0 where nothing is seen."""
        return self._per_face(lambda m: m.albedo, np.float32)

    @cached_property
    def colour(self) -> np.ndarray:
        """float32 `(height, width, 3)`, RGB reflectance; 0 where nothing is seen."""
        return self._per_face(lambda m: m.colours, np.float32)

    def _per_face(self, of_mesh, dtype) -> np.ndarray:
        values = np.concatenate([np.asarray(of_mesh(m), dtype) for m in self._meshes])
        return self._scattered(values[self._hit_face])


def render(meshes: Sequence[PosedBody | Mesh], camera: Camera) -> View:
    """Look at bodies and scenery.

    Args:
        meshes: In any order; people are numbered in the order in which they come.
        camera: Who looks.

    Returns:
        The view, from which each kind of picture is read.

    Raises:
        RendererMissingError: The installed OpenCV is too old.
        UserError: There is nothing to look at, or a face names a vertex that is not there.
    """
    if not meshes:
        raise UserError("nothing to render: give at least one body or mesh")
    vertices, faces, start = [], [], 0
    for mesh in meshes:
        if len(mesh.faces) and int(np.max(mesh.faces)) >= len(mesh.vertices):
            raise UserError(f"a face names vertex {int(np.max(mesh.faces))} of a mesh with {len(mesh.vertices)}")
        vertices.append(camera.to_camera(mesh.vertices))
        faces.append(np.asarray(mesh.faces, np.int32) + np.int32(start))
        start += len(mesh.vertices)
    return View(camera.intrinsics, np.concatenate(vertices), np.concatenate(faces), list(meshes))


def visible_triangles(vertices: np.ndarray, faces: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Find the nearest triangle at every pixel.

    Args:
        vertices: `(V, 3)` camera space, metres.
        faces: `(F, 3)` vertex numbers.
        intrinsics: The camera's.

    Returns:
        int32 `(height, width)`: number of the triangle, -1 where there is none.
    """
    cv2 = _rasteriser()
    vertices = np.ascontiguousarray(vertices, np.float32)
    faces, number = np.asarray(faces, np.int32), np.arange(len(faces))
    low = vertices[:, 2] < NEAR_M
    if low.any():
        touched = low[faces].any(axis=1)
        pieces, of_piece = cut_in_front(vertices[faces[touched]], NEAR_M)
        corners = len(vertices) + np.arange(3 * len(pieces), dtype=np.int32).reshape(-1, 3)
        vertices = np.concatenate([vertices, pieces.reshape(-1, 3)])
        faces = np.concatenate([faces[~touched], corners])
        number = np.concatenate([number[~touched], number[touched][of_piece]])
    height, width = intrinsics.height, intrinsics.width
    # The rasteriser's principal point is the middle of the picture and its pixels are square. A shear brings any
    # other there. Its axes are OpenGL's: y up, z backwards.
    shear = np.array(
        [
            [intrinsics.fx / intrinsics.fy, 0, (intrinsics.cx - (width - 1) / 2) / intrinsics.fy, 0],
            [0, -1, -(intrinsics.cy - (height - 1) / 2) / intrinsics.fy, 0],
            [0, 0, -1, 0],
        ]
    )
    # A triangle takes the colour of its first corner. Its number travels as that colour, as a multiple of 2^-24 below
    # 1, which float32 holds exactly; so first corners are copied, one per triangle, and the others are shared.
    count = len(faces)
    corners = np.concatenate([vertices[faces[:, 0]], vertices])
    indices = faces + np.int32(count)
    indices[:, 0] = np.arange(count, dtype=np.int32)
    colours = np.zeros((len(corners), 3), np.float32)
    colours[:count, 0] = number * 2.0**-24
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_FLAT)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    picture = np.full((height, width, 3), -1, np.float32)
    distance = np.full((height, width), FAR_M, np.float32)
    field = 2 * np.arctan(height / 2 / intrinsics.fy)
    if count:
        cv2.triangleRasterize(corners, indices, colours, picture, distance, shear, field, NEAR_M / 2, FAR_M, settings)
    seen = picture[..., 0]
    return np.where(seen >= 0, np.rint(seen * np.float32(2.0**24)), -1).astype(np.int32)


def cut_in_front(triangles: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut triangles at a plane in front of the camera and drop what lies behind it.

    Args:
        triangles: `(F, 3, 3)` camera-space corners.
        near: Depth of the plane.

    Returns:
        Corners `(G, 3, 3)` and for each the number of the triangle it was `(G,)`.
    """
    number = np.arange(len(triangles))
    behind = (triangles[..., 2] < near).sum(axis=1)
    kept, kept_number = [triangles[behind == 0]], [number[behind == 0]]
    for count in (1, 2):
        chosen = triangles[behind == count]
        if not len(chosen):
            continue
        # Turn the corners so that the odd one out comes first; the order around stays.
        odd = (chosen[..., 2] < near) if count == 1 else (chosen[..., 2] >= near)
        order = (odd.argmax(axis=1)[:, None] + np.arange(3)) % 3
        a, b, c = np.moveaxis(np.take_along_axis(chosen, order[..., None], axis=1), 1, 0)
        ab = a + ((near - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None] * (b - a)
        ac = a + ((near - a[:, 2]) / (c[:, 2] - a[:, 2]))[:, None] * (c - a)
        pieces = [(ab, b, c), (ab, c, ac)] if count == 1 else [(a, ab, ac)]
        for piece in pieces:
            kept.append(np.stack(piece, axis=1))
            kept_number.append(number[behind == count])
    return np.concatenate(kept).astype(np.float32), np.concatenate(kept_number)


# ---------------------------------------------------------------------------------- colour and infrared


def shaded_rgb(view: View, rng: np.random.Generator) -> np.ndarray:
    """Return a colour picture, uint8 `(height, width, 3)`, under random light with a camera's noise.

    One or two lamps and light from all around, more of it from above; no shadows are cast.
    """
    normals, colour = view.smooth_normals, view.colour
    warmth = rng.uniform(-0.12, 0.12)
    tint = np.array([1 + warmth, 1, 1 - warmth], np.float32)
    up = -normals[..., 1]
    light = np.float32(rng.uniform(0.25, 0.5)) * (1 + 0.4 * up)
    for _ in range(rng.integers(1, 3)):
        towards = rng.normal(size=3) + (0, -1.2, -1.0)
        towards = (towards / np.linalg.norm(towards)).astype(np.float32)
        light = light + np.float32(rng.uniform(0.3, 0.7)) * np.clip(normals @ towards, 0, None)
    exposure = rng.uniform(0.8, 1.25)
    picture = colour * (light[..., None] * np.float32(exposure)) * tint
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0.002, 0.015))
    return (255 * np.clip(picture, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


def amplitude(view: View, rng: np.random.Generator, *, full_scale_m: float = 1.0) -> np.ndarray:
    """Return the strength of the sensor's own light that comes back, uint16 `(height, width)`.

    The phase-image model of a time-of-flight camera: reflectance times cosine over the squared distance, less towards
    the picture's corners, with photon and read-out noise.

    Args:
        view: What is seen.
        rng: Source of the noise.
        full_scale_m: A white surface that faces the camera from this distance reads 65535.
    """
    distance = view.depth * view.intrinsics.ray_lengths
    return phase_image(rng, distance, view.smooth_cosine, view.albedo, view.intrinsics, full_scale_m=full_scale_m)


def phase_image(
    rng: np.random.Generator,
    distance: np.ndarray,
    cosine: np.ndarray,
    albedo: np.ndarray,
    intrinsics: Intrinsics,
    *,
    full_scale_m: float = 1.0,
    noise: float = 1.0,
) -> np.ndarray:
    """Return `amplitude` of surfaces given pixel by pixel, see `returned_light`; `noise` is a factor on its noise."""
    signal = returned_light(distance, cosine, albedo, intrinsics) * np.float32(full_scale_m**2)
    errors = rng.standard_normal(signal.shape, np.float32)
    signal = signal + errors * np.sqrt(signal * np.float32(2e-5) + np.float32(1e-7)) * np.float32(noise)
    return (65535 * np.clip(signal, 0, 1) + 0.5).astype(np.uint16)


def returned_light(distance: np.ndarray, cosine: np.ndarray, albedo: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return reflectance x cosine / distance^2 x the lamp's falloff towards the corners; 0 without a surface.

    Args:
        distance: `(height, width)` metres along the ray, 0 where nothing is seen.
        cosine: Between surface and ray.
        albedo: Reflectance.
        intrinsics: The camera's; its lamp falls to a third at the corners of a Kinect 2's picture.
    """
    return albedo * cosine / intrinsics.ray_lengths**3 / np.maximum(distance, 0.1) ** 2 * (distance > 0)
