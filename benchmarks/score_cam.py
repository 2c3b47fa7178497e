"""Score-CAM over the bare forward pass: its speed, labels, flat channels and memory.

    python -m benchmarks.score_cam [--networks mobilenet_v2,resnet50] [--channels 256] [--json FILE]

Every figure is of one image. Its masked images are compared with the same number of plain ones,
forwarded in batches of the same size; the image's own pass, masks and weights count as cost. The
number of channels, and how many of them are flat, is set at the last tap alone.

Memory is measured with 256 channels that are not flat, 2,048 in all or no more: once as the
compiled program declares it, once as the memory resident at the peak of its run beyond what was
resident before, in a process of its own.
"""

from __future__ import annotations

import functools
import gc
import os
import pathlib
import re
from collections.abc import Sequence

import jax

from benchmarks import harness
from minmax_jax import create_network, make_explain_fn

_NUM_LABELS = 20
_FEW, _MANY = 256, 2048  # channels, of whose peak memory the ratio is told
_MIB = 2**20
# Linux' account of this process; "5" written to the second makes it forget the peak.
_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="mobilenet_v2,resnet50")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--chunks", default="8,32", help="masked images in one pass")
    options = parser.parse_args(argv)
    rows = []
    for network, variables, size in harness.each_network(options, num_labels=_NUM_LABELS):
        rows += _speed_rows(network, variables, size, options)
        rows += _memory_rows(network.name, size, int(options.chunks.split(",")[0]))
    harness.report(rows, options)


def _speed_rows(network, variables, size, options) -> list[harness.Row]:
    number, chunks = options.channels, [int(chunk) for chunk in options.chunks.split(",")]
    image = jax.device_put(harness.random_images(1, size))
    all_live = harness.with_channels(network, number)
    half_live = harness.with_channels(network, number, live=number // 2)
    one_label = create_network(network.name, num_labels=1)
    one_variables = jax.device_put(one_label.init(jax.random.key(0)))
    bare = {
        chunk: harness.bare_passes(network, variables, size, number=number, batch=chunk)
        for chunk in chunks
    }

    def masked(network, variables, chunk):
        explain_fn = make_explain_fn(network, "score_cam", mask_chunk=chunk)
        return lambda: explain_fn(variables, image)

    calls = {f"bare {chunk}": passes for chunk, (passes, _) in bare.items()}
    calls |= {f"masked {chunk}": masked(all_live, variables, chunk) for chunk in chunks}
    calls["half flat"] = masked(half_live, variables, chunks[0])
    calls["one label"] = masked(harness.with_channels(one_label, number), one_variables, chunks[0])
    times = harness.seconds(calls, repeats=min(options.repeats, 3))
    base = times[f"masked {chunks[0]}"]
    what = f"{network.name}, score_cam, {number} channels"
    rows = []
    for chunk in chunks:
        bare_rate = bare[chunk][1] / times[f"bare {chunk}"]
        rate = number / times[f"masked {chunk}"]
        rows += [
            harness.Row(f"{network.name}, forward pass, batches of {chunk}", bare_rate, "images/s"),
            harness.Row(f"{what}, chunks of {chunk}", rate, "masks/s"),
            harness.Row(
                f"{what}, chunks of {chunk}",
                rate / bare_rate,
                "masks/s over forward images/s",
                0.97,
                "high",
            ),
        ]
    rows.append(
        harness.Row(f"{what}, {_NUM_LABELS} labels", base / times["one label"], "of 1 label", 1.02)
    )
    rows.append(harness.Row(f"{what}, half flat", times["half flat"] / base, "of all live", 0.55))
    return rows


def _memory_rows(name, size, chunk) -> list[harness.Row]:
    ways = {"declared": (_declared_bytes, 1.1)}
    if jax.default_backend() == "cpu" and os.access(_CLEAR, os.W_OK):
        ways["resident"] = (functools.partial(harness.in_new_process, _resident_bytes), None)
    rows = []
    for way, (measure, goal) in ways.items():
        few, many = (measure(name, size, channels, chunk) for channels in (_FEW, _MANY))
        what = f"{name}, score_cam, peak memory, {way}"
        rows += [
            harness.Row(f"{what}, {_FEW} channels", few / _MIB, "MiB"),
            harness.Row(f"{what}, {_MANY} channels", many / few, f"of {_FEW} channels", goal),
        ]
    return rows


def _declared_bytes(name, size, channels, chunk) -> int:
    """What the compiled program allocates beside the variables and the image."""
    sizes = _compiled(name, size, channels, chunk)[0].memory_analysis()
    return sizes.temp_size_in_bytes + sizes.output_size_in_bytes


def _resident_bytes(name, size, channels, chunk) -> int:
    """By how much a run of the program raises the memory of its process at most."""
    compiled, variables, image = _compiled(name, size, channels, chunk)
    gc.collect()
    _CLEAR.write_text("5")
    before = _status("VmRSS")
    jax.block_until_ready(compiled(variables, image))
    return _status("VmHWM") - before


def _compiled(name, size, channels, chunk):
    """The program of Score-CAM and what it takes, laid out on the device."""
    network = create_network(name, num_labels=_NUM_LABELS)
    variables = jax.device_put(network.init(jax.random.key(0)))
    image = jax.device_put(harness.random_images(1, size))
    network = harness.with_channels(network, channels, live=_FEW)
    explain_fn = make_explain_fn(network, "score_cam", mask_chunk=chunk)
    return explain_fn.lower(variables, image).compile(), variables, image


def _status(field: str) -> int:
    """Bytes of one line of the account."""
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", _STATUS.read_text())[1])


if __name__ == "__main__":
    main()
