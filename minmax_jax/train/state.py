"""All that the rest of a training run depends on, in memory and in its checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from minmax_jax.models.network import Variables
from minmax_jax.train.checkpoints import OPT_STATE, VARIABLES
from minmax_jax.train.plateau import Plateau


@dataclasses.dataclass
class Progress:
    """Where a run stands: numbers that JSON can hold.

    Attributes:
      stage: index of the stage.
      stage_epoch: whole epochs of this stage.
      epoch: whole epochs of the run.
      epoch_step: steps of the epoch that has begun.
      step: steps of the run.
      examples: that these steps have seen.
      loss_sum: of the losses of these steps.
      seconds: that the epoch has taken so far.
      wait_seconds: of these, waiting for data.
      best: number of the checkpoint with the best weights, None before the first whole epoch.
      plateau: counters of the learning rate.
      history: one row an epoch.
    """

    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    examples: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    best: int | None = None
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def counters(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_counters(cls, counters: dict[str, Any]) -> Progress:
        """The inverse of `counters`."""
        return cls(**counters | {"plateau": Plateau(**counters["plateau"])})

    def end_epoch(self) -> None:
        """Counts a whole epoch."""
        self.epoch += 1
        self.stage_epoch += 1
        self.epoch_step, self.examples = 0, 0
        self.loss_sum, self.seconds, self.wait_seconds = 0.0, 0.0, 0.0

    def end_stage(self) -> None:
        """Goes on to the next stage."""
        self.stage, self.stage_epoch = self.stage + 1, 0
        self.plateau = self.plateau.next_stage()


@dataclasses.dataclass
class RunState:
    """A run between two steps: arrays on the devices, and `Progress`.

    Attributes:
      variables: of the network.
      best: those of the lowest validation loss; the first ones before the first whole epoch.
      opt_state: what the optimizer remembers of the trained layers.
    """

    variables: Variables
    best: Variables
    opt_state: Any
    progress: Progress = dataclasses.field(default_factory=Progress)

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {VARIABLES: self.variables, OPT_STATE: self.opt_state}
