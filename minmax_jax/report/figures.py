"""Figures of a run. Each function returns a matplotlib `Figure` that knows nothing of pyplot."""

from __future__ import annotations

import dataclasses
import os
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minmax_jax import files
from minmax_jax.report.names import METHOD_TITLES, method_title, ordered
from minmax_jax.report.pictures import Photo

INK, MUTED, GRID, WARNING = "#22262c", "#6b7280", "#e3e6ea", "#b42318"
VARIANT_COLORS = ("#2f6fd0", "#d1433f", "#2a9d6f", "#8a5cd0", "#c98a1b", "#4a9fb5")
VARIANT_MARKERS = ("o", "s", "^", "D", "v", "P")
# The two forms of one method share a colour: a dot, and a ring around it (they often coincide).
METHOD_COLORS = {
    "cam": "#2f6fd0",
    "grad_cam": "#2f6fd0",
    "grad_cam_plus_plus": "#8b929c",
    "score_cam": "#9a7440",
    "minmax_cam": "#ef8a17",
    "minmax_grad_cam": "#ef8a17",
    "d_minmax_cam": "#cf2438",
    "d_minmax_grad_cam": "#cf2438",
}
RINGS = ("grad_cam", "minmax_grad_cam", "d_minmax_grad_cam")
OTHER_COLORS = ("#8a5cd0", "#2a9d6f", "#4a9fb5", "#b5529c")


@dataclasses.dataclass(frozen=True)
class FocusPoint:
    """Where a method of a variant stands: fractions 0..1."""

    variant: str
    method: str
    retention_of_others: float
    drop_of_others: float


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with warnings.catch_warnings():
        # A label's name may hold letters that the font lacks; the page shows them all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        files.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi="figure"))


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def gallery_figure(photo: Photo, *, title: str) -> Figure:
    """A photo, its true mask and the map of every method; one row a label and variant.

    Pictures stand pixel for pixel. The photo and a label's mask are shown once per label.
    """
    margin, gap, group_gap, left, head = 16, 6, 18, 200, 104
    height, width = photo.picture.shape[:2]
    has_mask = any(label.mask is not None for label in photo.labels)
    headings = ["photo", *(["true mask"] if has_mask else []), *map(method_title, photo.methods)]
    rows = max(1, sum(len(label.rows) for label in photo.labels))
    total_width = 2 * margin + left + len(headings) * (width + gap)
    total_height = margin + head + rows * (height + gap) + max(0, len(photo.labels) - 1) * group_gap
    figure = Figure(figsize=(total_width / 100, total_height / 100), dpi=100, facecolor="white")

    def write(x, y, text, **style):
        style = {"color": INK, "fontsize": 14, "va": "top", "parse_math": False} | style
        figure.text(x / total_width, 1 - y / total_height, text, **style)

    def place(column, y, picture):
        x = margin + left + column * (width + gap)
        figure.figimage(picture, x, total_height - y - height, origin="upper")

    write(margin, margin, shorten(title, 60), fontsize=17, weight="bold")
    write(margin, margin + 32, shorten(_photo_note(photo), 150), color=MUTED)
    for column, heading in enumerate(headings):
        x = margin + left + column * (width + gap) + width / 2
        write(
            x,
            head + margin - 8,
            textwrap.fill(heading, 11),
            ha="center",
            va="bottom",
            linespacing=1.05,
        )

    y = margin + head
    if not photo.labels:
        place(0, y, photo.picture)
        write(margin, y, "no label explained", color=MUTED)
    for label in photo.labels:
        place(0, y, photo.picture)
        if label.mask is not None:
            place(1, y, label.mask)
        for row in label.rows:
            write(margin, y, "■", color=label.color, fontsize=17)
            write(margin + 24, y + 1, textwrap.fill(shorten(label.name, 32), 16), weight="bold")
            write(
                margin + 24,
                y + 46,
                f"{shorten(row.variant, 16)}\n{100 * row.probability:.1f} %",
                color=MUTED,
                linespacing=1.3,
            )
            if not label.annotated:
                write(margin + 24, y + 104, "not annotated", color=WARNING, style="italic")
            for column, method in enumerate(photo.methods):
                if method in row.pictures:
                    place(column + 1 + has_mask, y, row.pictures[method])
            y += height + gap
        y += group_gap
    return figure


def _photo_note(photo: Photo) -> str:
    note = "annotated: " + (", ".join(photo.annotated) or "nothing")
    for variant, names in photo.missed:
        note += f"  ·  not explained by {variant}: {', '.join(names)}"
    return note


def style_axes(axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, weight="bold")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=9, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def add_legend(owner: Axes | Figure, handles: Sequence[Line2D], **options) -> None:
    legend = owner.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)


def curves_figure(histories: Mapping[str, Mapping]) -> Figure:
    """Training curves of all variants: losses, scores, learning rate.

    Dotted lines stand where a new stage begins, triangles where the best weights were put back.

    Args:
      histories: `{variant: contents of its history.json}`.
    """
    figure = Figure(figsize=(13, 3.9), dpi=110, facecolor="white", layout="constrained")
    loss, scores, rate = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    style_axes(loss, "Loss")
    style_axes(scores, "Validation scores, percent")
    style_axes(rate, "Learning rate")
    rate.set_yscale("log")
    variants = []
    for index, (variant, history) in enumerate(histories.items()):
        color = VARIANT_COLORS[index % len(VARIANT_COLORS)]
        variants.append(Line2D([], [], color=color, linewidth=3, label=variant))
        epochs = history["epochs"]
        number = [epoch["epoch"] for epoch in epochs]

        def values(name, epochs=epochs):
            # None (nothing to average) becomes NaN, which draws a hole.
            return np.array([epoch[name] for epoch in epochs], float)

        dot = "." if len(epochs) < 20 else ""  # a run of one epoch has no line to see
        line = {"color": color, "linewidth": 1.6, "marker": dot}
        loss.plot(number, values("train_loss"), linestyle="--", alpha=0.7, **line)
        loss.plot(number, values("validation_loss"), **line)
        scores.plot(number, 100 * values("f1_macro"), **line)
        scores.plot(number, 100 * values("map_macro"), linestyle="--", alpha=0.7, **line)
        rate.plot(number, values("learning_rate"), drawstyle="steps-mid", **line)
        restored = [epoch for epoch in epochs if epoch["restored"]]
        loss.plot(
            [epoch["epoch"] for epoch in restored],
            [epoch["validation_loss"] for epoch in restored],
            linestyle="",
            marker="v",
            color=color,
            markersize=7,
            markeredgecolor="white",
        )
    for begin, color in _stage_begins(histories):
        for axes in (loss, scores, rate):
            axes.axvline(begin - 0.5, color=color, linestyle=":", linewidth=1.2)
    for axes in (loss, scores, rate):
        axes.set_xlabel("epoch", color=MUTED, fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(rate, variants, loc="best")
    solid, dashed = {"color": MUTED}, {"color": MUTED, "linestyle": "--"}
    restore = Line2D([], [], color=MUTED, marker="v", linestyle="", label="best weights restored")
    stage = Line2D([], [], color=MUTED, linestyle=":", label="next stage")
    add_legend(
        loss,
        [
            Line2D([], [], label="validation", **solid),
            Line2D([], [], label="training", **dashed),
            restore,
            stage,
        ],
    )
    add_legend(
        scores, [Line2D([], [], label="macro F1", **solid), Line2D([], [], label="mAP", **dashed)]
    )
    return figure


def _stage_begins(histories: Mapping[str, Mapping]) -> list[tuple[int, str]]:
    """First epochs of later stages, in their variant's colour or, where all agree, in grey."""
    begins = [
        {
            after["epoch"]
            for before, after in zip(history["epochs"], history["epochs"][1:], strict=False)
            if after["stage"] != before["stage"]
        }
        for history in histories.values()
    ]
    shared = set.intersection(*begins)
    own = [
        (epoch, VARIANT_COLORS[index % len(VARIANT_COLORS)])
        for index, epochs in enumerate(begins)
        for epoch in epochs - shared
    ]
    return own + [(epoch, MUTED) for epoch in shared]


def focus_points(evaluations: Mapping[str, Mapping]) -> list[FocusPoint]:
    """The points of `focus_figure`: macro averages; where one of the two is missing, no point."""
    points = []
    for variant, evaluation in evaluations.items():
        for method in ordered(evaluation["methods"], METHOD_TITLES):
            macro = evaluation["methods"][method]["macro"]
            retention = macro.get("average_retention_of_others")
            drop = macro.get("average_drop_of_others")
            if retention is not None and drop is not None:
                points.append(FocusPoint(variant, method, retention, drop))
    return points


def _colored(methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    other = 0
    for method in methods:
        if method in METHOD_COLORS:
            yield method, METHOD_COLORS[method]
        else:
            yield method, OTHER_COLORS[other % len(OTHER_COLORS)]
            other += 1


def focus_figure(points: Sequence[FocusPoint]) -> Figure:
    """How far maps keep to their own label: average drop of others over retention of others.

    A focused map takes the other labels away when only it is shown (up) and leaves them alone when
    it is hidden (left). Colours are methods, shapes are variants, lines join a method's variants.
    """
    variants = list(dict.fromkeys(point.variant for point in points))
    methods = ordered((point.method for point in points), METHOD_TITLES)
    colors = dict(_colored(methods))
    figure = Figure(figsize=(9.2, 5.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    style_axes(axes, "Focus: top left is better")
    for method in methods:
        mine = [point for point in points if point.method == method]
        places = np.array([(p.retention_of_others, p.drop_of_others) for p in mine]) * 100
        axes.plot(*places.T, color=colors[method], alpha=0.35, linewidth=1.2, zorder=2)
        for point, place in zip(mine, places, strict=True):
            marker = VARIANT_MARKERS[variants.index(point.variant) % len(VARIANT_MARKERS)]
            axes.plot(*place, color=colors[method], zorder=3, **_mark(method, marker))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    shade = np.linspace(1, 0, 64)[:, None] * np.linspace(1, 0, 64)[None]  # green is better
    axes.imshow(
        shade,
        extent=(*axes.get_xlim(), *axes.get_ylim()),
        aspect="auto",
        cmap="Greens",
        vmin=0,
        vmax=2,
        alpha=0.6,
        zorder=0,
        interpolation="bilinear",
    )
    axes.set_xlabel("average retention of others, percent  (← better)", color=INK, fontsize=10)
    axes.set_ylabel("average drop of others, percent  (better →)", color=INK, fontsize=10)
    by_method = [
        Line2D([], [], color=colors[m], label=method_title(m), linestyle="", **_mark(m, "o"))
        for m in methods
    ]
    by_variant = [
        Line2D(
            [],
            [],
            color=MUTED,
            label=variant,
            linestyle="",
            markersize=8,
            marker=VARIANT_MARKERS[index % len(VARIANT_MARKERS)],
        )
        for index, variant in enumerate(variants)
    ]
    style = {"labelspacing": 0.8, "alignment": "left"}
    add_legend(figure, by_method, title="method", loc="outside right upper", **style)
    add_legend(figure, by_variant, title="variant", loc="outside right lower", **style)
    return figure


def _mark(method: str, marker: str) -> dict:
    if method in RINGS:
        return {"marker": marker, "markersize": 14, "fillstyle": "none", "markeredgewidth": 1.6}
    return {"marker": marker, "markersize": 8}
