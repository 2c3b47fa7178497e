"""Readers of weights files, one function a format.

Each returns the names and shapes of a file's arrays and a function that reads one of them as
float32, so that no more than one array need be in memory twice. Arrays keep the names that the file
gives them; those of Keras, which differ by version, are `layer/array` with our array names.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import jax
import numpy as np
import safetensors

from minmax_jax.train.checkpoints import VARIABLES, Checkpoints

Shapes = dict[str, tuple[int, ...]]
Arrays = tuple[Shapes, Callable[[str], np.ndarray]]

_KERAS_ARRAYS = {
    "kernel": "kernel",
    "depthwise_kernel": "kernel",
    "bias": "bias",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}
# Of layers whose arrays are only numbered: by how many there are.
_KERAS_POSITIONS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("scale", "bias", "mean", "var"),
}


def read_safetensors(path: str) -> Arrays:
    """Arrays of a safetensors file, memory-mapped; bfloat16 and float16 become float32."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights file {path} is damaged: {_line(error)}.") from error

    def read(name):
        # Opened for each array: an open file would keep what was read in memory.
        with safetensors.safe_open(path, framework="numpy") as file:
            return np.asarray(file.get_tensor(name), np.float32)

    return shapes, read


def read_torch(path: str) -> Arrays:
    """Arrays of a file of `torch.save`, by torch's own restricted unpickler.

    The content is a dict of tensors, perhaps under "state_dict" or "model", perhaps with the prefix
    "module." of parallel training.
    """
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"weights file {path} was written by PyTorch: `pip install torch` to read it."
        ) from None

    def load():
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        # Unpickling a damaged file may raise anything, and a hostile one is refused by torch.
        except Exception as error:
            raise ValueError(
                f"weights file {path} is damaged or holds more than tensors ({_line(error)}); "
                "save model.state_dict() or a safetensors file."
            ) from error
        for key in ("state_dict", "model"):
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        named = {
            name: tensor.detach()
            for name, tensor in (content.items() if isinstance(content, Mapping) else ())
            if isinstance(name, str) and isinstance(tensor, torch.Tensor)
        }
        if not named:
            raise ValueError(f"weights file {path} holds no dict of tensors.")
        prefix = "module." if all(name.startswith("module.") for name in named) else ""
        return {name.removeprefix(prefix): tensor for name, tensor in named.items()}

    tensors = load()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(name):
        if name not in tensors:  # read a second time
            tensors.update(load())
        # Given away, so that the file's arrays leave the memory as ours come.
        return tensors.pop(name).to(torch.float32).numpy()

    return shapes, read


def read_keras_archive(path: str) -> Arrays:
    """Arrays of a `.keras` archive: an HDF5 file in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"weights file {path} is damaged: {_line(error)}.") from error
    return read_keras(path, content)


def read_keras(path: str, content: io.BytesIO | None = None) -> Arrays:
    """Arrays of an HDF5 file of Keras: weights or whole models, the legacy layout or Keras 3's.

    Args:
      path: the file's name.
      content: its bytes, if they are not those of `path`.
    """
    source = content or path
    try:
        with h5py.File(source, "r") as file:
            datasets = {}
            for layer, arrays in (_legacy_layers if _root(file) else _keras3_layers)(file):
                known = any(array in _KERAS_ARRAYS for array in arrays)
                positions = _KERAS_POSITIONS.get(len(arrays), arrays)
                names = arrays if known else positions
                for name, dataset in zip(names, arrays.values(), strict=True):
                    datasets[f"{layer}/{_KERAS_ARRAYS.get(name, name)}"] = dataset
            shapes = {name: file[dataset].shape for name, dataset in datasets.items()}
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"weights file {path} is damaged: {_line(error)}.") from error
    if not shapes:
        raise ValueError(f"weights file {path} is HDF5, but holds no weights of Keras layers.")

    def read(name):
        with h5py.File(source, "r") as file:
            return np.asarray(file[datasets[name]], np.float32)

    return shapes, read


def _root(file: h5py.File) -> h5py.Group | None:
    """The group of the legacy layout's layers: a file of a whole model has it one step down."""
    group = file.get("model_weights", file)
    return group if _strings(group, "layer_names") else None


def _legacy_layers(file: h5py.File) -> Iterator[tuple[str, dict[str, str]]]:
    """Layers of the legacy layout: `(layer, {array: path in the file})`."""
    root = _root(file)
    for layer in _strings(root, "layer_names"):
        group = root[layer]
        # "Conv1/kernel", from older versions "Conv1/kernel:0", from the oldest "Conv1_W:0".
        paths = {name.split(":")[0]: name for name in _strings(group, "weight_names")}
        parents = {name.rpartition("/")[0] for name in paths}
        if len(parents) < 2:
            parents = {layer}
            paths = {f"{layer}/{name.rpartition('/')[2]}": path for name, path in paths.items()}
        # More than one: the layer is a model of its own, and its layers are in the names.
        layers: dict[str, dict[str, str]] = {}
        for name, path in paths.items():
            parent, _, array = name.rpartition("/")
            layers.setdefault(parent.split("/")[-1], {})[array] = f"{group.name}/{path}"
        yield from layers.items()


def _keras3_layers(file: h5py.File) -> Iterator[tuple[str, dict[str, str]]]:
    """Layers of the Keras 3 layout, those of models within models too; arrays are numbered."""
    found = []

    def visit(path, group):
        if path.split("/")[0] == "layers" and path.endswith("/vars"):
            layer = _text(group.attrs.get("name", path.split("/")[-2]))
            arrays = {array: f"{path}/{array}" for array in sorted(group, key=int)}
            found.append((layer, arrays))

    file.visititems(visit)
    yield from found


def _strings(group: h5py.Group, name: str) -> list[str]:
    """A list of strings in the attributes; Keras spreads a long one over `name0`, `name1`, ..."""
    parts = [name] if name in group.attrs else []
    while not parts or parts[-1] != name:
        if f"{name}{len(parts)}" not in group.attrs:
            break
        parts.append(f"{name}{len(parts)}")
    return [_text(value) for part in parts for value in group.attrs[part]]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def read_checkpoint(folder: str) -> Arrays:
    """Arrays of the best weights of a training run of ours, named `layer/array`."""
    try:
        with Checkpoints(folder) as checkpoints:
            best = checkpoints.counters()["best"]
            metadata = checkpoints.shapes(best)[VARIABLES]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint in {folder} is damaged: {_line(error)}.") from error
    shapes = {name: tuple(value.shape) for name, value in _flat(metadata).items()}
    loaded: dict[str, np.ndarray] = {}

    def read(name):
        if name not in loaded:  # Orbax reads a tree as a whole.
            like = jax.tree.map(lambda value: np.zeros(value.shape, value.dtype), metadata)
            with Checkpoints(folder) as checkpoints:
                loaded.update(_flat(checkpoints.load(best, {VARIABLES: like})[VARIABLES]))
        return loaded.pop(name)  # given away, as PyTorch's

    return shapes, read


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`{"layer/array": value}`; the names of a layer's parameters and statistics differ."""
    return {
        f"{layer}/{array}": value
        for layers in variables.values()
        for layer, arrays in layers.items()
        for array, value in arrays.items()
    }


def is_checkpoint(folder: str) -> bool:
    """Whether training has left a checkpoint in the folder."""
    kept = os.path.join(folder, "checkpoints")
    return os.path.isdir(kept) and any(name.isdigit() for name in os.listdir(kept))


def _line(error: Exception) -> str:
    """An error's first line, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
