from __future__ import annotations

import copy
import json
import pathlib
import pickle
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from minmax_jax import data
from minmax_jax.data import coco

HEIGHT, WIDTH = 6, 8


def _box(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def _counts(inside: np.ndarray) -> list[int]:
    """Lengths of the runs down the columns; the first counts zeros."""
    counts, value = [0], False
    for pixel in inside.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def _compress(counts: list[int]) -> str:
    """COCO's text: from the third on differences to the last but one, five bits a character."""
    text = ""
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def _annotation(id_: int, image: int, category: int, segmentation, area: float, crowd: int = 0):
    keys = ("id", "image_id", "category_id", "segmentation", "area", "iscrowd")
    return dict(zip(keys, (id_, image, category, segmentation, area, crowd), strict=True))


# Categories in the order of their ids: tree 2, cat 7, kite 90.
CATEGORIES = [
    {"supercategory": "animal", "id": 7, "name": "cat"},
    {"supercategory": "outdoor", "id": 2, "name": "tree"},
    {"supercategory": "sports", "id": 90, "name": "kite"},
]
CROWD = np.zeros((HEIGHT, WIDTH), bool)
CROWD[4:, 2:7] = CROWD[0, 0] = True
IMAGES = {30: "a.jpg", 4: "b.jpg", 12: "c.jpg"}
ANNOTATIONS = [
    # The kite, smallest, comes first in the file and lies on top of the cat, and both on the tree.
    _annotation(51, 30, 90, [_box(3, 1, 5, 3)], 4),
    _annotation(50, 30, 2, [_box(0, 0, 8, 4)], 32),
    _annotation(52, 30, 7, [_box(2, 0, 6, 3), _box(7, 3, 8, 5)], 14),
    # A crowd in runs; a cat on part of it.
    _annotation(61, 4, 7, [_box(5, 3, 7, 5)], 4),
    _annotation(900, 4, 90, {"size": [HEIGHT, WIDTH], "counts": _counts(CROWD)}, 11, crowd=1),
]
LABELS = {4: [0, 1, 1], 12: [0, 0, 0], 30: [1, 1, 1]}
MASKS = {
    4: [
        [255, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 2, 2, 0],
        [0, 0, 255, 255, 255, 2, 2, 0],
        [0, 0, 255, 255, 255, 255, 255, 0],
    ],
    12: [[0] * WIDTH] * HEIGHT,
    30: [
        [1, 1, 2, 2, 2, 2, 1, 1],
        [1, 1, 2, 3, 3, 2, 1, 1],
        [1, 1, 2, 3, 3, 2, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 2],
        [0, 0, 0, 0, 0, 0, 0, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
}


def _content() -> dict:
    images = [
        {"id": id_, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 3}
        for id_, name in IMAGES.items()
    ]
    content = {"info": {}, "images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES}
    return copy.deepcopy(content)


def _image(id_: int) -> np.ndarray:
    return (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) + id_).astype(np.uint8)


def _write(root: pathlib.Path, content: dict, part: str = "train2017") -> pathlib.Path:
    path = root / f"annotations/instances_{part}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """Three photos, one without annotations; validation has one of them."""
    content = _content()
    _write(tmp_path, content)
    content["images"] = content["images"][:1]
    content["annotations"] = [each for each in ANNOTATIONS if each["image_id"] == 30]
    _write(tmp_path, content, "val2017")
    for part in ("train2017", "val2017"):
        (tmp_path / part).mkdir()
        for id_, name in IMAGES.items():
            # Lossless: Pillow goes by the content.
            Image.fromarray(_image(id_)).save(tmp_path / part / name, format="png")
    return tmp_path


def _source(root: pathlib.Path, split: str = "train", **options) -> data.Source:
    return data.create_source("coco", split, root=str(root), **options)


def _message(root: pathlib.Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as error:
        list(_source(root, split, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- What is read ---


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_examples(root, masks, pickled):
    source = _source(root, masks=masks)
    if pickled:
        source = pickle.loads(pickle.dumps(source))
    assert source.label_names == ("tree", "cat", "kite")
    assert source.has_masks == masks and source.skipped == () and len(source) == 3
    assert source.image_paths == [str(root / f"train2017/{name}.jpg") for name in "bca"]
    for example, id_ in zip(source, sorted(IMAGES), strict=True):
        assert set(example) == {"image", "labels"} | ({"mask"} if masks else set())
        np.testing.assert_array_equal(example["image"], _image(id_))
        np.testing.assert_array_equal(example["labels"], np.array(LABELS[id_], bool))
        assert example["labels"].dtype == np.bool_
        if masks:
            np.testing.assert_array_equal(example["mask"], MASKS[id_])
            assert example["mask"].dtype == np.uint8
    if masks:
        np.testing.assert_array_equal(source[-1]["mask"], MASKS[30])
    source[0]["labels"][:] = True  # A fresh array: the source keeps its own.
    assert not source[0]["labels"].all()


def test_validation(root):
    source = _source(root, "validation", masks=True)
    assert source.image_paths == [str(root / "val2017/a.jpg")]
    np.testing.assert_array_equal(source[0]["mask"], MASKS[30])


def test_of_equal_areas_the_higher_id_lies_on_top(root):
    content = _content()
    for annotation in content["annotations"]:
        annotation["area"] = 4.5
    _write(root, content)
    expected = np.array(MASKS[30])
    expected[1:3, 3:5] = 2  # Cat 52 over kite 51 over tree 50.
    expected[:4][expected[:4] == 0] = 1
    np.testing.assert_array_equal(_source(root, masks=True)[2]["mask"], expected)


def test_labels_need_no_segmentation_and_no_size(root):
    content = _content()
    for entry in content["annotations"] + content["images"]:
        for key in ("segmentation", "area", "iscrowd", "height", "width"):
            entry.pop(key, None)
    path = _write(root, content)
    np.testing.assert_array_equal([each["labels"] for each in _source(root)], list(LABELS.values()))
    assert _message(root, masks=True) == f"{path}: images[0] has no valid 'height'"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_photo(root, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.repeat(np.array(MASKS[30], np.uint8)[:, :, None], 3, axis=2)
    Image.fromarray(stored).save(root / "train2017/a.jpg", format="png", exif=exif)
    example = _source(root, masks=True)[2]
    np.testing.assert_array_equal(example["mask"], example["image"][:, :, 0])
    assert (orientation == 1) == np.array_equal(example["mask"], MASKS[30])


# --- Segmentations ---

pixels = st.lists(st.booleans(), min_size=144, max_size=144)
sides = st.integers(1, 12)


@hypothesis.settings(deadline=None)
@hypothesis.given(pixels, sides, sides, st.booleans())
def test_runs_give_the_pixels_they_were_made_of(pixels, height, width, compressed):
    inside = np.reshape(pixels[: height * width], (height, width))
    counts = _counts(inside)
    encoded = {"size": list(inside.shape), "counts": _compress(counts) if compressed else counts}
    np.testing.assert_array_equal(coco.rasterize(encoded, *inside.shape), inside)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.lists(st.tuples(st.floats(0, 24), st.floats(0, 20)), min_size=3, max_size=6))
def test_polygons_cover_the_pixels_inside(points):
    """Pixels whose centre is more than a pixel from all sides are on the side of their centre."""
    inside = coco.rasterize([[value for point in points for value in point]], 20, 24)
    for row in range(20):
        for column in range(24):
            crossings, near = _crossings_and_distance(points, column + 0.5, row + 0.5)
            if near > 1:
                assert inside[row, column] == crossings % 2


def _crossings_and_distance(points, x: float, y: float) -> tuple[int, float]:
    """How many sides lie right of the point on its height, and the distance to the nearest."""
    crossings, near = 0, np.inf
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            crossings += 1
        squared = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / squared if squared else 0.0
        along = min(1.0, max(0.0, along))
        near = min(near, np.hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y))
    return crossings, near


@pytest.mark.parametrize("segmentation", [[], [[]], [[1, 1, 4, 4]], [[3.5, 2]]])
def test_fewer_than_three_points_cover_nothing(segmentation):
    assert not coco.rasterize(segmentation, HEIGHT, WIDTH).any()


SHAPE = "its segmentation is no list of polygons [x0, y0, x1, y1, ...]"


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 4, 4, 0]], SHAPE),
        ([0, 0, 4, 4, 0, 4], SHAPE),
        ([[[0, 0], [4, 4], [0, 4]]], SHAPE),
        ([["a", "b", "c", "d", "e", "f"]], SHAPE),
        (None, SHAPE),
        ("abc", SHAPE),
        ([[0, 0, 1e9, 0, 4, 4]], "its polygons reach far out of the image"),
        ([[0, 0, float("nan"), 0, 4, 4]], "its polygons reach far out of the image"),
        ({"size": [8, 6], "counts": [48]}, "its size is [8, 6], that of its image [6, 8]"),
        ({"counts": [48]}, "its size is None, that of its image [6, 8]"),
        ({"size": [6, 8], "counts": [40, 7]}, "its counts add up to 47, not 48"),
        ({"size": [6, 8], "counts": [50, -2]}, "its counts are not integers >= 0"),
        ({"size": [6, 8], "counts": ["48"]}, "its counts are not integers >= 0"),
        ({"size": [6, 8]}, "its counts are neither a list nor a string"),
        ({"size": [6, 8], "counts": _compress([40, 9])}, "its counts add up to 49, not 48"),
        ({"size": [6, 8], "counts": _compress([50, -2])}, "its counts are not integers >= 0"),
        ({"size": [6, 8], "counts": _compress([8, 40])[:-1]}, "its counts end within a number"),
        ({"size": [6, 8], "counts": "1~"}, "its counts hold the character '~'"),
    ],
)
def test_wrong_segmentations(root, segmentation, message):
    content = _content()
    content["annotations"][2]["segmentation"] = segmentation
    path = _write(root, content)
    assert _message(root, masks=True) == f"{path}: annotation 52: {message}"
    assert len(_source(root)) == 3  # Labels do not need them.


# --- What is wrong ---


def _change(key: str, index: int, name: str, value) -> dict:
    content = _content()
    content[key][index][name] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_change("annotations", 1, "image_id", 5), "annotation 50 has the unknown image 5"),
        (_change("annotations", 1, "category_id", 1), "annotation 50 has the unknown category 1"),
        (_change("annotations", 1, "image_id", [30]), "annotations[1] has no valid 'image_id'"),
        (_change("annotations", 1, "id", 51), "annotations[1] has the same id as another, 51"),
        (_change("images", 2, "id", 30), "images[2] has the same id as another, 30"),
        (_change("categories", 2, "id", 7), "categories[2] has the same id as another, 7"),
        (_change("categories", 2, "name", "cat"), "two categories have the same name"),
        (_change("annotations", 3, "area", "4"), "annotations[3] has no valid 'area'"),
        (_change("annotations", 0, "id", None), "annotations[0] has no valid 'id'"),
        (_change("images", 0, "file_name", 7), "images[0] has no valid 'file_name'"),
        (_content() | {"images": [3]}, "images[0] has no valid 'id'"),
        (_content() | {"annotations": {}}, "no list 'annotations', or an empty one"),
        ({"images": [], "annotations": []}, "no list 'categories', or an empty one"),
    ],
)
def test_wrong_entries_are_named(root, content, message):
    path = _write(root, content)
    assert _message(root, masks=True) == f"{path}: {message}"


def test_wrong_json(root):
    path = _write(root, [])
    assert _message(root) == f"{path} holds no JSON object"
    for content in (b'{"images": [', b"\xff{}", b"", b"[" * 100_000):
        path.write_bytes(content)
        assert _message(root).startswith(f"cannot read {path}: ")


def test_missing_files_and_what_to_unpack(root):
    photo = root / "val2017/a.jpg"
    photo.unlink()
    assert _message(root, "validation") == (
        f"no image {photo} (1 of 1 are missing). "
        f"Unpack http://images.cocodataset.org/zips/val2017.zip in {root}"
    )
    path = root / "annotations/instances_train2017.json"
    path.unlink()
    assert _message(root) == (
        f"no file {path}. Unpack "
        f"http://images.cocodataset.org/annotations/annotations_trainval2017.zip in {root}"
    )
    assert _message(root, "test") == "unknown split of 'coco': 'test', valid: train, validation"


def test_photo_of_another_size(root):
    path = _write(root, _change("images", 0, "width", WIDTH + 1))
    assert _message(root, masks=True) == (
        f"{root}/train2017/a.jpg is stored as 8x6 pixels, {path} says 9x6 (width x height)"
    )


def test_too_many_categories_for_masks(root):
    content = _content()
    content["categories"] += [{"id": 100 + i, "name": f"thing {i}"} for i in range(251)]
    _write(root, content)
    assert len(_source(root, masks=True).label_names) == 254
    content["categories"].append({"id": 1, "name": "one more"})
    path = _write(root, content)
    assert _message(root, masks=True) == f"masks hold at most 254 labels, {path} has 255"
    assert len(_source(root).label_names) == 255


def test_masks_need_pycocotools(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert _message(root, masks=True) == "masks of COCO need pycocotools: pip install pycocotools"
    assert len(list(_source(root))) == 3


# --- Real data ---


def test_real_photos(real_data):
    content = json.loads((real_data / "coco/annotations/instances_train2017.json").read_text())
    source = _source(real_data / "coco", masks=True)
    categories = {each["id"]: each["name"] for each in content["categories"]}
    assert source.label_names == tuple(name for _, name in sorted(categories.items()))
    images = sorted(content["images"], key=lambda image: image["id"])
    assert len(source) == len(images) == 128 and len(source.label_names) == 80
    agree = total = 0
    for image, example, path in zip(images, source, source.image_paths, strict=True):
        assert path == str(real_data / "coco/train2017" / image["file_name"])
        assert example["image"].shape == (image["height"], image["width"], 3)
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = {source.label_names[i] for i in np.flatnonzero(example["labels"])}
        assert found == {categories[a["category_id"]] for a in annotations}
        expected = _paint(image, annotations, source.label_names, categories)
        agree += (expected == example["mask"]).sum()
        total += expected.size
    assert agree > 0.99 * total  # Pillow's polygons differ along their borders.


def _paint(image: dict, annotations: list[dict], names, categories) -> np.ndarray:
    """The mask by Pillow's polygons and a plain reading of the runs."""
    mask = Image.new("L", (image["width"], image["height"]))
    for each in sorted(annotations, key=lambda a: -a["area"]):
        value = 255 if each["iscrowd"] else 1 + names.index(categories[each["category_id"]])
        if each["iscrowd"]:
            counts = each["segmentation"]["counts"]
            pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            inside = Image.fromarray(pixels.reshape(mask.size).T.copy())
            mask.paste(value, mask=inside)
        else:
            for polygon in each["segmentation"]:
                ImageDraw.Draw(mask).polygon([value - 0.5 for value in polygon], fill=value)
    return np.asarray(mask)
