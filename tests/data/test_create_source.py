from __future__ import annotations

import pytest

from minmax_jax import data


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("scene", "train"),
            {},
            "unknown data set: 'scene', valid: scenes, csv, voc, coco, planet, tfds",
        ),
        (
            ("scenes", "val"),
            {},
            "unknown split of 'scenes': 'val', valid: train, validation, test",
        ),
        (("scenes", "train"), {"sise": 3}, "unknown option of 'scenes': 'sise', valid: size, seed"),
        (
            ("csv", "train"),
            {"mask": ""},
            "unknown option of 'csv': 'mask', valid: root, train_csv, validation_csv, test_csv, "
            "images, masks, classes, on_error",
        ),
    ],
)
def test_unknown_names_list_the_valid_ones(arguments, options, message):
    with pytest.raises(ValueError) as error:
        data.create_source(*arguments, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scenes_options(split):
    source = data.create_source("scenes", split, size=7, seed=1)
    assert len(source) == 7
    assert source.has_masks
    assert source.skipped == ()
    assert source.label_names[:3] == ("zero", "one", "two") and len(source.label_names) == 10
    assert len(data.create_source("scenes", split)) == {"train": 6000}.get(split, 1000)
