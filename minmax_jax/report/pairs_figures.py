"""Figures of a run over pair classifiers, as matplotlib `Figure`s that know nothing of pyplot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from minmax_jax.report import figures
from minmax_jax.report.figures import GRID, INK, MUTED, VARIANT_COLORS
from minmax_jax.report.pairs_rows import mode_of, ordered_rows, row_title

BASELINE, WITHOUT, WITH = "#8b929c", "#2f6fd0", "#cf2438"
_MOST_RANKS = 30  # bars of a class in `ranked_figure`
_MOST_NUMBERS = 24  # classes up to which the cells of `similarity_figure` hold numbers
_LINE_COLORS = (*VARIANT_COLORS, "#b5529c", "#9a7440", "#5d8a1f", "#12355b", "#e377c2", "#17a2b8")


def confusion(similarity: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean probability of each other class, percent.

    Args:
      similarity: `(n n)`, probabilities of the second class summed over images of the first.
      images: `(n,)`, number of images of each class.

    Returns:
      `(n n)`; the diagonal, and a class without images, are NaN.
    """
    mean = 100 * similarity / np.where(images > 0, images, np.nan)[:, None]
    np.fill_diagonal(mean, np.nan)
    return mean


def similarity_figure(
    similarity: np.ndarray, clusters: np.ndarray, images: np.ndarray, names: Sequence[str]
) -> Figure:
    """The similarity matrix as a heat map, classes ordered by cluster, a frame around each cluster.

    Args:
      similarity: `(n n)`.
      clusters: `(n,)`, each class's cluster.
      images: `(n,)`, number of images of each class.
      names: names of the classes.
    """
    order = np.argsort(clusters, kind="stable")
    mean = confusion(similarity, images)[np.ix_(order, order)]
    count = len(order)
    side = max(4.5, 0.36 * count)
    figure = Figure(figsize=(side + 3.2, side + 1.4), dpi=110, facecolor="white")
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    colors = matplotlib.colormaps["YlGnBu"].with_extremes(bad="#eceef1")
    most = np.nanmax(mean, initial=1e-6)
    drawn = axes.imshow(mean, cmap=colors, norm=PowerNorm(0.5, 0, most))
    texts = [names[index] for index in order]
    axes.set_xticks(range(count), [figures.shorten(text, 20) for text in texts], rotation=90)
    axes.set_yticks(range(count), [figures.shorten(text, 20) for text in texts])
    _plain(axes)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_xlabel("taken for", color=MUTED, fontsize=9)
    axes.set_ylabel("photos of", color=MUTED, fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    ordered = clusters[order]
    for cluster in np.unique(ordered):
        first, size = np.argmax(ordered == cluster), np.sum(ordered == cluster)
        corner = (first - 0.5, first - 0.5)
        axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=INK, linewidth=1.8))
    if count <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(mean):
            if value >= 0.05:
                color = "white" if value > 0.45 * most else INK
                axes.text(column, row, f"{value:.1f}", color=color, fontsize=6.5, ha="center",
                          va="center")  # fmt: skip
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=30)
    bar.set_label("mean probability, percent", color=MUTED, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    return figure


def ranked_figure(
    similarity: np.ndarray,
    clusters: np.ndarray,
    images: np.ndarray,
    names: Sequence[str],
    classes: Sequence[int],
) -> Figure:
    """For each of some classes the others by falling similarity, coloured by cluster.

    Args:
      similarity, clusters, images, names: as in `similarity_figure`.
      classes: indices of the classes, one row of bars each.
    """
    mean = confusion(similarity, images)
    shown = min(len(names) - 1, _MOST_RANKS)
    figure = Figure(
        figsize=(max(6, 0.5 * shown + 1.5), 2.5 * len(classes)), dpi=110, facecolor="white"
    )
    figure.set_layout_engine("constrained")
    rows = figure.subplots(len(classes), squeeze=False)[:, 0]
    for axes, index in zip(rows, classes, strict=True):
        others = np.delete(np.arange(len(names)), index)
        order = others[np.argsort(-similarity[index, others], kind="stable")][:shown]
        figures.style_axes(axes, figures.shorten(names[index], 40))
        axes.title.set_parse_math(False)
        colors = [VARIANT_COLORS[clusters[other] % len(VARIANT_COLORS)] for other in order]
        axes.bar(range(shown), mean[index, order], color=colors, width=0.72)
        texts = [figures.shorten(names[other], 20) for other in order]
        axes.set_xticks(range(shown), texts, rotation=40, ha="right", rotation_mode="anchor")
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("percent", color=MUTED, fontsize=9)
        _plain(axes)
    numbers = np.unique(clusters)
    handles = [
        Patch(color=VARIANT_COLORS[number % len(VARIANT_COLORS)], label=f"cluster {number + 1}")
        for number in numbers
    ]
    figures.add_legend(figure, handles, loc="outside upper right", ncols=len(numbers))
    return figure


def classes_figure(names: Sequence[str], series: Sequence[tuple[str, str, Mapping]]) -> Figure:
    """IoU of each class and the mean, a bar for each series.

    Args:
      names: names of the classes.
      series: `(text, colour, {"per_label": [n], "mean": x})`; a missing value leaves a hole.
    """
    width = 0.8 / len(series)
    figure = Figure(
        figsize=(min(40, max(9, 0.22 * len(series) * (len(names) + 1))), 4), dpi=110,
        facecolor="white", layout="constrained",
    )  # fmt: skip
    axes = figure.subplots()
    figures.style_axes(axes, "IoU per class, percent")
    places = np.append(np.arange(len(names)), len(names) + 0.5)
    for number, (text, color, scores) in enumerate(series):
        values = 100 * np.array([*scores["per_label"], scores["mean"]], float)
        left = places + (number - (len(series) - 1) / 2) * width
        axes.bar(left, values, 0.92 * width, color=color, label=text)
    texts = [*(figures.shorten(name, 20) for name in names), "mean"]
    axes.set_xticks(places, texts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, places[-1] + 0.6)
    axes.grid(visible=False, axis="x")
    _plain(axes)
    handles = [Patch(color=color, label=text) for text, color, _ in series]
    figures.add_legend(figure, handles, loc="outside upper right", ncols=len(series))
    return figure


def thresholds_figure(evaluation: Mapping, pooling: str = "pooled") -> Figure:
    """Mean IoU over thresholds, a line a row; a dot at its best, a grey line at the paper's.

    The two forms of a selection share a colour: dashed of the last layer, solid of all layers.
    """
    rows = {row: evaluation["rows"][row][pooling] for row in ordered_rows(evaluation["rows"])}
    rows = {row: scores for row, scores in rows.items() if scores["mean"] is not None}
    height = max(4.5, 0.2 * (len(rows) + 4))  # of the legend, too
    figure = Figure(figsize=(11, height), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    figures.style_axes(axes, "Mean IoU over thresholds, percent")
    axes.axvline(evaluation["threshold"], color=MUTED, linestyle=":", linewidth=1.4)
    handles, colors = [], {"cam": BASELINE, "grad_cam": INK}
    for row, scores in rows.items():
        owner = mode_of(row) or row.removesuffix("+A")
        color = colors.setdefault(owner, _LINE_COLORS[len(colors) % len(_LINE_COLORS)])
        style = {"color": color, "linestyle": "-" if "+A" in row else "--", "linewidth": 1.7}
        axes.plot(evaluation["thresholds"], 100 * np.array(scores["curve"], float), **style)
        axes.plot(scores["best_threshold"], 100 * scores["best"], marker="o", color=color,
                  markersize=6, markeredgecolor="white", linestyle="", zorder=3)  # fmt: skip
        handles.append(Line2D([], [], label=row_title(row), **style))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("threshold of the normalised map", color=MUTED, fontsize=9)
    dot = {"marker": "o", "linestyle": "", "color": MUTED}
    handles.append(Line2D([], [], label="best threshold", **dot))
    text = f"threshold {evaluation['threshold']:.2f}"
    handles.append(Line2D([], [], label=text, color=MUTED, linestyle=":"))
    figures.add_legend(figure, handles, loc="outside right upper")
    return figure


def _plain(axes) -> None:
    """Shows names as they are and draws the axes in the house's quiet colours."""
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    for side in axes.spines.values():
        side.set_color(GRID)
