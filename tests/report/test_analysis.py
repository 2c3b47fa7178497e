"""The page of an analysis: the numbers it was given, names escaped, figures that open."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from minmax_jax.analyze import analyze_head, compare_heads
from minmax_jax.report import analysis, analysis_figures

from .conftest import EVIL, LABELS
from .test_figures import rendered
from .test_page import Page


def make_head(head, labels, seed, kernels=12):
    rng = np.random.default_rng(seed)
    units = len(labels)
    flow, features = rng.uniform(size=(units,) * 3), rng.uniform(size=(units, kernels))
    kernel = rng.normal(size=(kernels, units))
    kernel[:, 0] = 0  # a unit that reads nothing
    images = np.arange(units)
    return {"head": head, "network": "toy", "attention": "none"} | analyze_head(
        kernel, flow, features, images, top=4
    )


def make_analysis(labels=LABELS, heads=("plain", "kur")):
    found = {name: make_head(name, labels, seed) for seed, name in enumerate(heads)}
    plain, *others = found
    comparisons = [
        {"plain": plain, "other": name, "findings": compare_heads(found[plain], found[name])}
        for name in others
    ]
    return {
        "label_names": list(labels),
        "top": 4,
        "heads": found,
        "comparisons": comparisons,
        "left_out": ["<b>bent</b>"],
    }


def write(contents, folder):
    path = folder / "analysis.json"
    path.write_text(json.dumps(contents, allow_nan=False))
    return analysis.write_page(path, title=f"Made up {EVIL}")


@pytest.fixture(scope="module")
def contents():
    return make_analysis()


@pytest.fixture(scope="module")
def written(contents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    (folder / "figures").mkdir()
    (folder / "figures" / "gone_flow.png").write_bytes(b"")
    return write(contents, folder)


@pytest.fixture(scope="module")
def parsed(written):
    return Page(written.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, and saved as files of one byte."""

    def save(_, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    monkeypatch.setattr(analysis.figures, "save_png", save)


def texts(table):
    return [[text.strip() for _, _, text in row] for row in table]


def test_page_is_whole_and_needs_nothing_else(written, parsed):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text.lower() and "http://" not in text and "https://" not in text
    assert not {"script", "iframe", "object", "embed"} & set(parsed.tags)
    assert all(source.startswith(("data:", "#")) for source in parsed.sources)
    anchors = {source for source in parsed.sources if source.startswith("#")}
    assert anchors and all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    assert all(name in parsed.text for name in (*LABELS, "<b>bent</b>", f"Made up {EVIL}"))
    assert f"no validation image has {LABELS[0]}." in parsed.text


def test_figures_open_and_old_ones_go(written, parsed):
    kinds = ("correlations", "flow", "sharing", "weights")
    names = {f"{head}_{kind}.png" for head in ("plain", "kur") for kind in kinds}
    files = {path.name: path.read_bytes() for path in (written.parent / "figures").iterdir()}
    assert set(files) == names
    shown = [base64.b64decode(image["src"].partition("base64,")[2]) for image in parsed.images]
    assert sorted(shown) == sorted(files.values())
    for content in shown:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.size[0] > 300
    assert all(image["alt"] for image in parsed.images)


def test_findings_hold_the_numbers(contents, parsed):
    rows = texts(parsed.tables[0])
    assert rows[0][1:3] == ["plain", "kur"]
    plain, other = contents["heads"].values()
    lines = {row[0]: row[1:] for row in rows[1:]}
    positive = [f"{100 * np.mean(head['weights']['positive']):.1f}" for head in (plain, other)]
    assert lines["weights above 0, percent"][:2] == positive
    half = f"≤ {plain['mean_correlation'] / 2:.3f}"
    holds = "yes" if other["mean_correlation"] <= plain["mean_correlation"] / 2 else "no"
    correlations = [f"{head['mean_correlation']:.3f}" for head in (plain, other)]
    name = "correlation of two units (magnitude), mean over pairs"
    assert lines[name] == [*correlations, half, holds]
    verdicts = [row[0].split(":")[1].strip() for row in rows[1:] if row[0].startswith("(")]
    expected = {True: "confirmed", False: "not confirmed"}
    findings = contents["comparisons"][0]["findings"]
    assert verdicts == [expected[finding["confirmed"]] for finding in findings]


def test_top_kernels_are_listed_and_shared_ones_are_bold(contents, parsed, written):
    tables = [texts(t) for t in parsed.tables if texts(t)[0][0] == "unit"]
    for head, rows in zip(contents["heads"].values(), tables, strict=True):
        tops = head["sharing"]["by_weight"]["tops"]
        assert rows[1:] == [
            [name, ", ".join(map(str, indices))] for name, indices in zip(LABELS, tops, strict=True)
        ]
    bold = sum(
        sum(tops_of[kernel] > 1 for kernel in indices)
        for head in contents["heads"].values()
        for tops in [head["sharing"]["by_weight"]["tops"]]
        for tops_of in [{k: sum(k in other for other in tops) for own in tops for k in own}]
        for indices in tops
    )
    assert bold and written.read_text("utf-8").count('class="shared"') == bold


def test_pairs_that_share_come_by_falling_number(contents):
    head = contents["heads"]["plain"]
    tops = [set(indices) for indices in head["sharing"]["by_weight"]["tops"]]
    expected = {
        (LABELS[i], LABELS[j]): len(tops[i] & tops[j])
        for i in range(len(tops)) for j in range(i + 1, len(tops)) if tops[i] & tops[j]
    }  # fmt: skip
    found = analysis.sharing_pairs(head, LABELS)
    assert {(first, second): count for first, second, count in found} == expected
    counts = [count for *_, count in found]
    assert counts == sorted(counts, reverse=True)


def test_text_for_a_terminal(contents):
    text = analysis.findings_text(contents)
    plain, other = contents["heads"].values()
    line = next(line for line in text.splitlines() if "top kernels that two" in line)
    numbers = [head["sharing"]["by_weight"]["mean_shared"] for head in (plain, other)]
    assert line.split("pairs")[1].split()[:2] == [f"{number:.2f}" for number in numbers]
    assert text.startswith("Findings of section 6.2, kur against plain")
    assert "no two heads to compare" in analysis.findings_text(contents | {"comparisons": []})


@pytest.mark.parametrize("count", [1, 13])
def test_one_head_of_one_label_or_many(count, tmp_path, undrawn):
    labels = [f"label {index}" for index in range(count)]
    parsed = Page(write(make_analysis(labels, ["kur"]), tmp_path).read_text("utf-8"))
    assert "There are no two heads to compare" in parsed.text
    assert len(parsed.images) == 4
    many = count > analysis_figures.MOST_RIBBONS
    assert ("little off the diagonal" in parsed.text) == many


def test_one_label_beside_another(tmp_path, undrawn):
    contents = make_analysis(["only"])
    parsed = Page(write(contents, tmp_path).read_text("utf-8"))
    assert parsed.text.count("no pair of units") == 2
    assert analysis.findings_text(contents).count("no pair of units") == 2


def test_ribbons_are_as_wide_as_the_flow():
    rng = np.random.default_rng(0)
    head = make_head("kur", LABELS, 0)
    head["flow"]["labels_to_kernels"] = rng.uniform(size=(4, 4)).tolist()
    second = np.array(head["flow"]["labels_to_kernels"]).sum(axis=0)[:, None] * [0.1, 0.2, 0.3, 0.4]
    head["flow"]["kernels_to_predictions"] = second.tolist()
    order = [2, 0, 3, 1]
    figure = analysis_figures.flow_figure(head, LABELS, order)
    rendered(figure)
    patches = figure.axes[0].patches
    ribbons = [p.get_path().vertices for p in patches if not hasattr(p, "get_width")]
    wide = np.array([vertices[-2, 1] - vertices[0, 1] for vertices in ribbons])
    flows = (np.array(head["flow"][n]) for n in ("labels_to_kernels", "kernels_to_predictions"))
    expected = np.concatenate([flow[np.ix_(order, order)].ravel() for flow in flows])
    np.testing.assert_allclose(wide / wide.sum(), expected / expected.sum(), atol=1e-12)
    nodes = [p for p in patches if hasattr(p, "get_width")]
    assert len(nodes) == 12 and max(p.get_y() + p.get_height() for p in nodes) <= 1 + 1e-9


def test_histograms_hold_the_counts():
    head = make_head("kur", LABELS, 0)
    figure = analysis_figures.histograms_figure(head, LABELS)
    rendered(figure)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_title(loc="left").rstrip("…") for axes in panels]
    assert len(titles) == len(LABELS)
    assert all(name.startswith(title) for name, title in zip(LABELS, titles, strict=True))
    for axes, counts in zip(panels, head["weights"]["counts"], strict=True):
        negative, positive = (step.get_data() for step in axes.patches)
        assert [*negative.values, *positive.values] == counts
        assert negative.edges[-1] == positive.edges[0] == 0


def test_matrices_hold_the_numbers_in_order():
    head = make_head("kur", LABELS, 0)
    order = [2, 0, 3, 1]
    for draw, matrix in (
        (analysis_figures.correlations_figure, np.array(head["correlations"])),
        (analysis_figures.sharing_figure, np.array(head["sharing"]["by_weight"]["shared"])),
    ):
        figure = draw(head, LABELS, order, most=3)
        shown = figure.axes[0].images[0].get_array()
        for row, column in np.ndindex(4, 4):
            if row != column:
                assert shown[row, column] == matrix[order[row], order[column]]
        assert figure.axes[0].images[0].norm.vmax == 3
