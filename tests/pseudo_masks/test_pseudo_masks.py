from __future__ import annotations

import json
import shutil
import tracemalloc
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from minmax_jax import data, pseudo_masks
from minmax_jax.data.images import resize_image, resize_mask
from minmax_jax.methods import METHODS
from minmax_jax.pseudo_masks import mask_files, write_pseudo_masks
from tests import reference, toys
from tests.metrics.test_boxes import loop_pair
from tests.metrics.test_segmentation import NUM_LABELS, loop_ious
from tests.pseudo_masks.test_mask_files import loop_restored, save_stored

SIZE = 12
NAMES = ("cat", "dog", "cow", "hen")
SHAPES = [(20, 14), (9, 13), (12, 12), (16, 16), (13, 22)]


class Photos:
    """Photos of many sizes, with one to three labels, or none, and patches of them as masks."""

    label_names = NAMES
    skipped = ()
    image_paths = ()  # of `photo_files`

    def __init__(self, has_masks=True):
        self.has_masks = has_masks
        self.read = []

    def __len__(self):
        return len(SHAPES)

    def __getitem__(self, index):
        self.read.append(index)
        rng = np.random.default_rng(index)
        height, width = SHAPES[index]
        patches = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3))
        image = patches.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(np.uint8)
        labels = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
        example = {"image": image, "labels": labels[index].astype(bool)}
        if self.has_masks:
            values = np.append(1 + np.flatnonzero(example["labels"]), [0, 0, 255])
            mask = rng.choice(values, (-(-height // 5), -(-width // 5))).astype(np.uint8)
            example["mask"] = mask.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]
        return example


@pytest.fixture(scope="module", autouse=True)
def photo_files(tmp_path_factory):
    """Files of the photos; the last one lies on its side and is turned by its EXIF data."""
    folder, source = tmp_path_factory.mktemp("photos"), Photos()
    paths = [folder / f"photo_{number}.jpg" for number in range(len(SHAPES))]
    *others, last = (source[number]["image"] for number in range(len(SHAPES)))
    for path, image in zip(paths, others, strict=False):
        save_stored(path, image, None)
    save_stored(paths[-1], np.ascontiguousarray(np.rot90(last)), 6)
    Photos.image_paths = tuple(map(str, paths))
    return paths


def scale(images):
    return images.astype("float32") / 64 - 2


@pytest.fixture(scope="module")
def network():
    return toys.toy_network(preprocess=scale)


@pytest.fixture(scope="module")
def variables():
    """With which each label is detected in about half of the photos."""
    variables, source = toys.toy_variables(), Photos()
    photos = [resize_image(source[index]["image"], SIZE, "letterbox") for index in range(5)]
    logits = [toys.Toy64(variables, scale(photo)).logits for photo in photos]
    return variables | {"bias": variables["bias"] - np.float32(np.median(logits, axis=0)) + 0.05}


def make_batches(source, resize="crop"):
    return data.batches(source, batch_size=2, image_size=SIZE, preprocess=scale, resize=resize)


def write(network, variables, source, folder, *, resize="crop", **options):
    batches = make_batches(source, resize)
    return write_pseudo_masks(network, variables, batches, folder, progress=False, **options)


def read(folder, index):
    """A mask, upright."""
    with Image.open(folder / "SegmentationClass" / f"photo_{index}.png") as picture:
        assert picture.mode == "P"
        return np.rot90(picture, -1 if index == len(SHAPES) - 1 else 0)


def small_maps(variables, example, resize, present):
    """Maps of the labels as the network sees the photo, in float64."""
    image = scale(resize_image(example["image"], SIZE, resize))
    twin = toys.Toy64(variables, image)
    members = example["labels"] if present == "annotated" else twin.logits > 0
    return {
        label: reference.normalize(
            reference.resize(reference.normalize(twin.map("minmax_cam", members, label)), (12, 12))
        )
        for label in np.flatnonzero(members).tolist()
    }


@pytest.mark.parametrize(
    ("resize", "present", "threshold"),
    [("crop", "annotated", 0.3), ("letterbox", "detected", 0.52)],
)
def test_masks_and_scores(resize, present, threshold, network, variables, tmp_path):
    source = Photos()
    options = {"resize": resize, "present": present, "threshold": threshold}
    result = write(network, variables, source, tmp_path, split="validation", **options)
    names = [f"photo_{number}" for number in range(5)]
    assert (tmp_path / "ImageSets/Segmentation/val.txt").read_text().splitlines() == names
    assert (tmp_path / "classes.txt").read_text().splitlines() == list(NAMES)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == [f"{n}.png" for n in names]
    assert json.loads((tmp_path / "scores.json").read_text()) == result

    pixels, curves, pointed, pairs, unseen, doubtful = [], [], [], 0, 0, 0
    for index in range(5):
        example, mask = source[index], read(tmp_path, index)
        height, width = SHAPES[index]
        maps = small_maps(variables, example, resize, present)
        restored = {
            label: np.array(loop_restored(map_, height, width, resize), float)
            for label, map_ in maps.items()
        }
        pairs += len(maps)
        assert mask.shape == (height, width)
        for y, x in np.ndindex(mask.shape):
            values = {label: values[y, x] for label, values in restored.items()}
            if not maps:
                expected = 0 if resize == "letterbox" or 2 <= x < 11 else 255
            elif np.isnan([*values.values()]).any():
                expected = 255
            else:
                order = sorted(values, key=values.get)
                margins = [abs(values[order[-1]] - threshold)]
                margins += [values[order[-1]] - values[label] for label in order[-2:-1]]
                expected = 1 + order[-1] if values[order[-1]] >= threshold else 0
                if min(margins) < 1e-5:
                    doubtful += 1
                    expected = mask[y, x]
            assert mask[y, x] == expected, (index, y, x)
            unseen += expected == 255
            pixels.append((int(example["mask"][y, x]), int(mask[y, x])))
        rows, columns = (np.flatnonzero((mask != 255).any(axis=axis)) for axis in (1, 0))
        seen = np.ix_(rows, columns)
        small = resize_mask(example["mask"], SIZE, resize)
        for label, map_ in restored.items():
            curves.append(loop_pair(np.float32(map_[seen]), example["mask"][seen], label))
            if (small == label + 1).any():
                counted = np.where(small == 255, 0, maps[label])
                pointed.append((small == label + 1).ravel()[counted.argmax()])
    assert doubtful < 0.02 * len(pixels)

    scores = result["scores"]
    assert (result["images"], result["pairs"]) == (5, pairs) and pairs >= 6
    assert {value for _, value in pixels} >= {0, 1, 3}
    number = len(pixels)
    assert scores["unseen"] == pytest.approx(unseen / number) and bool(unseen) == (resize == "crop")
    # The loop gives the background and the first three labels.
    ious = loop_ious(pixels)
    assert [scores["iou"]["background"], *scores["iou"]["per_label"][:NUM_LABELS]] == pytest.approx(
        ious
    )
    assert scores["best_iou"]["mean"] >= scores["iou"]["mean"] > 0
    scored = [curve for curve in curves if curve is not None]
    v1 = [[curve[0][at] >= 0.5 for curve in scored] for at in range(20)]
    assert scores["boxes"]["v1"]["micro"] == pytest.approx(max(map(np.mean, v1)))
    assert scores["pointing_game"]["micro"] == pytest.approx(np.mean(pointed))


def test_the_best_threshold_is_that_of_the_masks_cut_there(network, variables, tmp_path):
    found = write(network, variables, Photos(), tmp_path / "a", threshold=0.3)["scores"]
    best = found["best_threshold"]
    again = write(network, variables, Photos(), tmp_path / "b", threshold=best)["scores"]
    assert again["iou"] == found["best_iou"] and best != 0.3
    assert again["best_threshold"] == best and again["boxes"] == found["boxes"]


class LargePhoto:
    label_names, has_masks = tuple(map(str, range(20))), False

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"image": np.zeros((400, 300, 3), np.uint8)}


def test_memory_does_not_grow_with_the_labels(tmp_path):
    """Only one map at a time is as large as the photo."""
    writer = pseudo_masks._Writer(LargePhoto(), tmp_path, "letterbox", 0.3)
    maps = np.random.default_rng(0).uniform(size=(20, 8, 8))
    peaks = []
    for number in (2, 20):
        tracemalloc.start()
        writer.write(0, np.arange(number), maps[:number])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_views_make_other_masks(network, variables, tmp_path):
    options = {"scales": (1.0, 2.0), "flips": ("horizontal",)}
    write(network, variables, Photos(), tmp_path / "plain")
    found = write(network, variables, Photos(), tmp_path / "views", **options)
    again = {"scales": np.array([1, 2]), "flips": "horizontal"}  # the same, in other words
    assert write(network, variables, Photos(), tmp_path / "views", **again) == found
    assert any((read(tmp_path / "plain", i) != read(tmp_path / "views", i)).any() for i in range(5))


def test_a_source_without_masks(network, variables, tmp_path):
    result = write(network, variables, Photos(has_masks=False), tmp_path / "bare")
    assert result["scores"] is None and result["images"] == 5
    write(network, variables, Photos(), tmp_path / "scored")
    for index in range(5):
        np.testing.assert_array_equal(
            read(tmp_path / "bare", index), read(tmp_path / "scored", index)
        )


def test_the_reader_of_voc_reads_them(network, variables, photo_files, tmp_path):
    """Beside the photos, by the list that was written."""
    source, home, masks = Photos(), tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "masks"
    write(network, variables, source, masks, resize="letterbox")
    (home / "JPEGImages").mkdir(parents=True)
    for path in photo_files:
        shutil.copy(path, home / "JPEGImages")
    shutil.copytree(masks / "ImageSets", home / "ImageSets")
    voc = data.create_source(
        "voc", "train", root=str(tmp_path), year="2012", masks=str(masks / "SegmentationClass")
    )
    assert len(voc) == 5
    for index in range(5):
        np.testing.assert_array_equal(voc[index]["mask"], read(masks, index))
        assert not (voc[index]["labels"][:4] & ~source[index]["labels"]).any()


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_a_killed_call_goes_on_with_the_same_result(network, variables, tmp_path, monkeypatch):
    whole = write(network, variables, Photos(), tmp_path / "whole")
    folder, source, write_mask = tmp_path / "killed", Photos(), mask_files.write_mask

    def broken(folder, name, mask):
        if name == "photo_4":
            raise KeyboardInterrupt
        write_mask(folder, name, mask)

    with monkeypatch.context() as patch:
        patch.setattr(mask_files, "write_mask", broken)
        with pytest.raises(KeyboardInterrupt):
            write(network, variables, source, folder, save_seconds=0)
    assert not (folder / "scores.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    source.read.clear()
    assert write(network, variables, source, folder, save_seconds=0) == whole
    assert set(source.read) == {4}
    assert files_of(folder) == files_of(tmp_path / "whole")
    assert len(before) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_what_is_finished_is_read(network, variables, tmp_path):
    whole, before = write(network, variables, Photos(), tmp_path), files_of(tmp_path)
    source = Photos()
    assert write(network, variables, source, tmp_path) == whole
    assert source.read == [] and files_of(tmp_path) == before
    with pytest.raises(ValueError, match="other settings .*: threshold: 0.3, 0.4; remove it"):
        write(network, variables, source, tmp_path, threshold=0.4)
    with pytest.raises(ValueError, match="other settings .*: weights: '.*', '.*'; remove it"):
        write(network, toys.toy_variables(), source, tmp_path)
    assert files_of(tmp_path) == before


def test_stage(network, variables, tmp_path, capsys):
    masks = {
        "split": "train",
        "method": "cam",
        "scales": (1.0,),
        "flips": (),
        "present": "annotated",
        "threshold": 0.3,
        "batch_size": 2,
    }

    def experiment(name, has_masks):
        return types.SimpleNamespace(
            name=name,
            config=ConfigDict({"masks": masks}),
            network=network,
            train_source=Photos(has_masks),
            best_variables=lambda: variables,
            batches=lambda source, batch_size, **options: data.batches(
                source, batch_size=batch_size, image_size=SIZE, preprocess=scale, **options
            ),
        )

    pseudo_masks.stage([experiment("plain", True), experiment("other", False)], tmp_path)
    expected = write(network, variables, Photos(), tmp_path / "alone", method="cam")
    found = json.loads((tmp_path / "plain" / "pseudo_masks" / "scores.json").read_text())
    assert found == expected
    printed = capsys.readouterr().out
    assert f"{100 * expected['scores']['iou']['mean']:.2f}" in printed and "MaxBoxAcc" in printed
    for name in ("plain", "other"):
        folder = tmp_path / name / "pseudo_masks"
        assert f"5 pseudo-masks: {folder}" in printed
        assert len((folder / "ImageSets/Segmentation/train.txt").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split must be one of train, validation, not 'test'"),
        ({"present": "all"}, "present must be one of detected, annotated, not 'all'"),
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], not 1.5"),
        ({"threshold": "0.3"}, r"threshold must be in \[0, 1\], not '0.3'"),
        ({"method": "cma"}, "unknown method 'cma'; methods: cam"),
        ({"method": ("cam",)}, r"method must be one name or one Method, not \('cam',\)"),
        ({"method": METHODS["cam"]}, r"method must be a name, not Method\("),
        ({"scales": 0.5}, "scales must be numbers above 0"),
        ({"scales": ()}, "scales must be numbers above 0"),
        ({"flips": ("both",)}, "unknown flip 'both'"),
    ],
)
def test_errors(options, message, network, variables, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        write(network, variables, Photos(), tmp_path / "masks", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "masks").exists()


def test_a_network_that_is_broken(network, variables, tmp_path):
    broken = variables | {"bias": np.full(4, np.nan, np.float32)}
    with pytest.raises(ValueError, match="logits are not finite in batch 0"):
        write(network, broken, Photos(), tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_more_labels_than_a_mask_can_hold(network, variables, tmp_path):
    source = Photos()
    source.label_names = tuple(map(str, range(255)))
    with pytest.raises(ValueError, match="at most 254 labels, here are 255"):
        write(network, variables, source, tmp_path)
