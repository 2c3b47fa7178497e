"""Forward pass and training step over torch's, in the same process, on the same shapes.

    python -m benchmarks.forward [--networks resnet50,...] [--batches 1,8,32] [--json FILE]

Needs torch and torchvision (`pip install torch torchvision`). torch runs channels last with as many
threads as there are cores. A training step is the forward pass in training mode, sigmoid
cross-entropy over 20 labels, the backward pass through all layers, and SGD with momentum.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np
import optax

from benchmarks import harness
from minmax_jax import create_network

_NUM_LABELS = 20
# What our time may be at most over torch's.
_GOALS = {"resnet50": 1.1, "mobilenet_v2": 1.5, "efficientnet_b0": 1.5}
_PASSES = ("forward", "training step")


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--networks", default=",".join(_GOALS))
    parser.add_argument("--batches", default="1,8,32", help="images in a batch")
    parser.add_argument("--passes", default=",".join(_PASSES))
    parser.add_argument("--size", type=int, default=224, help="pixels")
    options = parser.parse_args(argv)
    rows = []
    for name in options.networks.split(","):
        for batch in map(int, options.batches.split(",")):
            for kind in options.passes.split(","):
                times = _times(name, batch, options.size, kind, options.repeats)
                what = f"{name}, {kind}, batch {batch}, {1e3 * times['ours']:.0f} ms"
                ratio = times["ours"] / times["torch"]
                rows.append(harness.Row(what, ratio, "of torch's time", _GOALS.get(name)))
    harness.report(rows, options, peers=("torch", "torchvision"))


def _times(name, batch, size, kind, repeats):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    labels = (rng.random((batch, _NUM_LABELS)) < 0.1).astype(np.float32)
    make = {"forward": (_forward, _torch_forward), "training step": (_train, torch_train)}[kind]
    functions = {
        "ours": make[0](create_network(name, num_labels=_NUM_LABELS), images, labels),
        "torch": make[1](torch_model(name), images, labels),
    }
    return harness.seconds(functions, repeats=repeats)


def _forward(network, images, labels):
    del labels
    forward = harness.forward_fn(network)
    variables, images = network.init(jax.random.key(0)), jax.device_put(images)
    return lambda: forward(variables, images)


def _train(network, images, labels):
    optimizer = optax.sgd(0.01, momentum=0.9)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        params, stats, opt_state = state

        def loss_fn(params):
            logits, new_stats = network.train_apply(
                {"params": params, "batch_stats": stats},
                images,
                key=jax.random.key(0),
                frozen=frozenset(),
            )
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), new_stats

        (_, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state

    variables = network.init(jax.random.key(0))
    params, stats = variables["params"], variables["batch_stats"]
    state = params, stats, optimizer.init(params)
    images, labels = jax.device_put((images, labels))

    def run():
        nonlocal state
        state = step(state, images, labels)
        return state

    return run


def torch_model(name):
    try:
        import torch
        import torchvision
    except ImportError as error:
        sys.exit(f"error: {error}; pip install torch torchvision")
    model = getattr(torchvision.models, name)(num_classes=_NUM_LABELS)
    return model.to(memory_format=torch.channels_last)


def _torch_forward(model, images, labels):
    import torch

    del labels
    images = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory
    settle_statistics(model, images)

    def run():
        with torch.inference_mode():
            return model(images).numpy()

    return run


def settle_statistics(model, images):
    """Leaves the model in inference mode, with the batch statistics of these images.

    As in a trained network, activations then neither grow nor vanish: denormals would slow torch
    down.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images)
    model.eval()


def torch_train(model, images, labels):
    import torch

    model.train()
    images, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run():
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


if __name__ == "__main__":
    main()
