"""A finished run's files with made-up numbers."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

METHODS = ("cam", "grad_cam", "score_cam", "minmax_cam", "d_minmax_cam")
METRICS = (
    "increase_in_confidence",
    "average_drop",
    "average_drop_of_others",
    "average_retention",
    "average_retention_of_others",
    "f1_minus",
    "f1_plus",
    "iou",
    "pointing_game",
    "energy_on_object",
)
EVIL = "<script>alert(1)</script>"
LABELS = ["cow", EVIL, "grass", 'a "b" & $x_1$']
VARIANTS = ("plain", "kur")


def make_evaluation(rng, methods=METHODS, metrics=METRICS, labels=LABELS):
    """Random scores, some of them missing."""

    def score():
        return None if rng.random() < 0.1 else float(rng.random())

    pairs = [int(value) for value in rng.integers(0, 30, len(labels))]
    return {
        "label_names": list(labels),
        "settings": {"present": "detected", "threshold": 0.15, "images": 12, "fill": EVIL},
        "methods": {
            method: {
                "pairs": pairs,
                "per_label": {metric: [score() for _ in labels] for metric in metrics},
                "macro": {metric: score() for metric in metrics},
                "micro": {metric: score() for metric in metrics},
                "seconds": float(rng.random() * 100),
            }
            for method in methods
        },
    }


def add_curves(evaluation, rng, steps=4):
    """Gives every method random insertion and deletion curves, and areas."""
    for result in evaluation["methods"].values():
        for name in ("insertion", "deletion"):
            result[f"{name}_curve"] = rng.random(steps + 1).tolist()
            result["per_label"][name] = rng.random(len(evaluation["label_names"])).tolist()
            result["macro"][name] = result["micro"][name] = float(rng.random())
    return evaluation


def make_classification(rng, labels=LABELS):
    """Random scores; the first label has no average precision."""

    def averages():
        own = {name: float(rng.random()) for name in ("macro", "micro", "weighted")}
        return own | {"per_label": rng.random(len(labels)).tolist()}

    precision = [None, *rng.random(len(labels) - 1).tolist()]
    return {
        "f1": averages(),
        "f2": averages(),
        "map": {"macro": float(rng.random()), "per_label": precision},
        "label_names": list(labels),
    }


def make_history(rng, epochs=6):
    """Two stages; the weights are put back after epoch 3; one score is missing."""
    scores = [f"{f}_{average}" for f in ("f1", "f2") for average in ("macro", "micro", "weighted")]
    return {
        "epochs": [
            {
                "epoch": epoch,
                "stage": int(epoch > 4),
                "learning_rate": 0.1 if epoch < 4 else 0.05,
                "train_loss": float(rng.random()),
                "validation_loss": float(rng.random()),
                "map_macro": None if epoch == 1 else float(rng.random()),
                "restored": epoch == 3,
            }
            | {name: float(rng.random()) for name in scores}
            for epoch in range(1, epochs + 1)
        ]
    }


def make_gallery(rng, methods=METHODS, labels=LABELS, size=40, masks=True):
    """Three photos: labels 0 and 1 seen and annotated; 0 and 3 seen, 2 missed; nothing seen."""
    annotated = np.zeros((3, len(labels)), bool)
    annotated[0, :2] = annotated[1, 2:] = annotated[2, 0] = True
    present = annotated.copy()
    present[1, 0], present[1, 2], present[2] = True, False, False
    gallery = {
        "images": rng.integers(0, 256, (3, size, size, 3), np.uint8),
        "labels": annotated,
        "present": present,
        "probabilities": rng.random(present.shape).astype(np.float32),
        "pairs": np.argwhere(present),
    }
    if masks:
        gallery["masks"] = np.zeros((3, size, size), np.uint8)
        gallery["masks"][0, 5:20, 5:20] = 1
        gallery["masks"][0, 20:35, 10:30] = 2
        gallery["masks"][1, :10] = 255
    for method in methods:
        gallery[f"maps/{method}"] = rng.random((present.sum(), 5, 5)).astype(np.float32)
    return gallery


def write_run(workdir, *, galleries, evaluations, classifications, histories):
    """Writes a run's files; each dict is keyed by variant."""
    workdir.mkdir(parents=True, exist_ok=True)
    config = {"name": "made up", "data": {"root": EVIL, "size": 40}, "stages": [{"epochs": 3}]}
    (workdir / "config.json").write_text(json.dumps(config))
    for variant, gallery in galleries.items():
        folder = workdir / variant
        folder.mkdir(exist_ok=True)
        np.savez(folder / "gallery.npz", **gallery)
        contents = {
            "evaluation": evaluations[variant],
            "classification": classifications[variant],
            "history": histories[variant],
        }
        for name, content in contents.items():
            (folder / f"{name}.json").write_text(json.dumps(content, allow_nan=False))


@pytest.fixture(scope="session")
def run():
    """Two variants' results as `write_run` takes them; both explain the same photos."""
    rng = np.random.default_rng(0)
    gallery = make_gallery(rng)
    other = copy.deepcopy(gallery)
    other["present"][0, 1] = False
    other["pairs"] = np.argwhere(other["present"])
    for method in METHODS:
        other[f"maps/{method}"] = rng.random((len(other["pairs"]), 5, 5)).astype(np.float32)
    return {
        "galleries": {"plain": gallery, "kur": other},
        "evaluations": {variant: make_evaluation(rng) for variant in VARIANTS},
        "classifications": {variant: make_classification(rng) for variant in VARIANTS},
        "histories": {variant: make_history(rng) for variant in VARIANTS},
    }
