"""Maps of a class from classifiers of two: one map for each class that it is compared with.

A classifier of two classes is explained through the unit of the class, by Grad-CAM: at the last
tap alone, and at all taps for the multi-layer map. With a frozen backbone the classifiers differ in
their heads alone, so one forward pass serves all of them, and without the multi-layer map the
pullbacks only go through the heads.

Maps are float32 `(... H W)` of the size of the images, 0..1 after normalisation at the size of the
activations.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import parallel
from minmax_jax.cams.method import Method
from minmax_jax.models.network import Network, Variables
from minmax_jax.multi_layer import make_multi_layer_fn
from minmax_jax.pairs.files import PairClassifier
from minmax_jax.select import Policy

_HEAD = "head"


class Maps(NamedTuple):
    """Maps of one class in `b` images, from `u` explanations.

    Attributes:
      last: `(u b H W)`, of the last tap.
      multi: `(u b H W)`, multi-layer maps; None unless wanted.
      layers: `(u b t H W)`, of each tap; None unless wanted.
      logits: `(u b)`, what was explained.
    """

    last: jax.Array
    multi: jax.Array | None
    layers: jax.Array | None
    logits: jax.Array


class PairMaps:
    """Explains classes by their classifiers of two.

    `pair_maps(label, others)` reads the classifiers of `label` and each of `others` once and
    returns a function of photos `(b H W 3)` uint8 that makes their `Maps`, in the order of
    `others`. A class may be named again, at no cost unless the backbone is frozen.

    Attributes:
      multi: whether there are multi-layer maps.
    """

    def __init__(
        self,
        network: Network,
        variables: Variables,
        read: Callable[[int, int], PairClassifier],
        *,
        trained: Sequence[str] | None = None,
        multi: bool = True,
        layers: bool = False,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """
        Args:
          network: of two units, with `preprocess`.
          variables: with which the training of every pair began.
          read: two classes, in any order, to their classifier, as `read_pair` does.
          trained: layers in which the classifiers differ, as in `fit_pairs`; None for all.
          multi: whether to make multi-layer maps, too.
          layers: whether to return each tap's map: with `multi` of all taps, else of the last.
          mesh: devices over which images are split.

        Raises:
          ValueError: for a network without `preprocess`, or without `head_apply` if only the head
            is trained.
        """
        self.multi = multi
        self._read, self._mesh = read, mesh
        self._heads_alone = trained is not None and set(trained) == {_HEAD}
        if self._heads_alone and network.head_apply is None:
            raise ValueError(
                f"the head of {network.name} reads more than means of features, so pairs cannot "
                "share a backbone"
            )
        wrap = _shared_backbone if self._heads_alone else _one_unit
        self._maps_fn = make_maps_fn(
            wrap(network), "grad_cam", multi=multi, layers=layers, mesh=mesh
        )
        self._variables = parallel.replicate(mesh, variables)

    def __call__(self, label: int, others: Sequence[int]) -> Callable[[Any], Maps]:
        """See the class.

        Raises:
          ValueError: for no class to compare with, or the class itself.
        """
        if not others or label in others:
            raise ValueError(f"class {label} must be compared with other classes, not {others}")
        return (self._heads if self._heads_alone else self._networks)(label, others)

    def _heads(self, label, others):
        heads = [self._read(label, other).variables["params"][_HEAD] for other in others]
        own = {
            "heads": jax.tree.map(lambda *arrays: np.stack(arrays), *heads),
            "units": np.array([_unit(label, other) for other in others]),
        }
        variables = {"network": self._variables, **parallel.replicate(self._mesh, own)}
        return lambda images: self._maps_fn(variables, images)

    def _networks(self, label, others):
        networks = {
            other: {
                "network": self._merged(self._read(label, other).variables),
                "unit": np.array(_unit(label, other)),
            }
            for other in dict.fromkeys(others)
        }

        def explain(images):
            maps = {other: self._maps_fn(network, images) for other, network in networks.items()}
            return _concatenate([maps[other] for other in others])

        return explain

    def _merged(self, own: Variables) -> Variables:
        own = parallel.replicate(self._mesh, own)
        return {kind: {**self._variables[kind], **own.get(kind, {})} for kind in self._variables}


@functools.lru_cache(maxsize=32)
def make_maps_fn(
    network: Network,
    method: str | Method,
    *,
    multi: bool,
    layers: bool = False,
    select: Policy | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[..., Maps]:
    """Jitted `(variables, photos (b H W 3) uint8, present=None) -> Maps`, one for each label.

    The same arguments give the same function.

    Args:
      network: with `preprocess`.
      method, select, mesh: as in `make_multi_layer_fn`.
      multi, layers: see `PairMaps`.

    Raises:
      ValueError: as `make_multi_layer_fn`, and for a network without `preprocess`.
    """
    if network.preprocess is None:
        raise ValueError(f"the network {network.name} has no preprocess, which photos need")
    taps = network.taps if multi else network.taps[-1:]
    explain_fn = make_multi_layer_fn(
        network, method, taps=taps, select=select, layers=True, mesh=mesh
    )

    @jax.jit
    def maps_fn(variables, photos, present=None):
        fused, by_layer, logits, *_ = explain_fn(variables, network.preprocess(photos), present)
        return Maps(
            last=jnp.moveaxis(by_layer[:, :, -1], 1, 0),
            multi=jnp.moveaxis(fused, 1, 0) if multi else None,
            layers=jnp.moveaxis(by_layer, 1, 0) if layers else None,
            logits=logits.T,
        )

    return maps_fn


@jax.jit
def _concatenate(maps: Sequence[Maps]) -> Maps:
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *maps)


def _unit(label: int, other: int) -> int:
    """Which of their classifier's units is the label's: the first is the lower class's."""
    return int(label > other)


@functools.lru_cache(maxsize=16)
def _one_unit(network: Network) -> Network:
    """The network with one of its units alone: `{"network": variables, "unit": index}`.

    The index is data, so all pairs run in one program.
    """

    def apply(variables, images, perturbations=None):
        logits, activations = network.apply(variables["network"], images, perturbations)
        return logits[:, variables["unit"][None]], activations

    return dataclasses.replace(network, apply=apply, head_kernel=None)


@functools.lru_cache(maxsize=16)
def _shared_backbone(network: Network) -> Network:
    """The network with several heads, one unit of each: logits `(b u)`.

    Its variables are `{"network": variables, "heads": (u ...), "units": (u,)}`.
    """
    tap = network.taps[-1]

    def apply(variables, images, perturbations=None):
        _, activations = network.apply(variables["network"], images, perturbations)
        features = jnp.mean(activations[tap].astype(jnp.float32), axis=(1, 2))

        def logit(head, unit):
            return network.head_apply({"params": {_HEAD: head}}, features)[:, unit]

        return jax.vmap(logit, out_axes=1)(variables["heads"], variables["units"]), activations

    return dataclasses.replace(network, apply=apply, head_kernel=None)
