"""What an epoch's validation loss decides: keep, restore the best, stop."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Counters of one stage, in epochs; numbers that JSON can hold.

    Attributes:
      best_loss: lowest validation loss so far, in any stage; None before the first epoch.
      since_best: epochs since the lowest loss of training, or since the stage began.
      since_drop: the same, or since the learning rate was last lowered.
      scale: factor of the stage's learning rate.
    """

    best_loss: float | None = None
    since_best: int = 0
    since_drop: int = 0
    scale: float = 1.0

    def next_stage(self) -> Plateau:
        """Fresh counters; the best loss stays, as the best weights do."""
        return Plateau(best_loss=self.best_loss)

    def update(self, loss: float, *, patience: int, factor: float) -> tuple[Plateau, bool, bool]:
        """Takes in the loss of one epoch.

        Args:
          loss: validation loss.
          patience: epochs without a lower loss until the learning rate is lowered.
          factor: what it is multiplied by.

        Returns:
          The new counters, whether the loss is the lowest so far, and whether the learning rate
          falls.
        """
        if self.best_loss is None or loss < self.best_loss:
            return (
                dataclasses.replace(self, best_loss=loss, since_best=0, since_drop=0),
                True,
                False,
            )
        since_drop = self.since_drop + 1
        lower = since_drop >= patience
        return (
            dataclasses.replace(
                self,
                since_best=self.since_best + 1,
                since_drop=0 if lower else since_drop,
                scale=self.scale * factor if lower else self.scale,
            ),
            False,
            lower,
        )
