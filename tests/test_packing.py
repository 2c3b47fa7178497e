from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax import packing, parallel
from tests import toys

SIZE = 4
MESH = parallel.make_mesh(jax.devices()[:2])


def gather(arrays, index):
    row, column = index.T
    return {"cell": arrays["x"][row, column], "row": arrays["x"][row], "none": None}


def stream(lengths):
    """Arrays that differ from item to item, and rows of them in no order."""
    for number, length in enumerate(lengths):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(2, 3)).astype(np.float32)
        index = np.stack([rng.integers(0, 2, length), rng.integers(0, 3, length)], axis=1)
        yield {"x": jnp.asarray(x)}, index.astype(np.int32)


def packed(lengths, mesh=None):
    """Chunks as numpy copies: their memory is used again."""
    for rows, index in packing.pack(stream(lengths), gather, SIZE, mesh=mesh):
        assert rows["cell"].shape == (SIZE,) and rows["row"].shape == (SIZE, 3)
        yield np.array(rows["cell"])[: len(index)], np.array(rows["row"])[: len(index)], index


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 11), max_size=6), st.sampled_from([None, MESH]))
def test_nothing_is_lost_doubled_or_moved(lengths, mesh):
    chunks = list(packed(lengths, mesh))
    assert [len(index) for *_, index in chunks[:-1]] == [SIZE] * (len(chunks) - 1)
    assert len(chunks) == -(-sum(lengths) // SIZE)
    expected = [(np.asarray(a["x"]), *pair) for a, index in stream(lengths) for pair in index]
    found = [triple for chunk in chunks for triple in zip(*chunk, strict=True)]
    assert len(found) == len(expected)
    for (cell, row, index), (x, i, j) in zip(found, expected, strict=True):
        assert (i, j) == tuple(index) and cell == x[i, j]
        np.testing.assert_array_equal(row, x[i])


def test_one_program_packs_everything():
    list(packed([1]))
    with toys.count_compilations() as compiled:
        list(packed([3, 0, 9, 1]))
    assert compiled == []


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_nothing_to_pack(lengths):
    assert list(packed(lengths)) == []


def test_chunks_are_split_over_the_mesh():
    for rows, _ in packing.pack(stream([5]), gather, SIZE, mesh=MESH):
        assert {shard.data.shape for shard in rows["row"].addressable_shards} == {(2, 3)}
