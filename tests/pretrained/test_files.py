"""Every format is known by its content, read whole and lazily; everything else is refused."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
import zipfile
from unittest import mock

import h5py
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from minmax_jax.pretrained import Description, load_weights, open_weights
from tests.pretrained import writers

KEY = jax.random.key(0)
COUNTER = "layer1.0.bn1.num_batches_tracked"


def keras_network():
    return writers.small_network(style="keras")


def resnet():
    return writers.small_network("resnet18", writers.RESNET_LAYERS, style="torchvision")


def legacy(path, layers):
    writers.write_legacy(path, layers)


def old_legacy(path, layers):
    writers.write_legacy(path, layers, suffix=":0")


def whole_model(path, layers):
    writers.write_legacy(path, layers, under="model_weights")


def oldest_legacy(path, layers):
    """As the VGG files of 2016: names that say no array, in Keras' order."""
    numbered = {
        layer: {f"{layer}_{i}_1": value for i, value in enumerate(arrays.values())}
        for layer, arrays in layers.items()
    }
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in numbered]
        for layer, arrays in numbered.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in arrays]
            for name, value in arrays.items():
                group.create_dataset(f"{name}:0", data=value)


def nested_legacy(path, layers):
    """The network without its head as one layer of a model."""
    inner = {
        f"inner/{layer}/{array}": value
        for layer, arrays in layers.items()
        if layer != "predictions"
        for array, value in arrays.items()
    }
    writers.write_legacy(path, {"inner": inner, "predictions": layers["predictions"]})


def long_names(path, layers):
    """Keras spreads lists of names that are too long for one HDF5 attribute."""
    writers.write_legacy(path, layers)
    with h5py.File(path, "a") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]


def numbered(layers):
    classes = {
        "input": "input_layer",
        "conv": "conv2d",
        "deep": "depthwise_conv2d",
        "norm": "batch_normalization",
        "predictions": "dense",
    }
    return {
        (classes[layer], layer): list(arrays.values())
        for layer, arrays in layers.items()
        if layer in classes
    }


def keras3(path, layers):
    writers.write_keras3(path, numbered(layers))


def nested_keras3(path, layers):
    layers = numbered(layers)
    head = {key: values for key, values in layers.items() if key[1] == "predictions"}
    inner = {key: values for key, values in layers.items() if key not in head}
    writers.write_keras3(path, head)
    writers.write_keras3(path, inner, "layers/functional/layers")


def keras_archive(path, layers):
    content = io.BytesIO()
    keras3(content, layers)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content.getvalue())


@pytest.mark.parametrize(
    "write",
    [
        legacy,
        old_legacy,
        oldest_legacy,
        whole_model,
        nested_legacy,
        long_names,
        keras3,
        nested_keras3,
        keras_archive,
    ],
)
def test_every_layout_of_keras(tmp_path, write):
    layers, want = writers.foreign_arrays()
    path = tmp_path / "weights.safetensors"  # the name says nothing
    write(path, layers)
    weights = open_weights(path)
    assert weights.format == "keras"
    variables, notes = load_weights(weights, keras_network(), key=KEY)
    assert notes == []
    writers.assert_trees_equal(variables, want)


def test_more_than_nine_numbered_arrays_keep_their_order(tmp_path):
    path = tmp_path / "many.h5"
    writers.write_keras3(path, {("odd", "layer"): [np.full(1, i) for i in range(12)]})
    weights = open_weights(path)
    assert [float(weights.read(f"layer/{i}")[0]) for i in range(12)] == list(range(12))


def test_safetensors(tmp_path):
    arrays, want = writers.torch_arrays()
    path = tmp_path / "weights.h5"
    save_file(arrays, path)
    weights = open_weights(str(path))
    assert weights.format == "safetensors"
    assert weights.shapes == {name: value.shape for name, value in arrays.items()}
    variables, notes = load_weights(weights, resnet(), key=KEY)
    assert notes == ["arrays not used: 1 num_batches_tracked."]
    writers.assert_trees_equal(variables, want)
    path.unlink()  # what was loaded does not live in the file
    writers.assert_trees_equal(variables, want)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    arrays = {name: value.astype(dtype) for name, value in writers.torch_arrays()[0].items()}
    save_file(arrays, tmp_path / "weights")
    variables, _ = load_weights(open_weights(tmp_path / "weights"), resnet(), key=KEY)
    kernel = variables["params"]["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, arrays["fc.weight"].T.astype(np.float32))


def test_arrays_are_read_when_asked_for_and_only_those_needed(tmp_path):
    arrays = writers.torch_arrays()[0] | {"other.weight": np.zeros(3)}
    save_file(arrays, tmp_path / "weights")
    weights = open_weights(tmp_path / "weights")
    save_file(arrays | {"fc.bias": np.full(2, 9, np.float32)}, tmp_path / "weights")
    asked = []

    def read(name):
        asked.append(name)
        return weights.read(name)

    variables, notes = load_weights(dataclasses.replace(weights, read=read), resnet(), key=KEY)
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], [9, 9])
    assert sorted(asked) == sorted(set(arrays) - {"other.weight", COUNTER})
    assert notes[0] == "arrays not used: 1 in layers other."


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "module"])
def test_torch(tmp_path, torch, zipped, wrap):
    arrays, want = writers.torch_arrays()
    content = {name: torch.tensor(value) for name, value in arrays.items()}
    if wrap == "module":
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    elif wrap:
        content = {wrap: content, "epoch": 3}
    path = tmp_path / "weights"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    weights = open_weights(path)
    assert weights.format == "torch"
    for _ in range(2):  # reading gives the arrays away
        variables, notes = load_weights(weights, resnet(), key=KEY)
        assert notes == ["arrays not used: 1 num_batches_tracked."]
        writers.assert_trees_equal(variables, want)


def test_torch_in_half_precision(tmp_path, torch):
    arrays = writers.torch_arrays()[0]
    content = {name: torch.tensor(value).to(torch.bfloat16) for name, value in arrays.items()}
    torch.save(content, tmp_path / "weights")
    variables, _ = load_weights(open_weights(tmp_path / "weights"), resnet(), key=KEY)
    want = arrays["fc.bias"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], want)


def test_torch_files_that_hold_something_else(tmp_path, torch):
    path = tmp_path / "weights"
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, "holds more than tensors")
    torch.save([torch.zeros(2)], path)
    refused(path, "holds no dict of tensors")


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_no_pickle_is_executed(tmp_path, capsys):
    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps({"fc.weight": Hostile()}, protocol=2))
    refused(path, "damaged or holds more than tensors|pip install torch")
    assert capsys.readouterr().out == ""


def test_without_torch_its_files_say_what_to_install(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps({}, protocol=2))
    with mock.patch.dict(sys.modules, torch=None):
        refused(path, "`pip install torch`")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "")
    with mock.patch.dict(sys.modules, torch=None):
        refused(path, "`pip install torch`")


def refused(path, reason):
    with pytest.raises(ValueError, match=reason) as error:
        open_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_weights_file(tmp_path):
    refused(tmp_path / "absent.h5", "does not exist; expected is a safetensors")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    refused(path, "is empty")
    path.write_text("not weights")
    refused(path, "is of no known format; expected is a safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "hello")
    refused(path, "is of no known format")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(3))
    refused(path, "holds no weights of Keras layers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", "not HDF5")
    refused(path, "is damaged")


def test_files_that_were_cut_off(tmp_path):
    path = tmp_path / "weights"
    arrays, _ = writers.torch_arrays()
    save_file(arrays, path)
    cut(path)
    refused(path, "is damaged")
    path.write_bytes(path.read_bytes()[:30])
    refused(path, "is damaged")
    legacy(path, writers.foreign_arrays()[0])
    cut(path)
    refused(path, "is damaged")
    keras_archive(path, writers.foreign_arrays()[0])
    cut(path)
    refused(path, "was cut off")


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_folder_with_a_file_of_the_hub(tmp_path):
    refused(tmp_path, "holds no checkpoint; expected is the folder of a finished run")
    save_file(writers.torch_arrays()[0], tmp_path / "model.safetensors")
    assert open_weights(tmp_path).format == "safetensors"


def test_our_own_checkpoints(tmp_path):
    network = writers.small_network()
    variables = network.init(jax.random.key(1))
    writers.write_checkpoint(tmp_path, variables)
    weights = open_weights(tmp_path)
    assert weights.format == "ours"
    assert weights.description == Description()
    assert weights.shapes["conv/kernel"] == (3, 3, 2, 4)
    got, notes = load_weights(weights, network, key=KEY)
    assert notes == []
    writers.assert_trees_equal(got, variables)


def test_an_empty_and_a_damaged_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    refused(tmp_path, "holds no checkpoint")
    (tmp_path / "checkpoints" / "3").mkdir()
    refused(tmp_path, "is damaged")


def test_a_regularised_head_comes_from_a_run_that_had_one(tmp_path):
    dense, regularised = writers.small_network(), writers.small_network(alpha=0.5)
    variables = dense.init(jax.random.key(1))
    writers.write_checkpoint(tmp_path, variables)
    for head, network, kept in (
        ("kur", regularised, True),
        ("dense", dense, True),
        ("dense", regularised, False),
        ("kur", dense, False),
    ):
        description = Description("scenes_resnet", 2, head, 1.0, 0.0, "keras", "float32")
        weights = dataclasses.replace(open_weights(tmp_path), description=description)
        got, notes = load_weights(weights, network, key=KEY)
        kernels = [tree["params"]["head"]["kernel"] for tree in (got, variables)]
        assert np.array_equal(*kernels) == kept
        assert bool(notes) != kept
