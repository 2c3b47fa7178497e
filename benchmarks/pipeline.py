"""Images a second of the input pipeline, as a share of bare decoding and resizing with Pillow.

    python -m benchmarks.pipeline [--folder PHOTOS] [--workers 2] [--batch 32] [--json FILE]

The pipeline reads JPEG files, crops, resizes, normalises and batches them; the bare loop opens,
converts and resizes them in one thread; a share of 1 is its speed on every core. What starting
threads or worker processes takes stands in the rows of the first batch alone.
"""

from __future__ import annotations

import csv
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import harness
from minmax_jax import data
from minmax_jax.models.preprocess import IMAGENET

_PHOTO = (500, 375)
_SIZES = (224, 512)
_GOAL = 0.8


def main(argv: Sequence[str] | None = None) -> None:
    cores = os.cpu_count() or 1
    parser = harness.parser(__doc__)
    parser.add_argument("--folder", help="JPEG files; windows of two photographs by default")
    parser.add_argument("--photos", type=int, default=256, help="how many to make")
    parser.add_argument("--workers", type=int, default=cores, help="worker processes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8, help="batches a timing")
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(options.folder or pathlib.Path(root, "photos")).absolute()
        if not options.folder:
            make_photos(folder, options.photos)
        paths = sorted(folder.glob("*.jpg"))
        if not paths:
            parser.error(f"no *.jpg in {folder}")
        with open(pathlib.Path(root, "train.csv"), "w", newline="") as file:
            csv.writer(file).writerows([("image", "labels"), *((p.name, "photo") for p in paths)])
        source = data.create_source(
            "csv", "train", root=root, train_csv="train.csv", images=str(folder)
        )
        for size in _SIZES:
            rows += _size_rows(source, paths, size, cores, options)
    harness.report(rows, options)


def make_photos(folder: pathlib.Path, number: int) -> None:
    """JPEG files, all different: windows of two photographs."""
    folder.mkdir()
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(number):
        original = originals[i % 2]
        left, top = i % (original.width - _PHOTO[0]), i % (original.height - _PHOTO[1])
        window = original.crop((left, top, left + _PHOTO[0], top + _PHOTO[1]))
        window.save(folder / f"{i:04}.jpg", quality=90)


def _size_rows(source, paths, size, cores, options) -> list[harness.Row]:
    """One after the other: what makes batches ahead would slow the others' turns."""
    number = options.batch * options.batches
    photos = list(itertools.islice(itertools.cycle(paths), number))
    bare = min(
        _seconds(lambda: [_open_photo(path, size) for path in photos])
        for _ in range(options.repeats)
    )
    rows = [harness.Row(f"{size} px, bare loop, one thread", number / bare, "images/s")]
    makers = {f"{min(8, cores)} threads": 0, f"{options.workers} worker processes": options.workers}
    for name, workers in makers.items():
        iterator = iter(
            data.batches(
                source,
                batch_size=options.batch,
                image_size=size,
                preprocess=IMAGENET,
                seed=0,
                epochs=None,
                workers=workers,
            )
        )
        first = _seconds(lambda it=iterator: next(it))
        _take(iterator, 4 * cores)  # Made while the first was waited for.
        seconds = min(
            _seconds(lambda it=iterator: _take(it, options.batches)) for _ in range(options.repeats)
        )
        iterator.close()
        what, share = f"{size} px, {name}", bare / cores / seconds
        rows += [
            harness.Row(f"{what}, first batch", first, "s"),
            harness.Row(what, number / seconds, "images/s"),
            harness.Row(f"{what}, share", share, "of the bare loop", _GOAL, "high"),
        ]
    return rows


def _open_photo(path: pathlib.Path, size: int) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)


def _take(iterator: Iterator[object], number: int) -> None:
    for _ in range(number):
        next(iterator)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
