from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from minmax_jax import perturb

IMAGES = np.random.default_rng(0).normal(size=(2, 10, 14, 3)).astype(np.float32)


def scale(images):
    return images.astype("float32") / 127.5 - 1


def test_zero_is_zero_after_preprocessing():
    np.testing.assert_array_equal(perturb.make_fill("zero", scale)(IMAGES), np.zeros_like(IMAGES))


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("#ff8000", (255, 128, 0)), ("white", (255, 255, 255)), ("rgb(1, 2, 3)", (1, 2, 3))],
)
@pytest.mark.parametrize("preprocess", [None, scale])
def test_colours(fill, colour, preprocess):
    """As the network eats them; 0..255 for a network that brings no preprocessing."""
    filling = jax.jit(perturb.make_fill(fill, preprocess))(IMAGES)
    assert filling.shape == IMAGES.shape and filling.dtype == np.float32
    expected = np.array(colour) / 127.5 - 1 if preprocess else np.array(colour)
    np.testing.assert_allclose(filling, np.broadcast_to(expected, IMAGES.shape), atol=1e-6)


def test_blur_is_gaussian_with_weights_renormalised_at_the_edge():
    out = jax.jit(perturb.make_fill("blur", None))(IMAGES)
    height, width = IMAGES.shape[1:3]
    for y, x in [(0, 0), (0, 7), (5, 6), (9, 13)]:
        total, expected = 0.0, np.zeros((2, 3))
        for v in range(height):
            for u in range(width):
                distance = ((v - y) / (0.05 * height)) ** 2 + ((u - x) / (0.05 * width)) ** 2
                weight = math.exp(-distance / 2)
                total += weight
                expected += weight * IMAGES[:, v, u].astype(float)
        np.testing.assert_allclose(out[:, y, x], expected / total, atol=1e-5)


def test_blur_of_a_constant_image_is_the_image():
    constant = np.full((1, 7, 5, 3), 0.7, np.float32)
    np.testing.assert_allclose(perturb.blur(constant), constant, rtol=1e-6)


@pytest.mark.parametrize("fill", ["grey-blue", "", "#12", 3, None])
def test_unknown_fill(fill):
    with pytest.raises(
        ValueError, match="fill must be zero, blur or a colour such as #7f7f7f, not"
    ):
        perturb.make_fill(fill, scale)
