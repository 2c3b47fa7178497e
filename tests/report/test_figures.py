"""Figures show the numbers they were given; pictures stand pixel for pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from minmax_jax.report import figures, method_figures, names, pictures

from .conftest import METHODS, add_curves, make_evaluation, make_history

MANY = tuple(names.METHOD_TITLES)[: names.MANY + 3]


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def plain_picture(color):
    return np.full((pictures.SIDE, pictures.SIDE, 3), color, np.uint8)


def place_of(image, color):
    """Top, left of the only full square of a colour."""
    rows, columns = np.nonzero((image == np.array(color, np.uint8)).all(-1))
    assert len(rows) == pictures.SIDE**2
    assert np.ptp(rows) == np.ptp(columns) == pictures.SIDE - 1
    return rows.min(), columns.min()


@pytest.mark.parametrize("masks", [True, False])
def test_gallery_grid(masks):
    rng = np.random.default_rng(0)
    count = 1 + 2 + 3 * len(METHODS)
    colors = [tuple(map(int, color)) for color in rng.integers(60, 200, (count, 3))]
    photo_color, *mask_colors = colors[:3]
    cells = np.array(colors[3:]).reshape(3, len(METHODS), 3)

    def row(index, variant):
        shown = {m: plain_picture(cells[index, n]) for n, m in enumerate(METHODS)}
        return pictures.Row(variant, 0.5, shown)

    def label(index, rows, **options):
        mask = plain_picture(mask_colors[index]) if masks else None
        return pictures.LabelRows("$a_1 <b>", "#123456", index == 0, mask, rows)

    labels = (label(0, (row(0, "plain"), row(1, "kur"))), label(1, (row(2, "kur"),)))
    photo = pictures.Photo(plain_picture(photo_color), ("x",), METHODS, labels, ())
    image = rendered(figures.gallery_figure(photo, title="Photo 1"))
    places = np.array([[place_of(image, color) for color in line] for line in cells])
    tops, lefts = places[..., 0], places[..., 1]
    assert (tops == tops[:, :1]).all() and (np.diff(tops[:, 0]) >= pictures.SIDE).all()
    assert (lefts == lefts[:1]).all() and (np.diff(lefts[0]) >= pictures.SIDE).all()
    if masks:
        first, second = (place_of(image, color) for color in mask_colors)
        assert (first[0], second[0]) == (tops[0, 0], tops[2, 0])
        assert first[1] == second[1] < lefts[0, 0]
    is_photo = (image == np.array(photo_color, np.uint8)).all(-1)
    assert is_photo.sum() == 2 * pictures.SIDE**2  # once a label
    assert np.nonzero(is_photo)[1].max() < lefts[0, 0]


def test_gallery_of_many_methods_wraps():
    rng = np.random.default_rng(0)
    cells = [tuple(map(int, color)) for color in rng.integers(60, 200, (len(MANY), 3))]
    shown = {method: plain_picture(color) for method, color in zip(MANY, cells, strict=True)}
    label = pictures.LabelRows("a", "#123456", True, None, (pictures.Row("plain", 0.5, shown),))
    photo = pictures.Photo(plain_picture((10, 200, 30)), ("a",), MANY, (label,), ())
    image = rendered(figures.gallery_figure(photo, title="Photo 1"))
    top, left = np.array([place_of(image, color) for color in cells]).T
    assert len(set(top[: names.MANY])) == len(set(top[names.MANY :])) == 1
    assert top[names.MANY] - top[0] >= pictures.SIDE + 20  # room for the names
    assert left[names.MANY :].tolist() == left[: len(MANY) - names.MANY].tolist()
    assert image.shape[1] < (names.MANY + 3) * pictures.SIDE


def test_gallery_of_a_photo_without_explained_labels():
    photo = pictures.Photo(plain_picture((10, 200, 30)), (), METHODS, (), ())
    image = rendered(figures.gallery_figure(photo, title="Photo 1"))
    place_of(image, (10, 200, 30))


def test_curves_hold_the_history():
    histories = {"plain": make_history(np.random.default_rng(0)), "$kur_1": make_history(
        np.random.default_rng(1), epochs=5)}  # fmt: skip
    figure = figures.curves_figure(histories)
    rendered(figure)
    loss, scores, rate = figure.axes
    for axes, wanted, scale in (
        (loss, ("train_loss", "validation_loss"), 1),
        (scores, ("f1_macro", "map_macro"), 100),
        (rate, ("learning_rate",), 1),
    ):
        drawn = [np.array(line.get_data(), float) for line in axes.lines]
        for history in histories.values():
            for name in wanted:
                expected = np.array(
                    [
                        (epoch["epoch"], np.nan if epoch[name] is None else scale * epoch[name])
                        for epoch in history["epochs"]
                    ]
                ).T
                assert any(
                    line.shape == expected.shape and np.allclose(line, expected, equal_nan=True)
                    for line in drawn
                ), name
        # Both variants begin their second stage at epoch 5: one line between 4 and 5.
        assert [line[0].tolist() for line in drawn].count([4.5, 4.5]) == 1
    markers = [line for line in loss.lines if line.get_marker() == "v"]
    for line, history in zip(markers, histories.values(), strict=True):
        assert line.get_xdata() == [3]
        assert line.get_ydata() == [history["epochs"][2]["validation_loss"]]


def test_stages_that_begin_apart_have_lines_of_their_own():
    early, late = make_history(np.random.default_rng(0)), make_history(np.random.default_rng(0))
    for epoch in early["epochs"]:
        epoch["stage"] = int(epoch["epoch"] > 2)
    figure = figures.curves_figure({"a": early, "b": late})
    begins = {
        line.get_xdata()[0]: line.get_color()
        for line in figure.axes[0].lines
        if line.get_linestyle() == ":"
    }
    assert begins == {2.5: figures.VARIANT_COLORS[0], 4.5: figures.VARIANT_COLORS[1]}


def test_curves_of_one_epoch_can_be_drawn():
    rendered(figures.curves_figure({"a": make_history(np.random.default_rng(0), epochs=1)}))


def test_focus_points_and_their_marks():
    rng = np.random.default_rng(0)
    methods = ("mine", *METHODS)
    evaluations = {v: make_evaluation(rng, methods) for v in ("plain", "kur")}
    for evaluation in evaluations.values():
        for result in evaluation["methods"].values():
            result["macro"] |= {
                "average_retention_of_others": float(rng.random()),
                "average_drop_of_others": float(rng.random()),
            }
    evaluations["kur"]["methods"]["cam"]["macro"]["average_drop_of_others"] = None
    del evaluations["kur"]["methods"]["mine"]["macro"]["average_retention_of_others"]
    points = method_figures.focus_points(evaluations)
    assert len(points) == 2 * len(methods) - 2
    for point in points:
        macro = evaluations[point.variant]["methods"][point.method]["macro"]
        assert point.retention_of_others == macro["average_retention_of_others"]
        assert point.drop_of_others == macro["average_drop_of_others"]
        assert point.average_drop == macro["average_drop"]
    figure = method_figures.focus_figure(points)
    rendered(figure)
    drawn = [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if line.get_marker() != "None"
    ]
    expected = [(100 * p.retention_of_others, 100 * p.drop_of_others) for p in points]
    assert np.allclose(sorted(drawn), sorted(expected))


@pytest.mark.parametrize("methods", [METHODS, MANY])
def test_faithfulness_figure_holds_the_curves(methods):
    rng = np.random.default_rng(0)
    evaluation = add_curves(make_evaluation(rng, methods), rng)
    without = evaluation["methods"] | {"mine": make_evaluation(rng, ("mine",))["methods"]["mine"]}
    figure = method_figures.faithfulness_figure(evaluation | {"methods": without})
    rendered(figure)
    columns = len(names.by_family(methods)) if methods is MANY else 1
    assert len(figure.axes) == 2 * columns
    coloured = []
    for axes in figure.axes:
        name = "insertion" if "Insertion" in axes.get_title(loc="left") else "deletion"
        drawn = [line for line in axes.lines if line.get_color() != figures.GRID]
        assert len(axes.lines) == len(methods)  # the others are grey
        for line in drawn:
            assert line.get_xdata()[-1] == 100
            values = np.array(line.get_ydata()) / 100
            coloured += [
                (name, method)
                for method in methods
                if np.allclose(values, evaluation["methods"][method][f"{name}_curve"])
            ]
    assert sorted(coloured) == sorted((n, m) for n in method_figures.CURVES for m in methods)
    assert method_figures.has_curves(evaluation)
    assert not method_figures.has_curves(make_evaluation(rng))


def named(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_places_of_many_methods_are_named():
    """Highest first; methods at one place share a name, those of two variants do not."""
    methods, drops = names.method_order(MANY), (0.2, 0.6, 0.4)
    points = [
        method_figures.FocusPoint("plain", method, 0.3 + 1e-4 * number, drops[number % 3])
        for number, method in enumerate(methods)
    ]
    figure = method_figures.focus_figure(points)
    rendered(figure)
    expected = []
    for place in (1, 2, 0):
        own = [names.method_title(method) for method in methods[place::3]]
        expected.append(f"{own[0]}, {own[1]} and {len(own) - 2} more")
    assert named(figure) == expected
    (legend, _) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names.by_family(MANY))
    points.append(method_figures.FocusPoint("kur", "cam", 0.3, 0.6))
    figure = method_figures.focus_figure(points)
    assert len(named(figure)) == 4 and "CAM (kur)" in named(figure)


def test_of_many_methods_those_that_lose_their_own_label_are_hollow():
    """And of methods at one place the first is seen."""
    drops = dict(zip(MANY, (0.1, 0.51, 0.5, None), strict=False))
    points = [method_figures.FocusPoint("plain", m, 0.2, 0.5, drops.get(m, 0.9)) for m in MANY]
    figure = method_figures.focus_figure(points)
    marks = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    filled = dict(zip(names.method_order(MANY), marks, strict=True))
    assert {m for m, mark in filled.items() if mark.get_fillstyle() == "full"} == {
        m for m in MANY if m in drops and drops[m] != 0.51
    }
    heights = [mark.get_zorder() for mark in marks]
    assert heights == sorted(set(heights), reverse=True)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*names.by_family(MANY), "average drop\nabove 50 percent"]


def test_of_too_many_places_those_are_named_that_no_other_beats():
    rng = np.random.default_rng(4)
    points = [
        method_figures.FocusPoint(variant, method, *rng.permutation(26)[:2] / 26)
        for variant in ("plain", "kur")
        for method in MANY
    ]
    expected = []
    for one in points:
        for other in points:
            less = other.retention_of_others <= one.retention_of_others
            more = other.drop_of_others >= one.drop_of_others
            if other is not one and other.variant == one.variant and less and more:
                break
        else:
            expected.append(one)
    assert method_figures.unbeaten(points) == expected and 1 < len(expected) < 16 < len(points)
    figure = method_figures.focus_figure(points)
    rendered(figure)
    wanted = [f"{names.method_title(point.method)} ({point.variant})" for point in expected]
    assert sorted(named(figure)) == sorted(wanted)
    points.append(method_figures.FocusPoint("plain", "eigen_cam", 0, 1, average_drop=0.9))
    assert sorted(named(method_figures.focus_figure(points))) == sorted(wanted)


def test_png_with_letters_that_the_font_lacks(tmp_path):
    rows = (pictures.Row("plain", 0.9, {"cam": plain_picture((1, 2, 3))}),)
    label = pictures.LabelRows("猫", "#123456", True, None, rows)
    photo = pictures.Photo(plain_picture((9, 9, 9)), ("猫",), ("cam",), (label,), ())
    figures.save_png(figures.gallery_figure(photo, title="猫"), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 2 * pictures.SIDE
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
