"""Training the head alone on its features, which the frozen layers compute once for all epochs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import jax
import numpy as np

from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import forward, pooled_features

Batch = Mapping[str, np.ndarray]


class TrainBatches(Protocol):
    """Endless batches of one shape, epoch after epoch: what `data.batches(epochs=None)` returns.

    Batch `i` is one of epoch `i // steps`, and depends on nothing but `i`. A process makes its own
    rows of each batch.
    """

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def from_batch(self, start: int) -> Iterable[Batch]:
        """The batches without the first `start`."""

    def in_order(self) -> Iterable[Batch]:
        """All examples once, in the source's order; only `cache_features` asks for it."""

    def indices(self, number: int) -> np.ndarray:
        """Which examples are in a batch (this process's rows); only `cache_features` asks."""


@dataclasses.dataclass(frozen=True, eq=False)
class CachedBatches:
    """Batches of the same examples in the same order, with their features for "image".

    Attributes:
      batches: of the images.
      features: `(n k)` float32, of all examples.
      labels: `(n c)` bool.
    """

    batches: TrainBatches
    features: np.ndarray
    labels: np.ndarray

    @property
    def steps(self) -> int:
        return self.batches.steps

    def from_batch(self, start: int) -> Iterator[Batch]:
        for number in itertools.count(start):
            rows = self.batches.indices(number)
            yield {"image": self.features[rows], "labels": self.labels[rows]}


def compute_features(
    network: Network,
    variables: Variables,
    batches: Iterable[Batch],
    *,
    mesh: jax.sharding.Mesh | None,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Features `(n k)` float32 and labels `(n c)` bool of all examples, on every process."""
    return forward(
        pooled_features(network), variables, batches, mesh=mesh, progress=progress, desc="features"
    )


def head_network(network: Network) -> Network:
    """The head alone as a network: features `(b k)` in the place of images."""

    def apply(variables, features, perturbations=None):
        del perturbations
        return network.head_apply(variables, features), {}

    def train_apply(variables, features, *, key, frozen):
        del frozen
        return network.head_apply(variables, features, key=key), variables["batch_stats"]

    return dataclasses.replace(network, apply=apply, train_apply=train_apply)
