"""Regularised 1x1 convolutions against numpy, and against the plain network with their kernels."""

from __future__ import annotations

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.models import create_network, from_module
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE
from minmax_jax.models.regularized import use_regularized
from tests.models.test_network import Small

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/regulariser.md"
SHORTCUTS = ("block2_shortcut_conv", "block3_shortcut_conv")


def used(kernel):
    """Each weight times its share among the outputs of its input, times their number."""
    kernel = np.asarray(kernel, np.float64)
    out = np.empty(kernel.shape)
    for i, weights in enumerate(kernel[0, 0]):
        out[0, 0, i] = len(weights) * weights * np.exp(weights) / np.exp(weights).sum()
    return out


def small(**options):
    return from_module(Small(), name="small", image_size=8, preprocess=MINUS_ONE_TO_ONE, **options)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 10))
def test_kernels_used_against_loops(seed, scale):
    kernel = scale * np.random.default_rng(seed).standard_normal((1, 1, 3, 4))
    params = {"a": {"kernel": jnp.float32(kernel), "bias": 3}, "b": {"kernel": 4}}
    got = use_regularized({"params": params, "batch_stats": 5}, ("a",))
    np.testing.assert_allclose(got["params"]["a"].pop("kernel"), used(kernel), rtol=1e-4, atol=1e-5)
    assert got == {"params": {"a": {"bias": 3}, "b": {"kernel": 4}}, "batch_stats": 5}
    np.testing.assert_array_equal(params["a"]["kernel"], jnp.float32(kernel))


def test_a_fresh_layer_keeps_its_size():
    network = create_network("scenes_resnet", num_labels=2)
    shape = jax.eval_shape(network.init, jax.random.key(0))["params"][SHORTCUTS[1]]["kernel"].shape
    initial = jax.nn.initializers.he_normal()(jax.random.key(0), shape)
    kernel, same = (
        use_regularized({"params": {"layer": {"kernel": kernel}}}, ("layer",))["params"]["layer"]
        for kernel in (initial, jnp.full(shape, 0.3))
    )
    assert np.linalg.norm(kernel["kernel"]) == pytest.approx(np.linalg.norm(initial), rel=0.15)
    np.testing.assert_allclose(same["kernel"], 0.3, rtol=1e-5)


def test_network_computes_with_the_kernels_used():
    plain, network = small(), small(regularized=("ant",))
    variables = plain.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, network.init(jax.random.key(0)), variables)
    assert network.layers == plain.layers
    params = variables["params"]
    kernel = jnp.float32(used(params["ant"]["kernel"]))
    exchanged = {**variables, "params": {**params, "ant": {"kernel": kernel}}}
    images = jnp.float32(np.random.default_rng(0).standard_normal((2, 8, 8, 3)))
    perturbations = {"early": jnp.ones((2, 4, 4, 4))}
    training = {"key": jax.random.key(1), "frozen": frozenset({"yak"})}

    @jax.jit
    def both(variables, exchanged):
        return [
            (
                run.apply(own, images, perturbations),
                run.train_apply(own, images, **training),
                plain.apply(own, images, perturbations)[0],
            )
            for run, own in ((network, variables), (plain, exchanged))
        ]

    (*got, unlike), (*want, _) = both(variables, exchanged)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), got, want)
    assert np.abs(got[0][0] - unlike).max() > 1e-3


def test_gradient_of_the_parameter_is_the_finite_difference():
    network = small(regularized=["ant"])
    variables = network.init(jax.random.key(0))
    images = jnp.float32(np.random.default_rng(0).standard_normal((2, 8, 8, 3)))
    kernel = variables["params"]["ant"]["kernel"]
    direction = jnp.float32(np.random.default_rng(1).standard_normal(kernel.shape))

    @jax.jit
    @jax.value_and_grad
    def total(kernel):
        params = {**variables["params"], "ant": {"kernel": kernel}}
        return network.apply({**variables, "params": params}, images)[0].sum()

    step = 1e-2
    above, below = (total(kernel + sign * step * direction)[0] for sign in (1, -1))
    numeric = (above - below) / (2 * step)
    slope = jnp.vdot(total(kernel)[1], direction)
    assert slope == pytest.approx(float(numeric), rel=5e-3) and abs(numeric) > 1e-3


def test_the_documented_lines_run():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    arrays = jax.eval_shape(names["network"].init, jax.random.key(0))["params"]["head"]
    assert set(arrays) == {"kernel", "bias", "alpha"}


def test_networks_by_name():
    network = create_network("scenes_resnet", num_labels=2, head="kur", regularized=SHORTCUTS)
    assert network.layers == create_network("scenes_resnet", num_labels=2).layers
    with pytest.raises(ValueError) as error:
        create_network("scenes_resnet", num_labels=2, regularized=("block2_shortcut", "stem_conv"))
    assert str(error.value) == (
        "regularized names ['block2_shortcut', 'stem_conv'], which are no 1x1 convolutions of "
        f"scenes_resnet; it has {list(SHORTCUTS)}."
    )
    for layer in ("head", "block1_1_bn", "block1_1_conv"):
        with pytest.raises(ValueError, match=rf"names \['{layer}'\], which are no 1x1"):
            create_network("scenes_resnet", num_labels=2, regularized=(layer,))
    with pytest.raises(ValueError, match=r"several names of layers, got 'block2_shortcut_conv'"):
        create_network("scenes_resnet", num_labels=2, regularized=SHORTCUTS[0])
    with pytest.raises(ValueError, match=r"of vgg16; it has \[\]"):
        create_network("vgg16", num_labels=2, regularized=("block1_conv1",))
