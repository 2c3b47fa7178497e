"""Rows of the ablation of representative classes: their names, their order, what they claim.

A row is a baseline METHOD, METHOD+A with its multi-layer maps, or a selection of comparison
classes: MODE+F fuses the maps of the last layer over them, MODE+A+F the multi-layer maps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from minmax_jax.report.names import method_title, ordered

_MODES = ("random", "rank-a", "rank-b", "cluster-1", "cluster-2", "cluster-3", "cluster-4")
ABLATION = ("grad_cam", *(mode + kind for mode in _MODES for kind in ("+F", "+A+F")))
_BASELINES = ("cam", "cam+A", "acol_cam", "acol_cam+A", "grad_cam", "grad_cam+A")


def mode_of(row: str) -> str | None:
    """The selection mode of a row, None for a baseline."""
    return re.sub(r"(\+A)?\+F$", "", row) if row.endswith("+F") else None


def mode_title(mode: str) -> str:
    """The selection mode's name as the paper writes it."""
    name = mode.replace("cluster-", "S-")
    return name[0].upper() + name[1:]


def row_title(row: str) -> str:
    """The row's name as the paper writes it."""
    name, plus, kind = row.partition("+")
    if mode_of(row) is None:
        return method_title(name) + plus + kind
    return mode_title(name) + plus + kind


def ordered_rows(rows: Iterable[str]) -> list[str]:
    """The different `rows`: baselines, the paper's selections, then the others as they come."""
    return ordered(rows, (*_BASELINES, *ABLATION[1:]))


def representative(row: str, *, multi: bool) -> bool:
    """Whether the row is of representative classes, with multi-layer maps or without.

    Random classes, all classes and the oracle that has seen the scores are not.
    """
    mode = mode_of(row)
    chosen = mode is not None and mode.startswith(("cluster-", "rank-"))
    return chosen and row.endswith("+A+F") == multi


def claims(rows: Iterable[str]) -> list[tuple[str, str, str]]:
    """What the paper says of its ablation, as far as `rows` hold both sides.

    Returns:
      `(claim, row, below)`: the score of `row` is said to be above that of row `below`.
    """
    rows = ordered_rows(rows)
    chosen = [row for row in rows if mode_of(row) and not mode_of(row).startswith("top-")]
    found = [
        ("multi-layer above last layer", row, row.replace("+A+F", "+F"))
        for row in chosen
        if row.endswith("+A+F")
    ]
    for claim, last, multi in (
        ("representative above random", "random+F", "random+A+F"),
        ("representative above baseline", "grad_cam", "grad_cam"),
    ):
        found += [
            (claim, row, multi if row.endswith("+A+F") else last)
            for row in chosen
            if representative(row, multi=row.endswith("+A+F"))
        ]
    return [(claim, row, below) for claim, row, below in found if below in rows]


def best_row(scores: Mapping[str, float | None], *, multi: bool) -> str | None:
    """The row of representative classes with the highest score, None where there is none."""
    scored = [
        row
        for row in ordered_rows(scores)
        if representative(row, multi=multi) and scores[row] is not None
    ]
    return max(scored, key=lambda row: scores[row], default=None)
