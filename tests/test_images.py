"""Pictures of every kind become RGB uint8, and what is no picture is told by name."""

import numpy as np
import pytest

from posezoo.geometry import crop_matrix
from posezoo.inference.images import ImageError, as_rgb, crop, read_image

cv2 = pytest.importorskip("cv2")


def with_exif_rotation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF segment that holds nothing but the orientation tag."""
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0\0" + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


@pytest.fixture
def photo():
    """RGB, 24 rows, 40 columns, red on the left half and blue on the right."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, :20, 0], image[:, 20:, 2] = 255, 255
    return image


def write(path, image):
    assert cv2.imwrite(str(path), image)
    return path


def test_colour_order(tmp_path, photo):
    got = read_image(write(tmp_path / "a.png", photo[..., ::-1]))
    assert got.dtype == np.uint8 and np.array_equal(got, photo) and got.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "pgm"])
def test_grey(tmp_path, suffix):
    got = read_image(write(tmp_path / f"a.{suffix}", np.full((8, 9), 77, np.uint8)))
    assert got.shape == (8, 9, 3) and (abs(got.astype(int) - 77) <= 1).all()


def test_transparency_lies_over_white(tmp_path):
    bgra = np.zeros((4, 4, 4), np.uint8)
    bgra[..., 0], bgra[:2, :, 3], bgra[2, :, 3] = 255, 255, 127
    got = read_image(write(tmp_path / "a.png", bgra))
    assert got[0, 0].tolist() == [0, 0, 255] and got[3, 0].tolist() == [255, 255, 255]
    assert got[2, 0].tolist() == [128, 128, 255]


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_16_bit(tmp_path, shape):
    got = read_image(write(tmp_path / "a.png", np.full(shape, 0x01FF, np.uint16)))
    assert got.shape == (5, 6, 3) and (got == 2).all()  # rounded, not cut


@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_exif_rotation_is_applied(tmp_path, grey):
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, :20] = 255
    image = image[..., 0] if grey else image
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif_rotation(jpeg, 6))  # the camera was held upright: turn clockwise
    got = read_image(path)
    assert got.shape == (40, 24, 3)
    assert got[:18].min() > 200 and got[22:].max() < 50


def test_one_pixel(tmp_path):
    assert read_image(write(tmp_path / "a.png", np.array([[[1, 2, 3]]], np.uint8))).tolist() == [[[3, 2, 1]]]


def test_names_that_opencv_cannot_open(tmp_path, photo):
    path = tmp_path / "Läufer 走.png"
    path.write_bytes(cv2.imencode(".png", photo[..., ::-1])[1].tobytes())
    assert np.array_equal(read_image(path), photo)


@pytest.mark.parametrize(
    "name, content", [("empty.jpg", b""), ("text.jpg", b"not a picture"), ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")]
)
def test_files_that_are_no_pictures(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=name):
        read_image(tmp_path / name)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(ImageError, match="no such file"):
            read_image(path)


def test_pixels_out_of_range_name_the_file(tmp_path):
    path = write(tmp_path / "depth.tiff", np.full((4, 4), 900.0, np.float32))
    with pytest.raises(ImageError, match=r"depth.tiff.*\[0, 1\]"):
        read_image(path)


def test_arrays():
    assert (as_rgb(np.full((2, 3), 0.5)) == 128).all()
    assert as_rgb(np.ones((2, 3, 1), bool)).tolist() == np.full((2, 3, 3), 255).tolist()
    assert (as_rgb(np.full((2, 3, 3), 65535, np.uint16)) == 255).all()
    assert as_rgb(np.zeros((2, 3, 4), np.uint8)).tolist() == np.full((2, 3, 3), 255).tolist()


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3, 2), np.uint8), r"shape \(2, 3, 2\)"),
        (np.zeros((0, 3, 3), np.uint8), r"shape \(0, 3, 3\)"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.full((2, 2), 255.0), r"\[0, 1\]"),
        (np.full((2, 2), np.nan), r"\[0, 1\]"),
        (np.zeros((2, 2), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(ImageError, match=message):
        as_rgb(array)


def test_crop_of_the_whole_is_the_picture(photo):
    assert np.array_equal(crop(photo, np.eye(2, 3), (40, 24)), photo)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_shrinking_keeps_positions_and_averages(factor):
    """A fine checkerboard becomes grey, and a big square stays where it was."""
    rows, columns = np.indices((240, 240))
    board = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    small = crop(board, crop_matrix((119.5, 119.5), (240, 240), (240 // factor,) * 2), (240 // factor,) * 2)
    assert abs(small.astype(int) - 127)[1:-1, 1:-1].max() < 64
    square = np.zeros((240, 240, 3), np.uint8)
    square[60:180, 120:] = 255
    small = crop(square, crop_matrix((119.5, 119.5), (240, 240), (240 // factor,) * 2), (240 // factor,) * 2)
    n = 240 // factor
    assert small[n // 4 : 3 * n // 4, n // 2 :].min() > 200 and small[:, : n // 2].max() < 55


@pytest.mark.parametrize("move", [1e5, -3e6, 1e9, -1e12])
def test_crops_far_outside_are_grey(photo, move):
    assert (crop(photo, np.array([[1, 0, move], [0, 1, 0]]), (16, 16)) == 127).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e4, 1e9])
def test_extreme_scales_give_a_picture(photo, scale):
    got = crop(photo, np.array([[scale, 0, 3], [0, scale, 3.0]]), (16, 16))
    assert got.shape == (16, 16, 3) and got.dtype == np.uint8


def test_pictures_wider_than_opencv_warps():
    wide = np.zeros((100, 40000, 3), np.uint8)
    wide[:, 39000:] = 255
    got = crop(wide, crop_matrix((39500, 49.5), (1000, 1000), (50, 50)), (50, 50))
    assert got[25, 25].min() > 200
