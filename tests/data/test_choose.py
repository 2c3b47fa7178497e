"""Some classes of a source: labels and masks against loops."""

from __future__ import annotations

import numpy as np
import pytest

from minmax_jax import data
from minmax_jax.data.choose import ChosenClasses

NAMES = ("seven", "two", "nine")


@pytest.fixture(scope="module")
def source():
    return data.create_source("scenes", "validation", size=12)


def test_labels_and_masks_are_those_of_the_chosen_classes(source):
    chosen = ChosenClasses(source, NAMES)
    assert (len(chosen), chosen.label_names, chosen.has_masks) == (12, NAMES, True)
    found = 0
    for index in range(12):
        whole, part = source[index], chosen[index]
        np.testing.assert_array_equal(part["image"], whole["image"])
        for column, name in enumerate(NAMES):
            before = source.label_names.index(name)
            assert part["labels"][column] == whole["labels"][before]
            np.testing.assert_array_equal(part["mask"] == 1 + column, whole["mask"] == 1 + before)
            found += int(whole["labels"][before])
        assert part["mask"].max() <= len(NAMES)
    assert found  # or nothing above was tested


def test_void_stays_void():
    class One:
        label_names, has_masks, skipped = ("a", "b"), True, ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {
                "image": np.zeros((1, 4, 3), np.uint8),
                "labels": np.array([True, True]),
                "mask": np.uint8([[0, 1, 2, 255]]),
            }

    np.testing.assert_array_equal(ChosenClasses(One(), ["b"])[0]["mask"], [[0, 0, 1, 255]])


@pytest.mark.parametrize(
    ("names", "message"),
    [(("two", "ten"), "unknown class 'ten'; classes: zero, one"), (("two", "two"), "twice")],
)
def test_wrong_names_are_told(source, names, message):
    with pytest.raises(ValueError, match=message):
        ChosenClasses(source, names)
