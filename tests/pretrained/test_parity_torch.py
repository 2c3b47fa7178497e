"""Weights of torch models, in torchvision's and timm's names: same logits, same last activations.

The models are random, with statistics that are not trivial, and have torchvision's names; whether
these are the real ones is checked where torchvision is installed.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from minmax_jax.pretrained import load_network

torch = pytest.importorskip("torch", reason="torch is not installed")
torch_models = pytest.importorskip("tests.pretrained.torch_models")

NAMES = ("vgg16", "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0")
LABELS = 5
SIZES = ((64, 64), (97, 75))  # frameworks that pad differently agree on some even sides


@functools.lru_cache(maxsize=1)
def foreign(name):
    return torch_models.randomised(name, LABELS)


def arrays_of(model):
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def load(path, name):
    return load_network(path, name=name, num_labels=LABELS, key=jax.random.key(0))


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_activations_are_those_of_torch(name, tmp_path):
    model = foreign(name)
    save_file(arrays_of(model), tmp_path / "weights")  # the content tells, not the name
    loaded = load(tmp_path / "weights", name)
    network = loaded.network
    assert network.style == "torchvision"
    assert loaded.has_head == ("vgg" not in name)  # its own does not fit behind pooled features
    head = {key: np.asarray(value) for key, value in loaded.variables["params"]["head"].items()}
    apply = jax.jit(network.apply)
    for size in SIZES:
        images = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
        with torch.inference_mode():
            logits, last = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        last = last.permute(0, 2, 3, 1).numpy()
        ours, activations = apply(loaded.variables, images)
        assert relative_error(activations[network.taps[-1]], last) < 1e-4, size
        expected = last.mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
        if loaded.has_head:
            expected = logits.numpy()
        assert relative_error(ours, expected) < 1e-4, size


@pytest.mark.parametrize("name", NAMES)
def test_pth_and_safetensors_hold_the_same(name, tmp_path):
    model = foreign(name)
    save_file(arrays_of(model), tmp_path / "weights.safetensors")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    wanted = load(tmp_path / "weights.safetensors", name)
    for file in ("weights.pth", "old.pth"):
        got = load(tmp_path / file, name)
        assert got.notes == wanted.notes and got.has_head == wanted.has_head
        jax.tree.map(np.testing.assert_array_equal, got.variables, wanted.variables)
    counters = sum("num_batches_tracked" in key for key in model.state_dict())
    if "vgg" in name:
        assert "head left as initialised" in wanted.notes[0]
        assert "14 in layers classifier.0" in wanted.notes[1] and len(wanted.notes) == 2
    else:
        assert wanted.notes == (f"arrays not used: {counters} num_batches_tracked.",)


def timm_keys(name, theirs):
    """timm's names of torchvision's arrays: both list them in forward order."""
    stages = {
        "mobilenet_v2": (1, 2, 3, 4, 3, 3, 1),
        "efficientnet_b0": (1, 2, 2, 3, 3, 4, 1),
    }[name]
    squeeze = ["se.conv_reduce", "se.conv_expand"] if "efficient" in name else []
    layers = ["conv_stem", "bn1"]
    for stage, number in enumerate(stages):
        parts = ["conv_pw", "bn1", "conv_dw", "bn2", *squeeze, "conv_pwl", "bn3"]
        if not stage:
            parts = ["conv_dw", "bn1", *squeeze, "conv_pw", "bn2"]
        for block in range(number):
            layers += [f"blocks.{stage}.{block}.{part}" for part in parts]
    layers += ["conv_head", "bn2", "classifier"]
    prefixes = list(dict.fromkeys(key.rpartition(".")[0] for key in theirs))
    renamed = dict(zip(prefixes, layers, strict=True))
    return {key: f"{renamed[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in theirs}


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
def test_timm_calls_the_same_arrays_otherwise(name, tmp_path):
    arrays = arrays_of(foreign(name))
    keys = timm_keys(name, arrays)
    save_file(arrays, tmp_path / "torchvision")
    save_file({keys[key]: value for key, value in arrays.items()}, tmp_path / "timm")
    got, wanted = (load(tmp_path / file, name) for file in ("timm", "torchvision"))
    assert got.has_head and got.network.style == "timm"
    jax.tree.map(np.testing.assert_array_equal, got.variables, wanted.variables)
    timm = pytest.importorskip("timm", reason="the rest compares with timm itself")
    theirs = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
    assert list(timm.create_model(theirs, num_classes=LABELS).state_dict()) == list(keys.values())


@pytest.mark.parametrize("name", torch_models.MODELS)
def test_the_models_here_are_those_of_torchvision(name):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    ours, theirs = torch_models.MODELS[name](LABELS), getattr(torchvision.models, name)
    theirs = theirs(num_classes=LABELS).eval()
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    if "vgg" in name:
        shapes = {key: shape for key, shape in shapes.items() if "classifier" not in key}
        features = ours.features.state_dict()
        assert {f"features.{key}": value.shape for key, value in features.items()} == shapes
        return
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    theirs.load_state_dict(torch_models.randomised(name, LABELS).state_dict())
    images = torch.randn(2, 3, 75, 97, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, got = theirs(images), torch_models.randomised(name, LABELS)(images)[0]
    assert relative_error(got, wanted.numpy()) < 1e-5
