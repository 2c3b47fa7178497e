from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax import parallel


def test_a_mesh_of_all_devices_or_some():
    assert jax.device_count() == 8, "the tests run on eight fake devices"
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data",) and mesh.devices.tolist() == jax.devices()
    assert parallel.make_mesh(jax.devices()[:2]).devices.tolist() == jax.devices()[:2]


def test_split_puts_an_equal_share_on_each_device():
    mesh = parallel.make_mesh(jax.devices()[:4])
    array = np.arange(24.0).reshape(8, 3)
    out = jax.jit(lambda x: parallel.split(mesh, x) + 1)(array)
    np.testing.assert_array_equal(out, array + 1)
    shards = {shard.device: np.asarray(shard.data) for shard in out.addressable_shards}
    for number, device in enumerate(mesh.devices.ravel()):
        np.testing.assert_array_equal(shards[device], array[2 * number : 2 * number + 2] + 1)


def test_without_a_mesh_nothing_happens():
    array = jnp.ones((3, 2))
    assert parallel.split(None, array) is array


def test_rows_of_this_process_become_the_whole_batch():
    mesh = parallel.make_mesh(jax.devices()[:4])
    batch = {"image": np.arange(24.0, dtype=np.float32).reshape(8, 3), "labels": np.ones(8, bool)}
    there = parallel.put(mesh, batch)
    assert {shard.data.shape for shard in there["image"].addressable_shards} == {(2, 3)}
    assert len(there["labels"].sharding.device_set) == 4
    jax.tree.map(np.testing.assert_array_equal, there, batch)
    alone = parallel.put(None, batch)
    assert alone["image"].sharding.device_set == {jax.devices()[0]}
    with pytest.raises(ValueError, match="6 rows cannot be split evenly over 4 devices"):
        parallel.put(mesh, np.ones((6, 2)))


@pytest.mark.parametrize("number", [0, 1, 3, 9])
def test_items_are_drawn_ahead_in_order(number):
    drawn = []

    def items():
        for item in range(5):
            drawn.append(item)
            yield item

    ahead = parallel.ahead(items(), number)
    assert next(ahead) == 0 and len(drawn) == min(5, 1 + number)
    assert list(ahead) == [1, 2, 3, 4]


def test_split_rows_gives_each_device_its_own_rows():
    """Rows stay where they are: what a device computes is the function of its own rows alone."""
    mesh = parallel.make_mesh(jax.devices()[:4])

    def function(shared, rows):
        return {"sum": (rows["x"] + shared).sum(axis=1), "seen": jnp.full(len(rows["x"]), 7)}

    rows = {"x": parallel.put(mesh, np.arange(24.0, dtype=np.float32).reshape(8, 3))}
    out = jax.jit(parallel.split_rows(mesh, function))(np.float32(1), rows)
    np.testing.assert_array_equal(out["sum"], np.arange(24).reshape(8, 3).sum(axis=1) + 3)
    assert {shard.data.shape for shard in out["sum"].addressable_shards} == {(2,)}
    assert parallel.split_rows(None, function) is function


def test_one_process_exchanges_with_itself():
    assert parallel.exchange(b"a\0b") == [b"a\0b"]
    assert parallel.local_mesh().devices.tolist() == jax.devices()


def test_rows_that_fill_all_devices():
    mesh = parallel.make_mesh(jax.devices()[:4])
    rows = [parallel.even_rows(mesh, rows) for rows in (1, 4, 5, 8)]
    assert rows == [4, 4, 8, 8] and parallel.even_rows(None, 5) == 5
    assert parallel.shard() == (0, 1) and parallel.is_first() and not parallel.agree(False)


def test_rows_that_do_not_divide():
    mesh = parallel.make_mesh(jax.devices()[:4])
    with pytest.raises(ValueError, match="6 rows cannot be split evenly over 4 devices"):
        jax.jit(lambda x: parallel.split(mesh, x))(np.ones((6, 2)))
