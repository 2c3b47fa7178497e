"""Maps of a trained network beside those of other weights (Adebayo et al. 2018).

Layers get fresh random parameters, from the head down (cascading) or one block at a time
(independent). Always the same labels of the same photos are explained: those that the trained
network detects. Maps are normalised and resized to the image before they are compared; how alike
the trained network's maps of different photos are tells what likeness means nothing.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import parallel
from minmax_jax.cams.maps import normalize_maps, resize_maps
from minmax_jax.explain import make_explain_fns
from minmax_jax.metrics.similarity import rank_correlation, ssim
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import fill_up
from minmax_jax.select import DetectedLabels, Selection

MEASURES = ("ssim", "rank_correlation")
LABELS = 3  # of a photo that are explained, at most
_LAST_WORD = re.compile(r"_[^_]*$")

Maps = dict[str, np.ndarray]
Similarities = dict[str, dict[str, float]]


class Step(NamedTuple):
    """Layers that are randomised together, and what to call them."""

    name: str
    layers: tuple[str, ...]


class Curves(NamedTuple):
    """How alike a network's maps and those of its randomised versions are.

    Attributes:
      steps: names of the layers randomised last, from the head down.
      pairs: pairs of a photo and a label that were compared.
      chance: `{method: {measure: mean}}`, of maps of different photos.
      cascading: of each step `{method: {measure: mean}}`, with all layers from the head down to it
        random.
      independent: the same with only the layers of the step random.
      maps: `{method: (1 + steps, h, w)}`, the first photo's maps of its first label, of the trained
        network and along the cascade; normalised.
    """

    steps: tuple[str, ...]
    pairs: int
    chance: Similarities
    cascading: list[Similarities]
    independent: list[Similarities]
    maps: Maps


def independent(layers: Sequence[str], *, at_most: int = 12) -> tuple[Step, ...]:
    """Steps in which one block of layers is random, from the head down.

    A convolution, its normalisation and whatever else shares its name up to the last word are one
    block; of deep networks several blocks in a row are one, so that there are `at_most`.

    Args:
      layers: `network.layers`, the head last.

    Raises:
      ValueError: if no layer is named.
    """
    if not layers:
        raise ValueError("the network names no layers, so none can be randomised")
    blocks: dict[str, list[str]] = {}
    for layer in reversed(layers):
        name = _LAST_WORD.sub("", layer)
        if name in layers:  # a normalisation, named after its convolution
            name = _LAST_WORD.sub("", name)
        blocks.setdefault(name, []).append(layer)
    head, *others = blocks.items()
    count = min(len(others), at_most - 1)
    cuts = [len(others) * index // count for index in range(count + 1)] if others else []
    steps = [Step(head[0], tuple(head[1]))]
    for start, end in itertools.pairwise(cuts):
        group = others[start:end]
        deepest, shallowest = group[0][0], group[-1][0]
        name = deepest if deepest == shallowest else f"{deepest} … {shallowest}"
        steps.append(Step(name, tuple(layer for _, own in group for layer in own)))
    return tuple(steps)


def cascade(layers: Sequence[str], *, at_most: int = 12) -> tuple[Step, ...]:
    """Steps in which all layers from the head down to a block are random: the last has them all.

    Args and errors are those of `independent`, whose blocks and names these are.
    """
    found: tuple[str, ...] = ()
    steps = []
    for name, own in independent(layers, at_most=at_most):
        found += own
        steps.append(Step(name, found))
    return tuple(steps)


def randomise(variables: Variables, fresh: Variables, layers: Collection[str]) -> Variables:
    """The variables with the parameters and statistics of some layers taken from `fresh`.

    Args:
      variables, fresh: `{collection: {layer: tree}}` alike, such as trained ones and
        `network.init(key)`.
      layers: names.

    Raises:
      ValueError: for a layer that the variables do not have.
    """
    unknown = set(layers) - set().union(*variables.values())
    if unknown:
        raise ValueError(
            f"unknown layers {sorted(unknown)}; layers: {', '.join(variables['params'])}"
        )
    return {
        collection: {
            layer: fresh[collection][layer] if layer in layers else own
            for layer, own in of_layers.items()
        }
        for collection, of_layers in variables.items()
    }


def detected_labels(network: Network, variables: Variables, images: np.ndarray) -> Selection:
    """The likeliest labels that a network detects in images, at most three of each.

    Args:
      images: `(b H W 3)`, preprocessed.

    Returns:
      Arrays of host memory; images without a detected label have no chosen one.
    """

    def select(variables, images):
        logits, _ = network.apply(variables, images)
        return DetectedLabels(min(LABELS, logits.shape[1]))(logits)

    return jax.tree.map(np.asarray, jax.jit(select)(variables, images))


def make_maps_fn(
    network: Network,
    images: np.ndarray,
    selection: Selection,
    *,
    methods: Sequence[str],
    batch_size: int,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Variables], Maps]:
    """A function from variables to the maps of the same labels of the same images.

    Args:
      network, mesh: as in `make_explain_fn`.
      images: `(b H W 3)`, preprocessed.
      selection: which labels to explain, and which are present.
      methods: names in `METHODS`.
      batch_size: images explained at once.

    Returns:
      The function; its result is `{method: (b n h w)}` in 0..1, and it is compiled once. It raises
      `ValueError` for maps that are not finite.
    """
    explain_fns = make_explain_fns(network, methods, mesh=mesh)

    def maps_of(variables: Variables) -> Maps:
        variables = parallel.replicate(mesh, variables)
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            number = len(images[rows])
            arrays = (images[rows], selection.present[rows], np.ones(number, bool))
            arrays = [fill_up(x, batch_size) for x in (*arrays, selection.labels[rows])]
            made = {}
            for explain_fn in explain_fns.values():
                made |= explain_fn(variables, *arrays)[0]
            made = {name: made[name][:number] for name in methods}
            for name, maps in made.items():
                if not jnp.isfinite(maps).all():
                    raise ValueError(f"maps of {name} are not finite")
            parts.append({name: np.asarray(normalize_maps(maps)) for name, maps in made.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in methods}

    return maps_of


def similarities(
    first: Maps, second: Maps, chosen: np.ndarray, size: tuple[int, int]
) -> Similarities:
    """Mean similarities of two sets of maps.

    Args:
      first, second: `{method: (b n h w)}` in 0..1.
      chosen: `(b n)` bool, which pairs of maps count; at least one.
      size: `(H, W)`, the resolution at which they are compared.

    Returns:
      `{method: {"ssim": mean, "rank_correlation": mean of the absolute values}}`.
    """
    result = {}
    for method, maps in first.items():
        alike = jax.tree.map(np.asarray, _alike(maps, second[method], size))
        result[method] = {
            measure: float(values[chosen].mean(dtype=np.float64))
            for measure, values in alike.items()
        }
    return result


@functools.partial(jax.jit, static_argnames="size")
def _alike(first, second, size):
    """`{measure: (b n)}` of maps `(b n h w)`."""

    def of_pair(pair):
        first, second = (resize_maps(maps, size) for maps in pair)
        return {
            "ssim": ssim(first, second),
            "rank_correlation": jnp.abs(rank_correlation(first, second)),
        }

    # One pair after the other: CPUs sort one array faster than several at once.
    pairs = [maps.reshape(-1, *maps.shape[2:]) for maps in (first, second)]
    alike = jax.lax.map(of_pair, pairs)
    return jax.tree.map(lambda values: values.reshape(first.shape[:2]), alike)


def chance(maps: Maps, chosen: np.ndarray, size: tuple[int, int]) -> Similarities:
    """Mean similarities of each photo's maps and the next one's.

    Args are those of `similarities`; there are two photos or more, each with its first label
    chosen.
    """
    following = {method: np.roll(own, -1, axis=0) for method, own in maps.items()}
    return similarities(maps, following, chosen & np.roll(chosen, -1, axis=0), size)


def randomisation_curves(
    network: Network,
    variables: Variables,
    images: np.ndarray,
    selection: Selection,
    *,
    methods: Sequence[str],
    key: jax.Array,
    batch_size: int = 16,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> Curves:
    """Compares a network's maps with those of its randomised versions.

    Args:
      network: one of `create_network`.
      variables: the trained ones.
      images: `(b H W 3)`, preprocessed.
      selection: the labels to explain, as of `detected_labels`; each image has its first chosen.
      methods: names in `METHODS`.
      key: of the random parameters, the same in all steps.
      batch_size, mesh: see `make_maps_fn`.
      progress: whether to show a progress bar.

    Raises:
      ValueError: for fewer than two images or one without a label, for a network that names no
        layers, for methods that are unknown or that it does not support, and for maps that are not
        finite.
    """
    if len(images) < 2 or not selection.chosen[:, 0].all():
        raise ValueError(
            f"two images or more are needed, each with a label: {len(images)} given, "
            f"{int(selection.chosen[:, 0].sum())} of them with a label"
        )
    steps, blocks = cascade(network.layers), independent(network.layers)
    maps_of = make_maps_fn(
        network, images, selection, methods=methods, batch_size=batch_size, mesh=mesh
    )
    size = images.shape[1:3]
    trained = maps_of(variables)
    fresh = network.init(key)
    shown = {method: [maps[0, 0]] for method, maps in trained.items()}

    def compare(step: Step) -> tuple[Maps, Similarities]:
        maps = maps_of(randomise(variables, fresh, step.layers))
        return maps, similarities(trained, maps, selection.chosen, size)

    cascading, alone = [], []
    for step, block in tqdm(
        zip(steps, blocks, strict=True),
        total=len(steps),
        desc="randomise layers",
        unit="step",
        disable=not progress,
    ):
        maps, alike = compare(step)
        for method, own in maps.items():
            shown[method].append(own[0, 0])
        cascading.append(alike)
        alone.append(alike if step == block else compare(block)[1])
    return Curves(
        tuple(step.name for step in steps),
        int(selection.chosen.sum()),
        chance(trained, selection.chosen, size),
        cascading,
        alone,
        {method: np.stack(maps) for method, maps in shown.items()},
    )
