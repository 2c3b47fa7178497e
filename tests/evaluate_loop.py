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


def pixel_gradients(variables, image):
    """Gradients `(c H W 3)` of all logits with respect to the image."""
    twin = toys.Toy64(variables, image)
    gradients = np.zeros((len(twin.logits), *image.shape))
    for label, y, x, colour in np.ndindex(*gradients.shape):
        i, j = y // 2, x // 2
        live = twin.taps["early"][i, j] > 0
        of_early = np.where(live, twin.gradients["early"][label, i, j], 0)
        gradients[label, y, x, colour] = of_early @ twin.variables["first"][colour] / 4
    return gradients


def saliency_map(variables, image, method, present, label):
    """Of the largest gradient, or integrated from 0 over 32 midpoints."""
    if method.endswith("integrated_gradients"):
        points = [(index + 0.5) / 32 * image for index in range(32)]
        gradients = sum(pixel_gradients(variables, point) for point in points) / 32
    else:
        gradients = pixel_gradients(variables, image)
    own, others = gradients[label], reference.others_of(present, label)
    if method.startswith("minmax") and others:
        own = own - sum(gradients[n] for n in others) / len(others)
    if method.endswith("integrated_gradients"):
        return np.maximum((image * own).sum(axis=-1), 0)
    return abs(own).max(axis=-1)


def curves(image, mask, filling, steps, probability):
    """Insertion and deletion curve of one map: `steps + 1` probabilities each."""
    values = [(-mask[y, x], y, x) for y, x in np.ndindex(*mask.shape)]
    places, softened = [(y, x) for _, y, x in sorted(values)], blurred(image)
    insertion, deletion = [], []
    for step in range(steps + 1):
        inserted, deleted = softened.copy(), image.copy()
        for place in places[: step * len(places) // steps]:
            inserted[place], deleted[place] = image[place], filling[place]
        insertion.append(probability(inserted))
        deletion.append(probability(deleted))
    return {"insertion": insertion, "deletion": deletion}


def area(curve):
    return sum((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)) / (len(curve) - 1)


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
    curve_steps=0,
):
    """One image, one method, one label at a time, in float64, as the definitions have it."""
    names = masking.METRICS + (localization.SUMS if "mask" in examples else ())
    names += ("insertion", "deletion") if curve_steps else ()
    rows = {method: {name: [[] for _ in variables["bias"]] for name in names} for method in methods}
    drawn = {method: [[] for _ in variables["bias"]] for method in methods}
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
                if "gradients" in method:
                    mask = saliency_map(variables, image, method, chosen, label)
                else:
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
                if curve_steps:

                    def probability(seen, label=label):
                        return reference.sigmoid(toys.Toy64(variables, seen).logits)[label]

                    drawn[method][label].append(
                        curves(image, mask, filling, curve_steps, probability)
                    )
                    own = drawn[method][label][-1]
                    scores |= {name: area(curve) for name, curve in own.items()}
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
        for name in ("insertion", "deletion") if curve_steps else ():
            means = [np.mean([own[name] for own in row], axis=0) for row in drawn[method] if row]
            results[method][f"{name}_curve"] = np.mean(means, axis=0).tolist()
    return results
