"""What one class of a batch of photos costs to explain by classifiers of two, in forward passes.

    python -m benchmarks.pair_maps [--networks resnet50,mobilenet_v2] [--pairs 4] [--batch 4]

The pass itself is included. With a frozen backbone one pass serves all pairs; whole networks take
one each, and the multi-layer maps a pass backwards besides. Weights are random; networks with more
than four taps take more than the goal is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from benchmarks import harness
from minmax_jax.pairs.files import PairClassifier
from minmax_jax.pairs.maps import PairMaps

_FROZEN, _WHOLE = "frozen backbone", "whole networks"
_ONE_PASS, _FOUR_TAPS = 1.2, 2.2  # goals: in all, and of each network


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="resnet50,mobilenet_v2")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4, help="photos")
    options = parser.parse_args(argv)
    rows = []
    for network, variables, size in harness.each_network(options, num_labels=2):
        rows += _rows(network, variables, size, options)
    harness.report(rows, options)


def _rows(network, variables, size, options) -> Iterator[harness.Row]:
    photos = np.random.default_rng(0).integers(0, 256, (options.batch, size, size, 3), np.uint8)
    images = jax.device_put(network.preprocess(photos))
    forward = harness.forward_fn(network)
    functions = {"forward": lambda: forward(variables, images)}
    for kind, trained in ((_FROZEN, ("head",)), (_WHOLE, None)):
        own = {
            name: {layer: arrays[layer] for layer in arrays if trained is None or layer in trained}
            for name, arrays in variables.items()
        }
        classifier = PairClassifier(own, accuracy=1.0, epochs=1, converged=True)
        for multi in (False, True):
            maps = PairMaps(
                network, variables, lambda *_, it=classifier: it, trained=trained, multi=multi
            )
            explain = maps(0, range(1, 1 + options.pairs))
            functions[kind, multi] = lambda explain=explain: explain(photos)
    for function in functions.values():
        jax.block_until_ready(function())
    times = harness.seconds(functions, repeats=options.repeats)
    goals = {(_FROZEN, False): _ONE_PASS}
    if len(network.taps) <= 4:
        goals[_WHOLE, True] = _FOUR_TAPS * options.pairs
    for kind, multi in list(functions)[1:]:
        layers = f"{len(network.taps)} layers" if multi else "last layer"
        yield harness.Row(
            f"{network.name}, {options.pairs} pairs, {kind}, {layers}",
            times[kind, multi] / times["forward"],
            "forward passes",
            goals.get((kind, multi)),
        )


if __name__ == "__main__":
    main()
