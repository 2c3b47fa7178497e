"""Training in stages: what is frozen, when the learning rate falls, what is kept."""

from minmax_jax.train.checkpoints import restore_best
from minmax_jax.train.loop import Fit, Stage, fit

__all__ = ["Fit", "Stage", "fit", "restore_best"]
