"""A source seen as if it had only some of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minmax_jax.data.images import VOID
from minmax_jax.data.pipeline import Example, Source


class ChosenClasses:
    """The same examples, annotated with some of the classes only.

    Pixels of the other classes become background; void stays void. An example may have no label
    left.

    Args:
      source: the examples.
      names: of the classes, in the order wanted.

    Raises:
      ValueError: for a name that the source does not have, or one given twice.
    """

    def __init__(self, source: Source, names: Sequence[str]):
        unknown = [name for name in names if name not in source.label_names]
        if unknown:
            raise ValueError(
                f"unknown class {unknown[0]!r}; classes: {', '.join(source.label_names)}"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"a class is chosen twice: {', '.join(names)}")
        self._source = source
        self._columns = [source.label_names.index(name) for name in names]
        # What each value of a mask becomes.
        self._values = np.zeros(256, np.uint8)
        self._values[VOID] = VOID
        self._values[np.add(self._columns, 1)] = np.arange(1, len(names) + 1)
        self.label_names = tuple(names)
        self.has_masks = source.has_masks
        self.skipped = source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = dict(self._source[index])
        example["labels"] = example["labels"][self._columns]
        if "mask" in example:
            example["mask"] = self._values[example["mask"]]
        return example
