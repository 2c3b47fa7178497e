"""Tasks by name, and the stages of an experiment, each skipped when its result is already whole."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from minmax_jax import analyze, files, parallel, pseudo_masks, sanity
from minmax_jax.config import differences, resolve_variant
from minmax_jax.experiment import Experiment
from minmax_jax.pairs import task as pairs_task
from minmax_jax.photos import task as photos_task
from minmax_jax.report import page, paper_task, tables

STAGES = ("train", "evaluate", "report")
# Stages of trained experiments that run only where they are named.
MORE_STAGES: dict[str, Callable[[Sequence[Experiment], pathlib.Path], None]] = {
    "masks": pseudo_masks.stage,
    "sanity": sanity.stage,
    "analyze": analyze.stage,
}


def run(
    config: ConfigDict, workdir: str | os.PathLike, *, stages: Sequence[str] | None = None
) -> pathlib.Path:
    """Runs the stages of a task.

    Args:
      config: as one of the functions in `minmax_jax.config` makes it; `config.task` is in `TASKS`.
      workdir: folder of the results; a repeated call goes on where the last one stopped. It belongs
        to one config.
      stages: of the task's, in any order; by default all, of experiments those in `STAGES`.

    Returns:
      The folder.

    Raises:
      ValueError: for unknown names in the config, a workdir of another config (naming the fields
        that differ), and a stage whose input is not there yet.
    """
    if config.task not in TASKS:
        raise ValueError(f"unknown task {config.task!r}; tasks: {', '.join(TASKS)}")
    default, prepare = TASKS[config.task]
    valid = (*default, *MORE_STAGES) if config.task == "experiment" else default
    stages = default if stages is None else stages
    unknown = set(stages) - set(valid)
    if unknown or not stages:
        raise ValueError(f"unknown stages {sorted(unknown)}; stages: {', '.join(valid)}")
    alone = {"photos"} if config.task == "photos" else set(MORE_STAGES) & set(stages)
    if alone and jax.process_count() > 1:
        raise ValueError(f"{', '.join(sorted(alone))}: one process does that, here are several")
    workdir = pathlib.Path(workdir)
    # What can be found wrong is found before anything is written or computed.
    wanted = json.loads(json.dumps(config.to_dict()))
    _check_workdir(workdir, wanted)
    work = prepare(config, workdir, stages)
    files.write_json(workdir / "config.json", wanted)
    work()
    return workdir


def _check_workdir(workdir: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Refuses a folder whose results are another config's."""
    path = workdir / "config.json"
    found = []
    if path.exists():
        # What only the further stages read changes nothing that others have made.
        both = files.read_json(path), wanted
        found = differences(
            *({key: value for key, value in one.items() if key not in MORE_STAGES} for one in both)
        )
        found = [row for row in found if row.startswith("task: '")] or found  # all else follows
    if found:
        raise ValueError(
            f"{workdir} was made by another config; choose another --workdir. Fields that differ "
            f"(there, here): {'; '.join(found)}"
        )


def _prepare_experiment(
    config: ConfigDict, workdir: pathlib.Path, stages: Sequence[str]
) -> Callable[[], None]:
    """Checks an experiment; what is returned runs its stages, of every variant."""
    experiments = [
        Experiment(resolve_variant(config, name), name, workdir / name) for name in config.variants
    ]
    for experiment in experiments:
        experiment.check(stages)
        further = [stage for stage in stages if stage != "train"]
        loss = experiment.config.train.loss
        if loss != "sigmoid" and further:
            raise ValueError(
                f"train.loss {loss}: {', '.join(further)} take labels one by one, by sigmoids; "
                "run --stages train, and explain photos by the task photos"
            )
    if not experiments:
        raise ValueError("config.variants names no variant")
    first, *others = experiments
    for other in others:
        if other.validation_source.label_names != first.validation_source.label_names:
            raise ValueError(
                f"variants {first.name} and {other.name} have different labels and so no common "
                "report: run each alone, as in --config FILE:VARIANT, in a workdir of its own"
            )

    def work() -> None:
        if "train" in stages:
            for experiment in experiments:
                experiment.train()
        if "evaluate" in stages:
            for experiment in experiments:
                experiment.evaluate()
        if "report" in stages and parallel.is_first():
            _report(workdir, [experiment.name for experiment in experiments], config.title)
        for stage, run_stage in MORE_STAGES.items():
            if stage in stages:
                run_stage(experiments, workdir)

    return work


def _report(workdir: pathlib.Path, variants: list[str], title: str) -> None:
    path = page.write_report(workdir, variants, title=title)
    read = functools.partial(_read_results, workdir, variants)
    for table in tables.summary_tables(read("classification"), read("evaluation")):
        print(tables.render_text(table), end="\n\n")
    print(f"report: {path}")


def _read_results(workdir, variants, name) -> dict[str, Any]:
    return {variant: files.read_json(workdir / variant / f"{name}.json") for variant in variants}


# Name: (default stages, what checks a config and returns the function that runs some of them).
TASKS = {
    "experiment": (STAGES, _prepare_experiment),
    "pairs": (pairs_task.STAGES, pairs_task.prepare),
    "photos": (photos_task.STAGES, photos_task.prepare),
    "tables": (paper_task.STAGES, paper_task.prepare),
}
