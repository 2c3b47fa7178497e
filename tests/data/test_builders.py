from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from minmax_jax import data
from minmax_jax.data import builders

# Older protobuf, which TFDS' command line needs, warns of what TFDS does.
pytestmark = pytest.mark.filterwarnings("ignore:label.* is deprecated")

BUILDERS = {
    "voc_segmentation": builders.VocSegmentation,
    "coco_segmentation": builders.CocoSegmentation,
}


def _write_photo(path: pathlib.Path, value: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:6, :8]
    image = np.stack([x * 20, y * 30, 0 * x + value], axis=2).astype(np.uint8)
    Image.fromarray(image).save(path, **options)


def _write_voc(
    root: pathlib.Path, lists: dict[str, list[str]], masks: str = "SegmentationClass"
) -> dict[str, np.ndarray]:
    """VOC 2012 in its official layout, with random masks; returns these."""
    year = root / "VOCdevkit/VOC2012"
    (year / "ImageSets/Segmentation").mkdir(parents=True)
    (year / masks).mkdir()
    drawn = {}
    for file, names in lists.items():
        (year / f"ImageSets/Segmentation/{file}.txt").write_text("".join(f"{n}\n" for n in names))
        for name in names:
            rng = np.random.default_rng(len(drawn))
            drawn[name] = rng.choice(np.uint8([0, 1, 7, 20, 255]), (6, 8))
            _write_photo(year / f"JPEGImages/{name}.jpg", len(drawn))
            Image.fromarray(drawn[name]).save(year / masks / f"{name}.png")
    return drawn


def _write_coco(root: pathlib.Path, parts: list[str]) -> None:
    """COCO 2017 in its official layout: two photos a part, rectangles."""
    boxes = [(9, 1, [1, 1, 4, 4], 0), (9, 18, [2, 2, 2, 2], 0), (25, 90, [0, 0, 8, 3], 1)]
    (root / "annotations").mkdir()
    for part in parts:
        annotations = []
        for i, (image, category, (x, y, width, height), crowd) in enumerate(boxes, start=1):
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            # Runs of zeros and ones, column by column.
            runs = {"size": [6, 8], "counts": [0] + [height, 6 - height] * 8}
            annotations.append(
                {
                    "id": i,
                    "image_id": image,
                    "category_id": category,
                    "area": width * height,
                    "iscrowd": crowd,
                    "segmentation": runs if crowd else [polygon],
                }
            )
        content = {
            "categories": [
                {"id": 90, "name": "toothbrush"},
                {"id": 1, "name": "person"},
                {"id": 18, "name": "dog"},
            ],
            "images": [
                {"id": id_, "file_name": f"{id_:012}.jpg", "height": 6, "width": 8}
                for id_ in (25, 9)
            ],
            "annotations": annotations,
        }
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content))
        for id_ in (9, 25):
            _write_photo(root / part / f"{id_:012}.jpg", id_)


def _build(name: str, data_dir: pathlib.Path, manual_dir: pathlib.Path) -> None:
    data_set, config = name.split("/")
    builder = BUILDERS[data_set](data_dir=str(data_dir), config=config, file_format="array_record")
    options = {"manual_dir": str(manual_dir), "try_download_gcs": False}
    builder.download_and_prepare(
        download_config=tensorflow_datasets.download.DownloadConfig(**options)
    )


def _prepared(name: str, split: str, data_dir: pathlib.Path) -> data.Source:
    return data.create_source("tfds", split, name=name, data_dir=str(data_dir))


def _check_same(prepared: data.Source, source: data.Source) -> None:
    assert prepared.label_names == source.label_names
    assert prepared.has_masks and len(prepared) == len(source)
    for i, (example, expected) in enumerate(zip(prepared, source, strict=True)):
        assert set(example) == set(expected) == {"image", "labels", "mask"}
        for key, value in expected.items():
            np.testing.assert_array_equal(example[key], value, err_msg=f"{key} of {i}")
            assert example[key].dtype == value.dtype


# --- VOC ---


def test_voc(tmp_path):
    lists = {"train": [f"2007_{i * 7 % 10}" for i in range(10)], "val": ["2008_2"]}
    masks = _write_voc(tmp_path, lists)
    _build("voc_segmentation/2012", tmp_path / "tfds", tmp_path)
    for split, names in {"train": lists["train"], "validation": lists["val"]}.items():
        prepared = _prepared("voc_segmentation/2012", split, tmp_path / "tfds")
        # In the order of the list, not encoded anew: JPEG would change the pixels.
        for example, name in zip(prepared, names, strict=True):
            np.testing.assert_array_equal(example["mask"], masks[name])
            found = {prepared.label_names[i] for i in np.flatnonzero(example["labels"])}
            shown = {1: "aeroplane", 7: "car", 20: "tvmonitor"}
            assert found == {shown[value] for value in shown if (masks[name] == value).any()}
            with Image.open(tmp_path / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg") as image:
                np.testing.assert_array_equal(example["image"], np.array(image))


def test_augmented_voc_without_a_list_for_validation(tmp_path):
    masks = _write_voc(tmp_path, {"trainaug": ["b", "a"]}, masks="SegmentationClassAug")
    _build("voc_segmentation/2012_aug", tmp_path / "tfds", tmp_path)
    prepared = _prepared("voc_segmentation/2012_aug", "train", tmp_path / "tfds")
    for example, name in zip(prepared, "ba", strict=True):
        np.testing.assert_array_equal(example["mask"], masks[name])
    with pytest.raises(ValueError, match="no examples of the split 'validation', only: train"):
        _prepared("voc_segmentation/2012_aug", "validation", tmp_path / "tfds")


def test_turned_photos_keep_their_masks(tmp_path):
    """The photo is turned by its EXIF data, so the mask that is written is turned, too."""
    masks = _write_voc(tmp_path, {"train": ["a"]})
    exif = Image.Exif()
    exif[0x0112] = 6
    _write_photo(tmp_path / "VOCdevkit/VOC2012/JPEGImages/a.jpg", 0, exif=exif)
    _build("voc_segmentation/2012", tmp_path / "tfds", tmp_path)
    (example,) = _prepared("voc_segmentation/2012", "train", tmp_path / "tfds")
    np.testing.assert_array_equal(example["mask"], np.rot90(masks["a"], -1))
    assert example["image"].shape == (8, 6, 3)


def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "VOCdevkit/VOC2012").mkdir(parents=True)
    with pytest.raises(ValueError, match="Segmentation/train.txt"):
        _build("voc_segmentation/2012", tmp_path / "tfds", tmp_path)
    (tmp_path / "VOCdevkit/VOC2012").rmdir()
    _write_voc(tmp_path, {"train": ["a"]})
    photo = tmp_path / "VOCdevkit/VOC2012/JPEGImages/a.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"cannot decode image {photo}: "):
        _build("voc_segmentation/2012", tmp_path / "tfds", tmp_path)


# --- COCO ---


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    _write_coco(tmp_path, ["train2017", "val2017"])
    _build("coco_segmentation/2017", tmp_path / "tfds", tmp_path)
    for split in ("train", "validation"):
        prepared = _prepared("coco_segmentation/2017", split, tmp_path / "tfds")
        assert prepared.label_names == ("person", "dog", "toothbrush")
        _check_same(prepared, data.create_source("coco", split, root=str(tmp_path), masks=True))
        first, second = prepared  # By id: 9 and 25.
        assert first["labels"].tolist() == [True, True, False]
        assert second["labels"].tolist() == [False, False, True]
        mask = np.zeros((6, 8), np.uint8)
        mask[1:5, 1:5], mask[2:4, 2:4] = 1, 2
        np.testing.assert_array_equal(first["mask"], mask)
        np.testing.assert_array_equal(second["mask"], [[255] * 8] * 3 + [[0] * 8] * 3)


# --- Real data, and the command ---


def test_real_photos(real_data, tmp_path):
    pytest.importorskip("pycocotools")
    _build("voc_segmentation/2012", tmp_path, real_data)
    options = {"root": str(real_data), "year": "2012", "masks": "SegmentationClass"}
    source = data.create_source("voc", "train", **options)
    _check_same(_prepared("voc_segmentation/2012", "train", tmp_path), source)
    _build("coco_segmentation/2017", tmp_path, real_data / "coco")
    source = data.create_source("coco", "train", root=str(real_data / "coco"), masks=True)
    _check_same(_prepared("coco_segmentation/2017", "train", tmp_path), source)


@pytest.mark.slow
def test_command(tmp_path):
    for module in ("tensorflow", "apache_beam", "mlcroissant"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the command tfds needs {module}")
    masks = _write_voc(tmp_path, {"train": ["b", "a"]})
    command = "build voc_segmentation/2012 --imports=minmax_jax.data.builders"
    options = f"--file_format=array_record --manual_dir={tmp_path} --data_dir={tmp_path}/tfds"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tensorflow_datasets.scripts.cli.main",
            *f"{command} {options}".split(),
        ],
        check=True,
    )
    prepared = _prepared("voc_segmentation/2012", "train", tmp_path / "tfds")
    for example, name in zip(prepared, "ba", strict=True):
        np.testing.assert_array_equal(example["mask"], masks[name])
