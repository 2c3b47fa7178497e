from __future__ import annotations

import json

import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax import sweep as sweep_module
from minmax_jax.methods import PAPER_METHODS
from minmax_jax.metrics import localization, masking
from tests import toys
from tests.evaluate_loop import evaluate_loop
from tests.evaluations import METHODS, assert_same, counting_network, cut, evaluate, make_examples


@pytest.fixture(scope="module")
def network():
    return counting_network()


@pytest.fixture(scope="module")
def examples():
    return make_examples()


ANNOTATED = {
    "present": "annotated",
    "fill": "#ff8000",
    "others": "skip",
    "f1": "averages",
    "iou": "per_image",
    "threshold": 0.5,
}
SWITCHES = [
    ({}, True, None),
    (ANNOTATED, True, ("d_minmax_cam", "grad_cam_plus_plus")),
    (
        {"fill": "blur", "normalize_at": "input"},
        False,
        ("score_cam", "minmax_gradients", "minmax_grad_cam"),
    ),
    ({"curve_steps": 5}, False, ("integrated_gradients", "minmax_integrated_gradients")),
]


@pytest.mark.parametrize(("switches", "with_masks", "methods"), SWITCHES)
def test_scores(switches, with_masks, methods, network, variables, examples):
    names = ("image", "labels", "mask") if with_masks else ("image", "labels")
    chosen = {name: examples[name] for name in names}
    found = evaluate(network, variables, cut(chosen, names=names), methods=methods, **switches)
    json.dumps(found, allow_nan=False)
    assert list(found) == ["label_names", "settings", "passes", "seconds", "methods"]
    assert found["label_names"] == ["0", "1", "2", "3"]
    assert found["settings"] == {
        "present": "detected",
        "fill": "zero",
        "others": "zero",
        "f1": "per_label",
        "normalize_at": "activation",
        "threshold": 0.15,
        "iou": "pooled",
        "curve_steps": 0,
        "images": 7,
        **switches,
    }
    methods = methods or PAPER_METHODS
    assert tuple(found["methods"]) == methods
    assert_same(found["methods"], evaluate_loop(variables, chosen, methods, **switches))
    seconds = [result["seconds"] for result in found["methods"].values()]
    assert min(seconds) > 0 and found["seconds"] == pytest.approx(sum(seconds))
    pairs = sum(sum(result["pairs"]) for result in found["methods"].values())
    passes = 2 + 2 * found["settings"]["curve_steps"]
    assert found["passes"] == {
        "images": 7,
        "masked": passes * pairs,
        "padding": passes * (-pairs % 4),
    }


def test_the_examples_tell_the_switches_apart(variables, examples):
    """Else the test above could not fail."""
    plain = evaluate_loop(variables, examples, ("cam",))["cam"]
    for switch in (
        {"present": "annotated"},
        {"fill": "blur"},
        {"fill": "#ff8000"},
        {"others": "skip"},
        {"f1": "averages"},
        {"normalize_at": "input"},
        {"threshold": 0.5},
        {"iou": "per_image"},
    ):
        other = evaluate_loop(variables, examples, ("cam",), **switch)["cam"]
        changes = [abs(plain["macro"][name] - other["macro"][name]) for name in plain["macro"]]
        assert max(changes) > 1e-3, switch
    assert plain["localized_pairs"] != plain["pairs"]


@pytest.fixture(scope="module")
def sweep(network, variables, examples):
    """A sweep over all batches, and the programs compiled for it after the first batch."""
    batches = cut(examples)
    evaluate(network, variables, batches[:1], methods=METHODS)
    with toys.count_compilations() as compiled:
        found = evaluate(network, variables, batches, methods=METHODS)
    return found, compiled


@pytest.fixture(scope="module")
def whole(sweep):
    return sweep[0]


def test_chunks_take_pairs_of_several_batches(network, variables, examples, whole):
    """Only the last chunk of the whole sweep holds fewer pairs than it could."""
    seen = []
    step = sweep_module._score_fn.__wrapped__

    def score_fn(*args):
        function = step(*args)

        def score(variables, pairs):
            seen.append(np.array(pairs["label"]))
            return function(variables, pairs)

        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "_score_fn", score_fn)
        found = evaluate(network, variables, cut(examples, (1,) * 7), methods=METHODS)
    assert_same(found, whole, 1e-5)
    pairs = sum(sum(result["pairs"]) for result in found["methods"].values())
    assert len(seen) == -(-pairs // 4) > 3 and found["passes"]["padding"] == 2 * (-pairs % 4)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((2, 0, 4, 1), {"mask_chunk": 3}),
        ((7,), {"mask_chunk": 1}),
    ],
)
def test_how_the_work_is_cut_changes_nothing(sizes, options, network, variables, examples, whole):
    found = evaluate(network, variables, cut(examples, sizes), methods=METHODS, **options)
    assert_same(found, whole, 1e-5)


def test_images_that_fill_up_a_batch_do_not_count(network, variables, examples):
    """Even if the network sees labels in a blank image."""
    variables = variables | {"bias": np.full(toys.NUM_LABELS, 0.5, np.float32)}
    found = evaluate(network, variables, cut(examples), methods=METHODS)
    assert_same(found["methods"], evaluate_loop(variables, examples, METHODS))
    assert max(found["methods"]["score_cam"]["pairs"]) >= 2


def test_sharded_results_are_the_unsharded_ones(network, variables, examples, whole):
    options = {"methods": METHODS, "mesh": parallel.make_mesh(), "mask_chunk": 2}
    with toys.count_compilations() as compiled:
        found = evaluate(network, variables, cut(examples, (5, 2)), **options)
    assert_same(found, whole, 1e-6)
    assert compiled.count("jit(chunk_by_chunk)") == 1  # several chunks, two batches


def test_everything_is_compiled_once_a_shape(sweep, network, examples):
    """More batches, a smaller last one and other weights trace and compile nothing."""
    assert sweep[1] == []
    traces = network.apply.traces
    with toys.count_compilations() as compiled:
        evaluate(network, toys.toy_variables(seed=3), cut(examples), methods=METHODS)
    assert compiled == [] and network.apply.traces == traces
    with toys.count_compilations() as compiled:  # another shape: the counters count
        evaluate(network, toys.toy_variables(), cut(examples, (2,)), methods=METHODS[1:])
    assert compiled != [] and network.apply.traces > traces


@pytest.mark.parametrize("options", [{"channels": 2}, {"clusters": 2}])
def test_approximations_tell_their_error(options, network, variables, examples, whole, tmp_path):
    batches = cut(examples)
    found = evaluate(network, variables, batches, methods=METHODS, **options)
    piece = batches[0]["image"]
    error = mj.approximation_error(network, variables, piece, mask_chunk=8, **options)
    told = found["settings"].pop("score_cam")
    assert told == options | {"error": error} and error["maps"] > 0 and error["mean"] > 1e-3
    assert found["settings"] == whole["settings"]
    exact, approximate = (result["methods"] for result in (whole, found))
    assert_same(approximate["d_minmax_cam"], exact["d_minmax_cam"], 1e-5)
    assert approximate["score_cam"]["macro"] != exact["score_cam"]["macro"]
    # A run that goes on knows the error from before, and does not take exact results for its own.
    path = tmp_path / "state.npz"
    evaluate(network, variables, batches, methods=METHODS, state_path=path, **options)
    again = evaluate(network, variables, iter(batches), methods=METHODS, state_path=path, **options)
    assert again["settings"]["score_cam"] == told
    evaluate(network, variables, batches, methods=METHODS, state_path=path)
    assert_same(evaluate(network, variables, batches, methods=METHODS, state_path=path), whole, 0)


def test_without_a_detected_label_nothing_is_defined(network, variables, examples):
    images = np.zeros((2, *toys.SIZE, 3), np.float32)
    variables = variables | {"bias": np.full(toys.NUM_LABELS, -200, np.float32)}
    batch = {"image": images, "mask": examples["mask"][:2]}
    found = evaluate(network, variables, [batch], methods=METHODS)
    json.dumps(found, allow_nan=False)
    assert found["settings"]["images"] == 2
    for result in found["methods"].values():
        assert result["pairs"] == result["localized_pairs"] == [0] * toys.NUM_LABELS
        assert set(result["macro"].values()) == set(result["micro"].values()) == {None}
        assert all(set(row) == {None} for row in result["per_label"].values())


def test_probabilities_that_underflow_and_blank_maps(network, variables, examples):
    """Annotated labels of which the network is sure that they are absent: drops of 0, no NaN."""
    variables = variables | {"bias": np.full(toys.NUM_LABELS, -200, np.float32)}
    found = evaluate(network, variables, cut(examples), present="annotated", methods=METHODS)
    json.dumps(found, allow_nan=False)
    for result in found["methods"].values():
        assert {result["macro"][name] for name in masking.METRICS} == {0.0}
    blank = found["methods"]["score_cam"]  # weights of 0: maps of 0
    assert {blank["macro"][name] for name in localization.METRICS} == {0.0}


def test_one_label_only(examples):
    variables = toys.toy_variables(num_labels=1, seed=13)
    chosen = {"image": examples["image"]}
    methods = ("cam", "d_minmax_cam")
    found = evaluate(
        toys.toy_network(),
        variables,
        cut(chosen, names=("image",)),
        methods=methods,
        label_names=["<b>"],
    )
    assert found["label_names"] == ["<b>"]
    assert_same(found["methods"], evaluate_loop(variables, chosen, methods))
    cam, d_minmax = (found["methods"][name] for name in methods)
    assert cam["pairs"] == [2] and cam["macro"]["average_drop"] > 0.1
    assert_same(d_minmax, cam, 1e-6)
