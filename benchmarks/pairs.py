"""Seconds that a pair classifier takes: alone, beside others, and its head alone on features.

    python -m benchmarks.pairs [--networks scenes_resnet] [--pairs 4] [--json FILE]

Images are noise, so every pair is trained for all of its epochs (10 of 2 x 48 images in batches of
24, Adam, as `minmax_jax.pairs` trains them). Beside others means `--side-by-side` pairs in one
step. Heads are those of all pairs of 20 classes, on features that are in memory; making these, one
forward pass an image, is not counted. Files are written and counted.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from benchmarks import harness
from minmax_jax.pairs.training import fit_pairs
from minmax_jax.predict import pooled_features
from minmax_jax.train.cached import head_network


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="scenes_resnet")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of whole networks")
    parser.add_argument("--side-by-side", type=int, default=4)
    parser.add_argument("--images", type=int, default=48, help="of each class")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(argv)
    rows = []
    for network, variables, size in harness.each_network(options, num_labels=2):
        rows += _rows(network, variables, size, options)
    harness.report(rows, options)


def _rows(network, variables, size, options) -> Iterator[harness.Row]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.eye(options.classes, dtype=bool), options.images, axis=0)
    images = rng.integers(0, 256, (len(labels), size, size, 3), np.uint8)
    channels = jax.eval_shape(
        pooled_features(network), variables, jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    ).shape[1]
    features = rng.random((len(labels), channels), np.float32)
    pairs = list(itertools.combinations(range(options.classes), 2))
    some = pairs[: options.pairs]

    def training(network, examples, pairs, **arguments) -> Callable[[], None]:
        def train():
            with tempfile.TemporaryDirectory() as directory:
                fit_pairs(
                    network,
                    variables,
                    examples.__getitem__,
                    labels,
                    pairs,
                    directory=directory,
                    accuracy=1.0,  # above it is nothing
                    max_epochs=options.epochs,
                    progress=False,
                    **arguments,
                )

        return train

    number = options.side_by_side
    times = harness.seconds(
        {
            "alone": training(network, images, some, side_by_side=1),
            "beside": training(network, images, some, side_by_side=number),
            "heads": training(head_network(network), features, pairs, trained=network.layers[-1:]),
        },
        repeats=min(options.repeats, 2),
    )
    alone, beside, head = (
        times[name] / len(trained)
        for name, trained in (("alone", some), ("beside", some), ("heads", pairs))
    )
    steps = options.epochs * -(-2 * options.images // 24)
    what = f"{network.name} at {size} px, {steps} steps"
    yield harness.Row(f"{what}, a pair alone", alone, "s")
    yield harness.Row(f"{what}, a pair of {number} side by side", beside, "s")
    yield harness.Row(f"{what}, {number} side by side", alone / beside, "times faster than alone")
    yield harness.Row(f"{what}, heads on features", 60 / head, "pairs/minute", 2000, "high")
    yield harness.Row(f"{what}, heads on features", alone / head, "times faster than alone")


if __name__ == "__main__":
    main()
