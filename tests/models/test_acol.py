"""ACoL against float64 loops written from the paper: erasing, logits, maps, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minmax_jax as mj
from minmax_jax.models import create_network
from minmax_jax.models.acol import AcolHead, erase
from minmax_jax.models.network import Taps
from tests.models.filling import filled

NUM_LABELS = 3


def normalised(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def pixel_scores(x, weights):
    """`(h w)`: each pixel's features times the weights of one label."""
    out = np.zeros(x.shape[:2])
    for row, column in np.ndindex(out.shape):
        out[row, column] = sum(x[row, column] * weights)
    return out


def erase_loop(x, kernel, bias):
    """One image `(h w k)` without what A's map of its most probable label shows."""
    labels = range(kernel.shape[1])
    logits = [pixel_scores(x, kernel[:, label]).mean() + bias[label] for label in labels]
    shown = normalised(pixel_scores(x, kernel[:, int(np.argmax(logits))])) > 0.6
    out = x.copy()
    for row, column in np.ndindex(shown.shape):
        if shown[row, column]:
            out[row, column] = 0
    return out


@pytest.fixture(scope="module")
def network():
    return create_network("scenes_resnet", num_labels=NUM_LABELS, head="acol")


@pytest.fixture(scope="module")
def variables(network):
    variables = filled(network)
    head = {
        "kernel": variables["params"]["head"]["kernel"],
        "bias": jnp.asarray([[0.3, -0.2, 0.1], [-0.5, 0.4, 0.2]]),
    }
    return variables | {"params": variables["params"] | {"head": head}}


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 64, 48, 3)), jnp.float32)


@pytest.fixture(scope="module")
def outputs(network, variables, images):
    logits, taps = jax.jit(network.apply)(variables, images)
    return np.asarray(logits, np.float64), {
        tap: np.asarray(value, np.float64) for tap, value in taps.items()
    }


@pytest.fixture(scope="module")
def halves(variables):
    """Kernels and biases of A and B, float64."""
    kernel, bias = (
        np.asarray(variables["params"]["head"][x], np.float64) for x in ("kernel", "bias")
    )
    return (kernel[:64], bias[0]), (kernel[64:], bias[1])


def test_fields(network, variables, outputs):
    assert network.taps == ("block1", "block2", "block3", "block4", "acol")
    assert network.head_apply is None
    assert variables["params"]["head"]["kernel"].shape == (128, NUM_LABELS)
    logits, taps = outputs
    assert set(taps) == set(network.taps)
    assert taps["acol"].shape == (3, 8, 6, 128)
    other = create_network("resnet50", num_labels=5, head="acol", attention="cbam")
    params = jax.eval_shape(other.init, jax.random.key(0))["params"]
    assert {name: value.shape for name, value in params["head"].items()} == {
        "kernel": (4096, 5),
        "bias": (2, 5),
    }


def test_logits_and_erased_features_against_loops(outputs, halves):
    logits, taps = outputs
    (kernel_a, bias_a), (kernel_b, bias_b) = halves
    number = 0
    for x, both, got in zip(taps["block4"], taps["acol"], logits, strict=True):
        erased = erase_loop(x, kernel_a, bias_a)
        np.testing.assert_array_equal(both, np.concatenate([x, erased], axis=-1))
        number += (erased != x).any(axis=-1).sum()
        want = [
            pixel_scores(x, kernel_a[:, label]).mean()
            + bias_a[label]
            + pixel_scores(erased, kernel_b[:, label]).mean()
            + bias_b[label]
            for label in range(NUM_LABELS)
        ]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert 3 <= number < 3 * 8 * 6  # something is erased in each image, not everything


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), level=st.floats(-2, 2))
def test_erasing_spares_the_least_evidence_and_takes_the_most(seed, level):
    rng = np.random.default_rng(seed)
    x, kernel = rng.standard_normal((2, 4, 3, 5)) + level, rng.standard_normal((5, 2))
    bias = rng.standard_normal(2)
    got = np.asarray(erase(jnp.float32(x), jnp.float32(kernel), jnp.float32(bias)))
    for image, erased in zip(np.float32(x), got, strict=True):
        kept = (erased == image).all(axis=-1)
        assert (erased[~kept] == 0).all()
        best = int(np.argmax(image.mean((0, 1)) @ kernel + bias))
        scores = image @ kernel[:, best]
        assert not kept.ravel()[scores.argmax()] and kept.ravel()[scores.argmin()]
        assert scores[kept].max() <= scores[~kept].min() + 1e-5


def test_nothing_is_erased_of_a_flat_map():
    x = jnp.full((1, 3, 3, 4), 2.0, jnp.bfloat16)
    got = erase(x, jnp.ones((4, 2)), jnp.zeros(2))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, x)


def test_each_classifier_learns_from_what_it_reads(network, variables, images, outputs, halves):
    """Gradients of both kernels and biases: features times (probability - target)."""
    target = np.eye(NUM_LABELS)[[0, 1, 1]]
    everything = frozenset(network.layers)  # normalises as in inference

    def loss(params):
        logits, _ = network.train_apply(
            variables | {"params": params}, images, key=jax.random.key(0), frozen=everything
        )
        assert logits.shape == (3, 2, NUM_LABELS)
        return -jnp.sum(jax.nn.log_softmax(logits) * target[:, None])

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    pooled = outputs[1]["acol"].mean((1, 2))
    for half, (kernel, bias) in enumerate(halves):
        features = pooled[:, 64 * half : 64 * (half + 1)]
        powers = np.exp(features @ kernel + bias)
        error = powers / powers.sum(axis=1, keepdims=True) - target
        got = {
            "kernel": gradients["head"]["kernel"][64 * half : 64 * (half + 1)],
            "bias": gradients["head"]["bias"][half],
        }
        np.testing.assert_allclose(got["kernel"], features.T @ error, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got["bias"], error.sum(axis=0), rtol=1e-3, atol=1e-4)
    for layer in network.layers:
        values = jax.tree.leaves(gradients[layer])
        assert all(np.isfinite(value).all() for value in values)
        assert any(np.abs(value).max() > 0 for value in values), layer


def test_dropout_drops_features_of_both_and_leaves_the_erasing():
    module = AcolHead(num_labels=1, dropout=0.5)
    x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3, 3, 2000)).astype(np.float32)
    kernel = np.full((4000, 1), 1 / 2000, np.float32)
    variables = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros((2, 1))}}

    def run(**options):
        tap = Taps(None)
        return module.apply(variables, x, tap=tap, **options), tap.activations["acol"]

    dropped, tap = run(train=True, rngs={"dropout": jax.random.key(0)})
    logits, same = run(train=False)
    np.testing.assert_array_equal(tap, same)
    assert dropped.shape == (2, 2, 1) and logits.shape == (2, 1)
    whole = np.asarray(tap).mean((1, 2)).reshape(2, 2, 2000).mean(2)
    np.testing.assert_allclose(logits[:, 0], whole.sum(1), rtol=1e-4)
    # Half is dropped and what is kept is doubled: near the whole, and never it.
    difference = np.abs(dropped[..., 0] - whole) / whole
    assert (difference > 1e-5).all() and (difference < 0.15).all()


def test_map_is_the_larger_of_both_halves(network, variables, images, outputs, halves):
    maps, _ = mj.explain(network, variables, images, method="acol_cam")
    assert maps.shape == (3, NUM_LABELS, 8, 6)
    sides = set()
    for image, label in np.ndindex(3, NUM_LABELS):
        both = outputs[1]["acol"][image]
        a, b = (
            normalised(np.maximum(pixel_scores(part, kernel[:, label]), 0))
            for part, (kernel, _) in zip((both[..., :64], both[..., 64:]), halves, strict=True)
        )
        np.testing.assert_allclose(maps[image, label], np.maximum(a, b), rtol=1e-4, atol=1e-4)
        sides |= {bool(side) for side in (a > b).ravel()}
    assert sides == {True, False}


def test_other_methods_explain_the_sum(network, variables, images, outputs, halves):
    """Linear after pooling at the last tap; before it, B's part counts where nothing is erased."""
    cam, _ = mj.explain(network, variables, images, method="cam")
    grad_cam, _ = mj.explain(network, variables, images, method="grad_cam")
    np.testing.assert_allclose(cam, grad_cam, rtol=1e-3, atol=1e-3)
    both = np.concatenate([kernel for kernel, _ in halves])
    np.testing.assert_allclose(
        cam[0, 1],
        np.maximum(pixel_scores(outputs[1]["acol"][0], both[:, 1]), 0),
        rtol=1e-3,
        atol=1e-3,
    )

    def logit(perturbation):
        return network.apply(variables, images, {"block4": perturbation})[0][:, 2].sum()

    features = outputs[1]["block4"]
    gradient = jax.jit(jax.grad(logit))(jnp.zeros(features.shape, jnp.float32))
    kept = (outputs[1]["acol"][..., 64:] == features).all(axis=-1)
    (kernel_a, _), (kernel_b, _) = halves
    want = (kernel_a[:, 2] + kept[..., None] * kernel_b[:, 2]) / 48
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-5)


def test_other_heads_have_no_such_map():
    network = create_network("scenes_resnet", num_labels=2)
    with pytest.raises(ValueError, match="acol_cam needs the head 'acol'"):
        mj.make_explain_fn(network, "acol_cam")
