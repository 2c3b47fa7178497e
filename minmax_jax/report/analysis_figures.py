"""Figures of linear heads, as matplotlib `Figure`s that know nothing of pyplot.

`head` is always a head of analysis.json, `order` the units as they are to stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from minmax_jax.report import figures
from minmax_jax.report.figures import INK, MUTED

MOST_RIBBONS = 12  # labels up to which `flow_figure` draws ribbons
_MOST_NUMBERS = 24  # labels up to which the cells of a matrix hold numbers
_GAP = 0.03  # between nodes of a column 1 high: room for two names
_NEGATIVE, _POSITIVE = "#8b929c", "#2f6fd0"
_COLORS = (
    "#2f6fd0", "#ef8a17", "#2a9d6f", "#cf2438", "#8a5cd0", "#9a7440", "#d95fa5", "#6b7280",
    "#a3a51d", "#17a2b8", "#12355b", "#5d8a1f",
)  # fmt: skip


def histograms_figure(head: Mapping, names: Sequence[str]) -> Figure:
    """The weights of each unit on a logarithmic axis, those above 0 in blue."""
    weights = head["weights"]
    columns = 5 if len(names) <= 25 else 8
    rows = -(-len(names) // columns)
    figure = Figure(
        figsize=(1.6 * columns, 1.35 * rows + 0.5), dpi=110, facecolor="white", layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    edges = np.array(weights["edges"])
    zero = int(np.searchsorted(edges, 0))
    most = max(map(max, weights["counts"]))
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for index, axes in enumerate(panels.flat[: len(names)]):
        figures.style_axes(axes, "")
        text = figures.shorten(names[index], 18)
        axes.set_title(text, fontsize=9, color=INK, weight="bold", loc="left", parse_math=False)
        counts = weights["counts"][index]
        axes.stairs(counts[:zero], edges[: zero + 1], baseline=0.1, fill=True, color=_NEGATIVE)
        axes.stairs(counts[zero:], edges[zero:], baseline=0.1, fill=True, color=_POSITIVE)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_ylim(0.7, 4 * most)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(labelsize=7, labelbottom=index + columns >= len(names))
        positive, skewness = weights["positive"][index], weights["skewness"][index]
        note = f"{100 * positive:.0f} % > 0\nskew {round(skewness, 1) + 0:.1f}"
        axes.text(0.97, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=7,
                  color=MUTED)  # fmt: skip
    figure.supxlabel("weight", color=MUTED, fontsize=9)
    figure.supylabel("kernels", color=MUTED, fontsize=9)
    return figure


def correlations_figure(
    head: Mapping, names: Sequence[str], order: Sequence[int], *, most: float
) -> Figure:
    """Correlation of the weights of every two units; `most` is where the colours end."""
    return _matrix_figure(
        _without_diagonal(head["correlations"]), names, order,
        colors="RdBu_r", norm=Normalize(-most, most), decimals=2,
        axes=("unit", "unit"), bar="correlation of the weights",
    )  # fmt: skip


def sharing_figure(
    head: Mapping, names: Sequence[str], order: Sequence[int], *, most: float
) -> Figure:
    """How many of their top kernels every two units share; `most` is where the colours end."""
    return _matrix_figure(
        _without_diagonal(head["sharing"]["by_weight"]["shared"]), names, order,
        colors="YlOrBr", norm=Normalize(0, most), decimals=0,
        axes=("unit", "unit"), bar="top kernels in common",
    )  # fmt: skip


def flow_figure(head: Mapping, names: Sequence[str], order: Sequence[int]) -> Figure:
    """What images of a label give to predictions: ribbons through kernels, or a matrix of many."""
    flow = head["flow"]
    if len(names) > MOST_RIBBONS:
        matrix = np.array(flow["labels_to_predictions"])
        return _matrix_figure(
            matrix, names, order, colors="YlGnBu", norm=Normalize(0, matrix.max(initial=1e-6)),
            decimals=1, axes=("prediction", "images of"), bar="evidence, mean of an image",
        )  # fmt: skip
    figure = Figure(figsize=(9, 6.5), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-0.2, 2.24)
    axes.set_ylim(1.06, -0.06)
    order = np.asarray(order)
    first = np.array(flow["labels_to_kernels"])[np.ix_(order, order)]
    second = np.array(flow["kernels_to_predictions"])[np.ix_(order, order)]
    scale = (1 - _GAP * (len(order) - 1)) / (first.sum() or 1)
    first, second = scale * first, scale * second
    texts = [figures.shorten(names[index], 18) for index in order]
    colors = [_COLORS[index] for index in order]
    columns = first.sum(axis=1), first.sum(axis=0), second.sum(axis=0)
    tops = [np.cumsum(sizes + _GAP) - sizes - _GAP for sizes in columns]
    _ribbons(axes, 0, first, tops[0], tops[1], colors)
    _ribbons(axes, 1, second, tops[1], tops[2], colors)
    headings = ("images of", "kernels of", "predictions")
    halo = withStroke(linewidth=2.5, foreground="white")  # names in the middle lie on ribbons
    for place, (starts, sizes) in enumerate(zip(tops, columns, strict=True)):
        axes.text(place + 0.02, -0.03, headings[place], ha="center", color=MUTED, fontsize=10)
        for start, size, text, color in zip(starts, sizes, texts, colors, strict=True):
            axes.add_patch(Rectangle((place, start), 0.04, size, color=color, linewidth=0))
            x, align = (-0.02, "right") if place == 0 else (place + 0.06, "left")
            axes.text(x, start + size / 2, text, ha=align, va="center", fontsize=9, color=INK,
                      parse_math=False, path_effects=[halo])  # fmt: skip
    return figure


def _ribbons(axes, place, values, left, right, colors) -> None:
    """Ribbons from the nodes at `place` to those beside them, each in its first node's colour."""
    starts, ends = left.copy(), right.copy()
    for row, column in np.ndindex(values.shape):
        width = values[row, column]
        top, end = starts[row], ends[column]
        starts[row] += width
        ends[column] += width
        if not width:
            continue
        x = (place + 0.04, place + 0.5, place + 0.54, place + 1)
        points = [(x[0], top), (x[1], top), (x[2], end), (x[3], end),
                  (x[3], end + width), (x[2], end + width), (x[1], top + width),
                  (x[0], top + width), (x[0], top)]  # fmt: skip
        codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
        alpha = 0.6 if row == column else 0.22
        axes.add_patch(PathPatch(Path(points, codes), color=colors[row], alpha=alpha, linewidth=0))


def _without_diagonal(rows: Sequence[Sequence[float]]) -> np.ndarray:
    matrix = np.array(rows, float)
    np.fill_diagonal(matrix, np.nan)
    return matrix


def _matrix_figure(
    matrix: np.ndarray,
    names: Sequence[str],
    order: Sequence[int],
    *,
    colors: str,
    norm: Normalize,
    decimals: int,
    axes: tuple[str, str],
    bar: str,
) -> Figure:
    """A square matrix over the labels as a heat map, with its numbers where there is room."""
    matrix = matrix[np.ix_(order, order)]
    roomy = len(order) <= _MOST_NUMBERS
    side = max(3.2, (0.32 if roomy else 0.16) * len(order))
    figure = Figure(
        figsize=(side + 3.2, side + 1.6), dpi=110, facecolor="white", layout="constrained"
    )
    plot = figure.subplots()
    cmap = matplotlib.colormaps[colors].with_extremes(bad="#eceef1")
    drawn = plot.imshow(matrix, cmap=cmap, norm=norm)
    texts = [figures.shorten(names[index], 20) for index in order]
    plot.set_xticks(range(len(order)), texts, rotation=90)
    plot.set_yticks(range(len(order)), texts)
    for text in (*plot.get_xticklabels(), *plot.get_yticklabels()):
        text.set_parse_math(False)
    plot.tick_params(colors=INK, labelsize=9 if roomy else 7, length=0)
    plot.set_xlabel(axes[0], color=MUTED, fontsize=9)
    plot.set_ylabel(axes[1], color=MUTED, fontsize=9)
    for spine in plot.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(matrix) if roomy else ():
        text = "" if np.isnan(value) else f"{value:.{decimals}f}"
        if any(digit in text for digit in "123456789"):  # zeros are left to their colour
            red, green, blue, _ = cmap(norm(value))
            color = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else INK
            plot.text(column, row, text, color=color, fontsize=6.5, ha="center", va="center")
    ticks = MaxNLocator(6, steps=(1, 2, 5, 10), integer=decimals == 0)
    scale = figure.colorbar(drawn, ax=plot, shrink=0.6, aspect=30, ticks=ticks)
    scale.set_label(bar, color=MUTED, fontsize=9)
    scale.outline.set_visible(False)
    scale.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    return figure
