"""The store: prepared cases on disk, so that each scan is read and resampled once.

Entries are named by the digests of the files' contents and of the preprocessing, whatever the case is called; one that is
missing or damaged is prepared again. Several processes may build one store at the same time.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from medae.config import digest, to_dict
from medae.data.case import Case, ImageRef, Manifest
from medae.errors import DataError, MedaeError
from medae.parallel import unordered
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.entry import Entry, is_intact, open_entry, write_entry
from medae.preprocessing.estimate import entry_bytes, refuse_small_disk
from medae.preprocessing.prepare import brain_mask_of, prepare_case

LAYOUT = 3
"""Raised whenever the preparation or the files of an entry change, so that older entries are not taken for newer."""

ABANDONED = 24 * 3600.0
"""Seconds after which a temporary folder is taken for the remains of a killed process."""

WORTH_A_PROCESS = 100_000_000
"""Bytes of entries a process, of which fewer do not pay its start: one core prepares 15 to 20 MB a second."""

SLOW = 50
"""By how many times N4 or a brain extraction lengthens the preparation, for the same count."""


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
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    brain: BrainExtraction | None = None,
    starting: Callable[[int, int], None] | None = None,
) -> Store:
    """Prepare every case that the folder does not hold yet and open the store.

    targets: names of the label maps to keep; a case may lack them. workers: processes at most; as many are used as the
    work is worth. progress: called with the number of cases done and of all. brain: as in `prepare_case`. starting: called
    before the work, if there is any, with the number of cases and the bytes that they take at most.
    Raises DataError and GeometryError for a case that cannot be prepared, and DataError if the disk is far too small, before
    any work, if the folder cannot be written, or if a process dies; the entries that are done stay valid.
    """
    keys = {case.id: (case.subject, entry_key(case, space, targets, brain)) for case in manifest.cases}
    store = Store(folder, space, tuple(targets), keys)
    sweep(folder)
    to_do = _missing(manifest, store, workers)
    done = len(manifest.cases) - len(to_do)
    if not to_do:
        if progress is not None:
            progress(done, done)
        return store
    needed = sum(entry_bytes(manifest, case, space, targets) for case in to_do)
    remedy = "Free space, set MEDAE_CACHE to a folder on a larger disk, or choose a coarser space.spacing."
    refuse_small_disk(folder, f"{len(to_do)} preprocessed cases", needed, remedy)
    if starting is not None:
        starting(len(to_do), needed)
    slow = space.bias_correction != "none" or brain is not None
    processes = min(workers, max(1, needed * (SLOW if slow else 1) // WORTH_A_PROCESS))
    with temporary_in(folder) as beside:
        prepare = partial(_ensure, manifest.model_copy(update={"cases": ()}), store, brain, Path(beside))
        with closing(unordered(prepare, to_do, processes)) as results:
            for count, (_, failure) in enumerate(results, start=1):
                if failure is not None:
                    raise failure
                if progress is not None:
                    progress(done + count, len(manifest.cases))
    return store


def entry_key(case: Case, space: SpacePlan, targets: Sequence[str], brain: BrainExtraction | None = None) -> str:
    """The name of a case's entry: a digest of the contents that go into it and of how they are prepared."""
    mask: str | None = None
    if space.foreground == "brain":
        given = brain_mask_of(case, space)
        mask = given.identity() if given is not None else brain.name if brain is not None else None
    parts = {
        "layout": LAYOUT,
        "space": digest({key: value for key, value in to_dict(space).items() if key != "slices"}),
        "images": _identities(case.images, space.channels),
        "targets": [list(targets), _identities(case.targets, targets)],
        "brain": mask,
    }
    return digest(parts)[:32]


def _identities(refs: Mapping[str, ImageRef | str | float], names: Sequence[str]) -> dict[str, str]:
    """What is read of some images, by name."""
    found = {name: refs.get(name) for name in names}
    return {name: f"{ref.kind} {ref.identity()}" for name, ref in found.items() if isinstance(ref, ImageRef)}


def _missing(manifest: Manifest, store: Store, workers: int) -> list[Case]:
    """The cases without an intact entry, each entry once. Reading for the checksums is done in threads."""
    cases = {store.keys[case.id][1]: case for case in manifest.cases}
    with ThreadPoolExecutor(max(1, workers)) as threads:
        intact = list(threads.map(is_intact, [store.folder / key for key in cases]))
    return [case for case, whole in zip(cases.values(), intact, strict=True) if not whole]


def temporary_in(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in the store for what is being written, also by other processes; removed with all that these left."""
    try:
        return tempfile.TemporaryDirectory(prefix=".new-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def sweep(folder: Path) -> None:
    """Make the folder and remove what killed processes left in it long ago."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".new-*"):
            with suppress(FileNotFoundError):  # another process is done with it
                if time.time() - leftover.stat().st_mtime > ABANDONED:
                    shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _ensure(manifest: Manifest, store: Store, brain: BrainExtraction | None, beside: Path, case: Case) -> MedaeError | None:
    """Prepare a case and put it into the store. Returns the user's error, whole, if there is one."""
    key = store.keys[case.id][1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would change the last digits of sums, and so make the entries depend on the machine
    try:
        contents = digest(_identities(case.images, store.space.channels))
        with tempfile.TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as own:
            with _reading(case, own):
                prepared = prepare_case(manifest, case, store.space, store.targets, brain)
            new = Path(own) / "entry"
            new.mkdir()
            write_entry(new, prepared, contents, store.space.slice_axis)
            put_entry(new, store.folder / key, Path(own) / "replaced")
    except MedaeError as error:
        return error
    except OSError as error:
        return unwritable(store.folder, error)
    finally:
        torch.set_num_threads(threads)
    return None


@contextmanager
def _reading(case: Case, folder: str) -> Iterator[None]:
    """What the system says of a case's files is about them, not about the store.

    folder: for temporary files, so that a converted DICOM volume is swept if the process is killed.
    """
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    except OSError as error:
        remedy = "See whether its files can be read, and whether the disk has room; what is done is kept."
        raise DataError(f"The case cannot be read: {error.strerror or error}.", where=case.id, remedy=remedy) from error
    finally:
        tempfile.tempdir = before


def put_entry(new: Path, entry: Path, aside: Path) -> None:
    """Rename a written entry to its place. Another process may have done the same in the meantime: either will do.

    An entry in the place is moved aside only if it is damaged, so that none is taken from those who read it.
    """
    try:
        new.rename(entry)
    except OSError:
        if is_intact(entry):
            return
        with suppress(FileNotFoundError):
            entry.rename(aside)
        try:
            new.rename(entry)
        except OSError:
            if not is_intact(entry):
                raise


def unwritable(folder: Path, error: OSError) -> DataError:
    """What the system says of the store's folder, in a user's words."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DataError(
        "The disk is full." if full else f"The store of prepared cases cannot be written: {error.strerror or error}.",
        where=folder,
        remedy="Free space or choose another folder, then run the stage again; what is done is kept.",
    )
