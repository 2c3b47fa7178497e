"""Many methods, all metrics, one sweep over the data; goes on where it was stopped.

Maps of all labels of an image are made first (methods share forward passes), and those of single
pairs where a map of every label would cost too much. The pairs (image, present label) of all
methods then go through the network in full chunks, seen through their maps and through the maps'
complements. Sums are kept per method and label, in float64 on the host. Of several processes
each sweeps over its own images; what they have counted is merged once, at the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel, preemption
from minmax_jax.explain import make_explain_fn
from minmax_jax.methods import default_methods
from minmax_jax.metrics import faithfulness, localization, masking
from minmax_jax.models.network import Network, Variables
from minmax_jax.perturb import make_fill
from minmax_jax.sweep import Sweep
from minmax_jax.sweep_state import State, fingerprint, from_bytes, load, merge, save, to_bytes

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
      curve_steps: steps of the insertion and deletion curves (`metrics.faithfulness`), each of two
        more masked passes of every pair; 0 leaves the curves out.

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
    curve_steps: int = 0

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
        if not isinstance(self.curve_steps, int) or self.curve_steps < 0:
            raise ValueError(
                f"curve_steps must be a whole number of at least 0, not {self.curve_steps!r}"
            )
        make_fill(self.fill, None)  # raises

    @property
    def passes(self) -> int:
        """Masked passes of each pair."""
        return 2 + 2 * self.curve_steps


def evaluate(
    network: Network,
    variables: Variables,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    methods: str | Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    state_path: str | os.PathLike | None = None,
    save_seconds: float = 180.0,
    progress: bool = True,
    **switches: Any,
) -> dict[str, Any]:
    """Scores methods over a data set.

    Args:
      network, variables: as in `explain`; the sigmoid of a label's logit is its probability.
      batches: dicts with `image (b H W 3)` preprocessed, and optionally `labels (b c)` bool (needed
        for `present="annotated"`) and `mask (b H W)` integers (0 background, 1 + label index, 255
        void). Images all of one shape, `b` is free. Of several processes each gives its own rows,
        and all must call. An object with `from_batch(start)` skips what a former run has done
        without making it.
      methods: names in `METHODS`, or one; by default those of the paper that the network supports.
      label_names: one a label; by default their indices.
      mask_chunk, channels, clusters: as in `explain`; the chunk is also that of the masked passes
        by which pairs are scored. Of approximated Score-CAM the error on a sample is told.
      mesh: devices of this process over which the passes are split (`parallel.local_mesh`).
      state_path: file in which the sums are kept every `save_seconds`; a repeated call goes on from
        it, with the same results. It is ignored if it belongs to other variables, methods, switches
        or processes, or to another number of batches. Several processes add their numbers to its
        name.
      progress: whether to show a progress bar.
      **switches: fields of `Switches`.

    Returns:
      `{"label_names", "settings", "passes", "seconds", "methods": {name: {"pairs": [per label],
      "per_label": {metric: [value or None]}, "macro": {metric}, "micro": {metric}, "seconds"}}}`:
      fractions, None where nothing defines a score. Metrics of masks stand there if the batches
      have masks, of `localized_pairs` per label. With `curve_steps` T a method has
      `insertion_curve` and `deletion_curve`, T + 1 means over the labels, and the areas under them
      among its metrics. `passes` counts `images`, `masked` passes of pairs (two each, and two for
      each of `curve_steps`) and the `padding` that filled up the last of their chunks. A method's
      `seconds` are those of making its maps (methods made in one pass share them evenly) and of its
      masked passes. Of approximated Score-CAM the settings have its option and what
      `approximation_error` says of the first images.

    Raises:
      ValueError: for unknown methods and switches, batches of the wrong form, a state begun on
        batches with masks where these have none or the other way round, another number of label
        names, and logits or scores that are not finite.
      preemption.Preempted: when SIGTERM came and the state was saved.
    """
    unknown = set(switches) - {field.name for field in dataclasses.fields(Switches)}
    if unknown:
        raise ValueError(
            f"unknown switch {', '.join(sorted(unknown))}; switches: "
            + ", ".join(field.name for field in dataclasses.fields(Switches))
        )
    switches = Switches(**switches)
    methods = (methods,) if isinstance(methods, str) else methods
    methods = tuple(dict.fromkeys(default_methods(network) if methods is None else methods))
    approximate = {"channels": channels, "clusters": clusters}
    make_explain_fn(network, methods, mask_chunk=mask_chunk, mesh=mesh, **approximate)  # raises
    choices = methods, dataclasses.asdict(switches), approximate, parallel.shard()
    saved = _Saved(state_path, choices, variables)
    total = len(batches) if hasattr(batches, "__len__") else None
    state = saved.load(total) or State(total=total)
    start = state.places[0].batch
    rest = iter(_skip(batches, start))
    bar = tqdm(
        total=total,
        initial=start,
        desc="evaluate",
        bar_format="{l_bar}{bar}| {n:.1f}/" + str(total or "?") + _BAR_END,
        disable=not progress,
    )
    with bar, preemption.deferred():
        for first in itertools.islice(rest, 1):
            sweep = Sweep(
                network,
                variables,
                first,
                methods=methods,
                switches=switches,
                mask_chunk=mask_chunk,
                approximate=approximate,
                images_a_piece=state.rows,
                mesh=mesh,
            )
            state.rows = sweep.images_a_piece
            if state.sums is not None and ("iou" in state.sums) != sweep.has_masks:
                others = "without" if sweep.has_masks else "with"
                raise ValueError(f"{state_path} was begun on batches {others} masks")
            began, before = time.monotonic(), state.counted
            for scores, rows in sweep.scores(itertools.chain([first], rest), state):
                _label_names(state, methods, label_names)  # raises early
                _check_finite(scores, state)
                state.count(scores, rows)
                rate = (state.counted - before) / (time.monotonic() - began)
                bar.set_postfix_str(f"{state.counted} pairs, {rate:.0f} pairs/s", refresh=False)
                bar.update(sweep.read - bar.n)
                saved.every(save_seconds, state)
        saved.save(state)
    states = [from_bytes(data, "") for data in parallel.exchange(to_bytes(state, ""))]
    return _result(merge(states), methods, switches, label_names, approximate)


_BAR_END = " batches [{elapsed}<{remaining}{postfix}]"


class _Saved:
    """The file of a sweep's state; without a path, nothing."""

    def __init__(self, path, choices, variables):
        part, parts = parallel.shard()
        path = None if path is None else pathlib.Path(path)
        if path is not None and parts > 1:
            path = path.with_name(f"{path.stem}.{part}-of-{parts}{path.suffix}")
        self.path = path
        self.identity = None if path is None else fingerprint(variables, choices)
        self.last = time.monotonic()

    def load(self, total: int | None) -> State | None:
        return None if self.path is None else load(self.path, self.identity, total)

    def save(self, state: State) -> None:
        if self.path is not None:
            save(self.path, self.identity, state)
            self.last = time.monotonic()

    def every(self, seconds: float, state: State) -> None:
        """Saves if it is time to, or the last chance."""
        if self.path is not None and preemption.requested():
            self.save(state)
            raise preemption.Preempted
        if time.monotonic() - self.last >= seconds:
            self.save(state)


def _check_finite(scores, state):
    finite = [np.isfinite(np.where(defined, value, 0)) for value, defined in scores.values()]
    wrong = np.flatnonzero(~np.all(finite, axis=0))
    if wrong.size:
        pair = state.counted + wrong[0]
        batch = max(place.batch for place in state.places if place.pairs <= pair)
        raise ValueError(f"scores are not finite in batch {batch}")


def _result(state, methods, switches, label_names, approximate):
    if state.sums is None:
        raise ValueError("there is nothing to evaluate: no batch was given")
    images = state.places[-1].images
    settings = dataclasses.asdict(switches) | {"images": images}
    if any(approximate.values()):
        chosen = {name: number for name, number in approximate.items() if number}
        settings["score_cam"] = chosen | {"error": state.approximation}
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
        curves = {}
        if switches.curve_steps:
            found, curves = faithfulness.result(own, steps=switches.curve_steps)
            scores = {part: scores[part] | found[part] for part in scores}
        result["per_label"] = {
            metric: [_or_none(value) for value in values]
            for metric, values in scores["per_label"].items()
        }
        for part in ("macro", "micro"):
            result[part] = {metric: _or_none(value) for metric, value in scores[part].items()}
        for metric, curve in curves.items():
            result[f"{metric}_curve"] = [_or_none(value) for value in curve]
        results[name] = result | {"seconds": state.seconds.get(name, 0.0)}
    masked = switches.passes * state.counted
    passes = {"images": images, "masked": masked, "padding": state.padding}
    return {
        "label_names": label_names,
        "settings": settings,
        "passes": passes,
        "seconds": sum(state.seconds.values()),
        "methods": results,
    }


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
