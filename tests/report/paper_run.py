"""Finished runs of the paper's experiments, with made-up scores."""

from __future__ import annotations

import json

from minmax_jax.recipe import METHODS, paper_config

METRICS = (
    "increase_in_confidence",
    "average_drop",
    "average_drop_of_others",
    "average_retention",
    "average_retention_of_others",
    "f1_minus",
    "f1_plus",
)

# Cells whose printed F1 is no mean of its own columns: table, metric, model or data set.
SLIPS = {
    ("table_1", "f1_minus", "Eb6"),
    ("table_1", "f1_minus", "RN101"),
    ("table_1", "f1_plus", "Eb6"),
    ("table_1", "f1_plus", "RN101"),
    ("table_2", "f1_minus", "VOC07"),
    ("table_2", "f1_plus", "VOC07"),
    ("table_3", "f1_minus", "VOC07"),
    ("table_3", "f1_plus", "VOC07"),
}


def make_scores(rng, methods=METHODS):
    """Contents of evaluation.json and classification.json."""
    macro = {name: {metric: float(rng.random()) for metric in METRICS} for name in methods}
    evaluation = {
        "settings": {"images": 7},
        "methods": {
            # The other average is another number.
            name: {"macro": scores, "micro": {key: 1 - value for key, value in scores.items()}}
            for name, scores in macro.items()
        },
    }
    classification = {
        score: {average: float(rng.random()) for average in ("macro", "micro", "weighted")}
        for score in ("f1", "f2")
    }
    return evaluation, classification


def write_workdir(workdir, config, scores):
    """Writes a run's files.

    Args:
      workdir: its folder.
      config: a dict, or a ConfigDict.
      scores: `{variant: what make_scores gives}`; variants without are not finished.
    """
    workdir.mkdir(parents=True)
    content = config if isinstance(config, dict) else config.to_dict()
    (workdir / "config.json").write_text(json.dumps(content))
    for variant, contents in scores.items():
        (workdir / variant).mkdir()
        for name, part in zip(("evaluation", "classification"), contents, strict=True):
            (workdir / variant / f"{name}.json").write_text(json.dumps(part))
    return workdir


def plain_config(data_set="voc07", variant="resnet101", **changes):
    """Config of one variant as a dict; `changes` are `{section: {field: value}}`."""
    config = json.loads(json.dumps(paper_config(data_set, variant).to_dict()))
    for section, fields in changes.items():
        config[section] |= fields
    return config


def cells_of(table):
    """Each cell with its metric, its model or data set, and its method."""
    for key, line in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, line, strict=True):
            yield (*key, column), cell
