"""Entries for a tracking store that wait in a local file until they are delivered.

A JSON line an entry: ``{"kind", "run", "time" (ms), ...}``. The file holds what has not been delivered yet, nothing else,
and is gone when all has been. Files to be stored are copied at once into a folder beside it, as they may change later.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


class Spool:
    """A queue that outlives the process."""

    def __init__(self, folder: Path) -> None:
        """Take up what an earlier process left in ``folder``."""
        self._folder = folder
        self._file = folder / "mlflow_waiting.jsonl"
        self._copies = folder / "mlflow_waiting"
        self._complained = False
        self._entries: list[Entry] = []
        self._take_up()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self._file.name

    def append(self, entry: Entry) -> None:
        """Queue an entry and write it to the file; a disk that is full leaves it in memory, with one warning."""
        self._entries.append(entry)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._complain(error)

    def keep(self, path: Path) -> str:
        """Copy a file or folder to where it waits; returns what ``locate`` finds it by, the original if there is no room."""
        copy = self._copies / uuid.uuid4().hex / path.name
        try:
            copy.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copy2(path, copy)
        except OSError as error:
            shutil.rmtree(copy.parent, ignore_errors=True)
            self._complain(error)
            return str(path.absolute())
        return copy.relative_to(self._folder).as_posix()

    def locate(self, kept: str) -> Path:
        """Where a file given to ``keep`` lies, also after the folder was moved."""
        return self._folder / kept

    def drop(self, group: list[Entry]) -> None:
        """Forget entries, and the copies that they name."""
        gone = {id(entry) for entry in group}
        self._entries = [entry for entry in self._entries if id(entry) not in gone]
        for entry in group:
            kept = entry.get("path")
            if kept is not None and not Path(kept).is_absolute():
                shutil.rmtree(self.locate(kept).parent, ignore_errors=True)
        self._rewrite()

    def discard(self, kind: str, run: str) -> None:
        """Forget entries that no longer hold, such as the end of a run that goes on."""
        kept = [entry for entry in self._entries if (entry["kind"], entry["run"]) != (kind, run)]
        if len(kept) < len(self._entries):
            self._entries = kept
            self._rewrite()

    def _rewrite(self) -> None:
        try:
            if not self._entries:
                self._file.unlink(missing_ok=True)
                shutil.rmtree(self._copies, ignore_errors=True)
                return
            beside = self._file.with_suffix(".new")
            with beside.open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(entry) + "\n" for entry in self._entries)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self._file)
        except OSError as error:
            self._complain(error)

    def _take_up(self) -> None:
        if not self._file.is_file():
            return
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            # The last line is cut off when the process was killed while it wrote.
            with contextlib.suppress(json.JSONDecodeError):
                self._entries.append(json.loads(line))
        if len(self._entries) < len(lines):
            logger.warning("An entry that was cut off in %s is left out.", self._file.name)
            self._rewrite()

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "What waits for the tracking store cannot be written to disk (%s); it is kept in memory only.",
                error.strerror,
            )
