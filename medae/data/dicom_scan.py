"""Find the DICOM files of a folder tree and read their headers, in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from medae.errors import DataError
from medae.formats.dicom.headers import Header, IndexFile, read_header
from medae.formats.dicom.sniff import is_dicom
from medae.parallel import unordered

CHUNK = 100
"""Files of one piece of work: enough that passing it between processes costs nothing beside reading."""

WORTH_PROCESSES = 2000
"""Fewer files are read before other processes would have started."""

SNIFFED = 500
"""Files that are looked into to recognise a tree of DICOM files."""

Fault = Literal["empty", "not DICOM", "damaged", "index", "unreadable folder", "linked folder"]


@dataclass(frozen=True)
class Scan:
    """headers: by SeriesInstanceUID, in the order of paths. faults: files and folders that gave none, by kind; an index
    (DICOMDIR) is no fault."""

    headers: dict[str, list[Header]] = field(default_factory=dict, repr=False)
    faults: dict[Fault, list[Path]] = field(default_factory=dict, repr=False)


def files_beneath(root: Path, faults: dict[Fault, list[Path]] | None = None) -> Iterator[Path]:
    """Files at any depth, ordered; hidden ones, and folders that are links or cannot be read, are left out.

    faults: gets the folders of both kinds.
    """
    faults = {} if faults is None else faults

    def refused(error: OSError) -> None:
        faults.setdefault("unreadable folder", []).append(Path(error.filename))

    for folder, folders, names in os.walk(root, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if links := [path for path in (Path(folder, name) for name in folders) if path.is_symlink()]:
            faults.setdefault("linked folder", []).extend(links)
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def holds_dicom(root: Path) -> bool:
    """Whether one of the first 500 files of a tree is DICOM."""
    return any(is_dicom(path) for path in islice(files_beneath(root), SNIFFED))


def scan(root: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> Scan:
    """The headers of all DICOM files beneath a folder. progress: called with the numbers of files done and of all files."""
    whole = Scan()
    paths = list(files_beneath(root, whole.faults))
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    results: list[list[Header | Fault]] = [[] for _ in chunks]
    done = 0
    for place, found in unordered(_read, chunks, workers if len(paths) >= WORTH_PROCESSES else 1):
        results[place] = found
        done += len(found)
        if progress is not None:
            progress(done, len(paths))
    for path, item in zip(paths, (item for found in results for item in found), strict=True):
        if isinstance(item, Header):
            whole.headers.setdefault(item.series, []).append(item)
        elif item != "index":
            whole.faults.setdefault(item, []).append(path)
    return whole


def _read(paths: Sequence[Path]) -> list[Header | Fault]:
    found: list[Header | Fault] = []
    for path in paths:
        try:
            found.append(read_header(path))
        except IndexFile:
            found.append("index")
        except DataError:
            found.append(_fault(path))
    return found


def _fault(path: Path) -> Fault:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return "empty"
    except OSError:
        return "damaged"
    return "damaged" if is_dicom(path) else "not DICOM"
