"""Do maps depend on what a network has learned? The sanity checks of Adebayo et al. (2018).

A method whose maps stay as they are when the weights are random, or when the labels that the
network learned meant nothing, shows the photo and not the network. The stage writes, n labels:

    VARIANT/sanity.json, sanity.npz     numbers of a variant; maps of one photo along the cascade
    PERMUTED/sanity.json, sanity.npz    the same of the first variant beside the one that was
                                        trained on permuted labels
    sanity/sanity.json, index.html, figures/*.png
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from minmax_jax import files, parallel
from minmax_jax.experiment import Experiment
from minmax_jax.gallery import choose_photos
from minmax_jax.methods import supported_methods
from minmax_jax.metrics.classification import classification_scores
from minmax_jax.models.network import Variables
from minmax_jax.predict import predict
from minmax_jax.report import sanity as report
from minmax_jax.report.tables import render_text
from minmax_jax.sanity.randomisation import (
    MEASURES,
    Maps,
    detected_labels,
    make_maps_fn,
    randomisation_curves,
    similarities,
)
from minmax_jax.select import Selection
from minmax_jax.train.losses import get_loss

_NUMBERS, _PICTURES = "sanity.json", "sanity.npz"


def stage(experiments: Sequence[Experiment], workdir: pathlib.Path) -> None:
    """Runs the checks of all trained variants, and shows them.

    `config.sanity` has `methods` (all that a network supports if there is none), `images`,
    `batch_size`, `seed` of the random parameters, and `permuted`, the name of the variant that was
    trained on permuted labels: the first variant's maps are compared with its maps.

    Raises:
      ValueError: if no variant is trained, its network detects labels in fewer than two photos,
        and as `randomisation_curves`.
    """
    trained = []
    for experiment in experiments:
        if experiment.trained():
            trained.append(experiment)
        else:
            print(f"{experiment.name}: not trained, so left out")
    config = experiments[0].config.sanity
    subjects = [experiment for experiment in trained if experiment.name != config.permuted]
    if not subjects:
        raise ValueError(f"{workdir} holds no trained network: run the train stage first")
    first = subjects[0]
    for subject in subjects:
        if not _done(subject):
            _randomise_layers(subject, first)
    permuted = next((other for other in trained if other.name == config.permuted), None)
    if permuted is not None and not _done(permuted):
        _randomise_labels(first, permuted)
    elif config.permuted and permuted is None:
        print(f"no trained variant {config.permuted}: labels are not randomised")
    names = [subject.name for subject in subjects]
    results = {
        "settings": {name: config[name] for name in ("images", "seed")},
        "variants": {name: files.read_json(workdir / name / _NUMBERS) for name in names},
        "labels": None if permuted is None else files.read_json(permuted.folder / _NUMBERS),
    }
    files.write_json(workdir / "sanity" / _NUMBERS, results)
    pictures = {name: _read_arrays(workdir / name / _PICTURES) for name in names}
    if permuted is not None:
        pictures[permuted.name] = _read_arrays(permuted.folder / _PICTURES)
    page = report.write_page(
        workdir / "sanity", results, pictures, title=f"Sanity checks: {first.config.title}"
    )
    for table in report.summary_tables(results):
        print(render_text(table), end="\n\n")
    print("\n".join(report.headline(results)))
    print(f"sanity checks: {page}")


def _done(experiment: Experiment) -> bool:
    """Whether its results are there, of these very settings."""
    paths = [experiment.folder / name for name in (_NUMBERS, _PICTURES)]
    done = all(path.exists() for path in paths)
    done = done and files.read_json(paths[0])["settings"] == _settings(experiment)
    print(f"{experiment.name}: sanity checks{' done already' if done else ''}", flush=True)
    return done


def _randomise_layers(experiment: Experiment, first: Experiment) -> None:
    """Compares a variant with its randomised versions, on the first variant's data."""
    config = experiment.config.sanity
    variables = _variables(experiment)
    photos, selection = _photos(experiment, variables, first)
    curves = randomisation_curves(
        experiment.network,
        variables,
        _preprocessed(experiment, photos),
        selection,
        methods=_methods(experiment),
        key=jax.random.key(config.seed),
        batch_size=min(config.batch_size, len(photos)),
        mesh=parallel.local_mesh(),
    )

    def series(steps, method):
        return {measure: [step[method][measure] for step in steps] for measure in MEASURES}

    numbers = {
        "steps": list(curves.steps),
        "photos": len(photos),
        "pairs": curves.pairs,
        "methods": {
            method: {
                "chance": curves.chance[method],
                "cascading": series(curves.cascading, method),
                "independent": series(curves.independent, method),
            }
            for method in curves.chance
        },
    }
    _write(experiment, numbers, photos[0], first.label_names[selection.labels[0, 0]], curves.maps)


def _randomise_labels(first: Experiment, permuted: Experiment) -> None:
    """Compares the first variant with the one that was trained on permuted labels."""
    own, other = _variables(first), _variables(permuted)
    photos, selection = _photos(first, own, first)
    made = [
        make_maps_fn(
            experiment.network,
            _preprocessed(experiment, photos),
            selection,
            methods=_methods(first),
            batch_size=min(first.config.sanity.batch_size, len(photos)),
            mesh=parallel.local_mesh(),
        )(variables)
        for experiment, variables in ((first, own), (permuted, other))
    ]
    numbers = {
        "trained": first.name,
        "permuted": permuted.name,
        "photos": len(photos),
        "pairs": int(selection.chosen.sum()),
        "methods": similarities(*made, selection.chosen, photos.shape[1:3]),
        "fit": {first.name: _fit(first, own), permuted.name: _fit(permuted, other)},
    }
    shown = {
        method: np.stack([maps[method][0, 0] for maps in made]) for method in numbers["methods"]
    }
    _write(permuted, numbers, photos[0], first.label_names[selection.labels[0, 0]], shown)


def _fit(experiment: Experiment, variables: Variables) -> dict[str, float]:
    """How well a network knows what it was trained on."""
    config = experiment.config
    batches = experiment.batches(experiment.train_source, config.evaluate.batch_size, shard=(0, 1))
    logits, labels = predict(experiment.network, variables, batches, mesh=parallel.local_mesh())
    probabilities = get_loss(config.train.loss).probabilities(logits)
    right = ((probabilities > 0.5) == labels).all(axis=1)
    return {
        "images": len(labels),
        "all_labels_right": float(right.mean()),
        "f1": classification_scores(probabilities, labels)["f1"]["micro"],
    }


def _photos(
    experiment: Experiment, variables: Variables, first: Experiment
) -> tuple[np.ndarray, Selection]:
    """Photos, uint8 `(n S S 3)`, in which the network detects a label, and the labels."""
    config = experiment.config.sanity
    batches = experiment.batches(
        first.validation_source, config.batch_size, preprocess=np.asarray, shard=(0, 1)
    )
    photos = choose_photos(batches, config.images)["image"]
    selection = detected_labels(experiment.network, variables, _preprocessed(experiment, photos))
    seen = selection.chosen[:, 0]
    if seen.sum() < 2:
        raise ValueError(
            f"{experiment.name} detects a label in {int(seen.sum())} of {len(photos)} photos, and "
            "two are needed: train it longer, or take more sanity.images"
        )
    return photos[seen], jax.tree.map(lambda x: x[seen], selection)


def _preprocessed(experiment: Experiment, photos: np.ndarray) -> np.ndarray:
    return np.asarray(experiment.network.preprocess(photos), np.float32)


def _settings(experiment: Experiment) -> dict[str, Any]:
    config = experiment.config.sanity
    methods = list(_methods(experiment))
    return {"images": config.images, "seed": config.seed, "methods": methods}


def _methods(experiment: Experiment) -> tuple[str, ...]:
    return tuple(experiment.config.sanity.methods) or supported_methods(experiment.network)


def _variables(experiment: Experiment) -> Variables:
    return jax.tree.map(np.asarray, experiment.best_variables())


def _write(
    experiment: Experiment, numbers: Mapping[str, Any], photo: np.ndarray, label: str, maps: Maps
) -> None:
    arrays = {f"maps/{method}": own.astype(np.float32) for method, own in maps.items()}
    files.write_atomically(
        experiment.folder / _PICTURES,
        lambda file: np.savez_compressed(file, photo=photo, label=label, **arrays),
    )
    files.write_json(experiment.folder / _NUMBERS, {"settings": _settings(experiment), **numbers})


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)
