"""Training in stages: what is frozen, when the learning rate falls, what is kept."""

from minmax_jax.train.checkpoints import restore_best
from minmax_jax.train.loop import Fit, fit
from minmax_jax.train.losses import get_loss
from minmax_jax.train.stages import Stage

__all__ = ["Fit", "Stage", "fit", "get_loss", "restore_best"]
