"""The page of sanity checks says what its numbers say."""

from __future__ import annotations

import base64
import copy
import io

import numpy as np
import pytest
from PIL import Image

from minmax_jax.report import names, sanity, sanity_figures, tables

from .conftest import EVIL
from .test_figures import rendered
from .test_page import Page

STEPS = ["head", "b4", "b3", EVIL]
# Likeness by SSIM and by rank correlation: of another photo, with the upper half (two of the four
# steps) random, and with all layers random.
LIKENESS = {
    "guided_backpropagation": ((0.2, 0.3), (0.8, 0.9), (0.7, 0.66)),
    "grad_cam": ((0.4, 0.2), (0.5, 0.3), (0.3, 0.1)),
    "score_cam": ((0.1, 0.1), (0.3, 0.6), (0.2, 0.25)),
}


def make_result():
    def series(half, end):
        return [0.95, half, (half + end) / 2, end]

    methods = {}
    for method, (chance, half, end) in LIKENESS.items():
        methods[method] = {
            "chance": dict(zip(sanity.MEASURES, chance, strict=True)),
            "cascading": {
                measure: series(half[i], end[i]) for i, measure in enumerate(sanity.MEASURES)
            },
            "independent": {
                measure: [0.9, 0.8, 0.7 + i / 10, 0.6] for i, measure in enumerate(sanity.MEASURES)
            },
        }
    return {"steps": STEPS, "photos": 7, "pairs": 12, "methods": methods}


def make_results(*, labels=True):
    alike = {"guided_backpropagation": (0.3, 0.7), "grad_cam": (0.6, 0.5), "score_cam": (0.0, 0.1)}
    fit = {
        "plain": {"images": 600, "all_labels_right": 0.987, "f1": 0.99},
        "mixed": {"images": 64, "all_labels_right": 0.953125, "f1": 0.98},
    }
    return {
        "settings": {"images": 8, "seed": 5},
        "variants": {"plain": make_result()},
        "labels": {
            "trained": "plain",
            "permuted": "mixed",
            "photos": 7,
            "pairs": 12,
            "methods": {
                method: dict(zip(sanity.MEASURES, values, strict=True))
                for method, values in alike.items()
            },
            "fit": fit,
        }
        if labels
        else None,
    }


def make_pictures(results):
    rng = np.random.default_rng(0)

    def arrays(count):
        maps = {f"maps/{method}": rng.random((count, 5, 5), np.float32) for method in LIKENESS}
        return {
            "photo": rng.integers(0, 256, (40, 40, 3), np.uint8),
            "label": np.array(f"cow {EVIL}"),
            **maps,
        }

    pictures = {"plain": arrays(1 + len(STEPS))}
    return pictures | ({"mixed": arrays(2)} if results["labels"] else {})


def test_a_map_stays_where_it_is_nearer_to_what_it_was():
    assert sanity.stays(0.66, 0.3) and not sanity.stays(0.64, 0.3)
    assert not sanity.stays(0.3, 0.3) and not sanity.stays(0.1, 0.3)


def test_table():
    """In the order of the rank correlation with all layers random, the lowest first."""
    table = sanity.summary_tables(make_results())[0]
    order = ["grad_cam", "score_cam", "guided_backpropagation"]
    assert [name for (name,) in table.rows] == [names.method_title(method) for method in order]
    assert [column.text.split(", ") for column in table.columns] == [
        [measure, part]
        for measure in ("SSIM", "rank correlation")
        for part in ("upper half random", "all random", "permuted labels", "another photo")
    ]
    assert table.values[0] == (0.5, 0.3, 0.6, 0.4, 0.3, 0.1, 0.5, 0.2)
    assert table.values[2] == (0.8, 0.7, 0.3, 0.2, 0.9, 0.66, 0.7, 0.3)
    assert "66.00" in tables.render_text(table)
    without = sanity.summary_tables(make_results(labels=False))[0]
    assert without.values[0] == (0.5, 0.3, 0.4, 0.3, 0.1, 0.2)


def test_headline():
    all_random, half_random, finding, labels = sanity.headline(make_results())
    assert "the maps of 2 of 3 methods are nearer to those of another photo" in all_random
    assert all_random.endswith("Guided Backpropagation stays.")
    assert "(head to b4)" in half_random
    assert "by SSIM Guided Backpropagation stays;" in half_random
    assert half_random.endswith("by rank correlation Score-CAM and Guided Backpropagation stay.")
    assert "With the upper half random it is confirmed (" in finding
    assert "Guided Backpropagation 80 and 90, Grad-CAM 50 and 30" in finding
    assert "with all layers random confirmed (Guided Backpropagation 70 and 66" in finding
    assert "95.3 % of its 64 training images right (F1 98.0)" in labels
    assert "so it has learned them by heart" in labels
    # Of the halves 60 and 65, of 70 and 60, of 55 and 55 only one is passed: 70 by rank.
    assert "The maps of 2 of 3 methods are nearer" in labels
    assert labels.endswith("Guided Backpropagation stays.")


def test_headline_where_the_finding_does_not_hold():
    results = make_results(labels=False)
    methods = results["variants"]["plain"]["methods"]
    guided, grad_cam = methods["guided_backpropagation"], methods["grad_cam"]
    guided["cascading"]["ssim"] = [0.9, 0.5, 0.4, 0.3]
    *_, finding = sanity.headline(results)
    assert "random it is confirmed by rank correlation only (" in finding
    assert "with all layers random confirmed by rank correlation only (" in finding
    grad_cam["cascading"]["rank_correlation"] = [0.9, 0.9, 0.9, 0.9]
    *_, finding = sanity.headline(results)
    assert "random it is not confirmed (" in finding
    del methods["grad_cam"]
    assert len(sanity.headline(results)) == 2


def test_a_network_that_did_not_learn_its_labels_is_told():
    results = make_results()
    results["labels"]["fit"]["mixed"]["all_labels_right"] = 0.5
    assert "50.0 % of its 64 training images right" in sanity.headline(results)[-1]
    assert "has not learned all of them by heart" in sanity.headline(results)[-1]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    results = make_results()
    folder = tmp_path_factory.mktemp("sanity")
    return sanity.write_page(folder, results, make_pictures(results), title=f"Made up {EVIL}")


def test_page_is_whole_and_needs_nothing_else(written):
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    anchors = [source for source in page.sources if source.startswith("#")]
    assert anchors and all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    assert f"Made up {EVIL}" in page.text and f"cow {EVIL}" in page.text
    for sentence in sanity.headline(make_results()):
        assert sentence in page.text
    cells = [text.strip() for table in page.tables for row in table for _, _, text in row]
    for value in ("66.00", "98.70", "95.31", "64"):
        assert value in cells
    # Three charts; the photo and the maps of two strips.
    assert len(page.images) == 3 + (1 + 3 * 5) + (1 + 3 * 2)
    for image in page.images:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition("base64,")[2]))) as own:
            own.load()


def test_page_without_permuted_labels(tmp_path):
    results = make_results(labels=False)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/labels.png").touch()  # of an earlier page
    before = copy.deepcopy(results)
    path = sanity.write_page(tmp_path, results, make_pictures(results), title="Made up")
    assert results == before
    text = path.read_text(encoding="utf-8")
    assert "#labels" not in text and "Permuted labels" not in text
    assert {own.name for own in (tmp_path / "figures").iterdir()} == {
        "plain_cascading.png",
        "plain_independent.png",
        "plain_strip.png",
    }


def test_figures_show_their_numbers():
    results = make_results()
    result, methods = results["variants"]["plain"], ["score_cam", "grad_cam"]
    figure = sanity_figures.cascading_figure(result, methods)
    rendered(figure)
    for axes, method in zip(figure.axes, methods, strict=True):
        assert axes.get_title(loc="left") == names.method_title(method)
        own = result["methods"][method]
        lines = {
            line.get_color(): line.get_ydata() for line in axes.lines if len(line.get_xdata()) > 2
        }
        for measure, color in sanity_figures.COLORS.items():
            np.testing.assert_allclose(
                lines[color], [100, *np.multiply(own["cascading"][measure], 100)]
            )
    figure = sanity_figures.independent_figure(result, methods)
    rendered(figure)
    heights = sorted(round(bar.get_height(), 6) for bar in figure.axes[0].patches)
    wanted = result["methods"]["score_cam"]["independent"].values()
    assert heights == pytest.approx(sorted(100 * value for own in wanted for value in own))
    figure = sanity_figures.labels_figure(results["labels"], result, methods)
    rendered(figure)
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([0, 60, 10, 50])


def test_strips_stand_pixel_for_pixel():
    colors = np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8)
    rows = [
        (f"row {i} {EVIL}", [np.broadcast_to(color, (30, 30, 3)) for color in own])
        for i, own in enumerate(colors)
    ]
    image = rendered(sanity_figures.strips_figure(["trained", "$a_1"], rows))
    for color in colors.reshape(-1, 3):
        assert (image == color).all(axis=-1).sum() == 900
