"""Devices: a one-dimensional mesh, the shardings that use it, and the processes that share it.

Training and prediction run in step: every process reads its own rows of each batch and puts them
on its own devices, programs see whole batches, and what comes back to the host lies whole on every
device, so all processes read the same. An evaluation needs no step: each process works through its
own rows on its own devices (`local_mesh`), and what they have counted is exchanged once.
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


def local_mesh() -> Mesh | None:
    """A mesh of this process's devices; None for a single one."""
    return make_mesh(jax.local_devices()) if jax.local_device_count() > 1 else None


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of arrays that lie whole on every device; without a mesh, None."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of arrays whose leading axis is split over the mesh; without a mesh, None."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(DATA))


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
    processes = len({device.process_index for device in mesh.devices.flat})

    def put_rows(rows):
        check_rows(mesh, len(rows) * processes)
        return jax.make_array_from_process_local_data(by_rows(mesh), np.asarray(rows))

    return jax.tree.map(put_rows, tree)


def ahead(items: Iterable[T], number: int = 1) -> Iterator[T]:
    """The same items, each drawn when `number` others are still to be handed out before it.

    What draws an item only queues work for a device (a transfer, a program), so the device has the
    next one at hand while the host looks at the last.
    """
    queue = collections.deque()
    for item in items:
        queue.append(item)
        if len(queue) > number:
            yield queue.popleft()
    yield from queue


def split_rows(mesh: Mesh | None, function: Callable[..., T]) -> Callable[..., T]:
    """`function(shared, rows)` of which each device computes its part of the rows.

    Args:
      function: takes a tree of arrays that all rows share and a tree of arrays `(n ...)`, and
        returns a tree of arrays `(n ...)`, each row made of its own row alone.

    Returns:
      The same function, to be called inside `jit`; without a mesh, `function` itself.
    """
    if mesh is None:
        return function
    rows = PartitionSpec(DATA)
    return jax.shard_map(
        function, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False
    )


def split(mesh: Mesh | None, array: jax.Array, *, or_whole: bool = False) -> jax.Array:
    """Inside `jit`: splits the leading axis over the mesh; without a mesh, `array` as it is.

    With `or_whole` an array that cannot be split evenly lies whole on every device.

    Raises:
      ValueError: if the leading axis is not a multiple of the number of devices.
    """
    if mesh is None:
        return array
    if or_whole and array.shape[0] % mesh.size:
        return jax.lax.with_sharding_constraint(array, everywhere(mesh))
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


def exchange(data: bytes) -> list[bytes]:
    """What each process gives, in their order; waits for all."""
    if jax.process_count() == 1:
        return [data]
    sizes = multihost_utils.process_allgather(np.array(len(data))).tolist()
    own = np.zeros(max(sizes), np.uint8)
    own[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(own)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def agree(value: bool) -> bool:
    """What process 0 says, to all; waits for all.

    For questions to a file system that another process changes.
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
