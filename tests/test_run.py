"""The stages together: what they write, what they skip, and what a killed run ends with."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from minmax_jax.config import default_config, photos_config
from minmax_jax.data import create_source
from minmax_jax.models import create_network
from minmax_jax.pretrained import load_network
from minmax_jax.run import run
from minmax_jax.train import restore_best

METHODS = ("cam", "score_cam", "d_minmax_grad_cam")


def tiny_config():
    """Two variants on a handful of small scenes."""
    config = default_config()
    config.data.train.size = 24
    config.data.validation.size = 10
    config.data.image_size = 32
    config.train.batch_size = 8
    config.train.stages = [{"epochs": 2, "learning_rate": 0.1, "unfrozen": 1.0}]
    config.evaluate.batch_size = 4
    config.evaluate.mask_chunk = 16
    config.evaluate.methods = METHODS
    config.evaluate.present = "annotated"
    config.report.photos = 2
    config.variants = {"plain": {}, "regularised": {"network": {"head": "kur", "alpha": 10.0}}}
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tiny_config(), tmp_path_factory.mktemp("run"))


def test_a_run_is_weights_for_others(finished):
    loaded = load_network(finished / "regularised", key=jax.random.key(1))
    assert loaded.has_head and loaded.notes == () and loaded.activation == "sigmoid"
    assert loaded.label_names == create_source("scenes", "validation", size=1).label_names
    config = tiny_config().network
    network = create_network(config.name, num_labels=10, head="kur", alpha=10.0)
    assert loaded.network.preprocess == network.preprocess
    best = restore_best(finished / "regularised", network)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, best)
    images = np.zeros((1, 32, 32, 3), np.float32)
    expected, _ = jax.jit(network.apply)(best, images)
    logits, _ = jax.jit(loaded.network.apply)(loaded.variables, images)
    np.testing.assert_array_equal(logits, expected)


def test_results_have_the_promised_form(finished):
    assert json.loads((finished / "config.json").read_text())["evaluate"]["threshold"] == 0.15
    source = create_source("scenes", "validation", size=10)
    labels = np.stack([source[i]["labels"] for i in range(10)])
    for variant in ("plain", "regularised"):
        classification = json.loads((finished / variant / "classification.json").read_text())
        assert set(classification) == {"f1", "f2", "map", "label_names"}
        assert len(classification["label_names"]) == 10
        assert set(classification["f2"]) == {"macro", "micro", "weighted", "per_label"}
        evaluation = json.loads((finished / variant / "evaluation.json").read_text())
        assert set(evaluation) == {"label_names", "settings", "passes", "seconds", "methods"}
        assert evaluation["settings"]["images"] == 10
        assert evaluation["settings"]["images_skipped"] == 0
        assert tuple(evaluation["methods"]) == METHODS
        for result in evaluation["methods"].values():
            # With annotated labels the pairs are known without any network.
            assert result["pairs"] == labels.sum(axis=0).tolist()
            assert {"f1_minus", "f1_plus", "iou"} <= set(result["macro"])
            assert len(result["per_label"]["average_drop"]) == 10
            assert result["seconds"] > 0
    page = (finished / "report" / "index.html").read_text()
    assert "D-MinMax-Grad-CAM" in page


def test_finished_stages_are_skipped(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/*.*")}
    page = finished / "report" / "index.html"
    run(tiny_config(), finished)
    for path, changed in before.items():
        assert path == page or path.stat().st_mtime_ns == changed, path
    printed = capsys.readouterr().out
    assert "plain: trained already" in printed and f"report: {page}" in printed


def test_further_stages_run_where_they_are_named(finished):
    """And follow their own fields, which are no other config for what is there."""
    assert not (finished / "analysis").exists()
    config = tiny_config()
    config.masks.split = "validation"
    config.masks.method = "cam"
    for top in (3, 2):
        config.analyze.top = top
        run(config, finished, stages=("masks", "analyze"))
        found = json.loads((finished / "analysis" / "analysis.json").read_text())
        assert found["top"] == top and set(found["heads"]) == {"plain", "regularised"}
    masks = finished / "plain" / "pseudo_masks"
    names = (masks / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    assert len(names) == 10
    assert all((masks / "SegmentationClass" / f"{name}.png").is_file() for name in names)
    with pytest.raises(ValueError, match="stages: train, evaluate, report, masks, sanity, analyze"):
        run(config, finished, stages=("mask",))


def test_other_config_changes_nothing(finished):
    config = tiny_config()
    config.train.stages[0]["learning_rate"] = 0.2
    config.seed = 3
    before = {path: path.read_bytes() for path in finished.glob("*/*.json")}
    with pytest.raises(ValueError, match=r"seed: 0, 3; train.stages\[0\].learning_rate: 0.1, 0.2"):
        run(config, finished)
    assert before == {path: path.read_bytes() for path in finished.glob("*/*.json")}


def test_workdir_of_another_task(tmp_path):
    """Which has other fields throughout: only the task is told."""
    (tmp_path / "config.json").write_text(photos_config().to_json())
    with pytest.raises(ValueError, match="Fields that differ .*: task: 'photos', 'experiment'$"):
        run(tiny_config(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"name": "foo"}}, "scenes_resnet"),
        ({"network": {"head": "foo"}}, "kur"),
        ({"network": {"weights": "none.h5"}}, "none.h5"),
        ({"train": {"loss": "softmax"}}, "train.loss softmax: evaluate, report take labels one by"),
        ({"train": {"optimizer": "foo"}}, "unknown optimizer 'foo', valid: sgd, adam"),
        ({"train": {"stages": [{"unfrozen": 2.0}]}}, "unfrozen must be a fraction in 0..1"),
        ({"train": {"accumulate": 0}}, "train.accumulate must be at least 1, not 0"),
        ({"evaluate": {"batch_size": 0}}, "evaluate.batch_size must be at least 1, not 0"),
        ({"report": {"photos": 0}}, "report.photos must be at least 1, not 0"),
        ({"data": {"source": "foo"}}, "scenes, csv"),
        ({"data": {"options": {"foo": 1}}}, "'foo', valid: size, seed"),
        ({"data": {"resize": "foo"}}, "letterbox"),
        ({"evaluate": {"methods": ("foo",)}}, "unknown method 'foo'; methods: cam"),
        ({"evaluate": {"present": "foo"}}, "detected, annotated"),
        ({"evaluate": {"fill": "foo"}}, "zero, blur"),
        ({"evaluate": {"iou": "foo"}}, "pooled, per_image"),
    ],
)
def test_wrong_names_are_found_before_anything_is_written(tmp_path, change, message):
    config = tiny_config()
    config.variants = {"only": change}
    with pytest.raises(ValueError, match=re.escape(message)):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_variants_of_different_labels_share_no_report(tmp_path, photos):
    config = tiny_config()
    of_photos = {"source": "csv", "train": {}, "validation": {}}
    of_photos["options"] = {
        "root": str(photos),
        "train_csv": "labels.csv",
        "validation_csv": "labels.csv",
    }
    config.data.train, config.data.validation = {}, {}
    config.variants = {"photos": {"data": of_photos}, "scenes": {}}
    with pytest.raises(ValueError, match="photos and scenes have different labels"):
        run(config, tmp_path / "run", stages=["evaluate"])


def test_stages_need_their_input(tmp_path):
    with pytest.raises(ValueError, match="run the train stage first"):
        run(tiny_config(), tmp_path, stages=["evaluate"])
    with pytest.raises(ValueError, match="unknown stages"):
        run(tiny_config(), tmp_path, stages=["foo"])


@pytest.fixture
def photos(tmp_path):
    """A folder of six photos of two colours, and weights for the network that explains them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    rows = ["image,labels"]
    for index in range(6):
        image = rng.integers(0, 60, (40, 50, 3), np.uint8)
        image[:, :, index % 2] += 150
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        rows.append(f"{index}.png,{('<b>red', 'green')[index % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("train", {"batch_size": 12}, "train.batch_size over train.accumulate: 12 rows"),
        ("train", {"batch_size": 16, "accumulate": 4}, "over train.accumulate: 4 rows"),
    ],
)
def test_rows_that_the_devices_cannot_share(tmp_path, section, fields, message):
    config = tiny_config()
    config[section].update(fields)
    with pytest.raises(ValueError, match=f"{message} cannot be split evenly over 8 devices"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_of_photos_skips_and_counts_damaged_ones(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # five photos are few
    (photos / "images" / "3.png").write_bytes(b"not a picture")
    config = tiny_config()
    config.data.source = "csv"
    config.data.train = {}
    config.data.validation = {}
    config.data.options = {
        "root": str(photos),
        "train_csv": "labels.csv",
        "validation_csv": "labels.csv",
    }
    config.train.batch_size = 2
    config.variants = {"plain": {"evaluate": {"methods": ("cam",)}}}
    with pytest.raises(ValueError, match="3.png"):
        run(config, tmp_path / "run")
    config.data.options.on_error = "skip"
    folder = run(config, tmp_path / "other")
    evaluation = json.loads((folder / "plain" / "evaluation.json").read_text())
    assert evaluation["settings"]["images_skipped"] == 1
    assert evaluation["settings"]["images"] == 5
    assert "iou" not in evaluation["methods"]["cam"]["macro"]
    assert "<b>red" not in (folder / "report" / "index.html").read_text()


def test_photos_are_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="one process"):
        run(photos_config(), tmp_path / "run")
