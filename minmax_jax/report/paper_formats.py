"""The paper's tables beside ours as CSV, Markdown, LaTeX and text for a terminal."""

from __future__ import annotations

import csv
import io
import re

from minmax_jax.report import tables
from minmax_jax.report.paper_cells import Cell, PaperTable
from minmax_jax.report.tables import DAGGER

LEGEND = (
    "Percent. Each cell: published, ours, and ours less published in points. Bold: best of the "
    f"row, in print and among ours. {DAGGER}: the printed number is doubtful, see the notes."
)
_CSV_COLUMNS = ("table", "metric", "row", "method", "published", "ours", "difference", "note")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    DAGGER: r"$^\dagger$",
    **{character: "\\" + character for character in "&%$#_{}"},
}
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def number(value: float | None) -> str:
    """Two decimals, nothing for None."""
    return "" if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Two decimals with a sign, nothing for None."""
    return "" if value is None else f"{value:+.2f}"


def to_csv(table: PaperTable) -> str:
    """A line a cell: table, metric, row, method, published, ours, difference, note."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for (metric, subject), line in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, line, strict=True):
            values = number(cell.published), number(cell.ours), signed(cell.difference)
            writer.writerow([table.name, metric, subject, column, *values, cell.slip])
    return text.getvalue()


def to_markdown(table: PaperTable) -> str:
    """One column a method, `published / ours / difference` in a cell; notes below."""
    lines = [f"## {_markdown(table.title)}", "", LEGEND, ""]
    headings = [*table.corner, *table.headings]
    lines += [_row(headings), _row(["---", "---", *["---:"] * len(table.columns)])]
    for row, line in enumerate(table.cells):
        lines.append(_row([*map(_markdown, table.row_names(row)), *map(_markdown_cell, line)]))
    lines += ["", *(f"- {_markdown(note)}" for note in _notes(table))]
    return "\n".join(lines).rstrip() + "\n"


def to_latex(table: PaperTable) -> str:
    """A `table*` of three columns a method; it needs the packages booktabs and textcomp."""
    count = len(table.columns)
    methods = " & ".join(rf"\multicolumn{{3}}{{c}}{{{_latex(name)}}}" for name in table.headings)
    rules = " ".join(
        rf"\cmidrule(lr){{{start}-{start + 2}}}" for start in range(3, 3 + 3 * count, 3)
    )
    lines = [
        r"% \usepackage{booktabs,textcomp} and \usepackage[T1]{fontenc}",
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(table.caption[0].upper() + table.caption[1:])}. {_latex(LEGEND)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\begin{tabular}{ll" + "rrr" * count + "}",
        r"\toprule",
        rf" & & {methods} \\",
        rules,
        " & ".join([*table.corner, *["print", "ours", r"$\Delta$"] * count]) + r" \\",
        r"\midrule",
    ]
    for row, line in enumerate(table.cells):
        first = row == 0 or table.rows[row - 1][0] != table.rows[row][0]
        if first and row:
            lines.append(r"\addlinespace")
        metric, subject = map(_latex, table.row_names(row))
        cells = [text for cell in line for text in _latex_cell(cell)]
        lines.append(" & ".join([metric if first else "", subject, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par {_latex(note)}" for note in _notes(table)]
    return "\n".join([*lines, r"\end{table*}", ""])


def to_text(table: PaperTable) -> str:
    """For a terminal: three columns a method; below, how well they agree and notes on cells."""
    columns = [
        tables.Column(text)
        for heading in table.headings
        for text in (f"{heading} print", "ours", "diff.")
    ]
    best = {
        (row, 3 * index + kind)
        for row, line in enumerate(table.cells)
        for index, cell in enumerate(line)
        for kind, marked in enumerate((cell.best_published, cell.best_ours))
        if marked
    }
    doubtful = {
        (row, 3 * index)
        for row, line in enumerate(table.cells)
        for index, cell in enumerate(line)
        if cell.slip
    }
    values = [
        tuple(
            None if value is None else value / 100
            for cell in line
            for value in (cell.published, cell.ours, cell.difference)
        )
        for line in table.cells
    ]
    rows = tuple(map(table.row_names, range(len(table.rows))))
    shown = tables.Table(
        table.title,
        table.corner,
        tuple(columns),
        rows,
        tuple(values),
        frozenset(best),
        frozenset(doubtful),
    )
    return "\n".join([tables.render_text(shown), table.summary(), *table.notes])


def _notes(table: PaperTable) -> list[str]:
    """What stands under a table: its notes, its runs, and the runs that fit nowhere."""
    runs = [
        f"{run.folder}: {run.images} images; {'; '.join(run.differences) or 'as the paper says'}."
        for run in table.runs
    ]
    return [*table.notes, *runs, *(f"Left out: {entry}." for entry in table.left_out)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    text = re.sub(r"[&<>]", lambda found: _HTML[found[0]], " ".join(text.split()))
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    published, ours = (
        f"**{number(value)}**" if best else number(value)
        for value, best in ((cell.published, cell.best_published), (cell.ours, cell.best_ours))
    )
    mark = DAGGER if cell.slip else ""
    return f"{published}{mark} / {ours or '-'} / {signed(cell.difference) or '-'}"


def _latex(text: str) -> str:
    """Text for LaTeX: special characters escaped, those beyond ASCII as their codes."""
    plain = "".join(
        character if character in _LATEX else character.encode("ascii", "backslashreplace").decode()
        for character in " ".join(text.split())
    )
    escaped = "".join(_LATEX.get(character, character) for character in plain)
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens would become a dash


def _latex_cell(cell: Cell) -> tuple[str, str, str]:
    published, ours = (
        rf"\textbf{{{number(value)}}}" if best else number(value)
        for value, best in ((cell.published, cell.best_published), (cell.ours, cell.best_ours))
    )
    difference = signed(cell.difference).replace("-", "$-$").replace("+", "$+$")
    return published + (_LATEX[DAGGER] if cell.slip else ""), ours, difference
