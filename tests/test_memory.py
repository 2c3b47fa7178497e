"""The working set against sizes counted by hand; the choice on devices that only have numbers."""

from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minmax_jax as mj
from minmax_jax.memory import images_at_once, working_set

IMAGE = jax.ShapeDtypeStruct((4, 6, 3), jnp.float32)
ONE = 4 * 6 * 3 * 4  # bytes of an image
KERNEL = np.ones((3, 50), np.float32)
WIDE = 4 * 6 * 50 * 4


def plain(kernel, images):
    return (images @ kernel).mean(axis=(1, 2))


def double(images):
    return 2 * images


@jax.custom_vjp
def own_gradient(images, kernel):
    return images @ kernel


own_gradient.defvjp(lambda x, k: (x @ k, k), lambda k, g: (g @ k.T, None))


def over_rows(kernel, images):
    """A scan over rows `(1 6 3)`: the largest step is the scan itself."""
    rows = jnp.moveaxis(images, 1, 0)
    return jax.lax.scan(lambda total, row: (total + 1, row @ kernel), jnp.zeros(()), rows)


def until_large(kernel, images):
    """A loop with inputs of the condition before those of the body."""
    limit = images.max()

    def grow(state):
        return jnp.concatenate([state @ kernel] * 2, axis=-1)[..., :3]

    return jax.lax.while_loop(lambda state: state.max() < limit, grow, images)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (plain, ONE + WIDE),
        (lambda kernel, images: double(images), 2 * ONE),
        (lambda kernel, images: images * images, 2 * ONE),  # one array read twice
        (lambda kernel, images: jax.jit(plain)(kernel, images), ONE + WIDE),
        (lambda kernel, images: own_gradient(images, kernel), ONE + WIDE),
        (over_rows, ONE + WIDE + 4),
        (until_large, 3 * WIDE),
        (
            lambda kernel, images: jax.lax.platform_dependent(
                images,
                kernel,
                cpu=lambda x, k: x.sum((1, 2)),
                default=lambda x, k: (x @ k)[:, 0, 0, :3],
            ),
            ONE + WIDE,
        ),
        # What is made of parameters alone does not count, however large.
        (lambda kernel, images: double(images) + (kernel.T @ kernel).sum(), 2 * ONE),
        (
            lambda kernel, images: jax.jit(lambda x, k: x + (k.T @ k).sum())(images, kernel),
            2 * ONE,
        ),
        (lambda kernel, images: kernel.T @ kernel, ONE),
    ],
)
def test_largest_step(apply, expected):
    assert working_set(apply, KERNEL, IMAGE) == expected


def test_nothing_is_computed_and_tracers_will_do():
    sizes = []

    def program(kernel, images):
        sizes.append(working_set(plain, kernel, images[0]))
        return images.sum()

    jax.eval_shape(program, jax.ShapeDtypeStruct(KERNEL.shape, jnp.float32), np.ones((2, 4, 6, 3)))
    assert sizes == [ONE + WIDE]


def device(limit, in_use=0, platform="gpu"):
    stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": in_use}
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def choose(*devices, apply=plain, variables=KERNEL, image=IMAGE, in_step=False):
    mesh = types.SimpleNamespace(local_devices=list(devices), is_multi_process=in_step)
    return images_at_once(apply, variables, image, mesh=mesh)


def test_devices_without_numbers():
    assert choose(device(None)) == 32


@pytest.mark.parametrize(
    ("name", "size", "number"),
    [("scenes_resnet", 96, 64), ("mobilenet_v2", 224, 8), ("resnet50", 512, 8)],
)
def test_on_cpus_small_networks_see_more_at_once(name, size, number):
    network = mj.create_network(name, num_labels=3)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    assert images_at_once(network.apply, variables, image) == number


@pytest.mark.parametrize("number", [8, 16, 128, 256])
def test_images_fit_a_quarter_of_what_is_free(number):
    """Exactly enough for `number` images, three times their largest step each, and a bit less."""
    limit = 4 * 3 * (ONE + WIDE) * number
    assert choose(device(limit)) == number
    assert choose(device(limit - 1000)) == max(number // 2, 8)
    assert choose(device(limit + 500, in_use=500)) == number
    assert choose(device(limit, in_use=limit // 2)) == max(number // 2, 8)


def test_processes_in_step_leave_out_what_each_has_in_use():
    limit = 4 * 3 * (ONE + WIDE) * 64
    assert choose(device(limit, in_use=limit // 2), in_step=True) == 64


@settings(max_examples=50, deadline=None)
@given(limit=st.integers(0, 1 << 36), in_use=st.integers(0, 1 << 37))
def test_more_memory_is_never_fewer_images(limit, in_use):
    number = choose(device(limit, in_use))
    assert number in (8, 16, 32, 64, 128, 256)
    assert choose(device(2 * limit, in_use)) >= number


@functools.cache
def resnet(dtype):
    network = mj.create_network("resnet50", num_labels=4, dtype=dtype)
    return network.apply, jax.eval_shape(network.init, jax.random.key(0))


def test_narrow_numbers_are_more_images():
    image = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
    sizes = {dtype: working_set(*resnet(dtype), image) for dtype in ("float32", "bfloat16")}
    assert sizes["bfloat16"] < sizes["float32"]
    limit = 4 * 3 * 64 * (sizes["float32"] - 1)
    chosen = {
        dtype: choose(
            device(limit), apply=resnet(dtype)[0], variables=resnet(dtype)[1], image=image
        )
        for dtype in sizes
    }
    assert chosen["float32"] == 32 and chosen["bfloat16"] > 32


def test_an_image_of_four_times_the_pixels_needs_four_times_the_memory():
    sizes = [
        working_set(*resnet("float32"), jax.ShapeDtypeStruct((side, side, 3), jnp.float32))
        for side in (32, 64)
    ]
    assert sizes[1] == 4 * sizes[0]
