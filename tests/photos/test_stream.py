"""Photos end to end: right maps at the right pixels; a bad photo or a kill spoils nothing."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from minmax_jax import Network
from minmax_jax.data import images as images_lib
from minmax_jax.photos import stream, write
from minmax_jax.photos.stream import Skipped
from minmax_jax.select import DetectedLabels, NamedLabels
from tests import toys

from . import toy_run

ROOT = pathlib.Path(__file__).parents[2]


def load(folder):
    with np.load(folder / "maps.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return toy_run.make_photos(tmp_path_factory.mktemp("photos"), 10)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    directory = tmp_path_factory.mktemp("out")
    assert toy_run.explain(photos, directory) == []
    return directory


@pytest.mark.parametrize("index", [0, 3, 9])
def test_maps_and_probabilities_of_each_photo(finished, photos, index):
    """The last batch is not full; the truth is the toy in float64."""
    image = images_lib.decode_image(photos[index])
    seen = images_lib.resize_image(image, toy_run.SIZE, "letterbox")
    twin = toys.Toy64(toys.toy_variables(), toy_run.preprocess(seen))
    found = load(finished / f"{index:03d}")
    labels = np.argsort(-twin.logits)[:2]
    probabilities = np.exp(twin.logits) / np.exp(twin.logits).sum()
    assert found["labels"].tolist() == labels.tolist()
    assert found["names"].tolist() == [toy_run.NAMES[label] for label in labels]
    np.testing.assert_allclose(found["probabilities"], probabilities[labels], rtol=1e-4)
    assert str(found["photo"]) == photos[index]
    assert found["size"].tolist() == list(image.shape[:2])
    present = np.isin(np.arange(len(toy_run.NAMES)), labels)
    for method in toy_run.METHODS:
        maps = found[f"maps/{method}"]
        assert maps.dtype == np.float32 and maps.shape == (2, 6, 6)
        for rank, label in enumerate(labels):
            expected = twin.map(method, present, label)
            np.testing.assert_allclose(maps[rank], expected, rtol=1e-4, atol=1e-4)


def test_files_of_a_photo(finished, photos):
    """An overlay for each label and method at the photo's resolution, of names that are safe."""
    folders = sorted(path.name for path in finished.iterdir())
    assert folders == [f"{index:03d}" for index in range(10)]
    for path, folder in zip(photos, folders, strict=True):
        names = sorted(file.name for file in (finished / folder).iterdir())
        overlays = [name for name in names if name.endswith(".png")]
        assert len(overlays) == 2 * len(toy_run.METHODS)
        assert set(names) - set(overlays) == {"contact_sheet.jpg", "maps.npz"}
        assert {name.partition("_")[0] for name in overlays} == {"1", "2"}
        with Image.open(path) as photo:
            for name in overlays:
                with Image.open(finished / folder / name) as overlay:
                    assert overlay.size == photo.size and overlay.mode == "RGB"


def lamp(size):
    """A network whose one map is the brightness of 4 x 4 blocks of what it sees."""

    def apply(variables, images, perturbations=None):
        b = images.shape[0]
        cells = images.mean(axis=3).reshape(b, size // 4, 4, size // 4, 4).mean(axis=(2, 4))
        return cells.mean(axis=(1, 2))[:, None] * 9 - 1, {"last": cells[..., None]}

    return Network(
        apply=apply,
        taps=("last",),
        head_kernel=lambda variables: jnp.ones((1, 1)),
        preprocess=lambda images: images.astype("float32") / 255,
        image_size=size,
    )


ORIENTATION = 0x0112


@pytest.mark.parametrize("resize", ["crop", "letterbox"])
@pytest.mark.parametrize("size", [(120, 90), (91, 200), (133, 133)])
@pytest.mark.parametrize("kind", ["plain", "rotated", "grey", "cmyk"])
def test_a_bright_spot_glows_where_the_photo_has_it(tmp_path, resize, size, kind):
    """Through decoding, resizing, network, map and overlay; upright if the camera was not."""
    height, width = size
    side = min(size) if resize == "crop" else max(size)
    cell = side / 8
    centre = np.array([height / 2 - 1.7 * cell, width / 2 + 2.2 * cell])
    if resize == "letterbox":
        centre = np.array([height * 0.3, width * 0.8])
    y, x = np.mgrid[:height, :width]
    spot = (abs(y - centre[0]) < cell / 2) & (abs(x - centre[1]) < cell / 2)
    image = Image.fromarray(np.where(spot, 255, 20).astype(np.uint8))
    path, exif = str(tmp_path / "photo.jpg"), Image.Exif()
    if kind == "rotated":
        image, exif[ORIENTATION] = image.transpose(Image.Transpose.ROTATE_90), 6
    image = image.convert({"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
    image.save(path, quality=95, exif=exif)

    options = {"methods": ("cam",), "select": NamedLabels((0,)), "label_names": ("lamp",)}
    skipped = toy_run.explain(
        [path], tmp_path / "out", network=lamp(32), resize=resize, batch_size=1, **options
    )
    assert skipped == []
    with Image.open(tmp_path / "out" / "photo" / "1_lamp_cam.png") as overlay:
        picture = np.asarray(overlay).astype(float)
    assert picture.shape == (*size, 3)
    light = picture[..., 0] - picture[..., 2]  # the grey photo has none
    light = np.where(light > 0.8 * light.max(), 1, 0)
    found = [(light * (axis + 0.5)).sum() / light.sum() for axis in (y, x)]
    assert np.abs(found - centre).max() < 0.6 * cell
    box = load(tmp_path / "out" / "photo")["box"]
    middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    np.testing.assert_allclose(middle, [height / 2, width / 2], atol=max(size) / 32)
    np.testing.assert_allclose(box[2:] - box[:2], side, rtol=0.04)


def test_bad_photos_are_told_and_spoil_nothing(tmp_path, finished, photos):
    """Not a picture, cut off, missing, and one whose logits are not finite."""
    text, cut, gone = (str(tmp_path / name) for name in ("text.jpg", "cut.png", "gone.png"))
    pathlib.Path(text).write_text("not a picture")
    content = pathlib.Path(photos[0]).read_bytes()
    pathlib.Path(cut).write_bytes(content[: len(content) // 2])
    paths = [photos[0], text, *photos[1:5], cut, gone, *photos[5:]]
    skipped = toy_run.explain(paths, tmp_path / "out")
    assert [entry.photo for entry in skipped] == [text, cut, gone]
    assert "identify" in skipped[0].reason and "No such file" in skipped[2].reason
    assert all(entry.reason for entry in skipped)
    assert contents(tmp_path / "out") == contents(finished)

    def apply(variables, images, perturbations=None):
        logits, activations = toys.toy_apply(variables, images, perturbations)
        dark = (images == -2).all(axis=(1, 2, 3))
        return jnp.where(dark[:, None], jnp.nan, logits), activations

    black = str(tmp_path / "black.png")
    Image.new("RGB", (30, 20)).save(black)
    paths = [black, *photos]
    skipped = toy_run.explain(paths, tmp_path / "dark", network=toy_run.network(apply=apply))
    assert skipped == [Skipped(black, "the network's logits are not finite")]
    assert contents(tmp_path / "dark").keys() == contents(finished).keys()


def contents(directory):
    """Everything in the photos' folders; the archive by its arrays."""
    found = {}
    for path in sorted(directory.glob("*/*")):
        if path.suffix == ".npz":
            found |= {(path.parent.name, k): v.tobytes() for k, v in load(path.parent).items()}
        else:
            found[path.parent.name, path.name] = path.read_bytes()
    return found


def test_photos_of_one_name_do_not_collide(tmp_path):
    paths = [toy_run.make_photos(tmp_path / name, 1)[0] for name in ("a", "b", "c")]
    toy_run.explain(paths, tmp_path / "out")
    folders = list((tmp_path / "out").iterdir())
    assert sorted(str(load(folder)["photo"]) for folder in folders) == paths


def test_a_rerun_explains_only_what_is_new(tmp_path, photos, finished):
    toy_run.explain(photos[:3], tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    counter = toys.CountingApply()
    toy_run.explain(photos[:3], tmp_path, network=toy_run.network(apply=counter))
    assert counter.traces == 0
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    toy_run.explain(photos, tmp_path)
    assert contents(tmp_path) == contents(finished)


def test_a_killed_run_leaves_whole_folders_and_goes_on(tmp_path, finished):
    number = 50
    paths = toy_run.make_photos(tmp_path / "photos", number)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.photos.toy_run", str(tmp_path / "photos"), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(out.glob("[!.]*"))) < 5:
        time.sleep(0.002)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert alive, errors.decode()
    whole = list(out.glob("[!.]*"))
    assert 5 <= len(whole) < number
    for folder in whole:
        assert len(list(folder.iterdir())) == 2 * len(toy_run.METHODS) + 2
        load(folder)
    assert toy_run.explain(paths, out) == []
    assert sorted(os.listdir(out)) == [f"{index:03d}" for index in range(number)]
    for folder in finished.iterdir():  # the same photos elsewhere
        ours, theirs = load(out / folder.name), load(folder)
        assert str(ours.pop("photo")) != str(theirs.pop("photo"))
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_what_writing_raises_ends_the_run(tmp_path, photos, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(write, "encode_png", full)
    with pytest.raises(OSError, match="No space left"):
        toy_run.explain(photos, tmp_path)
    assert list(tmp_path.glob("[!.]*")) == []


def test_little_is_held_at_once(tmp_path, monkeypatch):
    """However slow the writers are, and however many photos come."""
    held, lock = {"now": 0, "most": 0}, threading.Lock()
    decode, finish = stream.decode_photo, stream.write_photo

    def counted_decode(*arguments, **options):
        photo = decode(*arguments, **options)
        with lock:
            held["now"] += 1
            held["most"] = max(held["most"], held["now"])
        return photo

    def slow_write(*arguments):
        time.sleep(0.005)
        finish(*arguments)
        with lock:
            held["now"] -= 1

    monkeypatch.setattr(stream, "decode_photo", counted_decode)
    monkeypatch.setattr(stream, "write_photo", slow_write)
    paths = toy_run.make_photos(tmp_path / "photos", 80)
    toy_run.explain(paths, tmp_path / "out", methods=("cam",))
    assert len(os.listdir(tmp_path / "out")) == 80 and held["now"] == 0
    assert held["most"] <= 5 * 4 + 2 * stream._WORKERS


def test_detected_labels_of_a_photo_without_any(tmp_path, photos):
    """A note says what came nearest; the sheet is there, overlays are not."""
    options = {"select": DetectedLabels(4, 0.999999), "activation": "sigmoid"}
    toy_run.explain(photos[:1], tmp_path, **options)
    found = load(tmp_path / "000")
    assert len(found["labels"]) == 0 and found["maps/cam"].shape == (0, 6, 6)
    assert str(found["note"]).startswith("nothing detected; ")
    assert sorted(os.listdir(tmp_path / "000")) == ["contact_sheet.jpg", "maps.npz"]


def test_more_detected_labels_than_are_explained(tmp_path, photos):
    options = {"select": DetectedLabels(1, 1e-6), "activation": "sigmoid"}
    toy_run.explain(photos[:1], tmp_path, **options)
    assert str(load(tmp_path / "000")["note"]) == "3 more detected"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "stretch"}, "unknown resize 'stretch', valid: crop, letterbox"),
        ({"batch_size": 0}, "batch_size and image_size must be >= 1: 0, 12"),
        ({"methods": ("cma",)}, "unknown method 'cma'"),
    ],
)
def test_errors(tmp_path, photos, options, message):
    with pytest.raises(ValueError, match=message):
        toy_run.explain(photos, tmp_path / "out", **options)
