"""Numbers that the papers print, as data: `published.json` beside this module."""

from __future__ import annotations

import pathlib
from typing import Any

from minmax_jax import files


def published(paper: str) -> dict[str, Any]:
    """The tables of a paper, `{"source": ..., "table_1": ...}`.

    Numbers are percent, or fractions where a table's caption says so; None stands where the paper
    prints nothing.

    Args:
      paper: "minmax_cam" or "representative_class_cam".

    Raises:
      ValueError: for another paper.
    """
    tables = files.read_json(pathlib.Path(__file__).with_name("published.json"))
    del tables["units"]
    if paper not in tables:
        raise ValueError(f"no published numbers of {paper!r}; papers: {', '.join(tables)}")
    return tables[paper]
