"""The training loop against plain numpy, and against itself interrupted."""

from __future__ import annotations

import csv
import threading

import jax
import numpy as np
import pytest

from minmax_jax import preemption
from minmax_jax.models import Network
from minmax_jax.train import Stage, fit, restore_best
from minmax_jax.train.checkpoints import Checkpoints
from tests.train.toy import (
    BATCHES,
    NETWORK,
    VALIDATION,
    Batches,
    assert_same,
    forward,
    init,
    make_batch,
    run,
    without_speed,
)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_one_epoch_is_nesterov_in_numpy(tmp_path, weight_decay):
    """SGD with Nesterov momentum, on the head alone, as a float64 loop."""
    learning_rate, momentum = 0.5, 0.9
    start = jax.tree.map(lambda x: np.asarray(x, np.float64), init(jax.random.key(0)))
    params = {name: value.copy() for name, value in start["params"]["head"].items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for step in range(BATCHES):
        batch = make_batch(step)
        features = batch["image"].astype(np.float64).mean(axis=(1, 2))
        features = features @ start["params"]["low"]["kernel"]
        key = jax.random.fold_in(jax.random.key(0), step)
        features *= np.asarray(jax.random.bernoulli(key, 0.9, features.shape))
        logits = features @ params["kernel"] + params["bias"]
        slope = (1 / (1 + np.exp(-logits)) - batch["labels"]) / logits.size
        gradients = {
            "kernel": features.T @ slope + weight_decay * params["kernel"],
            "bias": slope.sum(axis=0),
        }
        for name, gradient in gradients.items():
            velocity[name] = momentum * velocity[name] + gradient
            params[name] -= learning_rate * (gradient + momentum * velocity[name])
    fitted = run(
        tmp_path,
        [Stage(1, learning_rate, unfrozen=0.0)],
        momentum=momentum,
        weight_decay=weight_decay,
    )
    for name, value in params.items():
        np.testing.assert_allclose(
            fitted.variables["params"]["head"][name], value, rtol=1e-4, atol=1e-6
        )
    # The frozen layer keeps weights and statistics.
    assert_same(fitted.variables["params"]["low"], init(jax.random.key(0))["params"]["low"])
    assert_same(fitted.variables["batch_stats"], init(jax.random.key(0))["batch_stats"])


def test_without_restoring_a_fall_of_the_rate_leaves_weights_and_momentum(tmp_path):
    """At a factor of 1 nothing then happens: as if the loss had never risen, bit for bit."""
    stages, falls = [Stage(3, 5.0)], {"plateau_patience": 1, "plateau_factor": 1.0}
    never = run(tmp_path / "never", stages, plateau_patience=100)
    kept = run(tmp_path / "kept", stages, restore=False, **falls)
    restored = run(tmp_path / "restored", stages, **falls)
    losses = [row["validation_loss"] for row in never.history]
    assert losses[1] > losses[0], "the test wants a run that gets worse"
    assert without_speed(kept.history) == without_speed(never.history)
    assert without_speed(restored.history) != without_speed(never.history)
    # The best weights come back at the end alone.
    assert [row["restored"] for row in kept.history] == [False, False, True]
    assert_same(kept.variables, restore_best(tmp_path / "kept", NETWORK))
    halved = run(tmp_path / "halved", stages, restore=False, plateau_patience=1)
    assert [row["learning_rate"] for row in halved.history] == [5.0, 5.0, 2.5]


def test_best_weights_are_those_of_the_lowest_loss(tmp_path):
    """A learning rate that throws the weights about: the best epoch's weights come back."""
    fitted = run(tmp_path, [Stage(8, 30.0)], plateau_patience=2, early_stop=5)
    losses = [row["validation_loss"] for row in fitted.history]
    best = int(np.argmin(losses))
    logits = np.concatenate(
        [np.asarray(forward(fitted.variables, batch["image"])[0]) for batch in VALIDATION]
    ).astype(np.float64)
    labels = np.concatenate([batch["labels"] for batch in VALIDATION])
    loss = np.mean(np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * labels)
    np.testing.assert_allclose(loss, losses[best], rtol=1e-5)
    assert len(losses) <= 8 and best < len(losses) - 1, "the test wants a run that got worse"
    assert [row["learning_rate"] for row in fitted.history][best + 3] == 15.0
    assert fitted.history[best + 2]["restored"]


def test_early_stop_ends_the_stage_only(tmp_path):
    fitted = run(
        tmp_path, [Stage(50, 0.0, unfrozen=0.0), Stage(2, 0.01)], early_stop=3, plateau_patience=9
    )
    assert [row["stage"] for row in fitted.history] == [0, 0, 0, 0, 1, 1]


def test_second_stage_trains_more_layers(tmp_path):
    fitted = run(tmp_path, [Stage(1, 0.1, unfrozen=0.0), Stage(3, 0.1, unfrozen=1.0)])
    low = fitted.variables["params"]["low"]["kernel"]
    assert np.abs(low - init(jax.random.key(0))["params"]["low"]["kernel"]).max() > 1e-4
    assert np.abs(fitted.variables["batch_stats"]["low"]["mean"]).max() > 0
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]


def test_frozen_statistics_stay_while_weights_move(tmp_path):
    fitted = run(tmp_path, [Stage(2, 0.1)], frozen_statistics=True)
    start = init(jax.random.key(0))
    assert_same(fitted.variables["batch_stats"], start["batch_stats"])
    low = fitted.variables["params"]["low"]["kernel"]
    assert np.abs(low - start["params"]["low"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize(
    ("stop_at", "save_seconds", "optimizer"),
    [(1, 0.0, "sgd"), (4, 1000.0, "sgd"), (10, 0.0, "sgd"), (13, 1000.0, "sgd"), (10, 0.0, "adam")],
)
def test_interrupted_run_ends_bit_identical(tmp_path, stop_at, save_seconds, optimizer):
    """Whether the last checkpoint stands between two epochs, or after a step."""
    stages = [Stage(2, 0.3, unfrozen=0.0), Stage(3, 0.2)]
    options = {"plateau_patience": 1, "seed": 3, "save_seconds": save_seconds}
    options |= {"optimizer": optimizer, "restore": optimizer == "sgd"}
    whole = run(tmp_path / "whole", stages, **options)
    made = []

    def breaking(number, batch):
        made.append(number)
        if number == stop_at:
            raise KeyboardInterrupt
        return batch

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stages, Batches(breaking), **options)
    made.clear()

    def counting(number, batch):
        made.append(number)
        return batch

    resumed = run(tmp_path / "broken", stages, Batches(counting), **options)
    assert made[0] <= stop_at and (save_seconds or made[0] >= stop_at - 3)
    assert without_speed(resumed.history) == without_speed(whole.history)
    assert_same(resumed.variables, whole.variables)
    # A run that has ended only gives its result, and so does the checkpoint. The kill may have come
    # before the last row was written.
    curves = (tmp_path / "broken" / "metrics.csv").read_text()
    (tmp_path / "broken" / "metrics.csv").unlink()
    again = run(tmp_path / "broken", stages, Batches(breaking), **options)
    assert_same(again.variables, whole.variables)
    assert_same(restore_best(tmp_path / "broken", NETWORK), whole.variables)
    assert (tmp_path / "broken" / "metrics.csv").read_text() == curves


@pytest.mark.parametrize("during", ["step", "validation"])
def test_sigterm_saves_at_once(tmp_path, monkeypatch, during):
    """The state is saved after the step, or before the validation that it interrupts."""
    stages, asked = [Stage(3, 0.2)], threading.Event()
    whole = run(tmp_path / "whole", stages)
    monkeypatch.setattr(preemption, "requested", asked.is_set)

    def ask(number, batch):
        if during == "step" and number == BATCHES + 1:
            asked.set()
        return batch

    class Validation(list):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if during == "validation" and number == 1:
                    asked.set()
                yield batch

    options = {"train_batches": Batches(ask), "validation_batches": Validation(VALIDATION)}
    with pytest.raises(preemption.Preempted):
        run(tmp_path / "stopped", stages, **options)
    with Checkpoints(tmp_path / "stopped") as checkpoints:
        step = checkpoints.counters()["step"]
    assert step == BATCHES if during == "validation" else BATCHES < step <= BATCHES + 4
    asked.clear()
    resumed = run(tmp_path / "stopped", stages)
    assert without_speed(resumed.history) == without_speed(whole.history)
    assert_same(resumed.variables, whole.variables)


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path):
    """A learning rate that throws the weights about: the best is not among the newest."""
    fitted = run(tmp_path, [Stage(8, 8.0)], plateau_patience=100, keep=3)
    losses = [row["validation_loss"] for row in fitted.history]
    best = int(np.argmin(losses)) + 1
    assert best < 6, "the test wants a run that got worse"
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best, 6, 7, 8}
    assert_same(restore_best(tmp_path, NETWORK), fitted.variables)


def test_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    def poisoned(number, batch):
        if number == BATCHES + 2:
            batch["image"] = batch["image"] * np.float32(np.nan)
        return batch

    with pytest.raises(FloatingPointError, match=f"loss at step {BATCHES + 3} is nan"):
        run(tmp_path, [Stage(4, 0.1)], Batches(poisoned))
    resumed = run(tmp_path, [Stage(4, 0.1)])
    assert_same(resumed.variables, run(tmp_path / "clean", [Stage(4, 0.1)]).variables)


def test_untrainable_network_and_empty_epoch_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be trained"):
        fit(
            Network(apply=NETWORK.apply, taps=("none",)),
            {},
            Batches(),
            VALIDATION,
            stages=[Stage(1, 0.1)],
            directory=tmp_path,
        )
    empty = Batches()
    empty.steps = 0
    with pytest.raises(ValueError, match="no batch"):
        run(tmp_path, [Stage(1, 0.1)], empty)
    with pytest.raises(ValueError, match="accumulate must be at least 1, not 0"):
        run(tmp_path, [Stage(1, 0.1)], accumulate=0)
    with pytest.raises(ValueError, match="head_apply"):
        run(tmp_path, [Stage(1, 0.1)], cache_features=True)
    with pytest.raises(ValueError, match="unknown loss 'hinge', valid: sigmoid, softmax"):
        run(tmp_path, [Stage(1, 0.1)], loss="hinge")
    with pytest.raises(ValueError, match="unknown optimizer 'lion', valid: sgd, adam"):
        run(tmp_path, [Stage(1, 0.1)], optimizer="lion")
    with pytest.raises(ValueError, match="no checkpoint"):
        restore_best(tmp_path / "nothing", NETWORK)


def test_curves_are_in_tensorboard_and_csv(tmp_path):
    fitted = run(tmp_path, [Stage(3, 0.1)])
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[row[name] for name in fitted.history[0]] for row in rows] == [
        [str(value) for value in row.values()] for row in fitted.history
    ]
    assert all(float(row["examples_per_second"]) > 0 for row in rows)
    assert all(0 <= float(row["data_wait"]) < 1 for row in rows)
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(content.count(name.encode()) >= 3 for name in fitted.history[0])
