"""Figures of sanity checks, as matplotlib `Figure`s that know nothing of pyplot.

Results are those of `minmax_jax.report.sanity`; values are printed as percent.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minmax_jax.report.figures import GRID, INK, MUTED, add_legend, shorten, style_axes
from minmax_jax.report.names import method_title

COLORS = {"ssim": "#2f6fd0", "rank_correlation": "#d1433f"}
TITLES = {"ssim": "SSIM", "rank_correlation": "rank correlation"}
_COLUMNS = 4
_LONGEST = 18  # letters of a step's name


def cascading_figure(result: Mapping, methods: Sequence[str]) -> Figure:
    """A panel for each method: likeness while layers become random, from the head down.

    Args:
      result: of a variant.
      methods: in the order of the panels.
    """

    def draw(axes, method):
        for measure, color in COLORS.items():
            values = [1.0, *result["methods"][method]["cascading"][measure]]
            axes.plot(100 * np.array(values), color=color, marker="o", markersize=3.5)

    return _panels(result, methods, ["trained", *result["steps"]], draw)


def independent_figure(result: Mapping, methods: Sequence[str]) -> Figure:
    """A panel for each method: bars of the likeness with a single block of layers random."""

    def draw(axes, method):
        for side, (measure, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
            values = result["methods"][method]["independent"][measure]
            places = np.arange(len(values)) + side
            axes.bar(places, 100 * np.array(values), width=0.4, color=color)

    return _panels(result, methods, result["steps"], draw)


def labels_figure(labels: Mapping, result: Mapping, methods: Sequence[str]) -> Figure:
    """Bars of the likeness with the network of permuted labels; a line where chance is.

    Args:
      labels: of the label randomisation.
      result: of the variant that it is about.
      methods: from top to bottom.
    """
    figure = Figure(
        figsize=(7.5, 1.3 + 0.36 * len(methods)), dpi=110, facecolor="white", layout="constrained"
    )
    axes = figure.subplots()
    style_axes(axes, "True and permuted labels: how alike are the maps?")
    rows = np.arange(len(methods))
    for side, (measure, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
        values = [labels["methods"][method][measure] for method in methods]
        axes.barh(rows + side, 100 * np.array(values), height=0.38, color=color)
        for row, method in enumerate(methods):
            other = 100 * result["methods"][method]["chance"][measure]
            axes.plot([other] * 2, row + side + np.array([-0.2, 0.2]), color=INK, linewidth=1.6)
    axes.set_yticks(rows, [method_title(method) for method in methods], color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("percent", color=MUTED, fontsize=9)
    chance = Line2D([], [], color=INK, linestyle="", marker="|", label="another photo")
    add_legend(figure, [*_handles(), chance], loc="outside lower center", ncols=3)
    return figure


def strips_figure(columns: Sequence[str], rows: Sequence[tuple[str, Sequence]]) -> Figure:
    """Pictures in rows, pixel for pixel.

    Args:
      columns: headings.
      rows: name and pictures, uint8 `(h w 3)`, all of one size.
    """
    margin, gap, head, left = 12, 4, 44, 190
    tall, wide = rows[0][1][0].shape[:2]
    width = 2 * margin + left + len(columns) * (wide + gap)
    height = 2 * margin + head + len(rows) * (tall + gap)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")

    def write(x, y, text, **style):
        figure.text(x / width, 1 - y / height, text, color=INK, parse_math=False, **style)

    for column, text in enumerate(columns):
        x = margin + left + column * (wide + gap) + wide / 2
        lines = textwrap.wrap(text, 18) or [""]
        write(x, margin + head - 6, "\n".join(lines), ha="center", va="bottom", fontsize=11)
    for row, (name, pictures) in enumerate(rows):
        y = margin + head + row * (tall + gap)
        text = textwrap.fill(shorten(name, 45), 16)
        write(margin, y + tall / 2, text, va="center", fontsize=13, weight="bold")
        for column, picture in enumerate(pictures):
            x = margin + left + column * (wide + gap)
            figure.figimage(picture, x, height - y - tall, origin="upper")
    return figure


def _panels(result: Mapping, methods: Sequence[str], steps: Sequence[str], draw) -> Figure:
    columns = min(_COLUMNS, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure(
        figsize=(3.3 * columns, 1.9 * rows + 1.6), dpi=110, facecolor="white", layout="constrained"
    )
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, method in zip(grid.flat, methods, strict=False):
        style_axes(axes, method_title(method))
        _draw_chance(axes, result["methods"][method]["chance"])
        draw(axes, method)
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    for axes in _lowest(grid, len(methods)):
        names = [shorten(step, _LONGEST) for step in steps]
        axes.set_xticks(range(len(steps)), names, rotation=90, fontsize=8)
        axes.tick_params(labelbottom=True)
    chance = Line2D([], [], color=MUTED, linestyle="--", label="another photo, trained network")
    add_legend(figure, [*_handles(), chance], loc="outside lower center", ncols=3)
    return figure


def _lowest(grid: np.ndarray, number: int) -> list[Axes]:
    """The last panel of each column."""
    rows, columns = grid.shape
    return [grid[(number - 1 - column) // columns, column] for column in range(columns)]


def _draw_chance(axes: Axes, chance: Mapping[str, float]) -> None:
    for measure, color in COLORS.items():
        axes.axhline(100 * chance[measure], color=color, linestyle="--", linewidth=1, alpha=0.7)
    axes.axhline(0, color=GRID, linewidth=0.8)


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=color, marker="o", markersize=4, label=TITLES[measure])
        for measure, color in COLORS.items()
    ]
