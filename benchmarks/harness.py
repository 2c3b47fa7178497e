"""What benchmarks share: networks, images, timing by turns, and the table and JSON at their end."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minmax_jax import create_network
from minmax_jax.files import write_json
from minmax_jax.models.network import Network, Variables


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
      what: what was measured.
      value: the figure.
      unit: its unit.
      goal: what it should be at most, None where nothing is promised.
      good: "low", or "high" where the goal is what the figure should be at least.
    """

    what: str
    value: float
    unit: str
    goal: float | None = None
    good: str = "low"

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.good == "low" else self.value >= self.goal


def seconds(functions: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, float]:
    """Fastest of several calls of each function, after one that compiles.

    The functions take turns, so that a busy moment of the machine hits all of them.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    fastest = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest


def parser(description: str | None, *, networks: str = "") -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has.

    Args:
      networks: names with commas, the default of `--networks`; "" for a benchmark without it and
        `--size`, which `each_network` reads.
    """
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    result.add_argument("--repeats", type=int, default=5, help="timings of which the best counts")
    if networks:
        result.add_argument("--networks", default=networks, help="names with commas")
        result.add_argument("--size", type=int, default=0, help="pixels; 0 is the network's own")
    return result


def each_network(
    options: argparse.Namespace, *, num_labels: int, **arguments: Any
) -> Iterator[tuple[Network, Variables, int]]:
    """Each network of `--networks`, random variables, and the side of its images in pixels."""
    for name in options.networks.split(","):
        network = create_network(name, num_labels=num_labels, **arguments)
        variables = jax.device_put(network.init(jax.random.key(0)))
        yield network, variables, options.size or network.image_size


def random_images(number: int, size: int) -> np.ndarray:
    """Float32 `(number size size 3)` in -1..1: patches of random colours with noise on them."""
    rng = np.random.default_rng(0)
    side = -(-size // 8)
    patches = rng.uniform(-1, 1, (number, 8, 8, 3)).repeat(side, axis=1).repeat(side, axis=2)
    noise = rng.uniform(-1, 1, (number, size, size, 3))
    return (0.7 * patches[:, :size, :size] + 0.3 * noise).astype(np.float32)


def forward_fn(network: Network) -> Callable[[Variables, Any], jax.Array]:
    """The bare forward pass, `(variables, images) -> logits`: what everything is compared with."""
    return jax.jit(lambda variables, images: network.apply(variables, images)[0])


def bare_passes(
    network: Network, variables: Variables, size: int, *, number: int, batch: int
) -> tuple[Callable[[], Any], int]:
    """A function that forwards images in batches, and how many: the least from `number` on."""
    forward = forward_fn(network)
    images = jax.device_put(random_images(batch, size))
    passes = -(-number // batch)
    return lambda: [forward(variables, images) for _ in range(passes)], passes * batch


def with_channels(network: Network, number: int, *, live: int | None = None) -> Network:
    """The network with `number` channels at its last tap, of which the first `live` are not flat.

    They are the network's own, cut or repeated; the logits are untouched and do not depend on them,
    so this is for methods without gradients and kernels.
    """
    tap = network.taps[-1]

    def apply(variables, images, perturbations=None):
        del perturbations
        logits, activations = network.apply(variables, images)
        own = activations[tap]
        own = jnp.tile(own, -(-number // own.shape[-1]))[..., :number]
        slope = jnp.linspace(0, 1, own.shape[1], dtype=own.dtype)[None, :, None, None]
        is_live = (jnp.arange(number) < (number if live is None else live))[None, None, None]
        return logits, activations | {tap: jnp.where(is_live, own + slope, 0)}

    return dataclasses.replace(network, apply=apply, head_kernel=None)


def in_new_process(function: Callable[..., Any], *args: Any, devices: int = 1) -> Any:
    """`function(*args)`, of a module's top level, in a Python of its own with so many CPU devices.

    It inherits nothing: no compiled program, no memory, no device.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, _use_cpus, (devices,)) as pool:
        return pool.submit(function, *args).result()


def _use_cpus(devices: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def report(rows: Sequence[Row], options: argparse.Namespace, *, peers: Sequence[str] = ()) -> None:
    """Prints the rows as a table and writes them to `options.json` with how they came about.

    Args:
      peers: packages whose versions stand in the JSON beside those of jax and jaxlib.
    """
    device = jax.devices()[0]
    name = f"{device.platform}: {device.device_kind}"
    width = max(len(row.what) for row in rows)
    print(name)
    for row in rows:
        goal = ""
        if row.goal is not None:
            bound = "most" if row.good == "low" else "least"
            goal = f"  goal at {bound} {row.goal:.4g} {'met' if row.met else 'MISSED'}"
        print(f"{row.what:<{width}}  {row.value:10.4g} {row.unit}{goal}")
    if options.json:
        origin = {
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "device": name,
            "cores": os.cpu_count(),
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("jax", "jaxlib", *peers)
            },
        }
        found = [dataclasses.asdict(row) | {"met": row.met} for row in rows]
        write_json(options.json, origin | {"rows": found})
