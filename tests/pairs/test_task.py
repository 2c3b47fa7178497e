"""The task `pairs`, stage by stage, on a handful of scenes; what a stopped run ends with.

The runs are slow, as every network of every variant is compiled.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from minmax_jax.config import pairs_config
from minmax_jax.data import create_source
from minmax_jax.pairs.files import read_pair
from minmax_jax.pairs.selection import select_classes
from minmax_jax.pretrained import load_network
from minmax_jax.run import run

CLASSES = ("zero", "two", "four", "six")
MODES = ("random-2", "rank-1,3", "cluster-1", "all", "top-1")
VARIANTS = ("full", "frozen", "acol")


def tiny_config():
    config = pairs_config()
    config.data.classes = CLASSES
    config.data.train.size = 60
    config.data.validation.size = 30
    config.data.image_size = 32
    config.train.batch_size = 8
    config.train.stages = [{"epochs": 1, "learning_rate": 1e-3, "unfrozen": 1.0}]
    config.pairs.modes = MODES
    config.pairs.num_clusters = 2
    config.pairs.max_epochs = 2
    config.pairs.batch_size = 8
    config.evaluate.batch_size = 4
    config.report.photos = 3
    config.variants = {
        "full": {},
        "frozen": {"pairs": {"frozen": True, "learning_rate": 0.01, "similarity_from": "full"}},
        "acol": {
            "network": {"head": "acol"},
            "pairs": {"modes": ()},
            "evaluate": {"methods": ("acol_cam",)},
        },
    }
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tiny_config(), tmp_path_factory.mktemp("pairs"))


def read(path):
    return json.loads(path.read_text())


def scenes(split, size):
    """Images, labels of the chosen classes and masks, straight from the data set."""
    source = create_source("scenes", split, size=size)
    columns = [source.label_names.index(name) for name in CLASSES]
    examples = [source[i] for i in range(size)]
    return examples, np.stack([example["labels"][columns] for example in examples])


@pytest.mark.slow
def test_the_similarity_is_the_sum_of_the_probabilities_of_single_label_images(finished):
    _, labels = scenes("train", 60)
    single = np.flatnonzero(labels.sum(axis=1) == 1)
    (store,) = (finished / "examples").glob("train-*")
    photos = np.load(store / "image.npy")[single]
    loaded = load_network(finished / "full" / "all", key=jax.random.key(0))
    assert loaded.activation == "softmax"
    logits, _ = loaded.network.apply(loaded.variables, loaded.network.preprocess(photos))
    logits = np.asarray(logits, np.float64)
    expected = np.zeros((4, 4))
    for row, label in zip(logits, labels[single].argmax(axis=1), strict=True):
        expected[label] += np.exp(row) / np.exp(row).sum()
    for variant in ("full", "frozen"):
        with np.load(finished / variant / "similarity.npz") as found:
            np.testing.assert_allclose(found["similarity"], expected, rtol=1e-4)
            np.testing.assert_array_equal(found["images"], labels[single].sum(axis=0))
            assert len(set(found["clusters"].tolist())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["full", "frozen"])
def test_every_pair_and_row_is_there(finished, variant):
    folder = finished / variant
    _, labels = scenes("train", 60)
    pairs = read(folder / "pairs.json")
    assert [row["classes"] for row in pairs["pairs"]] == [
        [i, j] for i in range(4) for j in range(i + 1, 4)
    ]
    for row in pairs["pairs"]:
        i, j = row["classes"]
        assert row["examples"] == sum(a != b for a, b in labels[:, [i, j]].tolist())
        assert row["converged"] == (row["accuracy"] > 0.95)
        assert 1 <= row["epochs"] <= 2
    selections = read(folder / "selections.json")
    assert set(selections) == set(MODES)
    assert [len(others) for others in selections["rank-1,3"]] == [2] * 4
    evaluation = read(folder / "evaluation.json")
    rows = evaluation["rows"]
    assert set(rows) == {"cam", "grad_cam", "grad_cam+A"} | {
        f"{mode}{layer}+F" for mode in MODES for layer in ("", "+A")
    }
    table = evaluation["table_1"]["last"]
    oracle = select_classes(np.zeros((4, 4)), mode="top-1", scores=table)
    assert selections["top-1"] == oracle
    for label, [best] in enumerate(oracle):
        others = [table[s][label] for s in range(4) if s != label]
        assert table[best][label] == max(others)
        # Fused over one class, a map is itself.
        assert rows["top-1+F"]["pooled"]["per_label"][label] == pytest.approx(max(others), abs=1e-6)


@pytest.mark.slow
def test_scored_are_the_images_that_show_a_class(finished):
    examples, labels = scenes("validation", 30)
    evaluation = read(finished / "full" / "evaluation.json")
    assert evaluation["label_names"] == list(CLASSES)
    assert evaluation["images"] == labels.sum(axis=0).tolist()
    assert evaluation["thresholds"][:3] == [0.0, 0.01, 0.02]
    assert len(examples) == 30


@pytest.mark.slow
def test_a_network_without_pairs_has_its_own_rows_alone(finished):
    evaluation = read(finished / "acol" / "evaluation.json")
    assert set(evaluation["rows"]) == {"acol_cam"}
    assert evaluation["table_1"] is None
    assert not (finished / "acol" / "pairs").exists()


@pytest.mark.slow
def test_the_gallery_shows_photos_and_their_objects(finished):
    with np.load(finished / "full" / "gallery.npz") as arrays:
        arrays = dict(arrays)
    (store,) = (finished / "examples").glob("validation-*")
    photos, masks = np.load(store / "image.npy"), np.load(store / "mask.npy")
    assert arrays["images"].shape == (3, 32, 32, 3)
    for photo, label, visible in zip(
        arrays["images"], arrays["labels"], arrays["objects"], strict=True
    ):
        (index,) = np.flatnonzero((photos == photo).all(axis=(1, 2, 3)))
        np.testing.assert_array_equal(visible == 1, masks[index] == label + 1)
        assert visible.any()
    for name in ("pair_maps", "fused", "layers", "adding", "multi", "baseline"):
        assert np.isfinite(arrays[name]).all() and arrays[name].max() <= 1, name
    # Of the first comparison class: the sum of its layers, and that times the last.
    layers = arrays["layers"].astype(np.float64)
    for made, expected in (("adding", layers.sum(1)), ("multi", layers.sum(1) * layers[:, -1])):
        low, high = expected.min((1, 2), keepdims=True), expected.max((1, 2), keepdims=True)
        expected = (expected - low) / np.where(high > low, high - low, 1)
        np.testing.assert_allclose(arrays[made], expected, atol=5e-3)


@pytest.mark.slow
def test_the_page_and_a_second_run(finished, capsys):
    page = (finished / "report" / "index.html").read_text()
    assert all(name in page for name in (*CLASSES, *VARIANTS))
    run(tiny_config(), finished)
    printed = capsys.readouterr().out
    for variant in VARIANTS:
        assert f"{variant}: trained already" in printed
        assert f"{variant}: evaluated already" in printed
    assert "full: pairs trained already" in printed


@pytest.mark.slow
def test_what_is_missing_is_made_again_and_nothing_else(finished):
    folder = finished / "full"
    names = ("pairs.json", "evaluation.json", "gallery.npz", "similarity.npz")
    before = read(folder / "evaluation.json")
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "pairs").iterdir()}
    lost = folder / "pairs" / "000-002.safetensors"
    content = read_pair(folder / "pairs", 0, 2)
    for path in (lost, *(folder / name for name in names)):
        path.unlink()
    run(tiny_config(), finished)
    again = read_pair(folder / "pairs", 0, 2)
    assert again[1:] == content[1:]
    jax.tree.map(np.testing.assert_array_equal, again.variables, content.variables)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "pairs").iterdir()}
    assert {name for name in after if after[name] != kept[name]} == {lost.name}
    assert read(folder / "evaluation.json") == before


def changed(path, value):
    config = tiny_config()
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.unlocked():
        node[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pairs.modes", ("cluster-0", "cluster-1"), "cluster-0"),
        ("pairs.modes", ("rank-4", "cluster-1"), "at most 3, of 4 classes"),
        ("pairs.modes", ("nearest", "cluster-1"), "unknown mode: 'nearest'"),
        ("pairs.num_clusters", 5, "4 classes cannot be 5 clusters"),
        ("pairs.similarity_from", "vgg19", "'vgg19'; variants: acol, frozen, full"),
        ("report.mode", "cluster-2", "'cluster-2' is not among pairs.modes"),
        ("data.classes", ("zero", "ten"), "unknown class 'ten'"),
        ("evaluate.methods", ("score_cam",), "score_cam"),
        ("network.name", "resnet5", "unknown network 'resnet5'"),
    ],
)
def test_what_a_config_has_wrong_is_told_before_anything_is_written(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=message):
        run(changed(path, value), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_that_never_stands_alone_is_named(tmp_path):
    config = changed("data.train.size", 2)
    with pytest.raises(
        ValueError, match=r"no training image has a single label for: .*data\.classes"
    ):
        run(config, tmp_path)


def test_stages_in_the_wrong_order_are_told(tmp_path):
    with pytest.raises(ValueError, match="run the train stage first"):
        run(tiny_config(), tmp_path, stages=["pairs"])
