"""The work of an evaluation: maps of each image, then masked passes of all pairs, in full chunks.

Of most methods the maps of all labels come out of one pass; those of `pair_maps.FAMILIES` are made
of the present labels alone, a chunk of pairs at a time, when the others of the piece are packed.

Each step only queues work for the devices and hands on what will be there; results are looked at
when the next step's work is queued already. Batches are cut into pieces of one size, so that
Score-CAM's many passes come in portions, between which a run is seen to move and can be saved.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import memory, pair_maps, parallel
from minmax_jax.approximation import approximation_error
from minmax_jax.cams import maps as map_ops
from minmax_jax.explain import make_explain_fn, make_explain_fns
from minmax_jax.methods import METHODS
from minmax_jax.metrics import faithfulness, localization, masking, sums
from minmax_jax.metrics.sums import Score
from minmax_jax.models.network import Network, Variables
from minmax_jax.packing import pack
from minmax_jax.perturb import make_fill
from minmax_jax.predict import fill_up
from minmax_jax.sweep_state import Place, State

# Passes of methods with many of them in one piece, at least: their last one is not full.
_PASSES = 64
# Masked images that one program scores on each device, chunk by chunk, at least.
_MASKED = 64

Batch = Mapping[str, np.ndarray]


class Piece(NamedTuple):
    """Some images of a batch, and what is made of them.

    Attributes:
      batch, row: where it begins.
      images: how many there are; further rows of the arrays only fill them up.
      of: images of the whole batch.
      arrays: `images (r H W 3)`, `present (r c)` and `masks (r H W)` or None; once explained, also
        `logits (r c)` and, of the methods that explain all labels, `maps (m r c h w)`.
      made: maps by group of methods made in one pass, once explained.
    """

    batch: int
    row: int
    images: int
    of: int
    arrays: dict[str, Any]
    made: dict[tuple[str, ...], Any]


class Sweep:
    """Scores the pairs of batches; holds what stays the same from batch to batch.

    Attributes:
      images_a_piece: of the pieces into which batches are cut, at most.
      read: batches of which all maps are made, the last one maybe in part.
    """

    def __init__(
        self,
        network: Network,
        variables: Variables,
        first: Batch,
        *,
        methods: tuple[str, ...],
        switches: Any,
        mask_chunk: int | None,
        approximate: dict[str, int | None],
        images_a_piece: int | None,
        mesh: jax.sharding.Mesh | None,
    ):
        self.network, self.methods, self.switches, self.mesh = network, methods, switches, mesh
        self.variables = parallel.replicate(mesh, variables)
        self.approximate, self.mask_chunk = approximate, mask_chunk
        self.has_masks, self.image_shape = "mask" in first, np.shape(first.get("image"))[1:]
        self.of_images, self.of_pairs = pair_maps.split_methods(methods)
        self.loops = any(_many_passes(network, METHODS[name]) for name in methods)
        self.read, self.queued = 0.0, None
        options = {"mask_chunk": mask_chunk, "mesh": mesh}
        self.explain_fns = (
            make_explain_fns(network, self.of_images, **options, **approximate)
            if self.of_images
            else {}
        )
        self.pair_fns = {name: make_explain_fn(network, name, **options) for name in self.of_pairs}
        images = self._checked(first, 0)["images"]
        image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
        chunk = mask_chunk or memory.images_at_once(network.apply, variables, image, mesh=mesh)
        devices = 1 if mesh is None else mesh.size
        at_once = max(1, chunk // 2)  # pairs: each is two masked images
        self.size = devices * at_once * max(1, _MASKED // (2 * at_once))
        self.score_fn = _score_fn(network, switches, at_once, mesh)
        self.gather = _gather_fn(switches.normalize_at)
        # A run that goes on elsewhere cuts the same pieces and fills them up for its own devices.
        self.images_a_piece = images_a_piece or self._cut(images, chunk * devices)
        self.rows = -(-self.images_a_piece // devices) * devices
        self.pairs_at_once = pair_maps.chunk_size(chunk, self.rows, mesh)

    def _cut(self, images: np.ndarray, chunk: int) -> int:
        """A batch's images, or as many as fill enough passes of their channels."""
        number = len(images)
        if self.loops:
            _, taps = jax.eval_shape(self.network.apply, self.variables, images)
            channels = taps[self.network.taps[-1]].shape[-1]
            masks = min([channels, *filter(None, self.approximate.values())])
            number = min(number, -(-_PASSES * chunk // masks))
        devices = 1 if self.mesh is None else self.mesh.size
        return max(1, -(-number // devices)) * devices

    def scores(
        self, batches: Iterable[Batch], state: State
    ) -> Iterator[tuple[dict[str, Score], np.ndarray]]:
        """Scores of the pairs not counted in `state`, in chunks; notes in it what was read.

        Args:
          batches: from the one on in which `state` goes on.

        Yields:
          `{metric: Score}` of numpy arrays `(n,)`, and the rows `(n,)` of the sums they belong to.

        Raises:
          ValueError: for batches of the wrong form, and logits that are not finite.
        """
        lap = _Lap()
        pieces = parallel.ahead(map(self._put, self._pieces(batches, state.places[0])))
        # Two pieces of many passes at work at once would only take memory.
        explained = parallel.ahead(map(self._explain, pieces), 0 if self.loops else 1)
        chunks = pack(self._pairs(explained, state, lap), self.gather, self.size, mesh=self.mesh)
        for scores, index in parallel.ahead(map(self._score, chunks)):
            number = len(index)
            scores = {
                name: Score(*(np.asarray(x)[:number] for x in scores[name])) for name in scores
            }
            state.spend(self.methods, lap())
            state.padding += self.switches.passes * (self.size - number)
            method, _, label, _ = index.T
            yield scores, method * self.num_labels + label

    def _pieces(self, batches, place) -> Iterator[Piece]:
        for number, batch in enumerate(batches, place.batch):
            arrays = self._checked(batch, number)
            images = len(arrays["images"])
            start = place.row if number == place.batch else 0
            for row in range(start, images, self.images_a_piece):
                own = slice(row, row + self.images_a_piece)
                part = jax.tree.map(lambda x, own=own: x[own], arrays)
                yield Piece(number, row, len(part["images"]), images, part, {})

    def _checked(self, batch, number):
        if "image" not in batch:
            raise ValueError(f"batch {number} has no image, only {', '.join(batch) or 'nothing'}")
        images, present = batch["image"], None
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"batch {number} has images {images.shape[1:]}, the first had {self.image_shape}"
            )
        if self.switches.present == "annotated":
            if "labels" not in batch:
                raise ValueError(f'present="annotated" needs labels, and batch {number} has none')
            present = np.asarray(batch["labels"], bool)
            if present.ndim != 2 or len(present) != len(images):
                raise ValueError(
                    f"batch {number} has labels {present.shape} for images {images.shape}"
                )
        masks = batch.get("mask")
        if self.has_masks != (masks is not None):
            raise ValueError(f"some batches have masks and some have none (batch {number})")
        if masks is not None and masks.shape != images.shape[:3]:
            raise ValueError(f"batch {number} has masks {masks.shape} for images {images.shape}")
        return {"images": images, "present": present, "masks": masks}

    def _put(self, piece: Piece) -> Piece:
        filled = jax.tree.map(lambda x: fill_up(x, self.rows), piece.arrays)
        return piece._replace(arrays=parallel.put(self.mesh, filled))

    def _explain(self, piece: Piece) -> Piece:
        arrays = piece.arrays
        valid = np.arange(self.rows) < piece.images
        made, logits = {}, None
        for group, explain_fn in self.explain_fns.items():
            made[group], logits = explain_fn(
                self.variables, arrays["images"], arrays["present"], valid
            )
        if not made:
            logits = pair_maps.logits_fn(self.network)(self.variables, arrays["images"])
        maps = {name: maps for group in made.values() for name, maps in group.items()}
        stacked = _stack([maps[name] for name in self.of_images]) if maps else None
        return piece._replace(arrays=arrays | {"maps": stacked, "logits": logits}, made=made)

    def _pairs(self, explained, state, lap) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Arrays, and which pairs of them to score.

        Yields:
          What `_gather_fn` takes: the arrays of a piece with maps, and `(n 4)` of method, image,
          label and the number of the map among `maps (... h w)`.
        """
        place, counted = state.places[0], state.counted

        def timed(methods, queued):
            jax.block_until_ready(queued)
            state.spend(methods, lap())

        for piece in explained:
            for group, maps in piece.made.items():
                timed(group, maps)
            arrays = piece.arrays
            logits = np.asarray(arrays["logits"])[: piece.images]
            if not np.isfinite(logits).all():
                raise ValueError(f"the network's logits are not finite in batch {piece.batch}")
            present = logits > 0
            if arrays["present"] is not None:
                present = np.asarray(arrays["present"])[: piece.images]
            self.num_labels = logits.shape[1]
            if state.sums is None:
                state.sums = sums.zero(self._sum_names(), len(self.methods) * self.num_labels)
            if any(self.approximate.values()) and state.approximation is None:
                state.approximation = self._error(arrays["images"], present)
            pairs = np.argwhere(present).astype(np.int32)
            done = max(0, counted - place.pairs)
            if self.of_images:
                index = np.concatenate([self._index(name, pairs) for name in self.of_images])
                yield arrays, index[done:]
            present = fill_up(present, self.rows)
            for number, name in enumerate(self.of_pairs, len(self.of_images)):
                skip = max(0, done - number * len(pairs))
                for maps, index in self._maps_of_pairs(name, arrays, present, pairs, skip, timed):
                    yield arrays | {"maps": maps}, index
            end = piece.row + piece.images
            self.read = piece.batch + end / piece.of
            place = Place(
                *((piece.batch, end) if end < piece.of else (piece.batch + 1, 0)),
                place.images + piece.images,
                place.pairs + len(self.methods) * len(pairs),
            )
            state.read_to(place)

    def _sum_names(self):
        names = masking.METRICS + (localization.SUMS if self.has_masks else ())
        steps = self.switches.curve_steps
        return names + (faithfulness.sum_names(steps) if steps else ())

    def _index(self, name, pairs):
        """What `_pairs` yields of a method that explains all labels."""
        numbers = self.of_images.index(name) * self.rows + pairs[:, 0]
        return self._columns(name, pairs, numbers * self.num_labels + pairs[:, 1])

    def _columns(self, name, pairs, maps):
        methods = np.full(len(pairs), self.methods.index(name))
        return np.column_stack([methods, pairs, maps]).astype(np.int32)

    def _maps_of_pairs(self, name, arrays, present, pairs, skip, timed):
        """Maps, and what `_pairs` yields of them, of a method that explains pairs."""
        size = self.pairs_at_once
        for numbers in pair_maps.chunks(len(pairs), size, skip=skip):
            timed(self.methods, self.queued)  # scores, whose time is not that of maps
            maps = pair_maps.explain_pairs(
                self.pair_fns[name],
                self.variables,
                arrays["images"],
                present,
                pairs[numbers],
                size=size,
                mesh=self.mesh,
            )
            timed((name,), maps)
            index = self._columns(name, pairs[numbers], np.arange(len(numbers)))
            yield maps, index[max(0, skip - numbers[0]) :]

    def _error(self, images, present):
        return approximation_error(
            self.network,
            self.variables,
            images,
            present=fill_up(present, self.rows),
            valid=np.arange(self.rows) < len(present),
            mask_chunk=self.mask_chunk,
            mesh=self.mesh,
            **self.approximate,
        )

    def _score(self, chunk):
        pairs, index = chunk
        self.queued = self.score_fn(self.variables, pairs)
        return self.queued, index


class _Lap:
    """Called, gives the seconds since its last call."""

    def __init__(self):
        self.last = time.monotonic()

    def __call__(self) -> float:
        before, self.last = self.last, time.monotonic()
        return self.last - before


def _many_passes(network, method):
    """Whether a method forwards an image again for each of its channels."""
    if method.family == "ablation":
        return network.head_kernel is None  # of a head that is linear after pooling they are known
    return method.family == "masking"


_stack = jax.jit(jnp.stack)


@functools.lru_cache
def _gather_fn(normalize_at):
    """Makes what it takes to score pairs `(n 4)`, as `Sweep._pairs` yields them."""

    def gather(arrays, index):
        _, image, label, number = index.T
        logits, maps, images = arrays["logits"][image], arrays["maps"], arrays["images"][image]
        seen = maps[jnp.unravel_index(number, maps.shape[:-2])]
        if normalize_at == "activation":
            seen = map_ops.normalize_maps(seen)
        seen = map_ops.resize_maps(seen, images.shape[1:3])
        if normalize_at == "input":
            seen = map_ops.normalize_maps(seen)
        return {
            "image": images,
            "map": seen,
            "probabilities": jax.nn.sigmoid(logits),
            "present": logits > 0 if arrays["present"] is None else arrays["present"][image],
            "label": label,
            "mask": None if arrays["masks"] is None else arrays["masks"][image],
        }

    return gather


@functools.lru_cache(maxsize=64)
def _score_fn(network, switches, at_once, mesh):
    """Jitted: variables and pairs, as `_gather_fn` makes them, to `{metric: Score}` of `(n,)`."""
    make_filling = make_fill(switches.fill, network.preprocess)
    pair_scores = functools.partial(masking.pair_scores, others=switches.others)
    locate = functools.partial(localization.pair_scores, threshold=switches.threshold)

    def score(variables, pairs):
        images, seen = pairs["image"], pairs["map"]

        def probabilities_of(images):
            return jax.nn.sigmoid(network.apply(variables, images)[0])

        filling = make_filling(images)
        weights = jnp.stack([seen, 1 - seen], axis=1)[..., None]
        masked = weights * images[:, None] + (1 - weights) * filling[:, None]
        probabilities = probabilities_of(masked.reshape(-1, *images.shape[1:]))
        kept, dropped = jnp.moveaxis(probabilities.reshape(len(images), 2, -1), 1, 0)
        label, present = pairs["label"], pairs["present"]
        scores = jax.vmap(pair_scores)(pairs["probabilities"], kept, dropped, label, present)
        if pairs["mask"] is not None:
            scores |= jax.vmap(locate)(seen, pairs["mask"], label)
        if switches.curve_steps:
            scores |= faithfulness.pair_scores(
                probabilities_of,
                images,
                filling,
                seen,
                label,
                pairs["probabilities"],
                steps=switches.curve_steps,
            )
        return scores

    def chunk_by_chunk(variables, pairs):
        cut = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), pairs)
        scores = jax.lax.map(functools.partial(score, variables), cut)
        return jax.tree.map(jnp.ravel, scores)

    return jax.jit(parallel.split_rows(mesh, chunk_by_chunk))
