"""Maps within a loss: differentiated with respect to the weights, vmapped, in a training step."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import data
from minmax_jax.cams import saliency
from tests import toys

EXAMPLE = pathlib.Path(__file__).parents[1] / "docs" / "examples" / "right_reasons.py"
LINEAR = ("cam", "minmax_cam", "d_minmax_cam", "ablation_cam", "eigen_cam")
GRADIENT = (
    "grad_cam",
    "grad_cam_plus_plus",
    "minmax_grad_cam",
    "d_minmax_grad_cam",
    "hires_cam",
    "xgrad_cam",
    "layer_cam",
)
PIXELS = ("gradients", "integrated_gradients", "full_grad")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("right_reasons", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def energy(maps):
    """A smooth function of all maps that weighs pixels differently."""
    _, _, h, w = maps.shape
    places = jnp.linspace(0.5, 1.5, h * w).reshape(h, w)
    return (maps * places[None, None]).sum()


@pytest.mark.parametrize("method", [*LINEAR, *GRADIENT, *PIXELS])
def test_derivatives_of_maps_agree_with_finite_differences(method):
    """At the last tap of a head that is not linear (or is, for some), in float64.

    The first image is blank, with empty maps; the second has no label present.
    """
    with jax.enable_x64(True):
        network = toys.toy_network() if method in LINEAR else toys.bent_network()
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), toys.toy_variables())
        images = jnp.asarray(toys.toy_images(4), jnp.float64)
        present = jnp.asarray([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)
        explain_fn = mj.make_explain_fn(network, method)

        @jax.jit
        def loss(variables):
            maps, _ = explain_fn(variables, images, present)
            return energy(maps) + energy(mj.normalize_maps(maps))

        gradients = jax.jit(jax.grad(loss))(variables)
        rng = np.random.default_rng(3)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), variables)
        step = 1e-6

        def moved(factor):
            return jax.tree.map(lambda x, d: x + factor * step * d, variables, direction)

        difference = (loss(moved(1)) - loss(moved(-1))) / (2 * step)
        slope = sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
        )
        assert np.isfinite(slope) and abs(slope) > 1e-3
        np.testing.assert_allclose(slope, difference, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("relevance_cam", "maps by the rules guided and relevance have no deriv"),
        ("guided_backpropagation", "maps by the rules guided and relevance have no deriv"),
        (
            dataclasses.replace(mj.METHODS["guided_backpropagation"], inputs=saliency.noisy(2)),
            "maps by the rules guided and relevance have no deriv",
        ),
        ("score_cam", "Reverse-mode differentiation does not work"),
        ("ablation_cam", "Reverse-mode differentiation does not work"),
    ],
)
def test_what_has_no_derivative_says_so(method, message):
    explain_fn = mj.make_explain_fn(toys.bent_network(), method)
    images = toys.toy_images(2)

    def loss(variables):
        return explain_fn(variables, images)[0].sum()

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jax.grad(loss), toys.toy_variables())


def test_maps_of_several_networks_at_once():
    """An ensemble: `explain` under vmap over the weights."""
    variables = [toys.toy_variables(seed=seed) for seed in (12, 13)]
    images = toys.toy_images(3)
    explain_fn = mj.make_explain_fn(toys.toy_network(), "minmax_grad_cam")
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *variables)
    maps, logits = jax.vmap(explain_fn, in_axes=(0, None))(stacked, images)
    for index, own in enumerate(variables):
        truth, truth_logits = explain_fn(own, images)
        np.testing.assert_allclose(maps[index], truth, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(logits[index], truth_logits, rtol=1e-5, atol=1e-5)


def test_share_outside_the_objects(example):
    """By hand: maps of 2x2 cells over a mask of 4x4 pixels, an empty map, a label not annotated."""
    masks = np.zeros((1, 4, 4), int)
    masks[0, :2, :2] = 1  # one cell is label 0
    masks[0, 2, 2] = 2  # a quarter of another is label 1
    maps = np.zeros((1, 4, 2, 2), np.float32)
    maps[0, 0] = [[3, 1], [0, 0]]  # 1 of 4 lies outside
    maps[0, 1] = [[0, 0], [0, 2]]  # three quarters of the cell do
    maps[0, 3] = 7
    labels = np.array([[True, True, True, False]])
    share = example.outside_share(maps, masks, labels)
    np.testing.assert_allclose(share, (1 / 4 + 3 / 4 + 0) / 3, rtol=1e-6)


def test_the_example_moves_maps_onto_their_objects(example):
    """A few steps on four scenes, with maps that are gradients themselves."""
    method = "layer_cam"
    network = mj.create_network("scenes_resnet", num_labels=10)
    variables = network.init(jax.random.key(0))
    source = data.create_source("scenes", "train", size=4)
    batches = data.batches(
        source,
        batch_size=4,
        image_size=96,
        preprocess=network.preprocess,
        seed=0,
        epochs=None,
        drop_remainder=True,
    )
    batch = next(iter(batches))
    explain_fn = mj.make_explain_fn(network, method)

    def share(variables):
        maps, _ = explain_fn(variables, batch["image"], batch["labels"])
        return float(example.outside_share(maps, batch["mask"], batch["labels"]))

    after = {
        weight: share(
            example.fine_tune(
                network,
                variables,
                batches,
                method=method,
                weight=weight,
                steps=8,
                learning_rate=0.05,
            )
        )
        for weight in (0.0, 3.0)
    }
    assert all(np.isfinite(list(after.values())))
    assert after[3.0] < after[0.0] and after[3.0] < share(variables)
