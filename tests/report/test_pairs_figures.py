"""Figures of pair classifiers show the numbers they were given, under the right names."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from minmax_jax.report import pairs_figures, pairs_gallery, pairs_rows, pictures

from .pairs_run import NAMES, make_evaluation, make_gallery, make_pairs
from .test_figures import rendered


@pytest.fixture
def matrix():
    arrays, _, _ = make_pairs(np.random.default_rng(3), NAMES)
    arrays["clusters"] = np.array([0, 1, 0, 2, 1, 0])
    return arrays


def test_similarity_is_ordered_by_cluster_with_a_frame_around_each(matrix):
    figure = pairs_figures.similarity_figure(**matrix, names=NAMES)
    rendered(figure)
    axes = figure.axes[0]
    drawn = axes.images[0].get_array().filled(np.nan)
    order = [0, 2, 5, 1, 4, 3]
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            if i == j or i == len(NAMES) - 1:  # the last class has no image
                assert np.isnan(drawn[row, column])
            else:
                wanted = 100 * matrix["similarity"][i, j] / matrix["images"][i]
                assert drawn[row, column] == pytest.approx(wanted)
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        NAMES[i] if len(NAMES[i]) <= 20 else NAMES[i][:19] + "…" for i in order
    ]
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(patch.get_x(), patch.get_width()) for patch in frames] == [
        (-0.5, 3), (2.5, 2), (4.5, 1),
    ]  # fmt: skip
    assert matrix["similarity"][0, 0] > 0  # what was given is left as it was


def test_similarity_of_classes_without_images_can_be_drawn(matrix):
    matrix["similarity"][:], matrix["images"][:] = 0, 0
    rendered(pairs_figures.similarity_figure(**matrix, names=NAMES))
    rendered(pairs_figures.ranked_figure(**matrix, names=NAMES, classes=[0]))


def test_ranks_fall(matrix):
    classes = (3, 0)
    figure = pairs_figures.ranked_figure(**matrix, names=NAMES, classes=classes)
    rendered(figure)
    for axes, own in zip(figure.axes, classes, strict=True):
        row = matrix["similarity"][own]
        others = sorted((i for i in range(len(NAMES)) if i != own), key=lambda i: -row[i])
        heights = [patch.get_height() for patch in axes.patches]
        assert heights == pytest.approx([100 * row[i] / matrix["images"][own] for i in others])
        shown = [text.get_text()[:19] for text in axes.get_xticklabels()]
        assert shown == [NAMES[i][:19] for i in others]
        colors = [patch.get_facecolor() for patch in axes.patches]
        for a, i in zip(colors, others, strict=True):
            for b, j in zip(colors, others, strict=True):
                assert (a == b) == (matrix["clusters"][i] == matrix["clusters"][j])


def test_bars_of_classes_and_their_mean():
    rng = np.random.default_rng(0)
    evaluation = make_evaluation(rng, NAMES, ("grad_cam", "cluster-1+F"))
    series = [
        (text, color, evaluation["rows"][row]["pooled"])
        for text, color, row in (("first", "red", "grad_cam"), ("$2_b$", "blue", "cluster-1+F"))
    ]
    figure = pairs_figures.classes_figure(NAMES, series)
    rendered(figure)
    (axes,) = figure.axes
    for bars, (_, _, scores) in zip(axes.containers, series, strict=True):
        heights = [bar.get_height() for bar in bars]
        wanted = [100 * value for value in scores["per_label"][:-1]]
        assert heights == pytest.approx([*wanted, np.nan, 100 * scores["mean"]], nan_ok=True)
    assert axes.get_xticklabels()[-1].get_text() == "mean"


def test_lines_over_thresholds():
    rng = np.random.default_rng(0)
    rows = ("grad_cam", "random+F", "random+A+F", "top-1+F")
    evaluation = make_evaluation(rng, NAMES, rows)
    evaluation["rows"]["top-1+F"]["pooled"] |= {"mean": None, "best": None, "best_threshold": None}
    figure = pairs_figures.thresholds_figure(evaluation)
    rendered(figure)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 100]
    dots = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(lines) == len(dots) == 3
    for row, line, dot in zip(rows, lines, dots, strict=False):
        scores = evaluation["rows"][row]["pooled"]
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(scores["curve"]))
        (x,), (y,) = dot.get_data()
        assert y == pytest.approx(max(line.get_ydata()))
        assert x == line.get_xdata()[np.argmax(line.get_ydata())]
        assert line.get_linestyle() == ("-" if "+A" in row else "--")
    assert lines[1].get_color() == lines[2].get_color() != lines[0].get_color()
    (mark,) = [line for line in axes.lines if list(line.get_xdata()) == [0.15, 0.15]]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:3] == [pairs_rows.row_title(row) for row in rows[:3]]


def test_strips_name_their_maps_and_skip_missing_classes():
    gallery = make_gallery(np.random.default_rng(0), NAMES)
    gallery["classes"][0] = (3, 1, 0)
    strips = pairs_gallery.class_strips(gallery, NAMES)
    assert [text for text, _ in strips[0].pictures] == [
        "photo", "true mask", *(f"against {NAMES[i]}" for i in (3, 1, 0)), "fused",
        "Grad-CAM, all classes",
    ]  # fmt: skip
    assert len(strips[1].pictures) == len(strips[0].pictures) - 1
    assert [strip.name for strip in strips] == [NAMES[i] for i in gallery["labels"]]
    layers = pairs_gallery.layer_strips(gallery, NAMES)
    assert [text for text, _ in layers[0].pictures] == [
        "photo", "true mask", "block_1", "block_2", "block_3", "block_4", "sum", "multi-layer",
    ]  # fmt: skip


def test_each_picture_shows_its_own_map():
    """Every map has one bright cell, at a place of its own."""
    gallery = make_gallery(np.random.default_rng(0), NAMES, photos=1, comparisons=3)
    gallery["images"][:] = 100
    gallery["objects"][:] = 0
    gallery["classes"][:] = (0, 1, 2)
    maps = [*gallery["pair_maps"][0], gallery["fused"][0], gallery["baseline"][0],
            *gallery["layers"][0], gallery["adding"][0], gallery["multi"][0]]  # fmt: skip
    for number, map_ in enumerate(maps):
        map_[:] = 0
        map_[3 * number : 3 * number + 3] = 1
    (first,) = pairs_gallery.class_strips(gallery, NAMES)
    (second,) = pairs_gallery.layer_strips(gallery, NAMES)
    shown = [picture for _, picture in (*first.pictures[2:], *second.pictures[2:])]
    assert len(shown) == len(maps)
    for number, picture in enumerate(shown):
        brightest = picture[..., 0].astype(int).sum(1).argmax()
        assert brightest * 40 / pictures.SIDE == pytest.approx(3 * number + 1.5, abs=1.5)


def test_strips_stand_pixel_for_pixel():
    rng = np.random.default_rng(0)
    colors = rng.integers(60, 200, (2, 3, 3), np.uint8)
    shape = (pictures.SIDE, 120, 3)
    strips = [
        pairs_gallery.Strip("$a_1 <b>", tuple(("name", np.full(shape, c, np.uint8)) for c in row))
        for row in colors
    ]
    image = rendered(pairs_gallery.strips_figure(strips))
    tops, lefts = np.zeros((2, 3), int), np.zeros((2, 3), int)
    for place in np.ndindex(2, 3):
        rows, columns = np.nonzero((image == colors[place]).all(-1))
        assert len(rows) == pictures.SIDE * 120
        tops[place], lefts[place] = rows.min(), columns.min()
    assert (tops == tops[:, :1]).all() and np.ptp(tops[:, 0]) > pictures.SIDE
    assert (lefts == lefts[:1]).all() and (np.diff(lefts[0]) >= 120).all()
