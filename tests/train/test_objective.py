"""Other losses and optimizers than the default: against plain numpy, and against one another."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax import parallel
from minmax_jax.train import Stage, fit
from tests.train.toy import (
    BATCH,
    BATCHES,
    NETWORK,
    VALIDATION,
    Batches,
    init,
    make_batch,
    run,
    train_apply,
)


def one_label(number, batch=None):
    """The batch's images with one label each."""
    batch = batch or make_batch(number)
    first = batch["image"].mean(axis=(1, 2))[:, 0] > 0
    return batch | {"labels": np.stack([first, ~first], axis=1)}


ONE_LABEL = [one_label(1000 + number) for number in range(BATCHES)]


def test_one_epoch_of_adam_in_numpy(tmp_path):
    """Softmax cross-entropy, Adam and decay of the kernel, on the head alone, as a float64 loop."""
    learning_rate, beta, weight_decay, epsilon = 0.05, 0.8, 0.1, 1e-8
    start = jax.tree.map(lambda x: np.asarray(x, np.float64), init(jax.random.key(0)))
    params = {name: value.copy() for name, value in start["params"]["head"].items()}
    mean, square = ({name: np.zeros_like(params[name]) for name in params} for _ in range(2))
    losses = []
    for step in range(BATCHES):
        batch = one_label(step)
        features = batch["image"].astype(np.float64).mean(axis=(1, 2))
        features = features @ start["params"]["low"]["kernel"]
        key = jax.random.fold_in(jax.random.key(0), step)
        features *= np.asarray(jax.random.bernoulli(key, 0.9, features.shape))
        powers = np.exp(features @ params["kernel"] + params["bias"])
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        losses.append(-np.log(probabilities[batch["labels"]]).mean())
        slope = (probabilities - batch["labels"]) / BATCH
        gradients = {
            "kernel": features.T @ slope + weight_decay * params["kernel"],
            "bias": slope.sum(axis=0),
        }
        for name, gradient in gradients.items():
            mean[name] = beta * mean[name] + (1 - beta) * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            params[name] -= (
                learning_rate
                * (mean[name] / (1 - beta ** (step + 1)))
                / (np.sqrt(square[name] / (1 - 0.999 ** (step + 1))) + epsilon)
            )
    fitted = run(
        tmp_path,
        [Stage(1, learning_rate, unfrozen=0.0)],
        Batches(one_label),
        ONE_LABEL,
        loss="softmax",
        optimizer="adam",
        momentum=beta,
        weight_decay=weight_decay,
    )
    for name, value in params.items():
        np.testing.assert_allclose(
            fitted.variables["params"]["head"][name], value, rtol=1e-4, atol=1e-6
        )
    (row,) = fitted.history
    np.testing.assert_allclose(row["train_loss"], np.mean(losses), rtol=1e-5)
    # The frozen layer passes as it was at the start.
    features = np.concatenate([batch["image"].mean(axis=(1, 2)) for batch in ONE_LABEL])
    logits = features @ start["params"]["low"]["kernel"] @ params["kernel"] + params["bias"]
    labels = np.concatenate([batch["labels"] for batch in ONE_LABEL])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(row["validation_loss"], -np.log(chances[labels]).mean(), rtol=1e-5)
    # Of two probabilities that sum to 1 one is above 1/2: the share of hits is the micro F1.
    assert row["f1_micro"] == pytest.approx((chances[labels] > 0.5).mean())


def test_adam_on_four_devices_is_that_on_one(tmp_path):
    arguments = [Stage(2, 0.01)], Batches(one_label), ONE_LABEL
    options = {"loss": "softmax", "optimizer": "adam"}
    mesh = parallel.make_mesh(jax.devices()[:4])
    four = run(tmp_path / "four", *arguments, mesh=mesh, **options)
    one = run(tmp_path / "one", *arguments, **options)
    assert len(four.variables["params"]["head"]["bias"].sharding.device_set) == 4
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), four.variables, one.variables
    )


def test_several_classifiers_are_trained_by_the_sum_of_their_losses(tmp_path):
    """Twice the same classifier: as one with twice the learning rate, whose loss is half."""

    def twice(variables, images, *, key, frozen):
        logits, stats = train_apply(variables, images, key=key, frozen=frozen)
        return jnp.stack([logits, logits], axis=1), stats

    network, start = dataclasses.replace(NETWORK, train_apply=twice), init(jax.random.key(0))
    options = {"directory": tmp_path / "two", "progress": False}
    two = fit(network, start, Batches(), VALIDATION, stages=[Stage(2, 0.1)], **options)
    one = run(tmp_path / "one", [Stage(2, 0.2)])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        two.variables,
        one.variables,
    )
    for row, single in zip(two.history, one.history, strict=True):
        assert row["train_loss"] == pytest.approx(2 * single["train_loss"], rel=1e-5)
        assert row["validation_loss"] == pytest.approx(single["validation_loss"], rel=1e-5)


def unlabelled(number, batch):
    return batch | {"labels": batch["labels"] & (np.arange(BATCH) > 0)[:, None]}


@pytest.mark.parametrize("where", ["train_batches", "validation_batches"])
def test_softmax_wants_a_label(tmp_path, where):
    options = {"train_batches": Batches(one_label), "validation_batches": ONE_LABEL}
    bare = [unlabelled(number, batch) for number, batch in enumerate(ONE_LABEL)]
    wrong = {"train_batches": Batches(unlabelled), "validation_batches": bare}
    options[where] = wrong[where]
    with pytest.raises(ValueError, match="at least one label an image"):
        run(tmp_path, [Stage(1, 0.1)], loss="softmax", **options)
