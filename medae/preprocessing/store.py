"""The store: prepared cases on disk, so that each scan is read and resampled once.

Entries are named by the digests of the case's contents and of the space; one that is missing or damaged is prepared
again. Several processes may build one store at the same time.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medae.config import digest
from medae.data.case import Case, Manifest
from medae.errors import DataError
from medae.plan import SpacePlan
from medae.preprocessing.entry import Entry, is_intact, open_entry, write_entry
from medae.preprocessing.prepare import prepare_case

LAYOUT = 1
"""Raised whenever the preparation or the files of an entry change, so that older entries are not taken for newer."""

ABANDONED = 24 * 3600.0
"""Seconds after which a temporary folder is taken for the remains of a killed process."""


@dataclass(frozen=True)
class Store:
    """The prepared cases of a manifest. Small and picklable: arrays are opened by ``store[case_id]``.

    folder: where the entries lie. space: the plan's space. targets: the names that were asked for. keys: subject and
    name of the entry's folder by case id, in the manifest's order.
    """

    folder: Path
    space: SpacePlan
    targets: tuple[str, ...]
    keys: dict[str, tuple[str, str]]

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The ids of the cases, in the manifest's order."""
        return tuple(self.keys)

    def subject(self, case_id: str) -> str:
        """The subject of a case. Raises KeyError."""
        return self.keys[case_id][0]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, case_id: str) -> Entry:
        """Open an entry. Raises KeyError for an unknown case, DataError if the entry has been removed or damaged."""
        subject, key = self.keys[case_id]
        return open_entry(self.folder / key, case_id, subject)


def build_store(
    manifest: Manifest,
    space: SpacePlan,
    folder: Path,
    targets: Sequence[str] = (),
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Prepare every case that the folder does not hold yet and open the store.

    targets: names of the label maps to keep; a case may lack them. workers: threads that prepare cases beside each
    other, 0 and 1 are one. progress: called with the number of cases done and of all.
    Raises DataError and GeometryError for a case that cannot be prepared, and DataError if the folder cannot be
    written (disk full); the entries that are done stay valid.
    """
    keys = {case.id: (case.subject, _key(case, space, targets)) for case in manifest.cases}
    store = Store(folder, space, tuple(targets), keys)
    _sweep(folder)
    with ThreadPoolExecutor(max(1, workers)) as threads:
        waiting = [threads.submit(_ensure, manifest, case, store) for case in manifest.cases]
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(waiting))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return store


def _key(case: Case, space: SpacePlan, targets: Sequence[str]) -> str:
    parts = {"layout": LAYOUT, "case": case.digest(), "space": digest(space), "targets": list(targets)}
    return digest(parts)[:32]


def _sweep(folder: Path) -> None:
    """Make the folder and remove what killed processes left in it long ago."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".new-*"):
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _ensure(manifest: Manifest, case: Case, store: Store) -> None:
    entry = store.folder / store.keys[case.id][1]
    if is_intact(entry):
        return
    prepared = prepare_case(manifest, case, store.space, store.targets)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=store.folder, ignore_cleanup_errors=True) as beside:
            new = Path(beside) / "entry"
            new.mkdir()
            write_entry(new, prepared)
            _put(new, entry, Path(beside) / "replaced")
    except OSError as error:
        raise _unwritable(store.folder, error) from error


def _put(new: Path, entry: Path, aside: Path) -> None:
    """Rename a written entry to its place. Another process may have done the same in the meantime: either will do."""
    if is_intact(entry):
        return
    with suppress(FileNotFoundError):
        entry.rename(aside)
    try:
        new.rename(entry)
    except OSError:
        if not is_intact(entry):
            raise


def _unwritable(folder: Path, error: OSError) -> DataError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DataError(
        "The disk is full." if full else f"The store of prepared cases cannot be written: {error.strerror or error}.",
        where=folder,
        remedy="Free space or choose another folder, then run the stage again; what is done is kept.",
    )
