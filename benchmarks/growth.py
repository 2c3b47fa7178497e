"""How the cost of explanations grows with images, labels, channels and devices.

    python -m benchmarks.growth [--networks mobilenet_v2] [--batch 8] [--plot FILE] [--json FILE]

Every cost is relative to that of the smallest setting of its row. Images and channels should cost
in proportion, labels nothing. Devices are fakes, each count in a process of its own, and share the
work of one: with as many cores for all of them, what they cost is what splitting the work costs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
from matplotlib.figure import Figure

from benchmarks import harness
from benchmarks.explain import LAST_LAYER
from minmax_jax import create_network, make_explain_fn, parallel

_FACTORS = (1, 2, 4)
_DEVICES = (1, 2, 4, 8)
_LABELS = 5  # times a factor
_CHUNK = 8  # masked images in one pass, on all devices together
_SERIES = ("the seven methods of the last layer", "Score-CAM")
# What grows, and whether the cost should grow with it.
_AXES = {"images": True, "labels": False, "channels": True, "devices": False}
# Of Okabe and Ito, told apart by colour-blind eyes too.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, networks="mobilenet_v2")
    parser.add_argument("--batch", type=int, default=8, help="images, times a factor")
    parser.add_argument("--channels", type=int, default=16, help="of Score-CAM, times a factor")
    parser.add_argument("--devices", default=",".join(map(str, _DEVICES)))
    parser.add_argument("--plot", metavar="FILE", help="draw the costs of the first network")
    options = parser.parse_args(argv)
    most = max(map(int, options.devices.split(",")))
    if options.batch % most:
        parser.error(f"--batch {options.batch} cannot be split evenly over {most} devices")
    rows, costs = [], {}
    for network, _, size in harness.each_network(options, num_labels=1):
        costs[network.name] = _costs(network.name, size, options)
        for axis, series in costs[network.name].items():
            for name, points in series.items():
                rows += [
                    harness.Row(f"{network.name}, {name}, {axis} x {factor}", cost, "of x 1")
                    for factor, cost in points.items()
                ]
    if options.plot:
        name, axes = next(iter(costs.items()))
        device = jax.devices()[0].device_kind
        draw(axes, f"{name}, {device}, {os.cpu_count()} cores").savefig(options.plot, dpi=150)
    harness.report(rows, options)


def _costs(name, size, options) -> dict[str, dict[str, dict[int, float]]]:
    """Relative costs `{axis: {series: {factor: cost}}}`."""
    settings = (name, size, options.batch, options.channels)
    costs = {}
    for axis in ("images", "labels", "channels"):
        calls = {}
        for factor in _FACTORS:
            for series, call in _calls(*settings, **{axis: factor}).items():
                calls[series, factor] = call
        costs[axis] = _relative(harness.seconds(calls, repeats=options.repeats))
    times = {}
    for devices in map(int, options.devices.split(",")):
        found = harness.in_new_process(
            _device_times, settings, devices, options.repeats, devices=devices
        )
        times |= {(series, devices): time for series, time in found.items()}
    costs["devices"] = _relative(times)
    return costs


def _calls(name, size, batch, channels_of, *, images=1, labels=1, channels=1, devices=None):
    """What is timed, by series; `images`, `labels` and `channels` are factors."""
    network = create_network(name, num_labels=_LABELS * labels)
    mesh = parallel.make_mesh() if devices else None
    variables = parallel.replicate(mesh, network.init(jax.random.key(0)))
    photos = parallel.put(mesh, harness.random_images(batch * images, size))
    last_layer = make_explain_fn(network, LAST_LAYER, mesh=mesh)
    score_cam = make_explain_fn(
        harness.with_channels(network, channels_of * channels),
        "score_cam",
        mask_chunk=max(1, _CHUNK // (devices or 1)),
        mesh=mesh,
    )
    calls = {
        _SERIES[0]: lambda: last_layer(variables, photos),
        _SERIES[1]: lambda: score_cam(variables, photos),
    }
    if channels > 1:  # The methods of the last layer have the network's own.
        del calls[_SERIES[0]]
    return calls


def _device_times(settings, devices, repeats) -> dict[str, float]:
    return harness.seconds(_calls(*settings, devices=devices), repeats=repeats)


def _relative(times) -> dict[str, dict[int, float]]:
    """Times `{(series, factor): seconds}` over those of the smallest factor; no lone points."""
    costs = {}
    for series in _SERIES:
        own = {factor: time for (name, factor), time in times.items() if name == series}
        if len(own) > 1:
            costs[series] = {factor: time / own[min(own)] for factor, time in own.items()}
    return costs


def draw(costs: dict[str, dict[str, dict[int, float]]], title: str) -> Figure:
    """Small multiples of relative costs `{axis: {series: {factor: cost}}}`."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for panel, (axis, series) in zip(panels, costs.items(), strict=True):
        factors = sorted({factor for points in series.values() for factor in points})
        ideal = factors if _AXES[axis] else [1] * len(factors)
        panel.plot(factors, ideal, color="0.5", linestyle="--", label="ideal")
        for name, points in series.items():
            colour, marker = _STYLES[_SERIES.index(name)]
            panel.plot(list(points), list(points.values()), color=colour, marker=marker, label=name)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(factors, [f"{factor}" for factor in factors])
        panel.set_xlabel(axis if axis == "devices" else f"{axis}, relative")
        panel.grid(alpha=0.3)
    ticks = (0.5, 1, 2, 4, 8)
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_ylabel("relative cost")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    main()
