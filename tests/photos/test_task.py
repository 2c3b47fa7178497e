"""The task from its config: what is asked for, what is refused, and the page that tells it."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest

from minmax_jax.config import photos_config
from minmax_jax.photos import page, task
from minmax_jax.pretrained import Loaded
from minmax_jax.run import run
from tests import toys

from . import toy_run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def loaded(monkeypatch):
    """What loading weights gives: a dict of `Loaded`'s fields that a test may change."""
    fields = {
        "network": toy_run.network(),
        "variables": toys.toy_variables(),
        "notes": ("a note",),
        "label_names": toy_run.NAMES,
        "activation": "softmax",
        "has_head": True,
    }
    monkeypatch.setattr(task, "load_network", lambda address, **options: Loaded(**fields))
    return fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    toy_run.make_photos(folder, 5)
    (folder / "<img src=x>&amp;.jpg").write_text("not a picture")
    return folder


def config_for(folder, **fields):
    config = photos_config()
    config.images = str(folder)
    config.network.weights = "weights.h5"
    config.methods = ("cam", "minmax_cam")
    config.batch_size = 2
    config.title = "Holiday <2026>"
    config.update(fields)
    return config


def labels_in(workdir):
    with open(workdir / "summary.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(pathlib.Path(row["photo"]).name, row["label"], row["name"]) for row in rows]


def probabilities(folder, name):
    with np.load(folder / name / "maps.npz") as arrays:
        return arrays["labels"], arrays["probabilities"]


def test_results(tmp_path, folder, loaded, capsys):
    run(config_for(folder), tmp_path)
    printed = capsys.readouterr().out
    assert "weights.h5: a note" in printed and "1 of 6 photos could not be explained" in printed
    assert "<img src=x>&amp;.jpg: cannot identify" in printed
    assert f"report: {tmp_path / 'report' / 'index.html'}" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "photos", "report", "skipped.json", "summary.csv"}
    (entry,) = json.loads((tmp_path / "skipped.json").read_text())
    assert entry["photo"].endswith("amp;.jpg") and "cannot identify" in entry["reason"]
    rows = labels_in(tmp_path)
    assert [row[0] for row in rows] == [f"{i:03d}.png" for i in range(5) for _ in range(3)]
    assert all(toy_run.NAMES[int(index)] == name for _, index, name in rows)
    _, values = probabilities(tmp_path / "photos", "000")
    assert (np.diff(values) <= 0).all() and values.sum() < 1


def test_page(tmp_path, folder, loaded, monkeypatch):
    """Every text is escaped, every link leads to a file, many photos have many pages."""
    monkeypatch.setattr(page, "PER_PAGE", 2)
    run(config_for(folder), tmp_path)
    pages = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert pages == ["index-2.html", "index-3.html", "index.html"]
    linked = set()
    for name in pages:
        html = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "Holiday &lt;2026&gt;" in html and "MinMax-CAM" in html
        assert "<b>evil" not in html and "<img src=x>" not in html and "Holiday <" not in html
        assert "&lt;img src=x&gt;&amp;amp;.jpg" in html  # told on every page
        for link in re.findall(r'(?:href|src)="([^"#]+)"', html):
            if not link.startswith("data:"):
                target = tmp_path / "report" / urllib.parse.unquote(link)
                assert target.is_file(), link
                linked.add(target.resolve())
        assert html.count('loading="lazy"') == html.count("<img")
        assert html.count("<img") == (1 if name == "index-3.html" else 2)
    pictures = {path.resolve() for path in (tmp_path / "photos").glob("*/*.[jp][pn]g")}
    assert pictures <= linked
    monkeypatch.undo()
    page.write_page(tmp_path, title="again")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("fields", "activation", "labels"),
    [
        ({"top": 1}, "softmax", {1}),
        ({"top": 9}, "softmax", {4}),
        ({"labels": "日本,0"}, "softmax", {2}),
        ({"activation": "sigmoid", "threshold": 1e-6}, "softmax", {4}),
        ({"threshold": 1e-6, "at_most": 2}, "sigmoid", {2}),
        ({"threshold": 1 - 1e-6}, "sigmoid", {0}),
    ],
)
def test_which_labels(tmp_path, folder, loaded, fields, activation, labels):
    loaded["activation"] = activation
    run(config_for(folder / "00*.png", **fields), tmp_path)
    counts = {len(probabilities(tmp_path / "photos", f"{i:03d}")[0]) for i in range(5)}
    assert counts == labels


def test_score_cam_whatever_its_chunk(tmp_path, folder, loaded):
    """Chosen by the program, or given."""
    found = []
    for mask_chunk in (0, 5):
        workdir = tmp_path / str(mask_chunk)
        fields = {"methods": ("score_cam",), "mask_chunk": mask_chunk, "labels": "0,1,2,3"}
        run(config_for(folder / "000.png", **fields), workdir)
        with np.load(workdir / "photos" / "000" / "maps.npz") as arrays:
            found.append(arrays["maps/score_cam"])
    assert config_for(folder).mask_chunk == 0 and found[0].max() > 0.01
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_probabilities_are_those_of_the_activation(tmp_path, folder, loaded):
    found = {}
    for activation in ("softmax", "sigmoid"):
        workdir = tmp_path / activation
        run(config_for(folder / "000.png", activation=activation, labels="0,1,2,3"), workdir)
        found[activation] = probabilities(workdir / "photos", "000")[1].astype(float)
    assert found["softmax"].sum() == pytest.approx(1, abs=1e-5)
    odds = found["sigmoid"] / (1 - found["sigmoid"])
    np.testing.assert_allclose(odds / odds.sum(), found["softmax"], rtol=1e-4)


def test_names_from_a_file_and_without_any(tmp_path, folder, loaded):
    names = tmp_path / "names.txt"
    names.write_text("tench, Tinca tinca\ndog, hound\ncat\nbird\n", encoding="utf-8")
    run(config_for(folder / "000.png", names=str(names), labels="hound"), tmp_path / "named")
    assert labels_in(tmp_path / "named") == [("000.png", "1", "dog, hound")]
    assert (tmp_path / "named" / "photos" / "000" / "1_dog_hound_cam.png").is_file()
    loaded["label_names"] = None
    run(config_for(folder / "000.png", labels="3"), tmp_path / "bare")
    assert labels_in(tmp_path / "bare") == [("000.png", "3", "3")]


def test_a_rerun_tells_the_same(tmp_path, folder, loaded):
    config = config_for(folder)
    run(config, tmp_path)
    pages = (tmp_path / "report" / "index.html").read_bytes()
    summary = (tmp_path / "summary.csv").read_bytes()
    run(config, tmp_path)
    run(config, tmp_path, stages=["report"])
    assert (tmp_path / "report" / "index.html").read_bytes() == pages
    assert (tmp_path / "summary.csv").read_bytes() == summary
    with pytest.raises(ValueError, match="Fields that differ .*: top: 3, 2"):
        run(config_for(folder, top=2), tmp_path)


def test_no_photo_can_be_read(tmp_path, folder, loaded):
    with pytest.raises(ValueError, match="^none of 1 photos could be explained; .*cannot identify"):
        run(config_for(folder / "*.jpg"), tmp_path)
    assert len(json.loads((tmp_path / "skipped.json").read_text())) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": ""}, "no photos named"),
        ({"images": "none/*.jpg"}, "no photo matches 'none/*.jpg'"),
        ({"methods": ("cma",)}, "unknown method 'cma'"),
        ({"methods": ()}, "no method given"),
        ({"resize": "stretch"}, "unknown resize 'stretch'"),
        ({"activation": "tanh"}, "unknown activation 'tanh'; valid: auto, sigmoid, softmax"),
        ({"threshold": 2.0}, "threshold must be in (0, 1), not 2.0"),
        ({"labels": "evl"}, "unknown label 'evl' of 4"),
        ({"names": "none.txt"}, "cannot read names of labels from none.txt"),
        ({"top": 0}, "top must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"image_size": -1}, "image_size must be at least 0, not -1"),
        ({"mask_chunk": -1}, "mask_chunk must be at least 1, not -1"),
        ({"task": "photo"}, "unknown task 'photo'; tasks: experiment, pairs, photos"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    tmp_path, folder, loaded, fields, message
):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run(config_for(folder, **fields), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_without_its_head_explains_nothing(tmp_path, folder, loaded):
    loaded["has_head"] = False
    with pytest.raises(ValueError, match="weights.h5 holds no head"):
        run(config_for(folder), tmp_path / "run")
    config = config_for(folder)
    config.network.weights = ""
    with pytest.raises(ValueError, match="no weights named"):
        run(config, tmp_path / "run")


def test_stages(tmp_path, folder, loaded):
    with pytest.raises(ValueError, match=r"unknown stages \['train'\]; stages: explain, report"):
        run(config_for(folder), tmp_path / "run", stages=["train"])
    with pytest.raises(ValueError, match="run the explain stage first"):
        run(config_for(folder), tmp_path / "run", stages=["report"])
    assert not (tmp_path / "run").exists()
    run(config_for(folder), tmp_path / "run", stages=["explain"])
    assert not (tmp_path / "run" / "report").exists()


def test_experiment():
    """The command of its docstring, but for the files that it names."""
    command = [sys.executable, "launch.py", "--config", "experiments/photos.py"]
    command += ["--config.images=none/*.jpg", "--config.labels=dog,cat", "--workdir", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "error: no photo matches 'none/*.jpg'\n"


def test_real_photos(tmp_path, real_data):
    """ImageNet's own photos by a widespread file: most are what their file names say."""
    config = photos_config()
    config.images = str(real_data / "imagenet_sample20")
    config.network.weights = str(next((real_data / "weights").glob("mobilenet_v2_weights_*.h5")))
    config.network.name = "mobilenet_v2"
    config.names = str(real_data / "weights" / "imagenet_labels.txt")
    config.resize = "crop"  # as in training: the whole photo, smaller, gets 16 right
    run(config, tmp_path)
    rows = labels_in(tmp_path)
    assert len(rows) == 20 * 3
    right = [int(name[:3]) == int(index) for name, index, _ in rows[::3]]
    assert sum(right) >= 17
