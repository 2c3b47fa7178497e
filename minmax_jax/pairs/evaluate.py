"""mIoU of maps made by classifiers of two classes, and by networks of all classes.

Maps are scored class by class, each class in the images that are annotated with it, at the size of
the images, where they are normalised to 0..1. Photos are uint8 `(m H W 3)`, labels bool `(m n)`,
masks uint8 `(m H W)`: 0 background, 1 + class, 255 void. Scores are those of `metrics.iou_curve`,
under the names of `localization.IOU_MODES`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from minmax_jax import parallel
from minmax_jax.explain import make_explain_fn
from minmax_jax.methods import METHODS
from minmax_jax.models.network import Network, Variables
from minmax_jax.pairs import scoring
from minmax_jax.pairs.maps import PairMaps, make_maps_fn
from minmax_jax.pairs.scoring import Results, Take
from minmax_jax.select import TopLabels

# Added to the logit of the label that is wanted: far above any logit.
_LIFT = 1e30


def evaluate_pairs(
    pair_maps: PairMaps,
    combinations: Mapping[str, Sequence[Sequence[int]]],
    take: Take,
    labels: np.ndarray,
    masks: np.ndarray,
    *,
    batch_size: int = 16,
    threshold: float = 0.15,
    state_directory: str | os.PathLike | None = None,
    progress: bool = True,
) -> Results:
    """Scores of maps that are fused over comparison classes.

    All combinations are made of the same maps, each of which is made once.

    Args:
      pair_maps: makes the maps; a function `(label, others) -> (photos -> Maps)` with the attribute
        `multi`.
      combinations: by name, the classes with which each class is compared, `n` lists. With an empty
        one the class has no score.
      take: indices `(b,)` to photos uint8 `(b H W 3)`.
      labels: `(m n)` bool.
      masks: `(m H W)`.
      batch_size: photos explained at once.
      threshold: at which labels are scored, one of `iou_curve.THRESHOLDS`.
      state_directory: a file for each finished class, which belong to these classifiers, photos and
        combinations: after others were trained, it must go.
      progress: whether to show a progress bar.

    Returns:
      `{row: {"pooled": scores, "per_image": scores}}` as `iou_curve.result` gives them: of each
      combination NAME the rows "NAME+F", of the last tap's maps, and "NAME+A+F", of multi-layer
      maps if `pair_maps` makes them.

    Raises:
      ValueError: for combinations, labels, masks or a threshold that do not fit; logits that are
        not finite.
    """
    labels = scoring.checked_labels(labels)
    number = labels.shape[1]
    chosen = _checked_combinations(combinations, number)
    together = [sorted(set().union(*(lists[label] for lists in chosen))) for label in range(number)]
    most = max(map(len, together))  # one shape for all classes, and so one program
    layers = ("", "+A") if pair_maps.multi else ("",)
    rows = [f"{name}{layer}+F" for layer in layers for name in combinations]

    # Which share each of a class's maps has in each combination.
    shares = np.zeros((number, len(chosen), most), np.float32)
    for label, lists in np.ndindex(number, len(chosen)):
        own = chosen[lists][label]
        shares[label, lists, [together[label].index(other) for other in own]] = 1 / max(len(own), 1)

    def prepare(label):
        others = together[label]
        make_maps = pair_maps(label, others + others[-1:] * (most - len(others)))

        def count(photos, present, masks):
            del present
            maps = make_maps(photos)
            return scoring.fused_counts(maps, shares[label], masks, label), maps.logits

        return count

    return scoring.score_classes(
        rows,
        np.tile(shares.any(axis=-1), len(layers)),
        prepare,
        take,
        labels,
        masks,
        identities=list(zip(*chosen, strict=True)),
        batch_size=batch_size,
        threshold=threshold,
        state_directory=state_directory,
        progress=progress,
    )


def evaluate_method(
    network: Network,
    variables: Variables,
    take: Take,
    labels: np.ndarray,
    masks: np.ndarray,
    *,
    methods: Sequence[str] = ("cam", "grad_cam"),
    multi: bool = True,
    batch_size: int = 16,
    threshold: float = 0.15,
    state_directory: str | os.PathLike | None = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> Results:
    """Scores of maps of a network of all classes.

    Args:
      network, variables: of `n` labels, with `preprocess`.
      take, labels, masks, batch_size, threshold, state_directory, progress: as in `evaluate_pairs`.
        The annotated labels are the present ones.
      methods: names of `METHODS`, without masking methods.
      multi: whether to score the multi-layer maps of gradient methods, too.
      mesh: devices over which photos are split.

    Returns:
      As `evaluate_pairs`, with rows METHOD and, of multi-layer maps, "METHOD+A".

    Raises:
      ValueError: as `check_methods` and `evaluate_pairs`.
    """
    check_methods(network, methods)
    labels = scoring.checked_labels(labels)
    lifted = _lifted(network)
    variables = parallel.replicate(mesh, variables)
    rows, make_maps = [], []
    for name in methods:
        layered = multi and METHODS[name].family == "gradient"
        rows += [name, f"{name}+A"] if layered else [name]
        make_maps.append(make_maps_fn(lifted, name, multi=layered, select=TopLabels(1), mesh=mesh))
    share = np.ones((1, 1), np.float32)

    def prepare(label):
        wanted = {"network": variables, "label": np.array(label)}

        def count(photos, present, masks):
            maps = [maps_fn(wanted, photos, present) for maps_fn in make_maps]
            counts = [scoring.fused_counts(each, share, masks, label) for each in maps]
            return scoring.joined(counts), [each.logits for each in maps]

        return count

    return scoring.score_classes(
        rows,
        np.ones((labels.shape[1], len(rows)), bool),
        prepare,
        take,
        labels,
        masks,
        identities=[None] * labels.shape[1],
        batch_size=batch_size,
        threshold=threshold,
        state_directory=state_directory,
        progress=progress,
    )


def check_methods(network: Network, methods: Sequence[str]) -> None:
    """Raises `ValueError` unless `evaluate_method` can score all `methods` of the network."""
    make_explain_fn(network, tuple(methods))
    masking = [name for name in methods if METHODS[name].family == "masking"]
    if masking:
        raise ValueError(f"{masking[0]} takes many passes an image and is not scored here")


def single_combinations(number: int) -> dict[str, list[list[int]]]:
    """Combinations in which every one of `number` classes is compared with one, by its index."""
    return {
        str(other): [[other] if label != other else [] for label in range(number)]
        for other in range(number)
    }


def table_1(results: Results, number: int) -> dict[str, list[list[float | None]] | None]:
    """Pooled IoU of each class compared with each other one.

    Args:
      results: of `evaluate_pairs`, for combinations among which are `single_combinations`.
      number: of classes, `n`.

    Returns:
      `last` and `multi`, None if there are no multi-layer maps: `[s][i]` is the score of class `i`
      compared with `s`, None where there is none.
    """

    def table(ending):
        rows = [f"{other}{ending}" for other in range(number)]
        if not all(row in results for row in rows):
            return None
        return [results[row]["pooled"]["per_label"] for row in rows]

    return {"last": table("+F"), "multi": table("+A+F")}


@functools.lru_cache(maxsize=16)
def _lifted(network: Network) -> Network:
    """The network with its variables and a label as `{"network": variables, "label": index}`.

    The label's logit is lifted above all others, so that `TopLabels(1)` chooses it. The index is
    data, so all labels run in one program; gradients and kernels are what they were.
    """

    def apply(variables, images, perturbations=None):
        logits, activations = network.apply(variables["network"], images, perturbations)
        wanted = jax.nn.one_hot(variables["label"], logits.shape[1], dtype=logits.dtype)
        return logits + _LIFT * wanted[None], activations

    kernel = network.head_kernel
    return dataclasses.replace(
        network,
        apply=apply,
        head_kernel=kernel and (lambda variables: kernel(variables["network"])),
    )


def _checked_combinations(combinations, number: int) -> list[list[list[int]]]:
    if not combinations:
        raise ValueError("no combination of comparison classes is given")
    for name, lists in combinations.items():
        if len(lists) != number:
            raise ValueError(f"combination {name!r} has {len(lists)} lists for {number} classes")
        for label, others in enumerate(lists):
            valid = set(range(number)) - {label}
            if len(set(others)) != len(others) or not set(others) <= valid:
                raise ValueError(
                    f"combination {name!r} compares class {label} with {list(others)}; valid are "
                    f"other classes below {number}, each once"
                )
    return [[list(map(int, others)) for others in lists] for lists in combinations.values()]
