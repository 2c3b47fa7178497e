"""What the layers of our networks are called in the weights of other frameworks.

Ours bear the names of the Keras applications. A table `{our layer: its prefix in the file}` is made
by rules from a network's layers, so that one rule serves every size of a family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from minmax_jax.models.attention import is_attention

HEAD = "head"
# Inverted residuals of MobileNetV2 in each stage; the first does not expand.
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
_EFFICIENTNET_BLOCK = re.compile(r"block(\d)([a-z])_(.+)")
_EFFICIENTNET_PARTS = {
    "expand_conv": "expand",
    "expand_bn": "expand_bn",
    "dwconv": "depthwise",
    "bn": "depthwise_bn",
    "se_reduce": "se_reduce",
    "se_expand": "se_expand",
    "project_conv": "project",
    "project_bn": "project_bn",
}
# Parts of an inverted residual: (in a block that expands, in one that does not).
_TIMM_PARTS = {
    "expand": ("conv_pw", None),
    "expand_bn": ("bn1", None),
    "depthwise": ("conv_dw", "conv_dw"),
    "depthwise_bn": ("bn2", "bn1"),
    "se_reduce": ("se.conv_reduce", "se.conv_reduce"),
    "se_expand": ("se.conv_expand", "se.conv_expand"),
    "project": ("conv_pwl", "conv_pw"),
    "project_bn": ("bn3", "bn2"),
}
_EFFICIENTNET_TORCHVISION_PARTS = {
    "expand": ("0.0", None),
    "expand_bn": ("0.1", None),
    "depthwise": ("1.0", "0.0"),
    "depthwise_bn": ("1.1", "0.1"),
    "se_reduce": ("2.fc1", "1.fc1"),
    "se_expand": ("2.fc2", "1.fc2"),
    "project": ("3.0", "2.0"),
    "project_bn": ("3.1", "2.1"),
}
_MOBILENET_TORCHVISION_PARTS = {
    "expand": ("0.0", None),
    "expand_bn": ("0.1", None),
    "depthwise": ("1.0", "0.0"),
    "depthwise_bn": ("1.1", "0.1"),
    "project": ("2", "1"),
    "project_bn": ("3", "2"),
}
Table = Mapping[str, str]


def tables(name: str, layers: Sequence[str], namings: Sequence[str]) -> dict[str, Table]:
    """The tables of a network for those of the namings that know its family.

    Args:
      name: the network's name.
      layers: its layers in forward order, the head last.
      namings: of "torchvision", "timm", "keras" and "ours".

    Returns:
      `{naming: {our layer: prefix in the file}}`; attention is in "ours" alone.
    """
    found: dict[str, Table] = {}
    plain = [layer for layer in layers if not is_attention(layer)]
    for naming in namings:
        if naming == "ours":
            found[naming] = {layer: layer for layer in layers}
        elif naming == "keras":
            found[naming] = {layer: layer for layer in plain} | {HEAD: "predictions"}
        else:
            for family, rule in _RULES[naming].items():
                if re.fullmatch(family, name):
                    found[naming] = rule(plain)
    return found


def _vgg(layers: Sequence[str], *, head: str) -> Table:
    # A convolution and its ReLU take two numbers, a pooling takes one.
    features = {
        layer: f"features.{2 * index + int(layer[len('block')]) - 1}"
        for index, layer in enumerate(layer for layer in layers if layer != HEAD)
    }
    return features | {HEAD: head}


def _resnet(layers: Sequence[str]) -> Table:
    def prefix(layer):
        pattern = r"conv(\d)_block(\d+)_(\d)_(conv|bn)"
        stage, block, index, kind = re.fullmatch(pattern, layer).groups()
        part = f"downsample.{int(kind == 'bn')}" if index == "0" else f"{kind}{index}"
        return f"layer{int(stage) - 1}.{int(block) - 1}.{part}"

    blocks = {layer: prefix(layer) for layer in layers if "block" in layer}
    return {"conv1_conv": "conv1", "conv1_bn": "bn1"} | blocks | {HEAD: "fc"}


def _mobilenet_blocks(layers: Sequence[str]) -> dict[str, tuple[int, int, str]]:
    """`{layer: (stage, block in the stage, part)}` of the inverted residuals, from 0 on."""
    places = [(stage, i) for stage, size in enumerate(_MOBILENET_STAGES) for i in range(size)]
    found = {}
    for layer in layers:
        match = re.fullmatch(r"(?:expanded_conv|block_(\d+))_([a-z]+)(_BN)?", layer)
        if match:
            index, part, norm = match.groups()
            found[layer] = (*places[int(index or 0)], part + ("_bn" if norm else ""))
    return found


def _efficientnet_blocks(layers: Sequence[str]) -> dict[str, tuple[int, int, str]]:
    """As `_mobilenet_blocks`."""
    matches = {layer: _EFFICIENTNET_BLOCK.fullmatch(layer) for layer in layers}
    return {
        layer: (int(match[1]) - 1, ord(match[2]) - ord("a"), _EFFICIENTNET_PARTS[match[3]])
        for layer, match in matches.items()
        if match
    }


def _mobilenet_torchvision(layers: Sequence[str]) -> Table:
    blocks = {
        layer: f"features.{1 + sum(_MOBILENET_STAGES[:stage]) + block}.conv."
        + _MOBILENET_TORCHVISION_PARTS[part][stage == 0]
        for layer, (stage, block, part) in _mobilenet_blocks(layers).items()
    }
    stem = {"Conv1": "features.0.0", "bn_Conv1": "features.0.1"}
    top = {"Conv_1": "features.18.0", "Conv_1_bn": "features.18.1", HEAD: "classifier.1"}
    return stem | blocks | top


def _efficientnet_torchvision(layers: Sequence[str]) -> Table:
    blocks = {
        layer: f"features.{stage + 1}.{block}.block."
        + _EFFICIENTNET_TORCHVISION_PARTS[part][stage == 0]
        for layer, (stage, block, part) in _efficientnet_blocks(layers).items()
    }
    stem = {"stem_conv": "features.0.0", "stem_bn": "features.0.1"}
    top = {"top_conv": "features.8.0", "top_bn": "features.8.1", HEAD: "classifier.1"}
    return stem | blocks | top


def _timm(blocks: Mapping[str, tuple[int, int, str]], stem: Sequence[str]) -> Table:
    parts = {
        layer: f"blocks.{stage}.{block}.{_TIMM_PARTS[part][stage == 0]}"
        for layer, (stage, block, part) in blocks.items()
    }
    ends = zip(stem, ("conv_stem", "bn1", "conv_head", "bn2"), strict=True)
    return dict(ends) | parts | {HEAD: "classifier"}


# naming: {pattern of the network's name: rule}. VGG's own head reads 4096 features, so it never
# fits; its name is here so that a note can say so.
_RULES: dict[str, dict[str, Callable[[Sequence[str]], Table]]] = {
    "torchvision": {
        r"vgg\d+": lambda layers: _vgg(layers, head="classifier.6"),
        r"resnet\d+": _resnet,
        "mobilenet_v2": _mobilenet_torchvision,
        r"efficientnet_b\d": _efficientnet_torchvision,
    },
    "timm": {
        r"vgg\d+": lambda layers: _vgg(layers, head="head.fc"),
        r"resnet\d+": _resnet,
        "mobilenet_v2": lambda layers: _timm(
            _mobilenet_blocks(layers), ("Conv1", "bn_Conv1", "Conv_1", "Conv_1_bn")
        ),
        r"efficientnet_b\d": lambda layers: _timm(
            _efficientnet_blocks(layers), ("stem_conv", "stem_bn", "top_conv", "top_bn")
        ),
    },
}
