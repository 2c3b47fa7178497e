"""What labels give to predictions, and through which kernels.

A *kernel* is a channel of the last activations, a *unit* a label's output. A kernel's contribution
to a unit is its pooled feature times the unit's weight; a kernel belongs to the unit that weighs it
most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import fill_up


def label_flow(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contributions over a data set, summed up batch by batch in constant memory.

    Args:
      network: has a `head_kernel`.
      variables, batches, mesh, progress: as in `predict`.

    Returns:
      flow: float64 `(c c c)`; `[t, g, p]` is the mean over the images annotated with `t` of the
        positive contributions of the kernels of unit `g` to unit `p`, 0 in images in which `p` is
        not detected (probability above 0.5).
      features: float64 `(c k)`, pooled features, mean over the images annotated with `t`.
      images: int64 `(c,)`, how many those are; a label without any has zeros in the others.

    Raises:
      ValueError: if there is no batch, or a batch is larger than the first.
      preemption.Preempted: when SIGTERM came.
    """
    kernel = jnp.asarray(network.head_kernel(variables), jnp.float32)
    owners = jax.nn.one_hot(jnp.argmax(kernel, axis=1), kernel.shape[1])
    sums_fn = jax.jit(_sums_fn(network), out_shardings=parallel.everywhere(mesh))
    total = len(batches) if hasattr(batches, "__len__") else None
    bar = tqdm(batches, total=total, desc="flow", unit="batch", leave=False, disable=not progress)
    sums, size = None, None
    for batch in bar:
        preemption.check()
        number = len(batch["image"])
        size = parallel.even_rows(mesh, number) if size is None else size
        if number > size:
            raise ValueError(f"a batch has {number} images, the first had {size}")
        # Rows that fill up a smaller batch have no label and so add nothing.
        rows = batch["image"], np.asarray(batch["labels"], np.float32)
        rows = parallel.put(mesh, tuple(fill_up(x, size) for x in rows))
        part = [np.asarray(x, np.float64) for x in sums_fn(variables, kernel, owners, *rows)]
        sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
    if sums is None:
        raise ValueError("there is nothing to analyze: no batch was given")
    flow, features, images = sums
    least = np.maximum(images, 1)
    return flow / least[:, None, None], features / least[:, None], images.astype(np.int64)


def _sums_fn(network):
    def sums_fn(variables, kernel, owners, images, labels):
        logits, activations = network.apply(variables, images)
        features = jnp.mean(activations[network.taps[-1]].astype(jnp.float32), axis=(1, 2))
        given = jax.nn.relu(features[:, :, None] * kernel[None])
        detected = (logits > 0).astype(jnp.float32)
        with jax.default_matmul_precision("highest"):
            by_owner = jnp.einsum("bkp,kg->bgp", given, owners) * detected[:, None]
            flow = jnp.einsum("bt,bgp->tgp", labels, by_owner)
            return flow, jnp.einsum("bt,bk->tk", labels, features), labels.sum(axis=0)

    return sums_fn
