"""The report of a run over pair classifiers: one self-contained page and its figures as PNG files.

Under the workdir, n classes:

    config.json
    VARIANT/all/network.json, history.json, classification.json    the all-class network
    VARIANT/evaluation.json      minmax_jax.report.pairs_tables
    VARIANT/similarity.npz       similarity (n n), clusters (n,), images (n,)
    VARIANT/selections.json      {MODE: [[class indices] for each class]}
    VARIANT/pairs.json           {"pairs": [{"classes": [i, j], "examples": int, "accuracy": float,
                                  "epochs": int, "converged": bool}], "seconds": s, "frozen": bool}
    VARIANT/gallery.npz          minmax_jax.report.pairs_gallery

A variant whose evaluation has null for `table_1` is a baseline: it has no pairs, and the last four
files are not read.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minmax_jax import files
from minmax_jax.report import figures, names, page, pairs_figures, pairs_gallery, tables, templates
from minmax_jax.report import pairs_tables as pt
from minmax_jax.report.pairs_rows import best_row, mode_title, row_title
from minmax_jax.report.published import published

_RANKED = ("aeroplane", "bus", "cow")  # the classes of the paper's figure of ranks
_MOST_COLUMNS = 20  # of a table by classes on a terminal


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What a variant knows of its pair classifiers."""

    similarity: Mapping[str, np.ndarray]
    selections: Mapping[str, Sequence[Sequence[int]]]
    trained: Mapping[str, Any]
    gallery: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a variant left: contents of its files; `pairs` is None for a baseline."""

    network: Mapping
    history: Mapping
    classification: Mapping
    evaluation: Mapping
    pairs: Pairs | None


def read_variant(folder: str | pathlib.Path) -> Variant:
    """Reads the files of a variant's folder.

    Raises:
      ValueError: a file is missing (it is named).
    """
    folder = pathlib.Path(folder)
    network, history, classification = (
        files.read_json(_present(folder / "all" / f"{name}.json"))
        for name in ("network", "history", "classification")
    )
    evaluation = files.read_json(_present(folder / "evaluation.json"))
    pairs = None
    if evaluation["table_1"] is not None:
        pairs = Pairs(
            _read_arrays(folder / "similarity.npz"),
            files.read_json(_present(folder / "selections.json")),
            files.read_json(_present(folder / "pairs.json")),
            _read_arrays(folder / "gallery.npz"),
        )
    return Variant(network, history, classification, evaluation, pairs)


def text_tables(workdir: str | pathlib.Path, variants: Sequence[str]) -> str:
    """The tables of a run for a terminal.

    Args:
      workdir: the run's folder.
      variants: names of the variants, in the order to show them.

    Raises:
      ValueError: no variant is named, or a file is missing.
    """
    found = _read(workdir, variants)
    evaluations = {name: variant.evaluation for name, variant in found.items()}
    networks = {name: variant.network for name, variant in found.items()}
    shown = [pt.ablation_table(evaluations)]
    shown += [
        pt.thresholds_table(evaluation, title=f"{name}: thresholds")
        for name, evaluation in evaluations.items()
    ]
    shown.append(pt.methods_table(evaluations, networks))
    for name, evaluation in evaluations.items():
        if len(evaluation["label_names"]) <= _MOST_COLUMNS:
            shown += [
                dataclasses.replace(table, title=f"{name}: {table.title}")
                for table in _classes_tables(evaluation)
            ]
    sentences = [line for name in found for line in pt.headline(name, evaluations[name])]
    return "\n\n".join([*map(tables.render_text, shown), "\n".join(sentences)])


def write_report(
    workdir: str | pathlib.Path, variants: Sequence[str], *, title: str, note: str = ""
) -> pathlib.Path:
    """Writes `report/index.html` and `report/figures/*.png` under `workdir`.

    Args:
      workdir: the run's folder.
      variants: names of the variants, in the order to show them.
      title: the page's title.
      note: a paragraph under the ablation.

    Returns:
      Path of the page, which needs no other file.

    Raises:
      ValueError: no variant is named, or a file is missing.
    """
    workdir = pathlib.Path(workdir)
    found = _read(workdir, variants)
    report = workdir / "report"
    written = []

    def draw(name: str, figure: Figure) -> str:
        path = report / "figures" / f"{name}.png"
        figures.save_png(figure, path)
        written.append(path)
        return page.data_uri("png", path.read_bytes())

    filters = {
        "picture": page.picture_uri,
        "row_names": page.row_names,
        "value": tables.format_value,
        "mode_title": mode_title,
    }
    html = templates.template("pairs.html", filters).render(
        title=title,
        note=note,
        curves=draw("curves", figures.curves_figure({n: v.history for n, v in found.items()})),
        variants={name: _shown(name, variant, draw) for name, variant in found.items()},
        config=dict(templates.flat(files.read_json(workdir / "config.json"))),
        scale=templates.scale(),
        **_run_tables(found),
    )
    path = report / "index.html"
    files.write_atomically(path, lambda file: file.write(html.encode()))
    for stale in set((report / "figures").glob("*.png")) - set(written):
        stale.unlink()  # of an earlier report of more variants
    return path


def _read(workdir: str | pathlib.Path, variants: Sequence[str]) -> dict[str, Variant]:
    if not variants:
        raise ValueError("a report needs at least one variant")
    workdir = pathlib.Path(workdir)
    _present(workdir / "config.json")
    return {name: read_variant(workdir / name) for name in variants}


def _present(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise ValueError(f"no report yet: {path} is missing (is that stage finished?)")
    return path


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(_present(path)) as arrays:
        return dict(arrays)


def _run_tables(found: Mapping[str, Variant]) -> dict[str, Any]:
    """What the page says of all variants together."""
    evaluations = {name: variant.evaluation for name, variant in found.items()}
    networks = {name: variant.network for name, variant in found.items()}
    settings = {
        name: dict(templates.flat(evaluation["settings"]))
        for name, evaluation in evaluations.items()
    }
    paper = published("representative_class_cam")
    return {
        "ablation": {pooling: pt.ablation_table(evaluations, pooling) for pooling in pt.POOLINGS},
        "differences": pt.differences_table(evaluations),
        "methods": pt.methods_table(evaluations, networks),
        "printed": pt.published_classes_table(next(iter(evaluations.values()))["label_names"]),
        "classification": tables.classification_table(
            {name: variant.classification for name, variant in found.items()}
        ),
        "source": paper["source"],
        "notes": {name: paper[name]["note"] for name in ("table_2", "table_3", "table_5")},
        "settings": settings,
        "setting_names": names.ordered((key for own in settings.values() for key in own), ()),
    }


def _shown(name: str, variant: Variant, draw: Callable[[str, Figure], str]) -> dict[str, Any]:
    """What the page says of one variant."""
    evaluation = variant.evaluation
    shown = {
        "headline": pt.headline(name, evaluation),
        "thresholds": pt.thresholds_table(evaluation, title=name),
        "curve": draw(f"{name}_thresholds", pairs_figures.thresholds_figure(evaluation)),
        "classes": _classes_chart(name, evaluation, draw),
        "single": _classes_tables(evaluation),
        "pairs": None,
    }
    if variant.pairs is not None:
        shown["pairs"] = _shown_pairs(name, variant.pairs, evaluation["label_names"], draw)
    return shown


def _classes_tables(evaluation: Mapping) -> list[tables.Table]:
    found = (pt.classes_table(evaluation, kind) for kind in ("last", "multi"))
    return [table for table in found if table is not None]


def _classes_chart(name: str, evaluation: Mapping, draw) -> str | None:
    """Bars of the baselines and the best representative classes, without and with all layers."""
    scores = pt.means(evaluation)
    rows = [
        *((row, pairs_figures.BASELINE) for row in ("grad_cam", "acol_cam")),
        (best_row(scores, multi=False), pairs_figures.WITHOUT),
        (best_row(scores, multi=True), pairs_figures.WITH),
    ]
    series = [
        (row_title(row), color, evaluation["rows"][row]["pooled"])
        for row, color in rows
        if scores.get(row) is not None
    ]
    if not series:
        return None
    return draw(f"{name}_classes", pairs_figures.classes_figure(evaluation["label_names"], series))


def _shown_pairs(name: str, pairs: Pairs, labels: Sequence[str], draw) -> dict[str, Any]:
    matrix = [pairs.similarity[key] for key in ("similarity", "clusters", "images")]
    clusters, images = matrix[1:]
    first = [int(np.argmax(clusters == cluster)) for cluster in np.unique(clusters)[:4]]
    chosen = [labels.index(label) for label in _RANKED] if set(_RANKED) <= set(labels) else first
    strips = {
        "classes": pairs_gallery.class_strips(pairs.gallery, labels),
        "layers": pairs_gallery.layer_strips(pairs.gallery, labels),
    }
    for kind, own in strips.items():
        if own:
            draw(f"{name}_gallery_{kind}", pairs_gallery.strips_figure(own))
    trained = sorted(pairs.trained["pairs"], key=lambda pair: pair["converged"])
    return {
        "similarity": draw(f"{name}_similarity", pairs_figures.similarity_figure(*matrix, labels)),
        "ranked": draw(f"{name}_ranked", pairs_figures.ranked_figure(*matrix, labels, chosen)),
        "lonely": [labels[index] for index in np.flatnonzero(images == 0)],
        "selections": {
            mode: [[labels[other] for other in others] for others in of_classes]
            for mode, of_classes in pairs.selections.items()
        },
        "labels": labels,
        "photos": list(zip(strips["classes"], strips["layers"], strict=True)),
        "trained": [pair | {"names": [labels[i] for i in pair["classes"]]} for pair in trained],
        "missed": sum(not pair["converged"] for pair in trained),
        "seconds": pairs.trained["seconds"],
        "frozen": pairs.trained["frozen"],
    }
