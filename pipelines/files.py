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
    """Add a line to a file that several processes write to. Half a line, which one left that was killed, is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


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
