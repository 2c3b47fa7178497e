"""The MinMax-CAM paper's Tables 1 to 4 beside the numbers of finished runs, in every form.

index.html          all tables, self-contained
table_1.csv         a line a cell; and so on to table_4
table_1.md          Markdown
table_1.tex         LaTeX
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from minmax_jax import files
from minmax_jax.report import page, paper_formats, tables, templates
from minmax_jax.report.paper_cells import PaperTable, fill_tables, metric_of
from minmax_jax.report.paper_runs import read_runs
from minmax_jax.report.published import published

_FORMATS = {
    "csv": paper_formats.to_csv,
    "md": paper_formats.to_markdown,
    "tex": paper_formats.to_latex,
}


def compare_with_paper(workdirs: Sequence[str | pathlib.Path]) -> list[PaperTable]:
    """The paper's Tables 1 to 4, the numbers of finished runs beside the printed ones.

    Args:
      workdirs: of experiments, or folders of single variants; every finished variant fills the rows
        of its data set, network and head. Unfinished variants, and those that the paper has no row
        for, are in `left_out`.

    Raises:
      ValueError: no workdir is given, or one holds no finished run; a file is not as evaluation and
        training write it; two runs are of one row (both folders are named).
    """
    return fill_tables(*read_runs(workdirs))


def write_paper_tables(
    workdirs: Sequence[str | pathlib.Path],
    directory: str | pathlib.Path,
    *,
    title: str = "The paper's tables beside ours",
) -> pathlib.Path:
    """Writes `index.html` and `table_N.{csv,md,tex}`.

    Args:
      workdirs: as `compare_with_paper` takes them.
      directory: where the files are written; made if it is not there.
      title: the page's title.

    Returns:
      Path of the page, which needs no other file.

    Raises:
      ValueError: as `compare_with_paper`.
    """
    return write_tables(compare_with_paper(workdirs), directory, title=title)


def write_tables(
    shown: Sequence[PaperTable], directory: str | pathlib.Path, *, title: str
) -> pathlib.Path:
    """Writes the files of tables that are made already; else as `write_paper_tables`."""
    directory = pathlib.Path(directory)
    for table in shown:
        for suffix, form in _FORMATS.items():
            _write(directory / f"{table.name}.{suffix}", form(table))
    filters = {
        "row_names": page.row_names,
        "value": tables.format_value,
        "number": paper_formats.number,
        "signed": paper_formats.signed,
        "metric": metric_of,
    }
    runs = {run.folder: run for table in shown for run in table.runs}
    filled = {
        folder: [table.name.replace("_", " ") for table in shown if run in table.runs]
        for folder, run in runs.items()
    }
    html = templates.template("paper_tables.html", filters).render(
        title=title,
        source=published("minmax_cam")["source"],
        tables=shown,
        runs=runs,
        filled=filled,
        left_out=shown[0].left_out,
        suffixes=list(_FORMATS),
        scale=templates.scale(),
    )
    _write(directory / "index.html", html)
    return directory / "index.html"


def _write(path: pathlib.Path, text: str) -> None:
    files.write_atomically(path, lambda file: file.write(text.encode()))
