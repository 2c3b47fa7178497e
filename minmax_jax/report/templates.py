"""The pages' templates and what all of them show."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import numpy as np

from minmax_jax.report import names
from minmax_jax.report.overlay import overlay_map


def template(name: str, filters: Mapping[str, Callable] | None = None) -> jinja2.Template:
    """A template of this folder. Values are escaped; one that is missing raises."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"method": names.method_title, **(filters or {})}
    environment.globals["ARROWS"] = names.ARROWS
    return environment.get_template(name)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dicts as `("a.b.c", text)`."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", text


def scale(steps: int = 9) -> list[str]:
    """Colours of a map's values from 0 to 1 over mid grey, for a legend."""
    grey = np.full((1, steps), 128, np.uint8)
    colors = overlay_map(grey, np.linspace(0, 1, steps, dtype=np.float32)[None])[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colors]
