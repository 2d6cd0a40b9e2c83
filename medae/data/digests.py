"""Contents' digests and what was found in contents, remembered so that a file is read through once.

A file that has the size, times and inode number that it was hashed with is taken for unchanged, as by git and make.
The memory is a SQLite file among the prepared cases; it holds hashes of paths, never paths, and losing it costs time only.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

CACHE_VARIABLE = "MEDAE_CACHE"
HASHING_THREADS = 8
SETTLED = 2.0
"""Seconds that a file must have been left alone: one changed within the clock's grain could look unchanged."""

Progress = Callable[[int, int], None]
_progress: ContextVar[Progress | None] = ContextVar("progress of hashing", default=None)


def cache_folder() -> Path:
    """Where prepared scans and digests are kept: MEDAE_CACHE, else .medae/store in the working folder."""
    return Path(os.environ.get(CACHE_VARIABLE, Path.cwd() / ".medae" / "store"))


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Within this context ``progress`` is called with the number of files read and to read, hashed and to hash."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def reporter() -> Progress | None:
    """What progress is reported to here, if anything."""
    return _progress.get()


def sha256_of_files(paths: Iterable[Path]) -> dict[Path, str | OSError]:
    """SHA-256 over each file's bytes, hexadecimal, or the error that it could not be read with; in threads."""
    ordered = sorted(set(paths))
    memory = Memory()
    stamps = {path: _stamp(path) for path in ordered}
    known = memory.get([stamp for stamp in stamps.values() if stamp])
    result: dict[Path, str | OSError] = {path: known[stamp] for path, stamp in stamps.items() if stamp and stamp in known}
    missing = [path for path in ordered if path not in result]
    progress = reporter()
    with ThreadPoolExecutor(HASHING_THREADS) as pool:  # hashlib releases the interpreter lock
        for done, (path, digest) in enumerate(zip(missing, pool.map(_sha256, missing), strict=True), start=1):
            result[path] = digest
            if progress is not None:
                progress(done, len(missing))
    memory.put(
        {
            stamp: digest
            for path in missing
            if isinstance(digest := result[path], str) and (stamp := _unchanged(path, stamps))
        }
    )
    return result


def _unchanged(path: Path, stamps: Mapping[Path, str | None]) -> str | None:
    """The stamp from before a file was read, if it still holds."""
    stamp = stamps[path]
    return stamp if stamp is not None and stamp == _stamp(path) else None


class Memory:
    """Texts by key, in a SQLite file that several processes may use. Where it cannot be used, nothing is remembered."""

    def __init__(self) -> None:
        self._file = cache_folder() / "digests.sqlite"

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """What is known of these keys."""
        found: dict[str, str] = {}
        with suppress(sqlite3.Error, OSError), self._open() as store:
            for key in keys:
                row = store.execute("SELECT value FROM memory WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[0]
        return found

    def put(self, values: Mapping[str, str]) -> None:
        """Remember values. A file that is no database (any more) is begun anew."""
        if not values:
            return
        try:
            self._put(values)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # such as locked or read-only
                return
            with suppress(OSError, sqlite3.Error):
                self._file.unlink(missing_ok=True)
                self._put(values)
        except (OSError, sqlite3.Error):
            return

    def _put(self, values: Mapping[str, str]) -> None:
        with self._open() as store:
            store.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?)", values.items())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(self._file, timeout=30)
        try:
            store.execute("PRAGMA synchronous = OFF")  # what a power failure takes is found out again
            with store:  # one transaction
                store.execute("CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
                yield store
        finally:
            store.close()


def _stamp(path: Path) -> str | None:
    """A hash of where a file is and of what changes when it does; None if it is not there or was changed just now."""
    try:
        status = path.stat()
    except OSError:
        return None
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED:
        return None
    parts = (path.absolute(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def _sha256(path: Path) -> str | OSError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error
