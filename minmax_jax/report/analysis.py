"""The page of an analysis of heads: the findings first, then figures side by side."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minmax_jax import files
from minmax_jax.report import analysis_figures, figures, tables, templates
from minmax_jax.report.page import data_uri

FINDINGS = {
    "a": "most weights become positive, their distribution right-skewed",
    "b": "units correlate much less with each other",
    "c": "units share far fewer of their top kernels",
}
NUMBERS = {
    "positive": "weights above 0, percent",
    "skewness": "skewness of a unit's weights, mean over units",
    "correlation": "correlation of two units (magnitude), mean over pairs",
    "shared": "top kernels that two units share, mean over pairs",
}
VERDICTS = {True: "confirmed", False: "not confirmed", None: "no pair of units"}
_MOST_PAIRS = 12  # listed of those that share kernels


def format_number(value: float | None, number: str) -> str:
    """A number of `NUMBERS` as it prints; `-` where there is none."""
    if value is None:
        return tables.MISSING
    if number == "positive":
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if number == "correlation" else f"{value:.2f}"


def needed(condition: Mapping[str, Any]) -> str:
    """What a condition of a finding asks of the other head, as text."""
    number, bound = condition["number"], condition["bound"]
    if bound is None:
        return tables.MISSING
    sign = ">" if number in ("positive", "skewness") else "≤"
    return f"{sign} {format_number(bound, number)}"


def findings_text(analysis: Mapping[str, Any]) -> str:
    """The findings for a terminal, a block for each head that is compared.

    Args:
      analysis: contents of an analysis.json.
    """
    blocks = []
    for comparison in analysis["comparisons"]:
        headings = ("", comparison["plain"], comparison["other"], "needed", "holds")
        lines = [headings]
        for finding in comparison["findings"]:
            name = finding["finding"]
            verdict = VERDICTS[finding["confirmed"]]
            lines.append((f"({name}) {FINDINGS[name]}: {verdict}", "", "", "", ""))
            for condition in finding["conditions"]:
                number = condition["number"]
                values = (format_number(condition[key], number) for key in ("plain", "value"))
                holds = {True: "yes", False: "no", None: tables.MISSING}[condition["holds"]]
                lines.append((f"    {NUMBERS[number]}", *values, needed(condition), holds))
        widths = [
            max(len(line[column]) for line in lines if line[1])  # a verdict runs over the columns
            for column in range(len(headings))
        ]
        texts = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, texts))
        title = f"Findings of section 6.2, {comparison['other']} against {comparison['plain']}"
        blocks.append("\n".join([title, rule, texts[0], rule, *texts[1:], rule]))
    return (
        "\n\n".join(blocks)
        or "no two heads to compare: a dense one, and another on the same backbone"
    )


def write_page(result: pathlib.Path, *, title: str) -> pathlib.Path:
    """Writes `index.html` and `figures/*.png` beside an analysis.json.

    Args:
      result: path of the analysis.json.
      title: the run's title.

    Returns:
      Path of the page, which needs no other file.
    """
    analysis = files.read_json(result)
    folder, names, heads = result.parent, analysis["label_names"], analysis["heads"]
    written = []

    def draw(name, figure):
        path = folder / "figures" / f"{name}.png"
        figures.save_png(figure, path)
        written.append(path)
        return data_uri("png", path.read_bytes())

    # One order and one scale for all, so that figures side by side can be compared.
    order = heads[_first(analysis)]["order"]
    correlation = _most((head["correlations"] for head in heads.values()), 0.01)
    shared = _most((head["sharing"]["by_weight"]["shared"] for head in heads.values()), 1)
    charts = {"weights": {}, "correlations": {}, "sharing": {}, "flow": {}}
    for name, head in heads.items():
        drawn = {
            "weights": analysis_figures.histograms_figure(head, names),
            "correlations": analysis_figures.correlations_figure(
                head, names, order, most=correlation
            ),
            "sharing": analysis_figures.sharing_figure(head, names, order, most=shared),
            "flow": analysis_figures.flow_figure(head, names, order),
        }
        for kind, figure in drawn.items():
            charts[kind][name] = draw(f"{name}_{kind}", figure)
    filters = {"number": format_number, "needed": needed}
    html = templates.template("analysis.html", filters).render(
        title=title,
        analysis=analysis,
        charts=charts,
        rows=_overview(heads),
        pairs={name: sharing_pairs(head, names) for name, head in heads.items()},
        units={name: _units(head, names) for name, head in heads.items()},
        lonely={
            name: [names[i] for i, count in enumerate(head["flow"]["images"]) if not count]
            for name, head in heads.items()
        },
        ribbons=len(names) <= analysis_figures.MOST_RIBBONS,
        findings=FINDINGS,
        numbers=NUMBERS,
        verdicts=VERDICTS,
        scale=templates.scale(),
    )
    page = folder / "index.html"
    files.write_atomically(page, lambda file: file.write(html.encode()))
    for stale in set((folder / "figures").glob("*.png")) - set(written):
        stale.unlink()
    return page


def _first(analysis: Mapping) -> str:
    """The head by which units are ordered: the plain one of the first comparison."""
    comparisons = analysis["comparisons"]
    return comparisons[0]["plain"] if comparisons else next(iter(analysis["heads"]))


def _most(matrices, least: float) -> float:
    """The largest magnitude off the diagonals, `least` at least."""
    found = [least]
    for rows in matrices:
        matrix = np.abs(np.array(rows, float))
        np.fill_diagonal(matrix, 0)
        found.append(matrix.max())
    return float(max(found))


def _overview(heads: Mapping[str, Mapping]) -> list[tuple[str, list[str]]]:
    """Rows of the table of all heads: what is counted, and a cell for each head."""
    cells = [_cells(head) for head in heads.values()]
    return [(text, [own[text] for own in cells]) for text in cells[0]]


def _cells(head: Mapping) -> dict[str, str]:
    weights, own_kernels = head["weights"], head["flow"]["own_kernels"]
    tops, contributing = head["sharing"]["by_weight"], head["sharing"]["by_contribution"]

    def beside_chance(value, chance, number):
        if value is None:
            return tables.MISSING
        return f"{format_number(value, number)} ({format_number(chance, number)})"

    return {
        "head": head["head"],
        "kernels": str(head["kernels"]),
        "weights above 0, percent": format_number(np.mean(weights["positive"]), "positive"),
        "their part of the sum of magnitudes, percent": format_number(
            np.mean(weights["mass"]), "positive"
        ),
        "skewness of a unit's weights, mean": format_number(
            np.mean(weights["skewness"]), "skewness"
        ),
        "correlation of two units, mean magnitude (of unrelated ones)": beside_chance(
            head["mean_correlation"], head["chance_correlation"], "correlation"
        ),
        "top kernels that two units share, mean (by chance)": beside_chance(
            tops["mean_shared"], tops["chance"], "shared"
        ),
        "the same, top by contribution in the label's images (by chance)": beside_chance(
            contributing["mean_shared"], contributing["chance"], "shared"
        ),
        "kernels on the top lists of two units or more": (
            f"{tops['in_several']} of {tops['distinct']}"
        ),
        "evidence that a prediction has from its own kernels, percent": (
            format_number(own_kernels, "positive")
        ),
    }


def sharing_pairs(head: Mapping, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """The pairs of units that share most top kernels: two names and how many."""
    shared = np.array(head["sharing"]["by_weight"]["shared"])
    rows, columns = np.triu_indices(len(shared), 1)
    counts = shared[rows, columns]
    chosen = [i for i in np.argsort(-counts, kind="stable")[:_MOST_PAIRS] if counts[i]]
    return [(names[rows[i]], names[columns[i]], int(counts[i])) for i in chosen]


def _units(head: Mapping, names: Sequence[str]) -> list[tuple[str, list[tuple[int, bool]]]]:
    """Each unit's top kernels, and whether another unit has them too."""
    tops = head["sharing"]["by_weight"]["tops"]
    uses = np.bincount(np.concatenate([np.array(t, int) for t in tops]), minlength=head["kernels"])
    return [
        (name, [(index, bool(uses[index] > 1)) for index in indices])
        for name, indices in zip(names, tops, strict=True)
    ]
