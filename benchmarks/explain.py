"""Cost of an explanation in forward passes of the same batch, per method, for 1 and 20 labels.

    python -m benchmarks.explain [--network mobilenet_v2] [--batch 8] [--size 224] [--json FILE]

Every method serves all labels of the image, so 20 labels should cost what 1 does. Score-CAM
forwards one masked image per live channel; its figure is the cost per masked image, on one image.
"""

from __future__ import annotations

import jax
import numpy as np

from benchmarks import harness
from minmax_jax import METHODS, NETWORKS, create_network, make_explain_fn
from minmax_jax.cams.maps import is_flat

# What the last layer's methods may cost beside the forward pass they contain.
_GOAL = 1.05


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 is the network's own")
    options = parser.parse_args()
    rows = []
    for num_labels in (1, 20):
        network = create_network(options.network, num_labels=num_labels)
        variables = network.init(jax.random.key(0))
        size = options.size or network.image_size
        shape = (options.batch, size, size, 3)
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        rows += _shared_pass(network, variables, images, num_labels, options.repeats)
        rows += _masked_passes(network, variables, images, num_labels, options.repeats)
    harness.report(rows, options.json)


def _shared_pass(network, variables, images, num_labels, repeats):
    """Methods that share the image's own forward pass."""
    names = [name for name in METHODS if METHODS[name].family != "masking"]
    fns = {name: make_explain_fn(network, name) for name in names}
    fns["all of these together"] = make_explain_fn(network, names)
    forward = jax.jit(lambda variables, images: network.apply(variables, images)[0])
    calls = {name: lambda fn=fn: fn(variables, images) for name, fn in fns.items()}
    times = harness.seconds(
        {"forward": lambda: forward(variables, images)} | calls, repeats=repeats
    )
    return [
        harness.Row(
            f"{name}, {num_labels} labels",
            times[name] / times["forward"],
            "forward passes",
            _GOAL if name in names else 1.2,
        )
        for name in fns
    ]


def _masked_passes(network, variables, images, num_labels, repeats):
    """Score-CAM of one image, per masked image."""
    image, chunk = images[:1], 32
    forward = jax.jit(lambda variables, images: network.apply(variables, images)[0])
    activations = network.apply(variables, image)[1][network.taps[-1]]
    live = int((~is_flat(np.moveaxis(activations, -1, 1))).sum())
    explain_fn = make_explain_fn(network, "score_cam", mask_chunk=chunk)
    same = np.broadcast_to(image, (chunk, *image.shape[1:]))
    times = harness.seconds(
        {
            "forward": lambda: forward(variables, same),
            "score_cam": lambda: explain_fn(variables, image),
        },
        repeats=min(repeats, 3),
    )
    per_mask = times["score_cam"] / live / (times["forward"] / chunk)
    what = f"score_cam, {num_labels} labels, per mask of {live}"
    return [harness.Row(what, per_mask, "forward passes", 1 / 0.97)]


if __name__ == "__main__":
    main()
