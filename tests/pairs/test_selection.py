from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.pairs import parse_mode, rank_classes, select_classes

SIMILARITY = np.array(
    [
        [9, 5, 3, 3, 8, 1],
        [2, 9, 2, 2, 2, 2],
        [1, 2, 9, 3, 4, 5],
        [5, 4, 3, 9, 2, 1],
        [0, 7, 0, 7, 9, 7],
        [6, 1, 2, 8, 3, 9],
    ]
)
CLUSTERS = np.array([0, 1, 0, 2, 1, 0])


def falling(row, index):
    return sorted((other for other in range(len(row)) if other != index), key=lambda j: -row[j])


def test_others_by_falling_similarity():
    ranked = rank_classes(SIMILARITY)
    assert ranked.dtype == np.int64
    np.testing.assert_array_equal(ranked[0], [4, 1, 2, 3, 5])
    np.testing.assert_array_equal(ranked[1], [0, 2, 3, 4, 5])  # ties: the lower index first
    np.testing.assert_array_equal(ranked[4], [1, 3, 5, 0, 2])


def test_one_of_each_cluster():
    def select(mode):
        return select_classes(SIMILARITY, mode=mode, clusters=CLUSTERS)

    assert select("cluster-1") == [[2, 4, 3], [0, 4, 3], [5, 4, 3], [0, 1], [5, 1, 3], [0, 4, 3]]
    assert select("cluster-2") == [[5, 1, 3], [2, 4, 3], [0, 1, 3], [2, 4], [0, 1, 3], [2, 1, 3]]
    assert select("cluster-3") == select("cluster-3000")
    assert select("cluster-3")[1] == [5, 4, 3]


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 9), st.integers(1, 4))
def test_the_member_of_each_cluster_by_a_loop(seed, n, k):
    rng = np.random.default_rng(seed)
    similarity, clusters = rng.integers(0, 4, (n, n)), rng.integers(0, 3, n)
    expected = []
    for index in range(n):
        chosen = []
        for cluster in sorted(set(clusters.tolist())):
            members = [j for j in falling(similarity[index], index) if clusters[j] == cluster]
            if members:
                chosen.append(members[min(k, len(members)) - 1])
        expected.append(chosen)
    assert select_classes(similarity, mode=f"cluster-{k}", clusters=clusters) == expected


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 9), st.data())
def test_positions_of_the_whole_order(seed, n, data):
    similarity = np.random.default_rng(seed).integers(0, 4, (n, n))
    positions = data.draw(st.lists(st.integers(1, n - 1), min_size=1, unique=True))
    found = select_classes(similarity, mode="rank-" + ",".join(map(str, positions)))
    for index, row in enumerate(similarity):
        assert found[index] == [falling(row, index)[position - 1] for position in positions]


def test_published_positions_for_20_classes_and_for_others():
    assert parse_mode("rank-a", 20) == ("rank", (3, 9, 14, 17))
    assert parse_mode("rank-b", 20) == ("rank", (3, 8, 13, 18))
    assert parse_mode("rank-a", 80) == ("rank", (12, 37, 58, 71))
    assert parse_mode("rank-b", 10) == ("rank", (1, 4, 6, 9))
    assert parse_mode("rank-a", 4) == ("rank", (1, 2, 3))  # 0.47, 1.4, 2.2 and 2.7
    assert parse_mode("rank-a", 2) == parse_mode("rank-b", 2) == ("rank", (1,))
    similarity = np.random.default_rng(0).uniform(size=(20, 20))
    found = select_classes(similarity, mode="rank-a")
    for index, row in enumerate(similarity):
        assert found[index] == [falling(row, index)[position] for position in (2, 8, 13, 16)]


@pytest.mark.parametrize("n", range(2, 100))
def test_published_positions_exist_for_any_number(n):
    for mode in ("rank-a", "rank-b"):
        positions = parse_mode(mode, n)[1]
        assert list(positions) == sorted(set(positions)) and 1 <= positions[0]
        assert positions[-1] <= n - 1


def test_by_chance():
    similarity = np.ones((8, 8))
    keys = [jax.random.key(number) for number in range(20)]
    draws = [select_classes(similarity, mode="random-3", key=key) for key in keys]
    for draw in draws:
        for index, others in enumerate(draw):
            assert len(set(others)) == 3 and index not in others
            assert all(type(other) is int and 0 <= other < 8 for other in others)
    assert draws[0] == select_classes(similarity, mode="random-3", key=keys[0])
    for index in range(8):  # each of the others comes in some draw
        drawn = {other for draw in draws for other in draw[index]}
        assert drawn == set(range(8)) - {index}
    positions = [[j - (j > index) for j in others] for index, others in enumerate(draws[0])]
    assert len(set(map(tuple, positions))) > 1  # classes draw apart
    plain = select_classes(similarity, mode="random", key=keys[0])
    assert plain == select_classes(similarity, mode="random-4", key=keys[0])
    assert [len(set(others)) for others in plain] == [4] * 8


def test_all_others():
    assert select_classes(np.ones((3, 3)), mode="all") == [[1, 2], [0, 2], [0, 1]]


def test_the_highest_scores_of_a_class():
    """A column is a class; the diagonal and missing scores are never chosen."""
    scores = [
        [None, 0.5, None, 0.2],
        [0.3, 9.0, None, 0.2],
        [0.1, 0.6, None, 0.2],
        [0.2, float("nan"), None, 9.0],
    ]
    similarity = np.ones((4, 4))
    found = select_classes(similarity, mode="top-2", scores=scores)
    assert found == [[1, 3], [2, 0], [], [0, 1]]
    assert select_classes(similarity, mode="top-1", scores=scores) == [[1], [2], [], [0]]
    found = select_classes(similarity, mode="top-3", scores=scores)
    assert found == [[1, 3, 2], [2, 0], [], [0, 1, 2]]
    assert scores[1][1] == 9


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(2, 9), st.data())
def test_the_highest_scores_by_a_loop(seed, n, data):
    scores = np.random.default_rng(seed).integers(0, 4, (n, n)).astype(float)
    given = scores.copy()
    k = data.draw(st.integers(1, n - 1))
    found = select_classes(np.ones((n, n)), mode=f"top-{k}", scores=scores)
    assert found == [falling(scores[:, index], index)[:k] for index in range(n)]
    np.testing.assert_array_equal(scores, given)


@pytest.mark.parametrize(
    "mode",
    ["cluster", "cluster-", "cluster-1,2", "rank", "rank-", "rank-c", "rank-1,", "rank-1.5"]
    + ["random--1", "all-2", "top", "top-x", "Top-1", " all", "", None, "rank-\u0663"],
)
def test_unknown_modes(mode):
    valid = "cluster-K, rank-a, rank-b, rank-P,P,..., random, random-K, all, top-K"
    with pytest.raises(ValueError) as error:
        parse_mode(mode, 20)
    assert str(error.value) == f"unknown mode: {mode!r}, valid: {valid}"


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("rank-3,20", "20 must be at least 1 and at most 19, of 20 classes"),
        ("rank-0", "0 must be at least 1 and at most 19, of 20 classes"),
        ("random-20", "20 must be at least 1 and at most 19, of 20 classes"),
        ("top-0", "0 must be at least 1 and at most 19, of 20 classes"),
        ("cluster-0", "0 must be at least 1$"),
        ("rank-3,4,3", "names a position twice"),
    ],
)
def test_numbers_that_do_not_exist(mode, message):
    with pytest.raises(ValueError, match=f"mode '{mode}':? {message}"):
        parse_mode(mode, 20)
    with pytest.raises(ValueError, match=f"mode '{mode}'"):
        select_classes(np.ones((20, 20)), mode=mode)


def test_what_a_mode_needs():
    for mode, option in (("cluster-1", "clusters"), ("random", "key"), ("top-1", "scores")):
        with pytest.raises(ValueError, match=f"mode '{mode}' needs {option}"):
            select_classes(SIMILARITY, mode=mode)
    with pytest.raises(ValueError, match=r"clusters must have shape \(6,\), not \(5,\)"):
        select_classes(SIMILARITY, clusters=CLUSTERS[:5])
    with pytest.raises(ValueError, match=r"scores must have shape \(6, 6\), not \(6, 5\)"):
        select_classes(SIMILARITY, mode="top-1", scores=np.ones((6, 5)))
    with pytest.raises(ValueError, match=r"similarity must be \(n n\)"):
        rank_classes(np.ones((6, 5)))
