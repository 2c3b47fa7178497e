"""Forward passes over those items of a batch that need one, packed into full chunks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def map_live(
    function: Callable[[jax.Array], jax.Array],
    skipped: jax.Array,
    *,
    columns: int,
    fill: float = 0,
    chunk_size: int,
    split: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Rows of `function` for every item that is not skipped.

    Takes as many passes as the items that are not skipped fill chunks, however many there are.

    Args:
      function: indices `(chunk_size,)` of items to rows `(chunk_size, columns)`. What fills up the
        last chunk are skipped items and indices out of bounds (`mode="clip"` of a gather), whose
        rows are not used.
      skipped: `(m,)` bool.
      columns: of a row.
      fill: what stands in the rows of skipped items.
      chunk_size: items in one pass.
      split: spreads a chunk `(chunk_size, ...)` over devices.

    Returns:
      `(m, columns)`, float32 or wider.
    """
    # Live items first, so that the loop ends when they do. Past the end stands an index out of
    # bounds: a gather clamps it and the scatter drops it.
    order = jnp.argsort(skipped, stable=True)
    order = jnp.pad(order, (0, -len(order) % chunk_size), constant_values=len(skipped))
    num_live = jnp.sum(~skipped)

    def step(state):
        start, rows = state
        index = split(jax.lax.dynamic_slice_in_dim(order, start, chunk_size))
        return start + chunk_size, rows.at[index].set(function(index), mode="drop")

    row = jax.eval_shape(function, jax.ShapeDtypeStruct((chunk_size,), order.dtype))
    zero = jnp.zeros((len(skipped), columns), jnp.promote_types(row.dtype, jnp.float32))
    _, rows = jax.lax.while_loop(lambda state: state[0] < num_live, step, (0, zero))
    return jnp.where(skipped[:, None], fill, rows)
