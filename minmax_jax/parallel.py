"""Devices: a one-dimensional mesh and the shardings that use it."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of `devices`) along one axis, over which batches are split."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA,), devices=devices, axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of arrays that lie whole on every device; without a mesh, None."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Puts arrays on every device of the mesh (on the default one without), once for many calls."""
    return jax.device_put(tree, everywhere(mesh))


def split(mesh: Mesh | None, array: jax.Array) -> jax.Array:
    """Inside `jit`: splits the leading axis over the mesh; without a mesh, `array` as it is.

    Raises:
      ValueError: if the leading axis is not a multiple of the number of devices.
    """
    if mesh is None:
        return array
    if array.shape[0] % mesh.size:
        raise ValueError(f"{array.shape[0]} rows cannot be split evenly over {mesh.size} devices")
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(DATA)))
