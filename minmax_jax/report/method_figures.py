"""Figures that set methods against each other; many are told apart by family, few one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from minmax_jax.report.figures import (
    GRID,
    INK,
    MUTED,
    VARIANT_COLORS,
    VARIANT_MARKERS,
    add_legend,
    style_axes,
)
from minmax_jax.report.names import (
    ARROWS,
    FAMILIES,
    MANY,
    OTHER_FAMILY,
    by_family,
    family_title,
    method_order,
    method_title,
    metric,
)

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
OTHER_COLORS = ("#8a5cd0", "#2a9d6f", "#4a9fb5", "#b5529c", "#5d8a1f", "#12355b")
FAMILY_COLORS = dict(
    zip(
        (*FAMILIES, OTHER_FAMILY),
        ("#2f6fd0", "#ef8a17", "#9a7440", "#2a9d6f", "#b5529c", "#8b929c"),
        strict=True,
    )
)
CURVES = ("insertion", "deletion")
_LINES = (*VARIANT_COLORS, "#b5529c", "#5d8a1f")
# Of many methods: those of one place that are named, places that are, and how near one place is.
_NAMED, _PLACES, _ONE_PLACE = 2, 16, 0.02
# A method with a higher average drop is not focused: in what its maps show, the label is lost, too.
_LOST = 0.5


@dataclasses.dataclass(frozen=True)
class FocusPoint:
    """Where a method of a variant stands: fractions 0..1."""

    variant: str
    method: str
    retention_of_others: float
    drop_of_others: float
    average_drop: float | None = None

    @property
    def lost(self) -> bool:
        """Whether the label itself falls by more than half, too, where only its map is shown."""
        return self.average_drop is not None and self.average_drop > _LOST


def focus_points(evaluations: Mapping[str, Mapping]) -> list[FocusPoint]:
    """The points of `focus_figure`: macro averages; where one of the two is missing, no point."""
    points = []
    for variant, evaluation in evaluations.items():
        for method in method_order(evaluation["methods"]):
            macro = evaluation["methods"][method]["macro"]
            retention = macro.get("average_retention_of_others")
            drop = macro.get("average_drop_of_others")
            if retention is not None and drop is not None:
                own = macro.get("average_drop")
                points.append(FocusPoint(variant, method, retention, drop, own))
    return points


def unbeaten(points: Sequence[FocusPoint]) -> list[FocusPoint]:
    """Those that no other of the same variant beats in both: less retention and more drop."""

    def beaten(point):
        return any(
            other.variant == point.variant
            and other.retention_of_others <= point.retention_of_others
            and other.drop_of_others >= point.drop_of_others
            and (other.retention_of_others, other.drop_of_others)
            != (point.retention_of_others, point.drop_of_others)
            for other in points
        )

    return [point for point in points if not beaten(point)]


def _colors(methods: Sequence[str]) -> dict[str, str]:
    if len(methods) > MANY:
        return {method: FAMILY_COLORS[family_title(method)] for method in methods}
    others = iter(_cycled(OTHER_COLORS))
    return {method: METHOD_COLORS.get(method) or next(others) for method in methods}


def _cycled(colors: Sequence[str]) -> Iterator[str]:
    while True:
        yield from colors


def focus_figure(points: Sequence[FocusPoint]) -> Figure:
    """How far maps keep to their own label: average drop of others over retention of others.

    A focused map takes the other labels away when only it is shown (up) and leaves them alone when
    it is hidden (left). Colours are methods, shapes are variants, lines join a method's variants.
    Of many methods colours are families, and places are named. A map that shows next to nothing
    takes the others away as well, so their marks are hollow where the own label is `lost`. Of too
    many places those are named of methods that keep it and that no other such method beats in both.
    """
    variants = list(dict.fromkeys(point.variant for point in points))
    methods = method_order(point.method for point in points)
    many = len(methods) > MANY
    colors = _colors(methods)
    figure = Figure(figsize=(9.2, 5.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots()
    style_axes(axes, "Focus: top left is better")
    for number, method in enumerate(methods):
        # Of many forms that coincide the first one is seen.
        above = 4 - number / len(methods) if many else 3
        mine = [point for point in points if point.method == method]
        places = np.array([(p.retention_of_others, p.drop_of_others) for p in mine]) * 100
        axes.plot(*places.T, color=colors[method], alpha=0.35, linewidth=1.2, zorder=2)
        for point, place in zip(mine, places, strict=True):
            marker = VARIANT_MARKERS[variants.index(point.variant) % len(VARIANT_MARKERS)]
            style = _mark(method, marker, many, point.lost)
            axes.plot(*place, color=colors[method], zorder=above, **style)
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
    if many:
        _name_points(axes, points, len(variants) > 1)
        marks = [(title, FAMILY_COLORS[title], "") for title in by_family(methods)]
    else:
        marks = [(method_title(method), colors[method], method) for method in methods]
    by_color = [
        Line2D([], [], color=color, label=title, linestyle="", **_mark(method, "o", many))
        for title, color, method in marks
    ]
    if many and any(point.lost for point in points):
        hollow = _mark("", "o", many, True)
        text = f"average drop\nabove {100 * _LOST:.0f} percent"
        by_color.append(Line2D([], [], color=MUTED, label=text, linestyle="", **hollow))
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
    title = "family" if many else "method"
    add_legend(figure, by_color, title=title, loc="outside right upper", **style)
    add_legend(figure, by_variant, title="variant", loc="outside right lower", **style)
    return figure


def _mark(method: str, marker: str, many: bool, lost: bool = False) -> dict:
    if many and lost:
        return {"marker": marker, "markersize": 7, "fillstyle": "none", "markeredgewidth": 1.4}
    if method in RINGS and not many:
        return {"marker": marker, "markersize": 14, "fillstyle": "none", "markeredgewidth": 1.6}
    return {"marker": marker, "markersize": 7 if many else 8, "markeredgecolor": "white"}


def _name_points(axes: Axes, points: Sequence[FocusPoint], with_variant: bool) -> None:
    """Writes names below one another right of all points, each joined to its place by a line."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    groups: list[list[FocusPoint]] = []  # of one variant, at one place as the eye sees it
    for point in points:
        for group in groups:
            first = group[0]
            apart = (
                abs(point.retention_of_others - first.retention_of_others) * 100 / (right - left),
                abs(point.drop_of_others - first.drop_of_others) * 100 / (high - low),
            )
            if point.variant == first.variant and max(apart) < _ONE_PLACE:
                group.append(point)
                break
        else:
            groups.append([point])
    if len(groups) > _PLACES:
        best = unbeaten([point for point in points if not point.lost] or points)
        groups = [group for group in groups if any(point in best for point in group)][:_PLACES]
    axes.set_xticks([tick for tick in axes.get_xticks() if left <= tick <= right])
    axes.set_xlim(left, right + 0.6 * (right - left))  # room for the names
    row = high
    for group in sorted(
        groups, key=lambda own: (-own[0].drop_of_others, own[0].retention_of_others)
    ):
        x, y = 100 * group[0].retention_of_others, 100 * group[0].drop_of_others
        row = min(row - (high - low) / (_PLACES + 1), y)
        titles, more = [method_title(point.method) for point in group], len(group) - _NAMED
        text = ", ".join(titles[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        axes.annotate(
            f"{text} ({group[0].variant})" if with_variant else text,
            (x, y),
            (0.645, row),
            textcoords=blended_transform_factory(axes.transAxes, axes.transData),
            fontsize=8,
            color=MUTED if all(point.lost for point in group) else INK,
            va="center",
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": MUTED,
                "linewidth": 0.6,
                "alpha": 0.7,
            },
        )


def has_curves(evaluation: Mapping) -> bool:
    """Whether an evaluation holds insertion and deletion curves."""
    return any(f"{CURVES[0]}_curve" in result for result in evaluation["methods"].values())


def faithfulness_figure(evaluation: Mapping) -> Figure:
    """Insertion and deletion curves: the label's probability over the share of pixels.

    Few methods share axes; of many each family has its own, where all others stand in grey.

    Args:
      evaluation: contents of an evaluation.json for which `has_curves`.
    """
    curves = {
        method: {name: 100 * np.array(result[f"{name}_curve"], float) for name in CURVES}
        for method, result in evaluation["methods"].items()
        if f"{CURVES[0]}_curve" in result
    }
    methods = method_order(curves)
    many = len(methods) > MANY
    groups = by_family(methods) if many else {"": methods}
    figure = Figure(
        figsize=(3.3 * len(groups), 8.0) if many else (12.5, 4.2),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    shape = (2, len(groups)) if many else (1, 2)
    grid = figure.subplots(*shape, sharey=True, squeeze=False)
    for column, (title, own) in zip(grid.T if many else grid, groups.items(), strict=True):
        lines = _lines(own, many)
        for name, axes in zip(CURVES, column, strict=True):
            style_axes(axes, f"{title}\n{metric(name).title} {_BETTER[name]}".lstrip())
            for method in methods:
                share = np.linspace(0, 100, len(curves[method][name]))
                line = lines.get(method, {"color": GRID, "linewidth": 1, "zorder": 1})
                axes.plot(share, curves[method][name], **line)
            axes.set_ylim(bottom=0)
            axes.set_xlabel(f"{_PIXELS[name]}, percent", color=MUTED, fontsize=9)
        handles = [Line2D([], [], label=method_title(m), **line) for m, line in lines.items()]
        if many:
            add_legend(column[1], handles, loc="upper right")
        else:
            add_legend(figure, handles, loc="outside right upper", alignment="left")
    for axes in grid[:, 0]:
        axes.set_ylabel("probability of the label, percent", color=MUTED, fontsize=9)
    return figure


_PIXELS = {"insertion": "pixels revealed", "deletion": "pixels hidden"}
_BETTER = {name: ARROWS[metric(name).good] for name in CURVES}


def _lines(methods: Sequence[str], many: bool) -> dict[str, dict]:
    """Styles by method; of many a MinMax form has its method's colour."""
    if many:
        bases = {method: method.removeprefix("d_").removeprefix("minmax_") for method in methods}
        palette = dict(zip(dict.fromkeys(bases.values()), _cycled(_LINES), strict=False))
        colors = {method: palette[base] for method, base in bases.items()}
        dashes = {"minmax_": "--", "d_minmax_": ":"}
    else:
        colors, dashes = _colors(methods), dict.fromkeys(RINGS, "--")
    return {
        method: {
            "color": colors[method],
            "linewidth": 1.7,
            "zorder": 2,
            "linestyle": next((dashes[own] for own in dashes if method.startswith(own)), "-"),
        }
        for method in methods
    }
