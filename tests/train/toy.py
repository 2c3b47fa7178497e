"""A network of two linear layers and its data: small enough for a run to be a loop in numpy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax.models import Network
from minmax_jax.train import fit

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


class Batches:
    """Endless batches; `change(number, batch)` may spoil one of them, or raise."""

    steps = BATCHES

    def __init__(self, change=lambda number, batch: batch):
        self.change = change

    def from_batch(self, start):
        for number in itertools.count(start):
            yield self.change(number, make_batch(number))


def make_batch(number):
    images = np.random.default_rng(number).normal(size=(BATCH, 2, 2, 3)).astype(np.float32)
    means = images.mean(axis=(1, 2))
    labels = np.stack([means[:, 0] > 0, means[:, 1] > 0.1], axis=1)
    return {"image": images, "labels": labels}


VALIDATION = [make_batch(1000 + number) for number in range(BATCHES)]
# What a second run does not repeat.
SPEED = ("examples_per_second", "data_wait")


def without_speed(history):
    return [{name: row[name] for name in row if name not in SPEED} for row in history]


def run(directory, stages, train_batches=None, validation_batches=VALIDATION, **options):
    return fit(
        NETWORK,
        init(jax.random.key(0)),
        train_batches or Batches(),
        validation_batches,
        stages=stages,
        directory=directory,
        progress=False,
        **options,
    )


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)
