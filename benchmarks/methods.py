"""Cost of every method in forward passes of the same images.

    python -m benchmarks.methods [--networks mobilenet_v2] [--labels 3] [--methods NAME,...]
        [--batch 4] [--size 128] [--json FILE]

All labels come out of one call. Methods that forward an image for every channel are given one
image, the others a batch; the bare forward pass is of as many.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from benchmarks import harness
from minmax_jax import METHODS, make_explain_fn
from minmax_jax.models.heads import ACOL


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="mobilenet_v2")
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--methods", default="", help="names with commas; all by default")
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args(argv)
    rows = []
    wanted = options.methods.split(",") if options.methods else list(METHODS)
    # The one method that a plain head does not support has a network of its own.
    heads = {
        "dense": [name for name in wanted if name != "acol_cam"],
        ACOL: [name for name in wanted if name == "acol_cam"],
    }
    for head, names in heads.items():
        if not names:
            continue
        for network, variables, size in harness.each_network(
            options, num_labels=options.labels, head=head
        ):
            images = jax.device_put(harness.random_images(options.batch, size))
            for alone in (False, True):
                chosen = [name for name in names if (METHODS[name].family == "masking") == alone]
                rows += _rows(network, variables, images[: 1 if alone else None], chosen, options)
    harness.report(rows, options)


def _rows(network, variables, images, names, options) -> list[harness.Row]:
    forward = harness.forward_fn(network)
    rows = []
    for name in names:  # one after the other: together their programs would fill the memory
        explain_fn = make_explain_fn(network, name)
        times = harness.seconds(
            {
                "forward": lambda: forward(variables, images),
                name: lambda explain_fn=explain_fn: explain_fn(variables, images),
            },
            repeats=options.repeats,
        )
        labels = f"{options.labels} label{'s' if options.labels > 1 else ''}"
        rows.append(
            harness.Row(
                f"{network.name}, {name}, {labels}",
                times[name] / times["forward"],
                "forward passes",
            )
        )
    return rows


if __name__ == "__main__":
    main()
