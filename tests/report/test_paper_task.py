"""The task of the paper's tables: which runs it takes, what it refuses, what it leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from minmax_jax.report import paper_task

from .paper_run import make_scores, plain_config, write_workdir


@pytest.fixture
def root(tmp_path):
    """Two finished runs, one that is not finished, a folder of another task, one of anything."""
    rng = np.random.default_rng(0)
    runs = tmp_path / "runs"
    for name, data_set in (("voc07", "voc07"), ("coco 17", "coco17")):
        scores = {"resnet101": make_scores(rng)}
        write_workdir(runs / name, plain_config(data_set, "resnet101"), scores)
    write_workdir(runs / "voc12", plain_config("voc12", "resnet101"), {})
    write_workdir(runs / "photos", {"task": "photos", "images": ""}, {})
    (runs / "notes").mkdir()
    return runs


def prepare(runs, workdir):
    config = ConfigDict({"task": "tables", "title": "Tables", "runs": runs})
    return paper_task.prepare(config, workdir, paper_task.STAGES)


def test_patterns(root):
    both = [str(root / "coco 17"), str(root / "voc07")]
    assert paper_task.find_workdirs(f"{root}/voc07, {root}/coco*,{root}/voc07") == both
    assert paper_task.find_workdirs(f"{root}/*o*7") == both
    (root / "voc[07]").mkdir()
    assert paper_task.find_workdirs(f"{root}/voc[07]") == [f"{root}/voc[07]"]
    with pytest.raises(ValueError, match=rf"no run matches '{root}/imagenet\*'"):
        paper_task.find_workdirs(f"{root}/voc07,{root}/imagenet*")
    with pytest.raises(ValueError, match="no runs named"):
        paper_task.find_workdirs(" , ")


def test_results(root, tmp_path, capsys):
    workdir = tmp_path / "tables"
    work = prepare(f"{root}/*", workdir)
    assert not workdir.exists()
    work()
    printed = capsys.readouterr().out
    for name in ("voc12", "photos", "notes"):
        assert f"{root}/{name}: skipped, no finished run of an experiment" in printed
    for number in (1, 2, 3, 4):
        assert f"Table {number}: " in printed
        assert (workdir / "report" / f"table_{number}.csv").is_file()
    page = workdir / "report" / "index.html"
    assert f"report: {page}" in printed and "<h1>Tables</h1>" in page.read_text()
    with open(root / "coco 17" / "resnet101" / "evaluation.json") as file:
        ours = json.load(file)["methods"]["d_minmax_cam"]["macro"]["f1_plus"]
    line = next(line for line in printed.splitlines() if "20.84*" in line and "RN101" not in line)
    assert "VOC07" in line  # Table 2, F1+
    assert f"{100 * ours:.2f}" in page.read_text()


def test_left_out_runs_are_printed(tmp_path, capsys):
    config = plain_config(network={"head": "acol"})
    run = write_workdir(
        tmp_path / "run", config, {"resnet101": make_scores(np.random.default_rng(1))}
    )
    prepare(str(run), tmp_path / "tables")()
    assert f"left out: {run}/resnet101: head 'acol' is none" in capsys.readouterr().out


def test_no_finished_run(root, tmp_path):
    with pytest.raises(ValueError, match=f"no finished run of an experiment among {root}/voc12"):
        prepare(f"{root}/voc12", tmp_path / "tables")
    assert not (tmp_path / "tables").exists()
