from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import gradients, maps, scores
from tests import reference

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)
SHAPE = (3, 4, 5)
NUM_LABELS = 3


def _all_labels(activations, logit_gradients, present):
    """Every gradient method for every label of one example, from the gradients of all logits."""

    def of_label(one, minmax, three):
        def pullback(row):  # what a pullback does: it is linear in the cotangent
            return jnp.einsum("c,chwk->hwk", row, logit_gradients, precision="highest")

        return {
            "grad_cam": gradients.grad_cam(activations, pullback(one)),
            "minmax_grad_cam": gradients.grad_cam(activations, pullback(minmax)),
            "d_minmax_grad_cam": gradients.d_minmax_grad_cam(
                activations, jax.vmap(pullback)(three)
            ),
            "grad_cam_plus_plus": gradients.grad_cam_plus_plus(activations, pullback(one)),
        }

    labels = jnp.arange(NUM_LABELS)
    made = (scores.one_label, scores.minmax, scores.decomposed)
    return jax.vmap(of_label)(*(score(present, labels) for score in made))


all_labels = jax.jit(jax.vmap(_all_labels))
plus_plus = jax.jit(jax.vmap(gradients.grad_cam_plus_plus))
normalized = jax.jit(maps.normalize_maps)


def _example(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    activations = np.abs(rng.normal(size=(2, *SHAPE)))
    logit_gradients = scale * rng.normal(size=(2, NUM_LABELS, *SHAPE))
    return activations.astype(np.float32), logit_gradients.astype(np.float32)


@SETTINGS
@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2),
    st.integers(0, 2**32 - 1),
)
def test_maps_of_equations_2_4_to_6_and_8(present, seed):
    activations, logit_gradients = _example(seed)
    out = all_labels(activations, logit_gradients, np.array(present))
    for name, make_weights in reference.GRADIENT_WEIGHTS.items():
        assert out[name].shape == (2, NUM_LABELS, *SHAPE[:2])
        for b in range(2):
            for label in range(NUM_LABELS):
                weights = make_weights(logit_gradients[b].astype(float), present[b], label)
                expected = reference.weighted_map(activations[b].astype(float), weights)
                np.testing.assert_allclose(out[name][b, label], expected, rtol=2e-5, atol=2e-5)


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-3, 1e-15]))
def test_grad_cam_plus_plus_and_its_factor_exp_s(seed, scale):
    """Also where g^3 underflows in float32, as gradients behind a pooling layer may."""
    activations, logit_gradients = _example(seed, scale)
    present = np.ones((2, NUM_LABELS), bool)
    out = all_labels(activations, logit_gradients, present)["grad_cam_plus_plus"]
    for b in range(2):
        for label in range(NUM_LABELS):
            arrays = activations[b].astype(float), logit_gradients[b].astype(float), label
            weights = reference.grad_cam_plus_plus_weights(*arrays, 0.0)
            raw = reference.weighted_map(arrays[0], weights)
            np.testing.assert_allclose(out[b, label], raw, rtol=2e-5)
            assert raw.max() > raw.min()
            for score in (-5.0, 30.0):
                weights = reference.grad_cam_plus_plus_weights(*arrays, score)
                expected = reference.normalize(reference.weighted_map(arrays[0], weights))
                np.testing.assert_allclose(normalized(out[b, label]), expected, atol=1e-4)


def test_grad_cam_plus_plus_keeps_negative_denominators():
    """Negative activations (swish networks): the denominator is used as it is, 0 gives 0."""
    activations = np.array([[[-2.0, -1.0], [-2.0, 3.0]]], np.float32)  # sums over space -4 and 2
    found = []
    for gradient in (0.25, 0.5, 1.0):  # 2 + (sum A) g of channel 0: 1, 0, -2
        g = np.full((1, 2, 2), gradient, np.float32)
        weights = reference.grad_cam_plus_plus_weights(activations, g[None], 0, 0.0)
        found.append(weights[0])
        np.testing.assert_allclose(
            plus_plus(activations[None], g[None])[0],
            reference.weighted_map(activations, weights),
            rtol=1e-6,
        )
    np.testing.assert_allclose(found, [0.5, 0.0, -1.0])


@pytest.mark.parametrize("label", range(NUM_LABELS))
def test_with_one_present_label_all_are_grad_cam_exactly(label):
    """Exactly: with numbers of few bits no sum rounds, in whatever order XLA makes it."""
    activations, logit_gradients = (np.round(8 * array) / 8 for array in _example(5))
    present = np.zeros((2, NUM_LABELS), bool)
    present[0, label] = True
    out = all_labels(activations, logit_gradients, present)
    assert np.asarray(out["grad_cam"][0, label]).max() > 0
    for name in ("minmax_grad_cam", "d_minmax_grad_cam"):
        np.testing.assert_array_equal(out[name][0, label], out["grad_cam"][0, label])
    np.testing.assert_array_equal(out["minmax_grad_cam"][1], out["grad_cam"][1])


def test_zero_gradients_and_activations_give_zero_maps():
    zeros = np.zeros((2, *SHAPE), np.float32), np.zeros((2, NUM_LABELS, *SHAPE), np.float32)
    for present in (np.ones((2, NUM_LABELS), bool), np.zeros((2, NUM_LABELS), bool)):
        for found in all_labels(*zeros, present).values():
            np.testing.assert_array_equal(found, np.zeros((2, NUM_LABELS, *SHAPE[:2])))


def test_gradients_at_zero_are_finite():
    def total(activations, logit_gradients, present):
        found = _all_labels(activations, logit_gradients, present)
        return sum(maps.sum() for maps in found.values())

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    for present in ([True, True, False], [False, False, False]):
        arrays = jnp.zeros(SHAPE), jnp.zeros((NUM_LABELS, *SHAPE)), np.array(present)
        assert all(np.isfinite(found).all() for found in gradient(*arrays))


def hires_cam64(activations, gradients):
    height, width, channels = activations.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            products = [activations[i, j, k] * gradients[i, j, k] for k in range(channels)]
            out[i, j] = reference.relu(sum(products))
    return out


def layer_cam64(activations, gradients):
    return hires_cam64(activations, np.vectorize(reference.relu)(gradients))


def xgrad_cam64(activations, gradients):
    weights = []
    for channel, gradient in zip(activations.T, gradients.T, strict=True):
        total = sum(channel.flat)
        products = [a * g for a, g in zip(channel.flat, gradient.flat, strict=True)]
        weights.append(sum(products) / total if total != 0 else 0.0)
    return reference.weighted_map(activations, weights)


def relevance_cam64(activations, relevance):
    return reference.weighted_map(activations, [sum(channel.flat) for channel in relevance.T])


FORMS = {
    "hires_cam": hires_cam64,
    "xgrad_cam": xgrad_cam64,
    "layer_cam": layer_cam64,
    "relevance_cam": relevance_cam64,
}
compiled_forms = {name: jax.jit(jax.vmap(getattr(gradients, name))) for name in FORMS}


def check_forms(activations, gradient, expected=None):
    """All four forms of one example against the loops, and against maps known beforehand."""
    activations, gradient = (np.asarray(x, np.float32) for x in (activations, gradient))
    for name, form in FORMS.items():
        found = np.asarray(compiled_forms[name](activations[None], gradient[None]))[0]
        assert found.shape == activations.shape[:2] and found.dtype == np.float32
        wanted = form(activations.astype(float), gradient.astype(float))
        atol = 1e-5 * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=atol)
        if expected is not None:
            np.testing.assert_allclose(found, expected[name])


@SETTINGS
@given(
    st.sampled_from([SHAPE, (1, 1, 4), (2, 3, 1)]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_the_wider_family_is_what_its_equations_say(shape, seed, rectified):
    """Of one position and one channel too, and with some channels that are 0."""
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=shape)
    if rectified:
        activations = np.maximum(activations, 0) * (rng.uniform(size=shape[-1]) < 0.7)
    else:  # a weight of XGrad-CAM divides by the sum
        activations += np.sign(activations.sum(axis=(0, 1)))
    check_forms(activations, rng.normal(size=shape))


def test_what_tells_the_wider_family_apart():
    """Of one channel, two positions that count for and against the label."""
    check_forms(
        [[[2.0], [2.0]]],
        [[[3.0], [-1.0]]],
        {
            "hires_cam": [[6, 0]],
            "xgrad_cam": [[2, 2]],  # w = (6 - 2) / 4
            "layer_cam": [[6, 0]],
            "relevance_cam": [[4, 4]],  # w = 3 - 1
        },
    )
    check_forms(  # the second channel counts against the label everywhere
        [[[2.0, 1.0], [2.0, 3.0]]],
        [[[1.0, -1.0], [1.0, -1.0]]],
        {
            "hires_cam": [[1, 0]],
            "xgrad_cam": [[1, 0]],
            "layer_cam": [[2, 2]],
            "relevance_cam": [[2, 0]],
        },
    )


def test_a_channel_that_sums_to_zero_has_no_weight_in_xgrad_cam():
    check_forms(
        [[[1.0, 1.0], [-1.0, 1.0]]],
        [[[5.0, 1.0], [0.0, 1.0]]],
        {
            "hires_cam": [[6, 1]],
            "xgrad_cam": [[1, 1]],
            "layer_cam": [[6, 1]],
            "relevance_cam": [[7, 0]],
        },
    )


@pytest.mark.parametrize("name", FORMS)
def test_zeros_give_zero_maps_with_finite_derivatives(name):
    form, zeros = getattr(gradients, name), jnp.zeros((2, *SHAPE))
    np.testing.assert_array_equal(compiled_forms[name](zeros, zeros), np.zeros((2, *SHAPE[:2])))
    derivative = jax.jit(jax.grad(lambda *arrays: form(*arrays).sum(), argnums=(0, 1)))
    assert all(np.isfinite(found).all() for found in derivative(zeros[0], zeros[0]))
