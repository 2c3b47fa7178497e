"""What `evaluate` is given wrong is told in one line that names the culprit."""

from __future__ import annotations

import numpy as np
import pytest

from tests import toys
from tests.evaluations import METHODS, Recorder, counting_network, cut, evaluate


@pytest.fixture(scope="module")
def network():
    return counting_network()


@pytest.fixture(scope="module")
def examples():
    labels = np.random.default_rng(5).uniform(size=(7, toys.NUM_LABELS)) < 0.4
    masks = np.zeros((7, *toys.SIZE), np.uint8)
    return {"image": toys.toy_images(7), "labels": labels, "mask": masks}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("cam", "gradcam")}, "unknown method 'gradcam'; methods: cam, grad_cam, "),
        ({"methods": "gradcam"}, "unknown method 'gradcam'; methods: cam, grad_cam, "),
        ({"methods": ()}, "no method given; methods: cam, "),
        ({"colour": "red"}, "unknown switch colour; switches: present, fill, others, f1, "),
        ({"present": "all"}, "present must be one of detected, annotated, not 'all'"),
        ({"others": None}, "others must be one of zero, skip, not None"),
        ({"f1": "macro"}, "f1 must be one of per_label, averages, not 'macro'"),
        ({"normalize_at": ""}, "normalize_at must be one of activation, input, not ''"),
        ({"iou": "mean"}, "iou must be one of pooled, per_image, not 'mean'"),
        ({"threshold": 15}, r"threshold must be in \[0, 1\), not 15"),
        ({"threshold": "0.5"}, r"threshold must be in \[0, 1\), not '0.5'"),
        ({"curve_steps": -1}, "curve_steps must be a whole number of at least 0, not -1"),
        ({"curve_steps": 2.5}, "curve_steps must be a whole number of at least 0, not 2.5"),
        ({"fill": "gray-ish"}, "fill must be zero, blur or a colour such as .*, not 'gray-ish'"),
        ({"mask_chunk": 0}, "mask_chunk must be at least 1, not 0"),
        ({"channels": 2, "methods": ("cam",)}, "channels and clusters are for masking methods"),
        ({"label_names": ["a"]}, "1 label names for 4 labels"),
        ({"batches": []}, "there is nothing to evaluate: no batch was given"),
        ({"variables": {"bias": np.float32([0, np.nan, 0, 0])}}, "not finite in batch 0"),
    ],
)
def test_errors(options, message, network, variables, examples):
    variables = variables | options.pop("variables", {})
    batches = options.pop("batches", cut(examples))
    with pytest.raises(ValueError, match=message) as error:
        evaluate(network, variables, batches, **({"methods": METHODS} | options))
    assert "\n" not in str(error.value)


def test_wrong_label_names_do_not_cost_a_whole_sweep(network, variables, examples):
    first, second, _ = cut(examples)
    batches = Recorder([first, second] + 7 * [second])
    with pytest.raises(ValueError, match="5 label names for 4 labels"):
        evaluate(network, variables, batches, methods=METHODS, label_names="abcde")
    assert len(batches.made) < 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, 'present="annotated" needs labels, and batch 1 has none'),
        (
            {"labels": np.ones((3, 5), bool)},
            r"present has shape \(3, 5\), the logits have \(3, 4\)",
        ),
        (
            {"labels": np.ones((2, 4), bool)},
            r"batch 1 has labels \(2, 4\) for images \(3, 8, 12, 3\)",
        ),
        ({"image": None}, "batch 1 has no image, only labels, mask"),
        ({"mask": None}, r"some batches have masks and some have none \(batch 1\)"),
        (
            {"mask": np.zeros((3, 8, 8), np.uint8)},
            r"batch 1 has masks \(3, 8, 8\) for images \(3, 8,",
        ),
        (
            {"image": np.zeros((3, 8, 8, 3), np.float32), "mask": np.zeros((3, 8, 8), np.uint8)},
            r"batch 1 has images \(8, 8, 3\), the first had \(8, 12, 3\)",
        ),
        ({"image": np.full((3, 8, 12, 3), 3e38, np.float32)}, "logits are not finite in batch 1"),
    ],
)
def test_batches_of_the_wrong_form(change, message, network, variables, examples):
    first, second, _ = cut(examples)
    second = {name: value for name, value in (second | change).items() if value is not None}
    with pytest.raises(ValueError, match=message) as error:
        evaluate(network, variables, [first, second], methods=METHODS, present="annotated")
    assert "\n" not in str(error.value)


def test_a_first_batch_without_images(network, variables, examples):
    with pytest.raises(ValueError, match="batch 0 has no image, only labels"):
        evaluate(network, variables, [{"labels": examples["labels"]}], methods=METHODS)


def test_scores_that_are_not_finite(variables, examples):
    """A network that fails on masked images only: None in the results would hide it."""

    def apply(variables, images, perturbations=None):
        logits, taps = toys.toy_apply(variables, images, perturbations)
        return (logits if len(images) == 3 else logits * np.nan), taps  # masked come in eights

    network = toys.toy_network(apply=apply)
    with pytest.raises(ValueError, match="scores are not finite in batch 0"):
        evaluate(network, variables, cut(examples), methods=("cam",))
