"""A sweep that is stopped goes on where it was, with the same results."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from minmax_jax import preemption
from tests import toys
from tests.evaluations import (
    METHODS,
    SIZES,
    Recorder,
    assert_same,
    counting_network,
    cut,
    evaluate,
    make_examples,
)

evaluate_module = importlib.import_module("minmax_jax.evaluate")  # mj.evaluate is the function


@pytest.fixture(scope="module")
def network():
    return counting_network()


@pytest.fixture(scope="module")
def examples():
    return make_examples()


@pytest.fixture(scope="module")
def whole(network, variables, examples):
    return evaluate(network, variables, cut(examples), methods=METHODS)


class Interrupted(Exception):
    pass


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


def test_a_sweep_of_pairs_alone_with_curves_goes_on(network, variables, examples, tmp_path):
    """No method explains all labels; the curves are among the sums."""
    options = {"methods": ("gradients", "minmax_gradients"), "curve_steps": 3}
    batches = cut(examples)
    whole = evaluate(network, variables, batches, **options)
    options |= {"state_path": tmp_path / "state.npz", "save_seconds": 0.0}
    save = evaluate_module._Saved.save

    def stop(self, state):
        save(self, state)
        raise Interrupted

    for _ in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate_module._Saved, "save", stop)
            with pytest.raises(Interrupted):
                evaluate(network, variables, batches, **options)
    found = evaluate(network, variables, batches, **options)
    assert_same(found, whole, 0)
    assert found["passes"] == whole["passes"]
    assert len(found["methods"]["gradients"]["deletion_curve"]) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"methods": METHODS[::-1]},
        {"others": "skip"},
        {"curve_steps": 2},
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


@pytest.mark.parametrize(("seconds", "saves"), [(1000.0, 1), (0.0, 7)])
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


def test_a_state_of_batches_with_masks(network, variables, examples, tmp_path):
    options = {"methods": METHODS, "state_path": tmp_path / "state.npz"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: True)
        with pytest.raises(preemption.Preempted):
            evaluate(network, variables, cut(examples), **options)
    with pytest.raises(ValueError, match="state.npz was begun on batches with masks$"):
        evaluate(network, variables, cut(examples, names=("image",)), **options)


def test_sigterm_saves_and_ends(network, variables, examples, whole, tmp_path):
    options = {"methods": METHODS, "state_path": tmp_path / "state.npz"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: True)
        with pytest.raises(preemption.Preempted):
            evaluate(network, variables, cut(examples), **options)
        assert options["state_path"].exists()
    assert_same(evaluate(network, variables, cut(examples), **options), whole, 0)
