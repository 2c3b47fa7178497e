"""The task `pairs`: representative classes and multi-layer maps (Meng et al.), stage by stage.

train      the network of all classes, on images with a single label
pairs      similarity, clusters, representative classes, the classifiers of pairs
evaluate   mIoU of every selection, of every single pair, and of the network of all classes
report     the paper's tables and figures
"""

from __future__ import annotations

import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from minmax_jax import data, files, parallel
from minmax_jax.config import resolve_variant
from minmax_jax.data.choose import ChosenClasses
from minmax_jax.experiment import Experiment
from minmax_jax.metrics.iou_curve import THRESHOLDS
from minmax_jax.models import Network, create_network
from minmax_jax.models.network import Variables
from minmax_jax.pairs import evaluate as evaluate_lib
from minmax_jax.pairs import gallery
from minmax_jax.pairs.clustering import cluster_classes
from minmax_jax.pairs.files import read_pair
from minmax_jax.pairs.maps import PairMaps
from minmax_jax.pairs.selection import parse_mode, select_classes
from minmax_jax.pairs.similarity import network_similarity
from minmax_jax.pairs.training import fit_pairs, needed_pairs, pair_examples
from minmax_jax.pretrained import load_network
from minmax_jax.report import pairs_page
from minmax_jax.train.cached import compute_features, head_network

STAGES = ("train", "pairs", "evaluate", "report")
# One stream of random numbers each.
_CLUSTERS, _RANDOM = 0, 1
# Fields of config.pairs that `fit_pairs` takes.
_FITTING = ("learning_rate", "accuracy", "max_epochs", "batch_size", "side_by_side")


def prepare(config: ConfigDict, workdir: pathlib.Path, stages: Sequence[str]) -> Callable[[], None]:
    """Checks a config; what is returned runs the stages, of every variant.

    Args:
      config: as `config.pairs_config` makes it.
      workdir: folder of the results.
      stages: of `STAGES`.

    Raises:
      ValueError: for whatever the config has wrong, before anything is computed.
    """
    if jax.process_count() > 1:
        raise ValueError("pairs are trained by one process, here are several")
    variants = {
        name: Pairs(resolve_variant(config, name), name, workdir) for name in config.variants
    }
    for variant in variants.values():
        variant.check(stages, variants)

    def work() -> None:
        for stage in STAGES[:-1]:
            for variant in variants.values() if stage in stages else ():
                getattr(variant, stage)(*([variants] if stage == "pairs" else []))
        if "report" in stages:
            path = pairs_page.write_report(
                workdir, list(variants), title=config.title, note=config.report.note
            )
            print(pairs_page.text_tables(workdir, list(variants)))
            print(f"report: {path}")

    return work


class _AllClasses(Experiment):
    """The network of all classes, which sees images with a single label."""

    def __init__(self, config: ConfigDict, name: str, folder: pathlib.Path, pairs: Pairs):
        super().__init__(config, name, folder)
        self._pairs = pairs

    @functools.cached_property
    def train_source(self) -> data.Source:
        return self._pairs.single("train")

    @functools.cached_property
    def validation_source(self) -> data.Source:
        return self._pairs.single("validation")

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._pairs.label_names  # No image needs to be read for them.


class Pairs:
    """One variant: a network, and its classifiers of pairs."""

    def __init__(self, config: ConfigDict, name: str, workdir: pathlib.Path):
        self.config, self.name, self.folder = config, name, workdir / name
        self._workdir = workdir
        self._all = _AllClasses(config, name, self.folder / "all", self)
        # By split, opened when first asked for.
        self._source, self.store = map(functools.cache, (self._make_source, self._make_store))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._source("validation").label_names

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh | None:
        return parallel.local_mesh()

    def _make_source(self, split: str) -> data.Source:
        options = self.config.data
        source = data.create_source(options.source, split, **{**options.options, **options[split]})
        return ChosenClasses(source, options.classes) if options.classes else source

    def _make_store(self, split: str) -> data.Store:
        """The examples of a split, decoded once for all variants of one image size."""
        options = self.config.data
        size = options.image_size or self._all.network.image_size
        directory = self._workdir / "examples" / f"{split}-{size}-{options.resize}"
        return data.make_store(
            self._source(split), directory, image_size=size, resize=options.resize
        )

    def single(self, split: str) -> data.Store:
        """Those with a single label.

        Raises:
          ValueError: naming the classes that have none to train on.
        """
        store = self.store(split)
        chosen = store.subset(store.single_label())
        missing = [
            name
            for name, number in zip(self.label_names, chosen.labels.sum(axis=0), strict=True)
            if not number
        ]
        if missing and split == "train":
            raise ValueError(
                f"no training image has a single label for: {', '.join(missing)}; "
                "leave them out by data.classes"
            )
        return chosen

    def _options(self) -> dict[str, Any]:
        """What the two-unit network shares with that of all classes; its head is a plain one."""
        fields = ("name", "dropout", "dtype", "attention", "style", "regularized")
        return {field: self.config.network[field] for field in fields} | {"num_labels": 2}

    @functools.cached_property
    def _network(self) -> Network:
        """The architecture with two units."""
        options = self._options()
        return create_network(**options | {"style": options["style"] or self._all.network.style})

    @functools.cached_property
    def _start(self) -> Variables:
        """Where all pairs start: at the weights of the config, with a fresh head of two units.

        Without weights, at those of the network of all classes.
        """
        key = jax.random.key(self.config.seed)
        if self.config.network.weights:
            return load_network(self.config.network.weights, key=key, **self._options()).variables
        variables = jax.tree.map(np.asarray, self._all.best_variables())
        head = self._network.init(key)["params"]["head"]
        return {**variables, "params": {**variables["params"], "head": head}}

    def check(self, stages: Sequence[str], variants: dict[str, Pairs]) -> None:
        """Builds whatever the stages name, so that a wrong name or file is known at once."""
        config = self.config.pairs
        number = len(self.label_names)
        for mode in config.modes:
            parse_mode(mode, number)
        if config.modes and config.num_clusters * config.min_size > number:
            raise ValueError(
                f"{number} classes cannot be {config.num_clusters} clusters of at least "
                f"{config.min_size}"
            )
        if config.similarity_from not in ("", *variants) and config.modes:
            raise ValueError(
                f"pairs.similarity_from names no variant: {config.similarity_from!r}; variants: "
                f"{', '.join(variants)}"
            )
        if config.modes and self.config.report.mode not in config.modes:
            raise ValueError(
                f"report.mode {self.config.report.mode!r} is not among pairs.modes: "
                f"{', '.join(config.modes)}"
            )
        if not self._source("validation").has_masks:
            raise ValueError("mIoU needs masks, and the validation data have none")
        self._all.check_fields()
        # With weights from elsewhere, this opens them and finds out whether they fit.
        evaluate_lib.check_methods(self._all.network, self.config.evaluate.methods)

    def train(self) -> None:
        self._all.train()

    def pairs(self, variants: dict[str, Pairs]) -> None:
        """Similarity, clusters, representative classes, classifiers."""
        config, result = self.config.pairs, self.folder / "pairs.json"
        if not config.modes:
            return
        if result.exists():
            print(f"{self.name}: pairs trained already")
            return
        print(f"{self.name}: pairs", flush=True)
        similarity = variants[config.similarity_from or self.name].similarity()
        key = jax.random.key(self.config.seed)
        clusters = cluster_classes(
            jax.random.fold_in(key, _CLUSTERS),
            similarity,
            num_clusters=config.num_clusters,
            min_size=config.min_size,
            restarts=config.restarts,
        )
        selections = {
            # The oracle chooses by scores, which are not there before the evaluation.
            mode: select_classes(
                similarity,
                mode="all" if _is_oracle(mode) else mode,
                clusters=clusters,
                key=jax.random.fold_in(key, _RANDOM),
            )
            for mode in config.modes
        }
        images = self.single("train").labels.sum(axis=0)
        files.write_atomically(
            self.folder / "similarity.npz",
            lambda file: np.savez(file, similarity=similarity, clusters=clusters, images=images),
        )
        files.write_json(self.folder / "selections.json", selections)
        wanted = needed_pairs(selections.values())
        began = time.monotonic()
        self._fit(wanted)
        rows = []
        labels = self._examples().labels
        for i, j in wanted:
            pair = read_pair(self.folder / "pairs", i, j)
            rows.append(
                {
                    "classes": [i, j],
                    "examples": len(pair_examples(labels, i, j)),
                    "accuracy": pair.accuracy,
                    "epochs": pair.epochs,
                    "converged": pair.converged,
                }
            )
        files.write_json(
            result,
            {"pairs": rows, "seconds": time.monotonic() - began, "frozen": config.frozen},
        )
        never = sum(not row["converged"] for row in rows)
        print(f"{self.name}: {len(rows)} pairs, {never} below accuracy {config.accuracy}")

    def similarity(self) -> np.ndarray:
        """`(n n)`, from the network of all classes over its training images."""
        batches = self._all.batches(self.single("train"), self.config.evaluate.batch_size)
        return network_similarity(
            self._all.network, self._all.best_variables(), batches, mesh=self._mesh
        )

    def _examples(self) -> data.Store:
        """What the pairs are trained on."""
        return self.single("train") if self.config.pairs.single_label else self.store("train")

    def _fit(self, wanted: Sequence[tuple[int, int]]) -> None:
        config, store = self.config.pairs, self._examples()
        network, variables, take = self._network, self._start, store.take
        if config.frozen:
            batches = self._all.batches(store, self.config.evaluate.batch_size)
            features, _ = compute_features(
                network, variables, batches, mesh=self._mesh, progress=True
            )
            network, take = head_network(network), features.__getitem__
        fit_pairs(
            network,
            variables,
            take,
            store.labels,
            wanted,
            directory=self.folder / "pairs",
            seed=self.config.seed,
            trained=self._trained_layers(),
            frozen_statistics=self.config.train.frozen_statistics,
            mesh=self._mesh,
            **{field: config[field] for field in _FITTING},
        )

    def _trained_layers(self) -> tuple[str, ...] | None:
        return ("head",) if self.config.pairs.frozen else None

    def evaluate(self) -> None:
        """mIoU of all rows, and the maps of a few photos."""
        result, pairs = self.folder / "evaluation.json", self.config.pairs
        if result.exists():
            print(f"{self.name}: evaluated already")
            return
        variables = self._all.best_variables()
        if pairs.modes and not (self.folder / "pairs.json").exists():
            raise ValueError(f"{self.folder} holds no pairs: run the pairs stage first")
        print(f"{self.name}: evaluating", flush=True)
        config, store = self.config.evaluate, self.store("validation")
        states = self.folder / "evaluation_state"
        annotated = store.take, store.labels, store.masks
        options = {"batch_size": config.batch_size, "threshold": config.threshold}
        rows = evaluate_lib.evaluate_method(
            self._all.network,
            variables,
            *annotated,
            methods=config.methods,
            mesh=self._mesh,
            state_directory=states / "all",
            **options,
        )
        table_1 = None
        if pairs.modes:
            selections = files.read_json(self.folder / "selections.json")
            trained = set(needed_pairs(selections.values()))
            number = len(self.label_names)
            singles = {
                name: [
                    [s for s in others if (min(i, s), max(i, s)) in trained]
                    for i, others in enumerate(lists)
                ]
                for name, lists in evaluate_lib.single_combinations(number).items()
            }
            score = functools.partial(evaluate_lib.evaluate_pairs, self._pair_maps())
            chosen = {mode: lists for mode, lists in selections.items() if not _is_oracle(mode)}
            # Together, so that each map is made once.
            scores = score(
                singles | chosen, *annotated, state_directory=states / "pairs", **options
            )
            table_1 = evaluate_lib.table_1(scores, number)
            rows |= {row: scores[row] for row in scores if row.partition("+")[0] in chosen}
            oracle = self._oracle(table_1["last"])
            if oracle:
                rows |= score(oracle, *annotated, state_directory=states / "oracle", **options)
            selections = chosen | oracle
            files.write_json(self.folder / "selections.json", selections)
            self._write_gallery(variables, selections[self.config.report.mode])
        files.write_json(
            result,
            {
                "label_names": list(self.label_names),
                "threshold": config.threshold,
                "thresholds": [round(float(threshold), 2) for threshold in THRESHOLDS],
                "images": store.labels.sum(axis=0).tolist(),
                "rows": rows,
                "table_1": table_1,
                "settings": {"present": "annotated", "methods": list(config.methods)},
            },
        )
        shutil.rmtree(states, ignore_errors=True)

    def _pair_maps(self, *, layers: bool = False) -> PairMaps:
        return PairMaps(
            self._network,
            self._start,
            functools.partial(read_pair, self.folder / "pairs"),
            trained=self._trained_layers(),
            layers=layers,
            mesh=self._mesh,
        )

    def _oracle(self, scores: list[list[float | None]]) -> dict[str, list[list[int]]]:
        """Representative classes of the modes that choose by the scores themselves."""
        similarity = np.zeros((len(self.label_names),) * 2)
        modes = filter(_is_oracle, self.config.pairs.modes)
        return {mode: select_classes(similarity, mode=mode, scores=scores) for mode in modes}

    def _write_gallery(self, variables: Variables, selection: list[list[int]]) -> None:
        store = self.store("validation")
        arrays = gallery.make_gallery(
            self._pair_maps(layers=True),
            self._all.network,
            variables,
            store,
            selection,
            photos=gallery.choose_photos(store, self.config.report.photos),
        )
        files.write_atomically(
            self.folder / "gallery.npz", lambda file: np.savez_compressed(file, **arrays)
        )


def _is_oracle(mode: str) -> bool:
    """Whether a mode chooses by the scores of the maps themselves."""
    return mode.startswith("top-")
