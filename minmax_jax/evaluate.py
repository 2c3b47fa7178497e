"""Many methods, all metrics, one sweep over the data; goes on where it was stopped.

Of each batch, all maps are made first (methods share forward passes). The pairs (image, present
label) of all methods then go through the network in chunks of one size, seen through their maps
and through the maps' complements, so one program of one shape serves the whole sweep. Sums are
kept per method and label, in float64 on the host.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel
from minmax_jax.cams import maps as map_ops
from minmax_jax.explain import METHODS, group_methods, make_explain_fn
from minmax_jax.metrics import localization, masking, sums
from minmax_jax.models.network import Network, Variables
from minmax_jax.perturb import make_fill
from minmax_jax.predict import fill_up
from minmax_jax.sweep_state import State, fingerprint, load, save

PRESENT = ("detected", "annotated")
NORMALIZE_AT = ("activation", "input")


@dataclasses.dataclass(frozen=True)
class Switches:
    """Choices that the papers leave open; the defaults reproduce the published tables.

    Attributes:
      present: labels whose maps are scored: "detected" (probability above 0.5) or "annotated".
      fill: what masked pixels become: "zero" (0 after preprocessing), "blur" (the image, blurred)
        or a colour (`perturb.make_fill`).
      others: images without other labels in the metrics "of others": "zero" or "skip"
        (`metrics.masking.pair_scores`).
      f1: "per_label" or "averages" (`metrics.masking.result`).
      normalize_at: resolution of the min-max normalisation: "activation" or "input".
      threshold: of the normalised map, for the IoU.
      iou: "pooled" or "per_image" (`metrics.localization.result`).

    Raises:
      ValueError: for a value that is not among these.
    """

    present: str = "detected"
    fill: str = "zero"
    others: str = "zero"
    f1: str = "per_label"
    normalize_at: str = "activation"
    threshold: float = 0.15
    iou: str = "pooled"

    def __post_init__(self):
        choices = {
            "present": PRESENT,
            "others": masking.OTHERS,
            "f1": masking.F1_MODES,
            "normalize_at": NORMALIZE_AT,
            "iou": localization.IOU_MODES,
        }
        for field, valid in choices.items():
            if getattr(self, field) not in valid:
                raise ValueError(
                    f"{field} must be one of {', '.join(valid)}, not {getattr(self, field)!r}"
                )
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), not {self.threshold!r}")
        make_fill(self.fill, None)  # raises


def evaluate(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    methods: Sequence[str] = tuple(METHODS),
    label_names: Sequence[str] | None = None,
    pair_chunk: int = 64,
    mask_chunk: int = 64,
    mesh: jax.sharding.Mesh | None = None,
    state_path: str | os.PathLike | None = None,
    save_seconds: float = 30.0,
    progress: bool = True,
    **switches: Any,
) -> dict[str, Any]:
    """Scores methods over a data set.

    Args:
      network, variables: as in `explain`.
      batches: dicts with `image (b H W 3)` preprocessed, and optionally `labels (b c)` bool (needed
        for `present="annotated"`) and `mask (b H W)` integers (0 background, 1 + label index, 255
        void). All of one shape, but for a smaller last one; of several processes each gives its own
        rows. An object with `from_batch(start)`
        skips what a former run has done without making it.
      methods: names in `METHODS`.
      label_names: one a label; by default their indices.
      pair_chunk: pairs in one masked forward pass, which sees two images a pair.
      mask_chunk: masked images in one forward pass of Score-CAM.
      mesh: devices over which the passes are split (`parallel.make_mesh`); batch size, `mask_chunk`
        and `2 pair_chunk` must then be multiples of their number.
      state_path: file in which the sums are kept every `save_seconds`; a repeated call goes on from
        it, with the same results. It is ignored if it belongs to other variables, methods or
        switches, or to another number of batches.
      progress: whether to show a progress bar.
      **switches: fields of `Switches`.

    Returns:
      `{"label_names", "settings", "methods": {name: {"pairs": [per label], "per_label": {metric:
      [value or None]}, "macro": {metric}, "micro": {metric}, "seconds"}}}`: fractions, None where
      nothing defines a score. Metrics of masks stand there if the batches have masks, of
      `localized_pairs` per label. `seconds` is the method's share of the time: that of making its
      maps (methods made in one pass share it evenly) and its masked passes.

    Raises:
      ValueError: for unknown methods and switches, batches of the wrong form, another number of
        label names, and logits or scores that are not finite.
    """
    unknown = set(switches) - {field.name for field in dataclasses.fields(Switches)}
    if unknown:
        raise ValueError(
            f"unknown switch {', '.join(sorted(unknown))}; switches: "
            + ", ".join(field.name for field in dataclasses.fields(Switches))
        )
    switches = Switches(**switches)
    methods = tuple(dict.fromkeys(methods))
    if pair_chunk < 1:
        raise ValueError(f"pair_chunk must be at least 1, not {pair_chunk}")
    sweep = _Sweep(network, variables, methods, switches, pair_chunk, mask_chunk, mesh)
    path = None if state_path is None else pathlib.Path(state_path)
    total = len(batches) if hasattr(batches, "__len__") else None
    state = State(total=total)
    if path is not None:
        identity = fingerprint(variables, (methods, dataclasses.asdict(switches)))
        state = load(path, identity, total) or state
        parallel.agree(True)  # All have read before one writes.
    saved_at = time.monotonic()
    rest = _skip(batches, state.batches)
    with tqdm(
        rest,
        total=total,
        initial=state.batches,
        desc="evaluate",
        unit="batch",
        disable=not progress,
    ) as bar:
        for batch in bar:
            sweep.add(state, batch)
            _label_names(state, methods, label_names)  # raises early
            bar.set_postfix(images=state.images, pairs=int(state.num_pairs))
            if path is not None and time.monotonic() - saved_at >= save_seconds:
                save(path, identity, state)
                saved_at = time.monotonic()
    return _result(state, methods, switches, label_names)


class _Sweep:
    """Adds batches to a `State`; holds what stays the same from batch to batch."""

    def __init__(self, network, variables, methods, switches, pair_chunk, mask_chunk, mesh):
        self.variables = parallel.replicate(mesh, variables)
        self.mesh = mesh
        self.methods = methods
        self.switches = switches
        self.pair_chunk = pair_chunk
        self.explain_fns = {
            group: make_explain_fn(network, group, mask_chunk=mask_chunk, mesh=mesh)
            for group in group_methods(methods)
        }
        self.score_fn = _score_fn(network, switches, mesh)

    def add(self, state: State, batch: Mapping[str, np.ndarray]) -> None:
        images, present, segmentations, valid = self._arrays(batch, state)
        maps, logits = {}, None
        for group, explain_fn in self.explain_fns.items():
            start = time.monotonic()
            group_maps, logits = jax.block_until_ready(
                explain_fn(self.variables, images, present, valid)
            )
            maps |= group_maps
            self._spend(state, group, time.monotonic() - start)
        logits, valid = parallel.fetch(self.mesh, (logits, valid))
        if not np.isfinite(logits[valid]).all():
            raise ValueError(f"the network's logits are not finite in batch {state.batches}")
        present = logits > 0 if present is None else parallel.fetch(self.mesh, present)
        present = present & valid[:, None]

        start = time.monotonic()
        batch_sums = self._score(images, maps, logits, present, segmentations)
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(batch_sums)):
            raise ValueError(f"scores are not finite in batch {state.batches}")
        state.sums = batch_sums if state.sums is None else sums.merge(state.sums, batch_sums)
        self._spend(state, self.methods, time.monotonic() - start)
        state.batches += 1
        state.images += int(valid.sum())
        state.num_pairs += int(present.sum())

    def _arrays(self, batch, state):
        """The batch filled up to the size of the first one, and which of its rows are real."""
        index = state.batches
        if "image" not in batch:
            raise ValueError(f"batch {index} has no image, only {', '.join(batch) or 'nothing'}")
        images = batch["image"]
        number = len(images)
        _, processes = parallel.shard()
        state.batch_size = state.batch_size or parallel.even_rows(self.mesh, number) * processes
        size = state.batch_size // processes
        if number > size:
            raise ValueError(f"batch {index} has {number} images, the first had {size}")

        present = None
        if self.switches.present == "annotated":
            if "labels" not in batch:
                raise ValueError(f'present="annotated" needs labels, and batch {index} has none')
            present = fill_up(np.asarray(batch["labels"], bool), size)
        segmentations = batch.get("mask")
        if state.sums is not None and ("iou" in state.sums) != (segmentations is not None):
            raise ValueError(f"some batches have masks and some have none (batch {index})")
        if segmentations is not None:
            if segmentations.shape != images.shape[:3]:
                raise ValueError(
                    f"batch {index} has masks {segmentations.shape} for images {images.shape}"
                )
            segmentations = fill_up(segmentations, size)
        arrays = fill_up(images, size), present, segmentations, np.arange(size) < number
        return parallel.put(self.mesh, arrays)

    def _score(self, images, maps, logits, present, segmentations):
        """Sums over the pairs of one batch, all methods, in chunks."""
        num_labels = logits.shape[1]
        pairs = np.argwhere(present)
        index = np.concatenate(
            [np.insert(pairs, 0, number, axis=1) for number in range(len(self.methods))]
        ).astype(np.int32)
        names = masking.METRICS + (() if segmentations is None else localization.SUMS)
        # Where the step leaves its totals, so that they do not make it a second program.
        totals = parallel.replicate(self.mesh, sums.zero(names, len(self.methods) * num_labels))
        stacked = _stack([maps[name] for name in self.methods])
        arrays = (images, stacked, logits, present, segmentations)
        for start in range(0, len(index), self.pair_chunk):
            chunk = index[start : start + self.pair_chunk]
            valid = np.arange(self.pair_chunk) < len(chunk)
            chunk = np.pad(chunk, ((0, self.pair_chunk - len(chunk)), (0, 0)))
            totals = self.score_fn(totals, self.variables, *arrays, chunk, valid)
        return jax.tree.map(lambda x: np.asarray(x, np.float64), totals)

    def _spend(self, state, methods, seconds):
        for name in methods:
            state.seconds[name] = state.seconds.get(name, 0.0) + seconds / len(methods)


_stack = jax.jit(jnp.stack)  # also of arrays that are spread over several processes


@functools.lru_cache(maxsize=64)
def _score_fn(network: Network, switches: Switches, mesh: jax.sharding.Mesh | None):
    """The jitted step that scores one chunk of pairs and adds it to the sums."""
    make_filling = make_fill(switches.fill, network.preprocess)
    pair_scores = functools.partial(masking.pair_scores, others=switches.others)
    locate = functools.partial(localization.pair_scores, threshold=switches.threshold)

    def score(totals, variables, images, maps, logits, present, segmentations, index, valid):
        method, image, label = index.T
        masks = maps[method, image, label]
        if switches.normalize_at == "activation":
            masks = map_ops.normalize_maps(masks)
        masks = map_ops.resize_maps(masks, images.shape[1:3])
        if switches.normalize_at == "input":
            masks = map_ops.normalize_maps(masks)
        shown, filling = images[image], make_filling(images)[image]
        seen = jnp.concatenate([masks, 1 - masks])[..., None]
        masked = seen * jnp.concatenate([shown, shown]) + (1 - seen) * jnp.concatenate(
            [filling, filling]
        )
        masked_logits, _ = network.apply(variables, parallel.split(mesh, masked))
        kept, dropped = jnp.split(jax.nn.sigmoid(masked_logits), 2)
        scores = jax.vmap(pair_scores)(
            jax.nn.sigmoid(logits)[image], kept, dropped, label, present[image]
        )
        if segmentations is not None:
            scores |= jax.vmap(locate)(masks, segmentations[image], label)
        return sums.add(totals, scores, method * logits.shape[1] + label, valid)

    return jax.jit(score, out_shardings=parallel.everywhere(mesh))


def _result(state, methods, switches, label_names):
    settings = dataclasses.asdict(switches) | {"images": state.images}
    if state.sums is None:
        raise ValueError("there is nothing to evaluate: no batch was given")
    label_names = _label_names(state, methods, label_names)
    num_labels = len(label_names)
    results = {}
    for number, name in enumerate(methods):
        rows = slice(number * num_labels, (number + 1) * num_labels)
        own = jax.tree.map(lambda x, rows=rows: x[rows], state.sums)
        scores = masking.result(own, f1=switches.f1)
        # Pairs are counted by the one metric that every pair defines.
        result = {"pairs": own["average_drop"].count.astype(int).tolist()}
        if "iou" in own:
            found = localization.result(own, iou=switches.iou)
            scores = {part: scores[part] | found[part] for part in scores}
            result["localized_pairs"] = own["iou"].count.astype(int).tolist()
        result["per_label"] = {
            metric: [_or_none(value) for value in values]
            for metric, values in scores["per_label"].items()
        }
        for part in ("macro", "micro"):
            result[part] = {metric: _or_none(value) for metric, value in scores[part].items()}
        results[name] = result | {"seconds": state.seconds[name]}
    return {"label_names": label_names, "settings": settings, "methods": results}


def _label_names(state, methods, label_names):
    number = len(next(iter(state.sums.values())).total) // len(methods)
    if label_names is None:
        return [str(index) for index in range(number)]
    if len(label_names) != number:
        raise ValueError(f"{len(label_names)} label names for {number} labels")
    return list(label_names)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _skip(batches, start):
    if hasattr(batches, "from_batch"):
        return batches.from_batch(start)
    return itertools.islice(batches, start, None)
