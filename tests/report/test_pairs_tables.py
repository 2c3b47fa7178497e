"""Tables of pair classifiers hold our numbers and the paper's, each in its place."""

from __future__ import annotations

import copy
import pathlib
import tomllib

import numpy as np
import pytest

from minmax_jax.data import voc
from minmax_jax.report import pairs_rows, tables
from minmax_jax.report import pairs_tables as pt
from minmax_jax.report.published import published

from .pairs_run import BASELINE, NAMES, PAIRS, make_evaluation, make_run
from .test_tables import marked_by_loop

# As the paper's Tables 2 and 4 name them.
PRINTED_ROWS = """Baseline; Random+F; Random+A+F; Rank-a+F; Rank-a+A+F; Rank-b+F; Rank-b+A+F; S-1+F;
S-1+A+F; S-2+F; S-2+A+F; S-3+F; S-3+A+F; S-4+F; S-4+A+F""".replace("\n", " ").split("; ")


@pytest.fixture(scope="module")
def evaluations():
    return {name: contents["evaluation.json"] for name, contents in make_run().items()}


def test_published_rows_stand_under_their_names():
    paper = published("representative_class_cam")
    for name in ("table_2", "table_4"):
        for line, printed, row in zip(
            paper[name]["rows"], PRINTED_ROWS, pairs_rows.ABLATION, strict=True
        ):
            method = line["method"].replace(" ", "").replace("[15]", "")
            assert method in (printed, printed.removesuffix("+F"))
            assert printed == ("Baseline" if row == "grad_cam" else pairs_rows.row_title(row))
    ablation = pt.published_ablation()
    assert list(ablation) == [
        "ResNet50", "ResNet101", "ResNet152", "VGG19", "ResNet18", "MobileNetV2",
    ]  # fmt: skip
    assert ablation["ResNet152"]["cluster-1+A+F"] == pytest.approx(0.3466)
    assert ablation["VGG19"]["rank-a+F"] == pytest.approx(0.3462)
    assert ablation["MobileNetV2"]["grad_cam"] == pytest.approx(0.2554)


def test_published_table_1_keeps_rows_and_columns_apart():
    """The oracle's row is the best class of each column, and the last cell of a row its mean."""
    table = pt.published_classes_table(voc.LABELS)
    rows = {name: values for (_, name), values in zip(table.rows, table.values, strict=True)}
    for column in range(20):
        single = [rows[name][column] for name in voc.LABELS]
        assert single[column] is None
        assert max(value for value in single if value is not None) == rows["Top1"][column]
    for name in ("Top1", "All", "Grad-CAM"):
        assert np.mean(rows[name][:20]) == pytest.approx(rows[name][20], abs=1.1e-4)
    assert [column.text for column in table.columns] == [*voc.LABELS, "average"]
    assert rows["chair"][voc.LABELS.index("person")] == 0.3087
    assert pt.published_classes_table(NAMES) is None


def test_published_numbers_of_the_first_paper():
    first = published("minmax_cam")["table_1"]["rows"][0]
    assert (first["metric"], first["model"], first["cam"]) == (
        "increase_in_confidence", "Eb6", 39.67,
    )  # fmt: skip
    with pytest.raises(ValueError, match="'units'.*minmax_cam, representative_class_cam"):
        published("units")


def test_published_file_is_shipped():
    """Beside the module and named by the package's patterns of data files."""
    root = pathlib.Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = root / "minmax_jax"
    found = {path for p in patterns["package-data"]["minmax_jax"] for path in folder.glob(p)}
    assert {folder / "report" / name for name in ("published.json", "pairs.html")} <= found


@pytest.mark.parametrize(
    ("row", "mode", "title"),
    [
        ("grad_cam", None, "Grad-CAM"),
        ("grad_cam+A", None, "Grad-CAM+A"),
        ("acol_cam", None, "ACoL"),
        ("random-6+F", "random-6", "Random-6+F"),
        ("rank-3,9+A+F", "rank-3,9", "Rank-3,9+A+F"),
        ("cluster-2+A+F", "cluster-2", "S-2+A+F"),
        ("all+F", "all", "All+F"),
        ("top-1+A+F", "top-1", "Top-1+A+F"),
    ],
)
def test_rows_are_read_as_written(row, mode, title):
    assert pairs_rows.mode_of(row) == mode
    assert pairs_rows.row_title(row) == title


@pytest.mark.parametrize("pooling", ["pooled", "per_image"])
def test_ablation_holds_ours_and_the_papers(evaluations, pooling):
    table = pt.ablation_table(evaluations, pooling)
    assert [column.text for column in table.columns[:3]] == [*PAIRS, BASELINE]
    assert all(column.text.startswith("paper: ") for column in table.columns[3:])
    titles = [title for (title,) in table.rows]
    assert len(set(titles)) == len(titles)
    assert [title for title in titles if title.replace("Baseline (Grad-CAM)", "Baseline") in
            PRINTED_ROWS] == ["Baseline (Grad-CAM)", *PRINTED_ROWS[1:]]  # fmt: skip
    seen = 0
    for column, evaluation in enumerate(evaluations.values()):
        for row, scores in evaluation["rows"].items():
            title = "Baseline (Grad-CAM)" if row == "grad_cam" else pairs_rows.row_title(row)
            assert table.values[titles.index(title)][column] == scores[pooling]["mean"]
            seen += 1
    ours = [value for line in table.values for value in line[:3] if value is not None]
    assert len(ours) == seen
    printed = (0.2866, 0.3288, 0.3348, 0.3337, 0.309, 0.23)
    assert table.values[titles.index("S-2+A+F")][3:] == pytest.approx(printed)
    for column in range(len(table.columns)):
        marked = {row for row, index in table.best if index == column}
        assert marked == marked_by_loop([line[column] for line in table.values], low=False)


def test_differences_are_marked_where_the_order_holds(evaluations):
    table = pt.differences_table(evaluations)
    assert [column.text for column in table.columns[:2]] == list(PAIRS)
    assert BASELINE not in [column.text for column in table.columns]
    below = {
        "multi-layer above last layer": lambda title: title.replace("+A+F", "+F"),
        "representative above random": lambda title: f"Random{title[title.index('+') :]}",
        "representative above baseline": lambda title: "Grad-CAM",
    }
    titles = {pairs_rows.row_title(row): row for row in evaluations["plain"]["rows"]}
    checked = 0
    for index, ((claim, title), line) in enumerate(zip(table.rows, table.values, strict=True)):
        assert not title.startswith("Top")
        if title not in titles:
            assert line[:2] == (None, None)
            continue
        for column, variant in enumerate(PAIRS):
            rows = evaluations[variant]["rows"]
            first = rows[titles[title]]["pooled"]["mean"]
            second = rows[titles[below[claim](title)]]["pooled"]["mean"]
            assert line[column] == pytest.approx(first - second)
            assert ((index, column) in table.best) == (round(100 * (first - second), 2) > 0)
            checked += 1
    # Multi-layer: random, rank-a, cluster-1, cluster-2, all; twice 2 kinds of 3 selections.
    assert checked == 2 * (5 + 2 * 6)
    # The paper's MobileNetV2 is worse with multi-layer maps, in every selection.
    last = [line[-1] for (claim, _), line in zip(table.rows, table.values, strict=True)
            if claim.startswith("multi") and line[-1] is not None]  # fmt: skip
    assert len(last) == 7 and max(last) < 0


def test_thresholds_table(evaluations):
    evaluation = evaluations["plain"]
    table = pt.thresholds_table(evaluation, title="plain")
    titles = [title for (title,) in table.rows]
    assert sorted(titles) == sorted(map(pairs_rows.row_title, evaluation["rows"]))
    for row, scores in evaluation["rows"].items():
        line = table.values[titles.index(pairs_rows.row_title(row))]
        fields = ("mean", "best_threshold", "best")
        assert line == tuple(scores[p][f] for p in ("pooled", "per_image") for f in fields)
        curve = scores["pooled"]["curve"]
        assert line[2] == max(curve) and line[0] == curve[15]
    assert tables.format_value(table.values[0][1], table.columns[1].unit) == (
        f"{table.values[0][1]:.2f}"
    )
    assert {column for _, column in table.best} == {0, 2, 3, 5}


def test_classes_table(evaluations):
    evaluation = copy.deepcopy(evaluations["plain"])
    evaluation["rows"]["top-10+F"] = evaluation["rows"]["top-1+F"]
    table = pt.classes_table(evaluation, "last")
    assert [name for _, name in table.rows] == [
        *NAMES, "Top-1+F", "Top-2+F", "Top-10+F", "All+F", "Grad-CAM",
    ]  # fmt: skip
    count = len(NAMES)
    for line, single in zip(table.values, evaluation["table_1"]["last"], strict=False):
        assert line == (*single, None)
    scores = evaluation["rows"]["top-2+F"]["pooled"]
    assert table.values[count + 1] == (*scores["per_label"], scores["mean"])
    for column in range(count + 1):
        own = [line[column] for line in table.values]
        first = marked_by_loop(own[:count], low=False)
        second = {count + row for row in marked_by_loop(own[count:], low=False)}
        assert {row for row, index in table.best if index == column} == first | second


def test_no_single_pair_no_classes_table(evaluations):
    assert pt.classes_table(evaluations["plain"], "multi") is None
    assert pt.classes_table(evaluations[BASELINE], "last") is None
    nothing = {"last": [[None] * 6] * 6, "multi": None}
    assert pt.classes_table(evaluations["plain"] | {"table_1": nothing}, "last") is None


def test_methods_take_the_best_variant_that_fits():
    rng = np.random.default_rng(0)

    def evaluation(scores):
        result = make_evaluation(rng, NAMES, scores)
        for row, score in scores.items():
            result["rows"][row]["pooled"]["mean"] = score
        return result

    evaluations = {
        "a": evaluation({"cam": 0.3, "grad_cam": 0.2, "cluster-1+A+F": 0.25}),
        "b": evaluation({"cam": 0.1, "grad_cam": 0.22, "cluster-1+A+F": None}),
        "c": evaluation({"cam": 0.9, "grad_cam": 0.8}),
    }
    networks = {
        "a": {"name": "vgg19"},
        "b": {"name": "resnet18", "attention": ""},
        "c": {"name": "resnet50", "attention": "cbam"},
    }
    table = pt.methods_table(evaluations, networks)
    ours = {row[0]: (row[2], line[3]) for row, line in zip(table.rows, table.values, strict=True)}
    assert ours == {
        "CAM": ("a (vgg19)", 0.3),
        "Grad-CAM": ("b (resnet18)", 0.22),
        "ACoL": ("-", None),
        "CBAM": ("c (resnet50)", 0.8),
        "Ours w/o fusion": ("-", None),
        "Ours": ("a (vgg19)", 0.25),
    }
    assert table.values[5][:3] == pytest.approx((0.3343, 0.3443, 0.1541))
    assert table.rows[2][:2] == ("ACoL", "VGG19")


def test_headline_says_the_numbers():
    rng = np.random.default_rng(1)
    means = {
        "grad_cam": 0.25, "random+F": 0.2, "random+A+F": 0.3, "rank-a+F": 0.22,
        "cluster-1+F": 0.27, "cluster-1+A+F": 0.31, "all+F": 0.9, "top-1+F": 0.95,
        "rank-a+A+F": None,
    }  # fmt: skip
    evaluation = make_evaluation(rng, NAMES, means)
    for row, mean in means.items():
        evaluation["rows"][row]["pooled"]["mean"] = mean
    first, second = pt.headline("mine", evaluation)
    for text in ("mine at 0.15", "25.00 (Grad-CAM)", "20.00 (Random+F), 30.00 (Random+A+F)",
                 "at best 27.00 (S-1+F)", "at best 31.00 (S-1+A+F)"):  # fmt: skip
        assert text in first
    for text in ("multi-layer above last layer in 2 of 2", "above random in 3 of 3",
                 "above baseline in 2 of 3"):  # fmt: skip
        assert text in second


def test_headline_of_a_baseline(evaluations):
    (sentence,) = pt.headline(BASELINE, evaluations[BASELINE])
    scores = evaluations[BASELINE]["rows"]
    for row, title in (("cam", "CAM"), ("acol_cam", "ACoL")):
        assert f"{100 * scores[row]['pooled']['mean']:.2f} ({title})" in sentence
