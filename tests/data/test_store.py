from __future__ import annotations

import json
import pickle
import re
import tempfile
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageOps

from minmax_jax import data, preemption
from minmax_jax.data import images
from minmax_jax.data.store import Rows


class Photos:
    """Noise of many shapes; the labels are the bits of the index."""

    label_names = ("one", "two", "four")
    skipped = ("lost.jpg",)

    def __init__(self, count: int = 20, *, has_masks: bool = True, broken: int = -1):
        self.count, self.has_masks, self.broken = count, has_masks, broken
        self.read = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.read.append(index)
        if index == self.broken:
            raise ValueError(f"cannot decode image number {index}")
        rng = np.random.default_rng(index)
        shape = (5 + index % 4, 9 - index % 3)
        example = {
            "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "labels": index >> np.arange(3) & 1 > 0,
        }
        if self.has_masks:
            example["mask"] = rng.choice(np.uint8([0, 1, 2, 3, 255]), shape)
        return example


def make(source, directory, **options):
    return data.make_store(source, directory, **{"image_size": 6, "progress": False} | options)


def resized(source, index, resize="crop"):
    example = source[index]
    return (
        images.resize_image(example["image"], 6, resize),
        example["labels"],
        images.resize_mask(example["mask"], 6, resize),
    )


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(count=st.integers(1, 40), resize=st.sampled_from(images.RESIZES))
def test_examples_are_those_of_the_source_resized(count, resize):
    source = Photos(count)
    with tempfile.TemporaryDirectory() as folder:
        store = make(source, f"{folder}/store", resize=resize)
        assert len(store) == count and store.images.shape == (count, 6, 6, 3)
        for index in range(count):
            image, labels, mask = resized(source, index, resize)
            found = store[index]
            assert found.keys() == {"image", "labels", "mask"}
            np.testing.assert_array_equal(found["image"], image, strict=True)
            np.testing.assert_array_equal(found["labels"], labels, strict=True)
            np.testing.assert_array_equal(found["mask"], mask, strict=True)
            np.testing.assert_array_equal(store.images[index], image)
            np.testing.assert_array_equal(store.masks[index], mask)


def test_what_a_store_says_of_itself(tmp_path):
    store = make(Photos(), tmp_path / "store")
    assert (store.label_names, store.has_masks) == (("one", "two", "four"), True)
    assert store.skipped == ("lost.jpg",)
    assert (store.images.dtype, store.labels.dtype, store.masks.dtype) == (np.uint8, bool, np.uint8)
    assert not store.images.flags.writeable and not store.masks.flags.writeable
    # An example is its reader's own, as any source's.
    example = store[3]
    for value in example.values():
        value[:] = 0
    assert store[3]["labels"].any() and store[3]["image"].any()
    bare = make(Photos(has_masks=False), tmp_path / "bare")
    assert bare.masks is None and not bare.has_masks and bare[0].keys() == {"image", "labels"}
    assert not (tmp_path / "bare" / "mask.npy").exists()


@pytest.mark.parametrize("resize", images.RESIZES)
def test_batches_are_bit_for_bit_those_of_the_source(tmp_path, resize):
    source = data.create_source("scenes", "validation", size=9)
    options = {
        "batch_size": 4,
        "image_size": 20,
        "preprocess": lambda image: image / np.float32(127.5) - 1,
        "resize": resize,
        "seed": 3,
        "augment": data.Augment(horizontal_flip=True, contrast=True),
    }
    store = data.make_store(
        source, tmp_path / "store", image_size=20, resize=resize, progress=False
    )
    found, expected = data.batches(store, **options), data.batches(source, **options)
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys() == {"image", "labels", "mask", "index"}
        for name, value in batch.items():
            np.testing.assert_array_equal(value, other[name], strict=True)


def test_a_second_call_reads_no_example(tmp_path):
    source = Photos()
    first = make(source, tmp_path / "store")
    assert sorted(source.read) == list(range(20))
    source.read.clear()
    again = make(source, tmp_path / "store")
    assert not source.read
    np.testing.assert_array_equal(again.images, first.images)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Photos(), {"image_size": 7}, "image_size: 6, 7"),
        (Photos(), {"resize": "letterbox"}, "resize: 'crop', 'letterbox'"),
        (Photos(19), {}, "number: 20, 19"),
        (Photos(has_masks=False), {}, "has_masks: True, False"),
    ],
)
def test_a_store_of_something_else_is_named(tmp_path, source, options, message):
    make(Photos(), tmp_path / "store")
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'store'))} .*{message}"):
        make(source, tmp_path / "store", **options)


def test_other_label_names_are_named(tmp_path):
    make(Photos(), tmp_path / "store")
    source = Photos()
    source.label_names = ("one", "two", "five")
    with pytest.raises(ValueError, match=r"label_names\[2\]: 'four', 'five'"):
        make(source, tmp_path / "store")


def test_what_an_error_leaves_is_made_anew(tmp_path):
    """Nothing, after an error; after a kill, a folder of half a store."""
    with pytest.raises(ValueError, match="cannot decode image number 17"):
        make(Photos(broken=17), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "image.npy").write_bytes(b"half")
    store = make(Photos(), tmp_path / "store")
    np.testing.assert_array_equal(store.images[17], resized(Photos(), 17)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_sigterm_stops_the_making(tmp_path, monkeypatch):
    asked = threading.Event()
    asked.set()
    monkeypatch.setattr(preemption, "requested", asked.is_set)
    with pytest.raises(preemption.Preempted):
        make(Photos(), tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    store = tmp_path / "store"
    for name, message in (("image.npy", "cannot read {}"), ("store.json", "{} is no JSON")):
        make(Photos(), store)
        whole = (store / name).read_bytes()
        (store / name).write_bytes(whole[:-20])
        with pytest.raises(ValueError, match=message.format(re.escape(str(store / name)))):
            data.Store(store)
        (store / name).write_bytes(whole)
    description = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(description | {"number": 21}))
    with pytest.raises(ValueError, match=r"image.npy has shape \(20, 6, 6, 3\), .*\(21, 6, 6, 3\)"):
        data.Store(store)
    (store / "store.json").unlink()
    with pytest.raises(ValueError, match="holds no store: .*store.json is missing"):
        make(Photos(), store)


def test_wrong_options_make_nothing(tmp_path):
    for source, options, message in (
        (Photos(0), {}, "no examples"),
        (Photos(), {"resize": "squeeze"}, "unknown resize 'squeeze', valid: crop, letterbox"),
        (Photos(), {"image_size": 0}, "image_size must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(source, tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(Photos(), tmp_path_factory.mktemp("stores") / "store")


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.data())
def test_subsets_are_rows(store, data):
    """Of the store, and of one another."""
    source = Photos()
    first = data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=25))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=9))
    chosen = [first[place] for place in second]
    subset = store.subset(first).subset(np.array(second))
    assert len(subset) == len(chosen) and len(subset.masks) == len(chosen)
    assert subset.images.shape == (len(chosen), 6, 6, 3) and subset.images.dtype == np.uint8
    for row, index in enumerate(chosen):
        image, labels, mask = resized(source, index)
        found = subset[row]
        np.testing.assert_array_equal(found["image"], image, strict=True)
        np.testing.assert_array_equal(found["labels"], labels, strict=True)
        np.testing.assert_array_equal(found["mask"], mask, strict=True)
    rows = data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=6))
    taken = subset.take(rows)
    assert type(taken) is np.ndarray and taken.shape == (len(rows), 6, 6, 3)
    for image, row in zip(taken, rows, strict=True):
        np.testing.assert_array_equal(image, resized(source, chosen[row])[0], strict=True)
    np.testing.assert_array_equal(subset.images[1:3], store.images[chosen[1:3]])
    np.testing.assert_array_equal(subset.labels, store.labels[chosen])


@pytest.mark.parametrize("index", [-1, 3, 20])
def test_a_subset_has_only_what_is_there(store, index):
    with pytest.raises(ValueError, match=f"no example {index} among 3"):
        store.subset([4, 5, 6]).subset([0, index])


def test_single_label_examples_have_one_label(store):
    """The labels are the index in binary: powers of two (up to 4) modulo 8."""
    expected = [index for index in range(20) if index % 8 in (1, 2, 4)]
    found = store.single_label()
    assert found.tolist() == expected and found.dtype == np.int64
    odd = store.subset(range(1, 20, 2))
    assert odd.single_label().tolist() == [0, 4, 8]  # 1, 9 and 17


def test_pickled_without_the_images(store):
    """Worker processes open the files themselves."""
    subset = store.subset(range(10, 20))
    assert len(pickle.dumps(subset)) < 1000 < subset.take(range(10)).nbytes
    copy = pickle.loads(pickle.dumps(subset))
    np.testing.assert_array_equal(copy.take([3]), store.take([13]))


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_rows_index_as_the_copied_rows_do(indices):
    array = np.arange(14).reshape(7, 2)
    rows, copied = Rows(array, np.array(indices)), array[indices]
    for key in (0, -1, slice(1, None, 2), np.arange(len(indices))[::-1]):
        np.testing.assert_array_equal(rows[key], copied[key], strict=True)


def test_real_photos(real_data, tmp_path):
    """Pixels as Pillow crops them, single labels as the annotated masks show them."""
    source = data.create_source(
        "voc", "train", root=str(real_data), year="2012", masks="SegmentationClass"
    )
    store = data.make_store(source, tmp_path / "store", image_size=64, progress=False)
    folder = real_data / "VOCdevkit/VOC2012"
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    single = []
    for index, name in enumerate(names):
        with Image.open(folder / f"JPEGImages/{name}.jpg") as photo:
            fitted = ImageOps.fit(photo.convert("RGB"), (64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(store.images[index], np.array(fitted))
        with Image.open(folder / f"SegmentationClass/{name}.png") as stored:
            shown = set(np.unique(np.array(stored)).tolist()) - {0, 255}
        if len(shown) == 1:
            single.append(index)
        assert set(np.unique(store.masks[index]).tolist()) <= shown | {0, 255}
    assert len(store) == len(names) and 0 < len(single) < len(names)
    assert store.single_label().tolist() == single
