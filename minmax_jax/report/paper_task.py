"""The task `tables`: the MinMax-CAM paper's tables beside the numbers of finished runs."""

from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from minmax_jax.report.paper_formats import to_text
from minmax_jax.report.paper_runs import finished_variants, path_text
from minmax_jax.report.paper_tables import compare_with_paper, write_tables

STAGES = ("report",)


def prepare(config: ConfigDict, workdir: pathlib.Path, stages: Sequence[str]) -> Callable[[], None]:
    """Checks a config and reads the runs that it names; what is returned writes the tables.

    Args:
      config: as `config.tables_config` makes it.
      workdir: folder of the results.
      stages: of `STAGES`.

    Raises:
      ValueError: a pattern matches nothing or no match is a finished run; and as
        `compare_with_paper`.
    """
    matches = find_workdirs(config.runs)
    workdirs = [path for path in matches if finished_variants(path)]
    if not workdirs:
        raise ValueError(
            f"no finished run of an experiment among {', '.join(map(path_text, matches))}"
        )
    tables = compare_with_paper(workdirs)

    def work() -> None:
        for path in matches:
            if path not in workdirs:
                print(f"{path_text(path)}: skipped, no finished run of an experiment")
        for table in tables:
            print(to_text(table), end="\n\n")
        for entry in tables[0].left_out:
            print(f"left out: {entry}")
        print(f"report: {write_tables(tables, workdir / 'report', title=config.title)}")

    return work


def find_workdirs(patterns: str) -> list[str]:
    """Paths that match, sorted, each once.

    Args:
      patterns: a path (whatever characters it has) or a glob pattern, or several separated by
        commas.

    Raises:
      ValueError: if one matches nothing.
    """
    found = []
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        path = os.path.expanduser(pattern)
        matches = [path] if os.path.exists(path) else glob.glob(path)
        if not matches:
            raise ValueError(f"no run matches {pattern!r}")
        found += matches
    if not found:
        raise ValueError("no runs named: --config.runs='runs/voc07*,runs/coco17*'")
    return sorted(set(found))
