from __future__ import annotations

import pathlib
import pickle
import re
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from minmax_jax import data
from minmax_jax.data import voc

TARS_2007 = (
    "The official files are in http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
    "VOCtrainval_06-Nov-2007.tar and http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
    "VOCtest_06-Nov-2007.tar: unpack such that {home} exists"
)
OBJECTS = {
    "000001": ("dog", "person", "person"),
    "000002": (),
    "000003": ("aeroplane",),
    "000004": ("tvmonitor", "sheep"),
}
LISTS = {
    "Main/train": ["000003", "000001"],
    "Main/val": ["000002"],
    "Main/test": ["000004"],
    "Main/trainval": ["000001", "000002", "000003"],
    "Segmentation/train": ["000001", "000004"],
    "Segmentation/val": ["000003"],
}
# Aeroplane is 1, dog 12, person 15, tvmonitor 20.
MASKS = {
    "000001": np.array([[0, 12, 12], [15, 255, 0]], np.uint8),
    "000003": np.array([[255, 0, 0], [0, 0, 255]], np.uint8),
    "000004": np.array([[20, 1, 1], [1, 1, 1]], np.uint8),
}
PART = "<part><name>head</name></part>"


def _palette() -> bytes:
    """The colours of the development kit: the bits of the index, dealt out to red, green, blue."""
    colours = bytearray()
    for index in range(256):
        for channel in range(3):
            colours.append(sum((index >> 3 * i + channel & 1) << 7 - i for i in range(3)))
    return bytes(colours)


def _xml(objects: tuple[str, ...]) -> str:
    items = (
        f"<object>{PART}<name>{name}</name><difficult>{i % 2}</difficult></object>\n"
        for i, name in enumerate(objects)
    )
    return f"<annotation>\n<filename>a.jpg</filename>\n{''.join(items)}</annotation>\n"


def _image(name: str) -> np.ndarray:
    return (np.arange(18).reshape(2, 3, 3) + int(name)).astype(np.uint8)


@pytest.fixture
def home(tmp_path) -> pathlib.Path:
    """Four photos in the official layout, three of them with masks."""
    folder = tmp_path / "VOCdevkit/VOC2007"
    kinds = ("ImageSets/Main", "ImageSets/Segmentation")
    for name in ("Annotations", *kinds, "JPEGImages", "SegmentationClass", "Grey"):
        (folder / name).mkdir(parents=True)
    for name, names in LISTS.items():
        (folder / f"ImageSets/{name}.txt").write_text("".join(f"{each}\n" for each in names))
    for name, objects in OBJECTS.items():
        (folder / f"Annotations/{name}.xml").write_text(_xml(objects))
        # Lossless: Pillow goes by the content.
        Image.fromarray(_image(name)).save(folder / f"JPEGImages/{name}.jpg", format="png")
    for name, mask in MASKS.items():
        picture = Image.fromarray(mask)
        picture.save(folder / f"Grey/{name}.png")
        picture.putpalette(_palette())
        picture.save(folder / f"SegmentationClass/{name}.png")
    return folder


def _source(home: pathlib.Path, split: str = "train", **options) -> data.Source:
    return data.create_source("voc", split, **{"root": str(home)} | options)


def _message(home: pathlib.Path, split: str = "train", **options) -> str:
    with pytest.raises(ValueError) as error:
        list(_source(home, split, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


def _hot(*names: str) -> np.ndarray:
    return np.array([label in names for label in voc.LABELS])


# --- What is read ---


@pytest.mark.parametrize(
    ("split", "options", "names"),
    [
        ("train", {}, LISTS["Main/train"]),
        ("validation", {}, LISTS["Main/val"]),
        ("test", {}, LISTS["Main/test"]),
        ("train", {"image_set": "trainval"}, LISTS["Main/trainval"]),
    ],
)
def test_examples(home, split, options, names):
    source = _source(home, split, **options)
    assert source.label_names == voc.LABELS and len(set(voc.LABELS)) == 20
    assert not source.has_masks and source.skipped == () and len(source) == len(names)
    assert source.image_paths == [str(home / f"JPEGImages/{name}.jpg") for name in names]
    for example, name in zip(source, names, strict=True):
        assert set(example) == {"image", "labels"} and example["labels"].dtype == np.bool_
        np.testing.assert_array_equal(example["image"], _image(name))
        np.testing.assert_array_equal(example["labels"], _hot(*OBJECTS[name]))
    example["labels"][:] = True  # A fresh array: the source keeps its own.
    assert not source[-1]["labels"].all()


@pytest.mark.parametrize("masks", ["SegmentationClass", "Grey"])
def test_masks_and_their_labels(home, masks):
    for path in (home / "Annotations").iterdir():
        path.unlink()  # Not needed.
    train = _source(home, masks=masks)
    assert train.has_masks and len(train) == 2
    for i, labels in enumerate([("dog", "person"), ("tvmonitor", "aeroplane")]):
        name = LISTS["Segmentation/train"][i]
        assert train.image_paths[i] == str(home / f"JPEGImages/{name}.jpg")
        np.testing.assert_array_equal(train[i]["mask"], MASKS[name])
        np.testing.assert_array_equal(train[i]["labels"], _hot(*labels))
        assert train[i]["mask"].dtype == np.uint8 and train[i]["labels"].dtype == np.bool_
    validation = _source(home, "validation", masks=masks)
    assert not validation[0]["labels"].any()  # background and void alone


def test_root_may_be_any_of_three_folders(home, monkeypatch):
    for root in (home, home.parent, home.parent.parent):
        assert _source(root).image_paths == _source(home).image_paths
    monkeypatch.chdir(home)
    assert _source(pathlib.Path(".")).image_paths == _source(home).image_paths
    home.rename(home.with_name("VOC2012"))
    assert len(_source(home.parent, year="2012")) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_photo(home, orientation):
    stored = MASKS["000001"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = home / "JPEGImages/000001.jpg"
    Image.fromarray(np.repeat(stored[:, :, None], 3, axis=2)).save(path, format="png", exif=exif)
    example = _source(home, masks="SegmentationClass")[0]
    np.testing.assert_array_equal(example["mask"], example["image"][:, :, 0])
    assert example["mask"].shape == ((2, 3) if orientation < 5 else (3, 2))
    assert (orientation == 1) == np.array_equal(example["mask"], stored)


@pytest.mark.parametrize("masks", ["", "SegmentationClass"])
def test_pickled_and_back(home, masks):
    source = _source(home, masks=masks)
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 2 and again.label_names == voc.LABELS
    for before, after in zip(source, again, strict=True):
        assert set(before) == set(after)
        for key in before:
            np.testing.assert_array_equal(before[key], after[key])


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.sampled_from(voc.LABELS)), st.sampled_from(["utf-8", "utf-16"]))
def test_labels_are_the_set_of_the_names(names, encoding):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.xml")
        path.write_text(_xml(tuple(names)), encoding=encoding)
        labels = voc.read_labels(path)
    assert {name for name, hot in zip(voc.LABELS, labels, strict=True) if hot} == set(names)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.binary(max_size=60), st.sampled_from([b"", b"<annotation>", b"<?xml "]))
def test_any_other_bytes_give_one_clear_line(content, start):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "a.xml")
        path.write_bytes(start + content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            voc.read_labels(path)


# --- What is wrong ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>\n", "cannot read {xml}: no element found: line 3, column 0"),
        ("", "cannot read {xml}: no element found: line 1, column 0"),
        (_xml(("dog", "cta")), "{xml}: unknown object 'cta', valid: aeroplane, bicycle, "),
        ("<annotation><object/></annotation>", "{xml}: unknown object '', valid: aeroplane, "),
        ("<kml/>", "{xml}: the root is <kml>, wanted <annotation>"),
        (
            '<!DOCTYPE a [<!ENTITY b "dog">]><annotation><object><name>&b;</name></object>'
            "</annotation>",
            "cannot read {xml}: it declares a document type, which annotations do not have",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b SYSTEM "{xml}">]><annotation>&b;</annotation>',
            "cannot read {xml}: it declares a document type, which annotations do not have",
        ),
        ("<annotation>&b;</annotation>", "cannot read {xml}: undefined entity: line 1, "),
    ],
)
def test_wrong_xml_is_named(home, content, message):
    xml = home / "Annotations/000001.xml"
    xml.write_text(content.replace("{xml}", str(xml)))
    assert _message(home).startswith(message.format(xml=xml))


def test_missing_files_and_what_to_unpack(home):
    advice = TARS_2007.format(home=home)
    xml, photo = home / "Annotations/000003.xml", home / "JPEGImages/000003.jpg"
    xml.unlink()
    assert _message(home) == f"no annotation {xml} (1 of 2 are missing). {advice}"
    photo.unlink()
    assert _message(home) == f"no image {photo} (1 of 2 are missing). {advice}"
    mask = home / "Grey/000001.png"
    mask.unlink()
    assert _message(home, masks="Grey") == f"no mask {mask} (1 of 2 are missing). {advice}"
    assert _message(home, masks="Gray") == (
        f"cannot read folder {home}/Gray: No such file or directory. {advice}"
    )
    path = home / "ImageSets/Main/trainaug.txt"
    assert _message(home, image_set="trainaug") == f"no list of images {path}. {advice}"
    path = home / "ImageSets/Segmentation/test.txt"
    assert _message(home, "test", masks="Grey") == f"no list of images {path}. {advice}"
    elsewhere = home.parent.parent / "elsewhere"
    folder = elsewhere / "VOCdevkit/VOC2007"
    assert _message(elsewhere) == f"no folder {folder}. {TARS_2007.format(home=folder)}"
    folder = home / "VOCdevkit/VOC2012"  # VOC2007 is not taken for it.
    assert _message(home, year="2012") == (
        f"no folder {folder}. The official files are in http://host.robots.ox.ac.uk/pascal/VOC/"
        f"voc2012/VOCtrainval_11-May-2012.tar: unpack such that {folder} exists"
    )


def test_wrong_lists_and_options(home):
    path = home / "ImageSets/Main/train.txt"
    path.write_text("000001\n000003 -1\n")
    assert _message(home) == f"{path}: wanted one image name a line, found '000003 -1'"
    path.write_text("000001\n000003\n\n000001\n")
    assert _message(home) == f"{path}, line 4: '000001' is in line 1 too"
    path.write_text("\n")
    assert _message(home) == f"{path}: no names of images"
    assert _message(home, year="2011") == "unknown year '2011', valid: '2007', '2012'"
    message = "the test images of VOC 2012 have no public annotations"
    assert _message(home, "test", year="2012") == message
    assert _message(home, year="2012", image_set="test", masks="Grey") == message


def test_wrong_masks(home):
    mask = home / "SegmentationClass/000001.png"
    Image.fromarray(MASKS["000001"] + np.uint8(9)).save(mask)  # 255 wraps round to 8
    assert _message(home, masks="SegmentationClass") == (
        f"mask {mask} holds the value 24: valid are 0, 1 to 20 (1 + label index) and 255"
    )
    Image.fromarray(MASKS["000001"].T.copy()).save(mask)
    assert _message(home, masks="SegmentationClass") == (
        f"mask {mask} is 2x3 pixels, its image 3x2 (width x height, upright)"
    )
    Image.fromarray(_image("000001")).save(mask)  # colours in place of indices
    assert _message(home, masks="SegmentationClass").startswith(f"cannot decode mask {mask}: ")


def test_damaged_photo(home):
    path = home / "JPEGImages/000001.jpg"
    path.write_bytes(path.read_bytes()[:45])
    assert _message(home).startswith(f"cannot decode image {path}: ")


# --- Real data ---


def test_real_objects(real_data):
    source = _source(real_data, year="2012")
    folder = real_data / "VOCdevkit/VOC2012"
    names = (folder / "ImageSets/Main/train.txt").read_text().split()
    assert len(source) == len(names) == 55
    for example, path, name in zip(source, source.image_paths, names, strict=True):
        assert path == str(folder / f"JPEGImages/{name}.jpg")
        text = (folder / f"Annotations/{name}.xml").read_text()
        found = set(re.findall("<name>(.*?)</name>", text)) - {"head", "hand", "foot"}
        np.testing.assert_array_equal(example["labels"], _hot(*found))
        size = tuple(int(re.search(f"<{key}>(.*?)</", text)[1]) for key in ("height", "width"))
        assert example["image"].shape == (*size, 3)


def test_real_masks(real_data):
    source = _source(real_data, year="2012", masks="SegmentationClass")
    folder = real_data / "VOCdevkit/VOC2012"
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    assert len(source) == len(names) == 49
    for example, name in zip(source, names, strict=True):
        with Image.open(folder / f"SegmentationClass/{name}.png") as stored:
            mask = np.array(stored)
        np.testing.assert_array_equal(example["mask"], mask)
        shown = set(mask.ravel().tolist()) - {0, 255}
        assert set(1 + np.flatnonzero(example["labels"])) == shown and shown
        if (folder / f"Annotations/{name}.xml").exists():
            text = (folder / f"Annotations/{name}.xml").read_text()
            assert all(f"<name>{voc.LABELS[value - 1]}</name>" in text for value in shown)
