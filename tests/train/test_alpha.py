"""Alpha of a regularised head in training: by a schedule or a gradient, and after a kill."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest

from minmax_jax.models import from_module
from minmax_jax.models.heads import Head
from minmax_jax.models.layers import Conv
from minmax_jax.train import Stage, fit, restore_best
from minmax_jax.train.checkpoints import VARIABLES, Checkpoints
from tests.train.toy import BATCHES, LABELS, VALIDATION, Batches, assert_same, without_speed

STAGES = [Stage(4, 0.3)]


class Tiny(nn.Module):
    """A 1x1 convolution and a head."""

    head: str
    num_labels: int = LABELS
    alpha: float = 1.0
    dropout: float = 0.2
    alpha_end: float = 6.0
    alpha_steps: int = 10
    taps: ClassVar[tuple[str, ...]] = ("last",)

    @nn.compact
    def __call__(self, images, perturbations, *, train, frozen):
        x = nn.relu(Conv(5, 1, name="conv")(images))
        schedule = self.alpha_end, self.alpha_steps
        head = Head(LABELS, self.head, self.alpha, self.dropout, *schedule, name="head")
        return head(x, train=train), {"last": x}


def network_of(head):
    return from_module(Tiny(head), name="tiny", image_size=2, preprocess=lambda x: x)


def run(network, directory, batches=None, **options):
    return fit(
        network,
        network.init(jax.random.key(0)),
        batches or Batches(),
        VALIDATION,
        stages=STAGES,
        directory=directory,
        progress=False,
        plateau_patience=100,
        **options,
    )


def test_a_schedule_is_in_the_checkpoints_and_goes_on_after_a_kill(tmp_path):
    network = network_of("kur_scheduled")
    whole = run(network, tmp_path / "whole")
    losses = [row["validation_loss"] for row in whole.history]
    steps = BATCHES * (1 + int(np.argmin(losses)))
    assert whole.variables["batch_stats"]["head"]["steps"] == steps > 0
    kernel = np.asarray(whole.variables["params"]["head"]["kernel"], np.float64)
    shares = np.exp(kernel) / np.exp(kernel).sum(axis=1, keepdims=True)
    alpha = 1 + 5 * min(steps / 10, 1)
    np.testing.assert_allclose(
        network.head_kernel(whole.variables), alpha * kernel * shares, rtol=1e-5
    )
    assert_same(restore_best(tmp_path / "whole", network), whole.variables)

    def breaking(number, batch):
        if number == BATCHES + 2:
            raise KeyboardInterrupt
        return batch

    with pytest.raises(KeyboardInterrupt):  # after a step of the second epoch was saved
        run(network, tmp_path / "broken", Batches(breaking), save_seconds=0.0)
    like = network.init(jax.random.key(1))
    with Checkpoints(tmp_path / "broken") as checkpoints:
        saved = checkpoints.load(checkpoints.latest, {VARIABLES: like})[VARIABLES]
        assert saved["batch_stats"]["head"]["steps"] == checkpoints.counters()["step"] > 0
    resumed = run(network, tmp_path / "broken")
    assert without_speed(resumed.history) == without_speed(whole.history)
    assert_same(resumed.variables, whole.variables)


def test_a_schedule_needs_the_whole_network(tmp_path):
    with pytest.raises(ValueError, match="cache_features needs a network with head_apply"):
        run(network_of("kur_scheduled"), tmp_path, cache_features=True)


def test_a_learned_alpha_follows_its_gradient_and_does_not_decay(tmp_path):
    network = network_of("kur_learned")
    start = network.init(jax.random.key(0))["params"]["head"]
    trained = run(network, tmp_path / "trained").variables["params"]["head"]
    assert abs(trained["alpha"] - start["alpha"]) > 1e-3

    def blackened(number, batch):
        return batch | {"image": np.zeros_like(batch["image"])}

    # Without features there is no gradient: what moves, decays.
    decayed = run(network, tmp_path / "decayed", Batches(blackened), weight_decay=0.1)
    head = decayed.variables["params"]["head"]
    assert head["alpha"] == start["alpha"] == 1
    assert np.abs(head["kernel"]).sum() < 0.99 * np.abs(start["kernel"]).sum()
