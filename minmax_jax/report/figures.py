"""Figures of a run. Each function returns a matplotlib `Figure` that knows nothing of pyplot."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minmax_jax import files
from minmax_jax.report.names import MANY, method_title
from minmax_jax.report.pictures import Photo

INK, MUTED, GRID, WARNING = "#22262c", "#6b7280", "#e3e6ea", "#b42318"
VARIANT_COLORS = ("#2f6fd0", "#d1433f", "#2a9d6f", "#8a5cd0", "#c98a1b", "#4a9fb5")
VARIANT_MARKERS = ("o", "s", "^", "D", "v", "P")


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

    Pictures stand pixel for pixel. The photo and a label's mask are shown once per label. Of many
    methods the maps of a row stand in lines of `MANY`, each map under its name.
    """
    margin, gap, group_gap, left, head = 16, 6, 18, 200, 104
    height, width = photo.picture.shape[:2]
    has_mask = any(label.mask is not None for label in photo.labels)
    fixed = ["photo", *(["true mask"] if has_mask else [])]
    lines = [photo.methods[i : i + MANY] for i in range(0, len(photo.methods), MANY)] or [()]
    many = len(lines) > 1
    name_height = 40 if many else 0  # above each line of maps
    row_height = len(lines) * (name_height + height + gap)
    rows = max(1, sum(len(label.rows) for label in photo.labels))
    total_width = 2 * margin + left + (len(fixed) + len(lines[0])) * (width + gap)
    total_height = margin + head + rows * row_height + max(0, len(photo.labels) - 1) * group_gap
    figure = Figure(figsize=(total_width / 100, total_height / 100), dpi=100, facecolor="white")

    def write(x, y, text, **style):
        style = {"color": INK, "fontsize": 14, "va": "top", "parse_math": False} | style
        figure.text(x / total_width, 1 - y / total_height, text, **style)

    def place(column, y, picture):
        x = margin + left + column * (width + gap)
        figure.figimage(picture, x, total_height - y - height, origin="upper")

    def name_columns(first, names, y, **style):
        for column, name in enumerate(names, first):
            x = margin + left + column * (width + gap) + width / 2
            write(x, y - 8, name, ha="center", va="bottom", linespacing=1.05, **style)

    write(margin, margin, shorten(title, 60), fontsize=17, weight="bold")
    write(margin, margin + 32, shorten(_photo_note(photo), 150), color=MUTED)
    y = margin + head
    shown_above = fixed if many else [*fixed, *map(method_title, photo.methods)]
    name_columns(0, [textwrap.fill(name, 11) for name in shown_above], y + name_height)
    if not photo.labels:
        place(0, y, photo.picture)
        write(margin, y, "no label explained", color=MUTED)
    for label in photo.labels:
        place(0, y + name_height, photo.picture)
        if label.mask is not None:
            place(1, y + name_height, label.mask)
        for row in label.rows:
            top = y + name_height
            write(margin, top, "■", color=label.color, fontsize=17)
            write(margin + 24, top + 1, textwrap.fill(shorten(label.name, 32), 16), weight="bold")
            write(
                margin + 24,
                top + 46,
                f"{shorten(row.variant, 16)}\n{100 * row.probability:.1f} %",
                color=MUTED,
                linespacing=1.3,
            )
            if not label.annotated:
                write(margin + 24, top + 104, "not annotated", color=WARNING, style="italic")
            for line in lines:
                if many:
                    titles = [textwrap.fill(method_title(method), 20) for method in line]
                    name_columns(len(fixed), titles, y + name_height, fontsize=10)
                for column, method in enumerate(line, len(fixed)):
                    if method in row.pictures:
                        place(column, y + name_height, row.pictures[method])
                y += name_height + height + gap
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
