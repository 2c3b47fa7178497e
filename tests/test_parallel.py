from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax import parallel


def test_a_mesh_of_all_devices_or_some():
    assert jax.device_count() == 4, "the tests run on four fake devices"
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data",) and mesh.devices.tolist() == jax.devices()
    assert parallel.make_mesh(jax.devices()[:2]).devices.tolist() == jax.devices()[:2]


def test_split_puts_an_equal_share_on_each_device():
    mesh = parallel.make_mesh()
    array = np.arange(24.0).reshape(8, 3)
    out = jax.jit(lambda x: parallel.split(mesh, x) + 1)(array)
    np.testing.assert_array_equal(out, array + 1)
    shards = {shard.device: np.asarray(shard.data) for shard in out.addressable_shards}
    for number, device in enumerate(mesh.devices.ravel()):
        np.testing.assert_array_equal(shards[device], array[2 * number : 2 * number + 2] + 1)


def test_without_a_mesh_nothing_happens():
    array = jnp.ones((3, 2))
    assert parallel.split(None, array) is array


def test_rows_that_do_not_divide():
    mesh = parallel.make_mesh()
    with pytest.raises(ValueError, match="6 rows cannot be split evenly over 4 devices"):
        jax.jit(lambda x: parallel.split(mesh, x))(np.ones((6, 2)))
