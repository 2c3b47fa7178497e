"""Sanity checks of toy networks against loops, and the stage's files."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from scipy import stats

import minmax_jax as mj
from minmax_jax import data, sanity
from minmax_jax.data.permute import PermutedLabels
from minmax_jax.sanity import randomisation
from minmax_jax.select import Selection
from tests import reference, toys
from tests.metrics.test_similarity import ssim_loop
from tests.pairs.tiny import tiny

SIZE = 16
METHODS = ("cam", "minmax_grad_cam", "eigen_cam", "gradients")


# --- Layers ---


def test_blocks_of_layers():
    layers = ("stem_conv", "stem_bn", "a_1_conv", "a_1_bn", "a_2_conv", "a_2_bn", "head")
    blocks = [
        ("head", ("head",)),
        ("a_2", ("a_2_bn", "a_2_conv")),
        ("a_1", ("a_1_bn", "a_1_conv")),
        ("stem", ("stem_bn", "stem_conv")),
    ]
    assert list(randomisation.independent(layers)) == blocks
    cascade = randomisation.cascade(layers)
    assert [name for name, _ in cascade] == [name for name, _ in blocks]
    assert [len(found) for _, found in cascade] == [1, 3, 5, 7]
    few = randomisation.independent(layers, at_most=3)
    assert [name for name, _ in few] == ["head", "a_2", "a_1 … stem"]
    named = ("b_1_expand", "b_1_expand_BN", "b_1_project", "b_1_project_BN", "Conv_1", "Conv_1_bn")
    blocks = randomisation.independent((*named, "head"))
    assert blocks[1:] == (("Conv", named[:3:-1]), ("b_1", named[3::-1]))
    with pytest.raises(ValueError, match="names no layers"):
        randomisation.cascade(())


@given(
    st.lists(st.sampled_from("abcdefghijklmnopqrst"), max_size=20, unique=True),
    st.integers(2, 14),
)
def test_each_layer_is_in_one_block(names, at_most):
    layers = [f"{name}_{kind}" for name in names for kind in ("conv", "bn")] + ["head"]
    blocks = randomisation.independent(layers, at_most=at_most)
    assert len(blocks) <= at_most and blocks[0].layers == ("head",)
    assert len(blocks) == min(at_most, len(names) + 1)
    together = [layer for block in blocks for layer in block.layers]
    assert together == layers[::-1]
    assert randomisation.cascade(layers, at_most=at_most)[-1].layers == tuple(together)


def test_only_the_named_layers_become_random():
    variables = {
        "params": {"one": {"kernel": 1}, "two": {"kernel": 2}, "head": {"kernel": 3}},
        "batch_stats": {"one": {"mean": 4}, "two": {"mean": 5}},
    }
    fresh = jax.tree.map(lambda x: -x, variables)
    assert randomisation.randomise(variables, fresh, ("two", "head")) == {
        "params": {"one": {"kernel": 1}, "two": {"kernel": -2}, "head": {"kernel": -3}},
        "batch_stats": {"one": {"mean": 4}, "two": {"mean": -5}},
    }
    assert randomisation.randomise(variables, fresh, ()) == variables
    with pytest.raises(ValueError, match=r"unknown layers \['three'\]; layers: one, two, head"):
        randomisation.randomise(variables, fresh, ("one", "three"))


# --- Maps ---


def test_detected_labels():
    variables, images = toys.toy_variables(), toys.toy_images(9)
    found = randomisation.detected_labels(toys.toy_network(), variables, images)
    for image, labels, chosen, present in zip(images, *found, strict=True):
        logits = toys.Toy64(variables, image).logits
        wanted = sorted(np.flatnonzero(logits > 0), key=lambda label: -logits[label])[:3]
        assert labels[chosen].tolist() == wanted
        np.testing.assert_array_equal(present, logits > 0)
    assert 0 < found.chosen.sum() < found.chosen.size


@functools.cache
def network():
    return tiny(num_labels=4)


@functools.cache
def variables(seed=0):
    """Of a network that detects several labels: its bias is that of the median image."""
    own = jax.tree.map(np.asarray, network().init(jax.random.key(seed)))
    logits = np.asarray(network().apply(own, network().preprocess(photos()))[0])
    own["params"]["head"]["bias"] = -np.median(logits, axis=0)
    return own


@functools.cache
def photos(number=6):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 4, 4, 3), np.uint8)
    return coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)


def explained():
    """Images and labels; each has its first label chosen."""
    images = network().preprocess(photos()[:3])
    labels = np.int32([[0, 1], [2, 0], [3, 1]])
    chosen = np.array([[True, True], [True, False], [True, True]])
    present = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], bool)
    return images, Selection(labels, chosen, present)


def loop_maps(method, variables):
    """Maps `{(image, label): (H W)}` of the explained pairs, each made alone."""
    images, (labels, chosen, present) = explained()
    maps, _ = mj.explain(network(), variables, images, method=method, present=present)
    if method == "cam":
        _, taps = network().apply(variables, images)
        kernel = np.asarray(network().head_kernel(variables))
        maps = np.maximum(np.einsum("bhwk,kc->bchw", np.asarray(taps["late"]), kernel), 0)
    return {
        (i, label): reference.resize(reference.normalize(np.asarray(maps)[i, label]), (SIZE, SIZE))
        for i, own in enumerate(labels)
        for label in own[chosen[i]]
    }


def loop_alike(first, second, pairs):
    values = [(first[a], second[b]) for a, b in pairs]
    ranks = [
        abs(stats.spearmanr(a.ravel(), b.ravel()).statistic) if np.ptp(a) and np.ptp(b) else 0.0
        for a, b in values
    ]
    return {
        "ssim": pytest.approx(np.mean([ssim_loop(a, b) for a, b in values]), abs=1e-4),
        "rank_correlation": pytest.approx(np.mean(ranks), abs=2e-3),
    }


@pytest.fixture(scope="module")
def curves():
    images, selection = explained()
    return randomisation.randomisation_curves(
        network(), variables(), images, selection, methods=METHODS, key=jax.random.key(7),
        batch_size=2, progress=False,
    )  # fmt: skip


def test_curves_are_those_of_a_loop(curves):
    """Also of a last batch that is not full."""
    assert curves.steps == ("head", "bn", "conv") and curves.pairs == 5
    fresh = network().init(jax.random.key(7))
    weights = {
        random: {
            collection: {
                layer: (fresh if layer in random else variables())[collection][layer]
                for layer in of_layers
            }
            for collection, of_layers in variables().items()
        }
        for random in ((), ("head",), ("head", "bn"), ("conv",))
    }
    for method in ("cam", "minmax_grad_cam"):
        maps = {random: loop_maps(method, own) for random, own in weights.items()}
        pairs = [(pair, pair) for pair in maps[()]]
        for step, random in ((0, ("head",)), (1, ("head", "bn"))):
            wanted = loop_alike(maps[()], maps[random], pairs)
            assert curves.cascading[step][method] == wanted
        wanted = loop_alike(maps[()], maps[("conv",)], pairs)
        assert curves.independent[2][method] == wanted
        # First and first label of neighbours, second and second where both have one: 2 and 0.
        following = [((0, 0), (1, 2)), ((1, 2), (2, 3)), ((2, 3), (0, 0)), ((2, 1), (0, 1))]
        assert curves.chance[method] == loop_alike(maps[()], maps[()], following)


def test_curves_of_a_method_that_does_not_see_the_head(curves):
    assert curves.independent[0] == curves.cascading[0]
    for measure, value in curves.cascading[0]["eigen_cam"].items():
        assert value == pytest.approx(1, abs=1e-5), measure
    assert curves.cascading[0]["cam"]["rank_correlation"] < 0.99
    assert curves.cascading[2] != curves.independent[2]


def test_maps_along_the_cascade(curves):
    assert curves.maps["cam"].shape == (4, 4, 4) and curves.maps["gradients"].shape[1:] == (16, 16)
    images, selection = explained()
    maps, _ = mj.explain(network(), variables(), images, method="cam", present=selection.present)
    wanted = reference.normalize(np.asarray(maps)[0, 0])
    np.testing.assert_allclose(curves.maps["cam"][0], wanted, atol=1e-5)


def test_other_weights_need_no_other_program():
    images, selection = explained()
    maps_of = randomisation.make_maps_fn(
        network(), images, selection, methods=METHODS, batch_size=2
    )
    first = maps_of(variables())
    with toys.count_compilations() as compiled:
        second = maps_of(variables(1))
    assert compiled == []
    assert any((first[method] != second[method]).any() for method in METHODS)


def test_curves_of_what_cannot_be_compared():
    images, (labels, chosen, present) = explained()
    options = {"methods": ("cam",), "key": jax.random.key(0), "progress": False}
    nothing = Selection(labels, chosen & (labels != 2), present)
    with pytest.raises(ValueError, match="3 given, 2 of them with a label"):
        randomisation.randomisation_curves(network(), variables(), images, nothing, **options)
    with pytest.raises(ValueError, match="the network names no layers"):
        randomisation.randomisation_curves(
            toys.toy_network(), toys.toy_variables(), images, explained()[1], **options
        )
    broken = jax.tree.map(lambda x: x * np.nan, variables())
    with pytest.raises(ValueError, match="maps of cam are not finite"):
        randomisation.randomisation_curves(
            network(), broken, images, Selection(labels, chosen, present), **options
        )


# --- The stage ---


class Photos:
    """Six photos; each is annotated with two labels."""

    label_names, has_masks, skipped = ("ant", "bee", "cat", "dog"), False, ()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        labels = np.isin(np.arange(4), (index % 4, (index + 1 + index // 4) % 4))
        return {"image": photos()[index], "labels": labels}


class Trained:
    """As much of an `Experiment` as the stage asks for."""

    network, label_names = property(lambda self: network()), Photos.label_names
    validation_source = Photos()

    def __init__(self, name, folder, *, seed=0, trained=True, permuted="", source=None):
        self.name, self.folder, self.seed, self._trained = name, folder, seed, trained
        self.train_source = source or Photos()
        self.config = ConfigDict(
            {
                "title": "toys",
                "evaluate": {"batch_size": 4},
                "train": {"loss": "sigmoid"},
                "sanity": {
                    "methods": METHODS,
                    "images": 6,
                    "batch_size": 4,
                    "seed": 7,
                    "permuted": permuted,
                },
            }
        )

    def trained(self):
        return self._trained

    def best_variables(self):
        return variables(self.seed)

    def batches(self, source, batch_size, **options):
        shared = {"image_size": SIZE, "preprocess": self.network.preprocess}
        return data.batches(source, batch_size=batch_size, **shared | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    options = {"permuted": "mixed"}
    experiments = [
        Trained("mixed", workdir / "mixed", seed=1, source=PermutedLabels(Photos(), 0), **options),
        Trained("own", workdir / "own", **options),
        Trained("later", workdir / "later", trained=False, **options),
    ]
    sanity.stage(experiments, workdir)
    return workdir, experiments


def test_files_of_the_stage(finished):
    workdir, _ = finished
    results = json.loads((workdir / "sanity/sanity.json").read_text())
    assert results["settings"] == {"images": 6, "seed": 7}
    assert list(results["variants"]) == ["own"]
    own = results["variants"]["own"]
    assert own == json.loads((workdir / "own/sanity.json").read_text())
    logits = np.asarray(network().apply(variables(), network().preprocess(photos()))[0])
    detected = np.minimum((logits > 0).sum(axis=1), 3)
    assert own["photos"] == (detected > 0).sum() and own["pairs"] == detected.sum()
    assert set(own["methods"]) == set(METHODS)
    assert len(own["methods"]["cam"]["independent"]["ssim"]) == len(own["steps"]) == 3
    with np.load(workdir / "own/sanity.npz") as arrays:
        assert arrays["photo"].dtype == np.uint8 and arrays["maps/cam"].shape == (4, 4, 4)
        shown = int(np.flatnonzero((photos() == arrays["photo"]).all(axis=(1, 2, 3)))[0])
        assert arrays["label"] == Photos.label_names[logits[shown].argmax()]
    assert (workdir / "sanity/index.html").exists()


def test_permuted_labels(finished):
    workdir, experiments = finished
    labels = json.loads((workdir / "sanity/sanity.json").read_text())["labels"]
    assert (labels["trained"], labels["permuted"]) == ("own", "mixed")
    for experiment in experiments[:2]:
        source = experiment.train_source
        images = network().preprocess(np.stack([source[i]["image"] for i in range(6)]))
        wanted = np.stack([source[i]["labels"] for i in range(6)])
        found = np.asarray(network().apply(variables(experiment.seed), images)[0]) > 0
        fit = labels["fit"][experiment.name]
        right = [all(a == b) for a, b in zip(found, wanted, strict=True)]
        assert fit["images"] == 6 and fit["all_labels_right"] == pytest.approx(np.mean(right))
        hits = (found & wanted).sum()
        assert fit["f1"] == pytest.approx(2 * hits / (found.sum() + wanted.sum()))
    with np.load(workdir / "mixed/sanity.npz") as arrays:
        assert arrays["maps/gradients"].shape == (2, SIZE, SIZE)
    assert 0 < labels["methods"]["cam"]["rank_correlation"] < 1


def test_finished_checks_are_not_made_again(finished, monkeypatch, capsys):
    workdir, experiments = finished
    monkeypatch.setattr(sanity, "make_maps_fn", None)
    monkeypatch.setattr(sanity, "randomisation_curves", None)
    sanity.stage(experiments, workdir)
    printed = capsys.readouterr().out
    assert "later: not trained, so left out" in printed
    assert "own: sanity checks done already" in printed
    assert "own: how alike are maps" in printed
    assert f"sanity checks: {workdir / 'sanity/index.html'}" in printed


def test_checks_without_a_network(tmp_path):
    with pytest.raises(ValueError, match="holds no trained network: run the train stage first"):
        sanity.stage([Trained("own", tmp_path / "own", trained=False)], tmp_path)
    blind = Trained("own", tmp_path / "own")
    blind.config.sanity.images = 1
    with pytest.raises(ValueError, match=r"own detects a label in [01] of 1 photos, and two are"):
        sanity.stage([blind], tmp_path)
    assert not (tmp_path / "own").exists()
