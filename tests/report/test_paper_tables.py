"""The paper's tables beside ours: each number in its place, the best and the doubtful marked."""

from __future__ import annotations

import json
import re
import statistics

import numpy as np
import pytest

from minmax_jax.recipe import METHODS, paper_config
from minmax_jax.report import paper_formats
from minmax_jax.report.paper_cells import Cell, f1_ratios, find_slips
from minmax_jax.report.paper_tables import compare_with_paper
from minmax_jax.report.published import published

from .paper_run import METRICS, SLIPS, cells_of, make_scores, plain_config, write_workdir

# Typed from the paper.
PRINTED = {
    ("table_1", "increase_in_confidence", "Eb6"): (39.67, 25.13, 30.50, 34.23, 39.49),
    ("table_1", "average_drop", "VGG16"): (39.34, 29.22, 19.27, 46.78, 50.34),
    ("table_1", "f1_minus", "RN101"): (4.05, 5.62, 2.20, 2.38, 2.21),
    ("table_2", "average_drop_of_others", "COCO"): (51.49, 20.59, 24.45, 68.04, 71.90),
    ("table_2", "f1_plus", "P:AfS"): (39.54, 35.11, 35.41, 41.00, 37.01),
    ("table_3", "average_retention", "VOC12"): (18.66, 18.37, 17.72, 17.10, 16.99),
    ("table_3", "f1_minus", "COCO"): (10.08, 10.38, 11.15, 7.33, 7.33),
    ("table_4", "f2", "P:AfS Val"): (87.80, 88.24),
    ("table_4", "f1", "VOC 2007 Test"): (84.26, 85.85),
    ("table_4", "f1", "COCO 2017 Val"): (75.64, 74.23),
}
# The best of these lines, by eye.
PRINTED_BEST = (("cam",), ("score_cam",), ("score_cam",), ("d_minmax_cam",), ("minmax_cam",),
                ("cam",), ("minmax_cam", "d_minmax_cam"), ("regularized",), ("regularized",),
                ("baseline",))  # fmt: skip
LOW = ("average_drop", "average_retention_of_others", "f1_minus")
# Which variant of which data set each row is of.
WHERE = {
    "table_1": {"Eb6": "efficientnet_b6", "RN101": "resnet101", "VGG16": "vgg16"},
    "table_2": {"P:AfS": "planet", "COCO": "coco17", "VOC07": "voc07", "VOC12": "voc12"},
    "table_4": {"P:AfS Val": "planet", "COCO 2017 Val": "coco17", "VOC 2012 Val": "voc12"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Scores by data set and variant, and the workdirs; nothing of COCO, one of VOC 2012."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("runs")
    scores, workdirs = {}, []
    for data_set in ("voc07", "voc12", "planet"):
        config = paper_config(data_set)
        names = [name for name in config.variants if (data_set, name) != ("voc12", "resnet101-kur")]
        scores[data_set] = {name: make_scores(rng) for name in names}
        workdirs.append(write_workdir(root / data_set, config, scores[data_set]))
    return scores, workdirs


@pytest.fixture(scope="module")
def tables(made):
    return {table.name: table for table in compare_with_paper(made[1])}


def expected(scores, table, metric, row, column):
    """Ours, looked up in what was written."""
    kur = "-kur" if table == "table_3" or column == "regularized" else ""
    if table == "table_1":
        data_set, variant = "voc07", WHERE[table][row]
    else:
        places = WHERE["table_4" if table == "table_4" else "table_2"]
        data_set, variant = places.get(row), f"resnet101{kur}"
    if variant not in scores.get(data_set, {}):
        return None
    evaluation, classification = scores[data_set][variant]
    if table == "table_4":
        return classification[metric]["weighted"]
    return evaluation["methods"][column]["macro"][metric]


def test_layout_is_the_papers(tables):
    assert list(tables) == ["table_1", "table_2", "table_3", "table_4"]
    assert {name: len(table.rows) for name, table in tables.items()} == {
        "table_1": 7 * 3, "table_2": 7 * 4, "table_3": 7 * 4, "table_4": 6,
    }  # fmt: skip
    for name in ("table_1", "table_2", "table_3"):
        assert tables[name].columns == METHODS
        assert list(dict.fromkeys(metric for metric, _ in tables[name].rows)) == list(METRICS)
    assert tables["table_4"].headings == ("Baseline", "Reg.")
    assert tables["table_1"].row_names(3) == ("AD ↓", "Eb6")


def test_printed_numbers_and_their_best(tables):
    for (name, *row), best in zip(PRINTED, PRINTED_BEST, strict=True):
        line = tables[name].cells[tables[name].rows.index(tuple(row))]
        assert tuple(cell.published for cell in line) == PRINTED[name, *row]
        marked = [
            c for c, cell in zip(tables[name].columns, line, strict=True) if cell.best_published
        ]
        assert marked == list(best)


def test_ours_stand_beside_them(made, tables):
    filled = 0
    for name, table in tables.items():
        for key, cell in cells_of(table):
            wanted = expected(made[0], name, *key)
            if wanted is None:
                assert cell.ours is None and cell.difference is None and not cell.best_ours
                continue
            filled += 1
            assert cell.ours == pytest.approx(100 * wanted, abs=0.00501)
            assert cell.difference == pytest.approx(cell.ours - cell.published)
    assert filled == 5 * (21 + 3 * 7 + 2 * 7) + 3


@pytest.mark.parametrize(
    ("ours", "shown"), [(2.2, "+0.00"), (0.1, "-2.10"), (50.0, "+47.80"), (None, "")]
)
def test_difference_is_that_of_what_is_printed(ours, shown):
    assert paper_formats.signed(Cell(2.2, ours).difference) == shown


def test_best_of_ours(tables):
    for table in tables.values():
        for (metric, _), line in zip(table.rows, table.cells, strict=True):
            values = [cell.ours for cell in line]
            if None in values:
                continue
            best = (min if metric in LOW else max)(values)
            assert [cell.best_ours for cell in line] == [value == best for value in values]


def test_runs_are_told_by_config_alone(tmp_path):
    """A wrong folder's name, prepared data and the notebooks' settings change no row."""
    rng = np.random.default_rng(1)
    config = paper_config("voc07", "vgg16-official-tfds").to_dict()
    config["variants"] = {"resnet101-kur": {}}
    scores = make_scores(rng)
    tables = compare_with_paper(
        [write_workdir(tmp_path / "coco17", config, {"resnet101-kur": scores})]
    )
    filled = {
        (t.name, key[1]) for t in tables for key, cell in cells_of(t) if cell.ours is not None
    }
    assert filled == {("table_1", "VGG16")}
    (run,) = tables[0].runs
    said = " ".join(run.differences)
    for text in ("data.resize is letterbox, not crop", "augment.contrast is true, not false",
                 "network.dropout is 0.5, not 0.0"):  # fmt: skip
        assert text in said
    assert "source" not in said and "weights" not in said


def test_settings_of_the_text_need_no_word(tables):
    for table in tables.values():
        assert table.runs and all(run.differences == () for run in table.runs)


def test_methods_that_a_run_lacks_stay_empty(tmp_path):
    """The gradient form of a method is another method."""
    evaluation, classification = make_scores(
        np.random.default_rng(2), ("cam", "minmax_grad_cam", "d_minmax_cam")
    )
    evaluation["methods"]["cam"]["macro"]["average_drop"] = None
    workdir = write_workdir(
        tmp_path / "run", plain_config(), {"resnet101": (evaluation, classification)}
    )
    table = compare_with_paper([workdir])[0]
    found = {key: cell for key, cell in cells_of(table) if key[1] == "RN101"}
    with_run = {key[2] for key, cell in found.items() if cell.ours is not None}
    assert with_run == {"cam", "d_minmax_cam"}
    assert found["average_drop", "RN101", "cam"].ours is None
    # One alone competes with none.
    assert not any(cell.best_ours for key, cell in found.items() if key[0] == "average_drop")
    assert "13 of 105 cells have a run." in table.summary()
    assert "best" not in table.summary()


@pytest.mark.parametrize(
    ("data_set", "options"), [("voc12", {"image_set": "val"}), ("coco17", {"masks": True})]
)
def test_other_ways_to_the_same_images(tmp_path, data_set, options):
    config = plain_config(data_set, data={"validation": options}, evaluate={"curve_steps": 20})
    scores = {"resnet101": make_scores(np.random.default_rng(3))}
    table = compare_with_paper([write_workdir(tmp_path / "run", config, scores)])[1]
    row = {"voc12": "VOC12", "coco17": "COCO"}[data_set]
    assert {key[1] for key, cell in cells_of(table) if cell.ours is not None} == {row}
    assert table.runs[0].differences == ()


@pytest.mark.parametrize(
    ("data_set", "variant", "changes", "reason"),
    [
        ("voc07", "vgg16-kur", {}, "no row of vgg16 with head 'kur' on voc07"),
        ("voc07", "resnet101", {"data": {"source": "scenes"}}, "'scenes' data are not"),
        ("voc07", "resnet101", {"data": {"validation": {"image_set": "test"}}}, "'voc' data are"),
        ("voc12", "resnet101", {"data": {"options": {"year": "2012", "masks": "X"}}}, "'voc' data"),
        ("coco17", "resnet101-tfds", {"data": {"options": {"name": "coco/2014"}}}, "'tfds' data"),
        ("planet", "resnet101", {"network": {"name": "mobilenet_v2"}}, "network 'mobilenet_v2'"),
        ("planet", "resnet101", {"network": {"head": "acol"}}, "head 'acol'.*dense, kur"),
        ("planet", "resnet101", {"network": {"regularized": ["conv"]}}, "the head alone"),
        ("planet", "resnet101", {"network": {"attention": "cbam"}}, "have no attention"),
        ("planet", "resnet101", {"data": {"permute_labels": True}}, "on permuted labels"),
    ],
)
def test_runs_without_a_row_are_left_out(tmp_path, data_set, variant, changes, reason):
    scores = {variant: make_scores(np.random.default_rng(3))}
    workdir = write_workdir(tmp_path / "run", plain_config(data_set, variant, **changes), scores)
    for table in compare_with_paper([workdir]):
        assert all(cell.ours is None for _, cell in cells_of(table)) and not table.runs
        (entry,) = table.left_out
        assert entry.startswith(f"{workdir / variant}: ") and re.search(reason, entry)


def test_unfinished_variants_are_left_out(made, tables):
    workdir = made[1][1]
    assert f"{workdir / 'resnet101-kur'}: not finished" in tables["table_3"].left_out
    assert [run.folder for run in tables["table_1"].runs] == [
        str(made[1][0] / name) for name in ("efficientnet_b6", "resnet101", "vgg16")
    ]


def test_two_runs_of_one_row(tmp_path):
    scores = {"resnet101": make_scores(np.random.default_rng(4))}
    first = write_workdir(tmp_path / "first", plain_config(), scores)
    config = plain_config(data={"resize": "letterbox"})
    second = write_workdir(tmp_path / "second", config, scores)
    with pytest.raises(ValueError, match=rf"two runs .*{first}/resnet101 and {second}/resnet101"):
        compare_with_paper([first, second])
    # The same folder twice is one run.
    again = tmp_path / "second" / ".." / "first"
    assert compare_with_paper([first, again]) == compare_with_paper([first])


def test_one_variant_of_several_of_one_row(tmp_path):
    rng = np.random.default_rng(4)
    config = plain_config()
    config["variants"] = {"seed0": {}, "seed1": {"seed": 1}}
    scores = {name: make_scores(rng) for name in config["variants"]}
    workdir = write_workdir(tmp_path / "seeds", config, scores)
    with pytest.raises(ValueError, match=rf"{workdir}/seed0 and {workdir}/seed1: name only one"):
        compare_with_paper([workdir])
    again = workdir / ".." / "seeds" / "seed1"
    table = compare_with_paper([workdir / "seed1", again])[0]
    assert [run.folder for run in table.runs] == [str(workdir / "seed1")] and not table.left_out
    cells = {key: cell.ours for key, cell in cells_of(table)}
    macro = scores["seed1"][0]["methods"]["cam"]["macro"]
    assert cells["f1_plus", "RN101", "cam"] == pytest.approx(100 * macro["f1_plus"], abs=0.00501)
    with pytest.raises(ValueError, match=f"{workdir}/report holds no finished run"):
        compare_with_paper([workdir / "report"])


def test_errors_name_the_culprit(tmp_path):
    with pytest.raises(ValueError, match="no workdirs"):
        compare_with_paper([])
    with pytest.raises(ValueError, match=f"{tmp_path} holds no finished run"):
        compare_with_paper([tmp_path])
    evaluation, classification = make_scores(np.random.default_rng(5))
    scores = {"resnet101": (evaluation, {"f1": classification["f1"]})}
    workdir = write_workdir(tmp_path / "run", plain_config(), scores)
    with pytest.raises(ValueError, match=rf"{workdir}/resnet101: .* has no entry 'f2'"):
        compare_with_paper([workdir])
    (workdir / "resnet101" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{workdir}/resnet101/evaluation.json is no JSON"):
        compare_with_paper([workdir])


def test_slips_are_found_by_their_numbers(tables):
    paper = published("minmax_cam")
    found = {
        (name, metric, row)
        for name in tables
        for metric, row, method in find_slips(paper[name]["rows"])
        if method == "score_cam"
    }
    assert found == SLIPS
    assert sum(len(find_slips(paper[name]["rows"])) for name in tables) == len(SLIPS)
    marked = {
        (name, key[0], key[1])
        for name, table in tables.items()
        for key, cell in cells_of(table)
        if cell.slip
    }
    assert marked == SLIPS


def test_ratio_is_that_to_the_harmonic_mean():
    ratios = f1_ratios(published("minmax_cam")["table_1"]["rows"])
    assert len(ratios) == 2 * 3 * 5
    assert ratios["f1_minus", "RN101", "score_cam"] == pytest.approx(
        2.20 / (2 * 10.79 * 3.43 / (10.79 + 3.43))
    )
    assert ratios["f1_plus", "VGG16", "cam"] == pytest.approx(
        31.70 / (2 * 40.38 * 29.61 / (40.38 + 29.61))
    )


def test_any_halved_cell_is_a_slip():
    rows = json.loads(json.dumps(published("minmax_cam")["table_3"]["rows"]))
    before = set(find_slips(rows))
    for row in rows:
        if row["metric"] == "f1_plus" and row["dataset"] == "COCO":
            row["cam"] /= 2
            row["minmax_cam"] = None
    assert set(find_slips(rows)) - before == {("f1_plus", "COCO", "cam")}


def test_notes_on_slips(tables):
    """Doubled, only F1- of ResNet101 loses a first place."""
    notes = [note for note in tables["table_1"].notes if "Doubled" in note]
    assert len(tables["table_1"].notes) == 4 and len(notes) == 1
    assert notes[0].startswith("† F1- of Score-CAM, RN101: the printed 2.20 is 0.42 of")
    assert "AD and ARO" in notes[0] and "(4.40)" in notes[0] and "0.86 to 0.98" in notes[0]
    assert [note for note in tables["table_3"].notes if "Doubled" in note] == []
    assert "Priv. Test, P:AfS Public Test, VOC 2007 Test" in tables["table_4"].notes[0]


def test_summary_counts(tables):
    lines = tables["table_2"].cells
    apart = [abs(c.difference) for line in lines for c in line if c.ours is not None and not c.slip]
    whole = [line for line in lines if all(c.ours is not None and not c.slip for c in line)]
    same = [
        line for line in whole if [c.best_ours for c in line] == [c.best_published for c in line]
    ]
    assert len(apart) == 3 * 7 * 5 - 2 and len(whole) == 3 * 7 - 2
    assert tables["table_2"].summary() == (
        f"105 of 140 cells have a run. Median distance from print: {statistics.median(apart):.2f} "
        f"points. The same column is best in {len(same)} of {len(whole)} whole rows."
    )
