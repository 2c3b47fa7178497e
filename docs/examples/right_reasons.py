"""Right for the right reasons: a loss that also asks where the network looks.

A map is a function of the weights like any other, so a loss may contain it. This goes on training a
network of `experiments/scenes.py` with

    loss = cross-entropy + weight * mean share of the maps that lies outside their object

(Ross et al. 2017 penalise input gradients alike), once for each of several weights, and prints what
they do to the tables:

    python -m docs.examples.right_reasons runs/scenes/plain --method minmax_cam --weights 0,0.1,1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

import minmax_jax as mj
from minmax_jax import data
from minmax_jax.metrics.classification import classification_scores
from minmax_jax.predict import predict, sigmoid
from minmax_jax.pretrained import load_network
from minmax_jax.report import tables

EVALUATED = ("cam", "minmax_cam", "grad_cam_plus_plus", "layer_cam")


def outside_share(maps: jax.Array, masks: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the annotated labels of the share of a map that is not on its object.

    Args:
      maps: `(b c h w)`, raw.
      masks: `(b H W)` integers: 0 background, 1 + label index.
      labels: `(b c)` bool.
    """
    b, c, h, w = maps.shape
    objects = jax.nn.one_hot(masks - 1, c)  # (b H W c), 0 on the background
    objects = objects.reshape(b, h, masks.shape[1] // h, w, masks.shape[2] // w, c).mean((2, 4))
    outside = (maps * (1 - jnp.moveaxis(objects, -1, 1))).sum((2, 3))
    total = maps.sum((2, 3))
    share = outside / jnp.where(total > 0, total, 1)  # an empty map lies nowhere
    return (share * labels).sum() / jnp.maximum(labels.sum(), 1)


def make_loss_fn(network: mj.Network, method: str, weight: float) -> Callable[..., jax.Array]:
    """`(params, batch_stats, batch) -> loss`; the maps' own forward pass gives the logits."""
    explain_fn = mj.make_explain_fn(network, method)

    def loss_fn(params, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        maps, logits = explain_fn(variables, batch["image"], batch["labels"])
        loss = optax.sigmoid_binary_cross_entropy(logits, batch["labels"]).mean()
        return loss + weight * outside_share(maps, batch["mask"], batch["labels"])

    return loss_fn


def fine_tune(
    network: mj.Network,
    variables: Any,
    batches: data.Batches,
    *,
    method: str,
    weight: float,
    steps: int,
    learning_rate: float,
) -> Any:
    """The variables after so many steps of SGD; batch norms keep their statistics."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(learning_rate, steps), 0.9, nesterov=True)
    loss_fn = make_loss_fn(network, method, weight)

    @jax.jit
    def step(params, state, batch):
        gradients = jax.grad(loss_fn)(params, variables["batch_stats"], batch)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], optimizer.init(variables["params"])
    for _, batch in zip(tqdm(range(steps), desc=f"weight {weight:g}"), batches, strict=False):
        params, state = step(params, state, batch)
    return {"params": params, "batch_stats": variables["batch_stats"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a trained variant, as runs/scenes/plain")
    parser.add_argument("--method", default="minmax_cam", help="whose maps are penalised")
    parser.add_argument("--weights", default="0,0.1,1", help="of the penalty, with commas")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--train-size", type=int, default=6000, help="scenes to train on")
    parser.add_argument("--validation-size", type=int, default=1000, help="and to evaluate")
    options = parser.parse_args()

    loaded = load_network(options.run, key=jax.random.key(0))
    network = loaded.network
    shared = {"image_size": network.image_size, "preprocess": network.preprocess}
    train = data.create_source("scenes", "train", size=options.train_size)
    validation = data.create_source("scenes", "validation", size=options.validation_size)
    evaluations, classifications = {}, {}
    for weight in map(float, options.weights.split(",")):
        batches = data.batches(
            train, batch_size=32, seed=1, epochs=None, drop_remainder=True, **shared
        )
        variables = fine_tune(
            network,
            loaded.variables,
            batches,
            method=options.method,
            weight=weight,
            steps=options.steps,
            learning_rate=options.learning_rate,
        )
        name = f"weight {weight:g}"
        unseen = data.batches(validation, batch_size=50, **shared)
        logits, labels = predict(network, variables, unseen, progress=False)
        scores = classification_scores(sigmoid(logits), np.asarray(labels))
        classifications[name] = scores | {"label_names": list(loaded.label_names)}
        evaluations[name] = mj.evaluate(network, variables, unseen, methods=EVALUATED)
    print(tables.render_text(tables.classification_table(classifications)), end="\n\n")
    print(tables.render_text(tables.comparison_table(evaluations)))


if __name__ == "__main__":
    main()
