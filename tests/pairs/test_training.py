"""A pair ends with the same weights however it is trained, and by the rule of the numpy loop."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minmax_jax import parallel, preemption
from minmax_jax.models.preprocess import MINUS_ONE_TO_ONE
from minmax_jax.pairs import training
from minmax_jax.pairs.files import pair_path, read_pair
from minmax_jax.pairs.training import fit_pairs, needed_pairs, pair_examples
from minmax_jax.predict import pooled_features
from minmax_jax.train.cached import head_network
from tests.pairs.tiny import CHANNELS, SIZE, tiny

CLASSES = 4
# Numbers of examples that differ, so that epochs end at different steps.
NUMBERS = (9, 20, 14, 5)
PAIRS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def make_examples():
    """Images whose colours follow from the class, with noise; a fifth have a second label."""
    rng = np.random.default_rng(5)
    labels = np.zeros((sum(NUMBERS), CLASSES), bool)
    labels[np.arange(len(labels)), np.repeat(np.arange(CLASSES), NUMBERS)] = True
    labels = rng.permutation(labels)
    labels[::5, 2] = True
    colours = rng.uniform(60, 190, (CLASSES, 3))
    images = (labels @ colours)[:, None, None] + rng.normal(
        scale=60, size=(len(labels), SIZE, SIZE, 3)
    )
    return np.clip(images, 0, 255).astype(np.uint8), labels


IMAGES, LABELS = make_examples()
OPTIONS = {
    "learning_rate": 0.01,
    "accuracy": 0.8,
    "max_epochs": 4,
    "batch_size": 6,
    "seed": 3,
    "progress": False,
}


def take(indices):
    return IMAGES[indices]


def train(directory, pairs=PAIRS, *, network=None, take=take, variables=None, **options):
    network = network or tiny(0.3)
    variables = variables or network.init(jax.random.key(1))
    options = OPTIONS | options
    fit_pairs(network, variables, take, LABELS, pairs, directory=directory, **options)
    return {
        pair: read_pair(directory, *pair) for pair in pairs if pair_path(directory, *pair).exists()
    }


def assert_same(found, expected, *, atol=1e-4):
    assert sorted(found) == sorted(expected)
    for pair, classifier in expected.items():
        assert found[pair][1:] == classifier[1:]
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=atol, rtol=0),
            found[pair].variables,
            classifier.variables,
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each pair trained by a call of its own."""
    directory = tmp_path_factory.mktemp("alone")
    return {pair: train(directory, [pair])[pair] for pair in PAIRS}


def test_pairs_differ(alone):
    """What the tests below compare is not all the same; everything was trained."""
    assert {classifier.converged for classifier in alone.values()} == {True, False}
    assert len({classifier.epochs for classifier in alone.values()}) > 2
    start = tiny().init(jax.random.key(1))
    for classifier in alone.values():
        assert classifier.converged == (classifier.accuracy > 0.8)
        assert classifier.converged or classifier.epochs == 4
        moved = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), dict(start), dict(classifier.variables)
        )
        assert min(jax.tree.leaves(moved)) > 1e-3


def test_side_by_side_as_alone(alone, tmp_path):
    """In any order of the pairs and of their classes."""
    fit_pairs(
        tiny(0.3),
        tiny(0.3).init(jax.random.key(1)),
        take,
        LABELS,
        [*((j, i) for i, j in reversed(PAIRS)), *PAIRS],
        directory=tmp_path,
        side_by_side=2,
        **OPTIONS,
    )
    assert_same({pair: read_pair(tmp_path, *pair) for pair in PAIRS}, alone)


def test_stacked_as_alone(alone, tmp_path, monkeypatch):
    """As accelerators run it; images that are float32 are taken as they are."""
    step_fn = training.step_fn
    monkeypatch.setattr(
        training,
        "step_fn",
        lambda *args, **options: step_fn(*args, **options | {"stacked": True}),
    )
    found = train(tmp_path, take=lambda indices: MINUS_ONE_TO_ONE(IMAGES[indices]), side_by_side=3)
    assert_same(found, alone)


def test_eight_devices_as_one(alone, tmp_path):
    """More devices than pairs, too."""
    assert_same(train(tmp_path, mesh=parallel.make_mesh()), alone)


def test_only_what_is_missing_is_trained(alone, tmp_path):
    train(tmp_path, side_by_side=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pair_path(tmp_path, 1, 3).unlink()
    seen = []

    def counting(indices):
        seen.extend(indices)
        return take(indices)

    assert_same(train(tmp_path, take=counting), alone)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} <= {"001-003.safetensors"}
    own = {n for n, row in enumerate(LABELS) if row[1] != row[3]}
    assert set(seen) - {len(LABELS) - 1} <= own <= set(seen)
    seen.clear()
    train(tmp_path, take=counting)
    assert not seen


def test_a_broken_run_goes_on(alone, tmp_path):
    """What was finished before an error stays, and the rest is trained as ever."""
    calls = itertools.count()

    def breaking(indices):
        if next(calls) == 45:
            raise OSError("the disk is gone")
        return take(indices)

    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path, take=breaking, side_by_side=2)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert 0 < len(kept) < len(PAIRS)
    assert_same(train(tmp_path, side_by_side=2), alone)
    assert (
        kept.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    )


def test_sigterm_leaves_at_the_next_step(alone, tmp_path, monkeypatch):
    """In the second pair; the first one is kept."""
    last = alone[PAIRS[0]].epochs * -(-len(pair_examples(LABELS, *PAIRS[0])) // 6) + 5
    calls = []

    def stopping(indices):
        calls.append(indices)
        monkeypatch.setattr(preemption, "requested", lambda: len(calls) >= last)
        return take(indices)

    with pytest.raises(preemption.Preempted):
        train(tmp_path, take=stopping)
    assert len(calls) <= last + 1
    assert {path.name for path in tmp_path.iterdir()} == {"000-001.safetensors"}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "pairs").write_text("a file")
    with pytest.raises(OSError, match="pairs"):
        train(tmp_path / "pairs", PAIRS[:1])


def test_each_process_trains_its_share(alone, tmp_path, monkeypatch):
    for part in range(3):
        monkeypatch.setattr(parallel, "shard", lambda part=part: (part, 3))
        found = train(tmp_path)
        assert len(found) == len(PAIRS[0::3]) + len(PAIRS[1::3]) * (part > 0) + (part > 1)
    assert_same(found, alone)


def adam_head(features, units, kernel, bias, pair):
    """The rule in float64: softmax regression by Adam, batch by batch."""
    parameters = [np.float64(kernel), np.float64(bias)]
    moments = [[np.zeros(x.shape), np.zeros(x.shape)] for x in parameters]
    number, size = len(features), OPTIONS["batch_size"]
    steps, step = -(-number // size), 0
    for epoch in range(OPTIONS["max_epochs"]):
        order = np.random.default_rng((OPTIONS["seed"], *pair, epoch)).permutation(number)
        right = 0
        for start in range(0, steps * size, size):
            rows = [order[place % number] for place in range(start, start + size)]
            logits = features[rows] @ parameters[0] + parameters[1]
            right += int(sum((logits[:, 1] > logits[:, 0]) == units[rows]))
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            errors = exponentials / exponentials.sum(axis=1, keepdims=True)
            for row, unit in enumerate(units[rows]):
                errors[row, int(unit)] -= 1
            gradients = features[rows].T @ errors / size, errors.sum(axis=0) / size
            step += 1
            for k, gradient in enumerate(gradients):
                first = moments[k][0] = 0.9 * moments[k][0] + 0.1 * gradient
                second = moments[k][1] = 0.999 * moments[k][1] + 0.001 * gradient**2
                change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
                parameters[k] = parameters[k] - OPTIONS["learning_rate"] * change
        if right / (steps * size) > OPTIONS["accuracy"]:
            return parameters, right / (steps * size), epoch + 1, True
    return parameters, right / (steps * size), epoch + 1, False


@pytest.mark.parametrize(("side_by_side", "devices"), [(2, 1), (0, 4)])
def test_heads_follow_the_numpy_loop(tmp_path, side_by_side, devices):
    network = tiny()
    start = network.init(jax.random.key(1))
    rng = np.random.default_rng(8)
    middles = rng.normal(size=(CLASSES, CHANNELS), scale=1.5)
    features = (LABELS @ middles + rng.normal(size=(len(LABELS), CHANNELS))).astype(np.float32)
    found = train(
        tmp_path,
        network=head_network(network),
        take=lambda indices: features[indices],
        trained=["head"],
        side_by_side=side_by_side,
        mesh=parallel.make_mesh(jax.devices()[:devices]) if devices > 1 else None,
    )
    epochs = set()
    for (i, j), classifier in found.items():
        rows = [n for n, row in enumerate(LABELS) if row[i] != row[j]]
        head = start["params"]["head"]
        (kernel, bias), accuracy, number, converged = adam_head(
            features[rows].astype(np.float64),
            np.array([LABELS[n, j] for n in rows]),
            head["kernel"],
            head["bias"],
            (i, j),
        )
        assert classifier[1:] == (accuracy, number, converged)
        assert set(classifier.variables["params"]) == {"head"}
        own = classifier.variables["params"]["head"]
        np.testing.assert_allclose(own["kernel"], kernel, atol=1e-5)
        np.testing.assert_allclose(own["bias"], bias, atol=1e-5)
        epochs.add((number, converged))
    assert len(epochs) > 2 and {converged for _, converged in epochs} == {True, False}


def test_the_accuracy_must_be_exceeded(tmp_path):
    """All is told right from some epoch on, and that is not more than 1."""
    features = 100 * (LABELS @ np.eye(CLASSES, CHANNELS, dtype=np.float32))
    [found] = train(
        tmp_path,
        PAIRS[:1],
        network=head_network(tiny()),
        take=lambda indices: features[indices],
        trained=("head",),
        learning_rate=0.1,
        accuracy=1.0,
    ).values()
    assert found[1:] == (1.0, 4, False)


def test_a_frozen_backbone_is_the_same_as_its_features(tmp_path):
    """With dropout; the frozen layers keep their statistics and are not in the files."""
    network = tiny(0.3)
    variables = network.init(jax.random.key(1))
    features = np.asarray(pooled_features(network)(variables, MINUS_ONE_TO_ONE(IMAGES)))
    options = {"trained": ("head",), "learning_rate": 0.05}
    whole = train(tmp_path / "whole", **options)
    heads = train(
        tmp_path / "heads",
        network=head_network(network),
        take=lambda indices: features[indices],
        **options,
    )
    assert_same(heads, whole)
    for classifier in whole.values():
        assert set(classifier.variables["params"]) == {"head"}
        assert classifier.variables["batch_stats"] == {}


def test_statistics_can_be_frozen(alone, tmp_path):
    """Then a batch is normalised by them, so the weights become others."""
    [found] = train(tmp_path, PAIRS[:1], frozen_statistics=True).values()
    start = tiny().init(jax.random.key(1))
    for name, value in start["batch_stats"]["bn"].items():
        np.testing.assert_array_equal(found.variables["batch_stats"]["bn"][name], value)
    for other in (start, alone[PAIRS[0]].variables):
        difference = other["params"]["conv"]["kernel"] - found.variables["params"]["conv"]["kernel"]
        assert np.abs(difference).max() > 1e-3


def test_a_loss_that_is_not_finite_names_its_pair(tmp_path):
    features = LABELS @ np.eye(CLASSES, CHANNELS, dtype=np.float32)
    features[LABELS[:, 3]] = np.inf
    with pytest.raises(FloatingPointError, match=r"the loss of pair \(1, 3\) is not finite"):
        train(
            tmp_path,
            network=head_network(tiny()),
            take=lambda indices: features[indices],
            trained=("head",),
            side_by_side=1,
        )
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"{i:03}-{j:03}.safetensors" for i, j in PAIRS[:3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": [(0, 1), (2, 2)]}, r"pair \(2, 2\): expected are two of the classes 0 to 3"),
        ({"pairs": [(4, 1)]}, r"pair \(1, 4\): expected are two of the classes 0 to 3"),
        ({"pairs": [(-1, 1)]}, r"pair \(-1, 1\): expected"),
        ({"labels": LABELS.astype(int)}, r"labels must be \(n c\) bool, not \(48, 4\) int64"),
        ({"labels": LABELS[:, 0]}, r"labels must be \(n c\) bool, not \(48,\) bool"),
        (
            {"labels": LABELS & [True, True, True, False]},
            r"pair \(1, 3\): class 3 has no example without class 1 to train on",
        ),
        ({"labels": np.tile(LABELS, (2, 1))}, "labels has 96 rows, but there is no example 95"),
        ({"take": lambda indices: IMAGES[:2]}, "take gave 2 examples for one index"),
        ({"take": lambda indices: np.zeros(1)}, r"take must give .*, not \(1,\) float64"),
        ({"take": lambda indices: IMAGES[indices, 0, 0]}, r"take must give .*, not \(1, 3\) uint8"),
        ({"trained": ("head", "neck")}, r"trained names \['neck'\]; layers are \['conv', 'bn', 'h"),
        ({"trained": ()}, "trained names no layer"),
        (
            {"take": lambda indices: np.zeros((len(indices), 6), np.float32)},
            r"on features only \('head',\) can be trained, not \('conv', 'bn', 'head'\)",
        ),
        (
            {"network": tiny(num_labels=3)},
            r"a pair classifier has logits \(6, 2\), this network \(6, 3\)",
        ),
        ({"network": dataclasses.replace(tiny(), train_apply=None)}, "has no train_apply"),
        ({"network": dataclasses.replace(tiny(), preprocess=None)}, "has no preprocess"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"accuracy": 95}, "accuracy must be in 0..1, not 95"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"side_by_side": -1}, "side_by_side must be at least 0, not -1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_bad_input(tmp_path, changes, message):
    network = changes.get("network", tiny())
    given = {
        "network": network,
        "variables": tiny(num_labels=3).init(jax.random.key(0)),
        "take": take,
        "labels": LABELS,
        "pairs": PAIRS,
    }
    with pytest.raises(ValueError, match=message):
        fit_pairs(**given | OPTIONS | changes, directory=tmp_path)
    assert not list(tmp_path.iterdir())


@given(
    st.lists(
        st.lists(st.sets(st.integers(0, 5)).map(list), min_size=6, max_size=6),
        max_size=3,
    )
)
def test_needed_pairs_are_what_the_selections_compare(selections):
    compared = [[[s for s in row if s != i] for i, row in enumerate(rows)] for rows in selections]
    found = needed_pairs(compared)
    for i, j in itertools.combinations(range(6), 2):
        wanted = any(j in rows[i] or i in rows[j] for rows in compared)
        assert ((i, j) in found) == wanted
    assert found == sorted(set(found)) and all(i < j for i, j in found)
    if compared != selections:
        with pytest.raises(ValueError, match=r"class \d is compared with itself"):
            needed_pairs(selections)


def test_examples_of_a_pair_have_one_of_its_labels():
    for i, j in PAIRS:
        expected = [n for n, row in enumerate(LABELS) if bool(row[i]) is not bool(row[j])]
        np.testing.assert_array_equal(pair_examples(LABELS, i, j), np.array(expected), strict=True)
