from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from minmax_jax.photos import listing

TEXTS = [
    "IMG_0001",
    "tench, Tinca tinca",
    "../../etc/passwd",
    "a/b\\c:d*e?f",
    "\u65e5\u672c\u8a9e \u5199\u771f",
    "e\u0301t\u00e9",
    "x" * 300,
    "\U0001f600" * 100,
    "\u00e9" * 200,
    "a\udcff",
    "a\nb\x00c",
    "...",
    "",
    ".hidden",
    "-rf",
    "<b>&amp;",
]


@pytest.mark.parametrize("text", TEXTS)
def test_safe_names_are_one_file_in_the_folder(tmp_path, text):
    name = listing.safe_name(text)
    assert name and len(name.encode()) <= 80
    assert name == listing.safe_name(name)
    assert not set(name) & set('/\\:*?"<>|\n\x00 ,') and name[0] not in ".-"
    (tmp_path / name).write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_safe_names_stay_readable():
    assert listing.safe_name("tench, Tinca tinca") == "tench_Tinca_tinca"
    assert listing.safe_name("IMG_0001.2") == "IMG_0001.2"
    assert listing.safe_name("\u65e5\u672c\u8a9e") == "\u65e5\u672c\u8a9e"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("b/2.jpg", "b/10.PNG", "b/notes.txt", "b/c/3.jpeg", "x, y.jpg", "a[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("b", ["b/10.PNG", "b/2.jpg"]),
        ("b/", ["b/10.PNG", "b/2.jpg"]),
        ("b/*.jpg", ["b/2.jpg"]),
        ("b/*", ["b/10.PNG", "b/2.jpg", "b/notes.txt"]),  # named by a pattern, so meant
        ("**/*.jp*g", ["a[1].jpg", "b/2.jpg", "b/c/3.jpeg", "x, y.jpg"]),
        ("x, y.jpg", ["x, y.jpg"]),
        ("a[1].jpg", ["a[1].jpg"]),
        ("b/2.jpg, b/c", ["b/2.jpg", "b/c/3.jpeg"]),
        ("b/2.jpg,b/*.jpg,./b/2.jpg", ["b/2.jpg"]),
    ],
)
def test_found_photos(tree, patterns, found):
    assert [os.path.normpath(path) for path in listing.find_photos(patterns)] == found


@pytest.mark.parametrize("patterns", ["none/*.jpg", "b/*.jpg,none.jpg", "b/c/d"])
def test_patterns_that_match_nothing(tree, patterns):
    with pytest.raises(ValueError, match="no photo matches '(none|b/c/d)"):
        listing.find_photos(patterns)
    with pytest.raises(ValueError, match="no photos named"):
        listing.find_photos(" ")


def finish(folder, path):
    folder.mkdir(parents=True)
    np.savez(folder / listing.MAPS, photo=listing.printable(path))


def test_folders_of_photos_with_one_name(tmp_path):
    paths = ["a/img.jpg", "a/img.png", "b/IMG.jpg", "b/other.jpg", "c/" + "x" * 200 + "1.jpg"]
    paths.append("c/" + "x" * 200 + "2.jpg")
    folders = listing.assign_folders(paths, tmp_path)
    names = [folders[path].name for path in paths]
    assert names[0] == "img" and names[3] == "other"
    assert len({name.casefold() for name in names}) == len(paths)
    assert listing.assign_folders(paths, tmp_path) == folders


def test_a_photo_keeps_its_folder_when_more_come(tmp_path):
    before = listing.assign_folders(["b/img.jpg", "c/img.jpg"], tmp_path)
    for path, folder in before.items():
        finish(folder, path)
    after = listing.assign_folders(["a/img.jpg", "b/img.jpg", "c/img.jpg"], tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(set(after.values())) == 3
    assert listing.owner_of(after["b/img.jpg"]) == "b/img.jpg"
    assert listing.owner_of(after["a/img.jpg"]) is None


def test_names_that_are_no_unicode(tmp_path):
    path = os.fsdecode(b"photos/\xff\xfe.jpg")
    folder = listing.assign_folders([path], tmp_path)[path]
    finish(folder, path)
    assert listing.owner_of(folder) == listing.printable(path)
    assert listing.printable(path).encode() and pathlib.Path(folder.name).name == folder.name
