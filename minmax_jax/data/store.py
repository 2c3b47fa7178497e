"""A source's examples, decoded and resized once, in memory-mapped files.

A store is a folder with `image.npy` uint8 (n S S 3), `labels.npy` bool (n c), `mask.npy` uint8
(n S S) where the source has masks, and `store.json`, which says what they were made from. It
appears whole or not at all; a killed process leaves `FOLDER.partial`, which is made anew.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from minmax_jax import files, parallel, preemption
from minmax_jax.config import differences
from minmax_jax.data.pipeline import Batches, Example, Source, batches

_JSON = "store.json"
_BATCH = 16  # examples that a thread decodes at a time


def make_store(
    source: Source,
    directory: str | os.PathLike,
    *,
    image_size: int,
    resize: str = "crop",
    progress: bool = True,
) -> Store:
    """Opens the store in `directory`, which is made from `source` if it is not there.

    Of several processes the first one makes it, in a folder that all see.

    Args:
      source: the examples.
      directory: the store's folder.
      image_size: side S of the square images in pixels.
      resize: "crop" (centred square) or "letterbox" (whole image, padded).
      progress: whether to show a progress bar.

    Raises:
      ValueError: for a folder that holds another store (naming the field) or something else, an
        unknown `resize`, an image size below 1, an empty source; and an example's own error.
      OSError: if the store cannot be written.
      preemption.Preempted: when SIGTERM came.
    """
    directory = pathlib.Path(directory).absolute()
    made = batches(
        source, batch_size=_BATCH, image_size=image_size, preprocess=_as_they_are, resize=resize
    )
    wanted = {
        "number": len(source),
        "image_size": image_size,
        "resize": resize,
        "label_names": list(source.label_names),
        "has_masks": source.has_masks,
    }
    if parallel.agree(not directory.exists()):
        if parallel.is_first():
            _write(made, directory, wanted, progress=progress)
        parallel.agree(True)  # The others wait until it is there.
    found = _read_json(directory)
    found.pop("skipped")
    different = differences(found, wanted)
    if different:
        raise ValueError(
            f"{directory} holds a store of other examples, choose another folder: "
            f"{different[0]} (there, wanted)"
        )
    return Store(directory)


class Store:
    """The examples of a store, or some of them: a source, and arrays to index.

    Examples are read from disk when they are asked for; only labels are in memory. With `batches`
    of the store's own image size they come as they are.

    Attributes:
      images: `(n S S 3)` uint8, read-only: a memory map, or of a subset `Rows` of it.
      labels: `(n c)` bool.
      masks: `(n S S)` uint8 as `images`: 0 background, 1 + label, 255 void; None without masks.
      label_names: the c names.
      has_masks: whether there are masks.
      skipped: what the source left out.

    Args:
      directory: of a store that `make_store` made.
      indices: `(n,)` int64, which of its examples, as `subset` checks them; None is all.

    Raises:
      ValueError: if the folder holds no store or a damaged one, naming the file.
    """

    def __init__(self, directory: str | os.PathLike, indices: np.ndarray | None = None):
        self._directory, self._indices = pathlib.Path(directory).absolute(), indices
        description = _read_json(self._directory)
        self.label_names = tuple(description["label_names"])
        self.has_masks = description["has_masks"]
        self.skipped = tuple(description["skipped"])
        number, side = description["number"], description["image_size"]
        self.images = self._open("image", (number, side, side, 3))
        self.labels = np.array(self._open("labels", (number, len(self.label_names))))
        self.masks = self._open("mask", (number, side, side)) if self.has_masks else None
        if indices is not None:
            self.images, self.labels = Rows(self.images, indices), self.labels[indices]
            self.masks = Rows(self.masks, indices) if self.has_masks else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        example = {"image": np.array(self.images[index]), "labels": self.labels[index].copy()}
        return example | {"mask": np.array(self.masks[index])} if self.has_masks else example

    def __reduce__(self):
        return Store, (self._directory, self._indices)  # Not the images, to worker processes.

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images `(b S S 3)` uint8 of some examples, in memory."""
        return np.array(self.images[np.asarray(indices, np.int64)])

    def subset(self, indices: Sequence[int] | np.ndarray) -> Store:
        """Some of the examples, in this order, without their images being read.

        Args:
          indices: `(m,)` ints, places in this store.

        Raises:
          ValueError: if one of them is not a place in this store, naming it.
        """
        indices = np.asarray(indices, np.int64)
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if wrong.size:
            raise ValueError(f"{self._directory}: no example {wrong[0]} among {len(self)}")
        return Store(self._directory, indices if self._indices is None else self._indices[indices])

    def single_label(self) -> np.ndarray:
        """Indices `(m,)` int64 of the examples with exactly one label."""
        return np.flatnonzero(self.labels.sum(axis=1) == 1)

    def _open(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self._directory / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        if array.shape != shape:
            raise ValueError(f"{path} has shape {array.shape}, {_JSON} beside it says {shape}")
        return array


class Rows:
    """Some rows of an array: `(m ...)`, looked up when they are asked for.

    Args:
      array: `(n ...)`.
      indices: `(m,)` ints, which rows.
    """

    def __init__(self, array: np.ndarray, indices: np.ndarray):
        self._array, self._indices = array, indices
        self.shape, self.dtype = (len(indices), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        return self._array[self._indices[rows]]


def _as_they_are(image: np.ndarray) -> np.ndarray:
    return image


def _write(made: Batches, directory: pathlib.Path, wanted: dict[str, Any], *, progress: bool):
    """Makes the store aside, batch after batch; memory does not grow with their number."""
    number, side = wanted["number"], wanted["image_size"]
    arrays = {
        "image": (np.uint8, (number, side, side, 3)),
        "labels": (np.bool_, (number, len(wanted["label_names"]))),
    }
    if wanted["has_masks"]:
        arrays["mask"] = np.uint8, (number, side, side)
    aside = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with (
            contextlib.ExitStack() as stack,
            tqdm(total=number, desc=directory.name, unit="image", disable=not progress) as bar,
        ):
            # Written, not mapped: a full disk is then an error and not the end of the process.
            opened = {
                name: stack.enter_context(_create(aside / f"{name}.npy", *arrays[name]))
                for name in arrays
            }
            for batch in made:
                preemption.check()
                for name, file in opened.items():
                    file.write(batch[name].astype(arrays[name][0]).tobytes())
                bar.update(len(batch["labels"]))
        skipped = [str(path) for path in made.source.skipped]
        files.write_json(aside / _JSON, wanted | {"skipped": skipped})
        os.rename(aside, directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _create(path: pathlib.Path, dtype: type, shape: tuple[int, ...]) -> BinaryIO:
    """A new .npy file, to be filled row after row."""
    file = open(path, "wb")
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _read_json(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / _JSON
    if not path.is_file():
        raise ValueError(f"{directory} holds no store: {path} is missing")
    return files.read_json(path)
