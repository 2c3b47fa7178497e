"""How many images a forward pass takes at once, by the memory of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal, jaxprs_in_params

# Measured on CPUs: 8 images of MobileNetV2 or ResNet-50 at a time cost less each than 32, 64 of a
# network with a hundredth of their working set less than 8.
_CPU_BYTES, _CPU_LARGEST = 80 << 20, 64
_WITHOUT_STATISTICS = 32
_SMALLEST, _LARGEST = 8, 256
# Of the free memory, and of the largest step: what lives beside it (a residual branch, copies in
# other layouts, the workspace of convolutions) is not in its inputs and outputs.
_SHARE = 0.25
_SAFETY = 3


def images_at_once(
    apply: Callable[..., Any],
    variables: Any,
    image: Any,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> int:
    """Images in one forward pass on each device; may be called inside `jit`.

    On accelerators the largest power of two of images whose working set fits a quarter of the free
    memory, from 8 to 256; on CPUs from 8 to 64, few enough to stay near a cache. Devices of a mesh
    are taken to be alike. Processes that share a mesh must choose alike, so they leave out what
    each has in use.

    Args:
      apply: `(variables, images (b H W 3)) -> ...`.
      variables: what `apply` takes.
      image: `(H W 3)`, an array or its `jax.ShapeDtypeStruct`.
      mesh: the devices; by default the first one.

    Returns:
      A number of images.
    """
    device = (jax.local_devices() if mesh is None else mesh.local_devices)[0]
    if device.platform == "cpu":
        return _power_of_two(_CPU_BYTES / working_set(apply, variables, image), _CPU_LARGEST)
    statistics = device.memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return _WITHOUT_STATISTICS
    in_step = mesh is not None and mesh.is_multi_process
    in_use = 0 if in_step else statistics.get("bytes_in_use", 0)
    free = max(statistics["bytes_limit"] - in_use, 0)
    return _power_of_two(_SHARE * free / (_SAFETY * working_set(apply, variables, image)), _LARGEST)


def _power_of_two(number: float, largest: int) -> int:
    return 2 ** (int(min(max(number, _SMALLEST), largest)).bit_length() - 1)


def working_set(apply: Callable[..., Any], variables: Any, image: Any) -> int:
    """Bytes that the largest step of a forward pass reads and writes for one image.

    Counted are arrays that depend on the image, so no parameters; nothing is computed.

    Args:
      apply, variables, image: see `images_at_once`.
    """
    images = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    jaxpr = jax.make_jaxpr(apply)(variables, images).jaxpr
    depends = [False] * (len(jaxpr.invars) - 1) + [True]
    return max(_num_bytes(images), _largest_step(jaxpr, depends))


def _largest_step(jaxpr: Jaxpr, depends: Sequence[bool]) -> int:
    """`depends`: which of the inputs depend on the image."""
    dependent = {var for var, own in zip(jaxpr.invars, depends, strict=True) if own}
    largest = 0
    for step in jaxpr.eqns:
        flags = [not isinstance(var, Literal) and var in dependent for var in step.invars]
        if not any(flags):
            continue
        dependent.update(step.outvars)
        read = {var for var, own in zip(step.invars, flags, strict=True) if own}
        sizes = [_num_bytes(var.aval) for var in (*read, *step.outvars)]
        inner = [_largest_step(part, _inner(flags, part)) for part in jaxprs_in_params(step.params)]
        largest = max(largest, sum(sizes), *inner)
    return largest


def _inner(flags: Sequence[bool], part: Jaxpr) -> list[bool]:
    """Flags of a part's inputs: the step's last ones (a `cond` has its index before them)."""
    number = len(part.invars)
    return [True] * (number - len(flags)) + list(flags[max(len(flags) - number, 0) :])


def _num_bytes(aval: Any) -> int:
    return int(np.prod(aval.shape)) * aval.dtype.itemsize if hasattr(aval, "shape") else 0
