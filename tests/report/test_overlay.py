"""Maps lie where they belong on the photo."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from minmax_jax.report.overlay import brighten, overlay_map, to_grey, to_show


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_hot_corner_is_hot_in_that_corner(corner):
    map_ = np.zeros((4, 4), np.float32)
    map_[corner] = 1
    overlay = overlay_map(np.full((32, 48), 90, np.uint8), map_).astype(int)
    light = overlay.sum(-1)
    hottest = np.unravel_index(light.argmax(), light.shape)
    assert (hottest[0] >= 16, hottest[1] >= 24) == (corner[0] == -1, corner[1] == -1)
    # Hot is yellow: red and green far above blue; the far corner stays dim and grey.
    red, green, blue = overlay[corner]
    assert red > 150 and green > 150 and blue < red - 50
    far = overlay[-1 - corner[0], -1 - corner[1]]
    assert np.ptp(far) <= 4 and far.max() < 90


def test_in_the_middle_of_a_cell_stands_its_value_and_nothing_lies_far_beyond():
    map_ = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    large = overlay_map(np.full((27, 45), 100, np.uint8), map_).astype(int)
    small = overlay_map(np.full((3, 5), 100, np.uint8), map_).astype(int)
    np.testing.assert_allclose(large[4::9, 4::9], small, atol=3)
    step = overlay_map(np.full((8, 80), 100, np.uint8), np.array([[0.0, 0, 1, 1, 0.5, 0.5]]))
    light = step.astype(int).sum(axis=2)[0]
    assert light.min() == light[0] and light.max() == light[46]  # clipped, not wrapped
    assert (np.diff(light[20:34]) >= 0).all()


def test_an_empty_map_leaves_a_dim_grey_photo():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    overlay = overlay_map(to_grey(image), np.zeros((2, 2), np.float32)).astype(int)
    assert np.ptp(overlay, axis=-1).max() <= 3
    assert overlay.max() < 130
    grey = image @ np.array([0.299, 0.587, 0.114])
    assert np.corrcoef(overlay.mean(-1).ravel(), grey.ravel())[0, 1] > 0.99


def test_colours_are_those_of_the_formula():
    """A fifth to three quarters of inferno over six tenths of the grey, but for rounding."""
    rng = np.random.default_rng(1)
    grey, map_ = rng.integers(0, 256, (9, 7), np.uint8), rng.random((9, 7)).astype(np.float32)
    overlay = overlay_map(grey, map_).astype(int)
    for y, x in np.ndindex(9, 7):
        opacity = 0.2 + 0.55 * map_[y, x]
        color = 255 * np.array(matplotlib.colormaps["inferno"](float(map_[y, x]))[:3])
        expected = (1 - opacity) * 0.6 * grey[y, x] + opacity * color
        np.testing.assert_allclose(overlay[y, x], expected, atol=4)


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (31, 50), (40, 41), (7, 90)])
@pytest.mark.parametrize("box", ["crop", "letterbox"])
def test_a_hot_cell_of_a_square_map_glows_where_the_square_has_it(size, box):
    """The centred square, inside the photo or around it, of odd and even sizes."""
    height, width = size
    side = min(size) if box == "crop" else max(size)
    top, left = (height - side) / 2, (width - side) / 2
    grey = np.full(size, 120, np.uint8)
    for row, column in np.ndindex(5, 5):
        map_ = np.zeros((5, 5), np.float32)
        map_[row, column] = 1
        overlay = overlay_map(grey, map_, (top, left, top + side, left + side)).astype(int)
        heat = np.zeros(size)
        for y, x in np.ndindex(height, width):
            v = np.clip((y + 0.5 - top) / side * 5 - 0.5, 0, 4)
            u = np.clip((x + 0.5 - left) / side * 5 - 0.5, 0, 4)
            heat[y, x] = max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column))
        seen = np.zeros(size, bool)
        for y, x in np.ndindex(height, width):
            seen[y, x] = top <= y and y + 1 <= top + side and left <= x and x + 1 <= left + side
        red = overlay[..., 0] - overlay[..., 2]  # much in inferno's upper half, little below
        assert (overlay[~seen] == 30).all()
        assert (red[seen & (heat > 0.8)] > 60).all()
        assert (red[seen & (heat < 0.05)] < 20).all()
        if heat[seen].max() > 0.9:
            hottest = np.unravel_index(np.argmax(np.where(seen, overlay.sum(axis=2), 0)), size)
            assert heat[hottest] > 0.6


def test_a_box_thinner_than_a_pixel_still_has_one():
    overlay = overlay_map(np.full((1, 40), 80, np.uint8), np.ones((2, 2)), (0, 19.5, 1, 20.5))
    assert overlay.shape == (1, 40, 3)
    assert (overlay[0].max(axis=1) > 100).sum() == 1


def test_maps_of_pixels_are_shown_up_to_their_99th_percentile():
    map_ = np.linspace(0, 0.5, 401).reshape(1, 401)
    map_[0, -1] = 1  # outshines all others
    shown = to_show("gradients", map_)
    np.testing.assert_allclose(shown[0, :396], map_[0, :396] / 0.495, rtol=1e-6)
    assert (shown[0, 397:] == 1).all()
    np.testing.assert_array_equal(to_show("cam", map_), map_)
    np.testing.assert_array_equal(to_show("one's own", map_), map_)
    np.testing.assert_array_equal(brighten(np.zeros((2, 3))), np.zeros((2, 3)))
