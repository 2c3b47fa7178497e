"""What a training step costs, in forward passes; and what data costs the step.

    python -m benchmarks.train [--network resnet50] [--batch 16] [--json FILE]

Steps are those of `minmax_jax.train`, at 224 px, 20 labels: all layers trained; the head alone, as
in the papers' first stage; the same on cached features. With torch and torchvision installed, its
step stands beside. Then MobileNetV2 trains for two epochs on JPEG files, by threads and by worker
processes: the share of the second epoch that the loop waited for data.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import forward, harness, pipeline
from minmax_jax import create_network, data
from minmax_jax.models.network import Network
from minmax_jax.train import Stage, fit
from minmax_jax.train.cached import head_network
from minmax_jax.train.stages import frozen_layers
from minmax_jax.train.step import make_optimizer, make_step_fn, trained

_NUM_LABELS, _SIZE = 20, 224


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch")
    parser.add_argument("--photos", type=int, default=256, help="JPEG files of the epoch; 0: none")
    options = parser.parse_args(argv)
    has_torch = importlib.util.find_spec("torchvision") is not None
    rows = _step_rows(options, has_torch)
    if options.photos:
        rows += [_wait_row(workers, options) for workers in (0, os.cpu_count() or 1)]
    harness.report(rows, options, peers=("torch",) if has_torch else ())


def _step_rows(options, has_torch) -> list[harness.Row]:
    network = create_network(options.network, num_labels=_NUM_LABELS)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(options.batch, _SIZE, _SIZE, 3)).astype(np.float32)
    labels = rng.random((options.batch, _NUM_LABELS)) < 0.1
    variables = network.init(jax.random.key(0))
    features = jnp.zeros((options.batch, network.head_kernel(variables).shape[0]))
    passes = harness.forward_fn(network)
    on_device = jax.device_put(images)
    functions = {
        "forward": lambda: passes(variables, on_device),
        "step": _step(network, variables, on_device, labels, unfrozen=1.0),
        "head": _step(network, variables, on_device, labels, unfrozen=0.0),
        "cached": _step(head_network(network), variables, features, labels, unfrozen=0.0),
    }
    if has_torch:
        model = forward.torch_model(options.network)
        functions["torch"] = forward.torch_train(model, images, labels.astype(np.float32))
    times = harness.seconds(functions, repeats=options.repeats)
    what = f"{options.network}, batch {options.batch}"
    bare, head = times["forward"], times["head"]
    rows = [
        harness.Row(f"{what}: forward pass", 1e3 * bare, "ms"),
        harness.Row(f"{what}: step, all layers", times["step"] / bare, "forward passes", 4.0),
        harness.Row(f"{what}: step, head alone", head / bare, "forward passes", 1.1),
        harness.Row(f"{what}: head on cached features", head / times["cached"], "times faster"),
    ]
    if has_torch:
        ratio = times["step"] / times["torch"]
        rows.append(harness.Row(f"{what}: step, all layers", ratio, "of torch's time", 1.0))
    return rows


def _step(
    network: Network, variables: Any, images: jax.Array, labels: np.ndarray, *, unfrozen: float
) -> Callable[[], Any]:
    """A function that takes the next step."""
    frozen = frozen_layers(network.layers, unfrozen)
    optimizer = make_optimizer(momentum=0.9, weight_decay=0.0)
    step_fn = make_step_fn(
        network, optimizer, frozen=frozen, stored=frozen, accumulate=1, mesh=None
    )
    variables = jax.tree.map(jnp.copy, variables)  # A step takes what it is given.
    opt_state = optimizer.init(trained(variables["params"], frozen))
    rest = jax.device_put((images, labels, np.zeros(1, np.int32))), jnp.float32(0.01)
    key = jax.random.key(0)

    def step():
        nonlocal variables, opt_state
        variables, opt_state, metrics = step_fn(variables, opt_state, *rest[0], rest[1], key)
        return metrics

    return step


def _wait_row(workers: int, options) -> harness.Row:
    """How much of an epoch of MobileNetV2 is spent waiting for data."""
    network = create_network("mobilenet_v2", num_labels=1)
    with tempfile.TemporaryDirectory() as root:
        pipeline.make_photos(pathlib.Path(root, "images"), options.photos)
        with open(pathlib.Path(root, "train.csv"), "w", newline="") as file:
            names = [(f"{i:04}.jpg", "photo") for i in range(options.photos)]
            csv.writer(file).writerows([("image", "labels"), *names])
        source = data.create_source("csv", "train", root=root, train_csv="train.csv")
        shared = {
            "batch_size": options.batch,
            "image_size": _SIZE,
            "preprocess": network.preprocess,
        }
        fitted = fit(
            network,
            network.init(jax.random.key(0)),
            data.batches(
                source, seed=0, epochs=None, drop_remainder=True, workers=workers, **shared
            ),
            data.batches(source, **shared),
            stages=[Stage(2, 1e-4)],
            directory=root,
            progress=False,
        )
    row = fitted.history[-1]
    makers = f"{workers} worker processes" if workers else "threads"
    what = (
        f"mobilenet_v2, batch {options.batch}, {makers}: {row['examples_per_second']:.0f} images/s"
    )
    return harness.Row(what, 100 * row["data_wait"], "% waiting for data", 5.0)


if __name__ == "__main__":
    main()
