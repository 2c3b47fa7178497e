"""Maps of the image's own pixels, from gradients of a score with respect to the image.

Images are `(H W 3)` as the network takes them, after preprocessing; maps have their size. Gradients
may be averages over several `Inputs` near the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from . import maps


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Points at which gradients are taken, to be averaged; `noisy` and `path` make them.

    Attributes:
      number: of points.
      at: the image `(H W 3)` and an index `()` in 0..number-1 to the input `(H W 3)` there.
        Hashable, and compared by value, so that equal points are compiled once.

    Raises:
      ValueError: if `number` is no integer of at least 1.
    """

    number: int
    at: Callable[[jax.Array, jax.Array], jax.Array]

    def __post_init__(self):
        if not isinstance(self.number, int) or self.number < 1:
            raise ValueError(f"number must be an integer of at least 1, not {self.number!r}")


def noisy(number: int = 25, level: float = 0.15, seed: int = 0) -> Inputs:
    """The image under Gaussian noise (SmoothGrad; Smilkov et al. 2017).

    The noise is the same for every image, so that maps do not depend on the batch.

    Args:
      number: of points.
      level: standard deviation, as a share of the image's highest less its lowest value.
      seed: of the noise.

    Raises:
      ValueError: if `number` is no integer of at least 1, or `level` is negative.
    """
    if not level >= 0:
        raise ValueError(f"level must be at least 0, not {level!r}")
    return Inputs(number, _Noise(level, seed))


def path(number: int = 32) -> Inputs:
    """Midpoints of equal parts of the straight line from 0 to the image (Sundararajan et al. 2017).

    Args:
      number: of points.

    Raises:
      ValueError: if `number` is no integer of at least 1.
    """
    return Inputs(number, _Path(number))


def largest_gradient(image: jax.Array, gradients: jax.Array) -> jax.Array:
    """`max_c |g_c|` over the colours (Simonyan et al. 2014).

    Shown this way are plain gradients, averages over noisy images (SmoothGrad) and gradients of
    guided backpropagation (Springenberg et al. 2015).

    Args:
      image: `(H W 3)`; not used.
      gradients: `(H W 3)`, of the score.

    Returns:
      `(H W)` raw map, not normalised.
    """
    return jnp.abs(gradients).max(axis=-1)


def integrated_gradients(image: jax.Array, gradients: jax.Array) -> jax.Array:
    """`relu(sum_c x_c g_c)`, what speaks for the score since 0 (Sundararajan et al. 2017).

    The baseline is 0 after preprocessing. Before it is rectified, the map sums up to the score of
    the image less that of the baseline, but for the error of the average along the path.

    Args:
      image: `(H W 3)`.
      gradients: `(H W 3)`, of the score, averaged over `path`.

    Returns:
      `(H W)` raw map, not normalised.
    """
    return jax.nn.relu((image * gradients).sum(axis=-1))


def full_grad(values: Mapping[str, jax.Array], gradients: Mapping[str, jax.Array]) -> jax.Array:
    """FullGrad: what the image and every bias put into the score (Srinivas and Fleuret 2019).

    `sum_l sum_k psi(v_lk g_lk)` over the image and all layers `l` with biases; `psi` is the
    absolute value, min-max normalised and resized to the image. As in the paper's equation and
    pytorch-grad-cam, every channel (and colour) is normalised by itself; the authors' released code
    normalises all channels of a layer together, and resizes with aligned corners. Nothing is
    added to divisors; a channel whose values are all the same gives 0. What has no pixels, such as
    the head's bias, is left out, as in both.

    Args:
      values: `{"image": (H W 3)}` and the biases of layers: `(h w k)`, also behind axes of 1, as a
        vmapped network of batches has them; or any other shape, where there are no pixels.
      gradients: the same names and shapes; of the score.

    Returns:
      `(H W)` raw map, never negative, not normalised.
    """
    size = values["image"].shape[:2]
    total = jnp.zeros(size, values["image"].dtype)
    for name, value in values.items():
        before, of_pixels = value.shape[:-3], value.shape[-3:]
        if value.ndim == 3 or (set(before) == {1} and 1 not in of_pixels[:2]):
            products = jnp.abs(value * gradients[name]).reshape(of_pixels)
            channels = jnp.moveaxis(products, -1, 0)
            # Resizing is linear: of the sum once, rather than of each channel.
            total += maps.resize_maps(maps.normalize_maps(channels).sum(axis=0), size)
    return total


@dataclasses.dataclass(frozen=True)
class _Noise:
    level: float
    seed: int

    def __call__(self, image, index):
        key = jax.random.fold_in(jax.random.key(self.seed), index)
        noise = jax.random.normal(key, image.shape, image.dtype)
        return image + self.level * (image.max() - image.min()) * noise


@dataclasses.dataclass(frozen=True)
class _Path:
    number: int

    def __call__(self, image, index):
        return image * jnp.asarray((index + 0.5) / self.number, image.dtype)
