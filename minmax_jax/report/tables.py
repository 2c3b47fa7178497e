"""Tables of results: plain values with their best cells marked, and their rendering as text.

Every function here is pure: dicts as in `classification.json` and `evaluation.json` in, a `Table`
or a string out. Scores are fractions 0..1 or None (nothing to score) and are printed as percent.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

from minmax_jax.report.names import (
    ARROWS,
    HEADLINE,
    LOCALIZATION,
    MANY,
    METRICS,
    Metric,
    family_title,
    method_order,
    method_title,
    metric,
    ordered,
)

MISSING = "-"
DAGGER = "†"  # after doubtful numbers


@dataclasses.dataclass(frozen=True)
class Column:
    """Heading of a column of values, its good direction and its unit: how its cells print."""

    text: str
    good: str | None = None
    unit: str = "percent"
    hint: str = ""

    @property
    def heading(self) -> str:
        """Text and arrow."""
        return f"{self.text} {ARROWS[self.good]}".rstrip()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes:
      title: one line.
      corner: headings of the columns that hold row names.
      columns: headings of the columns that hold values.
      rows: for each row its names, as many as `corner` has.
      values: `values[row][column]`, a float or None.
      best: the cells `(row, column)` that are marked. Values that print alike share the mark;
        where fewer than two values compete there is none.
      doubtful: the cells whose number is doubtful.
    """

    title: str
    corner: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    values: tuple[tuple[float | None, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    doubtful: frozenset[tuple[int, int]] = frozenset()


def format_value(value: float | None, unit: str) -> str:
    """A cell's text: percent of a fraction and seconds with two decimals, whole counts."""
    if value is None:
        return MISSING
    if unit == "count":
        return f"{value:d}"
    return f"{100 * value if unit == 'percent' else value:.2f}"


def best_of(values: Sequence[float | None], good: str | None) -> set[int]:
    """Indices of the best of fractions as they print in percent; none where nothing competes."""
    printed = {
        index: round(100 * value, 2) for index, value in enumerate(values) if value is not None
    }
    if good is None or len(printed) < 2:
        return set()
    best = max(printed.values()) if good == "high" else min(printed.values())
    return {index for index, value in printed.items() if value == best}


def places(table: Table) -> tuple[tuple[float | None, ...], ...]:
    """How each cell does among the others of its column: 1 the best, 0 the worst.

    Values that print alike share their mean place; None where there is no value, or no direction.
    """
    columns = []
    for index, column in enumerate(table.columns):
        line = [row[index] for row in table.values]
        rounded = [None if value is None else round(100 * value, 2) for value in line]
        known = [value for value in rounded if value is not None]
        if column.good is None or len(set(known)) < 2:
            columns.append([None] * len(line))
            continue
        sign = 1 if column.good == "high" else -1

        def place(value, known=known, sign=sign):
            worse = sum(sign * other < sign * value for other in known)
            alike = known.count(value) - 1
            return (worse + alike / 2) / (len(known) - 1)

        columns.append([None if value is None else place(value) for value in rounded])
    return tuple(zip(*columns, strict=True))


def alike(table: Table) -> list[list[int]]:
    """Rows that agree to a fiftieth of a percent in every column with a direction, two at least."""
    columns = [index for index, column in enumerate(table.columns) if column.good]
    groups: list[list[int]] = []
    for row, values in enumerate(table.values):
        for group in groups:
            pairs = [(values[index], table.values[group[0]][index]) for index in columns]
            if all(a == b or (None not in (a, b) and abs(a - b) <= 2e-4) for a, b in pairs):
                group.append(row)
                break
        else:
            groups.append([row])
    return [group for group in groups if len(group) > 1]


def _table_by_columns(title, corner, columns, rows, values) -> Table:
    best = frozenset(
        (row, index)
        for index, column in enumerate(columns)
        for row in best_of([line[index] for line in values], column.good)
    )
    return Table(title, corner, tuple(columns), tuple(rows), tuple(map(tuple, values)), best)


def classification_table(classifications: Mapping[str, Mapping]) -> Table:
    """One row a variant: F1 and F2 (macro, micro, weighted) and mAP.

    Args:
      classifications: `{variant: contents of its classification.json}`.
    """
    averages = ("macro", "micro", "weighted")
    cells = [(score, average) for score in ("f1", "f2") for average in averages]
    columns = [Column(f"{score.upper()} {average}", "high") for score, average in cells]
    columns.append(Column("mAP", "high", hint="mean average precision over the labels"))
    values = [
        [result[score][average] for score, average in cells] + [result["map"]["macro"]]
        for result in classifications.values()
    ]
    rows = [(variant,) for variant in classifications]
    return _table_by_columns("Classification", ("variant",), columns, rows, values)


def methods_table(evaluation: Mapping, average: str, *, title: str) -> Table:
    """One row a method, one column a metric, then the number of pairs and the seconds it took.

    Many methods stand under the headings of their families.

    Args:
      evaluation: contents of an evaluation.json.
      average: "macro" or "micro".
      title: the table's title.
    """
    methods = evaluation["methods"]
    names = ordered((name for result in methods.values() for name in result[average]), METRICS)
    columns = [
        Column(metric(name).short, metric(name).good, hint=metric(name).title) for name in names
    ]
    columns.append(Column("pairs", unit="count", hint="pairs of an image and a label explained"))
    columns.append(Column("seconds", unit="seconds"))
    order = method_order(methods)
    values = [
        [methods[method][average].get(name) for name in names]
        + [sum(methods[method]["pairs"]), methods[method]["seconds"]]
        for method in order
    ]
    corner, rows = _method_rows(order)
    return _table_by_columns(title, corner, columns, rows, values)


def _method_rows(order):
    """Corner and rows of a table with one row a method."""
    if len(order) <= MANY:
        return ("method",), [(method_title(method),) for method in order]
    return ("family", "method"), [(family_title(m), method_title(m)) for m in order]


def comparison_table(evaluations: Mapping[str, Mapping], average: str = "macro") -> Table:
    """Variants beside one another (the layout of the paper's Table 3).

    One column a method; for each metric one row a variant, the best method of the row marked. Of
    many methods each has a row, and the metrics of `HEADLINE` have a column for each variant.

    Args:
      evaluations: `{variant: contents of its evaluation.json}`.
      average: "macro" or "micro".
    """
    results = {variant: evaluation["methods"] for variant, evaluation in evaluations.items()}
    methods = method_order(name for result in results.values() for name in result)
    title = f"Variants side by side ({average})"
    metrics = ordered(
        (name for result in results.values() for of in result.values() for name in of[average]),
        METRICS,
    )
    if len(methods) > MANY:
        cells = [(name, variant) for name in HEADLINE if name in metrics for variant in results]
        columns = [
            Column(f"{metric(name).short} {variant}", metric(name).good, hint=metric(name).title)
            for name, variant in cells
        ]
        lines = [
            [results[variant].get(method, {}).get(average, {}).get(name) for name, variant in cells]
            for method in methods
        ]
        corner, rows = _method_rows(methods)
        return _table_by_columns(title, corner, columns, rows, lines)
    rows, values, best = [], [], set()
    for name in metrics:
        for variant, result in results.items():
            line = tuple(result.get(method, {}).get(average, {}).get(name) for method in methods)
            best |= {(len(rows), index) for index in best_of(line, metric(name).good)}
            rows.append((metric(name).heading, variant))
            values.append(line)
    columns = tuple(Column(method_title(method)) for method in methods)
    corner = ("metric", "variant")
    return Table(title, corner, columns, tuple(rows), tuple(values), frozenset(best))


def label_classification_table(classifications: Mapping[str, Mapping]) -> Table:
    """One row a label: its F1, F2 and average precision in every variant, the best one marked."""
    first = next(iter(classifications.values()))
    scores = (("f1", "F1"), ("f2", "F2"), ("map", "AP"))
    columns, lines, best = [], [], set()
    for start, (score, text) in enumerate(scores):
        columns += [Column(f"{text} {variant}", "high") for variant in classifications]
        lines += [result[score]["per_label"] for result in classifications.values()]
        begin, end = start * len(classifications), (start + 1) * len(classifications)
        for row, competing in enumerate(zip(*lines[begin:end], strict=True)):
            best |= {(row, begin + index) for index in best_of(competing, "high")}
    rows = tuple((label,) for label in first["label_names"])
    values = tuple(zip(*lines, strict=True))
    return Table("Classification", ("label",), tuple(columns), rows, values, frozenset(best))


def label_methods_table(evaluation: Mapping, name: str) -> Table:
    """One row a label: its pairs, then metric `name` of every method, the best one marked."""
    methods = evaluation["methods"]
    order = [m for m in method_order(methods) if name in methods[m]["per_label"]]
    columns = [Column("pairs", unit="count"), *(Column(method_title(m)) for m in order)]
    scores = [methods[method]["per_label"][name] for method in order]
    first = methods[order[0]]
    pairs = first["pairs"]
    if name in LOCALIZATION:
        pairs = first.get("localized_pairs", pairs)
    best = {
        (row, 1 + index)
        for row, competing in enumerate(zip(*scores, strict=True))
        for index in best_of(competing, metric(name).good)
    }
    rows = tuple((label,) for label in evaluation["label_names"])
    values = tuple(zip(pairs, *scores, strict=True))
    title = f"{metric(name).title} {ARROWS[metric(name).good]}".rstrip()
    return Table(title, ("label",), tuple(columns), rows, values, frozenset(best))


def winners(evaluation: Mapping, names: Sequence[str]) -> list[tuple[Metric, float, list[str]]]:
    """For each metric of `names` that was scored: the best macro value and who reaches it.

    Returns:
      `(metric, value, titles of the methods)`; methods that print alike share the place.
    """
    methods = evaluation["methods"]
    order = method_order(methods)
    result = []
    for name in names:
        line = [methods[method]["macro"].get(name) for method in order]
        scored = [index for index, value in enumerate(line) if value is not None]
        best = sorted(best_of(line, metric(name).good)) or scored  # one alone competes with none
        if best:
            result.append((metric(name), line[best[0]], [method_title(order[i]) for i in best]))
    return result


def summary_tables(
    classifications: Mapping[str, Mapping], evaluations: Mapping[str, Mapping]
) -> list[Table]:
    """The tables that a run prints: classification, methods of each variant, comparison."""
    result = [classification_table(classifications)]
    result += [
        methods_table(evaluation, "macro", title=f"{variant}: methods (macro)")
        for variant, evaluation in evaluations.items()
    ]
    if len(evaluations) > 1:
        result.append(comparison_table(evaluations))
    return result


def render_text(table: Table) -> str:
    """The table for a terminal: aligned columns, `*` after the best cells, `-` where no value is.

    Doubtful numbers have a dagger. Names of groups of rows (all row names but the last) are printed
    once.
    """
    headings = [[name] for name in table.corner]
    headings += [
        textwrap.wrap(column.heading, 10, break_long_words=False) for column in table.columns
    ]
    depth = max(map(len, headings))
    padded = [[""] * (depth - len(heading)) + heading for heading in headings]
    body = [_text_cells(table, row) for row in range(len(table.rows))]
    grid = [*zip(*padded, strict=True), *body]
    # Marks have places of their own, so that decimal points stay below one another.
    count = len(table.corner)
    marks = {cell: "*" * (cell in table.best) for cell in table.best | table.doubtful}
    marks |= {cell: marks[cell] + DAGGER for cell in table.doubtful}
    room = [0] * len(grid[0])
    for (_, column), mark in marks.items():
        room[count + column] = max(room[count + column], len(mark))
    grid = [
        [
            cell + marks.get((row - depth, index - count), "").ljust(room[index])
            for index, cell in enumerate(line)
        ]
        for row, line in enumerate(grid)
    ]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < count else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in grid
    ]
    rule = "-" * max(map(len, lines))
    title = f"{table.title}, percent" + (" (* best)" if table.best else "")
    return "\n".join([title, rule, *lines[:depth], rule, *lines[depth:], rule])


def _text_cells(table: Table, row: int) -> list[str]:
    """A row's names and values as text, group names left out that the row above has too."""
    names = table.rows[row]
    above = table.rows[row - 1] if row else ()
    shared = [names[: end + 1] == above[: end + 1] for end in range(len(names) - 1)]
    cells = ["" if same else name for same, name in zip(shared, names, strict=False)]
    cells.append(names[-1])
    values = zip(table.values[row], table.columns, strict=True)
    return cells + [format_value(value, column.unit) for value, column in values]
