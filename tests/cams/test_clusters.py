"""Clusters against k-means written out in float64, one channel and one centre at a time."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.cams.clusters import cluster_channels
from tests import reference

ROUNDS = 10


def live_points(activations):
    """`{channel: normalised map}`, without flat channels."""
    channels = np.moveaxis(activations.astype(float), -1, 0)
    return {k: reference.normalize(each) for k, each in enumerate(channels) if np.ptp(each) > 0}


def distant_points(activations, n):
    """The channels whose maps are the first centres."""
    points = live_points(activations)
    chosen = [max(points, key=lambda k: np.std(activations[..., k].astype(float)))]

    def nearest(k):
        return min(((points[k] - points[other]) ** 2).sum() for other in chosen)

    while len(chosen) < n and nearest(farthest := max(points, key=nearest)) > 0:
        chosen.append(farthest)
    return chosen


def k_means(activations, n):
    """`(h w k)` to mean maps `(h w n)` and the cluster of each channel (n where flat)."""
    points = live_points(activations)
    means, index = np.zeros((*activations.shape[:2], n)), np.full(activations.shape[-1], n)
    centres = [points[k] for k in distant_points(activations, n)]

    def distance(k, centre):
        return ((points[k] - centre) ** 2).sum()

    for _ in range(ROUNDS):
        for k in points:
            index[k] = min(range(len(centres)), key=lambda i: distance(k, centres[i]))
        for i in range(len(centres)):
            members = [points[k] for k in points if index[k] == i]
            means[..., i] = np.mean(members, axis=0) if members else 0
            centres[i] = means[..., i].copy() if members else centres[i]
    return means, index


@functools.cache
def compiled(n):
    return jax.jit(lambda activations: cluster_channels(activations, n))


def run(activations, n):
    means, index = compiled(n)(np.asarray(activations, np.float32))
    assert means.dtype == np.float32 and index.dtype == np.int32
    return np.asarray(means), np.asarray(index)


@pytest.fixture(scope="module")
def example():
    """Channels about five shapes, of many scales; one of the second image is flat."""
    rng = np.random.default_rng(0)
    shapes = rng.uniform(size=(2, 4, 5, 5))
    noise = 0.2 * rng.normal(size=(2, 4, 5, 24))
    channels = (shapes[..., rng.integers(0, 5, 24)] + noise) * rng.uniform(0.1, 10, 24)
    channels[1, ..., 7] = 0.3
    return channels.astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 5, 9, 24])
def test_clusters(example, n):
    means, index = run(example, n)
    for image in range(2):
        expected = k_means(example[image], n)
        np.testing.assert_array_equal(index[image], expected[1])
        np.testing.assert_allclose(means[image], expected[0], atol=1e-6)


def test_the_rounds_matter():
    """They move channels from the clusters of the first centres, to nearer means."""
    channels = np.random.default_rng(9).uniform(size=(1, 2, 3, 24)).astype(np.float32)
    points = list(live_points(channels[0]).values())
    means, index = run(channels, 4)
    np.testing.assert_array_equal(index[0], k_means(channels[0], 4)[1])
    first = np.array([points[k] for k in distant_points(channels[0], 4)])
    distances = np.array([((point - first) ** 2).sum(axis=(1, 2)) for point in points])
    assert (distances.argmin(axis=1) != index[0]).sum() >= 3
    moved = [((points[k] - means[0, ..., index[0, k]]) ** 2).sum() for k in range(24)]
    assert sum(moved) < distances.min(axis=1).sum()


def test_the_order_of_channels_does_not_matter(example):
    order = np.random.default_rng(1).permutation(24)
    means, index = run(example, 5)
    permuted_means, permuted_index = run(example[..., order], 5)
    np.testing.assert_array_equal(permuted_index, index[:, order])
    np.testing.assert_allclose(permuted_means, means, atol=1e-6)


def test_the_scale_of_channels_matters_only_for_the_first(example):
    """Maps are normalised; the first centre is the most varied channel."""
    scaled = example * np.where(np.arange(24) == 3, 1e6, 1).astype(np.float32)
    _, index = run(scaled, 24)
    assert index[0, 3] == index[1, 3] == 0
    np.testing.assert_array_equal(run(example * 8 + 4, 5)[1], run(example, 5)[1])


def test_empty_clusters_where_channels_repeat(example):
    """Three distinct maps, each of several channels; a doubled one has the same map."""
    channels = np.concatenate([example[..., :3], example[..., :3], 2 * example[..., 1:2]], axis=-1)
    means, index = run(channels, 6)
    for image in range(2):
        groups = index[image]
        assert sorted(set(groups)) == [0, 1, 2]
        np.testing.assert_array_equal(groups[3:6], groups[:3])
        assert groups[6] == groups[1]
        for k in range(3):
            expected = reference.normalize(channels[image, ..., k])
            np.testing.assert_allclose(means[image, ..., groups[k]], expected, atol=1e-6)
    np.testing.assert_array_equal(means[..., 3:], 0)


def test_flat_channels_only():
    means, index = run(np.ones((2, 4, 5, 3)), 2)
    np.testing.assert_array_equal(means, np.zeros((2, 4, 5, 2)))
    np.testing.assert_array_equal(index, np.full((2, 3), 2))


def test_more_clusters_than_channels(example):
    means, index = run(example[..., :4], 50)
    assert means.shape == (2, 4, 5, 4)
    assert (np.sort(index, axis=1) == np.arange(4)).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    levels=st.integers(1, 5),
    n=st.sampled_from([1, 3, 8]),
)
def test_every_live_channel_has_a_cluster_that_is_not_empty(seed, levels, n):
    """Also where many channels are equal or flat: their values have few levels."""
    rng = np.random.default_rng(seed)
    channels = rng.integers(0, levels, (2, 2, 2, 8)).astype(np.float32)
    means, index = run(channels, n)
    flat = np.ptp(channels, axis=(1, 2)) == 0
    np.testing.assert_array_equal(index == n, flat)
    assert ((index >= 0) & (index <= n)).all() and np.isfinite(means).all()
    for image in range(2):
        points = [reference.normalize(channels[image, ..., k]) for k in range(8)]
        for i in range(n):
            members = [points[k] for k in range(8) if index[image, k] == i]
            expected = np.mean(members, axis=0) if members else np.zeros((2, 2))
            np.testing.assert_allclose(means[image, ..., i], expected, atol=1e-6)
        found = {(points[k].tobytes(), index[image, k]) for k in range(8) if not flat[image, k]}
        distinct = {point for point, _ in found}
        if len(distinct) <= n:  # each map is a cluster
            assert len(found) == len(distinct) == len({i for _, i in found})


def test_memory_grows_with_channels_and_clusters_only():
    """Not with channels times clusters times pixels."""

    def temporary(pixels):
        shape = jax.ShapeDtypeStruct((1, 4, pixels // 4, 128), np.float32)
        compiled = jax.jit(lambda x: cluster_channels(x, 64)).lower(shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(256) < 4 * 128 * 64 * 256 / 4
