"""Networks by name."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Mapping, Sequence

from minmax_jax.models import efficientnet, mobilenet_v2, resnet, scenes_resnet, vgg
from minmax_jax.models.attention import ATTENTIONS
from minmax_jax.models.backbone import Backbone, Style
from minmax_jax.models.heads import HEADS, check_head
from minmax_jax.models.network import Network, from_module
from minmax_jax.models.preprocess import Normalize

__all__ = [
    "ATTENTIONS",
    "DTYPES",
    "HEADS",
    "NETWORKS",
    "Network",
    "Normalize",
    "create_network",
    "from_module",
    "styles_of",
]


@dataclasses.dataclass(frozen=True)
class _Entry:
    module: type[Backbone] | functools.partial
    image_size: int  # native, in pixels
    styles: Mapping[str, Style]
    attends: bool = False  # whether it reads the field `attention`


def _resnet(blocks, bottleneck=True):
    module = functools.partial(resnet.ResNet, blocks=blocks, bottleneck=bottleneck)
    styles = resnet.STYLES if bottleneck else resnet.BASIC_STYLES
    return _Entry(module, 224, styles, attends=True)


def _resnet_v2(blocks):
    return _Entry(functools.partial(resnet.ResNetV2, blocks=blocks), 224, resnet.V2_STYLES)


def _vgg(convolutions):
    return _Entry(functools.partial(vgg.VGG, convolutions=convolutions), 224, vgg.STYLES)


def _efficientnet(width, depth, image_size, styles=efficientnet.STYLES):
    module = functools.partial(efficientnet.EfficientNet, width=width, depth=depth)
    return _Entry(module, image_size, styles)


_NETWORKS = {
    "scenes_resnet": _Entry(scenes_resnet.ScenesResNet, 96, scenes_resnet.STYLES, attends=True),
    "vgg16": _vgg((2, 2, 3, 3, 3)),
    "vgg19": _vgg((2, 2, 4, 4, 4)),
    "resnet18": _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": _resnet((3, 4, 6, 3), bottleneck=False),
    "resnet50": _resnet((3, 4, 6, 3)),
    "resnet101": _resnet((3, 4, 23, 3)),
    "resnet152": _resnet((3, 8, 36, 3)),
    "resnet50v2": _resnet_v2((3, 4, 6, 3)),
    "resnet101v2": _resnet_v2((3, 4, 23, 3)),
    "resnet152v2": _resnet_v2((3, 8, 36, 3)),
    "efficientnet_b0": _efficientnet(1.0, 1.0, 224),
    "efficientnet_b1": _efficientnet(1.0, 1.1, 240),
    "efficientnet_b2": _efficientnet(1.1, 1.2, 260),
    "efficientnet_b3": _efficientnet(1.2, 1.4, 300),
    "efficientnet_b4": _efficientnet(1.4, 1.8, 380),
    "efficientnet_b5": _efficientnet(1.6, 2.2, 456, efficientnet.LARGE_STYLES),
    "efficientnet_b6": _efficientnet(1.8, 2.6, 528, efficientnet.LARGE_STYLES),
    "efficientnet_b7": _efficientnet(2.0, 3.1, 600, efficientnet.LARGE_STYLES),
    "mobilenet_v2": _Entry(mobilenet_v2.MobileNetV2, 224, mobilenet_v2.STYLES),
}
NETWORKS = tuple(_NETWORKS)
DTYPES = ("float32", "bfloat16")


def create_network(
    name: str,
    *,
    num_labels: int,
    head: str = "dense",
    alpha: float = 1.0,
    dropout: float = 0.0,
    attention: str = "none",
    style: str | None = None,
    dtype: str = "float32",
    preprocess: Normalize | None = None,
    alpha_end: float = 20.0,
    alpha_steps: int = 1000,
    regularized: Sequence[str] = (),
) -> Network:
    """Makes a network by name.

    Args:
      name: one of `NETWORKS`.
      num_labels: number of labels `c`.
      head: "dense"; "kur" for the kernel usage regularisation (Eq. 15), "kur_learned" and
        "kur_scheduled" for one whose factor moves in training; "acol" for two classifiers, the
        second on features erased where the first finds its most probable label (`models.acol`).
      alpha: factor of the regularised kernel; with "kur_learned" the value that its training
        starts from, with "kur_scheduled" the first.
      dropout: fraction of the pooled features dropped before the head in training.
      attention: "none", or "cbam" for channel and spatial attention at the end of the residual
        branches of a ResNet v1 or of "scenes_resnet" (`models.attention`).
      style: one of `styles_of(name)`: whose paddings, biases, epsilon and preprocessing; by default
        the first of them. Weights want the style that they were trained in.
      dtype: of the computation up to the head, one of `DTYPES`; parameters and logits are float32.
      preprocess: in place of the style's own.
      alpha_end, alpha_steps: "kur_scheduled" goes linearly from `alpha` to `alpha_end` over so many
        passes in training (a step has one, or as many as parts that it accumulates).
      regularized: names of 1x1 convolutions (of `Network.layers`) whose kernels are used
        regularised as well, scaled to work at initialisation (`models.regularized`).

    Raises:
      ValueError: unknown name, head, attention, style or dtype, `num_labels` or `alpha_steps` below
        1, `dropout` outside [0, 1), an `alpha` or `alpha_end` that is not above 0, attention in a
        network that has none,
        `regularized` layers that are no 1x1 convolutions.
    """
    styles = styles_of(name)
    check_head(head)
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise ValueError(f"num_labels must be a positive int, got {num_labels!r}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}.")
    if attention not in ATTENTIONS:
        raise ValueError(f"unknown attention {attention!r}; attentions are {list(ATTENTIONS)}.")
    if attention != "none" and not _NETWORKS[name].attends:
        attending = [other for other, entry in _NETWORKS.items() if entry.attends]
        raise ValueError(f"{name} has no attention {attention!r}; networks with it: {attending}.")
    if isinstance(alpha_steps, bool) or not isinstance(alpha_steps, int) or alpha_steps < 1:
        raise ValueError(f"alpha_steps must be a positive int, got {alpha_steps!r}.")
    for factor, value in (("alpha", alpha), ("alpha_end", alpha_end)):
        if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
            raise ValueError(f"{factor} must be a finite number above 0, got {value!r}.")
    style = styles[0] if style is None else style
    if style not in styles:
        raise ValueError(f"unknown style {style!r} of {name}; its styles are {list(styles)}.")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; dtypes are {list(DTYPES)}.")
    entry = _NETWORKS[name]
    arithmetic = entry.styles[style]
    module = entry.module(
        num_labels=num_labels,
        style=arithmetic,
        head=head,
        alpha=alpha,
        dropout=dropout,
        dtype=dtype,
        attention=attention,
        alpha_end=alpha_end,
        alpha_steps=alpha_steps,
        **dict(arithmetic.options),
    )
    return from_module(
        module,
        name=name,
        style=style,
        image_size=entry.image_size,
        preprocess=preprocess or arithmetic.preprocess,
        regularized=regularized,
    )


def styles_of(name: str) -> tuple[str, ...]:
    """Styles of a network: the frameworks whose arithmetic, and so whose weights, it can have.

    Raises:
      ValueError: unknown name.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}; networks are {list(NETWORKS)}.")
    return tuple(_NETWORKS[name].styles)
