"""The fields of an experiment's config, their defaults, and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """A config with every field; an experiment overrides what it wants and locks it.

    `variants` maps a name to the fields in which that variant differs; entries of a list are
    matched by position.
    """
    config = ConfigDict()
    config.task = "experiment"  # minmax_jax.run.TASKS
    config.title = "Class activation maps for multi-label images"
    config.seed = 0

    config.network = ConfigDict()
    config.network.name = "scenes_resnet"  # minmax_jax.models.NETWORKS
    config.network.head = "dense"  # minmax_jax.models.HEADS
    config.network.alpha = 1.0  # factor of the regularised kernel
    config.network.alpha_end = 20.0  # where "kur_scheduled" takes it,
    config.network.alpha_steps = 1000  # in so many steps
    config.network.regularized = ()  # 1x1 convolutions that are regularised, too
    config.network.dropout = 0.0  # before the head
    config.network.attention = "none"  # minmax_jax.models.ATTENTIONS
    config.network.weights = ""  # file or address (docs/weights.md); "" starts from scratch
    config.network.style = ""  # minmax_jax.models.styles_of; "" is that of the weights
    config.network.dtype = "float32"  # or "bfloat16": of the computation up to the head

    config.data = ConfigDict()
    config.data.source = "scenes"  # minmax_jax.data.SOURCES
    config.data.options = ConfigDict()  # of the source, for every split
    config.data.train = ConfigDict()  # more of them, for the training split
    config.data.validation = ConfigDict()  # and for the validation split
    config.data.workers = 0  # processes that decode images, on each host; 0 is threads
    config.data.image_size = 0  # pixels; 0 is the network's own
    config.data.resize = "crop"  # or "letterbox"
    config.data.permute_labels = False  # of the training images, exchanged among them

    config.augment = ConfigDict()  # minmax_jax.data.Augment
    config.augment.horizontal_flip = False
    config.augment.vertical_flip = False
    config.augment.contrast = False
    config.augment.saturation = False

    config.train = ConfigDict()  # minmax_jax.train.fit
    config.train.batch_size = 32
    config.train.stages = [
        {"epochs": 30, "learning_rate": 0.1, "unfrozen": 0.0},
        {"epochs": 80, "learning_rate": 0.01, "unfrozen": 0.6},
    ]
    config.train.loss = "sigmoid"  # or "softmax": of images with one label, training alone
    config.train.optimizer = "sgd"  # or "adam"
    config.train.momentum = 0.9
    config.train.weight_decay = 0.0
    config.train.plateau_patience = 3
    config.train.plateau_factor = 0.5
    config.train.restore = True  # the best weights, when the learning rate falls
    config.train.early_stop = 20
    config.train.frozen_statistics = False
    config.train.accumulate = 1  # parts of a batch, one after the other, to save memory
    config.train.cache_features = False  # head-only stages pass the frozen layers once
    config.train.keep = 2  # newest checkpoints, beside the best
    config.train.save_seconds = 600.0  # between checkpoints within an epoch

    config.evaluate = ConfigDict()  # minmax_jax.evaluate and its Switches
    config.evaluate.methods = (
        "cam",
        "grad_cam",
        "grad_cam_plus_plus",
        "score_cam",
        "minmax_cam",
        "d_minmax_cam",
        "minmax_grad_cam",
        "d_minmax_grad_cam",
    )
    config.evaluate.batch_size = 32
    config.evaluate.mask_chunk = 0  # masked images in one pass of each device; 0 suits its memory
    config.evaluate.channels = 0  # of an image that Score-CAM looks through; 0 is all, exactly
    config.evaluate.clusters = 0  # of channels that share one look; 0 is none, exactly
    config.evaluate.save_seconds = 180.0  # between saves of what a killed run goes on from
    config.evaluate.present = "detected"
    config.evaluate.fill = "zero"
    config.evaluate.others = "zero"
    config.evaluate.f1 = "per_label"
    config.evaluate.normalize_at = "activation"
    config.evaluate.threshold = 0.15
    config.evaluate.iou = "pooled"
    config.evaluate.curve_steps = 0  # of the insertion and deletion curves; 0 makes none

    config.report = ConfigDict()
    config.report.photos = 8  # in the gallery

    # Of the stages that run only where they are named:
    config.masks = ConfigDict()  # minmax_jax.pseudo_masks
    config.masks.split = "train"  # or "validation"
    config.masks.method = "minmax_cam"
    config.masks.scales = (1.0,)  # of the image, for maps averaged over several
    config.masks.flips = ()  # "horizontal", "vertical"
    config.masks.present = "annotated"  # or "detected"
    config.masks.threshold = 0.3  # of the map, below it is background
    config.masks.batch_size = 16

    config.sanity = ConfigDict()  # minmax_jax.sanity
    config.sanity.methods = ()  # () is all that the network supports
    config.sanity.images = 32
    config.sanity.batch_size = 16
    config.sanity.seed = 0
    config.sanity.permuted = ""  # variant that was trained on permuted labels

    config.analyze = ConfigDict()  # minmax_jax.analyze
    config.analyze.top = 10  # strongest kernels of each label
    config.analyze.batch_size = 32

    config.variants = ConfigDict({"default": {}})
    return config


def tables_config() -> ConfigDict:
    """A config of the task `tables` with every field."""
    config = ConfigDict()
    config.task = "tables"
    config.title = "The paper's tables beside ours"
    config.runs = ""  # workdirs of finished runs: paths or patterns, with commas between
    return config


def pairs_config() -> ConfigDict:
    """A config of the task `pairs` with every field: those of `default_config`, and more."""
    config = default_config()
    config.task = "pairs"
    config.title = "Representative classes"
    config.data.classes = ()  # names of those to take; () is all that the source has

    # The network of all classes (Meng et al., section 4.2).
    config.train.batch_size = 24
    config.train.stages = [{"epochs": 200, "learning_rate": 1e-4, "unfrozen": 1.0}]
    config.train.loss = "softmax"
    config.train.optimizer = "adam"
    config.train.restore = False
    config.train.plateau_patience = 5
    config.train.early_stop = 200

    config.pairs = ConfigDict()  # minmax_jax.pairs
    # What minmax_jax.pairs.select_classes takes; () trains no pairs.
    config.pairs.modes = (
        "random",
        "rank-a",
        "rank-b",
        "cluster-1",
        "cluster-2",
        "cluster-3",
        "cluster-4",
    )
    config.pairs.similarity_from = ""  # variant whose network tells the similarity; "" is the own
    config.pairs.num_clusters = 4
    config.pairs.min_size = 1  # classes in a cluster
    config.pairs.restarts = 32
    config.pairs.single_label = False  # whether pairs see images with a single label alone
    config.pairs.frozen = False  # whether only the heads of pairs are trained, on cached features
    config.pairs.learning_rate = 1e-4
    config.pairs.accuracy = 0.95  # at which a pair is done
    config.pairs.max_epochs = 10
    config.pairs.batch_size = 24
    config.pairs.side_by_side = 0  # pairs trained at once; 0 suits the device

    config.evaluate = ConfigDict()
    config.evaluate.methods = ("cam", "grad_cam")  # of the network of all classes
    config.evaluate.batch_size = 16
    config.evaluate.threshold = 0.15

    config.report.mode = "cluster-1"  # of the photos in the gallery
    config.report.note = ""  # a paragraph under the ablation: why it came out so
    return config


def photos_config() -> ConfigDict:
    """A config of the task `photos` with every field."""
    config = ConfigDict()
    config.task = "photos"
    config.title = "Photos explained"
    config.images = ""  # a file, a folder, a pattern such as "trip/*.jpg", or several with commas

    config.network = ConfigDict()
    config.network.weights = ""  # what minmax_jax.pretrained.load_network takes
    # As the weights say where "" or 0:
    config.network.name = ""  # minmax_jax.models.NETWORKS
    config.network.style = ""  # of the framework that the weights come from
    config.network.dtype = ""  # of the convolutions
    config.network.head = ""  # minmax_jax.models.HEADS
    config.network.alpha = 0.0  # factor of the regularised kernel

    config.methods = ("minmax_cam",)  # minmax_jax.METHODS
    config.names = ""  # file of the labels' names, one a line; "" takes those beside the weights
    config.activation = "auto"  # "sigmoid" or "softmax"; "auto" is what the weights were made for
    config.labels = ""  # "dog,cat" or indices; "" lets the network choose by the next three
    config.top = 3  # labels a photo, softmax
    config.threshold = 0.5  # probability above which a label is detected, sigmoid
    config.at_most = 20  # detected labels explained a photo, sigmoid

    config.batch_size = 8
    config.image_size = 0  # pixels; 0 is the network's own
    config.resize = "letterbox"  # the whole photo; or "crop", its centred square
    # Score-CAM's masked images in one forward pass on each device; 0 is chosen by its memory:
    config.mask_chunk = 0
    config.channels = 0  # of a photo that Score-CAM looks through; 0 is all, exactly
    config.clusters = 0  # of channels that share one look; 0 is none, exactly
    return config


def select_variant(config: ConfigDict, name: str | None) -> ConfigDict:
    """Keeps one of the variants, as in `--config FILE:VARIANT`; all of them without a name.

    Raises:
      ValueError: for an unknown variant, listing the valid ones.
    """
    if name is None:
        return config
    if name not in config.variants:
        raise ValueError(f"unknown variant {name!r}; variants: {', '.join(config.variants)}")
    config.variants = ConfigDict({name: config.variants[name]})
    return config


def resolve_variant(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one variant: the shared fields with the variant's own in their place.

    Raises:
      ValueError: if the variant names a field that the config does not have.
    """
    base = config.to_dict()
    overrides = base.pop("variants")[name]
    return ConfigDict(_override(base, overrides, f"variants.{name}"))


def _override(base: Any, overrides: Any, path: str) -> Any:
    if isinstance(base, Mapping) and isinstance(overrides, Mapping):
        # The options of a source are its own; everything else is listed in `default_config`.
        unknown = sorted(set(overrides) - set(base))
        if unknown and not path.split(".", 2)[-1].startswith("data."):
            raise ValueError(f"{path}: unknown field {unknown[0]!r}; fields: {', '.join(base)}")
        return {
            key: _override(base[key], overrides[key], f"{path}.{key}")
            if key in base and key in overrides
            else (overrides[key] if key in overrides else base[key])
            for key in dict.fromkeys([*base, *overrides])
        }
    if isinstance(base, list | tuple) and base and isinstance(base[0], Mapping):
        if len(overrides) > len(base):
            raise ValueError(f"{path}: {len(overrides)} entries for a list of {len(base)}")
        return [
            _override(entry, overrides[i], f"{path}[{i}]") if i < len(overrides) else entry
            for i, entry in enumerate(base)
        ]
    return overrides


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Fields in which two nests of dicts and lists differ, `field: FIRST, SECOND` each."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        absent = object()
        found = []
        for key in dict.fromkeys([*first, *second]):
            inner = f"{path}.{key}" if path else str(key)
            values = first.get(key, absent), second.get(key, absent)
            if absent in values:
                found.append(f"{inner}: only in one of them")
            else:
                found += differences(*values, inner)
        return found
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            row
            for i, pair in enumerate(zip(first, second, strict=True))
            for row in differences(*pair, f"{path}[{i}]")
        ]
    return [] if first == second else [f"{path}: {first!r}, {second!r}"]
