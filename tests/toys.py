"""A network of a user's own in plain jnp, its float64 twin in numpy, and counters."""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import Network
from tests import reference

SIZE = (8, 12)  # not square, so that swapped axes show
NUM_LABELS = 4
CHANNELS = {"early": 5, "late": 6}
DEAD = 4  # a channel of "late" that is 0 everywhere


def toy_variables(num_labels=NUM_LABELS, seed=12):
    """Weights with which each label is detected in about four of ten images."""
    rng = np.random.default_rng(seed)
    second = rng.normal(size=(CHANNELS["early"], CHANNELS["late"]))
    second[:, DEAD] = -np.abs(second[:, DEAD])
    variables = {
        "first": rng.normal(size=(3, CHANNELS["early"])),
        "second": second,
        "kernel": rng.normal(size=(CHANNELS["late"], num_labels)),
        "bias": np.zeros(num_labels),
    }
    logits = [Toy64(variables, image).logits for image in toy_images(7)[1:]]
    variables["bias"] = -np.percentile(logits, 65, axis=0)
    return {name: value.astype(np.float32) for name, value in variables.items()}


def toy_images(number, seed=1):
    """Float32 `(n 8 12 3)`, coarse patches and noise about a colour; the first is all zero."""
    images = []
    for index in range(number):
        rng = np.random.default_rng((seed, index))
        patches = rng.normal(size=(SIZE[0] // 2, SIZE[1] // 2, 3)).repeat(2, axis=0)
        colour, noise = rng.normal(size=3), rng.normal(size=(*SIZE, 3))
        image = 1.5 * colour + patches.repeat(2, axis=1) + 0.2 * noise
        images.append(image if index else 0 * image)
    return np.stack(images).astype(np.float32)


def toy_apply(variables, images, perturbations=None, *, bend=lambda x: x):
    """Two 1x1 convolutions on 2x2 means, global average pooling of `bend(...)`, a linear layer."""
    perturbations = perturbations or {}
    b, h, w, _ = images.shape
    x = images.reshape(b, h // 2, 2, w // 2, 2, 3).mean(axis=(2, 4))
    early = jax.nn.relu(x @ variables["first"]) + perturbations.get("early", 0)
    late = jax.nn.relu(early @ variables["second"]) + perturbations.get("late", 0)
    logits = bend(late).mean(axis=(1, 2)) @ variables["kernel"] + variables["bias"][None]
    return logits, {"early": early, "late": late}


@functools.cache
def toy_network(**fields):
    """The same network for the same fields, so that what is compiled for it is compiled once."""
    return Network(
        **{
            "apply": toy_apply,
            "taps": ("early", "late"),
            "head_kernel": lambda variables: variables["kernel"],
            **fields,
        }
    )


@functools.cache
def bent_network():
    """The same with a head that is not linear after pooling."""
    return Network(
        apply=lambda variables, images, perturbations=None: toy_apply(
            variables, images, perturbations, bend=jnp.tanh
        ),
        taps=("early", "late"),
    )


class Toy64:
    """The toy on one image, in float64.

    `logits (c,)`, `taps {tap: (h w k)}` and their gradients `{tap: (c h w k)}` of all logits.
    """

    def __init__(self, variables, image, *, bent=False):
        self.variables = {name: np.asarray(value, np.float64) for name, value in variables.items()}
        self.image = np.asarray(image, np.float64)
        self.bent = bent
        height, width = image.shape[0] // 2, image.shape[1] // 2
        early = np.zeros((height, width, CHANNELS["early"]))
        late = np.zeros((height, width, CHANNELS["late"]))
        for i in range(height):
            for j in range(width):
                block = self.image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                mean = block.reshape(4, 3).sum(axis=0) / 4
                early[i, j] = np.maximum(mean @ self.variables["first"], 0)
                late[i, j] = np.maximum(early[i, j] @ self.variables["second"], 0)
        self.taps = {"early": early, "late": late}
        bend = np.tanh(late) if bent else late
        pooled = bend.sum(axis=(0, 1)) / (height * width)
        self.logits = pooled @ self.variables["kernel"] + self.variables["bias"]

    @functools.cached_property
    def gradients(self):
        late, kernel = self.taps["late"], self.variables["kernel"]
        height, width, _ = late.shape
        slope = 1 - np.tanh(late) ** 2 if self.bent else np.ones(late.shape)
        gradients = {
            tap: np.zeros((len(self.logits), height, width, CHANNELS[tap])) for tap in CHANNELS
        }
        for label in range(len(self.logits)):
            for i in range(height):
                for j in range(width):
                    of_late = slope[i, j] * kernel[:, label] / (height * width)
                    passed = (late[i, j] > 0) * of_late
                    gradients["late"][label, i, j] = of_late
                    gradients["early"][label, i, j] = self.variables["second"] @ passed
        return gradients

    @functools.cached_property
    def score_cam_weights(self):
        def logits_of(seen):
            return Toy64(self.variables, seen, bent=self.bent).logits

        return {
            tap: reference.score_cam_weights(logits_of, self.image, activations)
            for tap, activations in self.taps.items()
        }

    def map(self, method, present, label, *, tap="late"):
        """Raw map `(h w)` of one label, from the method's equation."""
        activations = self.taps[tap]
        if method in reference.KERNEL_WEIGHTS:
            weights = reference.KERNEL_WEIGHTS[method](self.variables["kernel"], present, label)
        elif method in reference.GRADIENT_WEIGHTS:
            weights = reference.GRADIENT_WEIGHTS[method](self.gradients[tap], present, label)
        elif method == "grad_cam_plus_plus":
            weights = reference.grad_cam_plus_plus_weights(
                activations, self.gradients[tap], label, 0.0
            )
        elif method == "score_cam":
            weights = self.score_cam_weights[tap][:, label]
        return reference.weighted_map(activations, weights)


class CountingApply:
    """`apply` that counts how often Python runs it, which `jit` does once a trace."""

    def __init__(self, apply=toy_apply):
        self.apply = apply
        self.traces = 0

    def __call__(self, *args, **kwargs):
        self.traces += 1
        return self.apply(*args, **kwargs)


@contextlib.contextmanager
def count_compilations():
    """Yields a list with one entry for every program that XLA compiles inside."""
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(kwargs.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
