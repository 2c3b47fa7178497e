from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams import scores, weights
from tests import reference

SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)
SHAPE = (3, 4, 5)
NUM_LABELS = 3


def _all_labels(activations, kernel, present):
    """Every kernel method, for every label of one example."""

    def of_label(one, minmax, three):
        def times_kernel(row):
            return jnp.dot(kernel, row, precision="highest")

        return {
            "cam": weights.cam(activations, times_kernel(one)),
            "minmax_cam": weights.cam(activations, times_kernel(minmax)),
            "d_minmax_cam": weights.d_minmax_cam(activations, jax.vmap(times_kernel)(three)),
        }

    labels = jnp.arange(NUM_LABELS)
    made = (scores.one_label, scores.minmax, scores.decomposed)
    return jax.vmap(of_label)(*(score(present, labels) for score in made))


all_labels = jax.jit(jax.vmap(_all_labels, in_axes=(0, None, 0)))


def _example(seed, positive=True):
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=(2, *SHAPE))
    activations = np.abs(activations) if positive else activations
    kernel = rng.normal(size=(SHAPE[-1], NUM_LABELS))
    return activations.astype(np.float32), kernel.astype(np.float32)


@SETTINGS
@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_maps_of_equation_1_7_and_9(present, seed, positive):
    """Negative activations (swish networks) get the same sums."""
    activations, kernel = _example(seed, positive)
    maps = all_labels(activations, kernel, np.array(present))
    for name, make_weights in reference.KERNEL_WEIGHTS.items():
        assert maps[name].shape == (2, NUM_LABELS, *SHAPE[:2])
        assert maps[name].dtype == np.float32
        for b in range(2):
            for label in range(NUM_LABELS):
                channel_weights = make_weights(kernel.astype(float), present[b], label)
                expected = reference.weighted_map(activations[b].astype(float), channel_weights)
                np.testing.assert_allclose(maps[name][b, label], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("label", range(NUM_LABELS))
def test_with_one_present_label_all_are_cam_exactly(label):
    """Numbers of few bits, so that no sum rounds, in whatever order XLA makes it."""
    activations, kernel = (np.round(8 * array) / 8 for array in _example(3))
    present = np.zeros((2, NUM_LABELS), bool)
    present[0, label] = True
    maps = all_labels(activations, kernel, present)
    assert np.asarray(maps["cam"][0, label]).max() > 0
    np.testing.assert_array_equal(maps["minmax_cam"][0, label], maps["cam"][0, label])
    np.testing.assert_array_equal(maps["d_minmax_cam"][0, label], maps["cam"][0, label])
    np.testing.assert_array_equal(maps["minmax_cam"][1], maps["cam"][1])  # nothing present


def test_gradients_at_zero_are_finite():
    def total(activations, kernel, present):
        return sum(maps.sum() for maps in _all_labels(activations, kernel, present).values())

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    for present in ([True, True, False], [False, False, False]):
        arrays = jnp.zeros(SHAPE), jnp.zeros((SHAPE[-1], NUM_LABELS)), np.array(present)
        assert all(np.isfinite(found).all() for found in gradient(*arrays))
