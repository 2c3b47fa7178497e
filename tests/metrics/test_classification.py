from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minmax_jax.metrics.classification import classification_scores

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


def f_beta(beta, hits, wrong, missed):
    """From precision and recall, as its definition has it; 0 where nothing is hit."""
    if hits == 0:
        return 0.0
    precision, recall = hits / (hits + wrong), hits / (hits + missed)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def average_precision(scores, truth):
    """Sum over falling thresholds of (recall step) x precision; equal scores fall together."""
    total, last_recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [t for s, t in zip(scores, truth, strict=True) if s >= threshold]
        recall = sum(taken) / sum(truth)
        total += (recall - last_recall) * sum(taken) / len(taken)
        last_recall = recall
    return total


def counts(detected, truth):
    hits = sum(d and t for d, t in zip(detected, truth, strict=True))
    return hits, sum(detected) - hits, sum(truth) - hits


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.5, 0.3]), st.booleans())
def test_scores(seed, number, threshold, ties):
    """Labels without an annotation and without a detection among them."""
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(size=(number, 4))
    if ties:
        probabilities = np.round(probabilities * 4) / 4  # also exactly on the threshold
    labels = rng.uniform(size=(number, 4)) < 0.4
    probabilities[:, 3], labels[:, 3] = 0.1, False
    found = classification_scores(probabilities, labels, threshold=threshold)
    assert set(found) == {"f1", "f2", "map"}
    detected = probabilities > threshold
    each = [counts(detected[:, l].tolist(), labels[:, l].tolist()) for l in range(4)]
    for beta in (1, 2):
        per_label = [f_beta(beta, *triple) for triple in each]
        support = [int(labels[:, l].sum()) for l in range(4)]
        weighted = sum(f * n for f, n in zip(per_label, support, strict=True))
        scores = found[f"f{beta}"]
        assert set(scores) == {"macro", "micro", "weighted", "per_label"}
        np.testing.assert_allclose(scores["per_label"], per_label, rtol=1e-12)
        np.testing.assert_allclose(scores["macro"], sum(per_label) / 4, rtol=1e-12)
        np.testing.assert_allclose(scores["micro"], f_beta(beta, *np.sum(each, axis=0)), rtol=1e-12)
        np.testing.assert_allclose(scores["weighted"], weighted / max(sum(support), 1), rtol=1e-12)
    precisions = [
        average_precision(probabilities[:, l].tolist(), labels[:, l].tolist())
        if labels[:, l].any()
        else None
        for l in range(4)
    ]
    defined = [value for value in precisions if value is not None]
    assert [value is None for value in found["map"]["per_label"]] == [p is None for p in precisions]
    np.testing.assert_allclose(
        np.array(found["map"]["per_label"], float), np.array(precisions, float), rtol=1e-12
    )
    if defined:
        np.testing.assert_allclose(found["map"]["macro"], np.mean(defined), rtol=1e-12)
    else:
        assert found["map"]["macro"] is None


def test_perfect_and_inverted_detections():
    labels = np.array([[True, False], [False, True], [True, True]])
    perfect = classification_scores(labels.astype(float), labels)
    for name in ("f1", "f2"):
        assert [perfect[name][key] for key in ("macro", "micro", "weighted")] == [1, 1, 1]
    assert perfect["map"]["macro"] == 1
    inverted = classification_scores(1.0 - labels, labels)
    assert inverted["f1"]["macro"] == 0 and inverted["map"]["macro"] == pytest.approx(2 / 3)
