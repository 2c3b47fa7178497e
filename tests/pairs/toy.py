"""The toy network with layers, a head apart and uint8 photos; its maps by the float64 twin."""

from __future__ import annotations

import functools

import numpy as np

from minmax_jax import Network
from minmax_jax.models.preprocess import Normalize
from minmax_jax.pairs.files import PairClassifier
from tests import reference, toys

PREPROCESS = Normalize((120.0, 128.0, 136.0), (60.0, 64.0, 70.0))
TAPS = ("early", "late")


def _flat(variables):
    params = variables["params"]
    second = params["second"]["kernel"] * variables["batch_stats"]["second"]["scale"]
    return {"first": params["first"]["kernel"], "second": second, **params["head"]}


def _apply(variables, images, perturbations=None):
    return toys.toy_apply(_flat(variables), images, perturbations)


def _head_apply(variables, features, *, key=None):
    head = variables["params"]["head"]
    return features @ head["kernel"] + head["bias"][None]


@functools.cache
def network(**fields):
    return Network(
        **{
            "apply": _apply,
            "taps": TAPS,
            "head_kernel": lambda variables: variables["params"]["head"]["kernel"],
            "head_apply": _head_apply,
            "preprocess": PREPROCESS,
            "layers": ("first", "second", "head"),
            **fields,
        }
    )


def variables(num_labels, seed):
    flat = toys.toy_variables(num_labels, seed)
    return {
        "params": {
            "first": {"kernel": flat["first"]},
            "second": {"kernel": flat["second"]},
            # Raised, so that few maps are 0 everywhere.
            "head": {"kernel": flat["kernel"] + np.float32(0.6), "bias": flat["bias"]},
        },
        "batch_stats": {"second": {"scale": np.full((1, 1), 0.5 + seed % 7, np.float32)}},
    }


def pair_variables(i, j, *, trained=("first", "second", "head"), start=None):
    """The weights of a classifier of two: its own where `trained`, else those of the start."""
    own = variables(2, seed=1000 + 100 * min(i, j) + max(i, j))
    chosen = {
        kind: {layer: arrays for layer, arrays in layers.items() if layer in trained}
        for kind, layers in own.items()
    }
    if start is None:
        return chosen
    return {kind: {**start[kind], **chosen[kind]} for kind in own}


def read(trained=("first", "second", "head")):
    """What `read_pair` gives: the trained layers alone."""

    def read_pair(i, j):
        return PairClassifier(pair_variables(i, j, trained=trained), 1.0, 1, True)

    return read_pair


def photos(number, seed=2):
    """uint8 `(n 8 12 3)`; one of them is black."""
    images = toys.toy_images(number, seed)
    scaled = np.clip(128 + 40 * images, 0, 255).astype(np.uint8)
    scaled[0] = 0
    return scaled


def expected_maps(variables, photo, label, *, method="grad_cam", present=None):
    """Maps of the taps `(t H W)` and the multi-layer map `(H W)`, by the equations."""
    image = (photo - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    twin = toys.Toy64(_flat(variables), image)
    taps = TAPS if method != "cam" else TAPS[-1:]
    maps = []
    for tap in taps:
        raw = twin.map(method, present, label, tap=tap)
        maps.append(reference.resize(reference.normalize(raw), photo.shape[:2]))
    return np.stack(maps), reference.normalize(sum(maps) * maps[-1]), twin.logits
