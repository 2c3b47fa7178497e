from __future__ import annotations

import pytest

from minmax_jax.photos.labels import choose_labels, read_names

NAMES = ("tench, Tinca tinca", "goldfish", "crane", "crane", "maillot", "maillot, tank suit", "Cat")
NAMES += ("cat", "hot dog, red hot", "3")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tench, Tinca tinca\ngoldfish\ncaf\u00e9\n", "names.txt"),
        ("\ufefftench, Tinca tinca\r\n  goldfish\r\ncaf\u00e9\r\n\r\n", "names.txt"),
        ("tench, Tinca tinca\ngoldfish\ncaf\u00e9\n", "names.csv"),  # a name a line, as it stands
        ('"tench, Tinca tinca"\ngoldfish\ncaf\u00e9\n', "names.csv"),
        ('name\n"tench, Tinca tinca"\ngoldfish\ncaf\u00e9\n', "names.CSV"),
        ('id,Name\n2,caf\u00e9\n0,"tench, Tinca tinca"\n1,goldfish\n', "names.csv"),
        ('label,colour\n"tench, Tinca tinca",x\ngoldfish,y\ncaf\u00e9,z\n', "names.csv"),
    ],
)
def test_names_files(tmp_path, text, name):
    (tmp_path / name).write_bytes(text.encode())
    names = read_names(str(tmp_path / name), 3)
    assert names == ("tench, Tinca tinca", "goldfish", "caf\u00e9")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a\nb\n", "x.txt", "x.txt has 2 names for 3 labels"),
        ("a\n\nb\n", "x.txt", "x.txt: the name of label 1 is empty"),
        ("id,name\n0,a\n1,b\n1,c\n", "x.csv", "indices are not 0 to 2, each once"),
        ("id,name\n0,a\nx,b\n1,c\n", "x.csv", "x.csv: a row has no name or no index"),
        ("", "x.csv", "x.csv has 0 names for 3 labels"),
    ],
)
def test_wrong_names_files(tmp_path, text, name, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(str(tmp_path / name), 3)


def test_missing_and_binary_names_files(tmp_path):
    with pytest.raises(ValueError, match="cannot read names of labels from .*none.txt"):
        read_names(str(tmp_path / "none.txt"), 3)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot read names of labels from .*x.txt"):
        read_names(str(tmp_path / "x.txt"), 3)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("tench, Tinca tinca", (0,)),  # a whole name first
        ("goldfish, tench", (1, 0)),
        ("TINCA TINCA,Goldfish", (0, 1)),
        ("tench, Tinca tinca, goldfish", (0, 1)),
        ("maillot", (4,)),  # the whole name before another's synonym
        ("tank suit", (5,)),
        ("Cat", (6,)),
        ("cat", (7,)),
        ("3", (9,)),  # a name before an index
        ("2, 0", (2, 0)),
        ("goldfish,goldfish, 1", (1,)),
        ("red hot", (8,)),
    ],
)
def test_chosen_labels(text, indices):
    assert choose_labels(text, NAMES) == indices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"label 'crane' may be 2 \(crane\), 3 \(crane\); give the index"),
        ("goldfsh", "unknown label 'goldfsh' of 10; near: goldfish"),
        ("goldfish,zzzz", "unknown label 'zzzz' of 10; no name is near"),
        ("CAT", r"label 'CAT' may be 6 \(Cat\), 7 \(cat\)"),
        ("10", "unknown label '10'"),
        (" , ", "no label named by"),
    ],
)
def test_labels_that_are_not_clear(text, message):
    with pytest.raises(ValueError, match=message) as error:
        choose_labels(text, NAMES)
    assert "\n" not in str(error.value)
