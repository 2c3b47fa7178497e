"""Functions made for loops against the same ones outside: numbers, derivatives, and layouts."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import minmax_jax as mj
from minmax_jax.cams import saliency, scores
from minmax_jax.pullback import LABEL_CHUNK
from minmax_jax.rules.loops import for_loops
from tests.models.filling import filled

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
LAYOUTS = (("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("HWNC", "IHWO", "NHWC"))
IN_LAYOUT = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


def layouts(function, *args, platform="cpu"):
    """Layouts of all convolutions that a function has on a platform, and how many of each."""
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
    found = re.findall(r"stablehlo\.convolution.*?dim_numbers = (.*?), window", lowered.as_text())
    return {layout: found.count(layout) for layout in found}


def plain(function):
    return function


def in_loop(function, rows):
    """Results of all rows, one after another."""
    return lax.scan(lambda total, row: (total + 1, function(row)), 0, rows)[1]


def derivatives(convolve, x, kernel, rows):
    """Pullbacks of several rows, within and without a loop."""
    _, vjp = jax.vjp(convolve, x, kernel)
    return jax.jit(lambda rows: (in_loop(for_loops(vjp), rows), jax.vmap(vjp)(rows)))(rows)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_derivatives_of_any_convolution(data):
    layout = data.draw(st.sampled_from(LAYOUTS))
    numbers = st.integers(1, 2)
    window = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    groups = data.draw(numbers)
    paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
    options = {
        "window_strides": data.draw(st.sampled_from([(1, 1), (2, 2), (4, 4), (1, 3)])),
        "padding": data.draw(st.just("SAME") | st.tuples(paddings, paddings)),
        "lhs_dilation": (1, 1),
        "rhs_dilation": data.draw(st.sampled_from([(1, 1), (1, 2)])),
        "feature_group_count": groups,
        "dimension_numbers": layout,
    }
    sizes = {"N": 2, "C": 3 * groups, "I": 3, "O": 2 * groups}
    of_image = sizes | dict(
        zip("HW", data.draw(st.sampled_from([(13, 14), (15, 13)])), strict=True)
    )
    of_kernel = sizes | dict(zip("HW", window, strict=True))
    rng = np.random.default_rng(0)
    x = rng.normal(size=[of_image[letter] for letter in layout[0]]).astype(np.float32)
    kernel = rng.normal(size=[of_kernel[letter] for letter in layout[1]]).astype(np.float32)
    convolve = functools.partial(lax.conv_general_dilated, **options)
    shape = jax.eval_shape(convolve, x, kernel).shape
    rows = rng.normal(size=(2, *shape)).astype(np.float32)
    for ours, expected in zip(*derivatives(convolve, x, kernel, rows), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-4)


def network(x, kernels):
    """A toy of two layers, the second with a stride, `(b h w 3)` to `(b 5)`."""
    for stride, kernel in enumerate(kernels, 1):
        x = jnp.tanh(
            lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    return x.mean(axis=(1, 2))


def gradients(x, kernels, rows, wrap):
    """Gradients in the image for each of the rows, `(n b h w 3)`."""
    _, vjp = jax.vjp(lambda x: network(x, kernels), x)
    return in_loop(wrap(lambda row: vjp(row)[0]), rows)


@pytest.fixture(scope="module")
def toy():
    """Image, kernels and rows, float64."""
    rng = np.random.default_rng(1)
    shapes = (2, 7, 5, 3), [(3, 3, 3, 4), (5, 5, 4, 5)], (3, 2, 5)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape),
        shapes,
        is_leaf=lambda shape: isinstance(shape, tuple) and isinstance(shape[0], int),
    )


def test_derivatives_of_gradients(toy):
    """As in a loss of maps: in the weights and the image, through the loop."""

    @functools.partial(jax.jit, static_argnums=3)
    def run(x, kernels, rows, wrap):
        def loss(x, kernels, rows):
            return jnp.sin(3 * gradients(x, kernels, rows, wrap)).sum()

        return jax.grad(loss, (0, 1, 2))(x, kernels, rows)

    with jax.enable_x64(True):
        ours, expected = run(*toy, for_loops), run(*toy, plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), ours, expected)
    assert all(np.abs(array).max() > 0.01 for array in jax.tree.leaves(ours))


def test_weights_of_several_networks_at_once(toy):
    x, kernels, rows = toy
    stacked = jax.tree.map(lambda kernel: np.stack([kernel, -kernel[::-1]]), kernels)

    @jax.jit
    def run(kernels):
        return gradients(x, kernels, rows, for_loops)

    with jax.enable_x64(True):
        ours = jax.vmap(run)(stacked)
        for index in range(2):
            own = jax.tree.map(lambda kernel, index=index: kernel[index], stacked)
            np.testing.assert_allclose(ours[index], gradients(x, own, rows, plain), **CLOSE)


def test_layouts(toy):
    """On CPU all are in XLA's layout; elsewhere they stay as they are."""
    ours = functools.partial(gradients, wrap=for_loops)
    theirs = functools.partial(gradients, wrap=plain)
    for platform in ("cuda", "tpu"):
        assert layouts(ours, *toy, platform=platform) == layouts(theirs, *toy, platform=platform)
    assert layouts(theirs, *toy).keys() > {IN_LAYOUT}
    assert layouts(ours, *toy) == {IN_LAYOUT: 4}


@jax.custom_jvp
def _three_times(x):
    return x


_three_times.defjvp(lambda primals, tangents: (primals[0], 3 * tangents[0]))


def test_all_else_stays_as_it_is():
    """Conditions, loops, derivatives of one's own, calls, numbers in the code, trees, integers."""

    def function(arguments, number):
        x = lax.cond(number > 1, jnp.sin, jnp.cos, arguments["x"])
        x, _ = lax.scan(lambda x, _: (2 * x, None), _three_times(x), length=3)
        x = jax.checkpoint(jnp.tanh)(jax.jit(lambda x, y: x * y + 1)(x, 0.5))
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), number), x.shape)
        return {"x": x + noise, "none": None, "both": (number + 1, 2.0)}

    arguments = {"x": jnp.linspace(-1, 1, 5)}
    for number in (1, 2):
        expected = function(arguments, number)
        ours = for_loops(function)(arguments, number)
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)
        slope, expected = (
            jax.grad(lambda x, f=f, number=number: f({"x": x}, number)["x"].sum())(arguments["x"])
            for f in (for_loops(function), function)
        )
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def scenes():
    """A network, its variables and an image."""
    network = mj.create_network("scenes_resnet", num_labels=LABEL_CHUNK + 1)
    image = np.random.default_rng(2).normal(size=(1, 17, 18, 3)).astype(np.float32)
    return network, filled(network), image


@pytest.mark.parametrize(("labels", "looped"), [(LABEL_CHUNK, False), (2 * LABEL_CHUNK, True)])
def test_only_loops_over_labels_are_changed(scenes, labels, looped):
    network, variables, image = scenes
    explain_fn = mj.make_explain_fn(network, "grad_cam", tap=network.taps[0])
    labels = np.zeros((1, labels), int)
    found = layouts(lambda *args: explain_fn(*args, labels=labels), variables, image)
    assert (found.keys() == {IN_LAYOUT}) == looped


def test_mean_gradients_of_many_labels(scenes):
    """A loop over labels in one over noisy images; the truth is one gradient after another."""
    network, variables, image = scenes
    number = LABEL_CHUNK + 1
    inputs = saliency.noisy(number=2)
    method = mj.Method("saliency", scores.one_label, saliency.largest_gradient, inputs=inputs)
    explain_fn = mj.make_explain_fn(network, method)
    maps, _ = explain_fn(variables, image)

    @jax.jit
    def gradient(point, label):
        return jax.grad(lambda point: network.apply(variables, point[None])[0][0, label])(point)

    for label in range(number):
        points = [inputs.at(jnp.asarray(image[0]), index) for index in range(2)]
        mean = np.mean([gradient(point, label) for point in points], axis=0)
        expected = np.abs(mean).max(axis=-1)
        np.testing.assert_allclose(maps[0, label], expected, rtol=1e-5, atol=1e-6)
    assert layouts(explain_fn, variables, image).keys() == {IN_LAYOUT}
