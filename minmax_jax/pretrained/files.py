"""Weights by address: a file's content says what it is, never its name."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping

import h5py
import numpy as np

from minmax_jax.pretrained import formats, hub
from minmax_jax.pretrained.description import (
    Description,
    read_config_json,
    read_network_json,
)

_EXPECTED = "a safetensors, PyTorch or Keras file, a folder of a finished run, or hf:OWNER/NAME"
_SAFETENSORS, _TORCH, _KERAS, _OURS = "safetensors", "torch", "keras", "ours"
# Naming of the layers in each format; see `names.tables`.
_NAMINGS = {
    _SAFETENSORS: ("torchvision", "timm"),
    _TORCH: ("torchvision", "timm"),
    _KERAS: ("keras",),
    _OURS: ("ours",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Opened weights: what is there is known, the arrays are read one at a time.

    Attributes:
      address: where they come from, for messages.
      format: "safetensors", "torch", "keras" or "ours".
      shapes: `{array's name in the file: shape}`.
      read: name -> the array, float32, as the file lays it out.
      description: what the content and the files beside it say about the network.
    """

    address: str
    format: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    description: Description

    @property
    def namings(self) -> tuple[str, ...]:
        """The namings of layers that are possible in this format."""
        return _NAMINGS[self.format]

    @property
    def torch_layout(self) -> bool:
        """Whether names and axes are PyTorch's: `layer.weight`, outputs first."""
        return self.format in (_SAFETENSORS, _TORCH)


def open_weights(address: str | os.PathLike) -> Weights:
    """Opens weights without reading their arrays.

    Args:
      address: one of
        - a safetensors file;
        - a file of `torch.save` with a dict of tensors, zip or older (needs PyTorch);
        - an HDF5 file of Keras, weights or a whole model, legacy or Keras 3 layout, or a `.keras`
          archive;
        - the folder of a variant of a finished run of ours, which has `checkpoints` and
          `network.json`;
        - a folder with `model.safetensors` or `pytorch_model.bin`;
        - "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION" on the Hugging Face Hub.
        A `config.json` beside a file describes its network.

    Raises:
      ValueError: there is nothing, nothing of these or nothing whole; the line names the address.
    """
    address = os.fspath(address)
    if address.startswith(hub.PREFIX):
        path, config = hub.download(address)
        return _open_file(address, path, config)
    if os.path.isdir(address):
        if formats.is_checkpoint(address):
            arrays = formats.read_checkpoint(address)
            return Weights(address, _OURS, *arrays, read_network_json(address))
        paths = [os.path.join(address, name) for name in hub.WEIGHTS]
        path = next(filter(os.path.isfile, paths), None)
        if path is None:
            raise ValueError(
                f"weights folder {address} holds no checkpoint; expected is the folder of a "
                f"finished run's variant, or one with {' or '.join(hub.WEIGHTS)}."
            )
    elif not os.path.isfile(address):
        hint = " Keras' files: docs/reproduce.md." if address.endswith(".h5") else ""
        raise ValueError(f"weights file {address} does not exist; expected is {_EXPECTED}.{hint}")
    else:
        path = address
    return _open_file(address, path, pathlib.Path(path).parent / "config.json")


def _open_file(address: str, path: str, config: str | os.PathLike | None) -> Weights:
    description = read_config_json(config) if config else Description()
    kind, read = _recognise(path)
    return Weights(address, kind, *read(path), description)


def _recognise(path: str) -> tuple[str, Callable[[str], formats.Arrays]]:
    """Format of a file and its reader, by the file's first bytes and a zip file's members."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if not size:
        raise ValueError(f"weights file {path} is empty; expected is {_EXPECTED}.")
    # Safetensors begin with the length of a JSON object; cut ones too, which the reader refuses.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _SAFETENSORS, formats.read_safetensors
    if h5py.is_hdf5(path):
        return _KERAS, formats.read_keras
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if "model.weights.h5" in members:
            return _KERAS, formats.read_keras_archive
        if any(member.endswith("data.pkl") for member in members):
            return _TORCH, formats.read_torch
    elif start.startswith(b"PK\x03\x04"):
        raise ValueError(f"weights file {path} is a zip file that was cut off.")
    elif start[0] == 0x80:  # a pickle: torch.save before 1.6
        return _TORCH, formats.read_torch
    raise ValueError(f"weights file {path} is of no known format; expected is {_EXPECTED}.")
