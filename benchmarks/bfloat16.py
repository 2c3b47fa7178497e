"""What bfloat16 changes in every metric of a run of `launch.py`, in percent points.

    python -m benchmarks.bfloat16 --workdir runs/scenes [--variant plain] [--images 0] [--json FILE]

The run's best weights are evaluated on its validation images twice, the network computing in
float32 and in bfloat16. Where labels are detected, each decides for itself which pairs count.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from benchmarks import harness
from minmax_jax import create_network, data, evaluate
from minmax_jax.config import resolve_variant
from minmax_jax.evaluate import Switches
from minmax_jax.files import read_json
from minmax_jax.pretrained.description import read_network_json
from minmax_jax.train import restore_best

_GOAL = 0.2


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--variant", default="plain")
    parser.add_argument("--methods", default="", help="with commas; by default the run's")
    parser.add_argument("--images", type=int, default=0, help="at most; 0 is all")
    options = parser.parse_args(argv)
    try:
        config = ConfigDict(read_json(options.workdir / "config.json"))
    except FileNotFoundError as error:
        parser.error(f"{options.workdir} is no workdir of launch.py: {error}")
    if options.variant not in config.variants:
        parser.error(f"no variant {options.variant!r}; variants: {', '.join(config.variants)}")
    config = resolve_variant(config, options.variant)
    methods = options.methods.split(",") if options.methods else config.evaluate.methods
    found = {
        dtype: _evaluate(config, options.workdir / options.variant, dtype, methods, options.images)
        for dtype in ("float32", "bfloat16")
    }
    rows = []
    for method in methods:
        rows += _rows(method, *(result["methods"][method] for result in found.values()))
    harness.report(rows, options)


def _evaluate(config, folder, dtype, methods, images) -> dict[str, Any]:
    description = read_network_json(folder)
    network = create_network(**description.arguments | {"dtype": dtype})
    options = config.data
    source = data.create_source(
        options.source, "validation", **{**options.options, **options.validation}
    )
    batches = data.batches(
        source,
        batch_size=config.evaluate.batch_size,
        image_size=options.image_size or network.image_size,
        preprocess=network.preprocess,
        resize=options.resize,
    )
    if images:
        batches = list(itertools.islice(batches, -(-images // config.evaluate.batch_size)))
    return evaluate(
        network,
        restore_best(folder, network),
        batches,
        methods=methods,
        **{field.name: config.evaluate[field.name] for field in dataclasses.fields(Switches)},
    )


def _rows(method: str, exact: Mapping[str, Any], other: Mapping[str, Any]) -> list[harness.Row]:
    """How far every metric is from the exact one, and by how many pairs the two differ."""
    differences = {
        metric: 100 * abs(other["macro"][metric] - value)
        for metric, value in exact["macro"].items()
        if value is not None and other["macro"][metric] is not None
    }
    rows = [
        harness.Row(f"{method}, {metric}", value, "percent points", _GOAL)
        for metric, value in differences.items()
    ]
    pairs = sum(abs(a - b) for a, b in zip(exact["pairs"], other["pairs"], strict=True))
    of = f"of {sum(exact['pairs'])} pairs more or fewer"
    return [*rows, harness.Row(f"{method}, pairs", pairs, of)]


if __name__ == "__main__":
    main()
