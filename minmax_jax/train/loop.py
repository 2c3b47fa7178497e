"""The training loop: stages of epochs, a checkpoint after each, resumed bit for bit.

All that a later epoch depends on is in the checkpoint: weights, best weights, momentum, counters
and curves; the order of the data and the dropout depend on the seed and the number of the epoch
and step alone. So a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tensorboardX import SummaryWriter
from tqdm.auto import tqdm

from minmax_jax.metrics.classification import classification_scores
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import cross_entropy, predict, sigmoid
from minmax_jax.train import checkpoints
from minmax_jax.train.plateau import Plateau, frozen_layers

Batches = Iterable[Mapping[str, np.ndarray]]

# Steps between looks at the loss, which wait for the device.
_CHECK_EVERY = 16


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      epochs: at most so many.
      learning_rate: at its start.
      unfrozen: fraction of the layers, from the top, that are trained; 0 is the head alone. The
        others keep their weights and normalise by their stored statistics.
    """

    epochs: int
    learning_rate: float
    unfrozen: float = 1.0


class Fit(NamedTuple):
    """What training ends with: the weights of the lowest validation loss, and one dict an epoch."""

    variables: Variables
    history: list[dict[str, Any]]


def fit(
    network: Network,
    variables: Variables,
    train_batches: Callable[[int], Batches],
    validation_batches: Batches,
    *,
    stages: Sequence[Stage],
    directory: str | os.PathLike,
    seed: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    plateau_patience: int = 3,
    plateau_factor: float = 0.5,
    early_stop: int = 20,
    frozen_statistics: bool = False,
    progress: bool = True,
) -> Fit:
    """Trains with sigmoid cross-entropy and SGD with Nesterov momentum (MinMax-CAM, section 4.2).

    After `plateau_patience` epochs without a lower validation loss the learning rate falls by
    `plateau_factor` and the best weights are restored, the momentum starting anew. A stage ends
    after its epochs, or `early_stop` epochs without a lower loss, with the best weights restored.

    Args:
      network: with `train_apply` and `layers`.
      variables: to start from; used only where `directory` holds no checkpoint.
      train_batches: the batches of an epoch (counted from 0 over all stages), of one shape, in an
        order that depends on nothing else.
      validation_batches: iterated after each epoch.
      stages: one after the other.
      directory: checkpoints go to `directory/checkpoints`, TensorBoard scalars to
        `directory/tensorboard`. A repeated call goes on after the last whole epoch.
      seed: of the dropout.
      weight_decay: added to the gradient of the kernels, times the kernel.
      frozen_statistics: whether the trained layers, too, normalise by their stored statistics, as
        weights whose batch norms were folded into the convolutions want it.

    Returns:
      `Fit(variables, history)`; `history` has for each epoch its number (from 1), stage, learning
      rate, losses, F1 and F2 (macro, micro, weighted), mAP, and whether the best weights were
      restored after it.

    Raises:
      ValueError: for a network that cannot be trained.
      FloatingPointError: at a loss that is not finite, naming the step; the last checkpoint stays.
    """
    if network.train_apply is None or not network.layers:
        raise ValueError("the network has no train_apply and layers, so it cannot be trained")
    directory = pathlib.Path(directory).absolute()
    frozen = [frozen_layers(network.layers, stage.unfrozen) for stage in stages]
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_is_kernel),
        optax.inject_hyperparams(optax.sgd)(0.0, momentum=momentum, nesterov=True),
    )
    # One program for each set of frozen layers, however many stages share it.
    step_fns = {
        layers: _step_fn(
            network, optimizer, layers, frozenset(network.layers) if frozen_statistics else layers
        )
        for layers in frozen
    }
    key = jax.random.key(seed)
    with (
        checkpoints.open_checkpoints(directory) as checkpointer,
        SummaryWriter(
            str(directory / "tensorboard"),
            purge_step=0 if checkpointer.latest is None else checkpointer.latest.step + 1,
        ) as writer,
    ):
        run = _restore(checkpointer, optimizer, variables, frozen)
        while run.stage < len(stages):
            stage = stages[run.stage]
            learning_rate = stage.learning_rate * run.plateau.scale
            step_fn = step_fns[frozen[run.stage]]
            train_loss = _train_epoch(
                step_fn, run, train_batches(run.epoch), learning_rate, key, progress
            )
            logits, labels = predict(network, run.variables, validation_batches, progress=progress)
            loss = cross_entropy(logits, labels)
            _check_finite(loss, f"validation loss after step {run.step}")
            run.plateau, improved, restore = run.plateau.update(
                loss, patience=plateau_patience, factor=plateau_factor
            )
            if improved:
                run.best = run.variables
            run.epoch += 1
            run.stage_epoch += 1
            ended = run.stage_epoch >= stage.epochs or run.plateau.since_best >= early_stop
            row = {
                "epoch": run.epoch,
                "stage": run.stage,
                "learning_rate": learning_rate,
                "train_loss": train_loss,
                "validation_loss": loss,
                **_scores_row(sigmoid(logits), labels),
                "restored": not improved and (restore or ended),
            }
            run.history.append(row)
            if ended:
                run.stage, run.stage_epoch = run.stage + 1, 0
                run.plateau = run.plateau.next_stage()
            if restore or ended:
                # The momentum led away from the best weights, or was another stage's.
                run.variables = run.best
                run.opt_state = _init_optimizer(
                    optimizer, run.variables, frozen[min(run.stage, len(stages) - 1)]
                )
            checkpointer.save_checkpointables(
                run.epoch, run.arrays(), custom_metadata=run.counters()
            )
            for name, value in row.items():
                writer.add_scalar(name, value, run.epoch)
            _log(row)
    return Fit(run.best, run.history)


@dataclasses.dataclass
class _Run:
    """The state of a run between two epochs."""

    variables: Variables
    best: Variables
    opt_state: Any
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def arrays(self):
        return {
            "variables": self.variables,
            checkpoints.BEST: self.best,
            "opt_state": self.opt_state,
        }

    def counters(self):
        fields = ("stage", "stage_epoch", "epoch", "step", "history")
        return {name: getattr(self, name) for name in fields} | {
            "plateau": dataclasses.asdict(self.plateau)
        }


def _restore(checkpointer, optimizer, variables, frozen):
    """The run as its last checkpoint has it, or at its start."""
    variables = jax.tree.map(jnp.asarray, variables)
    if checkpointer.latest is None:
        return _Run(variables, variables, _init_optimizer(optimizer, variables, frozen[0]))
    counters = dict(checkpointer.metadata(checkpointer.latest).custom_metadata)
    plateau = Plateau(**counters.pop("plateau"))
    stage = min(counters["stage"], len(frozen) - 1)
    like = _Run(variables, variables, _init_optimizer(optimizer, variables, frozen[stage]))
    arrays = checkpointer.load_checkpointables(checkpointer.latest, like.arrays())
    tqdm.write(f"going on after epoch {counters['epoch']}")
    return _Run(**arrays, plateau=plateau, **counters)


def _init_optimizer(optimizer, variables, frozen):
    return optimizer.init(_trained(variables["params"], frozen))


def _trained(params, frozen):
    return {layer: params[layer] for layer in params if layer not in frozen}


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )


def _step_fn(network: Network, optimizer, frozen: frozenset[str], stored: frozenset[str]):
    """One step of SGD, jitted. Only layers that are not frozen are differentiated.

    Those in `stored` normalise by their stored statistics.
    """

    @functools.partial(jax.jit, donate_argnums=1)
    def step_fn(variables, opt_state, images, labels, learning_rate, key):
        def loss_fn(trained):
            logits, batch_stats = network.train_apply(
                variables | {"params": variables["params"] | trained},
                images,
                key=key,
                frozen=stored,
            )
            loss = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()
            return loss, batch_stats

        trained = _trained(variables["params"], frozen)
        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        decay, sgd = opt_state
        sgd = sgd._replace(hyperparams=sgd.hyperparams | {"learning_rate": learning_rate})
        updates, opt_state = optimizer.update(gradients, (decay, sgd), trained)
        params = variables["params"] | optax.apply_updates(trained, updates)
        return {"params": params, "batch_stats": batch_stats}, opt_state, loss

    return step_fn


def _train_epoch(step_fn, run: _Run, batches: Batches, learning_rate, key, progress) -> float:
    """Trains `run` in place for one epoch; the mean loss."""
    losses = []
    learning_rate = jnp.float32(learning_rate)
    total = len(batches) if hasattr(batches, "__len__") else None
    with tqdm(
        batches,
        total=total,
        desc=f"epoch {run.epoch + 1}",
        unit="step",
        leave=False,
        disable=not progress,
    ) as bar:
        for batch in bar:
            run.variables, run.opt_state, loss = step_fn(
                run.variables,
                run.opt_state,
                batch["image"],
                batch["labels"],
                learning_rate,
                jax.random.fold_in(key, run.step),
            )
            losses.append(loss)
            run.step += 1
            if run.step % _CHECK_EVERY == 0:
                losses = _check_losses(losses, run.step)
                bar.set_postfix(loss=f"{losses[-1]:.4f}")
    if not losses:
        raise ValueError("there is nothing to train on: the epoch has no batch")
    return float(np.mean(_check_losses(losses, run.step)))


def _check_losses(losses, step) -> list[float]:
    losses = [float(loss) for loss in losses]
    for back, loss in enumerate(losses):
        _check_finite(loss, f"loss at step {step - len(losses) + back + 1}")
    return losses


def _check_finite(loss, what):
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the {what} is {loss}; the checkpoint of the last whole epoch is kept. "
            "Try a lower learning rate"
        )


def _scores_row(probabilities, labels) -> dict[str, float]:
    scores = classification_scores(probabilities, labels)
    row = {
        f"{name}_{average}": scores[name][average]
        for name in ("f1", "f2")
        for average in ("macro", "micro", "weighted")
    }
    # Validation images without a single label have no mAP; curves want a number.
    return row | {"map_macro": scores["map"]["macro"] or 0.0}


def _log(row):
    tqdm.write(
        f"epoch {row['epoch']:3d}  stage {row['stage'] + 1}  lr {row['learning_rate']:.4g}  "
        f"loss {row['train_loss']:.4f}  validation {row['validation_loss']:.4f}  "
        f"F1 {row['f1_macro']:.3f}  mAP {row['map_macro']:.3f}"
        + ("  best weights restored" if row["restored"] else "")
    )
