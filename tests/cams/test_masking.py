from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minmax_jax as mj
from minmax_jax.cams import masking, weights
from tests import reference, toys

SIZE = (6, 8)
HEAD = np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32)
FLAT = [(0, 1), (1, 0), (1, 3)]  # (image, channel)
NUM_LIVE = 2 * 5 - len(FLAT)


def network(images):
    """Logits of a small function that is not linear in the image."""
    return jnp.tanh(images).mean(axis=(1, 2)) @ HEAD * 5


def logits64(image):
    return np.tanh(image).mean(axis=(0, 1)) @ HEAD.astype(float) * 5


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    activations = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    for image, channel in FLAT:
        activations[image, ..., channel] = 1.5 * channel  # 0 or not
    return images, activations


class Recorder:
    """A network that remembers every image which it sees when the program runs."""

    def __init__(self):
        self.chunks = []

    def __call__(self, images):
        jax.debug.callback(lambda seen: self.chunks.append(np.asarray(seen)), images)
        return jax.nn.sigmoid(network(images))


recorder = Recorder()


@functools.cache
def compiled(scores, **options):
    return jax.jit(
        lambda images, activations, valid: masking.score_cam_weights(
            scores, images, activations, valid=valid, **options
        )
    )


def run(images, activations, *, valid=(True, True), scores=recorder, **options):
    recorder.chunks.clear()
    weights = np.asarray(compiled(scores, **options)(images, activations, np.array(valid)))
    jax.effects_barrier()
    return weights


@pytest.fixture(scope="module")
def expected(example):
    images, activations = (array.astype(float) for array in example)
    return np.stack(
        [
            reference.score_cam_weights(logits64, *pair)
            for pair in zip(images, activations, strict=True)
        ]
    )


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_weights_and_forward_passes(example, expected, chunk_size):
    """The chunk size changes nothing; each live mask passes once, for all labels together."""
    weights = run(*example, chunk_size=chunk_size)
    assert weights.shape == (2, 5, 4) and weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, atol=2e-6)

    assert [len(chunk) for chunk in recorder.chunks] == [chunk_size] * -(-NUM_LIVE // chunk_size)
    live = np.concatenate(recorder.chunks)[:NUM_LIVE]  # what follows fills the last chunk
    masked = [
        image * mask[..., None]
        for image, maps in zip(*example, strict=True)
        for mask in reference.score_cam_masks(maps, SIZE).values()
    ]
    assert len(masked) == NUM_LIVE
    matches = [[np.allclose(seen, wanted, atol=1e-5) for wanted in masked] for seen in live]
    np.testing.assert_array_equal(np.sum(matches, axis=0), 1)
    np.testing.assert_array_equal(np.sum(matches, axis=1), 1)


def test_flat_channels_have_no_weight(example):
    weights = run(*example, chunk_size=4)
    for image in range(2):
        for channel in range(5):
            assert (weights[image, channel] == 0).all() == ((image, channel) in FLAT)


def test_images_that_are_not_valid_are_not_forwarded(example, expected):
    weights = run(*example, chunk_size=1, valid=(False, True))
    np.testing.assert_array_equal(weights[0], np.zeros((5, 4)))
    np.testing.assert_allclose(weights[1], expected[1], atol=2e-6)
    assert len(recorder.chunks) == 3  # of five channels two are flat


def test_nothing_live_forwards_nothing(example):
    weights = run(example[0], np.ones((2, 3, 4, 5), np.float32), chunk_size=4)
    np.testing.assert_array_equal(weights, np.zeros((2, 5, 4)))
    assert recorder.chunks == []


def test_what_fills_a_chunk_up_does_no_harm(example, expected):
    """A network whose score of a blank image is not a number: fillers are forwarded, not used."""

    def scores(masked):
        blank = (masked == 0).all(axis=(1, 2, 3))
        return jnp.where(blank[:, None], jnp.nan, jax.nn.sigmoid(network(masked)))

    weights = run(*example, chunk_size=10, scores=scores)
    np.testing.assert_allclose(weights, expected, atol=2e-6)


def test_memory_does_not_grow_with_the_number_of_channels():
    """No array of the program holds all masks at the size of the image."""
    shapes = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def temporary(channels):
        fn = jax.jit(
            lambda images, activations: masking.score_cam_weights(
                lambda masked: jax.nn.sigmoid(network(masked)), images, activations, chunk_size=4
            )
        )
        activations = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
        return fn.lower(shapes, activations).compile().memory_analysis().temp_size_in_bytes

    all_masks = 4 * 64 * 64 * (512 - 16)
    assert temporary(512) - temporary(16) < all_masks / 20


def test_derivative_at_zero_is_finite():
    """Forward mode: a loop whose end depends on the data has no reverse mode."""

    def weights(images, activations):
        return masking.score_cam_weights(
            lambda masked: jax.nn.sigmoid(network(masked)), images, activations, chunk_size=4
        )

    zeros = jnp.zeros((1, *SIZE, 3)), jnp.zeros((1, 3, 4, 5))
    ones = jax.tree.map(jnp.ones_like, zeros)
    value, tangent = jax.jit(lambda x, t: jax.jvp(weights, x, t))(zeros, ones)
    assert np.isfinite(value).all() and np.isfinite(tangent).all()


def most_varied(activations, n):
    """The `n` live channels of one image with the highest standard deviation."""
    spread = [np.std(channel.astype(float)) for channel in np.moveaxis(activations, -1, 0)]
    live = [k for k in range(len(spread)) if spread[k] > 0]
    return sorted(live, key=lambda k: -spread[k])[:n]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_with_the_highest_standard_deviation(example, expected, channels):
    """The others weigh 0 and are not forwarded."""
    weights = run(*example, chunk_size=1, channels=channels)
    kept = [most_varied(activations, channels) for activations in example[1]]
    for image in range(2):
        for channel in range(5):
            wanted = expected[image, channel] if channel in kept[image] else np.zeros(4)
            np.testing.assert_allclose(weights[image, channel], wanted, atol=2e-6)
    assert len(recorder.chunks) == sum(map(len, kept)) == min(channels, 4) + min(channels, 3)
    assert channels != 2 or kept == [[0, 4], [1, 4]]  # not the first ones


@pytest.mark.parametrize("channels", [4, 5, 100])
def test_as_many_channels_as_are_live_are_the_exact_weights(example, channels):
    exact = run(*example, chunk_size=4)
    np.testing.assert_array_equal(run(*example, chunk_size=4, channels=channels), exact)


def test_channels_that_barely_live_come_before_flat_ones(example):
    """Their variance is less than the smallest number."""
    images, activations = example
    activations = np.where(np.arange(5) == 4, 1e-30 * activations, 0).astype(np.float32)
    weights = run(images, activations, chunk_size=1, channels=1)
    assert (weights[..., 4, :] > 0).all() and (weights[..., :4, :] == 0).all()
    assert len(recorder.chunks) == 2


@pytest.fixture(scope="module")
def alike():
    """Channels of three shapes, whatever their scale, and a flat one."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    shapes = rng.uniform(size=(2, 3, 4, 3))
    channels = shapes[..., [0, 1, 2, 1, 0, 1]] + 0.03 * rng.normal(size=(2, 3, 4, 6))
    channels *= [1, 10, 2, 0.1, 5, 3]
    return images, np.concatenate([channels, np.ones((2, 3, 4, 1))], axis=-1).astype(np.float32)


GROUPS = ((0, 4), (1, 3, 5), (2,))


def test_clusters_share_the_weight_of_their_mean_mask(alike):
    """One forward pass a cluster; flat channels weigh 0."""
    images, activations = alike
    weights = run(images, activations, chunk_size=1, clusters=3)
    assert weights.shape == (2, 7, 4) and len(recorder.chunks) == 2 * 3
    for image in range(2):
        for group in GROUPS:
            maps = [reference.normalize(activations[image, ..., k].astype(float)) for k in group]
            mask = reference.normalize(reference.resize(np.mean(maps, axis=0), SIZE))
            masked = images[image].astype(float) * mask[..., None]
            for k in group:
                np.testing.assert_allclose(
                    weights[image, k], reference.sigmoid(logits64(masked)), atol=5e-6
                )
    np.testing.assert_array_equal(weights[:, 6], 0)


def test_permuted_channels_have_permuted_weights(alike):
    images, activations = alike
    order = [3, 6, 0, 5, 2, 1, 4]
    for options in ({"clusters": 2}, {"channels": 3}, {}):
        weights = run(images, activations, chunk_size=4, **options)
        permuted = run(images, activations[..., order], chunk_size=4, **options)
        np.testing.assert_allclose(permuted, weights[:, order], atol=2e-6)


@pytest.mark.parametrize("clusters", [5, 8, 100])
def test_a_cluster_for_each_channel_gives_the_exact_weights(example, expected, clusters):
    """Of the channels given twice, two have one forward pass."""
    images, activations = example
    weights = run(images, np.tile(activations, 2), chunk_size=1, clusters=clusters)
    np.testing.assert_allclose(weights, np.tile(expected, (1, 2, 1)), atol=5e-6)
    assert len(recorder.chunks) == NUM_LIVE


def test_clusters_of_images_that_are_not_valid_are_not_forwarded(alike):
    both = run(*alike, chunk_size=1, clusters=2)
    one = run(*alike, chunk_size=1, clusters=2, valid=(False, True))
    assert len(recorder.chunks) == 2
    np.testing.assert_array_equal(one[0], np.zeros((7, 4)))
    np.testing.assert_array_equal(one[1], both[1])


def test_labels_of_clusters(alike):
    every = run(*alike, chunk_size=4, clusters=2)
    labels = jnp.array([[2, 0], [1, 3]])
    chosen = jax.jit(
        lambda images, activations: masking.score_cam_weights(
            recorder, images, activations, labels=labels, clusters=2, chunk_size=4
        )
    )(*alike)
    for image in range(2):
        np.testing.assert_allclose(chosen[image], every[image][:, labels[image]], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be an integer of at least 1, not 0"),
        ({"clusters": -1}, "clusters must be an integer of at least 1, not -1"),
        ({"clusters": 2.5}, "clusters must be an integer of at least 1, not 2.5"),
        ({"channels": 3, "clusters": 2}, "channels=3 and clusters=2 exclude each other"),
    ],
)
def test_errors(example, options, message):
    with pytest.raises(ValueError, match=message) as error:
        masking.score_cam_weights(network, *example, chunk_size=4, **options)
    assert "\n" not in str(error.value)


def test_what_is_not_forwarded_has_the_weight_asked_for(example, expected):
    """Flat channels, images that only fill up a batch, and what an approximation leaves out."""
    skipped = {"skipped_weight": -np.inf}
    weights = run(*example, chunk_size=4, valid=(False, True), **skipped)
    np.testing.assert_array_equal(weights[0], np.full((5, 4), -np.inf))
    np.testing.assert_array_equal(weights[1, [0, 3]], np.full((2, 4), -np.inf))
    np.testing.assert_allclose(weights[1, [1, 2, 4]], expected[1, [1, 2, 4]], atol=2e-6)
    weights = run(*example, chunk_size=4, channels=2, **skipped)
    assert [np.isfinite(row).all(axis=1).nonzero()[0].tolist() for row in weights] == [
        sorted(most_varied(activations, 2)) for activations in example[1]
    ]
    weights = run(*example, chunk_size=4, clusters=2, **skipped)
    assert {(b, k) for b, k in np.ndindex(2, 5) if np.isinf(weights[b, k]).all()} == set(FLAT)


softmax_score_cam = jax.jit(jax.vmap(masking.softmax_score_cam))


def softmax_score_cam64(activations, scores):
    """Of one example; the softmax is over the channels that count."""
    channels = range(activations.shape[-1])
    live = [k for k in channels if np.ptp(activations[..., k]) > 0 and scores[k] > -np.inf]
    highest = max((scores[k] for k in live), default=0.0)
    powers = [np.exp(scores[k] - highest) if k in live else 0.0 for k in channels]
    total = sum(powers) or 1.0
    return reference.weighted_map(activations, [power / total for power in powers])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from([(3, 4, 5), (1, 2, 1), (1, 1, 3)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 30.0, 1e4]),
)
def test_softmax_score_cam(shape, seed, scale):
    """Logits however large; some channels flat, some left out."""
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=(2, *shape)).astype(np.float32)
    scores = (scale * rng.normal(size=(2, shape[-1]))).astype(np.float32)
    for b in range(2):
        activations[b][..., rng.uniform(size=shape[-1]) < 0.3] = 2
        scores[b][rng.uniform(size=shape[-1]) < 0.3] = -np.inf
    maps = softmax_score_cam(activations, scores)
    assert maps.shape == (2, *shape[:2]) and maps.dtype == np.float32
    for b in range(2):
        expected = softmax_score_cam64(activations[b].astype(float), scores[b].astype(float))
        np.testing.assert_allclose(maps[b], expected, rtol=1e-4, atol=1e-5)


def test_the_baseline_cancels_in_the_softmax():
    """Two channels whose scores differ by the logarithm of three weigh 3/4 and 1/4."""
    activations = np.array([[[[4.0, 0.0, 1.0], [0.0, 4.0, 1.0]]]], np.float32)
    for baseline in (0.0, 5.0, -300.0):
        scores = np.array([[np.log(3.0), 0.0, 9.0]], np.float32) + np.float32(baseline)
        np.testing.assert_allclose(softmax_score_cam(activations, scores), [[[3, 1]]], rtol=1e-4)


def test_nothing_live_has_an_empty_map():
    activations = np.ones((1, 2, 3, 4), np.float32)
    for scores in (np.ones((1, 4), np.float32), np.full((1, 4), -np.inf, np.float32)):
        np.testing.assert_array_equal(softmax_score_cam(activations, scores), np.zeros((1, 2, 3)))


def test_a_score_of_ones_own_is_0_where_nothing_is_looked_through():
    """Score-CAM by logits and two channels of each image, of a network with a dead channel."""
    variables, images = toys.toy_variables(), toys.toy_images(2)
    twin = toys.Toy64(variables, images[1])
    activations = twin.taps["late"]
    by_logits = mj.Method("masking", None, weights.cam, seen_as=lambda logits: logits)
    maps, _ = mj.explain(toys.toy_network(), variables, images, method=by_logits, channels=2)
    masks = reference.score_cam_masks(activations, toys.SIZE)
    kept = most_varied(activations, 2)
    assert toys.DEAD not in masks and len(masks) > len(kept) == 2
    logits = {k: toys.Toy64(variables, images[1] * masks[k][..., None]).logits for k in kept}
    for label in range(toys.NUM_LABELS):
        wanted = sum(logits[k][label] * activations[..., k] for k in kept)
        np.testing.assert_allclose(maps[1, label], np.maximum(wanted, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(maps[0], np.zeros_like(maps[0]))
