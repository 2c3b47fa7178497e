"""What `evaluate` must give on the toy network: one image, one method, one label at a time."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageColor

from minmax_jax.metrics import localization, masking
from tests import reference, toys


def blurred(image):
    """Gaussian of 5 % of each side, weights renormalised at the edge."""
    out = np.zeros(image.shape)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            total = 0.0
            for v in range(height):
                for u in range(width):
                    distance = ((v - y) / (0.05 * height)) ** 2 + ((u - x) / (0.05 * width)) ** 2
                    weight = math.exp(-distance / 2)
                    out[y, x] += weight * image[v, u]
                    total += weight
            out[y, x] /= total
    return out


def evaluate_loop(
    variables,
    examples,
    methods,
    *,
    present="detected",
    fill="zero",
    others="zero",
    f1="per_label",
    normalize_at="activation",
    threshold=0.15,
    iou="pooled",
):
    """One image, one method, one label at a time, in float64, as the definitions have it."""
    names = masking.METRICS + (localization.SUMS if "mask" in examples else ())
    rows = {method: {name: [[] for _ in variables["bias"]] for name in names} for method in methods}
    for index, image in enumerate(examples["image"]):
        image, size = image.astype(float), image.shape[:2]
        twin = toys.Toy64(variables, image)
        chosen = twin.logits > 0 if present == "detected" else examples["labels"][index]
        filling = np.zeros(image.shape)
        if fill == "blur":
            filling = blurred(image)
        elif fill != "zero":
            filling[:] = np.array(ImageColor.getrgb(fill)) / 127.5 - 1

        def probabilities(mask, image=image, filling=filling):
            seen = mask[..., None] * image + (1 - mask[..., None]) * filling
            return reference.sigmoid(toys.Toy64(variables, seen).logits)

        for method in methods:
            for label in np.flatnonzero(chosen):
                mask = twin.map(method, chosen, label)
                if normalize_at == "activation":
                    mask = reference.resize(reference.normalize(mask), size)
                else:
                    mask = reference.normalize(reference.resize(mask, size))
                scores = reference.pair_scores(
                    reference.sigmoid(twin.logits),
                    probabilities(mask),
                    probabilities(1 - mask),
                    label,
                    chosen,
                    others,
                )
                if "mask" in examples:
                    scores |= reference.location_scores(
                        mask, examples["mask"][index], label, threshold
                    )
                for name in names:
                    rows[method][name][label].append(scores[name])
    results = {}
    for method, values in rows.items():
        results[method] = {"pairs": [len(row) for row in values["average_drop"]]}
        if "mask" in examples:
            results[method]["localized_pairs"] = [
                sum(value is not None for value in row) for row in values["iou"]
            ]
        results[method] |= reference.summarize(values, f1=f1, iou=iou)
    return results
