"""Maps of a few photos, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import data, memory, pair_maps
from minmax_jax.cams.maps import normalize_maps
from minmax_jax.explain import make_explain_fn, make_explain_fns
from minmax_jax.models.network import Network, Variables
from minmax_jax.predict import fill_up, sigmoid


def choose_photos(batches: data.Batches, number: int) -> dict[str, np.ndarray]:
    """The first examples with two or more labels, each set of labels once.

    Where there are too few of them, others fill up, in their order.

    Args:
      batches: of raw uint8 images; read only as far as needed.
      number: of photos wanted.

    Returns:
      `image` uint8 `(n H W 3)`, `labels` bool `(n c)` and, if the data has masks, `mask`
      `(n H W)`; `n` is smaller than `number` where there are fewer examples.

    Raises:
      ValueError: if no photo is wanted, or there is none.
    """
    if number < 1:
        raise ValueError(f"the number of photos must be at least 1, not {number}")
    chosen, spare, seen = [], [], set()
    for batch in batches:
        for index in range(len(batch["image"])):
            example = {name: values[index] for name, values in batch.items()}
            key = example["labels"].tobytes()
            if example["labels"].sum() >= 2 and key not in seen:
                seen.add(key)
                chosen.append(example)
            elif len(spare) < number:
                spare.append(example)
        if len(chosen) >= number:
            break
    chosen = (chosen + spare)[:number]
    if not chosen:
        raise ValueError("there is no photo to choose: no batch was given")
    stacked = {name: np.stack([example[name] for example in chosen]) for name in chosen[0]}
    return stacked | {"image": stacked["image"].astype(np.uint8)}


def make_gallery(
    network: Network,
    variables: Variables,
    photos: Mapping[str, np.ndarray],
    *,
    methods: Sequence[str],
    batch_size: int,
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    present: str = "detected",
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Explains photos by all methods.

    Args:
      network, variables: as in `evaluate`; the network needs `preprocess`.
      photos: as `choose_photos` gives them.
      batch_size: photos explained at once.
      methods, mask_chunk, channels, clusters, present: as in `evaluate`.
      progress: whether to show a progress bar.

    Returns:
      Arrays by name: `images` uint8 `(n H W 3)`, `masks` uint8 `(n H W)` if there are any, `labels`
      and `present` bool `(n c)` (annotated and explained), `probabilities` float32 `(n c)`,
      `pairs` int `(p 2)`, photo and label of each that is explained, and for each method
      `maps/METHOD` float32 `(p h w)`, normalised.
    """
    images = np.asarray(network.preprocess(photos["image"]), np.float32)
    of_images, of_pairs = pair_maps.split_methods(methods)
    options = {"mask_chunk": mask_chunk, "channels": channels, "clusters": clusters}
    explain_fns = make_explain_fns(network, of_images, **options) if of_images else {}
    pair_fns = {name: make_explain_fn(network, name, mask_chunk=mask_chunk) for name in of_pairs}
    image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    chunk = mask_chunk or memory.images_at_once(network.apply, variables, image)
    size = pair_maps.chunk_size(chunk, batch_size, None)
    parts = []
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="explain photos", unit="batch", disable=not progress):
        rows = slice(start, start + batch_size)
        number = len(images[rows])
        batch = fill_up(images[rows], batch_size)
        annotated = fill_up(photos["labels"][rows], batch_size) if present == "annotated" else None
        maps, logits = {}, None
        for explain_fn in explain_fns.values():
            of_group, logits = explain_fn(
                variables, batch, annotated, np.arange(batch_size) < number
            )
            maps |= of_group
        if logits is None:
            logits = pair_maps.logits_fn(network)(variables, batch)
        explained = np.asarray(logits) > 0 if annotated is None else annotated
        pairs = np.argwhere(explained[:number])
        chosen = {
            name: np.asarray(normalize_maps(maps[name]))[tuple(pairs.T)] for name in of_images
        }
        for name, explain_fn in pair_fns.items():
            chosen[name] = np.zeros((len(pairs), *images.shape[1:3]), np.float32)
            for numbers in pair_maps.chunks(len(pairs), size):
                of_chunk = pair_maps.explain_pairs(
                    explain_fn, variables, batch, explained, pairs[numbers], size=size
                )
                chosen[name][numbers] = normalize_maps(of_chunk)[: len(numbers)]
        parts.append(
            {f"maps/{name}": chosen[name] for name in methods}
            | {
                "pairs": pairs + [start, 0],
                "present": explained[:number],
                "probabilities": sigmoid(logits)[:number].astype(np.float32),
            }
        )
    gallery = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    gallery["images"] = photos["image"]
    gallery["labels"] = photos["labels"]
    if "mask" in photos:
        gallery["masks"] = photos["mask"]
    return gallery
