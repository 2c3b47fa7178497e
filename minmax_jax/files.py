"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

from minmax_jax import parallel


def write_atomically(
    path: str | os.PathLike, write: Callable[[BinaryIO], Any], *, everyone: bool = False
) -> None:
    """Calls `write(file)` on a binary file beside `path`, then renames it to `path`.

    A reader, or a run that goes on after a kill, sees the old file or the new one, never a part. Of
    several processes that share the work only the first one writes, or `everyone`, each its own.
    """
    if not (everyone or parallel.is_first()):
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # mkstemp makes private files; results are for everybody.
        os.replace(aside, path)
    except BaseException:
        pathlib.Path(aside).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON; raises `ValueError` on NaN and infinities."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      ValueError: it holds something else; the message names it.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)} is no JSON: {error}") from error
