from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minmax_jax as mj
from minmax_jax.cams import ablation, scores
from tests import toys

SETTINGS = settings(max_examples=10, deadline=None, derandomize=True)
SIZE = (4, 6)
HEAD = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)
ZERO = [(0, 1), (0, 4), (1, 0), (1, 3)]  # (image, channel)
NUM_LIVE = 2 * 5 - len(ZERO)


@pytest.fixture(scope="module")
def example():
    """The first image has no green, the second no red."""
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    images[0, ..., 1] = images[1, ..., 0] = 0
    rows = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    return images, rows


def activations_of(images):
    """`(b 2 3 5)`: the colours of 2x2 pixels, red times blue and green times blue."""
    red, green, blue = jnp.moveaxis(images.reshape(-1, 2, 2, 3, 2, 3).mean(axis=(2, 4)), -1, 0)
    return jnp.stack([red, green, blue, red * blue, green * blue], axis=-1)


def logits_of(images, perturbations):
    """Not linear in the activations."""
    return jnp.tanh(activations_of(images) + perturbations).mean(axis=(1, 2)) @ HEAD


class Recorder:
    """The same network, which remembers all perturbations when the program runs."""

    def __init__(self):
        self.chunks = []

    def __call__(self, images, perturbations):
        jax.debug.callback(lambda seen: self.chunks.append(np.asarray(seen)), perturbations)
        return logits_of(images, perturbations)


recorder = Recorder()


@functools.cache
def compiled(function, chunk_size):
    def weights(images, rows, valid):
        activations = activations_of(images)
        logits = logits_of(images, 0)
        return ablation.ablation_weights(
            function, images, activations, logits, rows, valid=valid, chunk_size=chunk_size
        )

    return jax.jit(weights)


def run(images, rows, *, chunk_size=4, valid=(True, True), function=recorder):
    recorder.chunks.clear()
    weights = np.asarray(compiled(function, chunk_size)(images, rows, np.array(valid)))
    jax.effects_barrier()
    return weights


def weights64(images, rows, bend=np.tanh):
    """Every channel set to 0 by hand, one forward pass of one image each."""
    every = np.asarray(activations_of(images)).astype(float)
    out = np.zeros((len(images), rows.shape[1], 5))
    for image, activations in enumerate(every):
        whole = bend(activations).mean(axis=(0, 1)) @ HEAD.astype(float)
        for channel in range(5):
            without = activations.copy()
            without[..., channel] = 0
            left = bend(without).mean(axis=(0, 1)) @ HEAD.astype(float)
            for n, row in enumerate(rows[image].astype(float)):
                out[image, n, channel] = sum(row * (whole - left))
    return out


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_weights_and_forward_passes(example, chunk_size):
    """The chunk size changes nothing; each live channel is taken away once, for all scores."""
    images, rows = example
    weights = run(images, rows, chunk_size=chunk_size)
    assert weights.shape == (2, 3, 5) and weights.dtype == np.float32
    np.testing.assert_allclose(weights, weights64(images, rows), atol=2e-6)

    assert [len(chunk) for chunk in recorder.chunks] == [chunk_size] * -(-NUM_LIVE // chunk_size)
    live = np.concatenate(recorder.chunks)[:NUM_LIVE]  # what follows fills the last chunk
    activations = np.asarray(activations_of(images))
    for seen in live:
        channels = np.flatnonzero((seen != 0).any(axis=(0, 1)))
        assert len(channels) == 1
        there = -activations[..., channels[0]]
        assert sum(np.allclose(seen[..., channels[0]], one, atol=1e-6) for one in there) == 1


def test_channels_that_are_zero_have_no_weight(example):
    weights = run(*example)
    for image in range(2):
        for channel in range(5):
            assert (weights[image, :, channel] == 0).all() == ((image, channel) in ZERO)


def test_images_that_are_not_valid_are_not_forwarded(example):
    weights = run(*example, chunk_size=1, valid=(False, True))
    np.testing.assert_array_equal(weights[0], np.zeros((3, 5)))
    np.testing.assert_allclose(weights[1], weights64(*example)[1], atol=2e-6)
    assert len(recorder.chunks) == 3  # of five channels two are 0


def test_nothing_live_forwards_nothing(example):
    weights = run(np.zeros_like(example[0]), example[1])
    np.testing.assert_array_equal(weights, np.zeros((2, 3, 5)))
    assert recorder.chunks == []


def not_a_number_where_nothing_is_taken_away(images, perturbations):
    nothing = (perturbations == 0).all(axis=(1, 2, 3))
    return jnp.where(nothing[:, None], jnp.nan, logits_of(images, perturbations))


def test_what_fills_a_chunk_up_does_no_harm(example):
    """Channels that are 0 are forwarded to fill the chunk, and not used."""
    weights = run(*example, chunk_size=10, function=not_a_number_where_nothing_is_taken_away)
    np.testing.assert_allclose(weights, weights64(*example), atol=2e-6)


@jax.jit
def linear_both_ways(images, rows):
    def linear(images, perturbations):
        return (activations_of(images) + perturbations).mean(axis=(1, 2)) @ HEAD

    activations, logits = activations_of(images), linear(images, 0)
    channel_weights = jnp.einsum("kc,b...c->b...k", HEAD, rows)
    return (
        ablation.ablation_weights(linear, images, activations, logits, rows, chunk_size=4),
        ablation.linear_ablation_weights(activations, channel_weights),
    )


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_a_linear_head_needs_no_forward_pass(seed):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    rows = rng.normal(size=(2, 3, 4)).astype(np.float32)
    expected = weights64(images, rows, bend=lambda x: x)
    for found in linear_both_ways(images, rows):
        assert found.shape == (2, 3, 5)
        np.testing.assert_allclose(found, expected, atol=5e-6)


def test_decomposed_scores_have_three_weights_a_label(example):
    """As many labels as images, so that one cannot pass for the other."""
    images, _ = example
    rows = np.random.default_rng(2).normal(size=(2, 2, 3, 4)).astype(np.float32)
    expected = weights64(images, rows.reshape(2, 6, 4), bend=lambda x: x).reshape(2, 2, 3, 5)
    for found in linear_both_ways(images, rows):
        np.testing.assert_allclose(found, expected, atol=5e-6)


def test_memory_does_not_grow_with_the_square_of_the_labels():
    """Rows of all labels are not held once for each of a chunk's images."""
    shapes = np.zeros((1, *SIZE, 3), np.float32), np.zeros((1, 2, 2, 8), np.float32)

    def temporary(c):
        def logits_of(images, perturbations):
            mean = (images.mean() + perturbations).mean(axis=(1, 2, 3))
            return jnp.broadcast_to(mean[:, None], (len(mean), c))

        ablated = jax.jit(
            lambda *arrays: ablation.ablation_weights(logits_of, *arrays, chunk_size=8)
        )
        arrays = np.zeros((1, c), np.float32), np.zeros((1, c, c), np.float32)
        return ablated.lower(*shapes, *arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary(512) < 8 * 512 * 512 * 4 / 2


def test_a_channel_that_nobody_reads_has_no_weight_in_bfloat16():
    """With and without it the network computes the same, in the same precision."""
    variables = toys.toy_variables()
    variables["second"][1:] = 0  # only the first channel is read

    def apply(variables, images, perturbations=None):
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (variables, images))
        return toys.toy_apply(*narrow, perturbations)

    method = mj.Method("ablation", scores.one_label, lambda activations, weights: weights[None])
    weights, _ = mj.explain(
        toys.toy_network(apply=apply), variables, toys.toy_images(2), method=method, tap="early"
    )
    np.testing.assert_array_equal(weights[..., 1:], np.zeros_like(weights[..., 1:]))
    assert np.abs(weights[1, ..., 0]).min() > 0
