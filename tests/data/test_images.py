from __future__ import annotations

import fractions
import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from minmax_jax.data import images

Half = fractions.Fraction(1, 2)
extent = st.integers(1, 40)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


# --- Decoding ---


def _save(tmp_path, image: Image.Image, name: str = "image.png", **options) -> str:
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def test_colour_and_grey(tmp_path, photo):
    decoded = images.decode_image(_save(tmp_path, Image.fromarray(photo)))
    np.testing.assert_array_equal(decoded, photo)
    assert decoded.dtype == np.uint8
    decoded[0, 0] = 0  # A fresh array that may be written to.
    grey = photo[:, :, 0]
    decoded = images.decode_image(_save(tmp_path, Image.fromarray(grey)))
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3, axis=2))
    decoded = images.decode_image(_save(tmp_path, Image.fromarray(grey > 100)))
    np.testing.assert_array_equal(decoded[:, :, 1], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path, mode):
    ramp = np.stack(np.broadcast_arrays(np.arange(32)[:, None] * 6, np.arange(48) * 4, 90), axis=2)
    image = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    decoded = images.decode_image(_save(tmp_path, image, "image.jpg", quality=95, subsampling=0))
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert decoded.shape == (32, 48, 3)
    assert np.abs(decoded - expected).mean() < 3


def test_transparency_lies_over_white(tmp_path, photo):
    alpha = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
    decoded = images.decode_image(_save(tmp_path, Image.fromarray(np.dstack([photo, alpha]))))
    for y, x, channel in np.ndindex(6, 9, 3):
        share = alpha[y, x] / 255
        expected = share * photo[y, x, channel] + (1 - share) * 255
        assert abs(decoded[y, x, channel] - expected) <= 1
    grey_alpha = Image.fromarray(np.dstack([photo[:, :, 0], alpha]), "LA")
    decoded = images.decode_image(_save(tmp_path, grey_alpha))
    share = alpha[5, 8] / 255
    assert abs(decoded[5, 8, 2] - (share * photo[5, 8, 0] + (1 - share) * 255)) <= 1


def test_palette(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    colours = np.array([[200, 10, 20], [0, 255, 7], [9, 8, 250]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    decoded = images.decode_image(_save(tmp_path, image))
    np.testing.assert_array_equal(decoded, colours[indices])
    decoded = images.decode_image(_save(tmp_path, image, transparency=1))
    colours[1] = 255
    np.testing.assert_array_equal(decoded, colours[indices])
    np.testing.assert_array_equal(images.decode_mask(_save(tmp_path, image)), indices)


def test_16_bit_grey(tmp_path):
    wide = np.array([[0, 128, 129, 257], [25700, 40000, 65535, 300]], np.uint16)
    decoded = images.decode_image(_save(tmp_path, Image.fromarray(wide)))
    np.testing.assert_array_equal(decoded[:, :, 0], [[0, 0, 1, 1], [100, 156, 255, 1]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, photo, orientation):
    """`stored` is what a camera that was turned writes for the upright `photo`."""
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(images.decode_image(path), photo)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.bmp"])
def test_truncated_image_names_its_path(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    path = _save(tmp_path, Image.fromarray(noise), name)
    content = (tmp_path / name).read_bytes()
    for part in (0, 10, len(content) // 2, len(content) * 9 // 10):
        (tmp_path / name).write_bytes(content[:part])
        with pytest.raises(ValueError) as error:
            images.decode_image(path)
        assert str(error.value).startswith(f"cannot decode image {path}: ")


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(ValueError, match=r"cannot decode image .*none\.png"):
        images.decode_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"cannot decode mask .*none\.png"):
        images.decode_mask(tmp_path / "none.png")
    path = _save(tmp_path, Image.fromarray(np.ones((2, 2), np.float32)), "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: mode F has no agreed range"):
        images.decode_image(path)


def test_masks_keep_their_values(tmp_path, photo):
    values = np.array([[0, 1, 21], [254, 255, 3]], np.uint8)
    decoded = images.decode_mask(_save(tmp_path, Image.fromarray(values)))
    np.testing.assert_array_equal(decoded, values)
    assert decoded.dtype == np.uint8
    decoded = images.decode_mask(_save(tmp_path, Image.fromarray(values > 2)))
    np.testing.assert_array_equal(decoded, [[0, 0, 1], [1, 1, 1]])
    path = _save(tmp_path, Image.fromarray(photo), "colour.png")
    with pytest.raises(ValueError, match=r"colour\.png: mode RGB"):
        images.decode_mask(path)


# --- Geometry ---


def _crop_source(i: int, size: int, length: int, side: int) -> int:
    """The pixel of `length` under the centre of sample `i`, exactly."""
    return math.floor(fractions.Fraction(length - side, 2) + (i + Half) * side / size)


def _inset(length: int, longest: int, size: int) -> tuple[int, int]:
    inner = max(1, round(fractions.Fraction(length * size, longest)))
    return (size - inner) // 2, inner


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(extent, extent, extent)
def test_mask_crop_by_loops(height, width, size):
    mask = (np.arange(height * width).reshape(height, width) * 7 % 251).astype(np.uint8)
    side = min(height, width)
    out = images.resize_mask(mask, size, "crop")
    assert out.shape == (size, size) and out.dtype == np.uint8
    for y, x in itertools.product(range(size), repeat=2):
        source = _crop_source(y, size, height, side), _crop_source(x, size, width, side)
        assert out[y, x] == mask[source]


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(extent, extent, extent)
def test_mask_letterbox_by_loops(height, width, size):
    mask = (np.arange(height * width).reshape(height, width) * 7 % 251).astype(np.uint8)
    out = images.resize_mask(mask, size, "letterbox")
    top, inner_height = _inset(height, max(height, width), size)
    left, inner_width = _inset(width, max(height, width), size)
    assert max(inner_height, inner_width) == size
    for y, x in itertools.product(range(size), repeat=2):
        inside = top <= y < top + inner_height and left <= x < left + inner_width
        if inside:
            source = (
                _crop_source(y - top, inner_height, height, height),
                _crop_source(x - left, inner_width, width, width),
            )
        assert out[y, x] == (mask[source] if inside else 255)


def _triangle(values: np.ndarray, start: float, extent: float, count: int) -> np.ndarray:
    """Bilinear with antialiasing along the first axis: the mean of the pixels, weighted by a
    triangle that reaches one pixel of the coarser grid to either side."""
    scale = extent / count
    width = max(scale, 1.0)
    out = np.zeros((count, *values.shape[1:]))
    for i in range(count):
        centre, total = start + (i + 0.5) * scale, 0.0
        for j in range(len(values)):
            weight = max(0.0, 1 - abs((j + 0.5 - centre) / width))
            out[i] += weight * values[j]
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("resize", images.RESIZES)
@pytest.mark.parametrize("shape", [(30, 45), (45, 30), (13, 20), (33, 33), (8, 40)])
def test_image_by_loops(shape, resize):
    height, width = shape
    size, side = 16, min(shape)
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if resize == "crop":
        top = left = 0
        rows = ((height - side) / 2, side, size)
        columns = ((width - side) / 2, side, size)
    else:
        top, inner_height = _inset(height, max(shape), size)
        left, inner_width = _inset(width, max(shape), size)
        rows, columns = (0, height, inner_height), (0, width, inner_width)
    inner = _triangle(image.astype(float), *rows)
    inner = _triangle(inner.transpose(1, 0, 2), *columns).transpose(1, 0, 2)
    expected = np.zeros((size, size, 3))
    expected[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    out = images.resize_image(image, size, resize)
    assert out.dtype == np.uint8
    assert np.abs(out - expected).max() <= 1.01  # rounded after each axis


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    st.integers(8, 60), st.integers(8, 60), st.integers(8, 40), st.sampled_from(images.RESIZES)
)
def test_mask_follows_image(height, width, size, resize):
    """A mask written as a picture goes where the mask goes, up to its edges."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 2 :] = 1
    image = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    resized = images.resize_mask(mask, size, resize)
    seen = images.resize_image(image, size, resize)[:, :, 0] > 127
    reach = 1 + math.ceil(size / min(height, width) / 2)
    for y, x in itertools.product(range(size), repeat=2):
        around = resized[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if around.min() == around.max():
            assert seen[y, x] == (resized[y, x] == 1)


@pytest.mark.parametrize("resize", images.RESIZES)
def test_the_right_size_stays(photo, resize):
    image = photo[:6, :6]
    np.testing.assert_array_equal(images.resize_image(image, 6, resize), image)
    np.testing.assert_array_equal(images.resize_mask(image[:, :, 0], 6, resize), image[:, :, 0])


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (31, 50), (5, 90), (33, 33), (1, 40)])
def test_seen_box_is_where_the_network_looks(shape):
    """In the square of a crop the photo fills all; in a letterbox all but what is black."""
    height, width = shape
    side = min(shape)
    expected = [(height - side) / 2, (width - side) / 2, (height + side) / 2, (width + side) / 2]
    assert images.seen_box(*shape, 24, "crop") == tuple(expected)

    white = images.resize_image(np.full((*shape, 3), 255, np.uint8), 24, "letterbox")[..., 0] > 0
    top, left, bottom, right = images.seen_box(*shape, 24, "letterbox")
    edges = ((0, height, top, bottom, 1), (0, width, left, right, 0))
    for first, last, start, stop, axis in edges:
        filled = np.flatnonzero(white.any(axis=axis))
        scale = 24 / (stop - start)  # pixels of the square a pixel of the photo
        assert (first - start) * scale == pytest.approx(filled[0], abs=1e-9)
        assert (last - start) * scale == pytest.approx(filled[-1] + 1, abs=1e-9)
