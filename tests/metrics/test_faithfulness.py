from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.metrics import faithfulness, sums
from tests import evaluate_loop

LABELS, SIZE = 3, (5, 6)


def probabilities(images, weights):
    """Of a network that looks at every pixel by itself; `weights (H W 3 c)`."""
    return 1 / (1 + np.exp(-np.tensordot(np.tanh(images), weights, 3)))


@pytest.fixture(scope="module")
def pairs():
    """Four pairs; the maps have many equal values, the last one nothing else."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (4, *SIZE)) / 3
    masks[3] = 0
    return {
        "images": rng.normal(size=(4, *SIZE, 3)),
        "fillings": rng.normal(size=(4, *SIZE, 3)),
        "masks": masks,
        "labels": np.array([0, 2, 1, 2]),
        "weights": rng.normal(size=(*SIZE, 3, LABELS)),
    }


def found_curves(pairs, steps):
    def probabilities_of(images):
        assert images.shape == (8, *SIZE, 3)  # whatever the number of steps
        return jax.nn.sigmoid(jnp.tensordot(jnp.tanh(images), weights, 3))

    weights = np.float32(pairs["weights"])
    arrays = [np.float32(pairs[name]) for name in ("images", "fillings", "masks")]
    original = np.float32(probabilities(pairs["images"], pairs["weights"]))
    scores = jax.jit(faithfulness.pair_scores, static_argnums=0, static_argnames="steps")(
        probabilities_of, *arrays, pairs["labels"], original, steps=steps
    )
    assert set(scores) == set(faithfulness.sum_names(steps))
    assert all(bool(score.defined.all()) for score in scores.values())
    return scores


def expected_curves(pairs, steps):
    """`{metric: [curve of each pair]}`, pixel by pixel."""
    result = {"insertion": [], "deletion": []}
    for image, filling, mask, label in zip(
        *(pairs[name] for name in ("images", "fillings", "masks", "labels")), strict=True
    ):
        curves = evaluate_loop.curves(
            image,
            mask,
            filling,
            steps,
            lambda seen, label=label: probabilities(seen, pairs["weights"])[label],
        )
        for metric, curve in curves.items():
            result[metric].append(curve)
    return result


@pytest.mark.parametrize("steps", [1, 7, 40])  # also more steps than there are pixels
def test_curves_of_pairs(pairs, steps):
    scores = found_curves(pairs, steps)
    for metric, curves in expected_curves(pairs, steps).items():
        found = [scores[f"{metric}_{step}"].value for step in range(steps + 1)]
        np.testing.assert_allclose(np.transpose(found), curves, atol=1e-5)


def test_areas_and_mean_curves(pairs):
    """The area under the mean curve is the mean of the pairs' areas; label 3 has no pair."""
    steps = 4
    scores = found_curves(pairs, steps)
    state = sums.add(sums.zero(faithfulness.sum_names(steps), LABELS + 1), scores, pairs["labels"])
    found, curves = faithfulness.result(state, steps=steps)
    for metric, expected in expected_curves(pairs, steps).items():
        areas = [evaluate_loop.area(curve) for curve in expected]
        of_labels = [areas[0], areas[2], (areas[1] + areas[3]) / 2]
        np.testing.assert_allclose(found["per_label"][metric], [*of_labels, np.nan], atol=1e-5)
        assert found["macro"][metric] == pytest.approx(np.mean(of_labels), abs=1e-5)
        assert found["micro"][metric] == pytest.approx(np.mean(areas), abs=1e-5)
        first, second, third, last = np.array(expected)
        mean = (first + third + (second + last) / 2) / 3
        np.testing.assert_allclose(curves[metric], mean, atol=1e-5)


def test_a_map_that_names_the_object_does_better():
    """A network that looks at one pixel: at once or at last."""
    image = np.ones((1, 16, 16, 3), np.float32)
    image[0, 5, 3] = 300
    image_mask = np.zeros((1, 16, 16), np.float32)
    image_mask[0, 5, 3] = 1

    def looks(images):
        return jax.nn.sigmoid(images[:, 5, 3, :1] - 150)

    areas = {}
    for name, mask in (("right", image_mask), ("wrong", 1 - image_mask)):
        scores = faithfulness.pair_scores(
            looks, image, 0 * image, mask, np.zeros(1, int), np.ones((1, 1)), steps=16
        )
        state = sums.add(sums.zero(faithfulness.sum_names(16), 1), scores, np.zeros(1, int))
        areas[name] = faithfulness.result(state, steps=16)[0]["macro"]
    assert areas["right"]["insertion"] == pytest.approx(1 - 0.5 / 16, abs=1e-4)
    assert areas["right"]["deletion"] == pytest.approx(0.5 / 16, abs=1e-4)
    assert areas["wrong"]["insertion"] == pytest.approx(0.5 / 16, abs=1e-4)
    assert areas["wrong"]["deletion"] == pytest.approx(1 - 0.5 / 16, abs=1e-4)


def test_without_a_pair_nothing_is_defined():
    found, curves = faithfulness.result(sums.zero(faithfulness.sum_names(3), 2), steps=3)
    assert np.isnan([found["macro"]["insertion"], found["micro"]["deletion"]]).all()
    assert np.isnan(found["per_label"]["deletion"]).all()
    assert curves["insertion"].shape == (4,) and np.isnan(curves["insertion"]).all()
