"""Cost of an explanation in forward passes of the same batch, per method, for 1 and 20 labels.

    python -m benchmarks.explain [--networks mobilenet_v2,resnet50] [--batch 8] [--json FILE]

Every method serves all labels of the image, so 20 labels should cost what 1 does. The methods are
those of the last layer; what Score-CAM costs is told by `benchmarks.score_cam`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from benchmarks import harness
from minmax_jax import METHODS, make_explain_fn

# What one method, and all together, may cost with 20 labels, the forward pass included.
_GOALS = {"one": 1.05, "all": 1.2}

LAST_LAYER = tuple(name for name in METHODS if METHODS[name].family != "masking")


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
    calls = {name: lambda fn=fn: fn(variables, images) for name, fn in fns.items()}
    times = harness.seconds(calls, repeats=repeats)
    bare = times.pop("forward")
    labels = f"{num_labels} label{'s' if num_labels > 1 else ''}"
    return [
        harness.Row(
            f"{network.name}, {name}, {labels}",
            time / bare,
            "forward passes",
            _GOALS["one" if name in METHODS else "all"] if num_labels == 20 else None,
        )
        for name, time in times.items()
    ]


if __name__ == "__main__":
    main()
