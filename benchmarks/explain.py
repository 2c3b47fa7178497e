"""Cost of an explanation in forward passes of the same batch, per method, for 1 and 20 labels.

    python -m benchmarks.explain [--networks mobilenet_v2,resnet50] [--batch 8] [--json FILE]

Every method serves all labels of the image, so 20 labels should cost what 1 does. The methods are
those of the paper; what Score-CAM costs is told by `benchmarks.score_cam`, what all the other
methods cost by `benchmarks.methods`. A multi-layer map
goes back through the network as far as its first tap, for each label: it is told for 1 label.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from benchmarks import harness
from minmax_jax import METHODS, make_explain_fn, make_multi_layer_fn
from minmax_jax.methods import PAPER_METHODS

# What one method, and all together, may cost with 20 labels, the forward pass included; and a
# multi-layer map of four taps with 1.
_GOALS = {"one": 1.05, "all": 1.2, "four_taps": 2.2}

# The paper's, but for Score-CAM.
LAST_LAYER = tuple(name for name in PAPER_METHODS if METHODS[name].family != "masking")


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="mobilenet_v2,resnet50")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args(argv)
    rows = []
    for num_labels in (1, 20):
        for network, variables, size in harness.each_network(options, num_labels=num_labels):
            images = jax.device_put(harness.random_images(options.batch, size))
            rows += _rows(network, variables, images, num_labels, options.repeats)
    harness.report(rows, options)


def _rows(network, variables, images, num_labels, repeats) -> list[harness.Row]:
    fns = {name: make_explain_fn(network, name) for name in LAST_LAYER}
    fns["all seven together"] = make_explain_fn(network, LAST_LAYER)
    fns["forward"] = harness.forward_fn(network)
    if num_labels == 1:
        fns["multi_layer_cam"] = make_multi_layer_fn(network)
    calls = {name: lambda fn=fn: fn(variables, images) for name, fn in fns.items()}
    times = harness.seconds(calls, repeats=repeats)
    bare = times.pop("forward")
    labels = f"{num_labels} label{'s' if num_labels > 1 else ''}"
    return [
        harness.Row(
            f"{network.name}, {name}, {labels}",
            time / bare,
            "forward passes",
            _goal(network, name, num_labels),
        )
        for name, time in times.items()
    ]


def _goal(network, name, num_labels) -> float | None:
    if name == "multi_layer_cam":
        return _GOALS["four_taps"] if len(network.taps) == 4 else None
    return _GOALS["one" if name in METHODS else "all"] if num_labels == 20 else None


if __name__ == "__main__":
    main()
