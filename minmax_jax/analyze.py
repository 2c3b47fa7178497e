"""What linear heads make of their kernels: section 6.2 of the MinMax-CAM paper, in numbers.

A *kernel* is a channel of the last activations, a *unit* a label's output; the head's effective
kernel `(k c)` holds a column of weights for each unit. The stage reads every trained variant whose
head is linear after pooling and writes WORKDIR/analysis: analysis.json (all numbers), index.html,
figures/. The first variant with a dense head is compared with each other one on the same backbone.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minmax_jax import files
from minmax_jax.experiment import Experiment
from minmax_jax.label_flow import label_flow
from minmax_jax.metrics.kernels import (
    chance_correlation,
    check_kernel,
    cluster_order,
    mean_of_pairs,
    shared_kernels,
    top_kernels,
    unit_correlations,
    weight_statistics,
)
from minmax_jax.report import analysis as report

POSITIVE = 0.5  # finding (a): more of the weights than this are positive
SKEWNESS = 0.5  # finding (a): below it a distribution is commonly called symmetric
LESS = 0.5  # findings (b) and (c): "much lower" is at most this part of the plain head's


def analyze_head(
    kernel: np.ndarray, flow: np.ndarray, features: np.ndarray, images: np.ndarray, *, top: int
) -> dict[str, Any]:
    """All numbers of one head, as they stand in analysis.json.

    Args:
      kernel: `(k c)`.
      flow, features, images: as `label_flow` returns them.
      top: kernels of each unit, 1 or more.

    Raises:
      ValueError: as in `top_kernels`, and for a flow or features that are not finite.
    """
    kernel = check_kernel(kernel)
    if not (np.isfinite(flow).all() and np.isfinite(features).all()):
        raise ValueError("the kernels' contributions have values that are not finite")
    correlations = unit_correlations(kernel)
    sharing = {
        "by_weight": _sharing(top_kernels(kernel, top), len(kernel)),
        "by_contribution": _sharing(top_kernels(features.T * kernel, top), len(kernel)),
    }
    through = flow.sum(axis=0)
    total = through.sum()
    return {
        "kernels": len(kernel),
        "weights": weight_statistics(kernel),
        "correlations": correlations.tolist(),
        "order": cluster_order(correlations).tolist(),
        "mean_correlation": mean_of_pairs(np.abs(correlations)),
        "chance_correlation": chance_correlation(len(kernel)),
        "sharing": sharing,
        "flow": {
            "images": images.tolist(),
            "labels_to_kernels": flow.sum(axis=2).tolist(),
            "kernels_to_predictions": through.tolist(),
            "labels_to_predictions": flow.sum(axis=1).tolist(),
            "own_kernels": float(np.trace(through) / total) if total else None,
        },
    }


def _sharing(tops: list[list[int]], kernels: int) -> dict[str, Any]:
    shared = shared_kernels(tops)
    sizes = np.diag(shared)
    uses = np.bincount(list(itertools.chain(*tops)), minlength=kernels)
    return {
        "tops": tops,
        "shared": shared.tolist(),
        "distinct": int((uses > 0).sum()),
        "in_several": int((uses > 1).sum()),
        "mean_shared": mean_of_pairs(shared),
        "chance": mean_of_pairs(np.outer(sizes, sizes) / kernels),
    }


def compare_heads(plain: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paper's findings of section 6.2, each with the numbers that decide it.

    Args:
      plain, other: as `analyze_head` returns them.

    Returns:
      For the findings a, b, c `{"finding", "confirmed", "conditions": [...]}`, a condition being
      `{"number", "plain", "value", "bound", "holds"}`. The bound is the value above which (a) or
      up to which, and below the plain head's (b, c), the condition holds. A head with one unit has
      no pairs: None in place of numbers and of answers.
    """
    heads = plain, other
    positive, skewness = (
        [float(np.mean(head["weights"][name])) for head in heads]
        for name in ("positive", "skewness")
    )
    shared = [head["sharing"]["by_weight"]["mean_shared"] for head in heads]
    conditions = {
        "a": [_above("positive", POSITIVE, *positive), _above("skewness", SKEWNESS, *skewness)],
        "b": [_below("correlation", *(head["mean_correlation"] for head in heads))],
        "c": [_below("shared", *shared)],
    }
    return [
        {
            "finding": finding,
            "confirmed": None if own[0]["holds"] is None else all(c["holds"] for c in own),
            "conditions": own,
        }
        for finding, own in conditions.items()
    ]


def _above(number, least, plain, value):
    bound = max(least, plain)
    return _condition(number, plain, value, bound, value > bound)


def _below(number, plain, value):
    if plain is None:
        return _condition(number, None, None, None, None)
    bound = LESS * plain
    return _condition(number, plain, value, bound, value <= bound and value < plain)


def _condition(number, plain, value, bound, holds):
    return {"number": number, "plain": plain, "value": value, "bound": bound, "holds": holds}


def stage(experiments: Sequence[Experiment], workdir: pathlib.Path) -> None:
    """Analyses the heads of finished variants and prints what came of the paper's findings.

    Raises:
      ValueError: if `analyze.top` is below 1, no head is linear, a network is not trained, or has
        values that are not finite (the variant is named).
    """
    config = experiments[0].config.analyze
    if config.top < 1:
        raise ValueError(f"analyze.top must be at least 1, got {config.top}")
    linear = [experiment for experiment in experiments if experiment.network.head_kernel]
    if not linear:
        raise ValueError(
            "analyze reads heads that are linear after pooling, and no variant has one"
        )
    result = pathlib.Path(workdir) / "analysis" / "analysis.json"
    if result.exists() and files.read_json(result)["top"] == config.top:
        print("analyzed already")
    else:
        heads = {experiment.name: _analyze(experiment, config) for experiment in linear}
        files.write_json(
            result,
            {
                "label_names": list(linear[0].label_names),
                "top": config.top,
                "heads": heads,
                "comparisons": _comparisons(heads),
                "left_out": [e.name for e in experiments if e not in linear],
            },
        )
    path = report.write_page(result, title=experiments[0].config.title)
    analysis = files.read_json(result)
    print(report.findings_text(analysis))
    for name in analysis["left_out"]:
        print(f"left out: {name}, as its head is not linear after pooling")
    print(f"analysis: {path}")


def _analyze(experiment: Experiment, config: Any) -> dict[str, Any]:
    print(f"{experiment.name}: analyzing", flush=True)
    network, variables = experiment.network, experiment.best_variables()
    batches = experiment.batches(experiment.validation_source, config.batch_size)
    own = experiment.config.network
    backbone = {"network": own.name, "attention": own.attention, "head": own.head}
    try:
        kernel = check_kernel(network.head_kernel(variables))
        found = label_flow(network, variables, batches, mesh=experiment.mesh)
        return backbone | analyze_head(kernel, *found, top=config.top)
    except ValueError as error:
        raise ValueError(f"{experiment.name}: {error}") from error


def _comparisons(heads: Mapping[str, Mapping]) -> list[dict[str, Any]]:
    """The first dense head on each backbone beside each of the others on it."""
    plain = {}
    for name, head in heads.items():
        if head["head"] == "dense":
            plain.setdefault(_backbone(head), name)
    return [
        {"plain": first, "other": name, "findings": compare_heads(heads[first], head)}
        for name, head in heads.items()
        if (first := plain.get(_backbone(head), name)) != name
    ]


def _backbone(head):
    return head["network"], head["attention"]
