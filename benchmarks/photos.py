"""Photos a second of the whole stream, as a share of the images a second of the bare forward pass.

    python -m benchmarks.photos [--networks mobilenet_v2,resnet50] [--photos 96] [--json FILE]

The stream decodes JPEG files of 640 x 480, explains them, and writes overlays, contact sheets and
maps. On a CPU all of it shares the cores with the forward pass, so its cost is what is missing to
1: a share of 0.8 allows a quarter of the pass's own time, which a network as light as MobileNetV2
does not leave. The first rows tell what the parts cost.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import harness
from minmax_jax import NETWORKS, create_network
from minmax_jax.photos.stream import decode_photo, explain_photos
from minmax_jax.photos.write import Explanation, write_photo
from minmax_jax.report.overlay import overlay_map
from minmax_jax.report.png import encode_png
from minmax_jax.select import TopLabels

_SIZE = (640, 480)
_NUM_LABELS = 1000
# (methods, labels a photo): what a photo's folder holds.
_TASKS = (
    (("minmax_cam",), 1),
    (("minmax_cam",), 3),
    (("cam", "minmax_cam", "d_minmax_cam"), 3),
)
_GOAL = 0.8


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    default = [name for name in ("mobilenet_v2", "resnet50") if name in NETWORKS]
    parser.add_argument("--networks", default=",".join(default), help="names with commas")
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = _make_photos(pathlib.Path(folder, "photos"), options.photos)
        rows += _profile(paths[:8], pathlib.Path(folder), options.repeats)
        for name in options.networks.split(","):
            rows += _network_rows(name, paths, pathlib.Path(folder), options)
    harness.report(rows, options)


def _make_photos(folder: pathlib.Path, number: int) -> list[str]:
    """JPEG files, all different: windows of two photographs."""
    folder.mkdir()
    originals = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    paths = []
    for index in range(number):
        original = originals[index % len(originals)]
        left, top = rng.uniform(0, 0.2, 2) * original.size
        box = (left, top, left + 0.8 * original.width, top + 0.8 * original.height)
        path = folder / f"{index:04d}.jpg"
        original.resize(_SIZE, Image.Resampling.BICUBIC, box=box).save(path, quality=90)
        paths.append(str(path))
    return paths


def _profile(paths: list[str], folder: pathlib.Path, repeats: int) -> list[harness.Row]:
    """What one thread takes for the parts of the work beside the network."""
    read = functools.partial(
        decode_photo, size=224, resize="letterbox", preprocess=lambda images: images
    )
    photos = [read(path) for path in paths]
    map_ = np.random.default_rng(0).random((7, 7), np.float32)
    pictures = [overlay_map(photo.grey, map_, photo.box) for photo in photos]
    bare = Explanation(
        labels=np.zeros(0, np.int32),
        names=(),
        probabilities=np.zeros(0, np.float32),
        maps={"cam": map_[:0]},
        masks={"cam": map_[:0]},
        note="",
    )
    parts = {
        "decode and resize": lambda: [read(path) for path in paths],
        "draw an overlay": lambda: [overlay_map(item.grey, map_, item.box) for item in photos],
        "encode an overlay": lambda: [encode_png(picture) for picture in pictures],
        "sheet and maps": lambda: [write_photo(folder / "bare", item, bare) for item in photos],
    }
    times = harness.seconds(parts, repeats=repeats)
    return [
        harness.Row(f"{name}, one thread", 1000 * times[name] / len(paths), "ms a photo")
        for name in parts
    ]


def _network_rows(name, paths, folder, options) -> list[harness.Row]:
    network = create_network(name, num_labels=_NUM_LABELS)
    variables = jax.device_put(network.init(jax.random.key(0)))
    size = network.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (options.batch, size, size, 3))
    images = images.astype(np.float32)
    forward = harness.forward_fn(network)

    def pass_all() -> None:
        for _ in range(0, len(paths), options.batch):
            forward(variables, images).block_until_ready()

    calls = {"forward": pass_all}
    for number, (methods, top) in enumerate(_TASKS):
        settings = {
            "methods": methods,
            "select": TopLabels(top),
            "label_names": [f"label {index}" for index in range(_NUM_LABELS)],
        }

        def stream(number=number, settings=settings) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                explain_photos(
                    network,
                    variables,
                    paths,
                    out,
                    batch_size=options.batch,
                    progress=False,
                    **settings,
                )

        calls[number] = stream
    times = harness.seconds(calls, repeats=min(options.repeats, 3))
    rows = [harness.Row(f"{name}, forward pass", len(paths) / times["forward"], "images/s")]
    for number, (methods, top) in enumerate(_TASKS):
        what = f"{name}, {_count(len(methods), 'method')}, {_count(top, 'label')}"
        share = times["forward"] / times[number]
        rows.append(harness.Row(what, share, "of the forward pass", _GOAL, "high"))
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


if __name__ == "__main__":
    main()
