"""The tables against the names that torchvision, timm and Keras give to the same layers."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from minmax_jax.models import NETWORKS, create_network
from minmax_jax.pretrained import Weights, load_weights
from minmax_jax.pretrained.description import Description, our_name
from minmax_jax.pretrained.names import tables

TORCHVISION = [name for name in NETWORKS if name != "scenes_resnet" and not name.endswith("v2")]
TORCHVISION.append("mobilenet_v2")
TIMM = [name.replace("mobilenet_v2", "mobilenetv2_100") for name in TORCHVISION]
TIMM += [f"tf_{name}" for name in TORCHVISION if name.startswith("efficientnet")]
# Names and shapes as the libraries print them: our layer, torchvision's, timm's.
SPOTS = {
    "vgg16": [
        ("block1_conv1", "features.0", "features.0"),
        ("block2_conv2", "features.7", "features.7"),
        ("block5_conv3", "features.28", "features.28"),
        ("head", "classifier.6", "head.fc"),
    ],
    "vgg19": [("block5_conv4", "features.34", "features.34")],
    "resnet18": [
        ("conv1_bn", "bn1", "bn1"),
        ("conv3_block1_0_conv", "layer2.0.downsample.0", "layer2.0.downsample.0"),
        ("conv3_block1_0_bn", "layer2.0.downsample.1", "layer2.0.downsample.1"),
        ("conv5_block2_2_bn", "layer4.1.bn2", "layer4.1.bn2"),
        ("head", "fc", "fc"),
    ],
    "mobilenet_v2": [
        ("Conv1", "features.0.0", "conv_stem"),
        ("expanded_conv_depthwise", "features.1.conv.0.0", "blocks.0.0.conv_dw"),
        ("expanded_conv_depthwise_BN", "features.1.conv.0.1", "blocks.0.0.bn1"),
        ("expanded_conv_project", "features.1.conv.1", "blocks.0.0.conv_pw"),
        ("expanded_conv_project_BN", "features.1.conv.2", "blocks.0.0.bn2"),
        ("block_2_expand", "features.3.conv.0.0", "blocks.1.1.conv_pw"),
        ("block_16_depthwise_BN", "features.17.conv.1.1", "blocks.6.0.bn2"),
        ("block_16_project_BN", "features.17.conv.3", "blocks.6.0.bn3"),
        ("Conv_1_bn", "features.18.1", "bn2"),
        ("head", "classifier.1", "classifier"),
    ],
    "efficientnet_b0": [
        ("stem_bn", "features.0.1", "bn1"),
        ("block1a_dwconv", "features.1.0.block.0.0", "blocks.0.0.conv_dw"),
        ("block1a_se_reduce", "features.1.0.block.1.fc1", "blocks.0.0.se.conv_reduce"),
        ("block1a_project_bn", "features.1.0.block.2.1", "blocks.0.0.bn2"),
        ("block2b_expand_bn", "features.2.1.block.0.1", "blocks.1.1.bn1"),
        ("block2b_se_expand", "features.2.1.block.2.fc2", "blocks.1.1.se.conv_expand"),
        ("block7a_project_conv", "features.7.0.block.3.0", "blocks.6.0.conv_pwl"),
        ("top_conv", "features.8.0", "conv_head"),
        ("head", "classifier.1", "classifier"),
    ],
}


@pytest.mark.parametrize("name", list(SPOTS))
def test_names_of_torchvision_and_timm(name):
    layers = create_network(name, num_labels=1).layers
    found = tables(name, layers, ("torchvision", "timm", "keras"))
    for ours, *theirs in SPOTS[name]:
        assert [found["torchvision"][ours], found["timm"][ours]] == theirs
        assert found["keras"][ours] == (ours if ours != "head" else "predictions")
    for table in found.values():
        assert set(table) == set(layers)
        assert len(set(table.values())) == len(layers)


def test_only_what_a_library_has_is_known():
    layers = create_network("scenes_resnet", num_labels=1).layers
    assert list(tables("scenes_resnet", layers, ("torchvision", "timm", "ours"))) == ["ours"]
    layers = create_network("resnet50v2", num_labels=1).layers
    assert list(tables("resnet50v2", layers, ("torchvision", "timm", "keras"))) == ["keras"]


def check_all(name, style, weights, notes):
    """Every array of the file is used or noted, every array of ours is filled."""
    network = create_network(name, num_labels=1000, style=style)
    variables, got = load_weights(weights, network, key=jax.random.key(0))
    assert got == notes
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda value: value.shape, shapes)


def torch_weights(model, style=""):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    description = Description(style=style)
    counters = sum(name.endswith("num_batches_tracked") for name in shapes)
    notes = [f"arrays not used: {counters} num_batches_tracked."] if counters else []
    return Weights("file", "torch", shapes, lambda name: zeros(shapes[name]), description), notes


def zeros(shape):
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_array_of_torchvision(name):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    with torch.device("meta"):
        weights, notes = torch_weights(getattr(torchvision.models, name)(weights=None))
    if name.startswith("vgg"):
        notes = [
            "head left as initialised: the file's head (1000, 4096) does not read 512 features.",
            "arrays not used: 4 in layers classifier.0, classifier.3.",
        ]
    check_all(name, "torchvision", weights, notes)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TIMM)
def test_every_array_of_timm(architecture):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    name, style = our_name(architecture)
    with torch.device("meta"):
        weights, notes = torch_weights(timm.create_model(architecture, pretrained=False), style)
    if name.startswith("vgg"):
        notes = [
            "head left as initialised: the file's head (1000, 4096) does not read 512 features.",
            "arrays not used: 4 in layers pre_logits.fc1, pre_logits.fc2.",
        ]
    check_all(name, style or "timm", weights, notes)
