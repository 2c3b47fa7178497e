from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax import sweep_state
from minmax_jax.metrics import sums
from minmax_jax.metrics.sums import Score
from minmax_jax.sweep_state import Place, State

ROWS = 3
# Pieces of two batches and the number of pairs in each; chunks of four pairs.
PIECES = st.lists(st.integers(0, 9), min_size=1, max_size=6)
CHUNK = 4


def pair(number):
    """What the number-th pair of all adds, and to which row."""
    return np.sin(number), number % ROWS


def places(pieces):
    """Where each piece begins, and the end; a batch has two pieces of three images."""
    before = np.concatenate([[0], np.cumsum(pieces)])
    return [
        Place(number // 2, 3 * (number % 2), 3 * number, int(pairs))
        for number, pairs in enumerate(before)
    ]


def work(state, pieces, *, read_ahead, stop=None):
    """Reads pieces from where the state goes on and counts chunks, up to `stop` of them."""
    path = places(pieces)
    start, counted, waiting, chunks = path.index(state.places[0]), state.counted, [], 0
    for number in range(start, len(pieces)):
        first = path[number].pairs
        waiting += range(max(first, counted), first + pieces[number])
        if read_ahead:
            state.read_to(path[number + 1])
        while len(waiting) >= CHUNK or (waiting and number + 1 == len(pieces)):
            chunk, waiting = waiting[:CHUNK], waiting[CHUNK:]
            values, rows = np.array([pair(one) for one in chunk]).T
            state.count({"a": Score(values, np.ones(len(chunk), bool))}, rows.astype(int))
            chunks += 1
            if chunks == stop:
                return
        if not read_ahead:
            state.read_to(path[number + 1])


@settings(deadline=None)
@given(PIECES, st.integers(1, 8), st.booleans())
def test_a_stopped_sweep_counts_every_pair_once(pieces, stop, read_ahead):
    state = State(sums=sums.zero(["a"], ROWS))
    work(state, pieces, read_ahead=read_ahead, stop=stop)
    saved = sweep_state.to_bytes(state, "me")
    again = sweep_state.from_bytes(saved, "me")
    work(again, pieces, read_ahead=read_ahead)

    whole = State(sums=sums.zero(["a"], ROWS))
    work(whole, pieces, read_ahead=read_ahead)
    assert again.counted == whole.counted == sum(pieces)
    np.testing.assert_array_equal(again.sums["a"].total, whole.sums["a"].total)
    np.testing.assert_array_equal(again.sums["a"].count, whole.sums["a"].count)
    assert again.places[-1] == whole.places[-1] == places(pieces)[-1]
    expected = np.zeros(ROWS)
    for number in range(sum(pieces)):
        value, row = pair(number)
        expected[row] += value
    np.testing.assert_allclose(whole.sums["a"].total, expected, atol=1e-12)


@given(PIECES, st.integers(1, 8))
def test_a_run_goes_on_at_the_first_piece_that_is_not_done(pieces, stop):
    state = State(sums=sums.zero(["a"], ROWS))
    work(state, pieces, read_ahead=True, stop=stop)
    ends = [place.pairs for place in places(pieces)[1:]]
    read = places(pieces).index(state.places[-1])
    done = sum(end <= state.counted for end in ends[:read])
    assert state.places[0] == places(pieces)[done]


def test_a_state_is_written_and_read_back(tmp_path):
    state = State(total=3, rows=2, sums=sums.zero(["a", "b"], 2), approximation={"mean": 0.5})
    state.count({name: Score(np.ones(2), np.array([1, 0])) for name in "ab"}, np.array([1, 1]))
    state.spend(("x", "y"), 3.0)
    state.read_to(Place(0, 2, 2, 4))
    path = tmp_path / "state.npz"
    sweep_state.save(path, "me", state)
    found = sweep_state.load(path, "me", 3)
    assert found.sums["b"].total.tolist() == [0, 1] and found.seconds == {"x": 1.5, "y": 1.5}
    arrays, expected = found.__dict__.pop("sums"), copy.copy(state)
    assert list(arrays) == list(expected.__dict__.pop("sums"))
    assert found.__dict__ == expected.__dict__
    assert sweep_state.load(path, "you", 3) is None and sweep_state.load(path, "me", 4) is None
    assert sweep_state.load(path, "me", None) is not None
    assert sweep_state.load(tmp_path / "none", "me", 3) is None


def test_a_state_of_another_form_is_ignored(tmp_path):
    """What another version has written may have other fields."""
    path = tmp_path / "state.npz"
    np.savez(path, header=np.array('{"identity": "it", "batches": 3}'))
    assert sweep_state.load(path, "me", 3) is None


def test_what_processes_have_counted_is_merged():
    states = []
    for number in range(3):
        state = State(sums=None if number == 2 else sums.zero(["a"], 2), padding=number)
        if number < 2:
            scores = {"a": Score(np.full(2, 0.5 + number), np.ones(2, bool))}
            state.count(scores, np.array([0, number]))
            state.spend(("x",), 1.0 + number)
            state.read_to(Place(1, 0, 4 + number, 2))
        states.append(sweep_state.from_bytes(sweep_state.to_bytes(state, ""), ""))
    merged = sweep_state.merge(states)
    assert merged.sums["a"].total.tolist() == [2.5, 1.5] and merged.counted == 4
    assert merged.places[-1].images == 9 and merged.padding == 3
    assert merged.seconds == {"x": 2.0}  # they worked at the same time
    assert sweep_state.merge([State(), State()]).sums is None
    states[1].sums = sums.zero(["a", "iou"], 2)
    with pytest.raises(ValueError, match="some processes have batches with masks and some have"):
        sweep_state.merge(states)
