"""Pair classifiers on disk: `DIRECTORY/003-011.safetensors` tells class 3 from class 11.

A file holds the arrays of the trained layers, named `params/LAYER/ARRAY` and
`batch_stats/LAYER/ARRAY`, and in its header how the training ended. It is there when it is whole.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from minmax_jax.files import write_atomically
from minmax_jax.models.network import Variables


class PairClassifier(NamedTuple):
    """What training a pair has left.

    Attributes:
      variables: `{"params", "batch_stats"}` of the trained layers alone. Unit 0 of the head is the
        pair's lower class index, unit 1 the higher.
      accuracy: in training, over its last epoch, 0 to 1.
      epochs: that it was trained for.
      converged: whether the accuracy was reached, and not just the last epoch.
    """

    variables: Variables
    accuracy: float
    epochs: int
    converged: bool


def pair_path(directory: str | os.PathLike, i: int, j: int) -> pathlib.Path:
    """Path of the classifier of two classes, whose order does not matter.

    Raises:
      ValueError: if they are the same.
    """
    if i == j:
        raise ValueError(f"class {i} cannot be told from itself; a pair has two classes")
    return pathlib.Path(directory) / f"{min(i, j):03}-{max(i, j):03}.safetensors"


def write_pair(directory: str | os.PathLike, i: int, j: int, classifier: PairClassifier) -> None:
    """Writes a pair's file, whole or not at all; makes the directory."""
    arrays = traverse_util.flatten_dict(dict(classifier.variables), sep="/")
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={
            "accuracy": repr(float(classifier.accuracy)),
            "epochs": str(int(classifier.epochs)),
            "converged": str(bool(classifier.converged)),
        },
    )
    # Each of several processes trains its own pairs.
    path = pair_path(directory, i, j)
    write_atomically(path, lambda file: file.write(content), everyone=True)


def read_pair(directory: str | os.PathLike, i: int, j: int) -> PairClassifier:
    """Reads the classifier of two classes, whose order does not matter.

    Raises:
      ValueError: if it is not there, or the file is not one of `write_pair`.
    """
    path = pair_path(directory, i, j)
    if not path.is_file():
        raise ValueError(f"pair classifier {path} does not exist; it has not been trained")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            header = file.metadata()
        variables = {"params": {}, "batch_stats": {}}
        return PairClassifier(
            variables | traverse_util.unflatten_dict(arrays, sep="/"),
            accuracy=float(header["accuracy"]),
            epochs=int(header["epochs"]),
            converged={"True": True, "False": False}[header["converged"]],
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"pair classifier {path} is damaged ({reason})") from error
