"""Small files of a run: written beside and renamed, so that a reader sees the old or the new one, never half.

A file of lines, which several processes add to, only grows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically. Raises ValueError on NaN: a result has numbers or null."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Add a line of JSON to a file that several processes write to. Half a line, which one left that was killed, is cut off;
    a whole one that only lacks its end, as some editors save it, gets one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        ended = b"" if whole == len(content) or not _is_json(content[whole:]) else b"\n"
        if not ended:
            file.truncate(whole)
        file.write(ended + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """The lines that ``append_line`` wrote, none if there is no such file. Half a line at the end is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    *lines, last = text.split("\n")
    return [*lines, last] if _is_json(last.encode()) else lines


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@cache
def source_digest() -> str:
    """SHA-256 over medae's own source files, so that a changed program does not pass for the one that ran."""
    import medae
    import pipelines

    total = hashlib.sha256()
    for package in (medae, pipelines):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            total.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()


def set_aside(folder: Path) -> Path:
    """Rename a folder so that its name is free and nothing is lost; returns where it is now."""
    count = 1
    while (aside := folder.with_name(f"{folder.name}-old{count}")).exists():
        count += 1
    folder.rename(aside)
    return aside
