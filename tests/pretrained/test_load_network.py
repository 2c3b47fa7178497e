"""From an address to a network: what the content says, what the caller says, and which wins."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from minmax_jax.models import create_network
from minmax_jax.pretrained import Description, load_network, write_network_json
from tests.models.filling import filled
from tests.pretrained import writers

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def shapes():
    """Names and shapes of torchvision's VGG16, and of a ResNet18 with 3 labels."""
    vgg, channels, number = {}, 3, 0
    for block, features in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(block):
            vgg[f"features.{number}.weight"] = (features, channels, 3, 3)
            vgg[f"features.{number}.bias"] = (features,)
            channels, number = features, number + 2
        number += 1
    vgg |= {"classifier.6.weight": (1000, 4096), "classifier.6.bias": (1000,)}
    resnet = {"fc.weight": (3, 512), "fc.bias": (3,)}

    def layer(conv, norm, *shape):
        resnet[f"{conv}.weight"] = shape
        for array in ("weight", "bias", "running_mean", "running_var"):
            resnet[f"{norm}.{array}"] = shape[:1]

    layer("conv1", "bn1", 64, 3, 7, 7)
    channels = 64
    for stage, features in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            where = f"layer{stage}.{block}"
            layer(f"{where}.conv1", f"{where}.bn1", features, channels, 3, 3)
            layer(f"{where}.conv2", f"{where}.bn2", features, features, 3, 3)
            if channels != features:
                layer(f"{where}.downsample.0", f"{where}.downsample.1", features, channels, 1, 1)
            channels = features
    return {"vgg": vgg, "resnet": resnet}


@pytest.fixture
def folder(tmp_path, shapes):
    arrays = {name: np.full(shape, 0.5, np.float16) for name, shape in shapes["resnet"].items()}
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path


CONFIG = {
    "architecture": "resnet18.a1_in1k",
    "num_classes": 3,
    "pretrained_cfg": {"mean": [0.5, 0.25, 0], "std": [1, 0.5, 1]},
    "label_names": ["cat", "dog", "cow"],
}


def test_a_file_with_config_json_says_everything(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    loaded = load_network(folder / "model.safetensors", dtype="bfloat16", key=KEY)
    assert (loaded.network.name, loaded.network.style) == ("resnet18", "torchvision")
    assert loaded.network.preprocess.mean == (127.5, 63.75, 0)
    assert loaded.network.preprocess.std == (255, 127.5, 255)
    assert loaded.label_names == ("cat", "dog", "cow")
    assert (loaded.activation, loaded.has_head, loaded.notes) == ("softmax", True, ())
    assert loaded.variables["params"]["head"]["kernel"].shape == (512, 3)

    (folder / "config.json").write_text(json.dumps(CONFIG | {"label_names": ["cat", "dog"]}))
    loaded = load_network(folder, key=KEY)
    assert loaded.label_names is None
    assert loaded.notes == ("label names left out: 2 names for 3 labels.",)
    with pytest.raises(ValueError, match=f"weights {folder} are of resnet18, not of vgg16"):
        load_network(folder, name="vgg16", key=KEY)


def test_a_file_alone_needs_a_name(folder):
    with pytest.raises(ValueError, match=f"weights {folder} do not say of which network"):
        load_network(folder, key=KEY)
    with pytest.raises(ValueError, match="unknown network 'resnet19'"):
        load_network(folder, name="resnet19", key=KEY)
    loaded = load_network(folder, name="resnet18", style="timm", key=KEY)
    assert (loaded.network.style, loaded.label_names, loaded.has_head) == ("timm", None, True)


def test_a_head_of_the_callers(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    loaded = load_network(folder, num_labels=5, key=KEY)
    assert loaded.variables["params"]["head"]["kernel"].shape == (512, 5)
    assert (loaded.label_names, loaded.has_head) == (None, False)
    assert loaded.notes == ("head left as initialised: the file's head has 3 labels.",)


def test_without_a_head_that_fits_the_number_of_labels_is_needed(tmp_path, shapes):
    arrays = {
        name: np.zeros((1000, 4096), np.float16) if "classifier.6.w" in name else np.zeros(shape)
        for name, shape in shapes["vgg"].items()
    }
    save_file(arrays, tmp_path / "weights")
    with pytest.raises(ValueError, match="have no head for vgg16: give the number of labels"):
        load_network(tmp_path / "weights", name="vgg16", key=KEY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ours, with a regularised head."""
    folder = tmp_path_factory.mktemp("run")
    network = create_network("scenes_resnet", num_labels=2, head="kur")
    variables = network.init(jax.random.key(1))
    writers.write_checkpoint(folder, variables)
    said = Description(
        name="scenes_resnet",
        num_labels=2,
        head="kur",
        alpha=0.5,
        dropout=0.25,
        attention="none",
        style=network.style,
        dtype="bfloat16",
        preprocess=dataclasses.replace(network.preprocess, bgr=True),
        label_names=("cat", "dog"),
    )
    return folder, variables, said


def test_a_run_of_ours(run):
    folder, variables, said = run
    with pytest.raises(ValueError, match="do not say of which network"):
        load_network(folder, key=KEY)
    write_network_json(folder, said)
    loaded = load_network(folder, key=KEY)
    writers.assert_trees_equal(loaded.variables, variables)
    assert (loaded.activation, loaded.has_head, loaded.notes) == ("sigmoid", True, ())
    assert loaded.label_names == ("cat", "dog")
    assert loaded.network.name == "scenes_resnet"
    assert loaded.network.preprocess == said.preprocess
    # Eq. 15 with alpha 0.5
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    powers = np.exp(kernel)
    want = 0.5 * kernel * powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loaded.network.head_kernel(loaded.variables), want, rtol=1e-5)

    loaded = load_network(folder, alpha=1.0, key=KEY)
    assert loaded.has_head and loaded.notes == ("alpha is 1.0, and 0.5 in the file.",)

    loaded = load_network(folder, head="dense", num_labels=2, key=KEY)
    assert not loaded.has_head and loaded.label_names is None
    assert loaded.notes[0].startswith("head left as initialised: the file's head is 'kur'")


@pytest.mark.parametrize(
    ("head", "arrays", "alpha"),
    [
        ("kur", {}, 2.0),
        ("kur_learned", {"alpha": np.float32(3.5)}, 3.5),
        ("kur_scheduled", {"steps": np.int32(20)}, 2 + 20 / 30 * 4),
    ],
)
def test_a_run_with_regularisation(tmp_path, head, arrays, alpha):
    shortcuts = ("block2_shortcut_conv", "block3_shortcut_conv")
    options = {"name": "scenes_resnet", "num_labels": 2, "head": head, "regularized": shortcuts}
    options |= {"alpha": 2.0, "alpha_end": 6.0, "alpha_steps": 30}
    network = create_network(**options)
    variables = filled(network)
    for collection, name in (("params", "alpha"), ("batch_stats", "steps")):
        if name in arrays:
            variables[collection]["head"][name] = arrays[name]
    variables = jax.tree.map(jnp.asarray, variables)
    writers.write_checkpoint(tmp_path, variables)
    said = Description(
        **options,
        dropout=0.0,
        attention="none",
        style=network.style,
        dtype="float32",
        preprocess=network.preprocess,
        label_names=("cat", "dog"),
    )
    write_network_json(tmp_path, said)
    loaded = load_network(tmp_path, key=KEY)
    assert (loaded.has_head, loaded.notes) == (True, ())
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    shares = np.exp(kernel) / np.exp(kernel).sum(axis=1, keepdims=True)
    used = loaded.network.head_kernel(loaded.variables)
    np.testing.assert_allclose(used, alpha * kernel * shares, rtol=1e-5)
    images = np.ones((1, 16, 16, 3), np.float32)
    got, want = (run.apply(variables, images)[0] for run in (loaded.network, network))
    np.testing.assert_array_equal(got, want)

    other = "kur_learned" if head == "kur" else "kur"
    loaded = load_network(tmp_path, head=other, regularized=(), key=KEY)
    assert loaded.notes == (
        f"head left as initialised: the file's head is {head!r}, this one is of another kind.",
        f"regularised otherwise than in the file: {', '.join(shortcuts)}.",
    )
    np.testing.assert_array_equal(
        loaded.variables["params"][shortcuts[0]]["kernel"],
        variables["params"][shortcuts[0]]["kernel"],
    )


def test_weights_without_attention_leave_it_fresh(folder):
    plain = load_network(folder, name="resnet18", key=KEY)
    loaded = load_network(folder, name="resnet18", attention="cbam", key=KEY)
    assert loaded.notes == ("attention left as initialised: the file has none.",)
    assert loaded.has_head
    assert set(loaded.variables["params"]) == set(loaded.network.layers)
    attention = set(loaded.network.layers) - set(plain.network.layers)
    assert len(attention) == 8 * 4  # blocks, layers in each
    shapes = jax.tree.map(jnp.shape, loaded.variables)
    assert shapes == jax.tree.map(jnp.shape, jax.eval_shape(loaded.network.init, KEY))
    layer = "conv2_block1_channel_1"
    initial = jax.jit(lambda key: loaded.network.init(key)["params"][layer])(KEY)
    writers.assert_trees_equal(loaded.variables["params"][layer], initial)
    writers.assert_trees_equal(only(loaded.variables, plain.network.layers), plain.variables)


def only(variables, layers):
    return {
        collection: {layer: value for layer, value in arrays.items() if layer in layers}
        for collection, arrays in variables.items()
    }


def test_weights_with_one_classifier_leave_two_fresh(folder):
    loaded = load_network(folder, name="resnet18", head="acol", key=KEY)
    assert loaded.notes == (
        "head left as initialised: the file's head (3, 512) does not read 1024 features.",
    )
    assert not loaded.has_head
    head = loaded.variables["params"]["head"]
    initial = jax.jit(lambda key: loaded.network.init(key)["params"]["head"])(KEY)
    writers.assert_trees_equal(head, initial)
    assert head["kernel"].shape == (1024, 3) and head["bias"].shape == (2, 3)
    assert (loaded.variables["params"]["conv1_conv"]["kernel"] == 0.5).all()


def test_a_run_with_attention_and_two_classifiers(tmp_path):
    options = {"name": "scenes_resnet", "num_labels": 2, "head": "acol", "attention": "cbam"}
    network = create_network(**options)
    variables = jax.tree.map(jnp.asarray, filled(network))
    writers.write_checkpoint(tmp_path, variables)
    said = Description(
        **options,
        alpha=1.0,
        dropout=0.0,
        style=network.style,
        dtype="float32",
        preprocess=network.preprocess,
        label_names=("cat", "dog"),
    )
    write_network_json(tmp_path, said)
    loaded = load_network(tmp_path, key=KEY)
    writers.assert_trees_equal(loaded.variables, variables)
    assert loaded.network.layers == network.layers and loaded.network.taps[-1] == "acol"
    assert (loaded.has_head, loaded.notes) == (True, ())

    plain = load_network(tmp_path, head="dense", attention="none", key=KEY)
    assert plain.notes[0].endswith("the file's head (128, 2) does not read 64 features.")
    assert plain.notes[1].startswith("arrays not used: 36 in layers block")
    assert plain.network.taps[-1] == "block4"
