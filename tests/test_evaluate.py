from __future__ import annotations

import functools
import importlib
import json

import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel, preemption
from minmax_jax import sweep as sweep_module
from minmax_jax.metrics import localization, masking
from tests import toys
from tests.evaluate_loop import evaluate_loop

evaluate_module = importlib.import_module("minmax_jax.evaluate")  # mj.evaluate is the function
SIZES = (3, 3, 1)
evaluate = functools.partial(mj.evaluate, progress=False, mask_chunk=8)


def preprocess(images):
    return images.astype("float32") / 127.5 - 1


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """So that the few pairs of these tests take several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "_MASKED", 8)
        yield


@pytest.fixture(scope="module")
def variables():
    return toys.toy_variables()


@pytest.fixture(scope="module")
def network():
    return toys.toy_network(apply=toys.CountingApply(), preprocess=preprocess)


@pytest.fixture(scope="module")
def examples():
    """Seven images, annotations that differ from the detections, masks with void borders."""
    rng = np.random.default_rng(5)
    masks = np.zeros((7, *toys.SIZE), np.uint8)
    for mask in masks:
        for label in rng.permutation(toys.NUM_LABELS)[:3]:
            top, left = rng.integers(0, toys.SIZE[0] - 3), rng.integers(0, toys.SIZE[1] - 4)
            mask[top : top + 4, left : left + 5] = label + 1
        mask[rng.integers(0, toys.SIZE[0])] = 255
    labels = rng.uniform(size=(7, toys.NUM_LABELS)) < 0.4
    labels[3] = [True, False, False, False]
    return {"image": toys.toy_images(7), "labels": labels, "mask": masks}


def cut(examples, sizes=SIZES, names=("image", "labels", "mask")):
    stops = np.cumsum(sizes)
    return [
        {name: examples[name][stop - size : stop] for name in names}
        for size, stop in zip(sizes, stops, strict=True)
    ]


def assert_same(found, expected, tolerance=2e-5):
    """Same structure, None at the same places, numbers to the tolerance."""
    if isinstance(expected, dict):
        free = {"seconds", "passes"}  # time, and how the work was cut
        assert found.keys() - free == expected.keys() - free
        for key in expected.keys() - free:
            assert_same(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, tolerance)
    elif isinstance(expected, float):
        assert isinstance(found, float) and abs(found - expected) <= tolerance
    else:
        assert found == expected and type(found) is type(expected)


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
    ({"fill": "blur", "normalize_at": "input"}, False, ("score_cam", "minmax_grad_cam")),
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
        "images": 7,
        **switches,
    }
    methods = methods or tuple(name for name in mj.METHODS if name != "acol_cam")
    assert tuple(found["methods"]) == methods
    assert_same(found["methods"], evaluate_loop(variables, chosen, methods, **switches))
    seconds = [result["seconds"] for result in found["methods"].values()]
    assert min(seconds) > 0 and found["seconds"] == pytest.approx(sum(seconds))
    masked = 2 * sum(sum(result["pairs"]) for result in found["methods"].values())
    assert found["passes"] == {"images": 7, "masked": masked, "padding": -masked % 8}


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


METHODS = ("score_cam", "d_minmax_cam")


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


class Interrupted(Exception):
    pass


class Recorder:
    """Batches that can be entered later and tell which were made."""

    def __init__(self, batches, start=0, made=None):
        self.batches, self.start = batches, start
        self.made = [] if made is None else made

    def from_batch(self, start):
        return Recorder(self.batches, start, self.made)

    def __len__(self):
        return len(self.batches) - self.start

    def __iter__(self):
        for index in range(self.start, len(self.batches)):
            self.made.append(index)
            yield self.batches[index]


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("wrap", [list, iter, Recorder])
def test_an_interrupted_sweep_goes_on(after, wrap, network, variables, examples, whole, tmp_path):
    """Bit-identical; batches all of whose pairs are counted are not read again."""
    path = tmp_path / "new" / "state.npz"
    options = {"methods": METHODS, "state_path": path, "save_seconds": 0.0}
    batches = cut(examples)

    place = None

    def stop(self, state):
        nonlocal place
        save(self, state)
        place = state.places[0]
        if state.counted == 4 * after:
            raise Interrupted

    save = evaluate_module._Saved.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module._Saved, "save", stop)
        with pytest.raises(Interrupted):
            evaluate(network, variables, batches, **options)
    rest = wrap(batches)
    with toys.count_compilations() as compiled:
        found = evaluate(network, variables, rest, **options)
    assert compiled == []
    assert_same(found, whole, 0)
    assert found["passes"] == whole["passes"]
    if wrap is Recorder:
        assert rest.made == list(range(place.batch, 3))
    again = evaluate(network, variables, batches, **options)  # everything is done already
    assert again == found


@pytest.mark.parametrize(
    "change",
    [
        {"methods": METHODS[::-1]},
        {"others": "skip"},
        {"variables": {"bias": np.float32([0.1, -0.2, 0.3, 0.4])}},
        {"batches": (2, 2, 2, 1), "mask_chunk": 3},
    ],
    ids=str,
)
def test_the_state_of_another_sweep_is_ignored(change, network, variables, examples, tmp_path):
    path = tmp_path / "state.npz"
    batches = cut(examples)
    evaluate(
        network,
        variables,
        batches[:2] + batches[2:],
        methods=METHODS,
        state_path=path,
        save_seconds=0.0,
    )
    assert path.exists()
    variables = variables | change.pop("variables", {})
    batches = cut(examples, change.pop("batches", SIZES))
    options = {"methods": METHODS} | change
    fresh = evaluate(network, variables, batches, **options)
    assert_same(evaluate(network, variables, batches, state_path=path, **options), fresh, 0)


@pytest.mark.parametrize(("seconds", "saves"), [(1000.0, 1), (0.0, 5)])
def test_the_state_is_saved_every_few_seconds(
    seconds, saves, network, variables, examples, tmp_path, monkeypatch
):
    """And at the end, so that of several processes one that is done has nothing to do again."""
    saved = []
    save = evaluate_module._Saved.save
    monkeypatch.setattr(evaluate_module._Saved, "save", lambda *args: saved.append(save(*args)))
    options = {"state_path": tmp_path / "state.npz", "save_seconds": seconds}
    found = evaluate(network, variables, cut(examples), methods=METHODS, **options)
    masked = found["passes"]["masked"] + found["passes"]["padding"]
    assert len(saved) == saves == (1 if seconds else 1 + masked // 8)


def test_sigterm_saves_and_ends(network, variables, examples, whole, tmp_path):
    options = {"methods": METHODS, "state_path": tmp_path / "state.npz"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: True)
        with pytest.raises(preemption.Preempted):
            evaluate(network, variables, cut(examples), **options)
        assert options["state_path"].exists()
    assert_same(evaluate(network, variables, cut(examples), **options), whole, 0)


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
