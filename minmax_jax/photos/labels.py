"""Names of labels: read from a file, and found again by what a user types."""

from __future__ import annotations

import csv
import difflib
import pathlib
from collections.abc import Sequence

_NAME_COLUMNS = ("name", "label", "class", "class_name", "display_name", "names", "labels")
_INDEX_COLUMNS = ("index", "id", "class_id", "idx", "number")
_SHOWN = 5


def read_names(path: str, number: int) -> tuple[str, ...]:
    """Names of labels from a text file or a CSV file.

    A line holds a name, commas and all, in the order of the index. A `.csv` file may instead have
    a header with a column "name", "label" or "class" and maybe one "index" or "id", which then
    says the order.

    Args:
      path: the file, UTF-8.
      number: of labels that the network has.

    Raises:
      ValueError: naming the file, if it is missing, has another number of names, or an empty one.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read names of labels from {path}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    names = _table_names(path, lines) if path.lower().endswith(".csv") else None
    names = [line.strip() for line in lines] if names is None else names
    if len(names) != number:
        raise ValueError(f"{path} has {len(names)} names for {number} labels")
    if "" in names:
        raise ValueError(f"{path}: the name of label {names.index('')} is empty")
    return tuple(names)


def _table_names(path: str, lines: list[str]) -> list[str] | None:
    """Names of a CSV file's rows; None if a line is a name as it stands."""
    rows = list(csv.reader(lines, skipinitialspace=True))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in _NAME_COLUMNS if name in header), None)
    if column is None:
        return [row[0].strip() for row in rows] if all(len(row) == 1 for row in rows) else None
    rows = rows[1:]
    order = next((header.index(name) for name in _INDEX_COLUMNS if name in header), None)
    try:
        names = [row[column].strip() for row in rows]
        if order is None:
            return names
        indices = [int(row[order]) for row in rows]
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: a row has no {header[column]} or no index") from error
    if sorted(indices) != list(range(len(rows))):
        raise ValueError(f"{path}: the indices are not 0 to {len(rows) - 1}, each once")
    return [name for _, name in sorted(zip(indices, names, strict=True))]


def choose_labels(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the labels that `text` names, in its order, each once.

    The whole text, if it is a name; else its parts between commas, each a name, one of a name's own
    parts between commas ("Tinca tinca" of "tench, Tinca tinca"), or an index. Upper and lower case
    are one, unless both exist.

    Raises:
      ValueError: for a part that fits no label, with the nearest names, or several, with those.
    """
    whole = _fitting(text, [[name] for name in names])
    if len(whole) == 1:
        return tuple(whole)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"no label named by {text!r}")
    return tuple(dict.fromkeys(_index(part, names) for part in parts))


def _index(part: str, names: Sequence[str]) -> int:
    synonyms = [name.split(",") for name in names]
    for forms in ([[name] for name in names], synonyms):
        found = _fitting(part, forms)
        if len(found) > 1:
            several = ", ".join(f"{index} ({names[index]})" for index in found[:_SHOWN])
            raise ValueError(f"label {part!r} may be {several}; give the index")
        if found:
            return found[0]
    if part.isdecimal() and int(part) < len(names):
        return int(part)
    known = {form.strip().casefold(): form.strip() for forms in synonyms for form in forms}
    near = difflib.get_close_matches(part.casefold(), known, n=_SHOWN, cutoff=0.5)
    hint = f"near: {', '.join(known[name] for name in near)}" if near else "no name is near"
    raise ValueError(f"unknown label {part!r} of {len(names)}; {hint}")


def _fitting(text: str, forms: Sequence[Sequence[str]]) -> list[int]:
    """Indices of the labels of which a form is `text`: to the letter, else in any case."""
    for alike in (str, str.casefold):
        wanted = alike(text.strip())
        found = [
            index
            for index, own in enumerate(forms)
            if any(alike(form.strip()) == wanted for form in own)
        ]
        if found:
            return found
    return []
