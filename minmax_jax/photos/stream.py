"""Photos in a stream: decoded ahead by threads, explained in full batches, written behind.

Every queue is bounded, so memory does not grow with the number of photos.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from minmax_jax.cams.maps import normalize_maps
from minmax_jax.data import images as images_lib
from minmax_jax.explain import make_explain_fns
from minmax_jax.models.network import Network, Variables
from minmax_jax.photos.listing import assign_folders, owner_of
from minmax_jax.photos.write import Explanation, Photo, percent, remove_partial, write_photo
from minmax_jax.predict import sigmoid, softmax
from minmax_jax.report.overlay import to_grey
from minmax_jax.report.sheet import fit
from minmax_jax.select import Policy

# Decoding, resizing, looking colours up and compressing release the GIL: threads are enough.
# Each of the two pools may fill the cores: either of them may be what the network waits for.
_WORKERS = min(8, os.cpu_count() or 1)
_PROBABILITIES = {"sigmoid": sigmoid, "softmax": softmax}


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A photo without results, and why."""

    photo: str
    reason: str


def explain_photos(
    network: Network,
    variables: Variables,
    paths: Sequence[str],
    directory: str | os.PathLike,
    *,
    methods: Sequence[str],
    select: Policy,
    label_names: Sequence[str],
    activation: str = "softmax",
    batch_size: int = 8,
    image_size: int | None = None,
    resize: str = "letterbox",
    mask_chunk: int | None = None,
    channels: int | None = None,
    clusters: int | None = None,
    progress: bool = True,
) -> list[Skipped]:
    """Explains photos; each gets a folder in `directory` (`write.write_photo`).

    Photos whose folder is there already are left alone. One that cannot be read, or whose logits
    are not finite, spoils nothing.

    Args:
      network, variables: as in `explain`; the network needs `preprocess`.
      paths: of the photos, each once.
      directory: where the folders are made.
      methods: names in `METHODS`.
      select: which labels are explained and which are present (`minmax_jax.select`).
      label_names: one a label.
      activation: "sigmoid" or "softmax", what makes probabilities of the logits.
      batch_size: photos in one forward pass.
      image_size: side of the network's square input in pixels; by default the network's own.
      resize: "letterbox" shows the network the whole photo, "crop" its centred square.
      mask_chunk, channels, clusters: as in `explain`.
      progress: whether to show a progress bar.

    Returns:
      The photos without results, in the order of `paths`.

    Raises:
      ValueError: for unknown names and sizes below 1.
    """
    images_lib.check_resize(resize)
    size = image_size or network.image_size
    if batch_size < 1 or size is None or size < 1:
        raise ValueError(f"batch_size and image_size must be >= 1: {batch_size}, {size}")
    directory = pathlib.Path(directory)
    remove_partial(directory)
    folders = assign_folders(paths, directory)
    todo = [path for path in paths if owner_of(folders[path]) is None]
    decode = functools.partial(
        decode_photo, size=size, resize=resize, preprocess=network.preprocess
    )
    explain_fns = make_explain_fns(
        network,
        methods,
        select=select,
        activation=activation,
        mask_chunk=mask_chunk,
        channels=channels,
        clusters=clusters,
    )
    explainer = _Explainer(explain_fns, variables, methods, activation, label_names, batch_size)
    skipped: list[Skipped] = []
    bar = tqdm(
        desc="photos",
        unit="photo",
        total=len(paths),
        initial=len(paths) - len(todo),
        disable=not progress,
    )
    readers = futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode")
    writers = futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="write")
    writing: collections.deque[futures.Future] = collections.deque()

    def reap(limit: int) -> None:
        while len(writing) > limit:
            writing.popleft().result()  # raises what writing raised
            bar.update()

    try:
        decoded = _ahead(readers, decode, todo, batch_size + _WORKERS)
        for photo, explanation in explainer.run(_readable(decoded, skipped, bar)):
            if explanation is None:
                skipped.append(Skipped(photo.path, "the network's logits are not finite"))
                bar.update()
                continue
            writing.append(writers.submit(write_photo, folders[photo.path], photo, explanation))
            reap(2 * batch_size)
        reap(0)
    finally:  # Also when the disk is full or the user interrupts.
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)
        bar.close()
    order = {path: number for number, path in enumerate(paths)}
    return sorted(skipped, key=lambda entry: order[entry.photo])


def decode_photo(
    path: str, *, size: int, resize: str, preprocess: Callable[[np.ndarray], np.ndarray]
) -> Photo | Skipped:
    """Reads a photo and what the network sees of it; a damaged one gives the reason."""
    try:
        image = images_lib.decode_image(path)
    except ValueError as error:
        return Skipped(path, str(error.__cause__))
    seen = images_lib.resize_image(image, size, resize)
    return Photo(
        path=path,
        grey=to_grey(image),
        thumbnail=fit(image),
        image=np.asarray(preprocess(seen), np.float32),
        box=images_lib.seen_box(*image.shape[:2], size, resize),
    )


def _ahead(pool, function, items: Iterable, number: int) -> Iterator:
    """Results in the order of `items`, of which `number` are worked on ahead."""
    items = iter(items)
    ahead = collections.deque(
        pool.submit(function, item) for item in itertools.islice(items, number)
    )
    while ahead:
        result = ahead.popleft().result()
        ahead.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
        yield result


def _readable(decoded, skipped, bar) -> Iterator[Photo]:
    for entry in decoded:
        if isinstance(entry, Skipped):
            skipped.append(entry)
            bar.update()
        else:
            yield entry


class _Explainer:
    """Batches of photos through the network; while one is there, the next is put together."""

    def __init__(self, explain_fns, variables, methods, activation, label_names, batch_size):
        self.explain_fns = tuple(explain_fns.values())
        self.variables = jax.device_put(variables)
        self.methods = tuple(dict.fromkeys(methods))
        self.activation = activation
        self.label_names = label_names
        self.batch_size = batch_size

    def run(self, photos: Iterable[Photo]) -> Iterator[tuple[Photo, Explanation | None]]:
        """Photos with their explanations; None where the logits are not finite."""
        photos = iter(photos)
        running = None
        while batch := list(itertools.islice(photos, self.batch_size)):
            started = batch, self._start(batch)
            if running:
                yield from self._finish(*running)
            running = started
        if running:
            yield from self._finish(*running)

    def _start(self, batch: Sequence[Photo]) -> Any:
        """Starts the computation; a smaller last batch runs in the program of the others."""
        images = np.zeros((self.batch_size, *batch[0].image.shape), np.float32)
        for row, photo in enumerate(batch):
            images[row] = photo.image
        valid = np.arange(self.batch_size) < len(batch)
        maps = {}
        for explain_fn in self.explain_fns:
            group_maps, logits, selection = explain_fn(self.variables, images, None, valid)
            maps |= group_maps
        maps = {method: maps[method] for method in self.methods}
        return maps, _normalize(maps), logits, selection

    def _finish(self, batch, results):
        maps, masks, logits, selection = jax.tree.map(np.asarray, results)
        for row, photo in enumerate(batch):
            if not np.isfinite(logits[row]).all():
                yield photo, None
                continue
            probabilities = _PROBABILITIES[self.activation](logits[row : row + 1])[0]
            chosen = selection.chosen[row]
            labels = selection.labels[row][chosen]
            yield (
                photo,
                Explanation(
                    labels=labels,
                    names=tuple(self.label_names[label] for label in labels),
                    probabilities=probabilities[labels].astype(np.float32),
                    maps={method: maps[method][row][chosen] for method in self.methods},
                    masks={method: masks[method][row][chosen] for method in self.methods},
                    note=self._note(probabilities, labels, selection.present[row]),
                ),
            )

    def _note(self, probabilities, labels, present) -> str:
        if not len(labels):
            best = int(probabilities.argmax())
            return f"nothing detected; {self.label_names[best]}: {percent(probabilities[best])}"
        more = int(present.sum() - present[labels].sum())
        return f"{more} more detected" if more else ""


_normalize = jax.jit(functools.partial(jax.tree.map, normalize_maps))
