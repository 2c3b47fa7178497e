"""The training loop: stages of epochs, resumed bit for bit from any step.

All that a later step depends on is in a checkpoint: weights, best weights, the optimizer's state,
counters and curves; the order of the data and the dropout depend on the seed and the number of the
epoch and step alone. So a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from minmax_jax import preemption
from minmax_jax.models.network import Network, Variables
from minmax_jax.train.cached import Batch, TrainBatches
from minmax_jax.train.checkpoints import Checkpoints
from minmax_jax.train.logs import Logs
from minmax_jax.train.losses import get_loss
from minmax_jax.train.stages import Stage
from minmax_jax.train.step import make_optimizer
from minmax_jax.train.trainer import Trainer


class Fit(NamedTuple):
    """What training ends with: the weights of the lowest validation loss, and one dict an epoch."""

    variables: Variables
    history: list[dict[str, Any]]


def fit(
    network: Network,
    variables: Variables,
    train_batches: TrainBatches,
    validation_batches: Iterable[Batch],
    *,
    stages: Sequence[Stage],
    directory: str | os.PathLike,
    seed: int = 0,
    loss: str = "sigmoid",
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    plateau_patience: int = 3,
    plateau_factor: float = 0.5,
    restore: bool = True,
    early_stop: int = 20,
    frozen_statistics: bool = False,
    accumulate: int = 1,
    cache_features: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    keep: int = 2,
    save_seconds: float = 600.0,
    progress: bool = True,
) -> Fit:
    """Trains, by default as MinMax-CAM's section 4.2 does.

    After `plateau_patience` epochs without a lower validation loss the learning rate falls by
    `plateau_factor` and the best weights are restored, the optimizer starting anew. A stage ends
    after its epochs, or `early_stop` epochs without a lower loss, with the best weights restored.

    Args:
      network: with `train_apply` and `layers`.
      variables: to start from; used only where `directory` holds no checkpoint.
      train_batches: endless batches.
      validation_batches: iterated after each epoch.
      stages: one after the other.
      directory: checkpoints go to `directory/checkpoints`, curves to `directory/metrics.csv` and
        `directory/tensorboard`. A repeated call goes on after the last checkpoint, also on another
        number of devices.
      seed: of the dropout.
      loss: "sigmoid", the cross-entropy of each label by itself, or "softmax", that of images with
        one label, which images must then have (with several, each counts alike). The validation
        loss is the same one.
      optimizer: "sgd", with Nesterov momentum, or "adam".
      momentum: of SGD; for Adam its first beta, the second is 0.999.
      weight_decay: added to the gradient of the kernels, times the kernel.
      restore: whether the best weights are restored when the learning rate falls; without, training
        goes on from where it is.
      frozen_statistics: whether the trained layers, too, normalise by their stored statistics, as
        weights whose batch norms were folded into the convolutions want it.
      accumulate: parts of a batch that go through the network one after the other, to save memory.
      cache_features: whether stages that train the head alone pass all images through the frozen
        layers once and then train on what comes out (k numbers an image, in memory). Needs batches
        without augmentation and `network.head_apply`.
      mesh: devices over which batches are split; they must divide the batch over `accumulate`.
      keep: newest checkpoints that are kept, beside the best.
      save_seconds: between checkpoints within an epoch; there is one after each epoch.

    Returns:
      `Fit(variables, history)`; `history` has for each epoch its number (from 1), stage, learning
      rate, losses, F1 and F2 (macro, micro, weighted), mAP, whether the best weights were restored
      after it, training examples a second, and the share of that time spent waiting for data.

    Raises:
      ValueError: for a network that cannot be trained, an unknown loss or optimizer, batches that
        cannot be split, and images without the label that the loss needs.
      FloatingPointError: at a loss that is not finite, naming the step; the last checkpoint stays.
      OSError: if a checkpoint cannot be written; those before stay.
      preemption.Preempted: when SIGTERM came, after saving.
    """
    if network.train_apply is None or not network.layers:
        raise ValueError("the network has no train_apply and layers, so it cannot be trained")
    if not train_batches.steps:
        raise ValueError("there is nothing to train on: the epoch has no batch")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, not {accumulate}")
    if cache_features and network.head_apply is None:
        raise ValueError("cache_features needs a network with head_apply")
    objective = get_loss(loss)
    updates = make_optimizer(optimizer, momentum=momentum, weight_decay=weight_decay)
    directory = pathlib.Path(directory).absolute()
    with preemption.deferred(), Checkpoints(directory, keep=keep) as checkpoints:
        trainer = Trainer(
            network,
            variables,
            train_batches,
            validation_batches,
            checkpoints,
            stages=stages,
            objective=objective,
            optimizer=updates,
            key=jax.random.key(seed),
            plateau_patience=plateau_patience,
            plateau_factor=plateau_factor,
            restore=restore,
            early_stop=early_stop,
            frozen_statistics=frozen_statistics,
            accumulate=accumulate,
            cache_features=cache_features,
            mesh=mesh,
            save_seconds=save_seconds,
            progress=progress,
        )
        with Logs(directory, trainer.run.progress.history) as logs:
            trainer.train(logs)
    return Fit(trainer.run.best, trainer.run.progress.history)
