"""The training loop against plain numpy, and against itself interrupted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models import Network
from minmax_jax.train import Stage, fit, restore_best

BATCH, BATCHES, LABELS = 4, 3, 2


def forward(variables, images, dropped=None):
    """Two linear layers on the mean colour, with a statistic that training moves."""
    params, stats = variables["params"], variables["batch_stats"]["low"]
    features = images.mean(axis=(1, 2)) @ params["low"]["kernel"] - stats["mean"][None]
    if dropped is not None:
        features = features * dropped
    return features @ params["head"]["kernel"] + params["head"]["bias"][None], features


def train_apply(variables, images, *, key, frozen):
    features = images.mean(axis=(1, 2)) @ variables["params"]["low"]["kernel"]
    stats = variables["batch_stats"]
    if "low" not in frozen:
        stats = {"low": {"mean": 0.9 * stats["low"]["mean"] + 0.1 * features.mean(axis=0)}}
    dropped = jax.random.bernoulli(key, 0.9, features.shape).astype(jnp.float32)
    return forward(variables, images, dropped)[0], stats


def init(key):
    low, head = jax.random.split(key)
    return {
        "params": {
            "low": {"kernel": jax.random.normal(low, (3, 5))},
            "head": {"kernel": jax.random.normal(head, (5, LABELS)), "bias": jnp.zeros(LABELS)},
        },
        "batch_stats": {"low": {"mean": jnp.zeros(5)}},
    }


NETWORK = Network(
    apply=lambda variables, images, perturbations=None: (forward(variables, images)[0], {}),
    taps=("none",),
    init=init,
    train_apply=train_apply,
    layers=("low", "head"),
)


def batches(epoch):
    rng = np.random.default_rng(epoch)
    for _ in range(BATCHES):
        images = rng.normal(size=(BATCH, 2, 2, 3)).astype(np.float32)
        means = images.mean(axis=(1, 2))
        yield {"image": images, "labels": np.stack([means[:, 0] > 0, means[:, 1] > 0.1], axis=1)}


VALIDATION = list(batches(1000))


def run(directory, stages, train_batches=batches, **options):
    return fit(
        NETWORK,
        init(jax.random.key(0)),
        train_batches,
        VALIDATION,
        stages=stages,
        directory=directory,
        progress=False,
        **options,
    )


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_one_epoch_is_nesterov_in_numpy(tmp_path, weight_decay):
    """SGD with Nesterov momentum, on the head alone, as a float64 loop."""
    learning_rate, momentum = 0.5, 0.9
    start = jax.tree.map(lambda x: np.asarray(x, np.float64), init(jax.random.key(0)))
    params = {name: value.copy() for name, value in start["params"]["head"].items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for step, batch in enumerate(batches(0)):
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


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4])
def test_interrupted_run_ends_bit_identical(tmp_path, stop_at):
    stages = [Stage(2, 0.3, unfrozen=0.0), Stage(3, 0.2)]
    options = {"plateau_patience": 1, "seed": 3}
    whole = run(tmp_path / "whole", stages, **options)

    def breaking(epoch):
        for index, batch in enumerate(batches(epoch)):
            if epoch == stop_at and index == 1:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stages, breaking, **options)
    resumed = run(tmp_path / "broken", stages, **options)
    assert resumed.history == whole.history
    assert_same(resumed.variables, whole.variables)
    # A run that has ended only gives its result, and so does the checkpoint.
    again = run(tmp_path / "broken", stages, breaking, **options)
    assert_same(again.variables, whole.variables)
    assert_same(restore_best(tmp_path / "broken", NETWORK), whole.variables)


def test_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    def poisoned(epoch):
        for index, batch in enumerate(batches(epoch)):
            if epoch == 1 and index == 2:
                batch["image"] = batch["image"] * np.float32(np.nan)
            yield batch

    with pytest.raises(FloatingPointError, match=f"loss at step {BATCHES + 3} is nan"):
        run(tmp_path, [Stage(4, 0.1)], poisoned)
    resumed = run(tmp_path, [Stage(4, 0.1)])
    assert_same(resumed.variables, run(tmp_path / "clean", [Stage(4, 0.1)]).variables)


def test_untrainable_network_and_empty_epoch_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be trained"):
        fit(
            Network(apply=NETWORK.apply, taps=("none",)),
            {},
            batches,
            VALIDATION,
            stages=[Stage(1, 0.1)],
            directory=tmp_path,
        )
    with pytest.raises(ValueError, match="no batch"):
        run(tmp_path, [Stage(1, 0.1)], lambda epoch: [])
    with pytest.raises(ValueError, match="no checkpoint"):
        restore_best(tmp_path / "nothing", NETWORK)


def test_tensorboard_has_every_scalar(tmp_path):
    fitted = run(tmp_path, [Stage(3, 0.1)])
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(content.count(name.encode()) >= 3 for name in fitted.history[0])
