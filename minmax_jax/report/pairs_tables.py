"""Tables of a run over pair classifiers, the paper's numbers beside ours.

Scores are fractions 0..1 or None. An evaluation is the contents of a variant's `evaluation.json`:

    {"label_names": [n], "threshold": 0.15, "rows": {ROW: {"pooled": SCORES, "per_image": SCORES}},
     "table_1": {"last": [[n][n]] or null, "multi": ...} or null}
    SCORES = {"per_label": [n], "mean": x, "curve": [T], "best_threshold": t, "best": x}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from minmax_jax.data import voc
from minmax_jax.report.pairs_rows import (
    ABLATION,
    best_row,
    claims,
    mode_of,
    ordered_rows,
    row_title,
)
from minmax_jax.report.published import published
from minmax_jax.report.tables import Column, Table, best_of

POOLINGS = {"pooled": "pixels pooled", "per_image": "mean over photos"}
_PAPER = "representative_class_cam"


def means(evaluation: Mapping, pooling: str = "pooled") -> dict[str, float | None]:
    """The mean IoU of each row at the evaluation's threshold."""
    return {row: scores[pooling]["mean"] for row, scores in evaluation["rows"].items()}


def published_ablation() -> dict[str, dict[str, float]]:
    """`{network: {row: mean IoU}}` of the paper's Tables 2 and 4."""
    result = {}
    for name in ("table_2", "table_4"):
        lines = published(_PAPER)[name]["rows"]
        for network in list(lines[0])[1:]:
            scores = [line[network] / 100 for line in lines]
            result[network] = dict(zip(ABLATION, scores, strict=True))
    return result


def ablation_table(evaluations: Mapping[str, Mapping], pooling: str = "pooled") -> Table:
    """The paper's Tables 2 and 4: one row a method; a column a variant, then the paper's networks.

    Args:
      evaluations: `{variant: evaluation}`.
      pooling: "pooled" or "per_image".
    """
    ours = {variant: means(evaluation, pooling) for variant, evaluation in evaluations.items()}
    rows = ordered_rows([*ABLATION, *(row for scores in ours.values() for row in scores)])
    columns = [(Column(variant, "high"), scores) for variant, scores in ours.items()]
    columns += _published_columns()
    title = f"Mean IoU at a threshold of {_thresholds(evaluations)}, {POOLINGS[pooling]}"
    table = _by_columns(title, "method", rows, columns)
    names = tuple(
        ("Baseline (Grad-CAM)",) if row == "grad_cam" else (row_title(row),) for row in rows
    )
    return dataclasses.replace(table, rows=names)


def differences_table(evaluations: Mapping[str, Mapping]) -> Table:
    """By how much each claim of the paper's ablation holds; cells in which it does are marked.

    One row a claim and selection; a column a variant with selections, then the paper's networks.
    """
    ours = {variant: means(evaluation) for variant, evaluation in evaluations.items()}
    columns = [(Column(variant), scores) for variant, scores in ours.items() if claims(scores)]
    columns += [(Column(column.text, hint=column.hint), s) for column, s in _published_columns()]
    lines = claims(row for _, scores in columns for row in scores)
    values = tuple(
        tuple(_difference(scores.get(row), scores.get(below)) for _, scores in columns)
        for _, row, below in lines
    )
    holds = {
        (row, column)
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        if value is not None and round(100 * value, 2) > 0
    }
    rows = tuple((claim, row_title(row)) for claim, row, _ in lines)
    title = "Differences of mean IoU"
    heads = tuple(column for column, _ in columns)
    return Table(title, ("the paper's order", "method"), heads, rows, values, frozenset(holds))


def thresholds_table(evaluation: Mapping, *, title: str) -> Table:
    """One row a method: mean IoU at the evaluation's threshold, the best threshold, IoU there."""
    rows = ordered_rows(evaluation["rows"])
    columns = []
    for pooling, text in POOLINGS.items():
        for field, heading, good in (
            ("mean", f"IoU at {evaluation['threshold']:.2f}", "high"),
            ("best_threshold", "best threshold", None),
            ("best", "IoU there", "high"),
        ):
            unit = "threshold" if field == "best_threshold" else "percent"
            scores = {row: evaluation["rows"][row][pooling][field] for row in rows}
            columns.append((Column(f"{heading}, {text}", good, unit), scores))
    return _by_columns(title, "method", rows, columns)


def classes_table(evaluation: Mapping, kind: str) -> Table | None:
    """The paper's Table 1 of a variant; None where no single pair was scored.

    One row a comparison class and one column an explained class, then rows of the fused selections
    and of the all-class network with their mean in the last column. The best single class and the
    best fused row of each column are marked.

    Args:
      evaluation: the variant's.
      kind: "last" for maps of the last layer, "multi" for multi-layer maps.
    """
    single = (evaluation["table_1"] or {}).get(kind)
    if single is None or all(value is None for line in single for value in line):
        return None
    names = evaluation["label_names"]
    ends = {"last": ("+F", ""), "multi": ("+A+F", "+A")}[kind]
    tops = [row for row in evaluation["rows"] if row.startswith("top-")]
    wanted = sorted(
        (row for row in tops if row == mode_of(row) + ends[0]),
        key=lambda row: int(mode_of(row).removeprefix("top-")),
    )
    wanted += [f"all{ends[0]}", f"grad_cam{ends[1]}"]
    fused = [
        (row_title(row), [*scores["per_label"], scores["mean"]])
        for row in wanted
        if (scores := evaluation["rows"].get(row, {}).get("pooled"))
    ]
    lines = [(name, [*line, None]) for name, line in zip(names, single, strict=True)]
    title = {"last": "Maps of the last layer", "multi": "Multi-layer maps"}[kind]
    return _classes_table(title, names, lines, fused)


def published_classes_table(label_names: Sequence[str]) -> Table | None:
    """The paper's own Table 1, if the labels are those of Pascal VOC, else None."""
    if tuple(label_names) != voc.LABELS:
        return None
    rows = published(_PAPER)["table_1"]["rows"]
    lines = [(name, rows[name]) for name in label_names]
    fused = [(name, values) for name, values in rows.items() if name not in label_names]
    title = "The paper: Grad-CAM of ResNet152, VOC 2012 validation"
    return _classes_table(title, label_names, lines, fused)


def methods_table(evaluations: Mapping[str, Mapping], networks: Mapping[str, Mapping]) -> Table:
    """The paper's Table 5: existing methods and the best of our variants for each.

    Args:
      evaluations: `{variant: evaluation}`.
      networks: `{variant: contents of its network.json}`: with `attention` "cbam" its Grad-CAM is
        the method CBAM.
    """
    attentive = [v for v in evaluations if networks[v].get("attention") == "cbam"]
    plain = [variant for variant in evaluations if variant not in attentive]
    sources = {
        "CAM": ("cam", plain),
        "Grad-CAM": ("grad_cam", plain),
        "ACoL": ("acol_cam", plain),
        "CBAM": ("grad_cam", attentive),
        "Ours w/o fusion": ("cluster-1+F", plain),
        "Ours": ("cluster-1+A+F", plain),
    }
    columns = [
        Column("VOC 2012 validation", "high", hint="as the paper prints it"),
        Column("VOC 2012 training", "high", hint="as the paper prints it"),
        Column("COCO 2017 validation", "high", hint="as the paper prints it"),
        Column("this run", "high"),
    ]
    rows, values = [], []
    for line in published(_PAPER)["table_5"]["rows"]:
        row, able = sources[line["method"]]
        scores = {variant: means(evaluations[variant]).get(row) for variant in able}
        scores = {variant: score for variant, score in scores.items() if score is not None}
        best = max(scores, key=scores.get, default=None)
        ours = "-" if best is None else f"{best} ({networks[best]['name']})"
        rows.append((line["method"], line["network"], ours))
        printed = (line[split] / 100 for split in ("voc12_val", "voc12_train", "coco17_val"))
        values.append((*printed, scores.get(best)))
    best = {
        (row, column)
        for column in range(len(columns))
        for row in best_of([line[column] for line in values], "high")
    }
    corner = ("method", "paper's network", "our variant")
    title = f"Mean IoU at a threshold of {_thresholds(evaluations)}"
    return Table(title, corner, tuple(columns), tuple(rows), tuple(values), frozenset(best))


def headline(variant: str, evaluation: Mapping) -> list[str]:
    """What a variant's numbers say, in sentences."""
    scores = means(evaluation)

    def say(row):
        return f"{100 * scores[row]:.2f} ({row_title(row)})"

    def known(*rows):
        return [row for row in rows if scores.get(row) is not None]

    sentences = []
    baselines = known("grad_cam", "cam", "acol_cam")
    if baselines:
        sentences.append(f"the all-class network: {', '.join(map(say, baselines))}")
    randoms = known("random+F", "random+A+F")
    if randoms:
        sentences.append(f"random comparison classes: {', '.join(map(say, randoms))}")
    for text, multi in (("maps of the last layer", False), ("multi-layer maps", True)):
        best = best_row(scores, multi=multi)
        if best:
            sentences.append(f"representative classes, {text}, at best {say(best)}")
    result = []
    if sentences:
        result.append(
            f"Mean IoU of {variant} at {evaluation['threshold']:.2f}: {'; '.join(sentences)}."
        )
    held: dict[str, list[bool]] = {}
    for claim, row, below in claims(known(*scores)):
        held.setdefault(claim, []).append(round(100 * (scores[row] - scores[below]), 2) > 0)
    if held:
        order = (f"{claim} in {sum(of)} of {len(of)}" for claim, of in held.items())
        result.append(f"How much of the paper's order holds: {'; '.join(order)}.")
    return result


def _published_columns() -> list[tuple[Column, dict[str, float]]]:
    hint = "as the paper prints it: VOC 2012 validation"
    return [
        (Column(f"paper: {network}", "high", hint=hint), scores)
        for network, scores in published_ablation().items()
    ]


def _thresholds(evaluations: Mapping[str, Mapping]) -> str:
    used = dict.fromkeys(f"{evaluation['threshold']:.2f}" for evaluation in evaluations.values())
    return ", ".join(used)


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _by_columns(title: str, corner: str, rows: Sequence[str], columns) -> Table:
    """A table of `(Column, {row: value})`, the best of each column marked."""
    values = tuple(tuple(scores.get(row) for _, scores in columns) for row in rows)
    best = {
        (row, index)
        for index, (column, _) in enumerate(columns)
        for row in best_of([line[index] for line in values], column.good)
    }
    heads = tuple(column for column, _ in columns)
    names = tuple((row_title(row),) for row in rows)
    return Table(title, (corner,), heads, names, values, frozenset(best))


def _classes_table(title, names, lines, fused) -> Table:
    """Two groups of `(name, values)`; the best of a column is marked in each group."""
    best, rows, values = set(), [], []
    for group, own in (("one class", lines), ("several at once", fused)):
        for column in range(len(names) + 1):
            marked = best_of([line[column] for _, line in own], "high")
            best |= {(len(rows) + row, column) for row in marked}
        rows += [(group, name) for name, _ in own]
        values += [tuple(line) for _, line in own]
    columns = tuple(Column(name) for name in (*names, "average"))
    corner = ("compared with", "class")
    return Table(title, corner, columns, tuple(rows), tuple(values), frozenset(best))
