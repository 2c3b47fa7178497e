"""How many images pass through the network, in which chunks and on which devices."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import memory, parallel
from minmax_jax.methods import group_methods
from tests import toys

SHARED = [
    name
    for name in max(group_methods([name for name in mj.METHODS if name != "acol_cam"]), key=len)
    if mj.METHODS[name].rule == "gradient"
]
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def exact(network, variables, images):
    """Maps of Score-CAM; `test_explain` has their truth."""
    maps, _ = mj.explain(network, variables, images, method="score_cam", mask_chunk=5)
    return np.asarray(maps)


class ExecutionCounter:
    """`apply` that counts images each time that the compiled program runs it."""

    def __init__(self, apply=toys.toy_apply):
        self.apply = apply
        self.sizes = []

    def __call__(self, variables, images, perturbations=None):
        jax.debug.callback(lambda seen: self.sizes.append(len(seen)), images)
        return self.apply(variables, images, perturbations)


@pytest.mark.parametrize("num_labels", [1, 20])
def test_one_forward_pass_serves_all_labels_and_methods(num_labels, images):
    counter = ExecutionCounter()
    explain_fn = mj.make_explain_fn(toys.toy_network(apply=counter), SHARED)
    jax.block_until_ready(explain_fn(toys.toy_variables(num_labels=num_labels), images))
    jax.effects_barrier()
    assert counter.sizes == [4]


def test_score_cam_forwards_each_live_mask_once(images, variables, exact):
    """Not once a label; none of flat channels; none of images that only fill up a batch."""
    counter = ExecutionCounter()
    explain_fn = mj.make_explain_fn(toys.toy_network(apply=counter), "score_cam", mask_chunk=3)
    taps = [toys.Toy64(variables, image).taps["late"] for image in images]
    alive = np.array([(np.ptp(tap, axis=(0, 1)) > 0).sum() for tap in taps])
    assert alive[0] == 0 < alive[1] < toys.CHANNELS["late"]
    for valid in ([True] * 4, [False, False, True, False], [True, False, False, False]):
        counter.sizes.clear()
        maps, _ = explain_fn(variables, images, None, np.array(valid))
        jax.effects_barrier()
        assert counter.sizes == [4] + [3] * -(-alive[valid].sum() // 3)
        np.testing.assert_allclose(maps[np.array(valid)], exact[valid], **CLOSE)


@pytest.mark.parametrize("mask_chunk", [1, 64, None])
def test_the_chunk_of_score_cam_changes_nothing(mask_chunk, network, variables, images, exact):
    maps, _ = mj.explain(network, variables, images, method="score_cam", mask_chunk=mask_chunk)
    np.testing.assert_allclose(maps, exact, **CLOSE)


@pytest.mark.parametrize(
    ("number", "mask_chunk", "devices", "sizes"),
    [
        (1, 64, 1, [6]),  # no more than there are
        (1, 5, 1, [3, 3]),  # no pass is nearly empty
        (4, 5, 1, [5] * 5),
        (4, 8, 1, [8] * 3),
        (2, 1, 8, [8, 8]),
        (2, 2, 8, [16]),
        (4, None, 1, [24]),  # a small network on a CPU
        (4, None, 2, [24]),
    ],
)
def test_chunks(number, mask_chunk, devices, sizes, variables):
    """Six channels, all of them live: the pixels' own colours, twice."""

    def apply(variables, images, perturbations=None):
        logits, taps = toys.toy_apply(variables, images, perturbations)
        return logits, {"late": images[:, ::2, ::2].repeat(2, axis=-1)}

    counter = ExecutionCounter(apply)
    mesh = parallel.make_mesh(jax.devices()[:devices]) if devices > 1 else None
    network = toys.toy_network(apply=counter, taps=("late",))
    explain_fn = mj.make_explain_fn(network, "score_cam", mask_chunk=mask_chunk, mesh=mesh)
    jax.block_until_ready(explain_fn(variables, toys.toy_images(number + 1)[1:]))
    jax.effects_barrier()
    assert counter.sizes == [number, *sizes]


class Watcher:
    """`apply` that remembers shape and sharding of the images of each place that it is called."""

    def __init__(self):
        self.seen = []

    def __call__(self, variables, images, perturbations=None):
        jax.debug.inspect_array_sharding(
            images, callback=lambda sharding: self.seen.append((images.shape, sharding))
        )
        return toys.toy_apply(variables, images, perturbations)


@pytest.mark.parametrize(
    ("number", "options"), [(1, {}), (3, {}), (8, {}), (1, {"channels": 3}), (3, {"clusters": 2})]
)
def test_masks_of_any_batch_are_spread_over_all_devices(number, options, variables):
    """Images that cannot be split lie whole on every device; each device forwards its masks."""
    images = toys.toy_images(number + 1)[1:]
    options = {"mask_chunk": 2, **options}
    methods = ("minmax_cam", "score_cam")
    alone = mj.make_explain_fn(toys.toy_network(), methods, **options)(variables, images)
    watcher, mesh = Watcher(), parallel.make_mesh()
    assert mesh.size == 8
    network = toys.toy_network(apply=watcher)
    spread = mj.make_explain_fn(network, methods, mesh=mesh, **options)(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), alone, spread)
    (forward, own), (masked, chunk) = (
        (shape, sharding.shard_shape(shape))
        for shape, sharding in sorted(watcher.seen, key=lambda seen: seen[0])
    )
    assert forward[0] == number and own[0] == (1 if number == 8 else number)
    assert chunk[0] * 8 == masked[0] <= 2 * 8


@pytest.mark.parametrize("approximation", ["channels", "clusters"])
def test_approximations_reach_the_weights(approximation, network, variables, images, exact):
    """As many as there are give the exact maps; fewer give others, of Score-CAM alone."""
    make = functools.partial(mj.make_explain_fn, network, ("cam", "score_cam"), mask_chunk=5)
    all_of_them, _ = make(**{approximation: toys.CHANNELS["late"]})(variables, images)
    np.testing.assert_allclose(all_of_them["score_cam"], exact, rtol=1e-5, atol=1e-5)
    few, _ = make(**{approximation: 1})(variables, images)
    np.testing.assert_allclose(few["cam"], all_of_them["cam"], **CLOSE)
    assert np.abs(few["score_cam"] - exact).max() > 0.01
    alone, _ = mj.explain(network, variables, images, method="score_cam", **{approximation: 1})
    np.testing.assert_allclose(alone, few["score_cam"], **CLOSE)


def test_the_default_chunk_is_what_the_device_takes(variables, images, exact, monkeypatch):
    """For images of that shape, on the devices of the mesh."""
    asked = []

    def images_at_once(apply, variables, image, *, mesh):
        asked.append((image.shape, image.dtype, mesh))
        return 3

    monkeypatch.setattr(memory, "images_at_once", images_at_once)
    counter = ExecutionCounter()
    explain_fn = mj.make_explain_fn(toys.toy_network(apply=counter), "score_cam")
    maps, _ = explain_fn(variables, images)
    jax.effects_barrier()
    assert asked == [((*toys.SIZE, 3), np.float32, None)]
    assert set(counter.sizes[1:]) == {3}
    np.testing.assert_allclose(maps, exact, **CLOSE)
