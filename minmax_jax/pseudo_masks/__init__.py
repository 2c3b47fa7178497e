"""Pseudo-masks: maps cut into index masks, from which a segmentation network can be trained.

They are written in the layout of VOC (`mask_files`), at the images' own resolution, and scored
where the true masks are known. A pixel belongs to the label whose map is highest there, or to the
background where that is below a threshold; it is void where the network did not see it: outside the
centred square, with `resize="crop"`.
"""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import data, files, parallel
from minmax_jax.augmented import make_augmented_fn
from minmax_jax.config import differences
from minmax_jax.data.images import VOID
from minmax_jax.evaluate import PRESENT
from minmax_jax.metrics import boxes, localization, segmentation
from minmax_jax.metrics.sums import Score
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import fill_up
from minmax_jax.pseudo_masks import mask_files
from minmax_jax.pseudo_masks import state as state_lib
from minmax_jax.report.tables import Column, Table, render_text
from minmax_jax.sweep_state import fingerprint

FOLDER, SCORES = "pseudo_masks", "scores.json"
SPLITS = ("train", "validation")
# 0.00, 0.05, ..., 0.95: where the background could be cut as well.
THRESHOLDS = tuple(number / 20 for number in range(20))
_STATE = "state.npz"


def write_pseudo_masks(
    network: Network,
    variables: Variables,
    batches: data.Batches,
    folder: str | os.PathLike,
    *,
    split: str = "train",
    method: str = "minmax_cam",
    scales: Sequence[float] = (1.0,),
    flips: Sequence[str] = (),
    present: str = "annotated",
    threshold: float = 0.3,
    mesh: jax.sharding.Mesh | None = None,
    save_seconds: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the pseudo-masks of a data set, and scores them if it has masks.

    Files appear whole or not at all. A killed call goes on where it was at its last save, with the
    same result; one that is finished only reads its scores.

    Args:
      network, variables: as in `explain`.
      batches: each image once, in the source's order.
      folder: where the files go; it belongs to one source, one network and one choice of options.
      split: "train" or "validation", after which the list of names is called.
      method: a name in `METHODS`.
      scales, flips: as in `augmented_cam`.
      present: the labels of an image: "annotated", or "detected" (probability above 0.5).
      threshold: 0..1; pixels at which all maps are below it are background.
      mesh: devices of this process over which images are split (`parallel.local_mesh`).
      save_seconds: between saves of what a killed call goes on from.
      progress: whether to show a progress bar.

    Returns:
      What `FOLDER/scores.json` holds: `label_names`, `settings`, among them a digest of the
      weights, the numbers of `images` and of `pairs` of an image and a label, and `scores`, which
      is None without masks: `iou` (`metrics.segmentation.result` at the threshold), `best_iou` and
      `best_threshold` (that of the highest mean, among `THRESHOLDS` and the threshold), `boxes`
      (`metrics.boxes.max_box_accuracy`) and `pointing_game` (`micro`, `macro`, `per_label`) of the
      pairs whose object the network saw, and `unseen`, the share of pixels that it did not see,
      which are not scored.

    Raises:
      ValueError: as `make_augmented_fn`; for another split, `present` or threshold, more than 254
        labels, logits that are not finite, and a folder of other settings or weights, naming them.
    """
    explain_fn = make_augmented_fn(network, method, scales=scales, flips=flips, mesh=mesh)
    settings = _settings(batches, split, method, scales, flips, present, threshold)
    settings["weights"] = fingerprint(variables, [])[:16]
    folder = pathlib.Path(folder)
    if (folder / SCORES).exists():
        return _finished(folder, settings)
    source = batches.source
    writer = _Writer(source, folder, batches.resize, threshold)
    identity = fingerprint({}, [settings, batches.batch_size, len(source)])
    counts = state_lib.load(folder / _STATE, identity) or writer.nothing()
    rest = batches.from_batch(int(counts.batches))
    explained = _explained(network, explain_fn, variables, rest, present, mesh)
    bar = tqdm(
        total=len(batches),
        initial=int(counts.batches),
        desc="pseudo-masks",
        unit="batch",
        disable=not progress,
    )
    saved = time.monotonic()
    with bar, futures.ThreadPoolExecutor() as pool:
        # The device explains the next batch while the host writes this one.
        for indices, labels, chosen, maps, logits, point in parallel.ahead(explained):
            maps = np.asarray(maps)
            rows = range(len(indices))
            if not np.isfinite(np.asarray(logits)[: len(rows)]).all():
                batch = int(counts.batches)
                raise ValueError(f"the network's logits are not finite in batch {batch}")
            own_labels = [labels[row][chosen[row]] for row in rows]
            own_maps = [maps[row][chosen[row]] for row in rows]
            images = pool.map(writer.write, indices.tolist(), own_labels, own_maps)
            counts = state_lib.add(counts, list(images))
            if point is not None:
                score = Score(np.ravel(point.value), np.ravel(np.asarray(point.defined) & chosen))
                counts = state_lib.add_pointing(counts, score, labels.ravel())
            bar.update()
            if time.monotonic() - saved >= save_seconds:
                state_lib.save(folder / _STATE, identity, counts)
                saved = time.monotonic()
    mask_files.write_lists(folder, split, writer.names, source.label_names)
    scored = source.has_masks
    result = {
        "label_names": list(source.label_names),
        "settings": settings,
        "images": int(counts.images),
        "pairs": int(counts.pairs),
        "scores": state_lib.scores(counts, writer.thresholds, threshold) if scored else None,
    }
    files.write_json(folder / SCORES, result)
    (folder / _STATE).unlink(missing_ok=True)
    return result


def stage(experiments: Sequence[Any], workdir: pathlib.Path) -> None:
    """Writes the pseudo-masks of every variant of an experiment to `workdir/VARIANT/pseudo_masks`.

    Args:
      experiments: trained ones (`experiment.Experiment`), whose `config.masks` holds `batch_size`
        and the options of `write_pseudo_masks` from `split` to `threshold`.
      workdir: of the run.

    Raises:
      ValueError: as `write_pseudo_masks`, and for a network that is not trained.
    """
    results = {}
    for experiment in experiments:
        options = experiment.config.masks.to_dict()
        batch_size = options.pop("batch_size")
        _check_split(options["split"])
        source = getattr(experiment, f"{options['split']}_source")
        folder = workdir / experiment.name / FOLDER
        already = " are there already" if (folder / SCORES).exists() else ""
        print(f"{experiment.name}: pseudo-masks{already}", flush=True)
        results[experiment.name] = write_pseudo_masks(
            experiment.network,
            jax.tree.map(np.asarray, experiment.best_variables()),
            experiment.batches(source, batch_size),
            folder,
            mesh=parallel.local_mesh(),
            **options,
        )
    scores = {name: result["scores"] for name, result in results.items() if result["scores"]}
    if scores:
        print(render_text(scores_table(scores)), end="\n\n")
    for name, result in results.items():
        print(f"{result['images']} pseudo-masks: {workdir / name / FOLDER}")


def scores_table(scores: dict[str, dict[str, Any]]) -> Table:
    """One row a variant: how well its masks, boxes and highest points meet the true masks.

    Args:
      scores: `{variant: the scores of write_pseudo_masks}`.
    """
    columns = (
        Column("mIoU", hint="mean over background and labels, at the threshold"),
        Column("background", hint="IoU of the background, at the threshold"),
        Column("best mIoU", hint="at the threshold that is best for these masks"),
        Column("at threshold", unit="fraction"),
        Column("MaxBoxAcc"),
        Column("MaxBoxAcc V2"),
        Column("Point", hint="pointing game"),
    )
    values = tuple(
        (
            of["iou"]["mean"],
            of["iou"]["background"],
            of["best_iou"]["mean"],
            of["best_threshold"],
            of["boxes"]["v1"]["micro"],
            of["boxes"]["v2"]["micro"],
            of["pointing_game"]["micro"],
        )
        for of in scores.values()
    )
    rows = tuple((name,) for name in scores)
    return Table("Pseudo-masks against the true masks", ("variant",), columns, rows, values)


class _Writer:
    """Writes the masks of one source, and tells what is counted of them."""

    def __init__(self, source, folder, resize, threshold):
        self.source, self.folder, self.resize = source, folder, resize
        self.threshold, self.thresholds = threshold, sorted({*THRESHOLDS, threshold})
        self.names = mask_files.example_names(source)
        self.paths = getattr(source, "image_paths", None)

    def nothing(self):
        return state_lib.zero(len(self.thresholds), len(self.source.label_names))

    def write(self, index: int, labels: np.ndarray, maps: np.ndarray) -> state_lib.Image:
        """Writes the mask of image `index`, of whose labels `(n,)` the maps are `(n S S)`."""
        example = self.source[index]
        shape = example["image"].shape[:2]
        restore = functools.partial(
            mask_files.restore_maps, height=shape[0], width=shape[1], resize=self.resize
        )
        seen, nothing = restore(maps[:0])
        true = example["mask"][seen] if self.source.has_masks else None
        heights = np.zeros(nothing.shape[1:], np.float32)
        winners = np.zeros(heights.shape, np.uint8)
        ious = {}
        for label, small in zip(labels.tolist(), maps, strict=True):  # photos may be large
            map_ = restore(small[None])[1][0]
            higher = (map_ > heights) | (winners == 0)
            heights[higher], winners[higher] = map_[higher], 1 + label
            if true is not None and (found := boxes.pair_ious(map_, true, label)) is not None:
                ious[label] = found
        mask = np.full(shape, VOID, np.uint8)
        mask[seen] = np.where(heights >= self.threshold, winners, 0)
        if self.paths:
            mask = mask_files.over_stored_pixels(mask, self.paths[index])
        mask_files.write_mask(self.folder, self.names[index], mask)
        confusions = None
        if true is not None:
            num_labels = len(self.source.label_names)
            confusions = np.stack(
                [
                    segmentation.confusion(true, np.where(heights >= level, winners, 0), num_labels)
                    for level in self.thresholds
                ]
            )
        return state_lib.Image(len(labels), mask.size, heights.size, confusions, ious)


def _explained(network, explain_fn, variables, batches, present, mesh) -> Iterator[tuple]:
    """Of each batch the indices `(b,)`, labels and which of them count `(b n)`, their maps
    `(b n S S)` and logits, still on the device, and their pointing game; rows fill up the last
    batch."""
    size = parallel.even_rows(mesh, batches.batch_size)
    for batch in batches:
        images = fill_up(batch["image"], size)
        valid = np.arange(size) < len(batch["image"])
        if present == "annotated":
            members = fill_up(batch["labels"], size)
        else:
            members = np.asarray(_detect_fn(network)(variables, images)) & valid[:, None]
        # Few different numbers of labels, as each is a program of its own.
        most = max(4, 1 << (int(members.sum(axis=1).max()) - 1).bit_length())
        labels = np.argsort(~members, axis=1, kind="stable")[:, :most]
        maps, logits = explain_fn(variables, images, members, valid, labels)
        point = None
        if "mask" in batch:
            point = _pointing_fn(maps, fill_up(batch["mask"], size), labels)
        chosen = np.take_along_axis(members, labels, axis=1)
        yield batch["index"], labels, chosen, maps, logits, point


@functools.lru_cache(maxsize=16)
def _detect_fn(network):
    return jax.jit(lambda variables, images: network.apply(variables, images)[0] > 0)


@jax.jit
def _pointing_fn(maps, segmentations, labels):
    """Scores `(b n)` of maps `(b n H W)` over segmentations `(b H W)`."""

    def of_pair(mask, segmentation, label):
        return localization.pair_scores(mask, segmentation, label, threshold=0)["pointing_game"]

    return jax.vmap(jax.vmap(of_pair, in_axes=(0, None, 0)))(maps, segmentations, labels)


def _settings(batches, split, method, scales, flips, present, threshold):
    """The choices that make the masks, checked, as JSON values."""
    _check_split(split)
    if not isinstance(method, str):
        raise ValueError(f"method must be a name, not {method!r}")
    if present not in PRESENT:
        raise ValueError(f"present must be one of {', '.join(PRESENT)}, not {present!r}")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], not {threshold!r}")
    number = len(batches.source.label_names)
    if number >= VOID:
        raise ValueError(f"index masks hold at most {VOID - 1} labels, here are {number}")
    return {
        "split": split,
        "method": method,
        "scales": [float(scale) for scale in scales],
        "flips": [flips] if isinstance(flips, str) else list(flips),
        "present": present,
        "threshold": threshold,
        "image_size": batches.image_size,
        "resize": batches.resize,
    }


def _check_split(split):
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")


def _finished(folder, settings):
    found = files.read_json(folder / SCORES)
    if different := differences(found["settings"], settings):
        raise ValueError(
            f"{folder} holds pseudo-masks of other settings (there, here): "
            f"{'; '.join(different)}; remove it or take another folder"
        )
    return found
