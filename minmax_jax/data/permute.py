"""A source whose labels have nothing to do with its images: they can only be learned by heart."""

from __future__ import annotations

import numpy as np

from minmax_jax.data.pipeline import Example, Source


class PermutedLabels:
    """The same images, with the labels exchanged among them.

    How often each label and each combination of labels occurs stays as it is. Which image gets
    whose labels depends on the seed and the number of examples alone. Masks would tell the true
    labels, so there are none. Each example is made of two of the source's.

    Args:
      source: the examples.
      seed: at least 0.

    Raises:
      ValueError: for a negative seed.
    """

    has_masks = False

    def __init__(self, source: Source, seed: int):
        if seed < 0:
            raise ValueError(f"the seed of the permutation must be >= 0, not {seed}")
        self._source = source
        self._others = np.random.default_rng(seed).permutation(len(source))
        self.label_names = source.label_names
        self.skipped = source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        other = self._source[int(self._others[index])]
        return {"image": self._source[index]["image"], "labels": other["labels"]}
