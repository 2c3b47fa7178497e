from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax import parallel
from minmax_jax.pairs.evaluate import (
    check_methods,
    evaluate_method,
    evaluate_pairs,
    single_combinations,
    table_1,
)
from minmax_jax.pairs.maps import Maps, PairMaps
from tests import reference, toys
from tests.pairs import toy

CLASSES, IMAGES, SIZE = 4, 11, toys.SIZE
COMBINATIONS = {
    "two": [[1, 2], [3, 0], [0, 3], [2, 1]],
    "ragged": [[3], [], [1, 0, 3], [0, 2]],
    **single_combinations(CLASSES),
}


@functools.cache
def data():
    """Photos, labels and masks; the first image has its label, and no pixel of it."""
    rng = np.random.default_rng(4)
    photos = toy.photos(IMAGES)
    photos[:, 0, 0, 0] = np.arange(IMAGES)  # tells a stand-in which photo it is
    labels = rng.uniform(size=(IMAGES, CLASSES)) < 0.5
    masks = np.zeros((IMAGES, *SIZE), np.uint8)
    for image in range(IMAGES):
        own = np.flatnonzero(labels[image]) + 1
        masks[image] = rng.choice([0, 0, 255, *own], SIZE)
    labels[0], masks[0] = [True, False, False, False], 0
    return photos, labels, masks


def take(rows):
    return data()[0][rows]


@functools.cache
def tables():
    """Maps of a stand-in: float32 `(kind, n, n, images, H, W)`, one of them 0 everywhere."""
    table = np.random.default_rng(8).uniform(size=(2, CLASSES, CLASSES, IMAGES, *SIZE))
    table[:, 0, 1] = 0
    return table.astype(np.float32)


class StandIn:
    """Maps from the table, and a list of what was asked."""

    def __init__(self, *, multi=True, logit=0.0, broken=()):
        self.multi, self.logit, self.broken, self.asked = multi, logit, broken, []

    def __call__(self, label, others):
        self.asked.append((label, tuple(others)))
        if label in self.broken:
            raise KeyboardInterrupt

        def explain(photos):
            assert photos.dtype == np.uint8
            images = photos[:, 0, 0, 0]
            last, multi = jnp.asarray(tables()[:, label][:, list(others)][:, :, images])
            logits = jnp.full(last.shape[:2], self.logit)
            return Maps(last, multi if self.multi else None, None, logits)

        return explain


def loop(map_of, rows):
    """Scores of each of `rows`: image by image, threshold by threshold, pixel by pixel.

    `map_of(row, label, image)` gives a map of which the normalised form is scored, or None.
    """
    _, labels, masks = data()
    results = {}
    for row in rows:
        curves = {"pooled": [], "per_image": []}
        for label in range(CLASSES):
            pairs = []
            for image in np.flatnonzero(labels[:, label]):
                seen = map_of(row, label, image)
                on_object, counted = masks[image] == label + 1, masks[image] != 255
                if seen is None or not on_object.any():
                    continue
                seen = reference.normalize(seen)
                pairs.append([])
                for k in range(100):
                    predicted = (seen > np.float32(k / 100)) & counted
                    intersection = np.count_nonzero(predicted & on_object)
                    pairs[-1].append((intersection, np.count_nonzero(predicted | on_object)))
            if not pairs:
                curves["pooled"].append(None)
                curves["per_image"].append(None)
                continue
            pairs = np.array(pairs, float)
            curves["pooled"].append(pairs[..., 0].sum(axis=0) / pairs[..., 1].sum(axis=0))
            curves["per_image"].append((pairs[..., 0] / pairs[..., 1]).mean(axis=0))
        results[row] = curves
    return results


def check(found, expected, *, threshold=0.15, stray=0):
    """`stray` thresholds may be those of a pixel that float32 puts on their other side."""
    assert set(found) == set(expected)
    for row, ways in expected.items():
        assert set(found[row]) == set(ways)
        for way, curves in ways.items():
            scores, at = found[row][way], round(threshold * 100)
            for value, curve in zip(scores["per_label"], curves, strict=True):
                assert (value is None) == (curve is None), (row, way)
                if curve is not None:
                    np.testing.assert_allclose(value, curve[at], rtol=1e-9)
            mean = np.mean([curve for curve in curves if curve is not None], axis=0)
            same = np.isclose(scores["curve"], mean, rtol=1e-9, atol=0)
            assert np.count_nonzero(~same) <= stray, (row, way, np.flatnonzero(~same))
            np.testing.assert_allclose(scores["curve"], mean, atol=0.01)
            assert scores["mean"] == scores["curve"][at]
            assert scores["best"] == max(scores["curve"])
    json.dumps(found, allow_nan=False)


@functools.cache
def expected_of_tables():
    def map_of(row, label, image):
        name, *multi, _ = row.split("+")
        others = COMBINATIONS[name][label]
        if not others:
            return None
        maps = tables()[int(multi == ["A"]), label, others, image]
        return maps.astype(np.float64).mean(axis=0)

    rows = [f"{name}{layer}+F" for name in COMBINATIONS for layer in ("", "+A")]
    return loop(map_of, rows)


def run(pair_maps, combinations=COMBINATIONS, *, labels=None, masks=None, **options):
    _, own_labels, own_masks = data()
    labels = own_labels if labels is None else labels
    masks = own_masks if masks is None else masks
    options = {"batch_size": 4, "progress": False} | options
    return evaluate_pairs(pair_maps, combinations, take, labels, masks, **options)


def test_every_combination_equals_the_loop():
    _, labels, masks = data()
    assert labels.sum(axis=0).max() > 4 and (masks == 255).any()  # several batches, and void
    expected = expected_of_tables()
    assert [curve is None for curve in expected["ragged+F"]["pooled"]] == [
        False,
        True,
        False,
        False,
    ]
    stand_in = StandIn()
    check(run(stand_in), expected)
    assert [label for label, _ in stand_in.asked] == list(range(CLASSES))
    assert [set(others) for _, others in stand_in.asked] == [
        {0, 1, 2, 3} - {label} for label in range(CLASSES)
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_size_of_batches_changes_nothing(batch_size):
    two = {"two": COMBINATIONS["two"]}
    rows = ["two+F", "two+A+F"]
    check(
        run(StandIn(), two, batch_size=batch_size, threshold=0.3),
        {row: expected_of_tables()[row] for row in rows},
        threshold=0.3,
    )


def test_without_multi_layer_maps():
    found = run(StandIn(multi=False))
    check(found, {row: expected_of_tables()[row] for row in found})
    assert list(found) == [f"{name}+F" for name in COMBINATIONS]
    assert table_1(found, CLASSES)["multi"] is None


def test_lists_of_unequal_length_share_one_shape():
    stand_in = StandIn()
    run(stand_in, {"ragged": COMBINATIONS["ragged"]})
    assert stand_in.asked == [(0, (3, 3, 3)), (2, (0, 1, 3)), (3, (0, 2, 2))]


def test_table_1_by_the_loop():
    found = table_1(run(StandIn()), CLASSES)
    expected = expected_of_tables()
    for kind, ending in (("last", "+F"), ("multi", "+A+F")):
        for s in range(CLASSES):
            for i in range(CLASSES):
                value, curve = found[kind][s][i], expected[f"{s}{ending}"]["pooled"][i]
                assert (value is None) == (curve is None) == (s == i)
                if curve is not None:
                    np.testing.assert_allclose(value, curve[15], rtol=1e-9)


def test_classes_without_images():
    _, labels, _ = data()
    labels = labels.copy()
    labels[:, 2] = False
    stand_in = StandIn()
    found = run(stand_in, labels=labels)
    assert 2 not in [label for label, _ in stand_in.asked]
    expected = expected_of_tables()["two+F"]["pooled"]
    wanted = [expected[label][15] for label in (0, 1, 3)]
    scores = found["two+F"]["pooled"]
    assert scores["per_label"].pop(2) is None
    np.testing.assert_allclose(scores["per_label"], wanted, rtol=1e-9)
    np.testing.assert_allclose(scores["mean"], np.mean(wanted), rtol=1e-9)


def test_a_killed_evaluation_goes_on_behind_its_last_class(tmp_path):
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(StandIn(broken=(2,)), state_directory=state)
    assert sorted(path.name for path in state.iterdir()) == ["000.npz", "001.npz"]
    later = StandIn()
    check(run(later, state_directory=state), expected_of_tables())
    assert [label for label, _ in later.asked] == [2, 3]
    done = StandIn()
    # The threshold and the size of batches may be others.
    found = run(done, state_directory=state, threshold=0.4, batch_size=2)
    check(found, expected_of_tables(), threshold=0.4)
    assert done.asked == []


def test_the_state_of_others_is_not_used(tmp_path):
    _, labels, _ = data()
    run(StandIn(), state_directory=tmp_path)
    fewer = labels.copy()
    fewer[np.flatnonzero(labels[:, 1])[0], 1] = False
    of_fewer = StandIn()
    run(of_fewer, labels=fewer, state_directory=tmp_path)
    assert [label for label, _ in of_fewer.asked] == [1]
    lists = [list(others) for others in COMBINATIONS["two"]]
    lists[3] = [0]
    of_others = StandIn()
    found = run(of_others, COMBINATIONS | {"two": lists}, labels=fewer, state_directory=tmp_path)
    assert [label for label, _ in of_others.asked] == [3]
    assert found["two+F"]["pooled"]["per_label"][3] == found["0+F"]["pooled"]["per_label"][3]


def test_real_pair_networks_equal_the_loop():
    photos, _, _ = data()

    @functools.cache
    def maps_of(label, other, image):
        variables = toy.pair_variables(label, other)
        layers, multi, _ = toy.expected_maps(variables, photos[image], int(label > other))
        return {"two+F": layers[-1], "two+A+F": multi}

    def map_of(row, label, image):
        return np.mean(
            [maps_of(label, other, image)[row] for other in COMBINATIONS["two"][label]], axis=0
        )

    pair_maps = PairMaps(toy.network(), toy.variables(2, seed=1), toy.read())
    found = run(pair_maps, {"two": COMBINATIONS["two"]})
    check(found, loop(map_of, ["two+F", "two+A+F"]), stray=3)


@functools.cache
def all_classes():
    return toy.network(), toy.variables(CLASSES, seed=12)


METHODS = ("cam", "grad_cam", "minmax_grad_cam")


@functools.cache
def expected_of_methods():
    photos, labels, _ = data()

    @functools.cache
    def maps_of(method, label, image):
        return toy.expected_maps(
            all_classes()[1], photos[image], label, method=method, present=labels[image]
        )

    def map_of(row, label, image):
        method, *multi = row.split("+")
        layers, fused, _ = maps_of(method, label, image)
        return fused if multi else layers[-1]

    return loop(map_of, ["cam", "grad_cam", "grad_cam+A", "minmax_grad_cam", "minmax_grad_cam+A"])


def run_method(**options):
    _, labels, masks = data()
    options = {"methods": METHODS, "batch_size": 8, "progress": False} | options
    return evaluate_method(*all_classes(), take, labels, masks, **options)


def test_methods_of_the_network_of_all_classes_equal_the_loop(tmp_path):
    check(run_method(state_directory=tmp_path), expected_of_methods(), stray=3)
    with toys.count_compilations() as compiled:
        found = run_method(state_directory=tmp_path)
    check(found, expected_of_methods(), stray=3)
    assert compiled == []


def test_eight_devices_equal_one():
    found = run_method(methods=("grad_cam",), multi=False, mesh=parallel.make_mesh())
    check(found, {"grad_cam": expected_of_methods()["grad_cam"]}, stray=3)


def test_all_labels_run_in_one_program():
    _, labels, masks = data()
    evaluate = functools.partial(
        evaluate_method, *all_classes(), take, methods=("cam",), batch_size=8, progress=False
    )
    evaluate(labels & (np.arange(CLASSES) == 0)[None], masks)
    with toys.count_compilations() as compiled:
        evaluate(labels, masks)
    assert compiled == []


def test_logits_that_are_not_finite():
    with pytest.raises(ValueError, match="the logits that explain class 0 are not finite"):
        run(StandIn(logit=np.nan))
    network, variables = all_classes()
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), variables)
    _, labels, masks = data()
    with pytest.raises(ValueError, match="the logits that explain class 0 are not finite"):
        evaluate_method(network, broken, take, labels, masks, methods=("cam",), progress=False)


def test_masks_of_another_size_than_the_images():
    _, labels, masks = data()
    message = r"^masks have shape \(11, 8, 11\), the images need \(11, 8, 12\)$"
    with pytest.raises(ValueError, match=message):
        run(StandIn(), masks=masks[:, :, :-1])
    with pytest.raises(ValueError, match=r"shape \(10, 8, 12\), the images need \(11, 8, 12\)"):
        run(StandIn(), masks=masks[:-1])
    with pytest.raises(ValueError, match="IoU needs masks, and the data has none"):
        evaluate_method(*all_classes(), take, labels, None, progress=False)


@pytest.mark.parametrize(
    ("combinations", "message"),
    [
        ({}, "no combination"),
        ({"short": [[1], [0]]}, "combination 'short' has 2 lists for 4 classes"),
        ({"own": [[1], [1], [0], [0]]}, r"combination 'own' compares class 1 with \[1\]"),
        ({"far": [[4], [0], [0], [0]]}, r"'far' compares class 0 with \[4\]; valid are other"),
        ({"twice": [[1, 1], [0], [0], [0]]}, r"'twice' compares class 0 with \[1, 1\]"),
    ],
)
def test_combinations_that_do_not_fit(combinations, message):
    with pytest.raises(ValueError, match=message):
        run(StandIn(), combinations)


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match="threshold must be one of"):
        run(StandIn(), threshold=0.155)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        run(StandIn(), batch_size=0)
    with pytest.raises(ValueError, match=r"labels must have shape \(m n\), got \(4,\)"):
        run(StandIn(), labels=np.ones(4))


def test_methods_that_are_not_scored():
    network, _ = all_classes()
    check_methods(network, METHODS)
    for methods, message in {
        ("grad_cam", "score_cam"): "score_cam takes many passes",
        ("gradcam",): "unknown method 'gradcam'",
        (): "no method given",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_methods(network, methods)
    with pytest.raises(ValueError, match="cam needs a head that is linear"):
        check_methods(toy.network(head_kernel=None), ("cam",))
