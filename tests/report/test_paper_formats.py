"""Every form of the paper's tables holds the same numbers, and no name breaks it."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minmax_jax.report import paper_formats
from minmax_jax.report.paper_tables import compare_with_paper, write_paper_tables

from .paper_run import SLIPS, cells_of, make_scores, plain_config, write_workdir
from .test_page import Page

EVIL = "<b>a&b_c|d$e%f#{g}~^\\h"


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """A run of VOC 2007; one of COCO in a folder of an odd name, beside one that is left out."""
    rng = np.random.default_rng(6)
    root = tmp_path_factory.mktemp("runs")
    odd = plain_config("coco17", "resnet101")
    odd["variants"] = {EVIL: {}, "ä☃": {"network": {"head": "acol"}}}
    return [
        write_workdir(
            root / name, config, {variant: make_scores(rng) for variant in config["variants"]}
        )
        for name, config in (("voc", plain_config()), ("odd", odd))
    ]


@pytest.fixture(scope="module")
def tables(workdirs):
    return {table.name: table for table in compare_with_paper(workdirs)}


def test_csv_holds_every_cell(tables):
    for name, table in tables.items():
        rows = list(csv.DictReader(io.StringIO(paper_formats.to_csv(table))))
        cells = list(cells_of(table))
        assert len(rows) == len(cells)
        for row, (key, cell) in zip(rows, cells, strict=True):
            assert (row["table"], row["metric"], row["row"], row["method"]) == (name, *key)
            for field in ("published", "ours", "difference"):
                value = getattr(cell, field)
                assert row[field] == "" if value is None else float(row[field]) == value
            assert bool(row["note"]) == (key[2] == "score_cam" and (name, *key[:2]) in SLIPS)


def test_markdown(tables):
    table = tables["table_2"]
    text = paper_formats.to_markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 28
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert "<b>" not in text and "&lt;b&gt;a&amp;b\\_c\\|d$e%f\\#\\{g\\}\\~^\\\\h" in text
    row = lines[2 + table.rows.index(("increase_in_confidence", "COCO"))]
    cell = table.cells[table.rows.index(("increase_in_confidence", "COCO"))][2]
    ours = f"**{cell.ours:.2f}**" if cell.best_ours else f"{cell.ours:.2f}"
    assert f"| **44.69** / {ours} / {cell.difference:+.2f} |" in row
    assert "| 5.70 / - / - |" in text and "| **2.20**† / " in text
    assert "Left out: " in text and "ä☃" in text


def test_latex(tables):
    table = tables["table_2"]
    text = paper_formats.to_latex(table)
    assert text.isascii()
    lines = text.splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if line.startswith(f"\\{what}{{tabular}}"))
                  for what in ("begin", "end"))  # fmt: skip
    assert lines[begin].count("r", lines[begin].index("{ll")) == 15
    body = [line for line in lines[begin:end] if line.endswith(r"\\")]
    assert len(body) == 2 + 28
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body[1:]} == {16}
    for what in ("toprule", "midrule", "bottomrule"):
        assert lines[begin:end].count(f"\\{what}") == 1
    assert lines[begin:end].count(r"\addlinespace") == 6
    for what in ("table*", "tabular"):
        assert text.count(f"\\begin{{{what}}}") == text.count(f"\\end{{{what}}}") == 1
    bare = re.sub(r"\\[\\{}]", "", text)
    assert bare.count("{") == bare.count("}")
    marks = sum(cell.best_published + cell.best_ours for _, cell in cells_of(table))
    assert text.count(r"\textbf{") == marks
    assert r"\textbf{2.20}$^\dagger$" in text
    assert (
        r"\textless{}b\textgreater{}a\&b\_c\textbar{}d\$e\%f\#\{g\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{}h"
    ) in text
    assert r"\textbackslash{}u2603" in text


@example("a--b---c")
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_escapes_can_be_undone(text):
    """Read as LaTeX reads it, an escaped name is the name."""
    commands = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<",
        "textgreater": ">", "textbar": "|", "textquotedbl": '"',
    }  # fmt: skip
    read = re.sub(
        r"\\([a-z]+)\{\}|\\(.)",
        lambda found: commands[found[1]] if found[1] else found[2],
        (escaped := paper_formats._latex(text)).replace("-{}", "-"),
    )
    assert "--" not in escaped
    assert read == " ".join(text.split())


def test_text_for_a_terminal(tables):
    text = paper_formats.to_text(tables["table_1"])
    lines = text.splitlines()
    assert lines[0].startswith("Table 1: ") and lines[0].endswith("percent (* best)")
    assert max(map(len, lines[:20])) < 160
    (row,) = (line for line in lines if re.search(r"^ +RN101 .* 2\.20\*†", line))
    cells = tables["table_1"].cells[tables["table_1"].rows.index(("f1_minus", "RN101"))]
    numbers = [float(cell.rstrip("*†")) for cell in row.split()[1:]]
    wanted = [v for cell in cells for v in (cell.published, cell.ours, cell.difference)]
    assert numbers == wanted
    shown = lines[: lines.index(tables["table_1"].summary())]
    assert [re.findall(r"(\S+?)\*?†", line) for line in shown if "†" in line] == [
        ["1.91"], ["2.20"], ["5.96"], ["6.89"],
    ]  # fmt: skip
    assert "- " in paper_formats.to_text(tables["table_3"])


def test_files_and_page(workdirs, tables, tmp_path):
    path = write_paper_tables(workdirs, tmp_path / "out", title="Tables & <more>")
    names = {f"table_{i}.{suffix}" for i in (1, 2, 3, 4) for suffix in ("csv", "md", "tex")}
    assert {file.name for file in path.parent.iterdir()} == {"index.html", *names}
    for table in tables.values():
        assert (path.parent / f"{table.name}.tex").read_text() == paper_formats.to_latex(table)
    text = path.read_text()
    page = Page(text)
    assert "Tables & <more>" in page.text and "b" not in [
        tag for tag in page.tags if tag not in ("body", "tbody")
    ]
    assert EVIL in page.text and "ä☃" in page.text
    links = {source for source in page.sources if not source.startswith(("#", "data:"))}
    assert links == names
    shown = page.tables[1:5]  # after the legend
    for table, rows in zip(tables.values(), shown, strict=True):
        assert len(rows) == 2 + len(table.rows)
        for line, row in zip(table.cells, rows[2:], strict=True):
            values = [cell for cell in row if cell[0] == "td"]
            assert [value[2].strip().rstrip("†") for value in values] == [
                text
                for cell in line
                for text in (
                    f"{cell.published:.2f}",
                    "" if cell.ours is None else f"{cell.ours:.2f}",
                    "" if cell.difference is None else f"{cell.difference:+.2f}",
                )
            ]
            for index, cell in enumerate(line):
                print_, ours, _ = values[3 * index : 3 * index + 3]
                assert ("best" in print_[1].split()) == cell.best_published
                assert ("best" in ours[1].split()) == cell.best_ours
                assert ("†" in print_[2]) == bool(cell.slip)
