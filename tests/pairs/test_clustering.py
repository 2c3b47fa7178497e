"""Clusters against the rule written out with sets and fractions, from all partitions there are."""

from __future__ import annotations

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.pairs import cluster_classes

KEY = jax.random.key(0)


def mean(values):
    return Fraction(sum(values), len(values)) if values else Fraction(0)


def likeness(similarity, index, cluster):
    return mean([int(similarity[index, other]) for other in cluster - {index}])


def within(similarity, partition):
    return mean([likeness(similarity, i, own) for own in partition for i in own])


def after_a_round(similarity, partition, min_size):
    groups = [set(group) for group in sorted(partition, key=min)]
    for index in range(len(similarity)):
        own = next(group for group in groups if index in group)
        if len(own) == min_size:
            continue
        # Among equals, `max` takes the first.
        best = max([own, *groups], key=lambda group: likeness(similarity, index, group))
        own.remove(index)
        best.add(index)
    return frozenset(map(frozenset, groups))


def ends(similarity, partition, min_size):
    """Partitions in which moves end from one, more than one where they end in a cycle."""
    seen = []
    while partition not in seen:
        seen.append(partition)
        partition = after_a_round(similarity, partition, min_size)
    return seen[seen.index(partition) :]


def all_partitions(n, num_clusters, min_size):
    found = set()
    for clusters in itertools.product(range(num_clusters), repeat=n):
        groups = as_partition(clusters)
        if len(groups) == num_clusters and min(map(len, groups)) >= min_size:
            found.add(groups)
    return found


def as_partition(clusters):
    groups = {}
    for index, cluster in enumerate(clusters):
        groups.setdefault(int(cluster), set()).add(index)
    return frozenset(map(frozenset, groups.values()))


def integers(seed, n=6):
    """Few values, so that there are ties."""
    return np.random.default_rng(seed).integers(0, 5, (n, n))


def planted(sizes, seed):
    """Asymmetric; 0.95 to 1 inside blocks and 0 to 0.05 outside, classes in any order."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    noise = 0.05 * rng.uniform(size=(len(truth), len(truth)))
    return noise + 0.95 * (truth[:, None] == truth[None]), truth


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    restarts=st.sampled_from([1, 4]),
    options=st.sampled_from([(2, 1), (2, 2), (3, 1), (3, 2), (6, 1), (1, 1)]),
)
def test_moves_end_where_the_rule_says(seed, restarts, options):
    """In an end of some partition, none of which is better than the best of all partitions."""
    similarity, (num_clusters, min_size) = integers(seed), options
    found = cluster_classes(
        jax.random.key(seed),
        similarity,
        num_clusters=num_clusters,
        min_size=min_size,
        restarts=restarts,
    )
    assert found.dtype == np.int64 and found.shape == (6,)
    everything = all_partitions(6, num_clusters, min_size)
    assert as_partition(found) in {
        end for start in everything for end in ends(similarity, start, min_size)
    }
    best = max(within(similarity, each) for each in everything)
    assert within(similarity, as_partition(found)) <= best
    first = [found.tolist().index(cluster) for cluster in range(num_clusters)]
    assert first == sorted(first)  # clusters are numbered by their lowest class


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("num_clusters", "min_size"), [(2, 1), (3, 1), (2, 2)])
def test_the_best_end_wins(seed, num_clusters, min_size):
    """Of enough restarts each partition is one; cycles are among these."""
    similarity = integers(seed)
    options = {"num_clusters": num_clusters, "min_size": min_size, "restarts": 256}
    found = cluster_classes(KEY, similarity, **options)
    candidates = [
        end
        for start in all_partitions(6, num_clusters, min_size)
        for end in ends(similarity, start, min_size)
    ]
    assert within(similarity, as_partition(found)) == max(
        within(similarity, end) for end in candidates
    )


def test_a_cycle_gives_its_best_partition():
    """No partition of these classes is at rest: class 0 seeks class 1, which seeks class 2."""
    similarity = np.array([[0, 3, 0, 3], [1, 0, 2, 1], [3, 0, 0, 1], [2, 1, 0, 0]])
    starts = all_partitions(4, 2, 1)
    assert all(len(ends(similarity, start, 1)) == 2 for start in starts)
    found = cluster_classes(KEY, similarity, num_clusters=2, restarts=8).tolist()
    expected = max(
        (end for start in starts for end in ends(similarity, start, 1)),
        key=lambda end: within(similarity, end),
    )
    assert as_partition(found) == expected


def test_moves_without_an_end_give_the_best_of_100_rounds():
    """Of 40 classes without any order; where nothing is alike, the random partition is returned."""
    similarity = np.random.default_rng(0).integers(0, 1000, (40, 40))
    partition = as_partition(cluster_classes(KEY, np.zeros((40, 40)), restarts=1))
    seen = [partition]
    while len(seen) < 100:
        partition = after_a_round(similarity, partition, 1)
        seen.append(partition)
    assert len(set(seen)) == 100
    found = cluster_classes(KEY, similarity, restarts=1)
    assert as_partition(found) == max(seen, key=lambda each: within(similarity, each))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    sizes=st.sampled_from([(4, 4, 4, 4), (3, 3, 4, 6), (5, 3, 5, 3)]),
    min_size=st.sampled_from([1, 3]),
)
def test_planted_clusters_are_found(seed, sizes, min_size):
    similarity, truth = planted(sizes, seed)
    found = cluster_classes(KEY, similarity, min_size=min_size)
    assert as_partition(found) == as_partition(truth)


def test_the_order_of_classes_does_not_matter():
    similarity, truth = planted((4, 4, 4, 4), 0)
    order = np.random.default_rng(1).permutation(16)
    found = cluster_classes(KEY, similarity)
    permuted = cluster_classes(KEY, similarity[np.ix_(order, order)])
    assert as_partition(permuted) == as_partition(found[order])
    assert permuted[0] == 0


def test_rows_are_what_a_class_finds_alike():
    """Classes 0 and 1 are alike in their rows; columns say another thing."""
    similarity = np.zeros((4, 4))
    similarity[0, 1] = similarity[1, 0] = similarity[2, 3] = similarity[3, 2] = 5
    similarity[0, 2] = similarity[1, 2] = 4  # they find class 2 alike, less than each other
    found = cluster_classes(KEY, similarity, num_clusters=2, min_size=2)
    np.testing.assert_array_equal(found, [0, 0, 1, 1])


def test_a_class_without_images_lies_where_others_find_it_alike():
    similarity, truth = planted((4, 4, 4, 4), 2)
    similarity[5] = 0
    assert as_partition(cluster_classes(KEY, similarity, restarts=128)) == as_partition(truth)
    similarity[:, 5] = 0  # nor do others know it: somewhere, and the others as before
    found = cluster_classes(KEY, similarity, restarts=128)
    assert as_partition(np.delete(found, 5)) == as_partition(np.delete(truth, 5))


def test_without_any_similarity_nothing_moves():
    """All is a tie, so the first random partition stays."""
    options = {"num_clusters": 3, "min_size": 2}
    found = cluster_classes(KEY, np.zeros((8, 8)), **options)
    assert np.bincount(found).min() >= 2 and len(np.bincount(found)) == 3
    once = cluster_classes(KEY, np.zeros((8, 8)), **options, restarts=1)
    np.testing.assert_array_equal(found, once)


@pytest.mark.parametrize("min_size", [1, 2, 3, 4])
def test_no_cluster_becomes_too_small(min_size):
    """All classes want to be with class 0."""
    similarity = np.where(np.arange(12) == 0, 9.0, 0.1) * np.ones((12, 1))
    found = cluster_classes(KEY, similarity, num_clusters=3, min_size=min_size)
    assert sorted(np.bincount(found)) == [min_size, min_size, 12 - 2 * min_size]


def test_as_many_clusters_as_classes_or_one():
    similarity = integers(0)
    np.testing.assert_array_equal(cluster_classes(KEY, similarity, num_clusters=6), np.arange(6))
    np.testing.assert_array_equal(cluster_classes(KEY, similarity, num_clusters=1), np.zeros(6))


def test_the_key_decides_and_more_restarts_are_never_worse():
    similarity = np.random.default_rng(0).integers(0, 1000, (14, 14))
    values = []
    for restarts in (1, 2, 4, 8, 16):
        found = cluster_classes(KEY, similarity, num_clusters=3, restarts=restarts)
        again = cluster_classes(KEY, similarity, num_clusters=3, restarts=restarts)
        np.testing.assert_array_equal(found, again)
        values.append(within(similarity, as_partition(found)))
    assert values == sorted(values) and values[0] < values[-1]
    # Where nothing moves, the partition is the random one.
    starts = [cluster_classes(jax.random.key(k), np.zeros((10, 10))) for k in range(5)]
    assert len(set(map(as_partition, starts))) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 7}, "num_clusters 7 with min_size 1 needs at least 7 classes, there are"),
        (
            {"num_clusters": 3, "min_size": 3},
            "num_clusters 3 with min_size 3 needs at least 9 classes, there are 6",
        ),
        ({"num_clusters": 0}, "num_clusters must be at least 1, not 0"),
        ({"min_size": 0}, "min_size must be at least 1, not 0"),
        ({"restarts": True}, "restarts must be at least 1, not True"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_classes(KEY, integers(0), **options)
    with pytest.raises(ValueError, match=r"similarity must be \(n n\)"):
        cluster_classes(KEY, np.ones((6, 5)))
