"""The page holds everything, nothing foreign, and nothing a label's name could break."""

from __future__ import annotations

import base64
import copy
import html.parser
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from minmax_jax.report import names, page

from .conftest import (
    EVIL,
    LABELS,
    METHODS,
    METRICS,
    VARIANTS,
    add_curves,
    make_evaluation,
    make_gallery,
    write_run,
)

VOID_TAGS = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Collects tags, links, tables of cells, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.sources, self.images, self.tables = [], [], [], [], []
        self.cell = None
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.sources += [
            value
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "data", "poster", "background")
        ]
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append([tag, attributes.get("class", ""), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            assert "url(" not in data and "@import" not in data
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1][2] += data

    def cells(self, kind, table):
        """Rows of `(class, text)` of all cells of a kind."""
        return [[(c, t.strip()) for k, c, t in row if k == kind] for row in table]


@pytest.fixture(scope="module")
def workdir(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir, **run)
    return workdir


@pytest.fixture(scope="module")
def written(workdir):
    return page.write_report(str(workdir), VARIANTS, title=f"Made up {EVIL}")


@pytest.fixture(scope="module")
def parsed(written):
    return Page(written.read_text(encoding="utf-8"))


def test_place_and_size(written, workdir):
    assert written == workdir / "report" / "index.html"
    assert written.stat().st_size < 2e6
    assert sorted(path.name for path in (workdir / "report").iterdir()) == ["figures", "index.html"]


def test_names_are_escaped(written, parsed):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text.lower()
    assert "script" not in parsed.tags
    assert parsed.text.count(EVIL) >= 5  # title, gallery, label tables, settings, config
    for label in (EVIL, LABELS[3]):
        assert label in parsed.text
        assert any(label in image["alt"] for image in parsed.images)


def test_page_needs_nothing_else(written, parsed):
    text = written.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "//" not in "".join(
        source for source in parsed.sources if not source.startswith("data:")
    )  # fmt: skip
    assert all(source.startswith(("data:", "#")) for source in parsed.sources)
    assert all(image["src"].startswith("data:image/") for image in parsed.images)
    anchors = {source for source in parsed.sources if source.startswith("#")}
    assert anchors and all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    assert not {"script", "iframe", "object", "embed"} & set(parsed.tags)


def test_embedded_pictures_open(parsed):
    assert all(image["alt"] for image in parsed.images)
    # Photo 0: labels 0 (two variants) and 1 (one); photo 1: labels 0 and 3; photo 2: the photo.
    rows, labels = 3 + 4, 4
    assert len(parsed.images) == 2 + rows * len(METHODS) + 2 * labels + 1
    for image in parsed.images:
        content = base64.b64decode(image["src"].partition("base64,")[2])
        picture = Image.open(io.BytesIO(content))
        picture.load()
        if "width" in image:
            assert picture.size == (int(image["width"]), int(image["height"]))


def test_figures_open(written):
    folder = written.parent / "figures"
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png", "focus.png", "gallery_01.png", "gallery_02.png", "gallery_03.png",
    ]  # fmt: skip
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and image.size[0] > 300


def test_gallery_marks_what_is_not_annotated_and_what_is_missed(parsed):
    assert parsed.text.count("not annotated") == 2  # photo 1, label 0, in both variants
    assert f"not explained by kur: {LABELS[1]}" in parsed.text
    assert f"not explained by plain: {LABELS[2]}" in parsed.text
    assert "no label explained" in parsed.text


def test_tables_on_the_page_hold_the_results(parsed, run):
    low = {"average_drop", "average_retention_of_others", "f1_minus"}
    found = 0
    for table in parsed.tables:
        headings = [text for _, text in parsed.cells("th", table)[0]]
        if headings[:1] != ["method"]:
            continue
        assert headings[1].split() == ["IC", "↑"] and headings[-2:] == ["pairs", "seconds"]
        # Macro of both variants, then micro of both.
        average, variant = ("macro", "micro")[found // 2], VARIANTS[found % 2]
        found += 1
        for method, cells in zip(METHODS, parsed.cells("td", table)[1:], strict=True):
            scores = run["evaluations"][variant]["methods"][method][average]
            for metric, (_, text) in zip(METRICS, cells[:-2], strict=True):
                value = scores[metric]
                assert text == ("-" if value is None else f"{100 * value:.2f}")
        for column, metric in enumerate(METRICS):
            shown = [row[column] for row in parsed.cells("td", table)[1:]]
            values = [float(text) for _, text in shown if text != "-"]
            best = (min if metric in low else max)(values)
            for mark, text in shown:
                competes = len(values) > 1 and text != "-"
                assert (mark == "best") == (competes and float(text) == best)
    assert found == 4


def test_comparison_stands_variants_below_one_another(parsed, run):
    (table,) = [
        t
        for t in parsed.tables
        if [text for _, text in parsed.cells("th", t)[0]][:2] == ["metric", "variant"]
    ]
    for row, (headings, cells) in enumerate(
        zip(parsed.cells("th", table)[1:], parsed.cells("td", table)[1:], strict=True)
    ):
        variant = VARIANTS[row % 2]
        assert [text for _, text in headings][-1] == variant
        assert len(headings) == (2 if variant == VARIANTS[0] else 1)  # the metric spans its rows
        for method, (_, text) in zip(METHODS, cells, strict=True):
            value = run["evaluations"][variant]["methods"][method]["macro"][METRICS[row // 2]]
            assert text == ("-" if value is None else f"{100 * value:.2f}")


def test_settings_and_config_are_shown(parsed):
    for text in ("threshold", "0.15", "data.size", '[{"epochs": 3}]'):
        assert text in parsed.text


@pytest.mark.parametrize(
    "missing",
    ["config.json", "kur/history.json", "kur/classification.json", "plain/evaluation.json",
     "plain/gallery.npz"],
)  # fmt: skip
def test_a_missing_file_is_named(run, tmp_path, missing):
    write_run(tmp_path, **run)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        page.write_report(tmp_path, VARIANTS, title="x")
    assert not (tmp_path / "report").exists()


def test_no_variants():
    with pytest.raises(ValueError, match="variant"):
        page.write_report("nowhere", (), title="x")


def test_one_variant_without_masks_and_localisation(run, tmp_path):
    """Also: a second report of fewer photos leaves no figure of the first."""
    evaluation = copy.deepcopy(run["evaluations"]["plain"])
    evaluation["methods"] = {"cam": evaluation["methods"]["cam"]}
    for part in ("per_label", "macro", "micro"):
        evaluation["methods"]["cam"][part] = {
            metric: evaluation["methods"]["cam"][part][metric] for metric in METRICS[:2]
        }
    gallery = make_gallery(np.random.default_rng(0), ("cam",), masks=False)
    results = {
        "galleries": {"only": gallery},
        "evaluations": {"only": evaluation},
        "classifications": {"only": run["classifications"]["plain"]},
        "histories": {"only": run["histories"]["plain"]},
    }
    write_run(tmp_path, **results)
    page.write_report(tmp_path, ["only"], title="x")
    two = {name: values[:2] for name, values in gallery.items()}
    results["galleries"]["only"] = two | {
        "pairs": gallery["pairs"],
        "maps/cam": gallery["maps/cam"],
    }
    write_run(tmp_path, **results)
    parsed = Page(page.write_report(tmp_path, ["only"], title="x").read_text(encoding="utf-8"))
    assert sorted(path.name for path in (tmp_path / "report" / "figures").iterdir()) == [
        "curves.png", "gallery_01.png", "gallery_02.png",
    ]  # fmt: skip
    assert "true mask" not in parsed.text and "Energy" not in parsed.text
    assert "side by side" not in parsed.text.lower()


def test_many_methods(run, tmp_path):
    """One table of all, each value shaded by its place; every map of the gallery with its name."""
    methods = (*tuple(names.METHOD_TITLES)[: names.MANY + 1], "mine")
    rng = np.random.default_rng(2)
    evaluation = add_curves(make_evaluation(rng, methods), rng)
    evaluation["methods"]["cam"]["macro"]["iou"] = 0.999
    results = {part: {"plain": values["plain"]} for part, values in run.items()}
    results["evaluations"]["plain"] = evaluation
    results["galleries"]["plain"] = make_gallery(rng, methods)
    write_run(tmp_path, **results)
    written = page.write_report(tmp_path, ["plain"], title="x")
    parsed = Page(written.read_text(encoding="utf-8"))
    assert (written.parent / "figures" / "faithfulness_1.png").exists()
    for title in names.by_family(methods):
        assert title in parsed.text
    headings = [[text for _, text in parsed.cells("th", table)[0]] for table in parsed.tables]
    (macro, _) = [index for index, row in enumerate(headings) if row[:2] == ["family", "method"]]
    column = headings[macro].index("IoU\xa0↑") - 2
    shown = [row[column] for row in parsed.cells("td", parsed.tables[macro])[1:]]
    assert len(shown) == len(methods) and shown[0] == ("best", "99.90")
    assert "--place: 100%" in written.read_text() and "--place: 0%" in written.read_text()
    explained = len(results["galleries"]["plain"]["pairs"])
    maps = [image for image in parsed.images if " of " in image["alt"]]
    of_methods = [image for image in maps if not image["alt"].startswith("true mask")]
    charts = [image for image in of_methods if "width" not in image]
    assert len(of_methods) - len(charts) == explained * len(methods)
    assert parsed.text.count("HiRes-CAM") >= explained + 2
    anchors = {source for source in parsed.sources if source.startswith("#")}
    assert "#faithfulness" in anchors
    assert all(f'id="{anchor[1:]}"' in written.read_text() for anchor in anchors)


def test_variants_of_different_photos_have_galleries_of_their_own(run, tmp_path):
    results = copy.deepcopy(run)
    results["galleries"]["kur"] = make_gallery(np.random.default_rng(9), size=24)
    write_run(tmp_path, **results)
    parsed = Page(page.write_report(tmp_path, VARIANTS, title="x").read_text(encoding="utf-8"))
    assert "Photo 6" in parsed.text and "Photo 7" not in parsed.text


def test_page_appears_whole_or_not_at_all(run, tmp_path, monkeypatch):
    write_run(tmp_path, **run)
    written = page.write_report(tmp_path, VARIANTS, title="first")
    before = written.read_bytes()

    def fail(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(RuntimeError, match="killed"):
        page.write_report(tmp_path, VARIANTS, title="second")
    assert written.read_bytes() == before
    assert not list((tmp_path / "report").rglob(".*"))
    shutil.rmtree(tmp_path)
