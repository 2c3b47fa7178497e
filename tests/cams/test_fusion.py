from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import fusion
from tests import reference

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)
SHAPE = (2, 3, 2, 3)  # two examples of three maps

FUSIONS = [fusion.multi_layer, fusion.fuse]
multi_layer, fuse = jax.jit(fusion.multi_layer), jax.jit(fusion.fuse)


def loops(maps, value_of):
    """The pixels' values in float64, normalised; `maps (n H W)`."""
    out = np.zeros(maps.shape[1:])
    for pixel in np.ndindex(*out.shape):
        out[pixel] = value_of([float(one[pixel]) for one in maps])
    return reference.normalize(out)


@SETTINGS
@given(st.lists(st.integers(0, 8), min_size=36, max_size=36))
def test_maps_of_every_example(eighths):
    """Of few bits, so that equal sums are equal in float32 too."""
    maps = np.array(eighths, np.float32).reshape(SHAPE) / 8
    layers, classes = multi_layer(maps), fuse(maps)
    assert layers.dtype == classes.dtype == np.float32
    for b in range(2):
        product = loops(maps[b], lambda pixel: sum(pixel) * pixel[-1])
        np.testing.assert_allclose(layers[b], product, atol=1e-5)
        mean = loops(maps[b], lambda pixel: sum(pixel) / len(pixel))
        np.testing.assert_allclose(classes[b], mean, atol=1e-5)


def test_the_last_layer_says_where():
    """By hand: an object that the last layer saw on the right, an outline in both halves."""
    outline = [[1, 0.5, 1, 0.5]]
    last = [[0, 0, 0.5, 1]]
    maps = np.array([outline, last], np.float32)
    # sums 1, 0.5, 1.5, 1.5; times the last 0, 0, 0.75, 1.5
    np.testing.assert_allclose(multi_layer(maps), [[0, 0, 0.5, 1]])
    np.testing.assert_allclose(multi_layer(maps[::-1]), [[0.75 / 1.25, 0, 1, 0.5 / 1.25]])


def test_one_layer_is_its_square():
    one = np.random.default_rng(0).uniform(0.2, 0.9, size=(1, 3, 4)).astype(np.float32)
    expected = reference.normalize(one[0].astype(float) ** 2)
    np.testing.assert_allclose(multi_layer(one), expected, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_mean_of_equal_maps_is_that_map(number):
    one = np.random.default_rng(1).uniform(size=(3, 4)).astype(np.float32)
    one = reference.normalize(one).astype(np.float32)
    np.testing.assert_allclose(fuse(np.stack([one] * number)), one, atol=1e-6)


@pytest.mark.parametrize("fusion_of", FUSIONS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_maps_fuse_to_zero(fusion_of, value):
    maps = np.full((3, 2, 2), value, np.float32)
    np.testing.assert_array_equal(fusion_of(maps), np.zeros((2, 2)))


@pytest.mark.parametrize("fusion_of", FUSIONS)
def test_gradients_at_zero_maps_are_finite(fusion_of):
    gradient = jax.jit(jax.grad(lambda maps: (fusion_of(maps) ** 2).sum()))
    assert np.isfinite(gradient(jnp.zeros((3, 2, 2)))).all()
    assert np.abs(gradient(jnp.arange(12.0).reshape(3, 2, 2))).max() > 0
