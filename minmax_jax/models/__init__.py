"""Networks by name."""

from __future__ import annotations

from minmax_jax.models.heads import HEADS, check_head
from minmax_jax.models.mobilenet_v2 import MobileNetV2
from minmax_jax.models.network import Network, from_module, scale_to_one
from minmax_jax.models.resnet import ScenesResNet

__all__ = ["HEADS", "NETWORKS", "Network", "create_network", "from_module"]

# name: (Linen module, native image size in pixels, preprocessing)
_NETWORKS = {
    "scenes_resnet": (ScenesResNet, 96, scale_to_one),
    "mobilenet_v2": (MobileNetV2, 224, scale_to_one),
}
NETWORKS = tuple(_NETWORKS)


def create_network(
    name: str, *, num_labels: int, head: str = "dense", alpha: float = 1.0, dropout: float = 0.0
) -> Network:
    """Makes a network by name.

    Args:
      name: one of `NETWORKS`.
      num_labels: number of labels `c`.
      head: "dense", or "kur" for the kernel usage regularisation (Eq. 15).
      alpha: factor of the regularised kernel; used by "kur" only.
      dropout: fraction of the pooled features dropped before the head in training.

    Raises:
      ValueError: unknown name or head, `num_labels` below 1, `dropout` outside [0, 1).
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}; networks are {list(NETWORKS)}.")
    check_head(head)
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise ValueError(f"num_labels must be a positive int, got {num_labels!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}.")
    module, image_size, preprocess = _NETWORKS[name]
    return from_module(
        module(num_labels=num_labels, head=head, alpha=alpha, dropout=dropout),
        name=name,
        image_size=image_size,
        preprocess=preprocess,
    )
