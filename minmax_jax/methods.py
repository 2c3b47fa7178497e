"""The methods by name, and which of them a network supports.

To add one: a function in `cams`, a line here, a test (CONTRIBUTING.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from minmax_jax.cams import activation, gradients, masking, saliency, scores, weights
from minmax_jax.cams.method import Method
from minmax_jax.models.heads import ACOL
from minmax_jax.models.network import Network
from minmax_jax.rules import RULES


def _as_they_are(logits: jax.Array) -> jax.Array:
    return logits


METHODS: dict[str, Method] = {
    # MinMax-CAM's paper.
    "cam": Method("kernel", scores.one_label, weights.cam),
    "grad_cam": Method("gradient", scores.one_label, gradients.grad_cam),
    "grad_cam_plus_plus": Method("gradient", scores.one_label, gradients.grad_cam_plus_plus),
    "score_cam": Method("masking", None, weights.cam),
    "minmax_cam": Method("kernel", scores.minmax, weights.cam),
    "d_minmax_cam": Method("kernel", scores.decomposed, weights.d_minmax_cam),
    "minmax_grad_cam": Method("gradient", scores.minmax, gradients.grad_cam),
    "d_minmax_grad_cam": Method("gradient", scores.decomposed, gradients.d_minmax_grad_cam),
    # Of networks with two classifiers.
    "acol_cam": Method("kernel", scores.one_label, weights.acol_cam),
    # The wider family; a method whose map is linear in the score has a MinMax form.
    "hires_cam": Method("gradient", scores.one_label, gradients.hires_cam),
    "minmax_hires_cam": Method("gradient", scores.minmax, gradients.hires_cam),
    "xgrad_cam": Method("gradient", scores.one_label, gradients.xgrad_cam),
    "minmax_xgrad_cam": Method("gradient", scores.minmax, gradients.xgrad_cam),
    "layer_cam": Method("gradient", scores.one_label, gradients.layer_cam),
    "relevance_cam": Method(
        "gradient", scores.one_versus_rest, gradients.relevance_cam, rule="relevance"
    ),
    "minmax_relevance_cam": Method(
        "gradient", scores.minmax, gradients.relevance_cam, rule="relevance"
    ),
    "ablation_cam": Method("ablation", scores.one_label, weights.cam),
    "minmax_ablation_cam": Method("ablation", scores.minmax, weights.cam),
    "eigen_cam": Method("activation", None, activation.eigen_cam),
    "minmax_score_cam": Method("masking", scores.minmax, weights.cam),
    "softmax_score_cam": Method("masking", None, masking.softmax_score_cam, seen_as=_as_they_are),
    # Maps of the image's own pixels.
    "gradients": Method("saliency", scores.one_label, saliency.largest_gradient),
    "minmax_gradients": Method("saliency", scores.minmax, saliency.largest_gradient),
    "smooth_grad": Method(
        "saliency", scores.one_label, saliency.largest_gradient, inputs=saliency.noisy()
    ),
    "minmax_smooth_grad": Method(
        "saliency", scores.minmax, saliency.largest_gradient, inputs=saliency.noisy()
    ),
    "integrated_gradients": Method(
        "saliency", scores.one_label, saliency.integrated_gradients, inputs=saliency.path()
    ),
    "minmax_integrated_gradients": Method(
        "saliency", scores.minmax, saliency.integrated_gradients, inputs=saliency.path()
    ),
    "guided_backpropagation": Method(
        "saliency", scores.one_label, saliency.largest_gradient, rule="guided"
    ),
    "full_grad": Method("saliency", scores.one_label, saliency.full_grad, rule="biases"),
}

PAPER_METHODS = tuple(METHODS)[:8]

# Families whose methods stand alone: their passes outnumber everybody else's.
_ALONE = ("masking", "ablation", "saliency")


def supported_methods(network: Network) -> tuple[str, ...]:
    """Names of the methods that a network's head allows, in the order of `METHODS`."""
    return tuple(name for name, method in METHODS.items() if not why_not(network, name, method))


def default_methods(network: Network) -> tuple[str, ...]:
    """The methods of MinMax-CAM's paper that a network supports, and ACoL's for its networks."""
    wanted = (*PAPER_METHODS, "acol_cam")
    return tuple(name for name in supported_methods(network) if name in wanted)


def group_methods(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of methods to be made in one pass each.

    Methods that need many passes stand alone; the others share one.

    Raises:
      ValueError: for unknown methods, and if there is none.
    """
    check_names(methods)
    groups: dict[str, list[str]] = {}
    for name in methods:
        groups.setdefault(name if METHODS[name].family in _ALONE else "", []).append(name)
    return [tuple(group) for group in groups.values()]


def check_methods(network: Network, methods: dict[str, Method], taps: tuple[str, ...]) -> None:
    """Raises `ValueError` unless a network supports methods at these taps."""
    valid = ", ".join(network.taps)
    if not taps or len(set(taps)) < len(taps):
        raise ValueError(f"taps must be named, each once, not {taps}; taps: {valid}")
    for tap in taps:
        if tap not in network.taps:
            raise ValueError(f"unknown tap {tap!r}; taps: {valid}")
    last = network.taps[-1]
    for name, method in methods.items():
        if method.rule not in RULES:
            raise ValueError(f"{name}: unknown rule {method.rule!r}; rules: {', '.join(RULES)}")
        if reason := why_not(network, name, method):
            raise ValueError(reason)
        if method.family == "kernel" and taps != (last,):
            other = next(tap for tap in taps if tap != last)
            form = name.replace("cam", "grad_cam")
            raise ValueError(
                f"{name} explains the last tap {last!r} only, not {other!r}; use "
                + (form if form in METHODS else "a gradient method")
            )


def why_not(network: Network, name: str, method: Method) -> str:
    """Why a network does not support a method; "" if it does."""
    if method.family == "kernel" and network.head_kernel is None:
        return (
            f"{name} needs a head that is linear after pooling, and the network has no "
            "head_kernel; use a gradient method"
        )
    if name == "acol_cam" and network.taps[-1] != ACOL:
        return f"acol_cam needs the head {ACOL!r}, and the network has another"
    return ""


def check_names(names: Sequence[str]) -> None:
    """Raises `ValueError` for unknown methods, and if there is none."""
    valid = ", ".join(METHODS)
    if not names:
        raise ValueError(f"no method given; methods: {valid}")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; methods: {valid}")
