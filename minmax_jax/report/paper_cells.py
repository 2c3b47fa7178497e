"""Cells of the MinMax-CAM paper's Tables 1 to 4: what is printed, what a run has, how they compare.

Numbers are percent with two decimals, as in print, so that a difference is that of what is shown.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minmax_jax.report import names, tables
from minmax_jax.report.paper_runs import TABLES, Model, Run, model_of
from minmax_jax.report.published import published

# A printed F1 below this part of the harmonic mean of its own columns is likely a slip. As a mean
# over labels it may be below that, but the others are at least 0.83 of it.
SLIP = 0.6
_PARTS = {
    "f1_minus": ("average_drop", "average_retention_of_others"),
    "f1_plus": ("average_retention", "average_drop_of_others"),
}
_COLUMN_TITLES = {"baseline": "Baseline", "regularized": "Reg."}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
      published: percent, None where the paper prints nothing.
      ours: percent, None without a run.
      slip: what makes the printed number doubtful, "" for nothing.
      best_published: whether it is the best of its row in print.
      best_ours: whether it is the best of its row among ours.
    """

    published: float | None
    ours: float | None
    slip: str = ""
    best_published: bool = False
    best_ours: bool = False

    @property
    def difference(self) -> float | None:
        """Ours less the published one, in percent points."""
        if self.published is None or self.ours is None:
            return None
        return round(self.ours - self.published, 2) + 0.0  # no -0.0


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables.

    Attributes:
      name: "table_1" and so on.
      caption: what it shows.
      corner: headings of the two columns that name a row.
      columns: methods, or "baseline" and "regularized".
      rows: metric, and model or data set, of each row.
      cells: `cells[row][column]`.
      runs: those that fill cells.
      notes: sentences about cells.
      left_out: `FOLDER: REASON` of the runs that no table has a row for.
    """

    name: str
    caption: str
    corner: tuple[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    cells: tuple[tuple[Cell, ...], ...]
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Number and caption."""
        return f"{self.name.replace('_', ' ').capitalize()}: {self.caption}"

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(_COLUMN_TITLES.get(name) or names.method_title(name) for name in self.columns)

    def row_names(self, row: int) -> tuple[str, str]:
        """Metric with its arrow, and model or data set."""
        metric, subject = self.rows[row]
        return metric_of(metric).heading, subject

    def summary(self) -> str:
        """How much is filled and how well it agrees, in a sentence or two."""
        cells = [cell for line in self.cells for cell in line]
        filled = [cell for cell in cells if cell.ours is not None]
        text = f"{len(filled)} of {len(cells)} cells have a run."
        apart = [abs(c.difference) for c in filled if c.difference is not None and not c.slip]
        if apart:
            text += f" Median distance from print: {statistics.median(apart):.2f} points."
        whole = [line for line in self.cells if not any(c.ours is None or c.slip for c in line)]
        same = sum(any(c.best_published and c.best_ours for c in line) for line in whole)
        if whole:
            text += f" The same column is best in {same} of {len(whole)} whole rows."
        return text


def f1_ratios(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """Printed F1- and F1+ over the harmonic mean of the numbers that they are made of.

    Args:
      rows: of a table as `published` has it.

    Returns:
      Ratio by metric, model or data set, and method.
    """
    by_row = {_row_key(row): row for row in rows}
    ratios = {}
    for (metric, subject), row in by_row.items():
        for method in _columns(row) if metric in _PARTS else ():
            parts = [by_row[part, subject][method] for part in _PARTS[metric]]
            if row[method] is not None and None not in parts:
                ratios[metric, subject, method] = row[method] / statistics.harmonic_mean(parts)
    return ratios


def find_slips(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """Those of `f1_ratios` below `SLIP`."""
    return {cell: ratio for cell, ratio in f1_ratios(rows).items() if ratio < SLIP}


def fill_tables(runs: Mapping[Model, Run], left_out: Sequence[str] = ()) -> list[PaperTable]:
    """The paper's Tables 1 to 4 with the numbers of `runs` beside the printed ones."""
    paper = published("minmax_cam")
    return [_fill(name, paper[name], runs, tuple(left_out)) for name in TABLES]


def _fill(
    name: str, printed: Mapping[str, Any], runs: Mapping[Model, Run], left_out: tuple[str, ...]
) -> PaperTable:
    rows = printed["rows"]
    columns = _columns(rows[0])
    slips = _slip_notes(rows)
    cells, used = [], {}
    for row in rows:
        key = _row_key(row)
        good = metric_of(key[0]).good
        found = [runs.get(model_of(name, row, column)) for column in columns]
        used |= {run.model: run for run in found if run}
        ours = [_score(run, key[0], column) for run, column in zip(found, columns, strict=True)]
        line = [row[column] for column in columns]
        best_published, best_ours = (
            tables.best_of([None if v is None else v / 100 for v in values], good)
            for values in (line, ours)
        )
        cells.append(
            tuple(
                Cell(
                    line[index],
                    ours[index],
                    slips.get((*key, column), ""),
                    index in best_published,
                    index in best_ours,
                )
                for index, column in enumerate(columns)
            )
        )
    # These runs have no such images.
    empty = [row["dataset"] for row in rows if model_of(name, row, columns[0]) is None]
    notes = [f"{tables.DAGGER} {slip}" for slip in slips.values()]
    if empty:
        notes.append(f"Runs are scored on validation images; empty for all: {', '.join(empty)}.")
    return PaperTable(
        name,
        printed["caption"],
        ("Metric", "Model" if "model" in rows[0] else "Dataset"),
        columns,
        tuple(map(_row_key, rows)),
        tuple(cells),
        tuple(used.values()),
        tuple(notes),
        left_out,
    )


def _score(run: Run | None, metric: str, column: str) -> float | None:
    """Percent as printed."""
    if run is None:
        return None
    scores = run.weighted if column in _COLUMN_TITLES else run.macro.get(column, {})
    value = scores.get(metric)
    return None if value is None else round(100 * value, 2)


def _slip_notes(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Why each of the doubtful cells is marked."""
    ratios, slips, notes = f1_ratios(rows), find_slips(rows), {}
    others = [ratio for cell, ratio in ratios.items() if cell not in slips]
    by_row = {_row_key(row): row for row in rows}
    for (metric, subject, method), ratio in slips.items():
        row, known = by_row[metric, subject], metric_of(metric)
        value, doubled = row[method], round(2 * row[method], 2)
        first, second = (metric_of(part).short for part in _PARTS[metric])
        line = {column: row[column] for column in _columns(row)}
        note = (
            f"{known.short} of {names.method_title(method)}, {subject}: the printed {value:.2f} is "
            f"{ratio:.2f} of the harmonic mean of {first} and {second} in its own column, where "
            f"other cells of the table have {min(others):.2f} to {max(others):.2f}: likely a slip "
            "by a factor of two."
        )
        if _is_best(line, method, known.good) and not _is_best(
            line | {method: doubled}, method, known.good
        ):
            note += f" Doubled ({doubled:.2f}) it is not the best of its row."
        notes[metric, subject, method] = note
    return notes


def _is_best(line: Mapping[str, float | None], method: str, good: str | None) -> bool:
    values = [None if value is None else value / 100 for value in line.values()]
    return list(line).index(method) in tables.best_of(values, good)


def metric_of(name: str) -> names.Metric:
    """A metric of Tables 1 to 3, or the F1 and F2 of Table 4."""
    return names.METRICS.get(name) or names.Metric(name.upper(), name.upper(), "high")


def _row_key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["metric"], row["model"] if "model" in row else row["dataset"]


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in row if name not in ("metric", "model", "dataset"))
