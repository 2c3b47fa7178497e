"""The page of pair classifiers holds everything, nothing foreign, and names are escaped."""

from __future__ import annotations

import base64
import copy
import io

import numpy as np
import pytest
from PIL import Image

from minmax_jax.data import voc
from minmax_jax.report import pairs_page

from .conftest import EVIL
from .pairs_run import BASELINE, NAMES, PAIRS, make_gallery, make_run, write_run
from .test_page import Page

VARIANTS = (*PAIRS, BASELINE)


@pytest.fixture(scope="module")
def run():
    run = make_run()
    run["kur"]["gallery.npz"] = make_gallery(np.random.default_rng(1), NAMES, photos=1)
    return run


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir, run)
    return pairs_page.write_report(
        str(workdir), VARIANTS, title=f"Made up {EVIL}", note=f"Why: {EVIL}"
    )


@pytest.fixture(scope="module")
def parsed(written):
    return Page(written.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are files of one pixel, for tests that look at the rest."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "png")

    def save(_, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())

    monkeypatch.setattr(pairs_page.figures, "save_png", save)


def table_of(parsed, heading):
    """The first table whose first heading is `heading`, as rows of texts."""
    for table in parsed.tables:
        rows = [[text.strip() for _, _, text in row] for row in table]
        if rows[0][0] == heading:
            return rows
    raise AssertionError(heading)


def test_page_is_whole_and_needs_nothing_else(written, parsed):
    text = written.read_text(encoding="utf-8")
    assert "<script" not in text.lower() and "http://" not in text and "https://" not in text
    assert not {"script", "iframe", "object", "embed"} & set(parsed.tags)
    assert all(source.startswith(("data:", "#")) for source in parsed.sources)
    anchors = {source for source in parsed.sources if source.startswith("#")}
    assert anchors and all(f'id="{anchor[1:]}"' in text for anchor in anchors)
    for name in (EVIL, NAMES[3]):
        assert name in parsed.text
    assert parsed.text.count(EVIL) >= 6
    assert f"Why: {EVIL}" in parsed.text


def test_pictures_open(parsed, run):
    assert all(image["alt"] for image in parsed.images)
    charts = 1 + 2 * 3 + 2 * 2  # curves; thresholds and bars of three; similarity and ranks of two
    strips = sum(
        int((gallery["classes"] >= 0).sum()) + len(gallery["images"]) * (4 + 8)
        for gallery in (run[variant]["gallery.npz"] for variant in PAIRS)
    )
    assert len(parsed.images) == charts + strips
    for image in parsed.images:
        content = base64.b64decode(image["src"].partition("base64,")[2])
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            if "width" in image:
                assert picture.size == (int(image["width"]), int(image["height"]))


def test_figures_open(written):
    own = ("classes", "gallery_classes", "gallery_layers", "ranked", "similarity", "thresholds")
    names = {f"{variant}_{name}.png" for variant in PAIRS for name in own}
    names |= {f"{BASELINE}_classes.png", f"{BASELINE}_thresholds.png", "curves.png"}
    folder = written.parent / "figures"
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and image.size[0] > 300


def test_ablation_on_the_page_holds_the_results(parsed, run):
    rows = table_of(parsed, "method")
    assert [text.split()[0] for text in rows[0][1:4]] == list(VARIANTS)
    lines = {row[0]: row[1:] for row in rows[1:]}
    for column, variant in enumerate(VARIANTS):
        for row, title in (("cam", "CAM"), ("cluster-2+A+F", "S-2+A+F"), ("all+F", "All+F")):
            scores = run[variant]["evaluation.json"]["rows"].get(row)
            wanted = f"{100 * scores['pooled']['mean']:.2f}" if scores else "-"
            assert lines[title][column] == wanted
    assert lines["Rank-b+F"][:3] == ["-"] * 3  # not in this run
    assert lines["Rank-b+F"][3:6] == ["26.64", "26.16", "25.37"]
    assert "29.21" in parsed.text and "Table 3" in parsed.text


def test_pairs_are_listed_those_that_failed_first(parsed, run):
    pairs = run["plain"]["pairs.json"]["pairs"]
    rows = table_of(parsed, "classes")[1:]
    assert len(rows) == len(pairs)
    failed = sum(not pair["converged"] for pair in pairs)
    assert [bool(row[-1]) for row in rows] == [True] * failed + [False] * (len(pairs) - failed)
    found = {row[0]: row for row in rows}
    for pair in pairs:
        i, j = pair["classes"]
        assert found[f"{NAMES[i]} – {NAMES[j]}"][1:] == [
            str(pair["examples"]), f"{100 * pair['accuracy']:.2f}", str(pair["epochs"]),
            "" if pair["converged"] else "not reached",
        ]  # fmt: skip
    assert f"{failed} never reached" in parsed.text


def test_selections_and_lonely_classes_are_named(parsed, run):
    rows = table_of(parsed, "class")
    for index, row in enumerate(rows[1:]):
        chosen = run["plain"]["selections.json"]["rank-a"][index]
        assert row[0] == NAMES[index]
        assert row[rows[0].index("Rank-a")] == ", ".join(NAMES[i] for i in chosen)
    assert f"rows are empty: {NAMES[-1]}." in parsed.text


def test_a_paper_of_the_same_classes_stands_beside(tmp_path, undrawn):
    rng = np.random.default_rng(0)
    run = make_run(labels=list(voc.LABELS))
    run = {"only": run["plain"]}
    run["only"]["gallery.npz"] = make_gallery(rng, voc.LABELS, photos=0)
    write_run(tmp_path, run)
    parsed = Page(pairs_page.write_report(tmp_path, ["only"], title="x").read_text("utf-8"))
    tables = [table for table in parsed.tables if table[0][0][2].strip() == "compared with"]
    assert len(tables) == 2  # this run's and the paper's
    texts = [[text.strip() for _, _, text in row] for row in tables[1]]
    assert ["Grad-CAM", "19.40", "13.77"] in [row[:3] for row in texts]
    assert not list((tmp_path / "report" / "figures").glob("*gallery*"))


def test_a_run_of_baselines_alone_replaces_an_earlier_report(run, tmp_path, undrawn):
    write_run(tmp_path, run)
    figures = tmp_path / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / "gone_classes.png").write_bytes(b"")
    for name in ("similarity.npz", "selections.json", "pairs.json", "gallery.npz"):
        assert not (tmp_path / BASELINE / name).exists()
    pairs_page.write_report(tmp_path, [BASELINE], title="x")
    assert {path.name for path in figures.iterdir()} == {
        f"{BASELINE}_classes.png", f"{BASELINE}_thresholds.png", "curves.png",
    }  # fmt: skip
    assert "S-1+A+F" in pairs_page.text_tables(tmp_path, [BASELINE])


def test_a_run_without_a_scored_photo_has_a_page_of_holes(run, tmp_path, undrawn):
    run = copy.deepcopy(run)
    count = len(NAMES)
    nothing = {"per_label": [None] * count, "curve": [None] * 100} | dict.fromkeys(
        ("mean", "best", "best_threshold")
    )
    evaluation = run["plain"]["evaluation.json"]
    for row in evaluation["rows"]:
        evaluation["rows"][row] = {"pooled": nothing, "per_image": nothing}
    evaluation["table_1"] = {"last": None, "multi": None}
    write_run(tmp_path, run)
    parsed = Page(pairs_page.write_report(tmp_path, ["plain"], title="x").read_text("utf-8"))
    rows = table_of(parsed, "method")[1:]
    assert {row[1] for row in rows} == {"-"} and rows[-1][0] == "Top-2+A+F"
    assert "Mean IoU of plain" not in pairs_page.text_tables(tmp_path, ["plain"])


@pytest.mark.parametrize(
    "missing",
    ["config.json", "acol/all/network.json", "kur/all/history.json", "kur/evaluation.json",
     "plain/all/classification.json", "plain/similarity.npz", "kur/selections.json",
     "plain/pairs.json", "kur/gallery.npz"],
)  # fmt: skip
def test_a_missing_file_is_named(run, tmp_path, missing):
    write_run(tmp_path, run)
    (tmp_path / missing).unlink()
    for make in (
        lambda: pairs_page.write_report(tmp_path, VARIANTS, title="x"),
        lambda: pairs_page.text_tables(tmp_path, VARIANTS),
    ):
        with pytest.raises(ValueError, match=missing):
            make()
    assert not (tmp_path / "report").exists()


def test_no_variants():
    with pytest.raises(ValueError, match="variant"):
        pairs_page.write_report("nowhere", (), title="x")


def test_text_holds_the_tables(written, run):
    text = pairs_page.text_tables(written.parents[1], VARIANTS)
    lines = text.splitlines()
    for variant in VARIANTS:
        scores = run[variant]["evaluation.json"]["rows"]["cam"]["pooled"]
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{variant}: thresholds"))
        row = next(line for line in lines[start:] if line.startswith("CAM "))
        cells = [cell.rstrip("*") for cell in row.split()[1:4]]
        assert cells == [f"{100 * scores['mean']:.2f}", f"{scores['best_threshold']:.2f}",
                         f"{100 * scores['best']:.2f}"]  # fmt: skip
    assert sum(line.startswith("plain: Maps of the last layer") for line in lines) == 1
    assert any(line.startswith("Ours w/o fusion") and "27.25" in line for line in lines)
    assert text.count("Mean IoU of ") == len(VARIANTS)
