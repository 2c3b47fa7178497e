"""Masked passes a second of an evaluation, over images a second of the bare forward pass.

    python -m benchmarks.sweep [--networks mobilenet_v2,resnet50] [--images 32] [--json FILE]

All methods of the last layer are evaluated on images in memory with 1 to 5 annotated labels of 20.
A pair of image and label costs a method two masked passes; what fills up a chunk is not counted,
and what else the sweep does, such as the maps themselves, counts as its time. The bare pass sees
batches of 8 and of 32; the faster of them is the harder to reach.

The share of padding is that of 1,000 small images through a small network: it depends on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from benchmarks import harness
from benchmarks.explain import LAST_LAYER
from minmax_jax import create_network, evaluate

_NUM_LABELS = 20
_BARE = (8, 32)  # images in a batch of the bare forward pass


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="mobilenet_v2,resnet50")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="images in a batch of the sweep")
    parser.add_argument("--padding-images", type=int, default=1000)
    options = parser.parse_args(argv)
    rows = []
    for network, variables, size in harness.each_network(options, num_labels=_NUM_LABELS):
        rows += _speed_rows(network, variables, size, options)
    rows.append(_padding_row(options.padding_images, options.batch))
    harness.report(rows, options)


def random_batches(number: int, size: int, batch: int) -> list[dict[str, np.ndarray]]:
    """Random images in batches, each with 1 to 5 annotated labels."""
    rng = np.random.default_rng(1)
    labels = np.zeros((number, _NUM_LABELS), bool)
    for row in labels:
        row[rng.choice(_NUM_LABELS, rng.integers(1, 6), replace=False)] = True
    images = harness.random_images(number, size)
    return [
        {"image": images[start : start + batch], "labels": labels[start : start + batch]}
        for start in range(0, number, batch)
    ]


def _sweep(network, variables, batches):
    return evaluate(
        network, variables, batches, methods=LAST_LAYER, present="annotated", progress=False
    )


def _speed_rows(network, variables, size, options) -> Iterator[harness.Row]:
    batches = random_batches(options.images, size, options.batch)
    bare = {
        batch: harness.bare_passes(network, variables, size, number=options.images, batch=batch)
        for batch in _BARE
    }
    found = {}

    def sweep():
        found.update(_sweep(network, variables, batches))

    calls = {batch: passes for batch, (passes, _) in bare.items()} | {"sweep": sweep}
    times = harness.seconds(calls, repeats=min(options.repeats, 3))
    rate = found["passes"]["masked"] / times["sweep"]
    yield harness.Row(f"{network.name}, evaluation", rate, "masked passes/s")
    for batch, (_, number) in bare.items():
        bare_rate = number / times[batch]
        what = f"{network.name}, forward pass, batches of {batch}"
        yield harness.Row(what, bare_rate, "images/s")
        what = f"{network.name}, evaluation, over batches of {batch}"
        yield harness.Row(
            what, rate / bare_rate, "masked passes/s over forward images/s", 0.92, "high"
        )


def _padding_row(images, batch) -> harness.Row:
    network = create_network("scenes_resnet", num_labels=_NUM_LABELS)
    variables = network.init(jax.random.key(0))
    passes = _sweep(network, variables, random_batches(images, 16, batch))["passes"]
    share = passes["padding"] / (passes["masked"] + passes["padding"])
    return harness.Row(f"padding, {images} images", 100 * share, "% of masked passes", 2.0)


if __name__ == "__main__":
    main()
