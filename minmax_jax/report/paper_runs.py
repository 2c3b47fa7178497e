"""Finished runs of the experiments of the MinMax-CAM paper, and the rows that they answer.

A run is a variant's folder with `evaluation.json` and `classification.json`. What it is a run of is
told by the workdir's `config.json` (data set, network, head), never by the folder's name.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from minmax_jax import files
from minmax_jax.config import resolve_variant
from minmax_jax.recipe import NETWORKS, paper_config
from minmax_jax.report.published import published
from minmax_jax.report.templates import flat

TABLES = ("table_1", "table_2", "table_3", "table_4")

_RESULTS = ("evaluation.json", "classification.json")
_NETWORKS = {network.name: key for key, network in NETWORKS.items()}
_HEADS = {"dense": False, "kur": True}
_MODELS = {"Eb6": "efficientnet_b6", "RN101": "resnet101", "VGG16": "vgg16"}
# The other rows of Table 4 are of test images, which no run is scored on.
_DATA_SETS = {
    "P:AfS": "planet",
    "COCO": "coco17",
    "VOC07": "voc07",
    "VOC12": "voc12",
    "P:AfS Val": "planet",
    "COCO 2017 Val": "coco17",
    "VOC 2012 Val": "voc12",
}
_TFDS = {"voc/2007": "voc07", "voc/2012": "voc12", "coco/2017": "coco17"}
_LISTS = ("", "val")  # of VOC's validation images
_SECTIONS = ("network", "data", "augment", "train", "evaluate")
# Fields that the paper leaves open, that only tell where files are, or that change no score here.
_FREE = (
    "network.style",
    "data.source",
    "data.options",
    "data.validation",
    "data.workers",
    "train.batch_size",
    "train.cache_features",
    "train.keep",
    "train.save_seconds",
    "evaluate.methods",
    "evaluate.batch_size",
    "evaluate.mask_chunk",
    "evaluate.save_seconds",
    "evaluate.threshold",
    "evaluate.iou",
    "evaluate.curve_steps",
)


class Model(NamedTuple):
    """What a row is of: names as in `minmax_jax.recipe`, and whether the head is regularised."""

    data_set: str
    network: str
    regularised: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of one of the paper's models.

    Attributes:
      folder: of the variant, as text.
      model: what it is a run of.
      images: how many were evaluated.
      macro: `{method: {metric: fraction or None}}`.
      weighted: support-weighted F1 and F2, `{"f1": fraction, "f2": fraction}`.
      differences: settings that differ from what the paper's text says, a line each.
    """

    folder: str
    model: Model
    images: int
    macro: Mapping[str, Mapping[str, float | None]]
    weighted: Mapping[str, float | None]
    differences: tuple[str, ...]


def model_of(table: str, row: Mapping[str, Any], column: str) -> Model | None:
    """What a cell of a published table is of; None where no run can answer it.

    Args:
      table: of `TABLES`.
      row: as `published` has it.
      column: "baseline" or "regularized" in Table 4, a method in the others.
    """
    if table == "table_1":
        return Model("voc07", _MODELS[row["model"]], False)
    data_set = _DATA_SETS.get(row["dataset"])
    if data_set is None:
        return None
    regularised = table == "table_3" or column == "regularized"
    return Model(data_set, "resnet101", regularised)


def finished_variants(path: str | pathlib.Path) -> list[pathlib.Path]:
    """Folders of the variants whose results are all there; none in a folder that is no experiment.

    Args:
      path: a workdir, or the folder of one of its variants.

    Raises:
      ValueError: for a config.json that is no JSON, naming it.
    """
    return list(filter(_is_finished, _variants(pathlib.Path(path))))


def read_runs(paths: Sequence[str | pathlib.Path]) -> tuple[dict[Model, Run], tuple[str, ...]]:
    """Reads the finished runs in `paths`, each of which counts once.

    Args:
      paths: of workdirs, whose variants all count, or of single variants' folders.

    Returns:
      The runs that the paper has rows for, and `FOLDER: REASON` of each variant that is left out.

    Raises:
      ValueError: no path is given, or one holds no finished run; a file is not as evaluation and
        training write it; two runs are of one model (both folders are named).
    """
    if not paths:
        raise ValueError("no workdirs named: the tables need at least one run")
    known = {
        model_of(table, row, column)
        for table in TABLES
        for row in published("minmax_cam")[table]["rows"]
        for column in row
    } - {None}
    variants: dict[pathlib.Path, tuple[pathlib.Path, ConfigDict]] = {}
    for path in map(pathlib.Path, paths):
        found = _variants(path)
        if not any(map(_is_finished, found)):
            raise ValueError(f"{path} holds no finished run of an experiment")
        for folder, own in found.items():
            variants.setdefault(folder.resolve(), (folder, own))
    runs: dict[Model, Run] = {}
    left_out = []
    for folder, own in variants.values():
        found = _find_model(own, known) if _is_finished(folder) else "not finished"
        if isinstance(found, str):
            left_out.append(f"{path_text(folder)}: {found}")
            continue
        if found in runs:
            raise ValueError(
                f"two runs of one row, {runs[found].folder} and {path_text(folder)}: "
                "name only one of these folders"
            )
        runs[found] = _read_run(folder, found, own)
    return runs, tuple(left_out)


def _variants(path: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Folder and config of every variant of a workdir, or of the one whose folder `path` is."""
    config, names = _read_config(path), None
    if not config:
        path, names = path.parent, (path.name,)
        config = _read_config(path)
    return {
        path / name: resolve_variant(ConfigDict(config), name)
        for name in config.get("variants", {})
        if names is None or name in names
    }


def _find_model(config: ConfigDict, known: set[Model]) -> Model | str:
    """What a variant is a run of, or why the paper has no row for it."""
    data_set = _data_set(config.data)
    name, head = config.network.name, config.network.head
    if data_set is None:
        return f"{config.data.source!r} data are not the validation images of the paper"
    if name not in _NETWORKS:
        return f"network {name!r} is none of the paper's: {', '.join(_NETWORKS)}"
    if head not in _HEADS:
        return f"head {head!r} is none of the paper's: {', '.join(_HEADS)}"
    if config.network.get("regularized"):
        return "the paper regularises the head alone"
    if config.network.get("attention", "none") != "none":
        return "the paper's networks have no attention"
    if config.data.get("permute_labels"):
        return "trained on permuted labels"
    model = Model(data_set, _NETWORKS[name], _HEADS[head])
    if model not in known:
        return f"the paper has no row of {name} with head {head!r} on {data_set}"
    return model


def _data_set(data: ConfigDict) -> str | None:
    """The paper's data set that a run is validated on, None for other images."""
    options = {**data.options, **data.validation}
    if data.source == "voc" and not options.get("masks") and options.get("image_set", "") in _LISTS:
        return f"voc{options.get('year', '2007')[2:]}"
    if data.source == "tfds":
        return _TFDS.get(options.get("name", "voc/2007").partition(":")[0])
    return {"coco": "coco17", "planet": "planet"}.get(data.source)


def _read_run(folder: pathlib.Path, model: Model, config: ConfigDict) -> Run:
    evaluation, classification = (files.read_json(folder / name) for name in _RESULTS)
    try:
        macro = {name: result["macro"] for name, result in evaluation["methods"].items()}
        images = evaluation["settings"]["images"]
        weighted = {score: classification[score]["weighted"] for score in ("f1", "f2")}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: {' or '.join(_RESULTS)} has no entry {error}") from error
    return Run(path_text(folder), model, images, macro, weighted, _differences(config, model))


def _differences(config: ConfigDict, model: Model) -> tuple[str, ...]:
    """Fields in which a run differs from the settings that the paper's text tells."""
    variant = model.network + "-kur" * model.regularised
    paper = _settings(resolve_variant(paper_config(model.data_set, variant), variant))
    return tuple(
        f"{field} is {value or 'empty'}, not {paper[field]}"
        if field in paper
        else f"{field} is {value}"
        for field, value in _settings(config).items()
        if paper.get(field) != value and not any(f"{field}.".startswith(f"{f}.") for f in _FREE)
    )


def _settings(config: ConfigDict) -> dict[str, str]:
    """The fields that the paper's results depend on, as text; of the weights the file's name."""
    content = json.loads(json.dumps(config.to_dict()))
    content["network"]["weights"] = content["network"]["weights"].rpartition("/")[2]
    return dict(flat({section: content[section] for section in _SECTIONS}))


def _is_finished(folder: pathlib.Path) -> bool:
    return all((folder / name).is_file() for name in _RESULTS)


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config of an experiment; {} in a folder of something else."""
    path = workdir / "config.json"
    content = files.read_json(path) if path.is_file() else {}
    wanted = isinstance(content, dict) and content.get("task") == "experiment"
    return content if wanted else {}


def path_text(path: str | pathlib.Path) -> str:
    """A path as text that any file and terminal can show: what does not print is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(path)
    )
