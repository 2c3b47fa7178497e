"""One variant of an experiment: its network, its data, its folder, and the stages that fill it."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from minmax_jax import data, files, parallel
from minmax_jax.data import images as images_lib
from minmax_jax.data.permute import PermutedLabels
from minmax_jax.evaluate import Switches, evaluate
from minmax_jax.explain import make_explain_fn
from minmax_jax.gallery import choose_photos, make_gallery
from minmax_jax.methods import group_methods
from minmax_jax.metrics.classification import classification_scores
from minmax_jax.models import Network, create_network
from minmax_jax.predict import predict
from minmax_jax.pretrained import Loaded, load_network
from minmax_jax.pretrained.description import (
    NETWORK_JSON,
    Description,
    read_network_json,
    write_network_json,
)
from minmax_jax.train import Stage, fit, restore_best
from minmax_jax.train.losses import get_loss
from minmax_jax.train.stages import frozen_layers
from minmax_jax.train.step import make_optimizer

_TRAINING = (
    "loss",
    "optimizer",
    "momentum",
    "weight_decay",
    "plateau_patience",
    "plateau_factor",
    "restore",
    "early_stop",
    "frozen_statistics",
    "accumulate",
    "cache_features",
    "keep",
    "save_seconds",
)
_SWITCHES = tuple(field.name for field in dataclasses.fields(Switches))


class Experiment:
    """One variant: its network, its data, its folder."""

    def __init__(self, config: ConfigDict, name: str, folder: pathlib.Path):
        self.config, self.name, self.folder = config, name, folder

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh | None:
        """All devices of all processes; None for a single one."""
        return parallel.make_mesh() if jax.device_count() > 1 else None

    @functools.cached_property
    def train_source(self) -> data.Source:
        return self._source("train")

    @functools.cached_property
    def validation_source(self) -> data.Source:
        return self._source("validation")

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.validation_source.label_names

    @functools.cached_property
    def network(self) -> Network:
        """The network that training left word of, else that of the config and its weights."""
        if (self.folder / NETWORK_JSON).exists():
            return create_network(**read_network_json(self.folder).arguments)
        if self.config.network.weights:
            return self._load_pretrained().network
        style = self.config.network.style or None
        return create_network(style=style, **self._network_options())

    def _network_options(self) -> dict[str, Any]:
        """What `create_network` and `load_network` alike are told."""
        fields = ("name", "head", "alpha", "alpha_end", "alpha_steps")
        fields += ("dropout", "attention", "dtype")
        options = {field: self.config.network[field] for field in fields}
        regularized = tuple(self.config.network.regularized)
        return options | {"regularized": regularized, "num_labels": len(self.label_names)}

    def check(self, stages: Sequence[str]) -> None:
        """Builds whatever the stages name, so that a wrong name or file is known at once."""
        config = self.config
        self.check_fields()
        Switches(**self._switches())
        group_methods(config.evaluate.methods)
        if {"train", "evaluate"} & set(stages):
            # With weights from elsewhere, this opens them and finds out whether they fit.
            network = self.network
            make_explain_fn(network, config.evaluate.methods, **self._masking())
        if "train" in stages and not self.trained():
            self._train_batches()
            if self.train_source.label_names != self.validation_source.label_names:
                raise ValueError("training and validation data have different labels")

    def check_fields(self) -> None:
        """Raises `ValueError` for what training and data have wrong before any file is read."""
        config = self.config.train
        if not config.stages:
            raise ValueError("train.stages names no stage")
        for stage in config.stages:
            try:
                frozen_layers((), Stage(**stage).unfrozen)
            except TypeError as error:
                raise ValueError(f"train.stages: {error}") from error
        get_loss(config.loss)
        make_optimizer(config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay)
        for field in ("train.accumulate", "evaluate.batch_size", "report.photos"):
            if self.config[field] < 1:
                raise ValueError(f"{field} must be at least 1, not {self.config[field]}")
        data.Augment(**self.config.augment)
        images_lib.check_resize(self.config.data.resize)

    def trained(self) -> bool:
        """Whether the training is finished."""
        return self._has("classification.json")

    def _has(self, *names: str) -> bool:
        """Whether all these results are there, as process 0 sees it."""
        return parallel.agree(all((self.folder / name).exists() for name in names))

    def _switches(self) -> dict[str, Any]:
        return {field: self.config.evaluate[field] for field in _SWITCHES}

    def _masking(self) -> dict[str, int | None]:
        """What `evaluate` is told about Score-CAM; 0 is its default."""
        fields = ("mask_chunk", "channels", "clusters")
        return {field: self.config.evaluate[field] or None for field in fields}

    def _load_pretrained(self) -> Loaded:
        return load_network(
            self.config.network.weights,
            style=self.config.network.style,
            key=jax.random.key(self.config.seed),
            **self._network_options(),
        )

    def _source(self, split: str) -> data.Source:
        options = self.config.data
        # Permuted labels are only learned by heart: how far that went, the training images tell.
        read = "train" if options.permute_labels else split
        source = data.create_source(options.source, read, **{**options.options, **options[read]})
        return PermutedLabels(source, self.config.seed) if options.permute_labels else source

    def batches(self, source: data.Source, batch_size: int, **options: Any) -> data.Batches:
        """Batches as the network eats them; options as those of `data.batches`."""
        shared = {
            "image_size": self.config.data.image_size or self.network.image_size,
            "preprocess": self.network.preprocess,
            "resize": self.config.data.resize,
            "shard": parallel.shard(),
        }
        return data.batches(source, batch_size=batch_size, **shared | options)

    def _train_batches(self) -> data.Batches:
        config = self.config.train
        part = config.batch_size // config.accumulate
        parallel.check_rows(self.mesh, part, "train.batch_size over train.accumulate")
        return self.batches(
            self.train_source,
            config.batch_size,
            seed=self.config.seed,
            epochs=None,
            augment=data.Augment(**self.config.augment),
            drop_remainder=True,
            workers=self.config.data.workers,
        )

    def train(self) -> None:
        if self.trained():
            print(f"{self.name}: trained already")
            return
        print(f"{self.name}: training", flush=True)
        config = self.config.train
        # Threads: worker processes would start anew for each epoch's validation.
        validation = self.batches(self.validation_source, self.config.evaluate.batch_size)
        self._describe_network()
        variables, history = fit(
            self.network,
            self._initial_variables(),
            self._train_batches(),
            validation,
            stages=[Stage(**stage) for stage in config.stages],
            directory=self.folder,
            seed=self.config.seed,
            mesh=self.mesh,
            progress=parallel.is_first(),
            **{field: config[field] for field in _TRAINING},
        )
        logits, labels = predict(
            self.network, variables, validation, mesh=self.mesh, progress=parallel.is_first()
        )
        scores = classification_scores(get_loss(config.loss).probabilities(logits), labels)
        files.write_json(self.folder / "history.json", {"epochs": history})
        files.write_json(
            self.folder / "classification.json",
            scores | {"label_names": list(self.label_names)},
        )

    def _describe_network(self) -> None:
        """Leaves word of the network beside its checkpoints, for whoever wants its weights."""
        description = Description(
            style=self.network.style,
            preprocess=self.network.preprocess,
            label_names=self.label_names,
            activation=self.config.train.loss,
            **self._network_options(),
        )
        write_network_json(self.folder, description)

    def _initial_variables(self) -> Any:
        if not self.config.network.weights:
            return self.network.init(jax.random.key(self.config.seed))
        loaded = self._load_pretrained()
        for note in loaded.notes:
            print(f"{self.config.network.weights}: {note}")
        return loaded.variables

    def best_variables(self) -> Any:
        """The weights of the lowest validation loss.

        Raises:
          ValueError: if the network is not trained.
        """
        if not self.trained():
            raise ValueError(f"{self.folder} holds no trained network: run the train stage first")
        return restore_best(self.folder, self.network, mesh=self.mesh)

    def evaluate(self) -> None:
        results, gallery = "evaluation.json", "gallery.npz"
        if self._has(results, gallery):
            print(f"{self.name}: evaluated already")
            return
        variables = self.best_variables()
        print(f"{self.name}: evaluating", flush=True)
        config = self.config.evaluate
        shared = {"methods": config.methods} | self._masking()
        if not self._has(gallery) and parallel.is_first():
            raw = self.batches(
                self.validation_source,
                config.batch_size,
                preprocess=_as_they_are,
                shard=(0, 1),
            )
            arrays = make_gallery(
                self.network,
                jax.tree.map(np.asarray, variables),
                choose_photos(raw, self.config.report.photos),
                batch_size=config.batch_size,
                present=config.present,
                **shared,
            )
            files.write_atomically(
                self.folder / gallery, lambda file: np.savez_compressed(file, **arrays)
            )
        evaluation = evaluate(
            self.network,
            jax.tree.map(np.asarray, variables),
            self.batches(
                self.validation_source, config.batch_size, workers=self.config.data.workers
            ),
            label_names=self.label_names,
            state_path=self.folder / "evaluation_state.npz",
            save_seconds=config.save_seconds,
            mesh=parallel.local_mesh(),
            progress=parallel.is_first(),
            **shared,
            **self._switches(),
        )
        evaluation["settings"]["images_skipped"] = len(self.validation_source.skipped)
        files.write_json(self.folder / results, evaluation)
        if parallel.is_first():
            for state in self.folder.glob("evaluation_state*.npz"):
                state.unlink()


def _as_they_are(images: np.ndarray) -> np.ndarray:
    return images
