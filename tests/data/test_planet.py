from __future__ import annotations

import os
import pathlib
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from minmax_jax import data
from minmax_jax.data import folder, planet

TAGS = ("haze", "clear primary", "primary", "", "water", "primary water", "clear")
LABELS = ("clear", "haze", "primary", "water")
CONTEST = "https://www.kaggle.com/c/planet-understanding-the-amazon-from-space"


def _image(i: int) -> np.ndarray:
    return np.full((4, 5, 3), 10 * i, np.uint8)  # of one grey: JPEG keeps it


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Seven rows: two for validation, five for training."""
    lines = [f"train_{i},{tags}\n" for i, tags in enumerate(TAGS)]
    (tmp_path / "train_v2.csv").write_text("image_name,tags\n" + "".join(lines))
    (tmp_path / "train-jpg").mkdir()
    for i in range(len(TAGS)):
        Image.fromarray(_image(i)).save(tmp_path / f"train-jpg/train_{i}.jpg")
    return tmp_path


def _source(root: pathlib.Path, split: str = "train", **options) -> data.Source:
    return data.create_source("planet", split, root=str(root), **options)


def _message(root: pathlib.Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as error:
        list(_source(root, split, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("split", "first", "count"), [("validation", 0, 2), ("train", 2, 5)])
def test_examples(root, split, first, count):
    source = _source(root, split)
    assert source.label_names == LABELS
    assert not source.has_masks and source.skipped == () and len(source) == count
    again = pickle.loads(pickle.dumps(source))
    for i, (example, copy) in enumerate(zip(source, again, strict=True), start=first):
        assert source.image_paths[i - first] == str(root / f"train-jpg/train_{i}.jpg")
        assert set(example) == set(copy) == {"image", "labels"}
        np.testing.assert_array_equal(example["image"], _image(i))
        np.testing.assert_array_equal(copy["image"], _image(i))
        expected = [label in TAGS[i].split() for label in LABELS]
        np.testing.assert_array_equal(example["labels"], expected)
        np.testing.assert_array_equal(copy["labels"], expected)
        assert example["labels"].dtype == np.bool_
    example["labels"][:] = True  # A fresh array: the source keeps its own.
    assert not source[-1]["labels"].all()


def test_other_names_of_table_and_images(root):
    (root / "train-jpg").rename(root / "photos")
    (root / "train_classes.csv").write_text("image_name,tags\ntrain_3,fog\n")
    assert len(_source(root, images="photos")) == 5  # The table train_v2.csv comes first.
    assert _source(root, csv="train_classes.csv", images="photos").label_names == ("fog",)
    (root / "train_v2.csv").unlink()
    assert _source(root, images="photos").image_paths == [str(root / "photos/train_3.jpg")]


@hypothesis.given(st.integers(0, 200))
def test_validation_is_the_first_rows(count):
    rows = [folder.Row(i + 2, str(i), ()) for i in range(count)]
    validation, train = (planet.split_rows(rows, split) for split in ("validation", "train"))
    assert validation + train == rows
    assert 10 * len(validation) <= 3 * count < 10 * (len(validation) + 1)


def test_missing_and_wrong_files(root):
    advice = f"Unpack train_v2.csv.zip and train-jpg.tar.7z of {CONTEST} in {root}"
    table, photo = root / "train_v2.csv", root / "train-jpg/train_4.jpg"
    photo.write_bytes(photo.read_bytes()[:30])
    assert _message(root).startswith(f"cannot decode image {photo}: ")
    photo.unlink()
    assert _message(root) == f"no image {photo} (1 of 5 are missing). {advice}"
    assert len(_source(root, "validation")) == 2
    assert _message(root, images="no") == (
        f"cannot read folder {root}/no: No such file or directory. {advice}"
    )
    assert _message(root, csv="no.csv") == f"no table {root}/no.csv. {advice}"
    assert _message(root, "test") == ("unknown split of 'planet': 'test', valid: train, validation")
    table.write_text("image_name,tags\ntrain_0,haze\n")
    assert _message(root, "validation") == (f"{table}: too few rows for the split 'validation'")
    table.write_text("image_name,tags\ntrain_0,\n")
    assert _message(root) == f"{table}: no labels"
    table.write_text("image_name,tags\ntrain_0\n")
    assert _message(root) == f"{table}, line 2: 1 cells, wanted 2: 'train_0'"
    table.unlink()
    assert _message(root) == f"no table {table} or {root}/train_classes.csv. {advice}"


def test_real_labels(real_data, tmp_path):
    """The first rows of the real table, all with one photo."""
    header, *lines = (real_data / "planet/train_v2.csv").read_text().splitlines()
    assert len(lines) == 40_479
    rows = folder.read_rows(real_data / "planet/train_v2.csv")
    sizes = {split: len(planet.split_rows(rows, split)) for split in planet.Planet.splits}
    assert sizes == {"train": 28_336, "validation": 12_143}

    lines = lines[:300]
    (tmp_path / "train_v2.csv").write_text("\n".join([header, *lines]))
    (tmp_path / "train-jpg").mkdir()
    Image.fromarray(_image(1)).save(tmp_path / "photo.jpg")
    for line in lines:
        os.link(tmp_path / "photo.jpg", tmp_path / f"train-jpg/{line.split(',')[0]}.jpg")
    for split, expected in (("validation", lines[:90]), ("train", lines[90:])):
        source = _source(tmp_path, split)
        for example, line in zip(source, expected, strict=True):
            found = {source.label_names[i] for i in np.flatnonzero(example["labels"])}
            assert found == set(line.split(",")[1].split())
