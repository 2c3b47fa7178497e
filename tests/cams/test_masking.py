from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.cams import masking
from tests import reference

SIZE = (6, 8)
HEAD = np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32)
FLAT = [(0, 1), (1, 0), (1, 3)]  # (image, channel)
NUM_LIVE = 2 * 5 - len(FLAT)


def network(images):
    """Logits of a small function that is not linear in the image."""
    return jnp.tanh(images).mean(axis=(1, 2)) @ HEAD * 5


def logits64(image):
    return np.tanh(image).mean(axis=(0, 1)) @ HEAD.astype(float) * 5


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    activations = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    for image, channel in FLAT:
        activations[image, ..., channel] = 1.5 * channel  # 0 or not
    return images, activations


class Recorder:
    """A network that remembers every image which it sees when the program runs."""

    def __init__(self):
        self.chunks = []

    def __call__(self, images):
        jax.debug.callback(lambda seen: self.chunks.append(np.asarray(seen)), images)
        return jax.nn.sigmoid(network(images))


recorder = Recorder()


@functools.cache
def compiled(scores, chunk_size):
    return jax.jit(
        lambda images, activations, valid: masking.score_cam_weights(
            scores, images, activations, valid=valid, chunk_size=chunk_size
        )
    )


def run(images, activations, *, chunk_size, valid=(True, True), scores=recorder):
    recorder.chunks.clear()
    weights = np.asarray(compiled(scores, chunk_size)(images, activations, np.array(valid)))
    jax.effects_barrier()
    return weights


@pytest.fixture(scope="module")
def expected(example):
    images, activations = (array.astype(float) for array in example)
    return np.stack(
        [
            reference.score_cam_weights(logits64, *pair)
            for pair in zip(images, activations, strict=True)
        ]
    )


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_weights_and_forward_passes(example, expected, chunk_size):
    """The chunk size changes nothing; each live mask passes once, for all labels together."""
    weights = run(*example, chunk_size=chunk_size)
    assert weights.shape == (2, 5, 4) and weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, atol=2e-6)

    assert [len(chunk) for chunk in recorder.chunks] == [chunk_size] * -(-NUM_LIVE // chunk_size)
    live = np.concatenate(recorder.chunks)[:NUM_LIVE]  # what follows fills the last chunk
    masked = [
        image * mask[..., None]
        for image, maps in zip(*example, strict=True)
        for mask in reference.score_cam_masks(maps, SIZE).values()
    ]
    assert len(masked) == NUM_LIVE
    matches = [[np.allclose(seen, wanted, atol=1e-5) for wanted in masked] for seen in live]
    np.testing.assert_array_equal(np.sum(matches, axis=0), 1)
    np.testing.assert_array_equal(np.sum(matches, axis=1), 1)


def test_flat_channels_have_no_weight(example):
    weights = run(*example, chunk_size=4)
    for image in range(2):
        for channel in range(5):
            assert (weights[image, channel] == 0).all() == ((image, channel) in FLAT)


def test_images_that_are_not_valid_are_not_forwarded(example, expected):
    weights = run(*example, chunk_size=1, valid=(False, True))
    np.testing.assert_array_equal(weights[0], np.zeros((5, 4)))
    np.testing.assert_allclose(weights[1], expected[1], atol=2e-6)
    assert len(recorder.chunks) == 3  # of five channels two are flat


def test_nothing_live_forwards_nothing(example):
    weights = run(example[0], np.ones((2, 3, 4, 5), np.float32), chunk_size=4)
    np.testing.assert_array_equal(weights, np.zeros((2, 5, 4)))
    assert recorder.chunks == []


def test_what_fills_a_chunk_up_does_no_harm(example, expected):
    """A network whose score of a blank image is not a number: fillers are forwarded, not used."""

    def scores(masked):
        blank = (masked == 0).all(axis=(1, 2, 3))
        return jnp.where(blank[:, None], jnp.nan, jax.nn.sigmoid(network(masked)))

    weights = run(*example, chunk_size=10, scores=scores)
    np.testing.assert_allclose(weights, expected, atol=2e-6)


def test_memory_does_not_grow_with_the_number_of_channels():
    """No array of the program holds all masks at the size of the image."""
    shapes = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def temporary(channels):
        fn = jax.jit(
            lambda images, activations: masking.score_cam_weights(
                lambda masked: jax.nn.sigmoid(network(masked)), images, activations, chunk_size=4
            )
        )
        activations = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
        return fn.lower(shapes, activations).compile().memory_analysis().temp_size_in_bytes

    all_masks = 4 * 64 * 64 * (512 - 16)
    assert temporary(512) - temporary(16) < all_masks / 20


def test_derivative_at_zero_is_finite():
    """Forward mode: a loop whose end depends on the data has no reverse mode."""

    def weights(images, activations):
        return masking.score_cam_weights(
            lambda masked: jax.nn.sigmoid(network(masked)), images, activations, chunk_size=4
        )

    zeros = jnp.zeros((1, *SIZE, 3)), jnp.zeros((1, 3, 4, 5))
    ones = jax.tree.map(jnp.ones_like, zeros)
    value, tangent = jax.jit(lambda x, t: jax.jvp(weights, x, t))(zeros, ones)
    assert np.isfinite(value).all() and np.isfinite(tangent).all()
