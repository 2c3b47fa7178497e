"""Backward rules against plain loops, torch's hooks, sums that must be conserved, and by hand."""

from __future__ import annotations

import functools

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from minmax_jax.models import create_network
from minmax_jax.models.windows import convolve, max_pool
from minmax_jax.rules import RULES, with_biases, with_rule
from tests.models.filling import filled

CLOSE = {"rtol": 2e-5, "atol": 2e-6}
ROWS = np.array([[1, -0.5, -0.5], [0, 1, 0], [-0.25, -0.75, 1]], np.float32)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(3)
    shapes = {"first": (3, 3, 2, 4), "second": (1, 1, 4, 5), "kernel": (5, 3)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    # Every place has something positive to come from, so that no denominator is 0.
    weights["second"][..., 0] = np.abs(weights["second"][..., 0])
    weights["kernel"][0] = np.abs(weights["kernel"][0])
    return {name: value.astype(np.float32) for name, value in weights.items()}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(4).normal(size=(5, 4, 2)).astype(np.float32)


def toy(weights, images, perturbations):
    """Two convolutions, the second chosen by platform, a mean over the pixels, a linear layer."""
    early = jax.nn.relu(convolve(images + perturbations["image"], weights["first"]))
    early = early + perturbations["early"]
    late = jnp.maximum(convolve(early, weights["second"]), 0)
    return late.mean(axis=(1, 2)) @ weights["kernel"], {"early": early, "late": late}


@functools.cache
def toy_pullback(rule):
    """One compiled function: logits, activations, and what comes back for each of the rows."""

    def explain(weights, images, rows):
        early = (*images.shape[:3], weights["first"].shape[-1])
        zeros = {"image": jnp.zeros_like(images), "early": jnp.zeros(early)}
        function = with_rule(functools.partial(toy, weights, images), rule)
        logits, vjp, activations = jax.vjp(function, zeros, has_aux=True)
        return logits, activations, jax.vmap(lambda row: vjp(row[None])[0])(rows)

    return jax.jit(explain)


class Loops:
    """The toy on one image, forwards and backwards, in float64 and plain loops."""

    def __init__(self, weights, image):
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.image = np.asarray(image, np.float64)
        self.early_sums = self.convolve(self.image, self.weights["first"])
        self.early = np.maximum(self.early_sums, 0)
        self.late_sums = self.convolve(self.early, self.weights["second"])
        self.late = np.maximum(self.late_sums, 0)
        self.pooled = self.late.mean(axis=(0, 1))
        self.logits = self.pooled @ self.weights["kernel"]

    @staticmethod
    def terms(x, kernel):
        """Each product in the convolution: `(place in, place out, x * w, w)`."""
        size, half = len(kernel), len(kernel) // 2
        for i, j in np.ndindex(x.shape[:2]):
            for di, dj in np.ndindex(size, size):
                k, l = i + di - half, j + dj - half
                if 0 <= k < x.shape[0] and 0 <= l < x.shape[1]:
                    for c, o in np.ndindex(kernel.shape[2:]):
                        weight = kernel[di, dj, c, o]
                        yield (k, l, c), (i, j, o), x[k, l, c] * weight, weight

    def convolve(self, x, kernel):
        out = np.zeros((*x.shape[:2], kernel.shape[3]))
        for _, place, product, _ in self.terms(x, kernel):
            out[place] += product
        return out

    def gradient(self, x, kernel, g):
        back = np.zeros(x.shape)
        for source, place, _, weight in self.terms(x, kernel):
            back[source] += weight * g[place]
        return back

    def shares(self, x, kernel, relevance):
        positive, back = np.zeros(relevance.shape), np.zeros(x.shape)
        for _, place, product, _ in self.terms(x, kernel):
            positive[place] += max(product, 0)
        for source, place, product, _ in self.terms(x, kernel):
            if product > 0:
                back[source] += product / positive[place] * relevance[place]
        return back

    def pull_back(self, rule, row):
        w, pixels = self.weights, self.late[..., 0].size
        if rule == "relevance":
            products = np.maximum(self.pooled[:, None] * w["kernel"], 0)
            pooled = (products / products.sum(axis=0) * row).sum(axis=1)
            total = self.late.sum(axis=(0, 1))
            late = self.late / np.where(total == 0, 1, total) * pooled
            early = self.shares(self.early, w["second"], late)
            return {"early": early, "image": self.shares(self.image, w["first"], early)}
        rectify = (lambda g: np.maximum(g, 0)) if rule == "guided" else lambda g: g
        late = np.broadcast_to(w["kernel"] @ row / pixels, self.late.shape)
        early = self.gradient(self.early, w["second"], rectify(late) * (self.late_sums > 0))
        passed = rectify(early) * (self.early_sums > 0)
        return {"early": early, "image": self.gradient(self.image, w["first"], passed)}


@pytest.mark.parametrize("rule", ["gradient", "guided", "relevance"])
def test_rules_of_plain_loops(rule, weights, image):
    """In one compiled program, all rows at once."""
    logits, activations, back = toy_pullback(rule)(weights, image[None], ROWS)
    loops = Loops(weights, image)
    np.testing.assert_allclose(logits[0], loops.logits, **CLOSE)
    np.testing.assert_allclose(activations["late"][0], loops.late, **CLOSE)
    for index, row in enumerate(ROWS):
        expected = loops.pull_back(rule, row)
        for tap in ("early", "image"):
            np.testing.assert_allclose(back[tap][index, 0], expected[tap], **CLOSE)


def test_relevance_is_conserved(weights, image):
    images = np.stack([image, 3 * image[::-1], np.abs(image)])
    for each in images:
        _, _, back = toy_pullback("relevance")(weights, each[None], ROWS)
        for tap in ("early", "image"):
            sums = np.asarray(back[tap], np.float64).sum(axis=(1, 2, 3, 4))
            np.testing.assert_allclose(sums, ROWS.sum(axis=1), atol=1e-5)


def test_guided_is_torchs_with_hooks():
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2, 2),
        torch.nn.Conv2d(4, 5, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Softplus(),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 3 * 4, 3),
    )
    for layer in layers:
        if isinstance(layer, torch.nn.ReLU):
            layer.register_full_backward_hook(lambda layer, to, of: (to[0].clamp(min=0),))
    images = torch.randn(2, 3, 6, 8, requires_grad=True)
    rows = torch.randn(2, 3)
    (layers(images) * rows).sum().backward()

    first, _, _, second, _, _, _, last = layers

    def kernel_and_bias(layer):
        weight = layer.weight.detach().numpy()
        kernel = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
        return kernel, layer.bias.detach().numpy()

    def linear(x, layer):
        kernel, bias = kernel_and_bias(layer)
        x = convolve(x, kernel) if kernel.ndim == 4 else x @ kernel
        return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))

    @jax.jit
    def explain(images, rows):
        def network(perturbation):
            x = max_pool(jax.nn.relu(linear(images + perturbation, first)), 2, stride=2)
            x = jax.nn.softplus(jnp.clip(linear(x, second), 0))
            return linear(jnp.moveaxis(x, -1, 1).reshape(len(images), -1), last)

        _, vjp = jax.vjp(with_rule(network, "guided"), jnp.zeros_like(images))
        return vjp(rows)[0]

    ours = explain(jnp.moveaxis(jnp.asarray(images.detach().numpy()), 1, -1), rows.numpy())
    np.testing.assert_allclose(jnp.moveaxis(ours, -1, 1), images.grad, **CLOSE)
    assert np.abs(ours).max() > 0.01


def piecewise(weights, images, perturbations, *, shift=0.0):
    """Piecewise linear, with four biases: a mean and its shift, a bound, two layers' biases."""
    x = convolve(images + perturbations["image"], weights["first"])
    x = (x - 0.3) * jnp.array([1.0, -2.0, 0.5, 3.0], x.dtype)[None, None, None]
    x = x + jnp.array([0.5, 2.0, -1.0, 1.0], x.dtype)[None, None, None] + shift
    x = max_pool(jax.nn.relu6(x) + jnp.zeros_like(x), 2, stride=1)
    bias = weights["kernel"][:, 0][None, None, None]
    x = convolve(x + perturbations["pooled"], weights["second"]) - bias
    x = jnp.maximum(jnp.zeros_like(x), x)
    return x.mean(axis=(1, 2)) @ weights["kernel"] + jnp.array([[7.0, 8.0, 9.0]], x.dtype)


def test_biases_complete_the_gradient(weights, image):
    """Every logit is the sum of gradient times input and gradients times biases."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), weights)
        images = jnp.asarray(image[None], jnp.float64)
        zeros = {"image": jnp.zeros_like(images), "pooled": jnp.zeros((1, 4, 3, 4))}
        function = functools.partial(piecewise, wide, images)

        @jax.jit
        def run(row):
            perturbed, extra = with_biases(function, zeros)
            logits, vjp, biases = jax.vjp(perturbed, zeros, extra, has_aux=True)
            return logits, biases, *vjp(row[None])

        runs = [jax.tree.map(np.asarray, run(row)) for row in np.eye(3)]
        expected = np.asarray(function(zeros)[0])
    for label, (logits, biases, back, back_biases) in enumerate(runs):
        parts = [(back["image"] * image).sum()]
        parts += [(back_biases[name] * biases[name]).sum() for name in biases]
        np.testing.assert_allclose(logits[0], expected, rtol=1e-12)
        np.testing.assert_allclose(sum(parts), expected[label], rtol=1e-12)
        assert np.abs(parts).min() > 1e-3  # none is there for nothing
    large, small = (1, 5, 4, 4), (1, 4, 3, 5)
    assert {name: bias.shape for name, bias in biases.items()} == {
        "bias1": large,
        "bias2": large,
        "bias3": small,
        "bias4": (1, 3),
    }
    shift = np.array([0.5, 2, -1, 1]) - 0.3 * np.array([1, -2, 0.5, 3])
    np.testing.assert_allclose(biases["bias1"][0, 2, 2], shift, rtol=1e-12)
    np.testing.assert_array_equal(np.unique(biases["bias2"]), [0, 6])
    np.testing.assert_array_equal(biases["bias3"][0, 1, 1], -weights["kernel"][:, 0])
    np.testing.assert_array_equal(biases["bias4"][0], [7, 8, 9])
    np.testing.assert_array_equal(back_biases["bias4"][0], [0, 0, 1])


def test_extra_is_added_where_the_bias_is(weights, image):
    zeros = {"image": jnp.zeros((1, *image.shape)), "pooled": jnp.zeros((1, 4, 3, 4))}
    shapes = jax.tree.map(lambda zero: jax.ShapeDtypeStruct(zero.shape, zero.dtype), zeros)
    function = functools.partial(piecewise, weights, image[None])
    perturbed, extra = with_biases(function, shapes)
    moved = {"bias1": extra["bias1"] + 0.7}
    logits = jax.jit(lambda: perturbed(zeros, extra | moved)[0])()
    expected, unmoved = jax.jit(lambda: (function(zeros, shift=0.7), function(zeros)))()
    np.testing.assert_allclose(logits, expected, **CLOSE)
    assert np.abs(logits - unmoved).min() > 0.01


def test_guided_relu6():
    """Where it is open, what is positive passes; where it is bounded, nothing does."""
    values = jnp.asarray([-1.0, 0.5, 0.5, 3.0, 3.0, 7.0])
    ruled = with_rule(lambda x: jax.nn.relu6(values + x), "guided")
    result, vjp = jax.vjp(ruled, jnp.zeros(6))
    np.testing.assert_array_equal(result, [0, 0.5, 0.5, 3, 3, 6])
    (given,) = vjp(jnp.asarray([1.0, 2.0, -3.0, 4.0, -5.0, 6.0]))
    np.testing.assert_array_equal(given, [0, 2, 0, 4, 0, 0])


def test_bounds_that_are_met():
    """A bound that is met is chosen; jax.nn.relu6 has the derivative 0 there too."""
    values = jnp.array([-1.0, 0, 3, 6, 8])
    perturbed, extra = with_biases(lambda x: jax.nn.relu6(values + x), values)
    result, vjp, biases = jax.vjp(perturbed, 0 * values, extra, has_aux=True)
    gradient, extra_gradient = vjp(jnp.ones(5))
    np.testing.assert_array_equal(result, [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(gradient, [0, 0, 1, 0, 0])
    assert biases.keys() == extra_gradient.keys() == {"bias0"}
    np.testing.assert_array_equal(biases["bias0"], [0, 0, 0, 6, 6])
    np.testing.assert_array_equal(extra_gradient["bias0"], np.ones(5))


class Block(nnx.Module):
    """A user's own network in NNX: convolution, normalisation, a residual sum, a linear layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs, bias_init=nnx.initializers.normal(0.5))
        self.norm = nnx.BatchNorm(
            4, use_running_average=True, rngs=rngs, bias_init=nnx.initializers.normal(0.5)
        )
        self.again = nnx.Conv(4, 4, (1, 1), rngs=rngs, use_bias=False)
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.relu(self.again(x)) + x
        return self.last(nnx.avg_pool(x, x.shape[1:3]).reshape(len(x), -1))


def test_nnx_network(image):
    """Nothing in the network knows of rules."""
    network = Block(nnx.Rngs(7))
    image = np.concatenate([image, image[..., :1] - 0.5], axis=-1)[None]
    row = np.array([[1, 0, 0]], np.float32)

    def function(perturbation):
        return network(image + perturbation)

    @jax.jit
    def run(zero):
        plain, plain_vjp = jax.vjp(function, zero)
        perturbed, extra = with_biases(function, zero)
        logits, vjp, biases = jax.vjp(perturbed, zero, extra, has_aux=True)
        back, back_biases = vjp(row)
        parts = [back * image, *(back_biases[name] * biases[name] for name in biases)]
        _, relevance_vjp = jax.vjp(with_rule(function, "relevance"), zero)
        return {
            "logits": (logits, plain),
            "gradient": (back, plain_vjp(row)[0]),
            "sum": (sum(part.sum() for part in parts), plain[0, 0]),
            "relevance": (relevance_vjp(row)[0].sum(), 1),
        }

    with jax.numpy_rank_promotion("allow"):
        for ours, expected in run(jnp.zeros_like(image)).values():
            np.testing.assert_allclose(ours, expected, **CLOSE)


def test_network_with_two_classifiers():
    """Relevance is conserved at every tap; biases complete the gradient."""
    network = create_network("scenes_resnet", num_labels=3, head="acol")
    variables = filled(network)
    images = jax.random.normal(jax.random.key(8), (2, 16, 16, 3))
    row = jnp.array([[1.0, -0.25, -0.25]] * 2)

    @jax.jit
    def explain(variables, images):
        shapes = jax.eval_shape(network.apply, variables, images)[1]
        zeros = {tap: jnp.zeros(shapes[tap].shape) for tap in network.taps}
        function = functools.partial(network.apply, variables, images)
        logits, vjp, _ = jax.vjp(with_rule(function, "relevance"), zeros, has_aux=True)

        def of_image(perturbation):
            return network.apply(variables, images + perturbation)[0]

        perturbed, extra = with_biases(of_image, images)
        _, bias_vjp, biases = jax.vjp(perturbed, 0 * images, extra, has_aux=True)
        back, back_biases = bias_vjp(row)
        parts = [back * images, *(back_biases[name] * biases[name] for name in biases)]
        complete = sum(part.reshape(2, -1).sum(axis=1) for part in parts)
        return logits, vjp(row)[0], complete

    logits, relevance, complete = explain(variables, images)
    for tap in network.taps:
        np.testing.assert_allclose(relevance[tap].sum(axis=(1, 2, 3)), 0.5, rtol=1e-3)
        assert np.abs(relevance[tap]).max() > 0.01
    np.testing.assert_allclose(complete, (logits * row).sum(axis=1), rtol=1e-4)


def test_what_no_rule_concerns_is_left_alone(image):
    """A ReLU of constants, a loop without one, softplus (which holds a max) and stopped values."""

    def function(x):
        kept = lax.stop_gradient(jax.nn.relu(x) + jnp.argmax(x))
        doubled, _ = lax.scan(lambda carry, _: (2 * carry, None), x, length=2)
        same = lax.platform_dependent(doubled, cpu=lambda x: 1.0 * x, default=lambda x: x)
        return jax.nn.relu(-jnp.ones_like(x)) + jax.nn.softplus(same) * kept

    expected, plain = jax.vjp(function, image)
    for rule in ("guided", "gradient"):
        result, vjp = jax.vjp(with_rule(function, rule), image)
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(vjp(-image)[0], plain(-image)[0])


def test_errors():
    x = jnp.ones((2, 2))
    assert RULES == ("gradient", "guided", "relevance", "biases")
    with pytest.raises(ValueError, match=r"'relevence'.*'gradient', 'guided', 'relevance'"):
        with_rule(jnp.sin, "relevence")
    with pytest.raises(ValueError, match="with_biases is for 'biases'"):
        with_rule(jnp.sin, "biases")
    with pytest.raises(ValueError, match="no rule for the primitive 'reduce_prod'"):
        with_rule(jnp.prod, "relevance")(x)
    with pytest.raises(ValueError, match="'dot_general' of two operands that depend"):
        with_rule(lambda x: x @ x, "relevance")(x)

    def looped(x):
        return lax.fori_loop(0, 3, lambda _, x: jax.nn.relu(x) + 1, x)

    for run in (with_rule(looped, "guided"), with_rule(looped, "relevance")):
        with pytest.raises(ValueError, match="within 'scan'"):
            run(x)
    with pytest.raises(ValueError, match="within 'scan'"):
        with_biases(looped, x)
