"""Devices: a one-dimensional mesh, the shardings that use it, and the processes that share it.

Every process reads its own rows of each batch and puts them on its own devices; programs see whole
batches. What comes back to the host lies whole on every device, so all processes read the same.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"

T = TypeVar("T")


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


def put(mesh: Mesh | None, tree: Any) -> Any:
    """Puts this process's rows of a batch on its devices, split over the mesh.

    Args:
      tree: numpy arrays of whose leading axis each process has its own, equal part.

    Returns:
      Arrays of all processes' rows.

    Raises:
      ValueError: if the rows of all processes are not a multiple of the number of devices.
    """
    if mesh is None:
        return jax.device_put(tree)
    sharding = NamedSharding(mesh, PartitionSpec(DATA))

    def put_rows(rows):
        check_rows(mesh, len(rows) * jax.process_count())
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    return jax.tree.map(put_rows, tree)


def fetch(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays that may be spread over all processes, as numpy arrays on each."""
    if mesh is not None and jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def put_ahead(
    mesh: Mesh | None, batches: Iterable[T], pick: Callable[[T], Any], *, ahead: int = 1
) -> Iterator[Any]:
    """`put(mesh, pick(batch))` of each batch, `ahead` of them before they are asked for."""
    queue = collections.deque()
    for batch in batches:
        queue.append(put(mesh, pick(batch)))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def split(mesh: Mesh | None, array: jax.Array) -> jax.Array:
    """Inside `jit`: splits the leading axis over the mesh; without a mesh, `array` as it is.

    Raises:
      ValueError: if the leading axis is not a multiple of the number of devices.
    """
    if mesh is None:
        return array
    check_rows(mesh, array.shape[0])
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(DATA)))


def even_rows(mesh: Mesh | None, rows: int) -> int:
    """The smallest number of rows, `rows` at least, that fills all devices of all processes alike.

    Waits for all processes.
    """
    if mesh is None:
        return rows
    devices = len(mesh.local_devices)
    rows = -(-rows // devices) * devices
    if jax.process_count() == 1:
        return rows
    return int(multihost_utils.process_allgather(np.array(rows)).max())


def check_rows(mesh: Mesh | None, rows: int, what: str = "") -> None:
    """Raises `ValueError`, naming `what`, unless the devices get an equal number of `rows`."""
    if mesh is not None and rows % mesh.size:
        raise ValueError(
            f"{what and what + ': '}{rows} rows cannot be split evenly over {mesh.size} devices"
        )


def shard() -> tuple[int, int]:
    """This process and their number: which rows of each batch it makes."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def agree(value: bool) -> bool:
    """What process 0 says, to all; waits for all.

    For questions to a file system that another process changes.
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
