"""The benchmark of pairs runs, and its figures follow from times that are known."""

from __future__ import annotations

import json

import pytest

from benchmarks import harness, pair_maps, pairs
from tests.pairs.tiny import SIZE, tiny


def test_figures(tmp_path, monkeypatch):
    """Two pairs of networks take 1 s one after the other and 4 s together; three heads 0.5 s."""

    def seconds(functions, *, repeats):
        del repeats
        for function in functions.values():
            function()
        return dict(zip(functions, (1.0, 4.0, 0.5), strict=True))

    monkeypatch.setattr(harness, "seconds", seconds)
    monkeypatch.setattr(
        harness, "create_network", lambda name, *, num_labels: tiny(num_labels=num_labels)
    )
    path = tmp_path / "rows.json"
    arguments = "--pairs 2 --side-by-side 1 --classes 3 --images 13 --epochs 2 --json"
    pairs.main([*arguments.split(), str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert {row["what"].split(",")[0] for row in rows} == {f"tiny at {SIZE} px"}
    assert all(", 4 steps," in row["what"] for row in rows)
    assert [(row["unit"], row["value"], row["met"]) for row in rows] == [
        ("s", 0.5, None),
        ("s", 2.0, None),
        ("times faster than alone", 0.25, None),
        ("pairs/minute", pytest.approx(360), False),
        ("times faster than alone", pytest.approx(3), None),
    ]


def test_maps_in_forward_passes(tmp_path, monkeypatch):
    def seconds(functions, *, repeats):
        del repeats
        for function in functions.values():
            function()
        return dict(zip(functions, (2.0, 2.2, 6.0, 8.0, 20.0), strict=True))

    monkeypatch.setattr(harness, "seconds", seconds)
    monkeypatch.setattr(
        harness, "create_network", lambda name, *, num_labels: tiny(num_labels=num_labels)
    )
    path = tmp_path / "rows.json"
    pair_maps.main(["--networks", "tiny", "--pairs", "2", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["value"], row["goal"], row["met"]) for row in rows] == [
        (1.1, 1.2, True),
        (3.0, None, None),
        (4.0, None, None),
        (10.0, 4.4, False),
    ]
    assert all("tiny, 2 pairs" in row["what"] for row in rows)
