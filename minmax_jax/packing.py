"""Rows of a stream of device arrays, packed into chunks of one size.

One program of one shape serves the whole stream: rows that do not fill a chunk wait on the device
for what comes next, so only the very last chunk may be filled up with rows that mean nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import parallel


def pack(
    stream: Iterable[tuple[Any, np.ndarray]],
    gather: Callable[[Any, jax.Array], Any],
    size: int,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> Iterator[tuple[Any, np.ndarray]]:
    """Packs rows into chunks.

    Args:
      stream: trees of device arrays, of which `gather` makes rows of the same shapes, each with an
        index `(n d)` of the rows to take from it; `n` may be anything.
      gather: `(arrays, index (size d))` to a tree of `(size ...)`; the same function for every
        stream that shall share its program.
      size: rows a chunk; with a mesh a multiple of its devices.
      mesh: devices over which chunks are split.

    Yields:
      `(rows, index)`: a tree of arrays `(size ...)` and the index entries `(m d)` of its first `m`
      rows; `m` is `size` but for the last chunk. The arrays are to be used before the next chunk is
      asked for, as their memory is used again.
    """
    fill = _fill_fn(gather, mesh)
    waiting, taken, filled = None, [], 0
    for arrays, index in stream:
        while len(index):
            part, index = index[: size - filled], index[size - filled :]
            own = slice(filled, filled + len(part))
            rows, new = np.zeros((size, *index.shape[1:]), index.dtype), np.zeros(size, bool)
            rows[own], new[own] = part, True
            if waiting is None:
                waiting = _zeros(jax.eval_shape(gather, arrays, rows), mesh)
            waiting = fill(waiting, arrays, *parallel.put(mesh, (rows, new)))
            taken.append(part)
            filled += len(part)
            if filled == size:
                yield waiting, np.concatenate(taken)
                taken, filled = [], 0
    if filled:
        yield waiting, np.concatenate(taken)


@functools.lru_cache(maxsize=16)
def _fill_fn(gather, mesh):
    """Jitted: takes some rows into the waiting ones, in the same memory."""

    def fill(waiting, arrays, index, new):
        def choose(row, old):
            return jnp.where(jnp.expand_dims(new, range(1, row.ndim)), row, old)

        return jax.tree.map(choose, gather(arrays, index), waiting)

    return jax.jit(fill, donate_argnums=0, out_shardings=parallel.by_rows(mesh))


def _zeros(shapes, mesh):
    def zeros(shape):
        return jnp.zeros(shape.shape, shape.dtype, device=parallel.by_rows(mesh))

    return jax.tree.map(zeros, shapes)
