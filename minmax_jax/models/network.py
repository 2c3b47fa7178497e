"""The network as the rest of the package sees it: pure functions and names.

Images are float32 `(b H W 3)` as the network eats them (after `preprocess`), logits float32
`(b c)`, activations `{tap: (b h w k)}`. Variables are
`{"params": {layer: {...}}, "batch_stats": {layer: {...}}}`, one dict level per layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from minmax_jax.models.heads import (
    ACOL,
    SCHEDULED,
    HeadAlone,
    current_alpha,
    effective_kernel,
)
from minmax_jax.models.regularized import check_regularized, use_regularized

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network as pure functions; `apply` and `taps` are all that an explanation needs.

    Attributes:
      apply: `(variables, images, perturbations=None) -> (logits (b c) float32, {tap: (b h w k)})`
        in inference mode. `perturbations {tap: (b h w k)}` is added at the tap, so `jax.vjp` in a
        zero perturbation gives the gradients of the logits in the activations.
      taps: names of the activations, shallow to deep; the last is explained unless told otherwise.
      head_kernel: `variables -> (k c)`, the effective kernel of a head that is linear after global
        average pooling; None for other heads.
      name: the name under which `create_network` made it.
      style: whose arithmetic it has, as in `create_network`; "" if that says nothing.
      image_size: native side of the square input in pixels.
      preprocess: uint8 `(... H W 3)` -> float32, arithmetic only: numpy in, numpy out.
      init: `key -> variables`.
      train_apply: `(variables, images, *, key, frozen) -> (logits (b c), batch_stats)` in training
        mode: batch statistics, dropout by `key`. Several classifiers that are trained on the same
        labels give logits `(b r c)`. Layers named in the frozenset `frozen` normalise by their
        stored statistics and leave them as they are; the steps that a head counts go on.
      head_apply: `(variables, features, *, key=None) -> logits (b c)`: what `apply` does with the
        last tap's activations, from their means over the pixels `(b k)`; with a key as
        `train_apply` does. None for heads that read more than means, or count steps.
      layers: names of all layers that own parameters, in forward order; the head is last.

    Raises:
      ValueError: a field has the wrong type.
    """

    apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    taps: tuple[str, ...]
    head_kernel: Callable[[Variables], jax.Array] | None = None
    name: str = "custom"
    style: str = ""
    image_size: int | None = None
    preprocess: Callable[[Any], Any] | None = None
    init: Callable[[jax.Array], Variables] | None = None
    train_apply: Callable[..., tuple[jax.Array, Mapping[str, Any]]] | None = None
    head_apply: Callable[..., jax.Array] | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self):
        if not callable(self.apply):
            raise ValueError(f"Network.apply must be callable, got {self.apply!r}.")
        for field in ("head_kernel", "preprocess", "init", "train_apply", "head_apply"):
            value = getattr(self, field)
            if value is not None and not callable(value):
                raise ValueError(f"Network.{field} must be callable or None, got {value!r}.")
        for field in ("taps", "layers"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
                raise ValueError(f"Network.{field} must be a tuple of str, got {value!r}.")
            if len(set(value)) != len(value):
                raise ValueError(f"Network.{field} names something twice: {value!r}.")
        if not self.taps:
            raise ValueError("Network.taps must name at least one activation, got ().")
        for field in ("name", "style"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"Network.{field} must be a str, got {getattr(self, field)!r}.")
        size = self.image_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"Network.image_size must be a positive int or None, got {size!r}.")


class Taps:
    """Collects the activations of one forward pass and adds the perturbations to them.

    `x = taps(name, x)` inside a module: what flows on is what is returned.

    Raises:
      ValueError: a perturbation has another shape than its activation.
    """

    def __init__(self, perturbations: Mapping[str, jax.Array] | None):
        self._perturbations = perturbations or {}
        self.activations: dict[str, jax.Array] = {}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        if name in self._perturbations:
            perturbation = self._perturbations[name]
            if jnp.shape(perturbation) != x.shape:
                raise ValueError(
                    f"perturbation of tap {name!r} has shape {jnp.shape(perturbation)}, "
                    f"the activation has {x.shape}."
                )
            x = x + perturbation
        self.activations[name] = x
        return x


def from_module(
    module: nn.Module,
    *,
    name: str,
    image_size: int,
    preprocess: Callable[[Any], Any],
    style: str = "",
    regularized: Sequence[str] = (),
) -> Network:
    """Makes a `Network` of a Linen module.

    Args:
      module: called as `module(images, perturbations, train=bool, frozen=frozenset)`, returns
        `(logits, activations)`; has the fields of `heads.Head`, which reads its last tap under the
        name "head", and the class attribute `taps`. The head "acol" adds a tap of that name. The
        fields of a schedule are read of the head "kur_scheduled" only.
      name: the network's name.
      image_size: native side of the square input in pixels.
      preprocess, style: see `Network`.
      regularized: names of 1x1 convolutions whose kernels are used regularised
        (`models.regularized`).

    Raises:
      ValueError: `regularized` names anything else; `apply` or `train_apply` was given images that
        are not floating `(b H W 3)`, perturbations at unknown taps, or unknown names of frozen
        layers.
    """
    regularized = regularized if isinstance(regularized, str) else tuple(regularized)
    erases = module.head == ACOL
    taps = (*module.taps, ACOL) if erases else module.taps

    def apply(variables, images, perturbations=None):
        check_images(images)
        _check_names("perturbations", perturbations or (), "taps", taps)
        used = use_regularized(variables, regularized)
        return module.apply(used, images, perturbations, train=False, frozen=frozenset())

    def init(key):
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        variables = module.init(key, images, None, train=False, frozen=frozenset())
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    init = jax.jit(init)  # traced here once, for whoever asks for shapes or values later
    layers, shapes = _layers(init)
    check_regularized(name, regularized, layers, shapes["params"])

    def train_apply(variables, images, *, key, frozen):
        check_images(images)
        _check_names("frozen", frozen, "layers", layers)
        (logits, _), updates = module.apply(
            use_regularized(variables, regularized),
            images,
            None,
            train=True,
            frozen=frozen,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return logits, updates.get("batch_stats", {})

    def head_apply(variables, features, *, key=None):
        return HeadAlone(module.num_labels, module.head, module.alpha, module.dropout).apply(
            {"params": {"head": variables["params"]["head"]}},
            features[:, None, None],
            train=key is not None,
            rngs=None if key is None else {"dropout": key},
        )

    def head_kernel(variables):
        arrays = {**variables["params"]["head"], **variables.get("batch_stats", {}).get("head", {})}
        alpha = current_alpha(module, arrays)
        return effective_kernel(arrays["kernel"], head=module.head, alpha=alpha)

    return Network(
        apply=apply,
        taps=taps,
        head_kernel=head_kernel,
        name=name,
        style=style,
        image_size=image_size,
        preprocess=preprocess,
        init=init,
        train_apply=train_apply,
        # What is erased depends on the pixels, not on their means; steps are counted elsewhere.
        head_apply=None if module.head in (ACOL, SCHEDULED) else head_apply,
        layers=layers,
    )


def _layers(init: Callable[[jax.Array], Variables]) -> tuple[tuple[str, ...], Variables]:
    """Names of the layers that own parameters, in the order of their calls, and all shapes.

    A dict that comes out of a JAX transformation is sorted by name, so the calls are recorded.
    """
    called = []

    def record(run, args, kwargs, context):
        if len(context.module.path) == 1:
            called.append(context.module.name)
        return run(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(init, jax.random.key(0))
    return tuple(layer for layer in dict.fromkeys(called) if layer in shapes["params"]), shapes


def check_images(images: jax.Array) -> None:
    """Raises `ValueError`, naming shape and dtype, unless images are floating `(b H W 3)`.

    At least one, of at least one pixel.
    """
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"images must have shape (b H W 3), got {shape}.")
    if 0 in shape:
        raise ValueError(f"images are empty: they have shape {shape}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"images must be floating (preprocessed), got {dtype} of shape {shape}.")


def _check_names(what, names, known_as, known) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{what} names unknown {known_as} {unknown}; {known_as} are {list(known)}."
        )
