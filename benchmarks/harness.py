"""Timing by turns, and the table and JSON that every benchmark ends with."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from minmax_jax.files import write_json


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


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    result.add_argument("--repeats", type=int, default=5, help="timings of which the best counts")
    return result


def report(rows: Sequence[Row], json: str | None) -> None:
    """Prints the rows as a table and writes them to `json`, with the device's name."""
    device = jax.devices()[0]
    name = f"{device.platform}: {device.device_kind}"
    width = max(len(row.what) for row in rows)
    print(name)
    for row in rows:
        goal = ""
        if row.goal is not None:
            bound = "most" if row.good == "low" else "least"
            goal = f"  goal at {bound} {row.goal:g} {'met' if row.met else 'MISSED'}"
        print(f"{row.what:<{width}}  {row.value:8.3f} {row.unit}{goal}")
    if json:
        write_json(
            json, [dataclasses.asdict(row) | {"met": row.met, "device": name} for row in rows]
        )
