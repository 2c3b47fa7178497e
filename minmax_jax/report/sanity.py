"""The page of sanity checks: which maps depend on what a network learned?

Results are the contents of `sanity/sanity.json`, likenesses as fractions:

    {"settings": {...},
     "variants": {NAME: {"steps": [name], "photos": n, "pairs": n, "methods": {METHOD: {
         "chance": {MEASURE: x}, "cascading": {MEASURE: [x]}, "independent": {MEASURE: [x]}}}}},
     "labels": {"trained": NAME, "permuted": NAME, "photos": n, "pairs": n,
         "methods": {METHOD: {MEASURE: x}},
         "fit": {NAME: {"images": n, "all_labels_right": x, "f1": x}}} or None}

`cascading` and `independent` hold one number for each step. A map *stays* where its likeness is
nearer to 1, the same map, than to chance, the likeness to another photo's map.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minmax_jax import files
from minmax_jax.report import figures, page, sanity_figures, tables, templates
from minmax_jax.report.names import method_title
from minmax_jax.report.overlay import brighten, overlay_map, to_grey
from minmax_jax.report.pictures import fit
from minmax_jax.report.sanity_figures import TITLES

MEASURES = tuple(TITLES)
_GUIDED, _GRAD_CAM = "guided_backpropagation", "grad_cam"
_BY_HEART = 0.95  # of the images with all labels right: the network fits its labels


def stays(likeness: float, chance: float) -> bool:
    """Whether a map is nearer to what it was than to another photo's map."""
    return likeness > (1 + chance) / 2


def upper_half(result: Mapping) -> int:
    """The step of the cascade at which the upper half of the blocks is random."""
    return max(0, len(result["steps"]) // 2 - 1)


def ordered_methods(result: Mapping) -> list[str]:
    """The methods of a variant, first the least alike by rank once all layers are random."""
    own = result["methods"]
    return sorted(own, key=lambda method: own[method]["cascading"]["rank_correlation"][-1])


def summary_tables(results: Mapping) -> list[tables.Table]:
    """For each variant one row a method: how alike its maps are, and those of two photos."""
    return [_summary_table(name, results) for name in results["variants"]]


def _summary_table(name: str, results: Mapping) -> tables.Table:
    result, labels = results["variants"][name], results["labels"]
    half = upper_half(result)
    parts = {
        "upper half random": lambda own, measure, _: own["cascading"][measure][half],
        "all random": lambda own, measure, _: own["cascading"][measure][-1],
    }
    if labels is not None and labels["trained"] == name:
        parts["permuted labels"] = lambda _, measure, method: labels["methods"][method][measure]
    parts["another photo"] = lambda own, measure, _: own["chance"][measure]
    columns = [
        tables.Column(f"{TITLES[measure]}, {text}") for measure in MEASURES for text in parts
    ]
    methods = ordered_methods(result)
    values = [
        tuple(
            read(result["methods"][method], measure, method)
            for measure in MEASURES
            for read in parts.values()
        )
        for method in methods
    ]
    rows = tuple((method_title(method),) for method in methods)
    title = f"{name}: how alike are maps and those of the trained network?"
    return tables.Table(title, ("method",), tuple(columns), rows, tuple(values))


def headline(results: Mapping) -> list[str]:
    """The answer in sentences."""
    sentences = []
    for name, result in results["variants"].items():
        sentences += _of_layers(name, result)
        if {_GUIDED, _GRAD_CAM} <= set(result["methods"]):
            sentences.append(_finding(name, result))
    if results["labels"] is not None:
        sentences.append(_of_labels(results))
    return sentences


def _of_layers(name: str, result: Mapping) -> list[str]:
    half, number = upper_half(result), len(result["methods"])
    lowest = result["steps"][half].rpartition(" ")[-1]  # of "DEEPEST … LOWEST"
    at_end, at_half = (
        {measure: _staying(result, step, measure) for measure in MEASURES} for step in (-1, half)
    )
    stay = [m for m in ordered_methods(result) if any(m in of for of in at_end.values())]
    return [
        f"{name}: with all layers random, the maps of {number - len(stay)} of {number} methods are "
        f"nearer to those of another photo than to what they were, so they show what the network "
        f"learned. {_listed(stay) or 'No method'} {_stay(stay)}.",
        f"{name}: with the upper half random (head to {lowest}), "
        + "; ".join(
            f"by {TITLES[measure]} {_listed(of) or 'no method'} {_stay(of)}"
            for measure, of in at_half.items()
        )
        + ".",
    ]


def _staying(result: Mapping, step: int, measure: str) -> list[str]:
    """The methods whose maps stay at a step of the cascade."""
    own = result["methods"]
    return [
        method
        for method in ordered_methods(result)
        if stays(own[method]["cascading"][measure][step], own[method]["chance"][measure])
    ]


def _finding(name: str, result: Mapping) -> str:
    """Is it true here that Guided Backpropagation hardly needs its layers, unlike Grad-CAM?"""

    def verdict(step):
        staying = {measure: _staying(result, step, measure) for measure in MEASURES}
        holds = [m for m in MEASURES if _GUIDED in staying[m] and _GRAD_CAM not in staying[m]]
        if len(holds) == len(MEASURES):
            return "confirmed"
        return f"confirmed by {TITLES[holds[0]]} only" if holds else "not confirmed"

    def told(step):
        return ", ".join(
            f"{method_title(method)} "
            + " and ".join(f"{100 * own['cascading'][m][step]:.0f}" for m in MEASURES)
            for method, own in ((m, result["methods"][m]) for m in (_GUIDED, _GRAD_CAM))
        )

    half = upper_half(result)
    return (
        f"{name}: the published finding is that maps of Guided Backpropagation hardly change when "
        f"layers become random, and those of Grad-CAM do. With the upper half random it is "
        f"{verdict(half)} ({' and '.join(TITLES.values())}: {told(half)}), with all layers random "
        f"{verdict(-1)} ({told(-1)})."
    )


def _of_labels(results: Mapping) -> str:
    labels = results["labels"]
    trained = results["variants"][labels["trained"]]
    stay = [
        method
        for method in ordered_methods(trained)
        if any(
            stays(labels["methods"][method][m], trained["methods"][method]["chance"][m])
            for m in MEASURES
        )
    ]
    fit = labels["fit"][labels["permuted"]]
    by_heart = (
        "so it has learned them by heart"
        if fit["all_labels_right"] >= _BY_HEART
        else "so it has not learned all of them by heart, as the check would have it"
    )
    number = len(labels["methods"])
    return (
        f"{labels['permuted']}: trained on permuted labels, the network gets all labels of "
        f"{100 * fit['all_labels_right']:.1f} % of its {fit['images']} training images right (F1 "
        f"{100 * fit['f1']:.1f}), {by_heart}. The maps of {number - len(stay)} of {number} methods "
        f"are nearer to those of another photo than to those of {labels['trained']}. "
        f"{_listed(stay) or 'No method'} {_stay(stay)}."
    )


def _stay(methods: Sequence[str]) -> str:
    return "stay" if len(methods) > 1 else "stays"


def _listed(methods: Sequence[str]) -> str:
    *most, last = [method_title(method) for method in methods] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def write_page(
    folder: pathlib.Path,
    results: Mapping,
    pictures: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
) -> pathlib.Path:
    """Writes `index.html` and `figures/*.png`.

    Args:
      folder: of both.
      results: see above.
      pictures: for each variant `photo` uint8 `(H W 3)`, `label`, the name of the explained one,
        and `maps/METHOD` in 0..1: `(1 + steps, h, w)` of the trained network and along the cascade,
        or `(2, h, w)` of the networks of true and of permuted labels.
      title: the page's title.

    Returns:
      Path of the page, which needs no other file.
    """
    written = []

    def draw(name: str, figure) -> str:
        path = folder / "figures" / f"{name}.png"
        figures.save_png(figure, path)
        written.append(path)
        return page.data_uri("png", path.read_bytes())

    variants = {}
    for name, table in zip(results["variants"], summary_tables(results), strict=True):
        result, methods = results["variants"][name], ordered_methods(results["variants"][name])
        columns = [
            "trained",
            *(f"and {step}" if i else step for i, step in enumerate(result["steps"])),
        ]
        strip = _strip(pictures[name], columns, methods)
        draw(f"{name}_strip", sanity_figures.strips_figure(strip["columns"], strip["rows"]))
        variants[name] = {
            "result": result,
            "table": table,
            "strip": strip,
            "cascading": draw(
                f"{name}_cascading", sanity_figures.cascading_figure(result, methods)
            ),
            "independent": draw(
                f"{name}_independent", sanity_figures.independent_figure(result, methods)
            ),
        }
    labels = None
    if results["labels"] is not None:
        own = results["labels"]
        result = results["variants"][own["trained"]]
        methods = [method for method in ordered_methods(result) if method in own["methods"]]
        strip = _strip(pictures[own["permuted"]], [own["trained"], own["permuted"]], methods)
        labels = {
            "result": own,
            "strip": strip,
            "chart": draw("labels", sanity_figures.labels_figure(own, result, methods)),
        }
    filters = {
        "picture": page.picture_uri,
        "row_names": page.row_names,
        "value": tables.format_value,
    }
    html = templates.template("sanity.html", filters).render(
        title=title,
        sentences=headline(results),
        variants=variants,
        labels=labels,
        settings=results["settings"],
        scale=templates.scale(),
    )
    path = folder / "index.html"
    files.write_atomically(path, lambda file: file.write(html.encode()))
    for stale in set((folder / "figures").glob("*.png")) - set(written):
        stale.unlink()  # of an earlier page of more variants
    return path


def _strip(
    arrays: Mapping[str, np.ndarray], columns: Sequence[str], methods: Sequence[str]
) -> dict[str, Any]:
    """A photo and rows of pictures of its maps."""
    photo = arrays["photo"]
    grey = to_grey(photo)
    rows = [
        (
            method_title(method),
            [fit(overlay_map(grey, brighten(map_))) for map_ in arrays[f"maps/{method}"]],
        )
        for method in methods
    ]
    return {
        "photo": fit(photo),
        "label": str(arrays["label"]),
        "columns": list(columns),
        "rows": rows,
    }
