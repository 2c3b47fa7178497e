"""What moves while a run trains: steps, epochs, stages, and when it is saved."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.metrics.classification import classification_scores
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import predict
from minmax_jax.train.cached import (
    Batch,
    CachedBatches,
    TrainBatches,
    compute_features,
    head_network,
)
from minmax_jax.train.checkpoints import VARIABLES, Checkpoints
from minmax_jax.train.logs import Logs
from minmax_jax.train.losses import Loss
from minmax_jax.train.stages import Stage, frozen_layers
from minmax_jax.train.state import Progress, RunState
from minmax_jax.train.step import make_step_fn, trained

# What a process says to all with a step, and all do after it; the highest counts.
_GO_ON, _SAVE, _STOP = 0, 1, 2


class _Phase(NamedTuple):
    """What a stage trains on, and how."""

    network: Network
    batches: TrainBatches
    validation: Iterable[Batch]
    step_fn: Callable[..., Any]


@dataclasses.dataclass(eq=False)
class Trainer:
    """One run of `fit`, whose arguments these are; it begins where the checkpoints end."""

    network: Network
    variables: dataclasses.InitVar[Variables]
    train_batches: TrainBatches
    validation_batches: Iterable[Batch]
    checkpoints: Checkpoints
    _: dataclasses.KW_ONLY
    stages: Sequence[Stage]
    objective: Loss
    optimizer: optax.GradientTransformation
    key: jax.Array
    plateau_patience: int
    plateau_factor: float
    restore: bool
    early_stop: int
    frozen_statistics: bool
    accumulate: int
    cache_features: bool
    mesh: jax.sharding.Mesh | None
    save_seconds: float
    progress: bool

    def __post_init__(self, variables: Variables):
        self._frozen = [frozen_layers(self.network.layers, stage.unfrozen) for stage in self.stages]
        self._step_fns = {}
        self._saved_at = time.monotonic()
        self.run = self._restore(parallel.replicate(self.mesh, variables))

    def train(self, logs: Logs) -> None:
        """Trains to the end of the last stage."""
        now = self.run.progress
        while now.stage < len(self.stages):
            number, phase = now.stage, self._phase()
            start = now.epoch * phase.batches.steps + now.epoch_step
            batches = phase.batches.from_batch(start)
            stream = parallel.ahead(
                parallel.put(self.mesh, self._arrays(batch)) for batch in batches
            )
            with contextlib.closing(stream):
                while now.stage == number:
                    self._train_epoch(phase, stream)
                    self._end_epoch(phase)
                    self._save()
                    logs.write(now.history)

    def _restore(self, variables: Variables) -> RunState:
        """The run as its last checkpoint has it, or at its start."""
        if self.checkpoints.latest is None:
            return RunState(_copy(variables), variables, self._init_optimizer(variables, 0))
        now = Progress.from_counters(self.checkpoints.counters())
        like = RunState(variables, variables, self._init_optimizer(variables, now.stage), now)
        run = dataclasses.replace(
            like, **self.checkpoints.load(self.checkpoints.latest, like.arrays())
        )
        run.best = _copy(run.variables)
        if now.best not in (None, self.checkpoints.latest):
            run.best = self.checkpoints.load(now.best, {VARIABLES: variables})[VARIABLES]
        if parallel.is_first():
            tqdm.write(f"going on after step {now.step}")
        return run

    def _init_optimizer(self, variables: Variables, stage: int) -> Any:
        frozen = self._frozen[min(stage, len(self.stages) - 1)]
        state = self.optimizer.init(trained(variables["params"], frozen))
        return parallel.replicate(self.mesh, state)

    def _save(self) -> None:
        self.checkpoints.save(self.run.arrays(), self.run.progress.counters())
        self._saved_at = time.monotonic()

    def _phase(self) -> _Phase:
        network, batches, validation = self.network, self.train_batches, self.validation_batches
        frozen, every = self._frozen[self.run.progress.stage], frozenset(network.layers)
        cached = self.cache_features and len(every - frozen) == 1
        if cached:
            features, validation_features = (
                compute_features(
                    network, self.run.variables, source, mesh=self.mesh, progress=self.progress
                )
                for source in (batches.in_order(), validation)
            )
            batches = CachedBatches(batches, *features)
            validation = [dict(zip(("image", "labels"), validation_features, strict=True))]
            network = head_network(network)
        if (frozen, cached) not in self._step_fns:
            self._step_fns[frozen, cached] = make_step_fn(
                network,
                self.optimizer,
                objective=self.objective,
                frozen=frozen,
                stored=every if self.frozen_statistics else frozen,
                accumulate=self.accumulate,
                mesh=self.mesh,
            )
        return _Phase(network, batches, validation, self._step_fns[frozen, cached])

    def _train_epoch(self, phase: _Phase, stream: Iterator[tuple[jax.Array, jax.Array]]) -> None:
        """The rest of the epoch's steps; while one is computed the next is made ready."""
        run, now = self.run, self.run.progress
        steps, running = phase.batches.steps, None
        learning_rate = jnp.float32(self._learning_rate())
        with tqdm(
            total=steps,
            initial=now.epoch_step,
            desc=f"epoch {now.epoch + 1}",
            unit="step",
            leave=False,
            disable=not self.progress,
        ) as bar:
            while now.epoch_step < steps:
                began = time.monotonic()
                images, labels = next(stream)
                now.wait_seconds += time.monotonic() - began
                run.variables, run.opt_state, metrics = phase.step_fn(
                    run.variables,
                    run.opt_state,
                    images,
                    labels,
                    self._signals(),
                    learning_rate,
                    jax.random.fold_in(self.key, now.step),
                )
                signal = self._take_in(running)
                now.step += 1
                now.epoch_step += 1
                now.examples += len(images)
                running = metrics
                if signal != _GO_ON or now.epoch_step == steps:
                    signal = max(signal, self._take_in(running))
                    running = None
                now.seconds += time.monotonic() - began
                bar.update()
                if signal != _GO_ON:
                    self._save()
                if signal == _STOP:
                    raise preemption.Preempted

    def _take_in(self, metrics: Mapping[str, jax.Array] | None) -> int:
        """Waits for the step that was last counted and adds its loss; what processes had to say."""
        if metrics is None:
            return _GO_ON
        now = self.run.progress
        loss = float(metrics["loss"])
        _check_finite(loss, f"loss at step {now.step}")
        now.loss_sum += loss
        return int(metrics["signal"])

    def _signals(self) -> jax.Array:
        """What this process has to say, once for each of its devices."""
        signal = _GO_ON
        if preemption.requested():
            signal = _STOP
        elif time.monotonic() - self._saved_at >= self.save_seconds:
            signal = _SAVE
        devices = 1 if self.mesh is None else len(self.mesh.local_devices)
        return parallel.put(self.mesh, np.full(devices, signal, np.int32))

    def _end_epoch(self, phase: _Phase) -> None:
        """Validation, and what it decides."""
        run, now = self.run, self.run.progress
        try:
            logits, labels = predict(
                phase.network,
                run.variables,
                phase.validation,
                mesh=self.mesh,
                progress=self.progress,
            )
        except preemption.Preempted:
            self._save()
            raise
        self.objective.check_labels(labels)
        loss = self.objective.in_float64(logits, labels)
        _check_finite(loss, f"validation loss after step {now.step}")
        row = {
            "epoch": now.epoch + 1,
            "stage": now.stage,
            "learning_rate": self._learning_rate(),
            "train_loss": now.loss_sum / phase.batches.steps,
            "validation_loss": loss,
            **_scores_row(self.objective.probabilities(logits), labels),
        }
        speed = {
            "examples_per_second": now.examples / now.seconds,
            "data_wait": now.wait_seconds / now.seconds,
        }
        now.plateau, improved, lowered = now.plateau.update(
            loss, patience=self.plateau_patience, factor=self.plateau_factor
        )
        if improved:
            run.best, now.best = _copy(run.variables), self.checkpoints.next
        now.end_epoch()
        ended = (
            now.stage_epoch >= self.stages[now.stage].epochs
            or now.plateau.since_best >= self.early_stop
        )
        restore = ended or (lowered and self.restore)
        now.history.append(row | {"restored": not improved and restore} | speed)
        if ended:
            now.end_stage()
        if restore:
            # The momentum led away from the best weights, or was another stage's.
            run.variables = _copy(run.best)
            run.opt_state = self._init_optimizer(run.variables, now.stage)

    def _arrays(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        self.objective.check_labels(batch["labels"])
        return batch["image"], batch["labels"]

    def _learning_rate(self) -> float:
        now = self.run.progress
        return self.stages[now.stage].learning_rate * now.plateau.scale


@jax.jit
def _copy(variables: Variables) -> Variables:
    """Variables for the steps, which update them in place, or the best ones, away from them."""
    return jax.tree.map(jnp.copy, variables)


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the {what} is {loss}; the last checkpoint is kept. Try a lower learning rate"
        )


def _scores_row(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    scores = classification_scores(probabilities, labels)
    row = {
        f"{name}_{average}": scores[name][average]
        for name in ("f1", "f2")
        for average in ("macro", "micro", "weighted")
    }
    # Validation images without a single label have no mAP; curves want a number.
    return row | {"map_macro": scores["map"]["macro"] or 0.0}
