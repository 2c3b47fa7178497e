from __future__ import annotations

import csv
import io
import pathlib
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from minmax_jax import data
from minmax_jax.data import folder

SKY = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def _write_image(path: pathlib.Path, value: int = 0) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    image = (np.arange(18).reshape(2, 3, 3) + value).astype(np.uint8)
    Image.fromarray(image).save(path)
    return image


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Three images, two with labels of a class list of three, masks for all."""
    (tmp_path / "train.csv").write_text("image,labels\na.png,tree sky\nb.png,\n")
    (tmp_path / "val.csv").write_text("image,labels\nc.png,road\n")
    (tmp_path / "classes.txt").write_text("sky\ntree\nroad\n")
    for value, name in enumerate("abc"):
        _write_image(tmp_path / f"images/{name}.png", value)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(SKY).save(tmp_path / f"masks/{name}.png")
    return tmp_path


def _source(root: pathlib.Path, split: str = "train", **options) -> data.Source:
    options = {"train_csv": "train.csv", "validation_csv": "val.csv"} | options
    return data.create_source("csv", split, root=str(root), **options)


def _message(root: pathlib.Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as error:
        source = _source(root, split, **options)
        [source[i] for i in range(len(source))]
    assert "\n" not in str(error.value)
    return str(error.value)


# --- What is read ---


def test_examples(root):
    source = _source(root, masks="masks", classes="classes.txt")
    assert source.label_names == ("sky", "tree", "road")
    assert source.has_masks and source.skipped == () and len(source) == 2
    for i, labels in enumerate([[1, 1, 0], [0, 0, 0]]):
        example = source[i]
        np.testing.assert_array_equal(example["labels"], np.array(labels, bool))
        np.testing.assert_array_equal(example["image"], np.arange(18).reshape(2, 3, 3) + i)
        np.testing.assert_array_equal(example["mask"], SKY)
        assert example["labels"].dtype == np.bool_ and example["mask"].dtype == np.uint8
    example["labels"][:] = True  # A fresh array: the source keeps its own.
    assert not source[1]["labels"].any()
    assert len(list(source)) == 2


def test_without_masks_and_classes(root):
    train, validation = _source(root), _source(root, "validation")
    assert train.label_names == validation.label_names == ("road", "sky", "tree")
    assert not train.has_masks and set(train[0]) == {"image", "labels"}
    np.testing.assert_array_equal(validation[0]["labels"], [True, False, False])


def test_planet_layout(root):
    (root / "train.csv").write_text("image_name,tags\ntrain_0,haze primary\ntrain_1.5,primary\n")
    (root / "test.csv").write_text("image_name,tags\nsub/train_2,haze\n")
    _write_image(root / "images/train_0.jpg")
    _write_image(root / "images/train_1.5.tif", 7)
    _write_image(root / "images/sub/train_2.jpeg")
    for name in ("train_0.png", "train_1.5.png"):
        Image.fromarray(SKY).save(root / "masks" / name)
    source = _source(root, validation_csv="", test_csv="test.csv", masks="masks")
    assert source.label_names == ("haze", "primary")
    np.testing.assert_array_equal(source[0]["labels"], [True, True])
    np.testing.assert_array_equal(source[1]["image"][0, 0], [7, 8, 9])
    np.testing.assert_array_equal(source[1]["mask"], SKY)
    test = _source(root, "test", validation_csv="", test_csv="test.csv")
    np.testing.assert_array_equal(test[0]["labels"], [True, False])


def test_quotes_spaces_blank_lines_and_byte_order_mark(root):
    _write_image(root / "images/name, with comma.png")
    text = '\ufeffimage,labels\r\n"name, with comma.png"," sky  sky "\r\n\r\nb.png ,road\r\n'
    (root / "train.csv").write_bytes(text.encode())
    source = _source(root, classes="classes.txt")
    np.testing.assert_array_equal(source[0]["labels"], [True, False, False])
    np.testing.assert_array_equal(source[1]["labels"], [False, False, True])


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
tables = st.lists(st.tuples(names, st.lists(names)), min_size=1, unique_by=lambda row: row[0])


@hypothesis.settings(deadline=None)
@hypothesis.given(tables, st.sampled_from(folder.HEADERS), st.sampled_from(["\n", "\r\n"]))
def test_rows_come_back_as_written(table, header, end):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(header)
    writer.writerows((image, " ".join(labels)) for image, labels in table)
    with tempfile.TemporaryDirectory() as path:
        file = pathlib.Path(path, "table.csv")
        file.write_bytes(text.getvalue().encode())
        rows = folder.read_rows(file)
    assert [(row.image, list(row.labels)) for row in rows] == table
    assert [row.line for row in rows] == list(range(2, len(table) + 2))


@hypothesis.settings(deadline=None)
@hypothesis.given(st.binary(max_size=60), st.booleans())
def test_any_other_bytes_give_rows_or_one_clear_line(content, with_header):
    with tempfile.TemporaryDirectory() as path:
        file = pathlib.Path(path, "table.csv")
        file.write_bytes(b"image,labels\n" * with_header + content)
        try:
            rows = folder.read_rows(file)
        except ValueError as error:
            assert str(file) in str(error)
        else:
            assert rows and all(row.image.strip() for row in rows)


def test_masks_may_have_a_palette(root):
    image = Image.fromarray(SKY)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(root / "masks/a.png")
    np.testing.assert_array_equal(_source(root, masks="masks")[0]["mask"], SKY)


def test_masks_are_upright(root):
    """The camera lay on its side: the file is 2x3, the image and its mask 3x2."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = _write_image(root / "images/a.png")
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(root / "images/a.png", exif=exif)
    example = _source(root, masks="masks")[0]
    np.testing.assert_array_equal(example["image"], upright)
    np.testing.assert_array_equal(example["mask"], SKY)


# --- What is wrong ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{csv}, line 1: the header is '', wanted 'image,labels' or 'image_name,tags'"),
        ("image,label\na.png,sky\n", "{csv}, line 1: the header is 'image,label', wanted"),
        ("a.png,sky\n", "{csv}, line 1: the header is 'a.png,sky', wanted"),
        ("image,labels\n\n", "{csv}: no rows under the header"),
        ("image,labels\na.png,sky\nb.png\n", "{csv}, line 3: 1 cells, wanted 2: 'b.png'"),
        ("image,labels\na.png,sky,tree\n", "{csv}, line 2: 3 cells, wanted 2: 'a.png,sky,tree'"),
        ("image,labels\n ,sky\n", "{csv}, line 2: no image name"),
        ('image,labels\na.png,sky\n"b.png,sky\n', "{csv}, line 3: unexpected end of data"),
        (
            "image,labels\na.png,sky\nb.png,\na.png,road\n",
            "{csv}, line 4: image 'a.png' is in line 2 too",
        ),
        (
            "image,labels\na.png,sky\nb.png,sky tre\n",
            "{csv}, line 3: unknown label 'tre', valid: sky, tree, road",
        ),
        (
            "image,labels\na.png,sky\n\nz.png,sky\n",
            "{csv}, line 4: no image {root}/images/z.png (with or without .jpg, .jpeg, .png, .tif)",
        ),
    ],
)
def test_wrong_csv_names_file_line_and_culprit(root, content, message):
    (root / "train.csv").write_text(content)
    expected = message.format(csv=root / "train.csv", root=root)
    assert _message(root, classes="classes.txt").startswith(expected)


def test_wrong_files_and_options(root):
    assert _message(root, train_csv="no.csv") == (
        f"cannot read {root}/no.csv: No such file or directory"
    )
    assert _message(root, "test") == "option test_csv is empty: no CSV file for the split 'test'"
    assert _message(root, on_error="ignore") == "unknown on_error 'ignore', valid: raise, skip"
    assert _message(root, classes="no.txt").startswith(f"cannot read {root}/no.txt: ")
    (root / "classes.txt").write_text("sky\n\ntree\nsky\n")
    assert _message(root, classes="classes.txt") == (
        f"{root}/classes.txt, line 4: 'sky' is in line 1 too"
    )
    (root / "classes.txt").write_text("\n")
    assert _message(root, classes="classes.txt") == f"{root}/classes.txt: no labels"
    (root / "val.csv").write_bytes("image,labels\nc.png,größe\n".encode("latin-1"))
    assert _message(root).startswith(f"{root}/val.csv is not UTF-8 text: ")


def test_too_many_labels_for_masks(root):
    (root / "classes.txt").write_text("".join(f"label{i}\n" for i in range(254)) + "sky\n")
    message = _message(root, classes="classes.txt", masks="masks")
    assert message == "masks hold at most 254 labels, here are 255"


def test_wrong_masks(root):
    options = {"masks": "masks", "classes": "classes.txt"}
    mask = root / "masks/b.png"
    Image.fromarray(SKY + np.uint8(2)).save(mask)  # 255 wraps round to 1
    assert _message(root, **options) == (
        f"mask {mask} holds the value 4: valid are 0, 1 to 3 (1 + label index) and 255"
    )
    Image.fromarray(SKY.T.copy()).save(mask)
    assert _message(root, **options) == (
        f"mask {mask} is 2x3 pixels, its image 3x2 (width x height, upright)"
    )
    mask.write_bytes(mask.read_bytes()[:50])
    assert _message(root, **options).startswith(f"cannot decode mask {mask}: ")
    mask.unlink()
    assert _message(root, **options) == f"{root}/train.csv, line 3: no mask {mask}"


def test_damaged_image_raises_or_is_skipped(root):
    broken = root / "images/a.png"
    broken.write_bytes(broken.read_bytes()[:45])
    assert _message(root).startswith(f"cannot decode image {broken}: ")
    Image.fromarray(SKY.T[::-1].reshape(2, 3)).save(root / "masks/b.png")
    options = {"masks": "masks", "classes": "classes.txt", "on_error": "skip"}
    source = _source(root, **options)
    assert source.skipped == (str(broken),)
    assert len(source) == 1
    np.testing.assert_array_equal(source[0]["image"][0, 0], [1, 2, 3])
    np.testing.assert_array_equal(source[0]["labels"], [False] * 3)
    np.testing.assert_array_equal(source[0]["mask"], SKY.T[::-1].reshape(2, 3))
    assert _source(root, "validation", **options).skipped == ()
    (root / "images/b.png").write_text("no image")
    assert _message(root, **options) == (f"{root}/train.csv: none of its 2 images can be decoded")


# --- Real data ---


@pytest.mark.parametrize(("split", "file"), [("train", "train.csv"), ("validation", "val.csv")])
def test_photos(real_data, split, file):
    options = {"masks": "masks", "classes": "classes.txt"}
    source = _source(real_data / "msrc", split, **options)
    header, *lines = (real_data / "msrc" / file).read_text().splitlines()
    assert header == "image,labels"
    assert len(source) == len(lines)
    assert source.label_names == tuple((real_data / "msrc/classes.txt").read_text().split())
    for example, line in zip(source, lines, strict=True):
        name, labels = line.split(",")
        with Image.open(real_data / "msrc/images" / name) as image:
            assert example["image"].shape == (image.height, image.width, 3)
        found = {source.label_names[i] for i in np.flatnonzero(example["labels"])}
        assert found == set(labels.split())
        # The labels of these photos were taken from their masks: both hold the same classes.
        shown = set(np.unique(example["mask"])) - {0, 255}
        assert {source.label_names[value - 1] for value in shown} == found


def test_real_photos_without_a_damaged_one(real_data):
    assert len(_source(real_data / "msrc", on_error="skip")) == 259


def test_planet_labels(real_data):
    path = real_data / "planet/train_v2.csv"
    rows = folder.read_rows(path)
    lines = path.read_text().splitlines()[1:]
    assert len(rows) == len(lines) == 40_479
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        assert (row.line, f"{row.image},{' '.join(row.labels)}") == (i + 2, line)
    assert len({label for row in rows for label in row.labels}) == 17
    with pytest.raises(ValueError) as error:
        data.create_source(
            "csv", "train", root=str(path.parent), train_csv=path.name, images="train-jpg"
        )
    assert str(error.value).startswith(f"{path}, line 2: no image {path.parent}/train-jpg/train_0 ")
