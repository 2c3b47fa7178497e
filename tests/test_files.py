from __future__ import annotations

import json
import math
import stat
import threading

import pytest

from minmax_jax import files


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "new" / "deep" / "file.bin"

    def write(file):
        file.write(b"first ")
        assert not path.exists()
        file.write(b"second")

    files.write_atomically(path, write)
    assert path.read_bytes() == b"first second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_no_rest(error, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"a part")
        raise error

    with pytest.raises(error):
        files.write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_reader_sees_one_version_or_the_other(tmp_path):
    """While a file is replaced again and again, each reading is of one whole version."""
    path = tmp_path / "file.bin"
    versions = [bytes([number]) * 200_000 for number in range(2)]
    path.write_bytes(versions[0])
    done = threading.Event()

    def replace():
        for number in range(60):
            files.write_atomically(path, lambda file, n=number: file.write(versions[n % 2]))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(versions)


def test_json_comes_back(tmp_path):
    value = {"a": [1, 0.5, None, True], "ü": {"nested": "<b>"}}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == value and text.endswith("}\n") and "\n" in text[:-1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(value, tmp_path):
    files.write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"a": value})
    assert files.read_json(tmp_path / "x.json") == 1
