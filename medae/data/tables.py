"""Tables of text: participants, sessions, label names, lists of cases."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path

from medae.errors import DataError

MISSING = frozenset({"", "n/a", "N/A", "NA", "nan", "NaN"})
DECIMAL_COMMA = re.compile(r"^(-?\d+),(\d+)$")


def read_table(path: Path, columns: Iterable[str] = (), delimiters: str = "\t") -> dict[int, dict[str, str]]:
    """The rows of a table: line in the file -> column -> cell. Empty rows are left out, missing cells are empty.

    columns: that have to be there. delimiters: the one that parts the most names in the first line is taken; with
    semicolons, decimal commas become points, as the programs that write such tables mean them.
    Raises DataError for a file that is no such table.
    """
    needed = tuple(columns)
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(delimiters, key=text.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
        rows = dict((reader.line_num, row) for row in reader)  # noqa: C402 -- the number changes with each row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table cannot be read: {error}", where=path.name, remedy="Save it as UTF-8 text.") from error
    names = [name.strip() for name in reader.fieldnames or ()]
    if not set(needed) <= set(names) or len(set(names)) < len(names) or any(None in row for row in rows.values()):
        separator = "tab" if set(delimiters) == {"\t"} else "one of , ; and tab"
        problem = f"The table is not parted by {separator} into columns of different names"
        problem += f", {', '.join(needed)} among them." if needed else "."
        raise DataError(problem, where=path.name, remedy="Correct the file.")
    stripped = {line: {name.strip(): cell.strip() for name, cell in row.items()} for line, row in rows.items()}
    if delimiter == ";":
        stripped = {
            line: {name: DECIMAL_COMMA.sub(r"\1.\2", cell) for name, cell in row.items()} for line, row in stripped.items()
        }
    return {line: row for line, row in stripped.items() if any(row.values())}


def value(text: str) -> str | float | None:
    """A cell's content: a number as such, ``n/a`` and the like as None, and so is what is a number and not finite.

    A code such as ``1_2`` is a text, though Python reads it as a number.
    """
    text = text.strip()
    if text in MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return None
    return text if "_" in text else number
