"""The report of a run: one self-contained HTML page and its figures as PNG files."""

from __future__ import annotations

import base64
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from minmax_jax import files
from minmax_jax.report import figures, method_figures, names, pictures, tables, templates


@dataclasses.dataclass(frozen=True)
class Results:
    """What a finished run left under its workdir; each dict is keyed by variant."""

    config: Mapping
    histories: dict[str, Mapping]
    classifications: dict[str, Mapping]
    evaluations: dict[str, Mapping]
    galleries: dict[str, Mapping[str, np.ndarray]]


def read_results(workdir: str | pathlib.Path, variants: Sequence[str]) -> Results:
    """Reads the files of all `variants`.

    Raises:
      ValueError: no variant is named, or a file is missing (it is named).
    """
    if not variants:
        raise ValueError("a report needs at least one variant")
    workdir = pathlib.Path(workdir)
    parts = ("history.json", "classification.json", "evaluation.json", "gallery.npz")
    wanted = [workdir / "config.json"]
    wanted += [workdir / variant / part for variant in variants for part in parts]
    for path in wanted:
        if not path.is_file():
            raise ValueError(f"no report yet: {path} is missing (is that stage finished?)")

    def read(name):
        return {variant: files.read_json(workdir / variant / name) for variant in variants}

    galleries = {}
    for variant in variants:
        with np.load(workdir / variant / "gallery.npz") as arrays:
            galleries[variant] = dict(arrays)
    return Results(
        files.read_json(workdir / "config.json"),
        read("history.json"),
        read("classification.json"),
        read("evaluation.json"),
        galleries,
    )


def write_report(
    workdir: str | pathlib.Path, variants: Sequence[str], *, title: str
) -> pathlib.Path:
    """Writes `report/index.html` and `report/figures/*.png` under `workdir`.

    Args:
      workdir: a run's folder with `config.json` and, in each variant's folder, `history.json`,
        `classification.json`, `evaluation.json` and `gallery.npz`.
      variants: names of the variants, in the order to show them.
      title: the page's title.

    Returns:
      Path of the page, which needs no other file.

    Raises:
      ValueError: a file is missing.
    """
    results = read_results(workdir, variants)
    report = pathlib.Path(workdir) / "report"
    written = []

    def draw(name: str, figure) -> str:
        path = report / "figures" / f"{name}.png"
        figures.save_png(figure, path)
        written.append(path)
        return data_uri("png", path.read_bytes())

    points = method_figures.focus_points(results.evaluations)
    focus = draw("focus", method_figures.focus_figure(points)) if points else None
    faithfulness = {
        variant: draw(f"faithfulness_{number}", method_figures.faithfulness_figure(evaluation))
        for number, (variant, evaluation) in enumerate(results.evaluations.items(), 1)
        if method_figures.has_curves(evaluation)
    }
    curves = draw("curves", figures.curves_figure(results.histories))
    photos = []
    for number, photo in enumerate(tqdm(_photos(results), desc="gallery", unit="photo"), 1):
        draw(f"gallery_{number:02d}", figures.gallery_figure(photo, title=f"Photo {number}"))
        photos.append(photo)
    filters = {
        "picture": picture_uri,
        "row_names": row_names,
        "value": tables.format_value,
        "places": tables.places,
        "alike": tables.alike,
        "family": names.family_title,
    }
    html = templates.template("page.html", filters).render(
        title=title,
        focus=focus,
        faithfulness=faithfulness,
        curves=curves,
        photos=photos,
        **_texts(results),
    )
    page = report / "index.html"
    files.write_atomically(page, lambda file: file.write(html.encode()))
    for stale in set((report / "figures").glob("*.png")) - set(written):
        stale.unlink()  # of an earlier report with more photos
    return page


def _photos(results: Results) -> list[pictures.Photo]:
    """Composes all photos; variants that show the same photos share rows."""
    groups: list[list[str]] = []
    for variant, arrays in results.galleries.items():
        for group in groups:
            if np.array_equal(results.galleries[group[0]]["images"], arrays["images"]):
                group.append(variant)
                break
        else:
            groups.append([variant])
    methods = _methods(results)
    return [
        pictures.compose_photo(
            {variant: results.galleries[variant] for variant in group},
            index,
            label_names=results.evaluations[group[0]]["label_names"],
            methods=methods,
        )
        for group in groups
        for index in range(len(results.galleries[group[0]]["images"]))
    ]


def _methods(results: Results) -> list[str]:
    """All methods in the order in which they are shown."""
    return names.method_order(
        name for evaluation in results.evaluations.values() for name in evaluation["methods"]
    )


def _texts(results: Results) -> dict[str, Any]:
    """Everything on the page that is no picture of the run."""
    evaluations = results.evaluations
    scored = names.ordered(
        (
            name
            for evaluation in evaluations.values()
            for result in evaluation["methods"].values()
            for name in result["per_label"]
        ),
        names.METRICS,
    )
    settings = {
        variant: dict(templates.flat(evaluation["settings"]))
        for variant, evaluation in evaluations.items()
    }
    methods = _methods(results)
    return {
        "variants": list(evaluations),
        "many": len(methods) > names.MANY,
        "families": {
            title: method_figures.FAMILY_COLORS[title] for title in names.by_family(methods)
        },
        "winners": {
            variant: tables.winners(evaluation, ("average_drop", *names.HEADLINE))
            for variant, evaluation in evaluations.items()
        },
        "metrics": [names.metric(name) for name in scored],
        "classification": tables.classification_table(results.classifications),
        "label_classification": tables.label_classification_table(results.classifications),
        "methods": {
            average: {
                variant: tables.methods_table(evaluation, average, title=variant)
                for variant, evaluation in evaluations.items()
            }
            for average in ("macro", "micro")
        },
        "comparison": tables.comparison_table(evaluations),
        "per_label": {
            variant: [
                tables.label_methods_table(evaluation, name)
                for name in scored
                if any(name in result["per_label"] for result in evaluation["methods"].values())
            ]
            for variant, evaluation in evaluations.items()
        },
        "settings": settings,
        "setting_names": names.ordered((name for own in settings.values() for name in own), ()),
        "config": dict(templates.flat(results.config)),
        "scale": templates.scale(),
    }


def row_names(table: tables.Table) -> list[list[tuple[str, int]]]:
    """For each row its names with how many rows each spans; names of a group stand once."""
    result = []
    for row, own in enumerate(table.rows):
        line = []
        for index, name in enumerate(own[:-1]):
            group = own[: index + 1]
            if row == 0 or table.rows[row - 1][: index + 1] != group:
                end = row
                while end < len(table.rows) and table.rows[end][: index + 1] == group:
                    end += 1
                line.append((name, end - row))
        result.append([*line, (own[-1], 1)])
    return result


def data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(picture: np.ndarray) -> str:
    """A gallery picture for the page: WebP, a tenth of PNG's size for photos."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "webp", quality=86)
    return data_uri("webp", buffer.getvalue())
