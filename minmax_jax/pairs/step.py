"""One step of training in all slots at once, jitted.

A slot is a place in which a pair is trained. What differs from pair to pair (the trained layers,
their statistics, Adam's moments, counters) is stacked over the slots, `(s ...)`, and split over the
devices; frozen layers and the start are shared. A slot that is done stays as it is, whatever batch
it gets, until a fresh pair is put into it; so the host may look at a step's report while the next
step runs.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minmax_jax import parallel
from minmax_jax.models.network import Network, Variables

_ADAM = optax.scale_by_adam()


class Report(NamedTuple):
    """What a step says of each slot: int32 `(s,)` each, flags 0 or 1.

    Attributes:
      step: steps of the pair so far.
      correct: examples of this epoch's batches that were told right before each update.
      done: whether the pair stays as it is.
      converged: whether it is done because the accuracy was reached.
      finite: whether loss and gradients were.
    """

    step: Any
    correct: Any
    done: Any
    converged: Any
    finite: Any


def make_shared(
    variables: Variables,
    trained: frozenset[str],
    *,
    key: jax.Array,
    learning_rate: float,
    accuracy: float,
    max_epochs: int,
) -> dict[str, Any]:
    """What all slots share: the start of each pair, the frozen layers and the rule.

    Args:
      variables: of the network.
      trained: names of the trained layers.
      key: of the dropout; learning_rate, accuracy, max_epochs: see `fit_pairs`.
    """
    own, frozen = (
        {
            collection: {
                layer: arrays
                for layer, arrays in variables.get(collection, {}).items()
                if (layer in trained) == wanted
            }
            for collection in ("params", "batch_stats")
        }
        for wanted in (True, False)
    )
    counters = Report(*(np.int32(0) for _ in Report._fields))
    return {
        "start": {"layers": own, "moments": _ADAM.init(own["params"]), "counters": counters},
        "frozen": frozen,
        "key": key,
        "learning_rate": np.float32(learning_rate),
        "accuracy": np.float32(accuracy),
        "max_epochs": np.int32(max_epochs),
    }


@functools.lru_cache(maxsize=8)
def idle_slots_fn(number: int, mesh: jax.sharding.Mesh | None):
    """`start -> state` of `number` slots without a pair."""

    def idle_slots(start):
        start = start | {"counters": start["counters"]._replace(done=jnp.int32(1))}
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *jnp.shape(x))), start)

    return jax.jit(idle_slots, out_shardings=parallel.by_rows(mesh))


@functools.lru_cache(maxsize=8)
def read_slot_fn(mesh: jax.sharding.Mesh | None):
    """`(layers (s ...), slot) -> layers`, of one slot."""
    return jax.jit(
        lambda layers, slot: jax.tree.map(lambda x: x[slot], layers),
        out_shardings=parallel.everywhere(mesh),
    )


@functools.lru_cache(maxsize=8)
def step_fn(
    network: Network,
    trained: frozenset[str],
    *,
    frozen_statistics: bool = False,
    stacked: bool,
    mesh: jax.sharding.Mesh | None,
):
    """Builds the jitted step.

    Args:
      network: with `train_apply` and two labels.
      trained: names of the trained layers.
      frozen_statistics: whether they normalise by their stored statistics, as the others do.
      stacked: whether a device computes its slots as one stack, by `vmap`, or one after the other.
        XLA on CPUs makes of stacked kernels a grouped convolution, which takes 3 times as long (in
        a loop over the slots, 30 times); accelerators are idle in small steps.
      mesh: devices over which the slots are split.

    Returns:
      `(shared, state, batch) -> (state, Report)`. The state is given away. `batch` is a dict of
      `rows (s b ...)`, uint8 images or float32 that the network takes as it is; `units (s b)` int32
      0 or 1; and for each slot `(s,)` whether the pair is `fresh`, its `number` for the dropout and
      its `steps` an epoch.
    """
    layers = frozenset(network.layers)
    stored = layers if frozen_statistics else layers - trained

    def loss_fn(params, shared, stats, rows, units, key):
        variables = {
            "params": shared["frozen"]["params"] | params,
            "batch_stats": shared["frozen"]["batch_stats"] | stats,
        }
        logits, stats = network.train_apply(variables, rows, key=key, frozen=stored)
        if logits.shape != (len(units), 2):
            raise ValueError(
                f"a pair classifier has logits {(len(units), 2)}, this network {logits.shape}"
            )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, units).mean()
        correct = jnp.sum(jnp.argmax(logits, axis=1) == units, dtype=jnp.int32)
        return loss, (correct, {layer: stats[layer] for layer in stats if layer in trained})

    def advance(shared, slot):
        state, batch = slot
        state = _where(batch["fresh"], shared["start"], state)
        layers, before = state["layers"], state["counters"]
        rows, units, steps = batch["rows"], batch["units"], batch["steps"]
        if rows.dtype == jnp.uint8:
            rows = network.preprocess(rows)
        key = jax.random.fold_in(jax.random.fold_in(shared["key"], batch["number"]), before.step)
        (loss, (correct, stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            layers["params"], shared, layers["batch_stats"], rows, units, key
        )
        updates, moments = _ADAM.update(gradients, state["moments"])
        updates = jax.tree.map(lambda update: -shared["learning_rate"] * update, updates)
        step = before.step + 1
        correct += jnp.where(before.step % steps == 0, 0, before.correct)
        reached = (step % steps == 0) & (correct / (steps * len(units)) > shared["accuracy"])
        finite = jnp.isfinite(loss + sum(map(jnp.sum, jax.tree.leaves(gradients))))
        done = reached | (step == steps * shared["max_epochs"]) | ~finite
        flags = (flag.astype(jnp.int32) for flag in (done, reached, finite))
        after = {
            "layers": {
                "params": optax.apply_updates(layers["params"], updates),
                "batch_stats": stats,
            },
            "moments": moments,
            "counters": Report(step, correct, *flags),
        }
        state = _where(before.done == 1, state, after)
        # As one array, and apart from the state, which the next step is given.
        return state, jnp.stack(state["counters"])

    def one_by_one(shared, slots):
        number = len(slots[1]["fresh"])
        parts = [
            advance(shared, jax.tree.map(operator.itemgetter(slot), slots))
            for slot in range(number)
        ]
        return jax.tree.map(lambda *x: jnp.stack(x), *parts)

    advance_all = jax.vmap(advance, in_axes=(None, 0)) if stacked else one_by_one
    advance_all = parallel.split_rows(mesh, advance_all)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(shared, state: Any, batch: Mapping[str, jax.Array]):
        state, counters = advance_all(shared, (state, batch))
        return state, Report(*counters.T)

    return step


def _where(condition, first, second):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), first, second)
