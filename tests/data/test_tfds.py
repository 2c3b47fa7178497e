from __future__ import annotations

import io
import json
import pathlib
import pickle
import subprocess
import sys
import tempfile
from concurrent import futures
from typing import Any

import hypothesis
import numpy as np
import pytest
import tensorflow_datasets
from hypothesis import strategies as st
from PIL import Image
from tensorflow_datasets.core import constants
from tensorflow_datasets.core import features as kinds

from minmax_jax import data

# Older protobuf, which TFDS' command line needs, warns of what TFDS does.
pytestmark = pytest.mark.filterwarnings("ignore:label.* is deprecated")

NAMES = ["cat", "dog", "horse"]
LABELS = kinds.Sequence(kinds.ClassLabel(names=NAMES))
JPEG = kinds.Image(encoding_format="jpeg")
# As the builders of TFDS declare them.
VOC = {
    "image": kinds.Image(),
    "image/filename": kinds.Text(),
    "objects": kinds.Sequence(
        {
            "label": kinds.ClassLabel(names=NAMES),
            "is_difficult": np.bool_,
            "bbox": kinds.BBoxFeature(),
        }
    ),
    "labels": LABELS,
    "labels_no_difficult": LABELS,
}
COCO = {
    "image": JPEG,
    "image/id": np.int64,
    "objects": kinds.Sequence({"label": kinds.ClassLabel(names=NAMES), "is_crowd": np.bool_}),
}
MASKS = {
    "image": JPEG,
    "labels": LABELS,
    "segmentation_mask": kinds.Image(shape=(None, None, 1), encoding_format="png"),
}


def _prepare(
    folder: pathlib.Path,
    name: str,
    features: dict[str, Any],
    splits: dict[str, list],
    num_shards: int = 1,
) -> pathlib.Path:
    """Writes the data set as `tfds build` does, the examples in order; returns its folder."""
    data_set, _, config = name.partition("/")

    class Builder(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("1.0.0")
        BUILDER_CONFIGS = [tensorflow_datasets.core.BuilderConfig(name=config)]

        def _info(self):
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=kinds.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from enumerate(splits[split])

    Builder.name = data_set
    builder = Builder(data_dir=str(folder), file_format="array_record")
    options = tensorflow_datasets.download.DownloadConfig(
        try_download_gcs=False, num_shards=num_shards
    )
    builder.download_and_prepare(download_config=options)
    return pathlib.Path(builder.data_dir)


def _photo(value: int, *, height: int = 6, width: int = 8, mode: str = "RGB", **options) -> bytes:
    """A JPEG file of smooth colours."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 20, y * 30, 0 * x + value % 256], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def _png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def _pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.array(image.convert("RGB"))


def _voc(value: int, labels: list[str], easy: list[str]) -> dict[str, Any]:
    objects = [
        {"label": label, "is_difficult": label not in easy, "bbox": kinds.BBox(0.0, 0.0, 1.0, 1.0)}
        for label in labels
    ]
    return {
        "image": _photo(value),
        "image/filename": f"{value}.jpg",
        "objects": objects,
        "labels": sorted(set(labels)),
        "labels_no_difficult": sorted(set(easy)),
    }


def _coco(value: int, labels: list[str], **options) -> dict[str, Any]:
    objects = [{"label": label, "is_crowd": i == 0} for i, label in enumerate(labels)]
    return {"image": _photo(value, **options), "image/id": value, "objects": objects}


def _masked(value: int, labels: list[str], mask: np.ndarray) -> dict[str, Any]:
    return {"image": _photo(value), "labels": labels, "segmentation_mask": _png(mask)}


def _source(folder: pathlib.Path, split: str = "train", **options) -> data.Source:
    return data.create_source("tfds", split, data_dir=str(folder), **options)


def _message(folder: pathlib.Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as error:
        list(_source(folder, split, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def _check(source: data.Source, examples: list, labels: list[list[int]]) -> None:
    assert len(source) == len(examples) == len(list(source))
    assert source.label_names == tuple(NAMES) and source.skipped == ()
    for example, written, hot in zip(source, examples, labels, strict=True):
        np.testing.assert_array_equal(example["image"], _pixels(written["image"]))
        np.testing.assert_array_equal(example["labels"], np.array(hot, bool))
        assert example["image"].dtype == np.uint8 and example["labels"].dtype == np.bool_
        assert ("mask" in example) == source.has_masks


# --- What is read ---


def test_like_voc(tmp_path):
    train = [_voc(0, ["dog", "cat", "dog"], ["dog"]), _voc(1, [], []), _voc(2, ["horse"], [])]
    validation, test = [_voc(3, ["cat"], ["cat"])], [_voc(4, ["dog"], ["dog"])]
    splits = {"train": train, "validation": validation, "test": test}
    _prepare(tmp_path, "voc/2007", VOC, splits)
    # Difficult objects count.
    _check(_source(tmp_path), train, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    _check(_source(tmp_path, "validation"), validation, [[1, 0, 0]])
    _check(_source(tmp_path, "test", name="voc/2007:1.0.0"), test, [[0, 1, 0]])


def test_like_coco(tmp_path):
    train = [
        _coco(0, ["horse", "cat", "horse"]),
        _coco(1, [], mode="L"),
        _coco(2, ["dog"], mode="CMYK"),  # The first object is a crowd.
        _coco(3, ["cat", "dog", "horse"], height=1, width=9),
    ]
    _prepare(tmp_path, "coco/2017", COCO, {"train": train})
    hot = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    _check(_source(tmp_path, name="coco/2017"), train, hot)


def test_masks(tmp_path):
    masks = [np.full((6, 8), 255, np.uint8), np.arange(48).reshape(6, 8).astype(np.uint8) % 4]
    train = [_masked(0, [], masks[0]), _masked(1, NAMES, masks[1])]
    _prepare(tmp_path, "shapes/small", MASKS, {"train": train})
    source = _source(tmp_path, name="shapes/small")
    _check(source, train, [[0, 0, 0], [1, 1, 1]])
    for example, mask in zip(source, masks, strict=True):
        np.testing.assert_array_equal(example["mask"], mask)
        assert example["mask"].dtype == np.uint8


def test_images_and_masks_are_upright(tmp_path):
    """The camera lay on its side: the file is 6x8, the image and its mask 8x6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = np.arange(48).reshape(8, 6).astype(np.uint8) % 4
    example = _masked(0, [], mask) | {"image": _photo(0, exif=exif)}
    _prepare(tmp_path, "shapes/small", MASKS, {"train": [example]})
    (read,) = _source(tmp_path, name="shapes/small")
    np.testing.assert_array_equal(read["image"], np.rot90(_pixels(example["image"]), -1))
    np.testing.assert_array_equal(read["mask"], mask)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(NAMES)), st.integers(1, 20), st.integers(1, 20)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_any_examples_come_back(table, num_shards):
    examples = [
        _coco(value, labels, height=height, width=width)
        for value, (labels, height, width) in enumerate(table)
    ]
    with tempfile.TemporaryDirectory() as folder:
        _prepare(
            folder,
            "coco/2017",
            COCO,
            {"validation": examples},
            num_shards=min(num_shards, len(table)),
        )
        source = _source(folder, "validation", name="coco/2017")
        _check(source, examples, [[name in labels for name in NAMES] for labels, _, _ in table])


def test_highest_version_and_default_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    old = _prepare(tmp_path, "voc/2007", VOC, {"train": [_voc(0, ["cat"], [])]})
    old.rename(old.parent / "0.9.0")
    text = (old.parent / "0.9.0/dataset_info.json").read_text().replace("1.0.0", "0.9.0")
    (old.parent / "0.9.0/dataset_info.json").write_text(text)
    _prepare(tmp_path, "voc/2007", VOC, {"train": [_voc(1, ["dog"], [])] * 2})
    assert len(data.create_source("tfds", "train")) == 2
    assert len(data.create_source("tfds", "train", name="voc/2007:0.9.0")) == 1


def test_threads_read_the_same(tmp_path):
    examples = [_coco(value, [NAMES[value % 3]]) for value in range(24)]
    _prepare(tmp_path, "coco/2017", COCO, {"train": examples}, num_shards=3)
    source = _source(tmp_path, name="coco/2017")
    with futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.__getitem__, [i % 24 for i in range(96)]))
    for i, example in enumerate(read):
        np.testing.assert_array_equal(example["image"], _pixels(examples[i % 24]["image"]))
        assert example["labels"].tolist() == [i % 3 == label for label in range(3)]


def test_another_process_reads_without_tensorflow(tmp_path):
    train = [_masked(0, ["dog"], np.full((6, 8), 2, np.uint8))]
    _prepare(tmp_path, "shapes/small", MASKS, {"train": train})
    source = _source(tmp_path, name="shapes/small")
    assert len(source[0]) == 3  # Files are open.
    assert len(pickle.dumps(source)) < 5000
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(source))
    # It may be installed, but whoever imports it ends.
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported TensorFlow')")
    code = """
import pathlib, pickle, sys

folder = sys.argv[1]
sys.path.insert(0, folder)
from minmax_jax import data

for source in (
    pickle.loads(pathlib.Path(folder, "source.pickle").read_bytes()),
    data.create_source("tfds", "train", data_dir=folder, name="shapes/small"),
):
    example = source[0]
    print(*(int(example[key].sum()) for key in ("image", "labels", "mask")))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    line = f"{_pixels(train[0]['image']).sum()} 1 {6 * 8 * 2}\n"
    assert (done.returncode, done.stdout) == (0, 2 * line), done.stderr


# --- What is wrong ---


def test_not_prepared(tmp_path):
    expected = (
        f"no prepared data set '{{name}}' in {tmp_path}. Prepare it with: "
        f"tfds build {{name}} --file_format=array_record --data_dir={tmp_path}"
    )
    assert _message(tmp_path) == expected.format(name="voc/2007")
    _prepare(tmp_path, "voc/2007", VOC, {"train": [_voc(0, [], [])]})
    assert _message(tmp_path, name="voc/2012") == expected.format(name="voc/2012")
    assert _message(tmp_path, name="voc/2007:2.0.0") == expected.format(name="voc/2007:2.0.0")
    for name in ("voc_segmentation/2012", "coco_segmentation/2017:1.0.0"):
        more = " --imports=minmax_jax.data.builders --manual_dir=FOLDER"
        assert _message(tmp_path, name=name) == expected.format(name=name) + more
    for name in ("", "voc 2007", "../voc", "voc/2007/5.0.0"):
        assert _message(tmp_path, name=name) == (
            f"wrong name of a data set: {name!r}, wanted NAME/CONFIG, maybe :VERSION"
        )


def test_wrong_format(tmp_path):
    folder = _prepare(tmp_path, "voc/2007", VOC, {"train": [_voc(0, [], [])]})
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    assert _message(tmp_path) == (
        f"{folder} holds tfrecord, wanted array_record: tfds convert_format "
        f"--dataset_version_dir={folder} --out_file_format=array_record"
    )


def test_converted_format(tmp_path):
    folder = _prepare(tmp_path, "voc/2007", VOC, {"train": [_voc(0, ["dog"], [])]})
    info = folder / "dataset_info.json"
    content = json.loads(info.read_text())
    content |= {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}
    info.write_text(json.dumps(content))
    np.testing.assert_array_equal(_source(tmp_path)[0]["labels"], [False, True, False])


def test_wrong_splits(tmp_path):
    splits = {"train": [_voc(0, [], [])], "test": [_voc(1, [], [])]}
    folder = _prepare(tmp_path, "voc/2012", VOC, splits)
    assert _message(tmp_path, "validation", name="voc/2012") == (
        f"{folder} has no examples of the split 'validation', only: train, test"
    )
    for name, features, make in [("voc/2012", VOC, _voc), ("coco/2017", COCO, _coco)]:
        example = make(1, [], []) if make is _voc else make(1, [])
        _prepare(tmp_path, name, features, {"train": [example], "test": [example]})
        for full_name in (name, f"{name}:1.0.0"):
            assert _message(tmp_path, "test", name=full_name) == (
                f"the test images of {name} have no public labels"
            )
        assert len(_source(tmp_path, name=name)) == 1


def test_other_features(tmp_path):
    features = {"image": JPEG, "label": kinds.ClassLabel(names=NAMES)}
    folder = _prepare(
        tmp_path, "digits/a", features, {"train": [{"image": _photo(0), "label": "cat"}]}
    )
    wanted = "wanted are image, and class labels in labels or objects/label"
    assert (
        _message(tmp_path, name="digits/a") == f"{folder} has the features image, label; {wanted}"
    )
    features = {"image": JPEG, "labels": kinds.Sequence(np.int64), "objects": kinds.Text()}
    example = {"image": _photo(0), "labels": [1], "objects": "cat"}
    _prepare(tmp_path, "digits/b", features, {"train": [example]})
    assert _message(tmp_path, name="digits/b").endswith(wanted)


def test_too_many_labels_for_masks(tmp_path):
    names = [str(i) for i in range(255)]
    features = MASKS | {"labels": kinds.Sequence(kinds.ClassLabel(names=names))}
    example = _masked(0, [], np.zeros((6, 8), np.uint8))
    folder = _prepare(tmp_path, "shapes/many", features, {"train": [example]})
    assert _message(tmp_path, name="shapes/many") == (
        f"masks hold at most 254 labels, {folder} has 255"
    )


def test_wrong_examples_name_data_set_split_and_index(tmp_path):
    zeros = np.zeros((6, 8), np.uint8)
    good = _masked(0, ["cat"], zeros)
    table = [
        ({"image": good["image"][:200]}, "cannot decode image {name}: "),
        ({"labels": [0, -1]}, "{name}: labels [0, -1], valid are 0 to 2"),
        ({"segmentation_mask": good["image"]}, "cannot decode mask {name}: mode RGB, wanted"),
        ({"segmentation_mask": _png(zeros[:5])}, "mask {name} is 8x5 pixels, its image 8x6"),
        ({"segmentation_mask": _png(zeros + 4)}, "mask {name} holds the value 4: valid are"),
    ]
    for i, (wrong, message) in enumerate(table):
        data_set = f"shapes/wrong{i}"
        folder = _prepare(tmp_path, data_set, MASKS, {"validation": [good, good | wrong]})
        source = _source(tmp_path, "validation", name=data_set)
        assert len(source[0]) == 3
        for index in (-1, 2):
            with pytest.raises(IndexError):
                source[index]
        name = f"{folder}, validation 1"
        assert _message(tmp_path, "validation", name=data_set).startswith(message.format(name=name))


def test_damaged_files(tmp_path):
    examples = [_voc(value, ["cat"], []) for value in range(4)]
    folder = _prepare(tmp_path, "voc/2007", VOC, {"train": examples}, num_shards=2)
    first, second = sorted(folder.glob("*.array_record-*"))
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 255
    second.write_bytes(content)
    source = _source(tmp_path)
    assert source[0]["labels"][0] and source[1]["labels"][0]
    with pytest.raises(ValueError, match=f"cannot read {folder}, train [23]: .+"):
        list(source)
    second.write_bytes(b"")
    assert _message(tmp_path).startswith(f"cannot read {folder}, train 2: ")
    second.unlink()
    assert _message(tmp_path) == f"{folder} is incomplete: no file {second}"
    (folder / "features.json").write_text("{")
    assert _message(tmp_path).startswith(f"cannot read the data set 'voc/2007' in {tmp_path}: ")
