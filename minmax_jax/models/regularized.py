"""Kernel usage regularisation (Eq. 15) of 1x1 convolutions within a network.

A 1x1 convolution is a linear layer on the channels of each pixel, so the regularisation of a head
carries over: of its kernel `W (1 1 i o)` the layer uses `o * W * softmax(W)`, the softmax over the
`o` outputs for each of the `i` inputs. At the start the softmax is about `1 / o` everywhere; the
factor `o` makes up for it, so that the layer then computes about what it would with `W` itself.

The kernels are exchanged before the network sees its variables. Its modules, and the names and
shapes of its parameters, are those of the plain network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minmax_jax.models.heads import kernel_usage


def use_regularized(variables: Mapping[str, Any], layers: Sequence[str]) -> Mapping[str, Any]:
    """Variables whose kernels `W` of some layers are `o * W * softmax(W)`; the rest is as it was.

    Args:
      variables: `{"params": {layer: {...}}, ...}`.
      layers: names of 1x1 convolutions, whose kernels are `(1 1 i o)`.
    """
    params = dict(variables["params"])
    for layer in layers:
        kernel = params[layer]["kernel"]
        params[layer] = {**params[layer], "kernel": kernel_usage(kernel, kernel.shape[-1])}
    return {**variables, "params": params}


def check_regularized(
    name: str, regularized: Sequence[str], layers: Sequence[str], params: Mapping[str, Any]
) -> None:
    """Checks that all layers named are 1x1 convolutions.

    Args:
      name: the network's.
      regularized: names of layers.
      layers: all of the network's, in forward order.
      params: arrays or shapes, `{layer: {...}}`.

    Raises:
      ValueError: for names that are none, naming the network's 1x1 convolutions.
    """
    if isinstance(regularized, str):
        raise ValueError(f"regularized must be several names of layers, got {regularized!r}.")
    valid = [layer for layer in layers if _is_pointwise(params[layer])]
    wrong = [layer for layer in regularized if layer not in valid]
    if wrong:
        raise ValueError(
            f"regularized names {wrong}, which are no 1x1 convolutions of {name}; it has {valid}."
        )


def _is_pointwise(arrays: Mapping[str, Any]) -> bool:
    shape = arrays["kernel"].shape if "kernel" in arrays else ()
    return len(shape) == 4 and shape[:2] == (1, 1)
