"""Class activation maps for multi-label images: where did the network see this label?

    network = minmax_jax.create_network("mobilenet_v2", num_labels=21, head="kur")
    maps, logits = minmax_jax.explain(network, variables, images, method="d_minmax_cam")

Images are float32 `(b H W 3)`, preprocessed; maps `(b c h w)`, one for every label; logits `(b c)`.
"""

from minmax_jax.approximation import approximation_error
from minmax_jax.augmented import augmented_cam, make_augmented_fn
from minmax_jax.cams.maps import normalize_maps, resize_maps
from minmax_jax.cams.method import Method
from minmax_jax.evaluate import evaluate
from minmax_jax.explain import explain, make_explain_fn
from minmax_jax.methods import METHODS
from minmax_jax.models import NETWORKS, Network, create_network
from minmax_jax.multi_layer import make_multi_layer_fn, multi_layer_cam
from minmax_jax.select import DetectedLabels, NamedLabels, TopLabels

__all__ = [
    "METHODS",
    "NETWORKS",
    "DetectedLabels",
    "Method",
    "NamedLabels",
    "Network",
    "TopLabels",
    "approximation_error",
    "augmented_cam",
    "create_network",
    "evaluate",
    "explain",
    "make_augmented_fn",
    "make_explain_fn",
    "make_multi_layer_fn",
    "multi_layer_cam",
    "normalize_maps",
    "resize_maps",
]
