"""Score-CAM on an accelerator: the share of the chip's dense peak, and the papers' data set.

    python -m benchmarks.accelerator [--networks resnet101] [--size 512] [--dtype bfloat16]
        [--channels 2048] [--chunk 0] [--peak OPERATIONS] [--json FILE]

Operations are those of the forward pass, a multiplication and its addition being two; those with
padding do not count, nor do those of masks and weights. With `--peak` it runs on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from benchmarks import harness
from minmax_jax import make_explain_fn
from minmax_jax.memory import images_at_once
from minmax_jax.models import DTYPES

_NUM_LABELS = 20
# Operations a second of dense matrices in bfloat16, by what the name of the device holds.
_PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
# VOC 2007's validation images, the channels of a ResNet, and the first paper's time for them.
_IMAGES, _CHANNELS, _PAPER_HOURS = 2510, 2048, 16


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="resnet101")
    parser.set_defaults(size=512)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--channels", type=int, default=_CHANNELS)
    parser.add_argument("--chunk", type=int, default=0, help="masked images in a pass; 0: chosen")
    parser.add_argument("--peak", type=float, help="operations a second; by default the device's")
    options = parser.parse_args(argv)
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in _PEAKS.items() if name in kind]
    if not (options.peak or known):
        parser.error(f"the peak of {kind!r} is not known: give --peak OPERATIONS a second")
    peak = options.peak or known[0]
    rows = []
    for network, variables, size in harness.each_network(
        options, num_labels=_NUM_LABELS, dtype=options.dtype
    ):
        rows += _rows(network, variables, size, peak, options)
    harness.report(rows, options)


def operations(network, variables, images) -> float:
    """Floating-point operations of the forward pass of one of the images."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (variables, images))
    # A CPU's program is counted: of accelerators' JAX tells nothing before they are compiled, and
    # nothing right afterwards where they call a library's convolutions.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = harness.forward_fn(network).lower(*shapes)
    return lowered.cost_analysis()["flops"] / len(images)


def _rows(network, variables, size, peak, options) -> list[harness.Row]:
    image = jax.device_put(harness.random_images(1, size))
    chunk = options.chunk or images_at_once(network.apply, variables, image[0])
    wide = harness.with_channels(network, options.channels)
    explain_fn = make_explain_fn(wide, "score_cam", mask_chunk=chunk)
    passes, number = harness.bare_passes(
        network, variables, size, number=options.channels, batch=chunk
    )
    calls = {"bare": passes, "masked": lambda: explain_fn(variables, image)}
    times = harness.seconds(calls, repeats=options.repeats)
    bare = number / times["bare"]
    rate = options.channels / times["masked"]
    each = operations(network, variables, image)
    what = f"{network.name}, {size} px, {options.dtype}"
    hours = _IMAGES * _CHANNELS / rate / 3600
    table = f"{what}, Score-CAM of {_IMAGES} images x {_CHANNELS} channels"
    ratio = "masks/s over forward images/s"
    return [
        harness.Row(f"{what}, forward pass", each / 1e9, "1e9 operations an image"),
        harness.Row(f"{what}, forward pass, batches of {chunk}", bare, "images/s"),
        harness.Row(f"{what}, forward pass", each * bare / peak, "of the dense peak"),
        harness.Row(f"{what}, Score-CAM, chunks of {chunk}", rate, "masks/s"),
        harness.Row(f"{what}, Score-CAM", rate / bare, ratio, 0.97, "high"),
        harness.Row(f"{what}, Score-CAM", each * rate / peak, "of the dense peak", 0.4, "high"),
        harness.Row(table, hours, f"hours (the paper: {_PAPER_HOURS})"),
    ]


if __name__ == "__main__":
    main()
