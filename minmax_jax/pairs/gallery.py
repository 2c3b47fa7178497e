"""Maps of a few photos for people to look at: by comparison class, and by layer.

Arrays of `p` photos of side `S`, one class of each explained by `k` comparison classes at `t` taps:
`images` uint8 `(p S S 3)`; `labels` int `(p,)`, the classes; `objects` uint8 `(p S S)`, 1 on the
object and 255 where void; `classes` int `(p k)`, padded by -1; `taps` str `(t,)`; and maps, float16
0..1: `pair_maps (p k S S)`, multi-layer, `fused (p S S)`, `layers (p t S S)`, `adding` and `multi
(p S S)` of the first comparison class, `baseline (p S S)`, Grad-CAM of the network of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from minmax_jax import data
from minmax_jax.cams import fusion
from minmax_jax.cams.maps import normalize_maps, resize_maps
from minmax_jax.data.images import VOID
from minmax_jax.explain import explain
from minmax_jax.models.network import Network, Variables
from minmax_jax.pairs.maps import PairMaps
from minmax_jax.select import NamedLabels


def choose_photos(store: data.Store, number: int) -> list[tuple[int, int]]:
    """Photos and a class of each, every class once before one comes again.

    Args:
      store: with masks.
      number: of photos wanted.

    Returns:
      `(index, class)`, fewer where there are not as many photos with an object.
    """
    rounds: dict[int, int] = {}
    chosen = []
    for index in range(len(store)):
        classes = np.flatnonzero(store.labels[index])
        visible = [c for c in classes.tolist() if (store.masks[index] == c + 1).any()]
        if visible:
            label = min(visible, key=lambda c: rounds.get(c, 0))
            chosen.append((rounds.get(label, 0), index, label))
            rounds[label] = rounds.get(label, 0) + 1
    return [(index, label) for _, index, label in sorted(chosen)[:number]]


def make_gallery(
    pair_maps: PairMaps,
    network: Network,
    variables: Variables,
    store: data.Store,
    selection: Sequence[Sequence[int]],
    *,
    photos: Sequence[tuple[int, int]],
) -> dict[str, np.ndarray]:
    """Makes the arrays of the module's docstring.

    Args:
      pair_maps: with `multi` and `layers`.
      network, variables: of all classes.
      store: the photos and their masks.
      selection: comparison classes of each class.
      photos: as `choose_photos` gives them; those of a class without comparison are left out.
    """
    photos = [(index, label) for index, label in photos if selection[label]]
    most = max((len(selection[label]) for _, label in photos), default=0)
    shown = [
        _explain(pair_maps, network, variables, store.take([index]), label, selection[label], most)
        for index, label in tqdm(photos, desc="gallery", unit="photo", leave=False)
    ]
    masks = np.stack([store.masks[index] for index, _ in photos])
    labels = np.array([label for _, label in photos])
    on_object = (masks == labels[:, None, None] + 1).astype(np.uint8)
    return {
        "images": store.take([index for index, _ in photos]),
        "labels": labels,
        "objects": np.where(masks == VOID, np.uint8(VOID), on_object),
        "taps": np.array(network.taps),
    } | {name: np.stack([maps[name] for maps in shown]) for name in shown[0]}


def _explain(pair_maps, network, variables, photo, label, others, most) -> dict[str, np.ndarray]:
    maps = pair_maps(label, others)(photo)
    images = jnp.asarray(network.preprocess(photo))
    baseline, *_ = explain(
        network, variables, images, method="grad_cam", select=NamedLabels((label,))
    )
    by_class = np.asarray(maps.multi)[:, 0]
    absent = most - len(others)
    made = {
        "pair_maps": np.pad(by_class, ((0, absent), (0, 0), (0, 0))),
        "fused": fusion.fuse(maps.multi[:, 0]),
        "layers": maps.layers[0, 0],
        "adding": normalize_maps(maps.layers[0, 0].sum(axis=0)),
        "multi": maps.multi[0, 0],
        "baseline": resize_maps(normalize_maps(baseline[0, 0]), images.shape[1:3]),
    }
    made = {name: np.asarray(array).astype(np.float16) for name, array in made.items()}
    return made | {"classes": np.pad(np.array(others), (0, absent), constant_values=-1)}
