from __future__ import annotations

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minmax_jax.data.images import decode_image
from minmax_jax.pseudo_masks import mask_files

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)


def geometry(height, width, size, resize):
    """Top and left of the map and sides of its cells, in pixels of the image."""
    if resize == "crop":
        side = min(height, width)
        return (height - side) / 2, (width - side) / 2, side / size, side / size
    longest = max(height, width)
    inner = [max(1, round(side * size / longest)) for side in (height, width)]
    y, x = height / inner[0], width / inner[1]
    return -((size - inner[0]) // 2) * y, -((size - inner[1]) // 2) * x, y, x


def loop_restored(map_, height, width, resize):
    """Pixel by pixel, None where the centre of a pixel is off the map."""
    size = len(map_)
    top, left, y_cell, x_cell = geometry(height, width, size, resize)
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            v, u = (y + 0.5 - top) / y_cell, (x + 0.5 - left) / x_cell
            if not (0 <= v < size and 0 <= u < size):
                row.append(None)
                continue
            v, u = (min(max(at - 0.5, 0), size - 1) for at in (v, u))
            total = 0
            for i in {int(v), min(int(v) + 1, size - 1)}:
                for j in {int(u), min(int(u) + 1, size - 1)}:
                    total += max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j)) * map_[i, j]
            row.append(total)
        rows.append(row)
    return rows


@SETTINGS
@given(
    st.integers(1, 13),
    st.integers(1, 13),
    st.integers(1, 9),
    st.sampled_from(["crop", "letterbox"]),
    st.integers(0, 99),
)
def test_maps_lie_where_the_network_saw_the_image(height, width, size, resize, seed):
    maps = np.random.default_rng(seed).uniform(size=(2, size, size))
    seen, found = mask_files.restore_maps(maps, height, width, resize=resize)
    assert found.dtype == np.float32
    for map_, restored in zip(maps, found, strict=True):
        whole = np.full((height, width), np.nan)
        whole[seen] = restored
        expected = np.array(loop_restored(map_, height, width, resize), float)
        np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_what_is_seen():
    maps = np.zeros((0, 4, 4))
    seen, found = mask_files.restore_maps(maps, 5, 8, resize="crop")  # from 1.5 to 6.5
    assert seen == (slice(0, 5), slice(1, 6)) and found.shape == (0, 5, 5)
    seen, _ = mask_files.restore_maps(maps, 5, 8, resize="letterbox")
    assert seen == (slice(0, 5), slice(0, 8))


def test_a_mask_as_others_read_it(tmp_path):
    mask = np.array([[0, 1, 15], [20, 255, 0]], np.uint8)
    mask_files.write_mask(tmp_path, "2007_000032", mask)
    (path,) = (tmp_path / "SegmentationClass").iterdir()
    with Image.open(path) as picture:
        assert path.name == "2007_000032.png" and picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), mask)
        colours = np.array(picture.convert("RGB"))
    # The colours of VOC: aeroplane, person, tvmonitor and void.
    assert colours[0].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128]]
    assert colours[1].tolist() == [[0, 64, 128], [224, 224, 192], [0, 0, 0]]


TURNS = {
    None: lambda x: x,
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: x[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: np.rot90,
}


def save_stored(path, image, orientation):
    """A photo whose EXIF data turn its pixels (H W 3)."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif)


@pytest.mark.parametrize("orientation", TURNS)
def test_masks_lie_over_the_stored_pixels(orientation, tmp_path):
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    save_stored(tmp_path / "a.png", np.stack([mask] * 3, axis=-1), orientation)
    upright = np.ascontiguousarray(TURNS[orientation](mask))
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png")[..., 0], upright)
    found = mask_files.over_stored_pixels(upright, tmp_path / "a.png")
    np.testing.assert_array_equal(found, mask)


def test_lists(tmp_path):
    mask_files.write_lists(tmp_path, "validation", ["b", "a"], ["cat", "dog"])
    assert (tmp_path / "ImageSets/Segmentation/val.txt").read_text() == "b\na\n"
    assert (tmp_path / "classes.txt").read_text() == "cat\ndog\n"
    mask_files.write_lists(tmp_path, "train", ["c"], ["cat", "dog"])
    assert (tmp_path / "ImageSets/Segmentation/train.txt").read_text() == "c\n"


class Numbers(list):
    """A source of so many examples."""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (types.SimpleNamespace(image_paths=["/x/b.jpg", "y/a.b.png"]), ["b", "a.b"]),
        (types.SimpleNamespace(image_paths=["x/a.jpg", "y/a.jpg"]), ["000000", "000001"]),
        (types.SimpleNamespace(), ["000000", "000001"]),
    ],
)
def test_names(source, expected):
    numbers = Numbers([0, 1])
    numbers.__dict__.update(vars(source))
    assert mask_files.example_names(numbers) == expected
