from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import saliency
from tests import reference

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)
SIZES = ((4, 6), (1, 1), (3, 1))

largest_gradient = jax.jit(jax.vmap(saliency.largest_gradient))
integrated_gradients = jax.jit(jax.vmap(saliency.integrated_gradients))
full_grad = jax.jit(jax.vmap(saliency.full_grad))


@SETTINGS
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1))
def test_maps_of_image_and_gradients(size, seed):
    rng = np.random.default_rng(seed)
    images, gradients = rng.normal(size=(2, 2, *size, 3)).astype(np.float32)
    largest = largest_gradient(images, gradients)
    integrated = integrated_gradients(images, gradients)
    assert largest.shape == integrated.shape == (2, *size)
    for b, i, j in np.ndindex(2, *size):
        pixel = [float(value) for value in gradients[b, i, j]]
        assert largest[b, i, j] == max(abs(value) for value in pixel)
        total = sum(float(x) * g for x, g in zip(images[b, i, j], pixel, strict=True))
        np.testing.assert_allclose(integrated[b, i, j], reference.relu(total), atol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_of_scores():
    """Of `sum w x^2`, whose gradients along the path midpoints average exactly."""
    rng = np.random.default_rng(2)
    image, factors = rng.normal(size=(4, 6, 3)), rng.uniform(size=(4, 6, 3))
    points = saliency.path(3)
    inputs = [np.asarray(points.at(jnp.asarray(image), jnp.asarray(i))) for i in range(3)]
    gradients = np.mean([2 * factors * at for at in inputs], axis=0)
    found = saliency.integrated_gradients(jnp.asarray(image), jnp.asarray(gradients))
    np.testing.assert_allclose(np.sum(found), np.sum(factors * image**2), rtol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_path_is_midpoints_of_equal_parts(number):
    image = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    points = saliency.path(number)
    assert points.number == number
    at = jax.jit(points.at)
    for index in range(number):
        found = at(image, index)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, image * (2 * index + 1) / (2 * number), rtol=1e-6)


def test_noise_has_the_level_asked_for_and_no_bias():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 3, size=(60, 70, 3)).astype(np.float32)
    span = float(image.max() - image.min())
    points = saliency.noisy(4, level=0.2)
    at = jax.jit(points.at)
    noise = np.stack([np.asarray(at(image, index)) - image for index in range(points.number)])
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), 0.2 * span, rtol=0.03)
    np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0, atol=0.01 * span)
    # Independent: of each point, each position and each colour.
    flat = noise.reshape(4, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.05
    assert np.abs(np.corrcoef(noise[0].reshape(-1, 3).T) - np.eye(3)).max() < 0.05


def test_every_image_has_the_same_noise():
    """So that neither the batch nor the place in it matters; a flat image has none."""
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(2, 4, 5, 3)).astype(np.float32)
    points = saliency.noisy(2)
    together = jax.vmap(points.at, in_axes=(0, None))(images, 1)
    noise = []
    for b in range(2):
        found = np.asarray(points.at(images[b], 1))
        np.testing.assert_allclose(together[b], found, rtol=1e-6)
        noise.append((found - images[b]) / (images[b].max() - images[b].min()))
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)
    other = np.asarray(saliency.noisy(2, seed=1).at(images[0], 1))
    assert not np.allclose(other, points.at(images[0], 1))

    flat = np.full((4, 5, 3), 0.3, np.float32)
    np.testing.assert_array_equal(points.at(flat, 0), flat)
    np.testing.assert_array_equal(saliency.noisy(2, level=0).at(images[0], 0), images[0])


def test_equal_points_are_equal_keys():
    """What is compiled for them is found again."""
    for make in (saliency.noisy, saliency.path):
        assert make() == make() and hash(make()) == hash(make())
        assert make(3) != make(4)
    assert saliency.noisy(seed=1) != saliency.noisy(seed=2)
    assert saliency.noisy(level=0.1) != saliency.noisy(level=0.2)
    assert (saliency.noisy().number, saliency.path().number) == (25, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: saliency.noisy(0), "number must be an integer of at least 1, not 0"),
        (lambda: saliency.path(-2), "number must be an integer of at least 1, not -2"),
        (lambda: saliency.path(2.5), "number must be an integer of at least 1, not 2.5"),
        (lambda: saliency.Inputs(0, abs), "number must be an integer of at least 1, not 0"),
        (lambda: saliency.noisy(level=-0.1), "level must be at least 0, not -0.1"),
        (lambda: saliency.noisy(level=float("nan")), "level must be at least 0, not nan"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


SIZE = (4, 6)
PLACES = {"image": (*SIZE, 3), "bias0": (2, 3, 4), "bias1": (1, 2, 2), "bias2": (5,)}
PLACES["bias3"] = (1, 1, 4, 1)  # of a group normalisation


def arrays_of_places(seed):
    """Values and gradients of a batch of two; a few channels count the same everywhere."""
    rng = np.random.default_rng(seed)
    values, gradients = (
        {name: rng.normal(size=(2, *shape)).astype(np.float32) for name, shape in PLACES.items()}
        for _ in range(2)
    )
    values["bias0"][:, ..., 1] = gradients["bias0"][:, ..., 1] = 0.5
    gradients["bias1"][1] = 0
    return values, gradients


def full_grad64(values, gradients):
    out = np.zeros(SIZE)
    for name, shape in PLACES.items():
        if len(shape) == 3:
            for k in range(shape[-1]):
                product = np.abs(values[name][..., k].astype(float) * gradients[name][..., k])
                out += reference.resize(reference.normalize(product), SIZE)
    return out


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-10, 1e10]))
def test_full_grad_sums_normalised_channels_of_image_and_biases(seed, scale):
    """The scale of a gradient does not matter."""
    values, gradients = arrays_of_places(seed)
    scaled = {name: np.float32(scale) * gradient for name, gradient in gradients.items()}
    found = full_grad(values, scaled)
    assert found.shape == (2, *SIZE) and found.dtype == np.float32
    for b in range(2):
        one = [{name: array[b] for name, array in each.items()} for each in (values, gradients)]
        np.testing.assert_allclose(found[b], full_grad64(*one), atol=1e-4)


def test_full_grad_of_a_vmapped_network():
    """What it computes of a batch of one image has an axis more."""
    arrays = arrays_of_places(0)
    longer = [
        {name: array[:, None] if name == "bias0" else array for name, array in each.items()}
        for each in arrays
    ]
    np.testing.assert_array_equal(full_grad(*longer), full_grad(*arrays))


def test_full_grad_of_hand_made_channels():
    """One normalised channel of each sign, one that counts the same everywhere, one bias a unit."""
    values = {
        "image": jnp.array([[[-1.0, 2.0, 3.0], [5.0, 2.0, 0.0]]]),
        "bias0": jnp.array([[[2.0]], [[2.0]]]),
        "bias1": jnp.array([7.0]),
    }
    gradients = {
        "image": jnp.array([[[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]]]),
        "bias0": jnp.array([[[1.0]], [[-3.0]]]),
        "bias1": jnp.array([9.0]),
    }
    # Colours: |-1|, |-5| to 0, 1; 2, 2 to 0, 0; 3, 0 to 1, 0. The bias, 2 and 6 to 0 and 1, is of
    # the two rows of a layer that has but one column; the image has one row, at their middle.
    batch = [{name: array[None] for name, array in each.items()} for each in (values, gradients)]
    np.testing.assert_allclose(full_grad(*batch), [[[1.5, 1.5]]])


def test_zeros_give_zero_maps_with_finite_derivatives():
    zeros = {name: jnp.zeros((2, *shape)) for name, shape in PLACES.items()}
    np.testing.assert_array_equal(full_grad(zeros, zeros), np.zeros((2, *SIZE)))
    images = zeros["image"]
    for form in (largest_gradient, integrated_gradients):
        np.testing.assert_array_equal(form(images, images), np.zeros((2, *SIZE)))
        derivative = jax.jit(jax.grad(lambda *arrays, form=form: form(*arrays).sum(), (0, 1)))
        assert all(np.isfinite(found).all() for found in derivative(images, images))
