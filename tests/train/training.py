"""A small run of `fit`, the same wherever it is started; as a program, one process of several.

python -m tests.train.training HOST:PORT PROCESSES PROCESS DIRECTORY
"""

from __future__ import annotations

import itertools
import sys
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

from minmax_jax import parallel
from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.layers import Conv
from minmax_jax.models.network import from_module
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE
from minmax_jax.train import Stage, fit

BATCH, SIZE, LABELS, STEPS = 16, 16, 3, 10
STAGES = (Stage(1, 0.05, unfrozen=0.5), Stage(4, 0.02))


class Batches:
    """Endless random images whose labels follow from their mean colour."""

    steps = STEPS

    def from_batch(self, start):
        return map(make_batch, itertools.count(start))

    def in_order(self):
        return [make_batch(number) for number in range(STEPS)]

    def indices(self, number):
        """As if an epoch were always the first one."""
        return np.arange(BATCH) + BATCH * (number % STEPS)


class Repeated(Batches):
    """The first epoch's batches, again and again."""

    def from_batch(self, start):
        return (make_batch(number % STEPS) for number in itertools.count(start))


def make_batch(number, rows=BATCH):
    """This process's share of a batch."""
    rng = np.random.default_rng(number)
    images = rng.normal(size=(BATCH, SIZE, SIZE, 3)) + rng.normal(size=(BATCH, 1, 1, 3))
    process, processes = parallel.shard()
    share = slice(process * BATCH // processes, min((process + 1) * BATCH // processes, rows))
    return {
        "image": images.astype(np.float32)[share],
        "labels": images.mean(axis=(1, 2))[share, :LABELS] > 0,
    }


class Small(Backbone):
    """A stem and a residual block, with batch normalisation; "late" is `(b 4 4 12)`."""

    taps: ClassVar[tuple[str, ...]] = ("early", "late")

    def features(self, x, *, tap, norm, train):
        x = nn.relu(norm(Conv(12, 7, 4, name="stem_conv")(x), name="stem_bn"))
        x = tap("early", x)
        residual = nn.relu(norm(Conv(12, 3, name="block_1_conv")(x), name="block_1_bn"))
        residual = norm(Conv(12, 3, name="block_2_conv")(residual), name="block_2_bn")
        return tap("late", nn.relu(x + residual))


def make_network(dropout=0.3, dtype="float32"):
    module = Small(LABELS, Style(MINUS_ONE_TO_ONE), dropout=dropout, dtype=dtype)
    return from_module(module, name="small", image_size=SIZE, preprocess=MINUS_ONE_TO_ONE)


def train(network, directory, *, stages=STAGES, **options):
    """50 steps, the upper layers first; the last validation batch is a small one."""
    batches = options.pop("batches", None) or Batches()
    return fit(
        network,
        network.init(jax.random.key(0)),
        batches,
        [make_batch(1000), make_batch(1001, rows=11)],
        stages=stages,
        directory=directory,
        progress=False,
        **options,
    )


def main(address, processes, process, directory):
    jax.distributed.initialize(address, int(processes), int(process))
    train(make_network(), directory, mesh=parallel.make_mesh(), save_seconds=1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
