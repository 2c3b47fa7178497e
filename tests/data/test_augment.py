from __future__ import annotations

import colorsys

import numpy as np
import pytest

from minmax_jax.data import augment

SWITCHES = ("horizontal_flip", "vertical_flip", "contrast", "saturation")


@pytest.fixture
def image() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image[0, 0], image[0, 1] = 0, 255
    return image


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.7, 1.0])
def test_saturation_is_that_of_hsv(image, factor):
    out = augment.adjust_saturation(image, factor)
    assert out.dtype == np.uint8
    for y, x in np.ndindex(5, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[y, x] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation * factor, value)
        assert np.abs(out[y, x] - np.array(expected) * 255).max() < 0.501


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_contrast_is_about_the_channel_mean(image, factor):
    out = augment.adjust_contrast(image, factor)
    assert out.dtype == np.uint8
    for channel in range(3):
        plane = image[:, :, channel].astype(float)
        mean = sum(plane.ravel()) / plane.size
        for y, x in np.ndindex(5, 7):
            expected = min(max(mean + factor * (plane[y, x] - mean), 0), 255)
            assert abs(out[y, x, channel] - expected) < 0.501


def test_nothing_switched_on_changes_nothing(image):
    out, mask = augment.Augment()(np.random.default_rng(0), image)
    np.testing.assert_array_equal(out, image)
    assert mask is None


def test_flips_move_image_and_mask_together(image):
    mask = image[:, :, 0].copy()
    kept = image.copy()
    change = augment.Augment(horizontal_flip=True, vertical_flip=True)
    rng = np.random.default_rng(1)
    forms = {
        form: image[::vertical, ::horizontal].tobytes()
        for form, (vertical, horizontal) in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    }
    seen = []
    for _ in range(400):
        out, out_mask = change(rng, image, mask)
        np.testing.assert_array_equal(out[:, :, 0], out_mask)
        seen += [form for form, value in forms.items() if value == out.tobytes()]
    assert len(seen) == 400
    np.testing.assert_allclose(np.bincount(seen) / 400, 0.25, atol=0.07)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_does_its_part_alone(image, switch):
    """The same generator draws the same numbers, whatever else is switched on."""
    mask = image[:, :, 0].copy()
    alone = augment.Augment(**{switch: True})
    for seed in range(20):
        out, out_mask = alone(np.random.default_rng(seed), image, mask)
        rng = np.random.default_rng(seed)
        left_right, up_down = rng.random(2) < 0.5
        contrast, saturation = rng.uniform(0.5, 1.5), rng.uniform(0.2, 1.0)
        expected = {
            "horizontal_flip": image[:, ::-1] if left_right else image,
            "vertical_flip": image[::-1] if up_down else image,
            "contrast": augment.adjust_contrast(image, contrast),
            "saturation": augment.adjust_saturation(image, saturation),
        }[switch]
        np.testing.assert_array_equal(out, expected)
        if switch in ("contrast", "saturation"):
            np.testing.assert_array_equal(out_mask, mask)


def test_all_switches_together(image):
    everything = augment.Augment(**dict.fromkeys(SWITCHES, True))
    flips = augment.Augment(horizontal_flip=True, vertical_flip=True)
    for seed in range(20):
        out, mask = everything(np.random.default_rng(seed), image, image[:, :, 0])
        _, flipped_mask = flips(np.random.default_rng(seed), image, image[:, :, 0])
        np.testing.assert_array_equal(mask, flipped_mask)
        assert out.shape == image.shape and out.dtype == np.uint8
