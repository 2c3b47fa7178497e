"""Tables hold the files' numbers, mark the right cells and line up on a terminal."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minmax_jax.methods import METHODS as METHODS_BY_NAME
from minmax_jax.metrics import faithfulness, localization, masking
from minmax_jax.report import names, tables

from .conftest import LABELS, METHODS, METRICS, make_classification, make_evaluation

LOW = {"average_drop", "average_retention_of_others", "f1_minus"}


def marked_by_loop(values, low):
    """Indices of the best values by the digits that a reader sees, one comparison at a time."""
    printed = [None if value is None else float(f"{100 * value:.2f}") for value in values]
    if sum(value is not None for value in printed) < 2:
        return set()
    best = None
    for value in printed:
        if value is None:
            continue
        if best is None or (value < best if low else value > best):
            best = value
    return {index for index, value in enumerate(printed) if value is not None and value == best}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_methods_table_holds_and_marks_the_values(seed, average):
    evaluation = make_evaluation(np.random.default_rng(seed))
    table = tables.methods_table(evaluation, average, title="plain")
    assert [row[0] for row in table.rows] == [
        "CAM", "Grad-CAM", "Score-CAM", "MinMax-CAM", "D-MinMax-CAM",
    ]  # fmt: skip
    for column, metric in enumerate(METRICS):
        values = [evaluation["methods"][method][average][metric] for method in METHODS]
        assert [line[column] for line in table.values] == values
        marked = {row for row, index in table.best if index == column}
        assert marked == marked_by_loop(values, metric in LOW)
        assert table.columns[column].heading.endswith("↓" if metric in LOW else "↑")
    for line, method in zip(table.values, METHODS, strict=True):
        result = evaluation["methods"][method]
        assert line[-2:] == (sum(result["pairs"]), result["seconds"])
    assert not any(column >= len(METRICS) for _, column in table.best)


@pytest.mark.parametrize("seed", range(5))
def test_comparison_marks_the_best_method_of_each_metric_and_variant(seed):
    rng = np.random.default_rng(seed)
    evaluations = {"plain": make_evaluation(rng), "kur": make_evaluation(rng, METHODS[:3])}
    table = tables.comparison_table(evaluations)
    assert len(table.rows) == 2 * len(METRICS)
    for row, (heading, variant) in enumerate(table.rows):
        metric = METRICS[row // 2]
        assert heading == names.METRICS[metric].heading
        methods = evaluations[variant]["methods"]
        values = [methods[m]["macro"][metric] if m in methods else None for m in METHODS]
        assert list(table.values[row]) == values
        assert {index for r, index in table.best if r == row} == marked_by_loop(
            values, metric in LOW
        )


def test_methods_and_metrics_have_titles():
    # Those of the package in their order; a method without a title goes by its name.
    titled = [name for name in METHODS_BY_NAME if name in names.METHOD_TITLES]
    assert list(names.METHOD_TITLES) == titled
    in_families = [name for own in names.FAMILIES.values() for name in own]
    assert sorted(in_families) == sorted(names.METHOD_TITLES)
    assert len(set(names.METHOD_TITLES.values())) == len(names.METHOD_TITLES)
    metrics = (*masking.METRICS, *masking.F1, *localization.METRICS, *faithfulness.METRICS)
    assert set(metrics) == set(names.METRICS)


MANY = ("mine", *names.METHOD_TITLES)[: names.MANY + 2]


def test_many_methods_stand_family_by_family():
    rng = np.random.default_rng(0)
    evaluations = {variant: make_evaluation(rng, MANY[::-1]) for variant in ("plain", "kur")}
    table = tables.methods_table(evaluations["plain"], "macro", title="x")
    assert table.corner == ("family", "method")
    families = [row[0] for row in table.rows]
    assert list(dict.fromkeys(families)) == sorted(
        set(families), key=[*names.FAMILIES, names.OTHER_FAMILY].index
    )
    assert (
        sum(a != b for a, b in zip(families, families[1:], strict=False)) == len(set(families)) - 1
    )
    titles = {names.method_title(method): method for method in MANY}
    assert sorted(row[1] for row in table.rows) == sorted(titles)
    for row, line in zip(table.rows, table.values, strict=True):
        method = titles[row[1]]
        assert method == "mine" or method in names.FAMILIES[row[0]]
        macro = evaluations["plain"]["methods"][method]["macro"]
        assert list(line[: len(METRICS)]) == [macro[metric] for metric in METRICS]

    comparison = tables.comparison_table(evaluations)
    assert comparison.rows == table.rows
    shown = [metric for metric in names.HEADLINE if metric in METRICS]
    assert len(comparison.columns) == 2 * len(shown)
    for row, line in zip(comparison.rows, comparison.values, strict=True):
        wanted = [
            evaluation["methods"][titles[row[1]]]["macro"][metric]
            for metric in shown
            for evaluation in evaluations.values()
        ]
        assert list(line) == wanted
    assert max(map(len, tables.render_text(comparison).splitlines())) < 200


@pytest.mark.parametrize("seed", range(3))
def test_places_within_columns(seed):
    evaluation = make_evaluation(np.random.default_rng(seed))
    evaluation["methods"]["grad_cam"]["macro"]["iou"] = 0.300001  # these two print alike
    evaluation["methods"]["cam"]["macro"]["iou"] = 0.3
    table = tables.methods_table(evaluation, "macro", title="x")
    found = tables.places(table)
    for column, metric in enumerate([*METRICS, "pairs", "seconds"]):
        line = [row[column] for row in table.values]
        known = [f"{100 * value:.2f}" for value in line if value is not None]
        for value, row in zip(line, found, strict=True):
            if value is None or metric not in METRICS or len(set(known)) < 2:
                assert row[column] is None
                continue
            order = sorted(known, key=float, reverse=metric in LOW)
            own = [place for place, other in enumerate(order) if other == f"{100 * value:.2f}"]
            assert row[column] == pytest.approx(np.mean(own) / (len(known) - 1))


def test_rows_that_are_alike():
    evaluation = make_evaluation(np.random.default_rng(0))
    methods = evaluation["methods"]
    for method, change in (("grad_cam", 1e-5), ("score_cam", 1e-3)):
        methods[method]["macro"] = {
            metric: None if value is None else value + change
            for metric, value in methods["cam"]["macro"].items()
        }
    methods["d_minmax_cam"]["macro"] = methods["minmax_cam"]["macro"] | {"iou": None}
    methods["minmax_cam"]["macro"]["iou"] = 0.5
    table = tables.methods_table(evaluation, "macro", title="x")
    assert tables.alike(table) == [[0, 1]]


def test_values_that_print_alike_share_the_mark():
    # CAM and Grad-CAM are equal but for rounding in float32.
    values = [0.43000001, 0.42999999, None, 0.4298, 0.40]
    assert tables.best_of(values, "high") == {0, 1}
    assert tables.best_of([0.2, 0.1, 0.1, None], "low") == {1, 2}


def test_nothing_is_marked_where_nothing_competes():
    assert tables.best_of([0.5], "high") == set()
    assert tables.best_of([None, 0.5, None], "low") == set()
    assert tables.best_of([None, None], "low") == set()
    assert tables.best_of([0.1, 0.2], None) == set()


def test_unknown_names_come_last_and_have_no_direction():
    evaluation = make_evaluation(
        np.random.default_rng(0), ("mine", "cam"), ("my_metric", "f1_plus", "average_drop")
    )
    table = tables.methods_table(evaluation, "macro", title="x")
    assert [row[0] for row in table.rows] == ["CAM", "mine"]
    headings = [column.heading for column in table.columns]
    assert headings == ["AD ↓", "F1+ ↑", "my_metric", "pairs", "seconds"]
    assert 2 not in {column for _, column in table.best}


def test_classification_tables():
    rng = np.random.default_rng(3)
    results = {"plain": make_classification(rng), "kur": make_classification(rng)}
    table = tables.classification_table(results)
    for row, result in zip(table.values, results.values(), strict=True):
        f1, f2 = result["f1"], result["f2"]
        assert row == (
            f1["macro"], f1["micro"], f1["weighted"],
            f2["macro"], f2["micro"], f2["weighted"], result["map"]["macro"],
        )  # fmt: skip
    for column in range(7):
        marked = {row for row, index in table.best if index == column}
        assert marked == marked_by_loop([line[column] for line in table.values], low=False)

    table = tables.label_classification_table(results)
    assert table.rows == tuple((label,) for label in LABELS)
    assert [column.text for column in table.columns] == [
        "F1 plain", "F1 kur", "F2 plain", "F2 kur", "AP plain", "AP kur",
    ]  # fmt: skip
    for row in range(len(LABELS)):
        for start, score in ((0, "f1"), (2, "f2"), (4, "map")):
            values = [result[score]["per_label"][row] for result in results.values()]
            assert list(table.values[row][start : start + 2]) == values
            marked = {column - start for r, column in table.best if r == row} & {0, 1}
            assert marked == marked_by_loop(values, low=False)


def test_label_table_counts_the_pairs_that_the_metric_saw():
    evaluation = make_evaluation(np.random.default_rng(1))
    for result in evaluation["methods"].values():
        result["localized_pairs"] = [1, 2, 3, 4]
    of_energy = tables.label_methods_table(evaluation, "energy_on_object")
    assert [line[0] for line in of_energy.values] == [1, 2, 3, 4]
    of_drop = tables.label_methods_table(evaluation, "average_drop")
    assert [line[0] for line in of_drop.values] == evaluation["methods"]["cam"]["pairs"]
    for row in range(len(LABELS)):
        values = [evaluation["methods"][m]["per_label"]["average_drop"][row] for m in METHODS]
        assert list(of_drop.values[row][1:]) == values
        assert {column - 1 for r, column in of_drop.best if r == row} == marked_by_loop(
            values, low=True
        )


def test_winners_name_all_who_reach_the_best_value():
    evaluation = make_evaluation(np.random.default_rng(1), ("cam", "grad_cam", "minmax_cam"))
    drops = {"cam": 0.5, "grad_cam": 0.5000001, "minmax_cam": 0.2}
    for method, value in drops.items():
        evaluation["methods"][method]["macro"] = {"f1_plus": value, "f1_minus": None}
    (winner,) = tables.winners(evaluation, ("f1_minus", "f1_plus", "iou"))
    assert winner == (names.METRICS["f1_plus"], 0.5, ["CAM", "Grad-CAM"])
    evaluation["methods"] = {"cam": evaluation["methods"]["cam"]}
    ((_, value, titles),) = tables.winners(evaluation, ("f1_plus",))
    assert (value, titles) == (0.5, ["CAM"])


@pytest.mark.parametrize("seed", range(4))
def test_text_lines_up(seed):
    rng = np.random.default_rng(seed)
    evaluations = {"plain": make_evaluation(rng), "a longer name": make_evaluation(rng)}
    classifications = {variant: make_classification(rng) for variant in evaluations}
    for table in tables.summary_tables(classifications, evaluations):
        title, rule, *lines = tables.render_text(table).splitlines()
        assert title.startswith(table.title)
        rules = [index for index, line in enumerate(lines) if line == rule]
        body = lines[rules[0] + 1 : rules[1]]
        assert len(body) == len(table.rows)
        assert max(map(len, lines)) == len(rule)
        # Every number's decimal point stands in one of as many places as there are columns.
        fractions = [i for i, column in enumerate(table.columns) if column.unit != "count"]
        points = {match.start() for line in body for match in re.finditer(r"\.(?=\d\d)", line)}
        assert len(points) == len(fractions)
        assert sum(line.count("*") for line in body) == len(table.best)
        for line, values in zip(body, table.values, strict=True):
            cells = line.split()[-len(values) :]
            for cell, value, column in zip(cells, values, table.columns, strict=True):
                if value is None:
                    assert cell == "-"
                else:
                    scale = 100 if column.unit == "percent" else 1
                    assert float(cell.rstrip("*")) == pytest.approx(scale * value, abs=0.005001)


def test_text_prints_group_names_once():
    evaluations = {v: make_evaluation(np.random.default_rng(0)) for v in ("plain", "kur")}
    text = tables.render_text(tables.comparison_table(evaluations))
    for metric in map(names.metric, METRICS):
        lines = [line for line in text.splitlines() if line.startswith(metric.heading)]
        assert len(lines) == 1
        assert lines[0].split()[2] == "plain"


def test_summary_of_one_variant_compares_nothing():
    rng = np.random.default_rng(0)
    result = tables.summary_tables({"a": make_classification(rng)}, {"a": make_evaluation(rng)})
    assert [table.title for table in result] == ["Classification", "a: methods (macro)"]
    assert result[0].best == frozenset()
