"""What stands beside weights: our own network.json, and the Hub's config.json, not trusted."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from minmax_jax.models import Normalize
from minmax_jax.pretrained import Description, write_network_json
from minmax_jax.pretrained.description import our_name, read_config_json, read_network_json

WHOLE = Description(
    name="resnet18",
    num_labels=2,
    head="kur",
    alpha=0.5,
    dropout=0.1,
    attention="cbam",
    style="timm",
    dtype="bfloat16",
    preprocess=Normalize((1, 2, 3), (4, 5, 6), bgr=True),
    label_names=("cat", "dog"),
    alpha_end=2,
    alpha_steps=30,
    regularized=("conv2_block1_0_conv",),
    activation="softmax",
)


def test_network_json_comes_back_as_it_was(tmp_path):
    write_network_json(tmp_path, WHOLE)
    assert read_network_json(tmp_path) == WHOLE
    assert json.loads((tmp_path / "network.json").read_text())["preprocess"] == {
        "mean": [1, 2, 3],
        "std": [4, 5, 6],
        "bgr": True,
    }


@pytest.mark.parametrize(
    "unknown", [{"attention": ""}, dict.fromkeys(("alpha_end", "alpha_steps", "regularized"))]
)
def test_network_json_of_before_a_field(tmp_path, unknown):
    write_network_json(tmp_path, WHOLE)
    path = tmp_path / "network.json"
    older = json.loads(path.read_text())
    for field in unknown:
        del older[field]
    path.write_text(json.dumps(older))
    said = read_network_json(tmp_path)
    assert said == dataclasses.replace(WHOLE, **unknown)
    assert not set(unknown) & set(said.arguments)


def test_what_networks_mostly_do_without_may_be_left_out(tmp_path):
    most = dataclasses.replace(WHOLE, alpha_end=None, alpha_steps=None, regularized=None)
    write_network_json(tmp_path, most)
    assert "null" not in (tmp_path / "network.json").read_text()
    assert read_network_json(tmp_path) == most
    none = dataclasses.replace(WHOLE, regularized=())
    write_network_json(tmp_path, none)
    assert read_network_json(tmp_path).arguments["regularized"] == ()


def test_without_network_json_nothing_is_said(tmp_path):
    assert read_network_json(tmp_path) == Description()


def test_network_json_must_say_everything(tmp_path):
    with pytest.raises(ValueError, match=r"everything, but \['head', 'label_names'\]"):
        write_network_json(tmp_path, dataclasses.replace(WHOLE, head="", label_names=None))


@pytest.mark.parametrize(
    "change",
    [
        {"num_labels": "2"},
        {"num_labels": True},
        {"alpha": None},
        {"alpha_end": None},
        {"alpha_steps": 2.5},
        {"regularized": None},
        {"regularized": "stem"},
        {"name": 3},
        {"attention": None},
        {"label_names": "cat"},
        {"preprocess": {"mean": [1], "std": [1]}},
        {"preprocess": None},
        {"more": 1},
    ],
)
def test_network_json_of_another_form(tmp_path, change):
    write_network_json(tmp_path, WHOLE)
    path = tmp_path / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(read_network_json, tmp_path, path)


def refused(read, argument, path):
    with pytest.raises(ValueError) as error:
        read(argument)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


# As timm writes it, from a model's page on the Hub.
TIMM = {
    "architecture": "tf_efficientnet_b0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "tag": "ns_jft_in1k",
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "classifier": "classifier",
    },
}


def config(tmp_path, value):
    path = tmp_path / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_config_json_of_timm(tmp_path):
    said = read_config_json(config(tmp_path, TIMM))
    assert (said.name, said.style, said.num_labels) == ("efficientnet_b0", "keras", 1000)
    np.testing.assert_allclose(said.preprocess.mean, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(said.preprocess.std, (58.395, 57.12, 57.375))
    assert not said.preprocess.bgr and said.label_names is None


@pytest.mark.parametrize(
    "names",
    [
        {"label_names": ["cat", "dog"]},
        {"pretrained_cfg": {"label_names": ["cat", "dog"]}},
        {"id2label": {"1": "dog", "0": "cat"}},
    ],
)
def test_label_names(tmp_path, names):
    assert read_config_json(config(tmp_path, names)).label_names == ("cat", "dog")


def test_what_config_json_does_not_say(tmp_path):
    assert read_config_json(tmp_path / "config.json") == Description()
    for value in ({}, {"pretrained_cfg": None}, {"architecture": "vit_base_patch16_224"}):
        assert read_config_json(config(tmp_path, value)) == Description()


@pytest.mark.parametrize(
    ("architecture", "name", "style"),
    [
        ("resnet50", "resnet50", ""),
        ("resnet50.a1_in1k", "resnet50", ""),
        ("resnet152", "resnet152", ""),
        ("mobilenetv2_100", "mobilenet_v2", ""),
        ("mobilenetv2_140", "", ""),
        ("efficientnet_b7", "efficientnet_b7", ""),
        ("tf_efficientnet_b7.ns_jft_in1k", "efficientnet_b7", "keras"),
        ("tf_efficientnet_b8", "", ""),
        ("tf_resnet50", "", ""),
        ("resnet50d", "", ""),
        ("resnet50_gn", "", ""),
        ("efficientnet_b1_pruned", "", ""),
        ("vgg16", "vgg16", ""),
        ("vgg16_bn", "", ""),
        ("resnetv2_50", "", ""),
        ("", "", ""),
    ],
)
def test_names_of_timm(architecture, name, style):
    assert our_name(architecture) == (name, style)


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "[" * 100_000,
        "\x00",
        [],
        {"architecture": 3},
        {"architecture": ["resnet50"] * 1000},
        {"num_classes": "many"},
        {"num_classes": -1},
        {"pretrained_cfg": [1]},
        {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}},
        {"pretrained_cfg": {"mean": [0.5] * 2, "std": [0.5] * 3}},
        {"pretrained_cfg": {"mean": "0.5", "std": "0.5"}},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [float("nan")] * 3}},
        {"label_names": [1, 2]},
        {"label_names": {"a": 1}},
        {"id2label": {"1": "dog"}},
        {"id2label": ["dog"]},
        {"id2label": 3},
    ],
)
def test_nonsense_in_config_json(tmp_path, value):
    path = config(tmp_path, value)
    refused(read_config_json, path, path)
