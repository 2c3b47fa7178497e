"""A finished run over pair classifiers with made-up numbers."""

from __future__ import annotations

import json

import numpy as np

from .conftest import EVIL, make_classification, make_history

NAMES = ["cow", EVIL, "grass", 'a "b" & $x_1$', "sky", "water_$1$"]
MODES = ("random", "rank-a", "cluster-1", "cluster-2", "all", "top-1", "top-2")
PAIRS = ("plain", "kur")
BASELINE = "acol"
THRESHOLDS = (np.arange(100) / 100).tolist()


def make_scores(rng, count, threshold=0.15):
    """Fields that agree with one another; the last class has no image."""
    top = 0.2 + 0.2 * rng.random(count)
    place = 0.2 + 0.2 * rng.random()
    shape = np.exp(-((np.array(THRESHOLDS) - place) ** 2) / 0.08)
    curves = (top[:, None] * shape)[: count - 1]
    curve = curves.mean(0)
    best = int(curve.argmax())
    at = THRESHOLDS.index(threshold)
    return {
        "per_label": [*curves[:, at].tolist(), None],
        "mean": float(curve[at]),
        "curve": curve.tolist(),
        "best_threshold": THRESHOLDS[best],
        "best": float(curve[best]),
    }


def make_evaluation(rng, labels, rows, *, pairs=True):
    """Random scores; without `pairs` as a baseline's."""
    count = len(labels)

    def single():
        values = 0.1 + 0.4 * rng.random((count, count))
        drop = (rng.random(values.shape) < 0.2) | np.eye(count, dtype=bool)
        return [
            [None if gone else float(value) for value, gone in zip(*line, strict=True)]
            for line in zip(values, drop, strict=True)
        ]

    return {
        "label_names": list(labels),
        "threshold": 0.15,
        "thresholds": THRESHOLDS,
        "images": [*rng.integers(5, 50, count - 1).tolist(), 0],
        "rows": {
            row: {kind: make_scores(rng, count) for kind in ("pooled", "per_image")} for row in rows
        },
        "table_1": {"last": single(), "multi": None} if pairs else None,
        "settings": {"batch_size": 16, "source": EVIL},
    }


def make_gallery(rng, labels, photos=2, comparisons=3, taps=4, size=40):
    """Smooth maps; the last comparison class of the last photo is missing."""
    grid = np.mgrid[:size, :size] / size

    def maps(*shape):
        centre = 0.2 + 0.6 * rng.random((2, *shape, 1, 1))
        far = ((grid[0] - centre[0]) ** 2 + (grid[1] - centre[1]) ** 2) / 0.08
        return np.exp(-far).astype(np.float16)

    classes = rng.random((photos, len(labels))).argsort(1)[:, :comparisons]
    classes[photos - 1 :, -1] = -1
    objects = np.zeros((photos, size, size), np.uint8)
    objects[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    objects[:, :3] = 255
    return {
        "images": rng.integers(60, 200, (photos, size, size, 3), np.uint8),
        "labels": rng.integers(0, len(labels), photos),
        "objects": objects,
        "classes": classes,
        "pair_maps": maps(photos, comparisons),
        "fused": maps(photos),
        "baseline": maps(photos),
        "layers": maps(photos, taps),
        "adding": maps(photos),
        "multi": maps(photos),
        "taps": np.array([f"block_{number + 1}" for number in range(taps)]),
    }


def make_pairs(rng, labels):
    """Contents of similarity.npz, selections.json and pairs.json; the last class has no image."""
    count = len(labels)
    similarity = rng.random((count, count)) ** 3
    similarity[-1] = 0
    trained = [
        {
            "classes": [i, j],
            "examples": int(rng.integers(10, 400)),
            "accuracy": float(0.9 + 0.1 * rng.random()),
            "epochs": int(rng.integers(1, 11)),
            "converged": bool((i + j) % 4),
        }
        for i in range(count)
        for j in range(i + 1, count)
    ]
    arrays = {
        "similarity": similarity,
        "clusters": np.sort(rng.integers(0, 3, count))[rng.permutation(count)],
        "images": np.array([*rng.integers(3, 9, count - 1), 0]),
    }
    selections = {
        mode: [[other for other in (0, 2, 1) if other != own] for own in range(count)]
        for mode in MODES
    }
    return arrays, selections, {"pairs": trained, "seconds": 123.0, "frozen": True}


def make_run(seed=0, labels=NAMES):
    """`{variant: {file: contents}}` of two variants with pairs and a baseline."""
    rng = np.random.default_rng(seed)
    run = {}
    kinds = ("+F", "+A+F")
    rows = ["cam", "grad_cam", "grad_cam+A", *(mode + kind for mode in MODES for kind in kinds)]
    for variant in PAIRS:
        arrays, selections, trained = make_pairs(rng, labels)
        run[variant] = {
            "evaluation.json": make_evaluation(rng, labels, rows),
            "similarity.npz": arrays,
            "selections.json": selections,
            "pairs.json": trained,
            "gallery.npz": make_gallery(rng, labels),
        }
    run[BASELINE] = {
        "evaluation.json": make_evaluation(rng, labels, ("cam", "acol_cam"), pairs=False)
    }
    for name, contents in run.items():
        contents["all/network.json"] = {"name": "resnet50", "head": "dense", "alpha": 1.0}
        contents["all/classification.json"] = make_classification(rng, labels)
        contents["all/history.json"] = make_history(rng)
        if name == BASELINE:
            contents["all/network.json"]["head"] = "acol"
    return run


def write_run(workdir, run):
    """Writes the files of all variants and the run's config."""
    (workdir / "config.json").write_text(json.dumps({"data": {"root": EVIL, "size": 40}}))
    for variant, contents in run.items():
        for name, content in contents.items():
            path = workdir / variant / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".npz":
                np.savez(path, **content)
            else:
                path.write_text(json.dumps(content, allow_nan=False))
