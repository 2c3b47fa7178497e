"""Where the weights of a training run are kept, by Orbax."""

from __future__ import annotations

import os
import pathlib

import jax
from orbax.checkpoint import v1 as ocp

from minmax_jax.models.network import Network, Variables

BEST = "best"


def open_checkpoints(directory: str | os.PathLike) -> ocp.training.Checkpointer:
    """The checkpoints of a run, one an epoch, of which the newest two are kept.

    Args:
      directory: the run's folder; they stand in `directory/checkpoints`.
    """
    policies = ocp.training.preservation_policies, ocp.training.save_decision_policies
    return ocp.training.Checkpointer(
        pathlib.Path(directory).absolute() / "checkpoints",
        preservation_policy=policies[0].LatestN(2),
        save_decision_policy=policies[1].FixedIntervalPolicy(1),
        cleanup_tmp_directories=True,
    )


def restore_best(directory: str | os.PathLike, network: Network) -> Variables:
    """The weights of the lowest validation loss of the run in `directory`.

    Raises:
      ValueError: if there is no checkpoint.
    """
    like = jax.tree.map(jax.numpy.zeros_like, jax.eval_shape(network.init, jax.random.key(0)))
    with open_checkpoints(directory) as checkpointer:
        if checkpointer.latest is None:
            raise ValueError(f"{directory} holds no checkpoint")
        return checkpointer.load_checkpointables(checkpointer.latest, {BEST: like})[BEST]
