"""One step of training, jitted: gradient of the trained layers, update, over all devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from minmax_jax import parallel
from minmax_jax.models.network import Network
from minmax_jax.train.losses import LOSSES, Loss

OPTIMIZERS = {
    "sgd": lambda momentum: optax.trace(momentum, nesterov=True),
    "adam": lambda momentum: optax.scale_by_adam(b1=momentum),
}


def make_optimizer(
    name: str = "sgd", *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, or Adam (Kingma and Ba 2015); weight decay on the kernels alone.

    The learning rate is not in it: `make_step_fn` multiplies by it.

    Args:
      name: "sgd" or "adam".
      momentum: of SGD; for Adam its first beta, the second is 0.999.
      weight_decay: added to the gradient of the kernels, times the kernel.

    Raises:
      ValueError: for an unknown name, naming the valid ones.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}, valid: {', '.join(OPTIMIZERS)}")
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_is_kernel), OPTIMIZERS[name](momentum)
    )


def trained(params: Any, frozen: frozenset[str]) -> Any:
    """The parameters of the layers that are not frozen."""
    return {layer: params[layer] for layer in params if layer not in frozen}


def make_step_fn(
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    objective: Loss = LOSSES["sigmoid"],
    frozen: frozenset[str],
    stored: frozenset[str],
    accumulate: int,
    mesh: jax.sharding.Mesh | None,
):
    """Builds the jitted step.

    Args:
      network: with `train_apply`, whose logits are `(b c)`, or `(b r c)` of r classifiers.
      objective: the loss that is lowered.
      frozen: layers that are not differentiated.
      stored: layers that normalise by their stored statistics.
      accumulate: parts of the batch that go through the network one after the other; their
        gradients are averaged. Batch statistics are those of each part.
      mesh: devices over which the batch is split.

    Returns:
      `(variables, opt_state, images, labels, signals, learning_rate, key) -> (variables, opt_state,
      {"loss", "signal"})`. The first two are given away: the frozen layers' arrays stay where they
      are, the others are updated in place. `signals (devices,)` int32 is what each process has to
      say to all; its maximum comes back as "signal". It raises `ValueError` for batches that cannot
      be split.
    """

    def loss_and_gradients(params, batch_stats, images, labels, key):
        def loss_fn(some):
            logits, stats = network.train_apply(
                {"params": params | some, "batch_stats": batch_stats},
                images,
                key=key,
                frozen=stored,
            )
            return objective.of_classifiers(logits, labels), stats

        return jax.value_and_grad(loss_fn, has_aux=True)(trained(params, frozen))

    def in_parts(params, batch_stats, images, labels, key):
        """As above, over strided parts, so that each device keeps its own rows."""

        def add(carry, part):
            batch_stats, total = carry
            number, images, labels = part
            (loss, batch_stats), gradients = loss_and_gradients(
                params, batch_stats, images, labels, jax.random.fold_in(key, number)
            )
            return (batch_stats, jax.tree.map(jnp.add, total, (loss, gradients))), None

        parts = [
            jnp.swapaxes(x.reshape(-1, accumulate, *x.shape[1:]), 0, 1) for x in (images, labels)
        ]
        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained(params, frozen))
        numbers = jnp.arange(accumulate)
        (batch_stats, total), _ = jax.lax.scan(add, (batch_stats, zero), (numbers, *parts))
        loss, gradients = jax.tree.map(lambda x: x / accumulate, total)
        return (loss, batch_stats), gradients

    @functools.partial(jax.jit, donate_argnums=(0, 1), out_shardings=parallel.everywhere(mesh))
    def step_fn(variables, opt_state, images, labels, signals, learning_rate, key):
        if len(images) % accumulate:
            raise ValueError(f"a batch of {len(images)} cannot be split into {accumulate} parts")
        parallel.check_rows(mesh, len(images) // accumulate)
        params, batch_stats = variables["params"], variables["batch_stats"]
        compute = loss_and_gradients if accumulate == 1 else in_parts
        (loss, batch_stats), gradients = compute(params, batch_stats, images, labels, key)
        some = trained(params, frozen)
        updates, opt_state = optimizer.update(gradients, opt_state, some)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        params = params | optax.apply_updates(some, updates)
        metrics = {"loss": loss, "signal": signals.max()}
        return {"params": params, "batch_stats": batch_stats}, opt_state, metrics

    return step_fn


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
