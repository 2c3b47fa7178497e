"""A small run of `fit`, the same wherever it is started; as a program, one process of several.

python -m tests.train.training HOST:PORT PROCESSES PROCESS DIRECTORY
"""

from __future__ import annotations

import itertools
import sys

import jax
import numpy as np

from minmax_jax import parallel
from minmax_jax.models import create_network
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


def make_network(dropout=0.3, dtype="float32"):
    return create_network("scenes_resnet", num_labels=LABELS, dropout=dropout, dtype=dtype)


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
