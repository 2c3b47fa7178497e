"""Pair classifiers: for each pair of classes a network of two units, all from the same start.

A pair is `(i, j)` with `i < j`; unit 0 is class `i`, unit 1 class `j`. Its examples are those with
exactly one of its two labels, in an order of its own in each epoch. So a pair ends with the same
weights alone, beside others, or in a run that was killed and started again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.models.network import Network, Variables
from minmax_jax.pairs.files import pair_path, write_pair
from minmax_jax.pairs.slots import Group, Run
from minmax_jax.pairs.step import make_shared, step_fn

Pair = tuple[int, int]

# Heads side by side: so many hide the host's work on a step, and their features stay near a cache.
_HEADS = 256
# Networks on an accelerator: one of a small batch leaves it idle, many need their activations at
# once. On CPUs a network fills its device.
_NETWORKS = 4


def needed_pairs(selections: Iterable[Sequence[Sequence[int]]]) -> list[Pair]:
    """The pairs that selections compare.

    Args:
      selections: of each the comparison classes of every class, as `select_classes` returns them.

    Returns:
      Sorted `(i, j)`, `i < j`, each once.

    Raises:
      ValueError: if a class is compared with itself.
    """
    pairs = set()
    for selection in selections:
        for i, chosen in enumerate(selection):
            if i in chosen:
                raise ValueError(f"class {i} is compared with itself")
            pairs |= {(min(i, int(j)), max(i, int(j))) for j in chosen}
    return sorted(pairs)


def pair_examples(labels: np.ndarray, i: int, j: int) -> np.ndarray:
    """Indices, int64, of the examples that a pair is trained on: with exactly one of its labels.

    Args:
      labels: `(n c)` bool.
    """
    return np.flatnonzero(labels[:, i] != labels[:, j])


def fit_pairs(
    network: Network,
    variables: Variables,
    take: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    pairs: Iterable[Pair],
    *,
    directory: str | os.PathLike,
    seed: int = 0,
    learning_rate: float = 1e-4,
    accuracy: float = 0.95,
    max_epochs: int = 10,
    batch_size: int = 24,
    side_by_side: int = 0,
    trained: Sequence[str] | None = None,
    frozen_statistics: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> None:
    """Trains the pairs that have no file yet, by softmax cross-entropy and Adam.

    After each epoch a pair is finished if the share of the epoch's examples that it told right,
    each before the update it took part in, is above `accuracy`, and in any case after `max_epochs`.
    An epoch's last batch is filled up with the epoch's first examples. `read_pair` reads the
    results.

    Args:
      network: of two units, with `train_apply`; or its `head_network`, for the head alone.
      variables: that every pair starts from.
      take: indices `(b,)` -> uint8 images `(b H W 3)`, which the network preprocesses; or float32
        images as it takes them, or features `(b k)` for a `head_network`.
      labels: `(n c)` bool, of the examples that `take` knows.
      pairs: two class indices each, whose order does not matter.
      directory: of the files, one a pair, each written when the pair is finished. Pairs that have
        one are not trained again.
      seed: of the orders and the dropout.
      batch_size: examples a step of each pair.
      side_by_side: pairs in training at a time, rounded up to the number of devices; 0 for 256
        where the head alone is trained on features, else 4 on each accelerator and 1 on each CPU
        device.
      trained: names of the trained layers; by default all. The others stay as they are and
        normalise by their stored statistics.
      frozen_statistics: whether the trained layers do so, too, as in `fit`.
      mesh: devices of this process over which the pairs are split (`parallel.local_mesh`). Of
        several processes each trains its share of the pairs, and all must call.
      progress: whether to show a progress bar.

    Raises:
      ValueError: for pairs, labels, networks and options that cannot be trained.
      FloatingPointError: at a loss that is not finite, naming the pair; finished pairs are kept.
      OSError: if a file cannot be written.
      preemption.Preempted: when SIGTERM came; finished pairs are kept.
    """
    _check_options(learning_rate, accuracy, seed, max_epochs, batch_size, side_by_side)
    labels = _checked_labels(labels)
    pairs = _checked_pairs(pairs, labels)
    if network.train_apply is None or not network.layers:
        raise ValueError("the network has no train_apply and layers, so it cannot be trained")
    part, parts = parallel.shard()
    pairs = pairs[part::parts]
    missing = [pair for pair in pairs if not pair_path(directory, *pair).exists()]
    if missing:
        example = _checked_example(network, take, labels)
        trained = _checked_layers(network, trained, of_features=example.ndim == 2)
        device = (jax.local_devices() if mesh is None else mesh.local_devices)[0]
        stacked = example.ndim == 2 or device.platform != "cpu"
        devices = 1 if mesh is None else mesh.size
        if not side_by_side:
            side_by_side = _HEADS if example.ndim == 2 else devices * (_NETWORKS if stacked else 1)
        group = Group(
            step_fn=step_fn(
                network,
                trained,
                frozen_statistics=frozen_statistics,
                stacked=stacked,
                mesh=mesh,
            ),
            shared=parallel.replicate(
                mesh,
                make_shared(
                    variables,
                    trained,
                    key=jax.random.key(seed),
                    learning_rate=learning_rate,
                    accuracy=accuracy,
                    max_epochs=max_epochs,
                ),
            ),
            number=-(-min(side_by_side, len(missing)) // devices) * devices,
            mesh=mesh,
            take=take,
            runs=_runs(missing, labels, batch_size, seed),
        )
        done = len(pairs) - len(missing)
        bar = tqdm(total=len(pairs), initial=done, desc="pairs", unit="pair", disable=not progress)
        with bar, preemption.deferred():
            _train(group, pathlib.Path(directory), bar)
    parallel.agree(True)  # waits for all


def _train(group: Group, directory: pathlib.Path, bar: tqdm) -> None:
    """Trains all pairs of a group; what is finished is written while the others go on."""
    began, writes, finished = time.monotonic(), collections.deque(), 0
    # Also after an error, the writer comes to its end.
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        for ended in group.finished():
            diverged = [run for run, classifier in ended if classifier is None]
            for run, classifier in ended:
                if classifier is not None:
                    writes.append(writer.submit(write_pair, directory, *run.pair, classifier))
                    finished += 1
                    rate = 60 * finished / (time.monotonic() - began)
                    bar.set_postfix_str(f"{rate:.1f} pairs/minute", refresh=False)
                    bar.update()
            if diverged:
                raise FloatingPointError(
                    f"the loss of pair {diverged[0].pair} is not finite; finished pairs are kept. "
                    "Try a lower learning rate"
                )
            while writes and writes[0].done():
                writes.popleft().result()
            if preemption.requested():
                raise preemption.Preempted
        for write in writes:
            write.result()


def _runs(pairs: Iterable[Pair], labels: np.ndarray, batch_size: int, seed: int) -> Iterator[Run]:
    for i, j in pairs:
        examples = pair_examples(labels, i, j)
        yield Run(
            (i, j),
            examples,
            labels[examples, j],
            number=i * labels.shape[1] + j,
            batch_size=batch_size,
            seed=seed,
        )


def _check_options(learning_rate, accuracy, seed, max_epochs, batch_size, side_by_side) -> None:
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be positive, not {learning_rate}")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be in 0..1, not {accuracy}")
    for name, number, least in (
        ("seed", seed, 0),
        ("max_epochs", max_epochs, 1),
        ("batch_size", batch_size, 1),
        ("side_by_side", side_by_side, 0),
    ):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}")


def _checked_labels(labels) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype != bool:
        raise ValueError(f"labels must be (n c) bool, not {labels.shape} {labels.dtype}")
    return labels


def _checked_pairs(pairs: Iterable[Pair], labels: np.ndarray) -> list[Pair]:
    """Sorted, each once, the lower class first."""
    number = labels.shape[1]
    found = set()
    for pair in pairs:
        i, j = map(int, sorted(pair))
        if i == j or i < 0 or j >= number:
            raise ValueError(f"pair {(i, j)}: expected are two of the classes 0 to {number - 1}")
        found.add((i, j))
    alone = labels.T.astype(np.float64) @ ~labels  # [i, j]: examples of i without j; exact
    for i, j in sorted(found):
        for own, other in ((i, j), (j, i)):
            if not alone[own, other]:
                raise ValueError(
                    f"pair {(i, j)}: class {own} has no example without class {other} to train on"
                )
    return sorted(found)


def _checked_example(network: Network, take, labels: np.ndarray) -> np.ndarray:
    """What `take` gives for the last example."""
    last = len(labels) - 1
    try:
        example = np.asarray(take(np.array([last])))
    except IndexError as error:
        raise ValueError(
            f"labels has {len(labels)} rows, but there is no example {last}"
        ) from error
    if (example.ndim, example.dtype) not in ((4, np.uint8), (4, np.float32), (2, np.float32)):
        raise ValueError(
            "take must give uint8 or float32 images (b H W 3) or float32 features (b k), not "
            f"{example.shape} {example.dtype}"
        )
    if len(example) != 1:
        raise ValueError(f"take gave {len(example)} examples for one index")
    if example.dtype == np.uint8 and network.preprocess is None:
        raise ValueError("the network has no preprocess, so take must give float32, not uint8")
    return example


def _checked_layers(network: Network, trained, *, of_features: bool) -> frozenset[str]:
    trained = network.layers if trained is None else tuple(trained)
    unknown = sorted(set(trained) - set(network.layers))
    if unknown or not trained:
        raise ValueError(
            f"trained names {unknown or 'no layer'}; layers are {list(network.layers)}"
        )
    if of_features and trained != network.layers[-1:]:
        raise ValueError(f"on features only {network.layers[-1:]} can be trained, not {trained}")
    return frozenset(trained)
