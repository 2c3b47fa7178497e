"""The command line: one clear line for whatever is wrong, and nothing lost."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from launch import unknown_field

ROOT = pathlib.Path(__file__).parents[1]
SCENES = ["--config", "experiments/scenes.py"]


def launch(*arguments):
    return subprocess.run(
        [sys.executable, "launch.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SCENES, "--config.network.nme=x"], "no field 'network.nme'; fields there: alpha"),
        (["--config", "experiments/scenes.py:foo"], "unknown variant 'foo'; variants: plain"),
        (["--config", "experiments/none.py"], "experiments/none.py"),
        ([*SCENES, "--config.evaluate.methods=('foo',)"], "methods: cam, grad_cam"),
    ],
)
def test_wrong_names_are_answered_with_the_valid_ones(tmp_path, arguments, message):
    done = launch(*arguments, "--workdir", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no python", "SyntaxError: "),
        ("import none_such", "ModuleNotFoundError: No module named 'none_such'"),
        ("config = 1", "KeyError: 'get_config'"),
        ("def get_config():\n    return nme", "NameError: name 'nme' is not defined"),
    ],
)
def test_a_config_that_cannot_be_loaded_is_told_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    told = unknown_field(["launch.py", f"--config={path}"])
    assert told.startswith(f"cannot load the config {path}: {message}") and "\n" not in told


def test_workdir_of_another_config_stays_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 7}))
    done = launch(*SCENES, "--workdir", tmp_path, "--stages=report")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "seed: 7, 0" in done.stderr and "another --workdir" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
