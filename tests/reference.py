"""Float64 numpy loops, written straight from the equations: what the tests compare with.

Numbers of the equations are those of the MinMax-CAM paper. Arrays of one example: activations
`(h w k)`, gradients of all logits `(c h w k)`, kernel `(k c)`, `present (c,)`.
"""

from __future__ import annotations

import math

import numpy as np


def relu(value):
    return max(0.0, float(value))


def others_of(present, label):
    """N = C without the label."""
    return [n for n in range(len(present)) if present[n] and n != label]


def weighted_map(activations, weights):
    """relu(sum_k weights[k] A[..., k]) (Eq. 1, 4)."""
    height, width, channels = activations.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            out[i, j] = relu(sum(weights[k] * activations[i, j, k] for k in range(channels)))
    return out


def cam_weights(kernel, present, label):
    return [float(kernel[k, label]) for k in range(len(kernel))]


def minmax_weights(kernel, present, label):
    """Eq. 7."""
    others = others_of(present, label)
    return [
        float(kernel[k, label]) - sum(kernel[k, n] for n in others) / max(len(others), 1)
        for k in range(len(kernel))
    ]


def d_minmax_weights(kernel, present, label):
    """Eq. 9."""
    others = others_of(present, label)
    everybody = [i for i in range(len(present)) if present[i]]
    return [
        relu(kernel[k, label])
        - relu(sum(kernel[k, n] for n in others)) / max(len(others), 1)
        + min(0.0, sum(kernel[k, i] for i in everybody)) / max(len(everybody), 1)
        for k in range(len(kernel))
    ]


def grad_cam_weights(gradients, present, label):
    """Eq. 2, without 1 / (h w)."""
    _, height, width, channels = gradients.shape
    return [
        sum(gradients[label, i, j, k] for i in range(height) for j in range(width))
        for k in range(channels)
    ]


def minmax_grad_weights(gradients, present, label):
    """Eq. 5 and 6."""
    _, height, width, channels = gradients.shape
    others = others_of(present, label)
    weights = []
    for k in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                rest = sum(gradients[n, i, j, k] for n in others)
                total += gradients[label, i, j, k] - rest / max(len(others), 1)
        weights.append(total)
    return weights


def d_minmax_grad_weights(gradients, present, label):
    """Eq. 8."""
    _, height, width, channels = gradients.shape
    others = others_of(present, label)
    everybody = [i for i in range(len(present)) if present[i]]
    weights = []
    for k in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                total += relu(gradients[label, i, j, k])
                rest = sum(gradients[n, i, j, k] for n in others)
                total -= relu(rest) / max(len(others), 1)
                overall = sum(gradients[m, i, j, k] for m in everybody)
                total += min(0.0, overall) / max(len(everybody), 1)
        weights.append(total)
    return weights


def grad_cam_plus_plus_weights(activations, gradients, label, score):
    """sum_ij a relu(exp(S) g), a = g^2 / (2 g^2 + (sum_ij A) g^3), 0 where that divides by 0."""
    height, width, channels = activations.shape
    weights = []
    for k in range(channels):
        summed = sum(activations[i, j, k] for i in range(height) for j in range(width))
        total = 0.0
        for i in range(height):
            for j in range(width):
                g = float(gradients[label, i, j, k])
                denominator = 2 * g**2 + summed * g**3
                alpha = g**2 / denominator if denominator != 0 else 0.0
                total += alpha * relu(math.exp(score) * g)
        weights.append(total)
    return weights


KERNEL_WEIGHTS = {
    "cam": cam_weights,
    "minmax_cam": minmax_weights,
    "d_minmax_cam": d_minmax_weights,
}
GRADIENT_WEIGHTS = {
    "grad_cam": grad_cam_weights,
    "minmax_grad_cam": minmax_grad_weights,
    "d_minmax_grad_cam": d_minmax_grad_weights,
}


def normalize(array):
    """Min-max normalisation of one map; 0 where it is constant."""
    lowest, highest = float(np.min(array)), float(np.max(array))
    out = np.zeros(np.shape(array))
    for index in np.ndindex(*out.shape):
        out[index] = (array[index] - lowest) / (highest - lowest) if highest > lowest else 0.0
    return out


def resize(array, size):
    """Bilinear, half-pixel centres, edges repeated, no antialiasing; `(h w)` to `(H W)`."""
    height, width = array.shape
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0.0), height - 1.0)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0.0), width - 1.0)
            top, left = math.floor(v), math.floor(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - (u - left)) * array[top, left] + (u - left) * array[top, right]
            lower = (1 - (u - left)) * array[below, left] + (u - left) * array[below, right]
            out[y, x] = (1 - (v - top)) * upper + (v - top) * lower
    return out


def sigmoid(logits):
    return np.array([1 / (1 + math.exp(-s)) if s > -700 else 0.0 for s in np.ravel(logits)])


def score_cam_masks(activations, size):
    """H_k of every channel that is not flat: `{k: (H W)}`."""
    masks = {}
    for k in range(activations.shape[-1]):
        channel = np.asarray(activations[..., k], np.float64)
        if channel.max() > channel.min():
            masks[k] = normalize(resize(channel, size))
    return masks


def score_cam_weights(logits_of, image, activations):
    """`(k c)`: sigmoid(f(x * H_k)), 0 for flat channels. `logits_of`: image `(H W 3)` to `(c,)`."""
    num_labels = len(logits_of(image))
    weights = np.zeros((activations.shape[-1], num_labels))
    for k, mask in score_cam_masks(activations, image.shape[:2]).items():
        weights[k] = sigmoid(logits_of(image * mask[..., None]))
    return weights


def relative_drop(before, after):
    return relu(before - after) / before if before > 0 else 0.0


def pair_scores(original, kept, dropped, label, present, others="zero"):
    """Eq. 10 to 14 for one pair: `{metric: value}`, None where the pair is left out."""
    rest = others_of(present, label)
    empty = 0.0 if others == "zero" else None
    drops = [relative_drop(original[n], kept[n]) for n in rest]
    retentions = [relative_drop(original[n], dropped[n]) for n in rest]
    return {
        "increase_in_confidence": 1.0 if original[label] < kept[label] else 0.0,
        "average_drop": relative_drop(original[label], kept[label]),
        "average_drop_of_others": sum(drops) / len(rest) if rest else empty,
        "average_retention": relative_drop(original[label], dropped[label]),
        "average_retention_of_others": sum(retentions) / len(rest) if rest else empty,
    }


def location_scores(mask, segmentation, label, threshold):
    """Scores of one map against its object; None where the label has no pixel."""
    intersection = union = 0
    total = on_object = 0.0
    highest, highest_on_object, any_object = -1.0, False, False
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if segmentation[y, x] == 255:
                continue
            is_object, is_predicted = segmentation[y, x] == label + 1, mask[y, x] > threshold
            intersection += int(is_object and is_predicted)
            union += int(is_object or is_predicted)
            total += mask[y, x]
            on_object += mask[y, x] if is_object else 0.0
            any_object = any_object or is_object
            if mask[y, x] > highest:
                highest, highest_on_object = mask[y, x], is_object
    if not any_object:
        names = ("intersection", "union", "iou", "pointing_game", "energy_on_object")
        return dict.fromkeys(names)
    return {
        "intersection": float(intersection),
        "union": float(union),
        "iou": intersection / union,
        "pointing_game": 1.0 if highest_on_object and total > 0 else 0.0,
        "energy_on_object": on_object / total if total > 0 else 0.0,
    }


def mean(values):
    """Mean of those that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def harmonic(first, second):
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


F1 = {
    "f1_minus": ("average_drop", "average_retention_of_others"),
    "f1_plus": ("average_retention", "average_drop_of_others"),
}


def summarize(values, f1="per_label", iou="pooled"):
    """`{metric: [list of values per label]}` to per label, macro and micro."""
    values = dict(values)
    pooled = {name: values.pop(name) for name in ("intersection", "union") if name in values}
    per_label = {name: [mean(row) for row in rows] for name, rows in values.items()}
    micro = {name: mean([v for row in rows for v in row]) for name, rows in values.items()}
    if pooled and iou == "pooled":
        sums = {
            name: [sum(v for v in row if v is not None) for row in rows]
            for name, rows in pooled.items()
        }
        per_label["iou"] = [i / u if u else None for i, u in zip(*sums.values(), strict=True)]
        unions = sum(sums["union"])
        micro["iou"] = sum(sums["intersection"]) / unions if unions else None
    macro = {name: mean(row) for name, row in per_label.items()}
    for name, (first, second) in F1.items():
        pairs = zip(per_label[first], per_label[second], strict=True)
        per_label[name] = [harmonic(a, b) for a, b in pairs]
        micro[name] = harmonic(micro[first], micro[second])
        macro[name] = (
            mean(per_label[name]) if f1 == "per_label" else harmonic(macro[first], macro[second])
        )
    return {"per_label": per_label, "macro": macro, "micro": micro}
