"""The `Network` contract, on a small smooth module whose layers are not in alphabetic order."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models.heads import Head
from minmax_jax.models.layers import Conv, batch_norm
from minmax_jax.models.network import Network, Taps, from_module
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE
from tests.models.filling import filled


class Small(nn.Module):
    num_labels: int = 3
    head: str = "kur"
    alpha: float = 2.0
    dropout: float = 0.5
    alpha_end: float = 8.0
    alpha_steps: int = 4

    taps: ClassVar[tuple[str, ...]] = ("early", "late")

    @nn.compact
    def __call__(self, images, perturbations, *, train, frozen):
        tap = Taps(perturbations)
        x = tap("early", jnp.tanh(Conv(4, 3, stride=2, name="zebra")(images)))
        x = batch_norm(x, name="yak", train=train, frozen=frozen)
        x = tap("late", jnp.tanh(Conv(5, 1, name="ant")(x)))
        schedule = self.alpha_end, self.alpha_steps
        head = Head(self.num_labels, self.head, self.alpha, self.dropout, *schedule, name="head")
        return head(x, train=train), tap.activations


@pytest.fixture(scope="module")
def network():
    return from_module(Small(), name="small", image_size=8, preprocess=MINUS_ONE_TO_ONE)


@pytest.fixture(scope="module")
def variables(network):
    return network.init(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def test_variables_and_layers(network, variables):
    assert network.layers == ("zebra", "yak", "ant", "head")  # forward order
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == set(network.layers)
    assert set(variables["batch_stats"]) == {"yak"}
    assert {value.dtype for value in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    again = network.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    other = network.init(jax.random.key(1))
    assert (other["params"]["ant"]["kernel"] != variables["params"]["ant"]["kernel"]).any()


def test_apply(network, variables, images):
    logits, activations = jax.jit(network.apply)(variables, images)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32
    shapes = {tap: value.shape for tap, value in activations.items()}
    assert shapes == {"early": (2, 4, 4, 4), "late": (2, 4, 4, 5)}
    assert tuple(shapes) == network.taps


def test_head_kernel_makes_the_logits_of_the_last_activations(network, variables, images):
    logits, activations = network.apply(variables, images)
    kernel = np.asarray(network.head_kernel(variables), np.float64)
    pooled = np.asarray(activations["late"], np.float64).mean((1, 2))
    bias = np.asarray(variables["params"]["head"]["bias"])
    np.testing.assert_allclose(logits, pooled @ kernel + bias, rtol=1e-5, atol=1e-6)


def moved(head):
    """A network whose alpha has left its start, its variables, and alpha."""
    network = from_module(Small(head=head), name="s", image_size=8, preprocess=MINUS_ONE_TO_ONE)
    variables = filled(network)
    if head == "kur_learned":
        variables["params"]["head"]["alpha"] = jnp.float32(3.5)
        return network, variables, 3.5
    variables["batch_stats"]["head"]["steps"] = jnp.int32(3)
    return network, variables, 6.5


@pytest.mark.parametrize("head", ["kur_learned", "kur_scheduled"])
def test_head_kernel_has_the_alpha_reached(images, head):
    network, variables, alpha = moved(head)
    kernel = np.asarray(network.head_kernel(variables), np.float64)
    weights = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    shares = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(kernel, alpha * weights * shares, rtol=1e-5)
    logits, activations = network.apply(variables, images)
    pooled = np.asarray(activations["late"], np.float64).mean((1, 2))
    bias = np.asarray(variables["params"]["head"]["bias"])
    np.testing.assert_allclose(logits, pooled @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_a_learned_alpha_is_in_the_head_alone(images):
    network, variables, _ = moved("kur_learned")
    logits, activations = network.apply(variables, images)
    alone = network.head_apply(variables, activations["late"].mean((1, 2)))
    np.testing.assert_allclose(alone, logits, rtol=1e-6)


def test_steps_are_counted_in_training_alone_whatever_is_frozen(images):
    network, variables, _ = moved("kur_scheduled")
    assert network.head_apply is None  # it could not count
    for frozen in (frozenset(), frozenset(network.layers)):
        _, stats = network.train_apply(variables, images, key=jax.random.key(0), frozen=frozen)
        assert stats["head"]["steps"] == 4


@pytest.mark.parametrize("tap", ["early", "late"])
def test_perturbation_gradient_is_the_finite_difference(network, variables, images, tap):
    base = network.apply(variables, images)[1][tap]
    rng = np.random.default_rng(2)
    direction = jnp.asarray(rng.standard_normal(base.shape), jnp.float32)

    @jax.jit
    def logit(perturbation):
        return network.apply(variables, images, {tap: perturbation})[0].sum()

    step = 1e-2
    numeric = (logit(step * direction) - logit(-step * direction)) / (2 * step)
    gradient = jax.jit(jax.grad(logit))(jnp.zeros_like(base))
    assert jnp.vdot(gradient, direction) == pytest.approx(float(numeric), rel=2e-3)
    assert abs(numeric) > 1e-3


def test_what_is_perturbed_is_returned_and_flows_on(network, variables, images):
    _, plain = network.apply(variables, images)
    _, shifted = network.apply(variables, images, {"early": jnp.ones((2, 4, 4, 4))})
    np.testing.assert_allclose(shifted["early"], plain["early"] + 1, rtol=1e-6)
    assert (shifted["late"] != plain["late"]).any()


def test_training_moves_the_statistics_by_the_batch(network, variables, images):
    logits, stats = network.train_apply(
        variables, images, key=jax.random.key(3), frozen=frozenset()
    )
    assert logits.shape == (2, 3)
    kernel = np.asarray(variables["params"]["zebra"]["kernel"])
    early = network.apply(variables, images)[1]["early"]
    assert kernel.shape == (3, 3, 3, 4)
    np.testing.assert_allclose(
        stats["yak"]["mean"], 0.1 * np.mean(early, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        stats["yak"]["var"], 0.9 + 0.1 * np.var(early, axis=(0, 1, 2)), rtol=1e-4
    )


def test_frozen_layers_run_on_their_stored_statistics(network, variables, images):
    stored = {"yak": {"mean": jnp.full(4, 0.3), "var": jnp.full(4, 2.0)}}
    variables = {**variables, "batch_stats": stored}
    run = {
        frozen: network.train_apply(variables, images, key=jax.random.key(3), frozen=frozen)
        for frozen in (frozenset(), frozenset({"yak"}))
    }
    logits, stats = run[frozenset({"yak"})]
    jax.tree.map(np.testing.assert_array_equal, stats, stored)
    assert (run[frozenset()][1]["yak"]["mean"] != 0.3).all()
    assert (run[frozenset()][0] != logits).any()
    # The output is that of inference but for dropout, which drops or doubles each pooled feature.
    kernel = np.asarray(network.head_kernel(variables))
    pooled = np.asarray(network.apply(variables, images)[1]["late"]).mean((1, 2))
    for b in range(2):
        masks = np.stack(np.meshgrid(*[(0, 2)] * 5), -1).reshape(-1, 5)
        possible = (masks * pooled[b][None]) @ kernel
        assert np.abs(possible - np.asarray(logits[b])[None]).max(1).min() < 1e-5


def test_dropout_follows_the_key(network, variables, images):
    def run(seed):
        key = jax.random.key(seed)
        return network.train_apply(variables, images, key=key, frozen=frozenset())[0]

    np.testing.assert_array_equal(run(0), run(0))
    assert any((run(0) != run(seed)).any() for seed in (1, 2, 3))


def test_bad_calls_are_named(network, variables):
    with pytest.raises(ValueError, match=r"\(b H W 3\), got \(8, 8, 3\)"):
        network.apply(variables, jnp.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match=r"\(b H W 3\), got \(1, 8, 8, 4\)"):
        jax.jit(network.apply)(variables, jnp.zeros((1, 8, 8, 4)))
    with pytest.raises(ValueError, match="must be floating .* got uint8"):
        network.apply(variables, jnp.zeros((1, 8, 8, 3), jnp.uint8))
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"unknown taps \['deep'\]; taps are \['early', 'late'\]"):
        network.apply(variables, images, {"deep": jnp.zeros((1, 4, 4, 4))})
    with pytest.raises(ValueError, match=r"'early' has shape \(1, 1, 1, 4\), .* \(1, 4, 4, 4\)"):
        network.apply(variables, images, {"early": jnp.zeros((1, 1, 1, 4))})
    with pytest.raises(ValueError, match=r"frozen names unknown layers \['bee'\]; layers are"):
        network.train_apply(
            variables, images, key=jax.random.key(0), frozen=frozenset({"bee", "ant"})
        )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("apply", None, "apply must be callable"),
        ("taps", (), "at least one activation"),
        ("taps", ["late"], "taps must be a tuple of str"),
        ("taps", (1,), "taps must be a tuple of str"),
        ("taps", ("late", "late"), "names something twice"),
        ("head_kernel", 3, "head_kernel must be callable or None"),
        ("init", "key", "init must be callable or None"),
        ("name", None, "name must be a str"),
        ("image_size", 0, "image_size must be a positive int"),
        ("image_size", 9.5, "image_size must be a positive int"),
        ("layers", ["head"], "layers must be a tuple of str"),
    ],
)
def test_network_checks_its_fields(network, field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(network, **{field: value})


def test_a_network_of_the_users_needs_two_fields():
    network = Network(apply=lambda variables, images, perturbations=None: None, taps=("last",))
    assert network.name == "custom" and network.head_kernel is None and network.layers == ()
