"""Score-CAM from fewer forward passes: how far its maps are from the exact ones, and how fast.

    python -m benchmarks.approximations --weights FILE --images FOLDER [--name mobilenet_v2]
        [--channels 16,64,256] [--clusters 16,64,256] [--labels 3] [--json FILE]

Of each photo of the folder the labels with the highest logits are explained. Weights are whatever
`load_network` reads: with random ones, errors would mean nothing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from minmax_jax import make_explain_fn
from minmax_jax.approximation import approximation_error
from minmax_jax.data.images import decode_image, resize_image
from minmax_jax.pretrained import load_network
from minmax_jax.select import TopLabels

_SUFFIXES = (".jpg", ".jpeg", ".png")


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--weights", required=True, help="address of `load_network`")
    parser.add_argument("--images", required=True, type=pathlib.Path, help="folder of photos")
    parser.add_argument("--name", default="", help="the network's, if the weights do not say it")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 is the network's own")
    parser.add_argument("--labels", type=int, default=3, help="explained of each photo")
    parser.add_argument("--photos", type=int, default=4, help="the first of the folder")
    parser.add_argument("--channels", default="16,64,256")
    parser.add_argument("--clusters", default="16,64,256")
    options = parser.parse_args(argv)
    loaded = load_network(options.weights, name=options.name, key=jax.random.key(0))
    size = options.size or loaded.network.image_size
    paths = sorted(p for p in options.images.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not paths:
        parser.error(f"no photo in {options.images}")
    photos = [resize_image(decode_image(p), size, "crop") for p in paths[: options.photos]]
    images = jax.device_put(loaded.network.preprocess(np.stack(photos)))
    tasks = [{}] + [
        {kind: int(number)}
        for kind in ("channels", "clusters")
        for number in getattr(options, kind).split(",")
    ]
    harness.report(_rows(loaded, images, tasks, options), options)


def _rows(loaded, images, tasks, options) -> list[harness.Row]:
    network, variables = loaded.network, jax.device_put(loaded.variables)
    select = TopLabels(options.labels)
    shared = {"activation": loaded.activation}
    calls = {}
    for number, task in enumerate(tasks):
        explain_fn = make_explain_fn(network, "score_cam", select=select, **shared, **task)
        calls[number] = lambda fn=explain_fn: fn(variables, images)
    times = harness.seconds(calls, repeats=min(options.repeats, 2))
    exact = f"{network.name}, exact Score-CAM"
    rows = [harness.Row(exact, len(images) / times[0], "images/s")]
    present = select(jnp.asarray(harness.forward_fn(network)(variables, images))).present
    for number, task in list(enumerate(tasks))[1:]:
        error = approximation_error(network, variables, images, present=present, **shared, **task)
        [(kind, count)] = task.items()
        what = f"{network.name}, {count} {kind}"
        rows += [
            harness.Row(what, times[0] / times[number], "times faster"),
            harness.Row(what, error["mean"], "mean difference"),
            harness.Row(what, error["max"], "largest difference"),
            harness.Row(what, error["correlation"], "correlation"),
        ]
    return rows


if __name__ == "__main__":
    main()
