"""Labelled cases in the shapes of other cases: which of which, and the entries that are made of them.

The image and the label map of a labelled case are deformed together, so that every deformed case is labelled as exactly as
it was, in an anatomy that nobody labelled. Source: after Zhao et al. 2019, section 3.2 (Data augmentation using learned
transformations for one-shot medical image segmentation), with a classical registration in place of the learned one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from medae.config import digest, to_dict
from medae.errors import DataError, MedaeError
from medae.parallel import unordered
from medae.preprocessing.entry import Entry, is_intact, write_entry
from medae.preprocessing.estimate import RECORD, refuse_small_disk
from medae.preprocessing.registration import SMALLEST, Deformation, deform, likeness, register
from medae.preprocessing.store import LAYOUT, Store, put_entry, sweep, temporary_in, unwritable

VERSION = 1
"""Raised whenever a registration or a deformation changes, so that older entries are not taken for newer."""

WORTH_A_PROCESS = 200_000
"""Voxels to be registered, of which fewer do not pay a process's start: a core does 20,000 a second."""


class RegistrationConfig(Deformation):
    """Train also on labelled scans that were deformed into the shapes of other training scans.

    share: of the labelled samples that are drawn from deformed scans. scans: into the shapes of so many scans, at random;
    null takes every training scan. Each takes one labelled scan, in turn.
    """

    share: float = Field(default=0.5, gt=0, lt=1)
    scans: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Pair:
    """A labelled case and the one whose shape it takes; their ids, and that of the deformed case."""

    moving: str
    fixed: str

    @property
    def case_id(self) -> str:
        """Of the deformed case."""
        return f"{self.moving} as {self.fixed}"


def pairs_of(labelled: Store, shapes: Store) -> list[Pair]:
    """Each shape with one labelled case, in turn.

    A case does not take its own shape, nor one that it cannot be registered to, for want of a channel or of slices.
    """
    moving = {case: _facts(labelled[case]) for case in labelled.case_ids}  # not the entries: each holds open files
    pairs: list[Pair] = []
    for shape in shapes.case_ids:
        fixed = _facts(shapes[shape])
        able = [case for case, facts in moving.items() if case != shape and (facts.present & fixed.present).any()]
        able = [case for case in able if min(moving[case].thinnest, fixed.thinnest) >= SMALLEST]
        if able:
            pairs.append(Pair(able[len(pairs) % len(able)], shape))
    return pairs


def build_deformed(
    labelled: Store,
    shapes: Store,
    pairs: Sequence[Pair],
    config: Deformation,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """The store of the deformed cases, beside those of the scans; what is there already is not made again.

    labelled, shapes: of the moving and the fixed cases, in the same folder and space. workers: processes.
    progress: called with the number of cases done and of all.
    Raises DataError for scans that cannot be registered, and for a disk that is too small or cannot be written.
    """
    keys = {pair.case_id: (labelled.subject(pair.moving), _key(labelled, shapes, pair, config)) for pair in pairs}
    store = replace(labelled, keys=keys)
    sweep(store.folder)
    to_do = [pair for pair in pairs if not is_intact(store.folder / keys[pair.case_id][1])]
    done = len(pairs) - len(to_do)
    if progress is not None:
        progress(done, len(pairs))
    if not to_do:
        return store
    needed = sum(_bytes(labelled[pair.moving], shapes[pair.fixed]) for pair in to_do)
    remedy = "Free space, set MEDAE_CACHE to a folder on a larger disk, or set registration.scans."
    refuse_small_disk(store.folder, f"{len(to_do)} deformed cases", needed, remedy)
    with temporary_in(store.folder) as beside:
        make = partial(_make, labelled, shapes, store, config, Path(beside))
        voxels = sum(int(np.prod(shapes[pair.fixed].shape)) for pair in to_do)
        processes = min(workers, max(1, voxels // WORTH_A_PROCESS))
        with closing(unordered(make, to_do, processes)) as results:
            for count, (_, failure) in enumerate(results, start=1):
                if failure is not None:
                    raise failure
                if progress is not None:
                    progress(done + count, len(pairs))
    return store


def alike(deformed: Entry, fixed: Entry) -> float:
    """Correlation of a deformed case with the one whose shape it took, in the channel that they were registered by."""
    channel = shared_channel(deformed, fixed)
    return likeness(deformed.image[channel], fixed.image[channel], deformed.mask[0] & fixed.mask[0])


def _key(labelled: Store, shapes: Store, pair: Pair, config: Deformation) -> str:
    """The name of a deformed case's entry."""
    how = {key: to_dict(config)[key] for key in Deformation.model_fields}
    parts = {"layout": LAYOUT, "deformed": VERSION, "how": how}
    return digest(parts | {"moving": labelled.keys[pair.moving][1], "fixed": shapes.keys[pair.fixed][1]})[:32]


def _bytes(moving: Entry, fixed: Entry) -> int:
    """What a deformed case takes on disk, but for the voxels that are kept of its regions."""
    return int(np.prod(fixed.shape)) * (4 * len(moving.present) + 1 + 2 * len(moving.targets)) + RECORD


def _make(labelled: Store, shapes: Store, store: Store, config: Deformation, beside: Path, pair: Pair) -> MedaeError | None:
    """Register and deform a pair and put it into the store. Returns the user's error, whole, if there is one."""
    key = store.keys[pair.case_id][1]
    if is_intact(store.folder / key):
        return None  # another process has made it in the meantime
    try:
        moving, fixed = labelled[pair.moving], shapes[pair.fixed]
        channel = shared_channel(moving, fixed)
        found = register(fixed.image[channel], moving.image[channel], fixed.spacing, moving.spacing, config)
        deformed = deform(moving, fixed, found, pair.case_id, store.space.intensity)
        with tempfile.TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as own:
            new = Path(own) / "entry"
            new.mkdir()
            write_entry(new, deformed, key, store.space.slice_axis)
            put_entry(new, store.folder / key, Path(own) / "replaced")
    except MedaeError as error:
        return error if error.where else DataError(error.what, where=pair.case_id, remedy=error.remedy)
    except RuntimeError as error:  # ITK's
        what = f"The scan cannot be registered: {str(error).strip().splitlines()[-1]}"
        remedy = "Most often memory ran out: set registration.spacing to a coarser one. Or leave the scan out."
        return DataError(what, where=pair.case_id, remedy=remedy)
    except OSError as error:
        return unwritable(store.folder, error)
    return None


@dataclass(frozen=True)
class _Facts:
    """What decides whether a case can be registered. present: bool, a channel. thinnest: its fewest voxels along an axis."""

    present: np.ndarray
    thinnest: int


def _facts(entry: Entry) -> _Facts:
    return _Facts(entry.present.copy(), min(entry.shape))


def shared_channel(moving: Entry, fixed: Entry) -> int:
    """The channel that two cases are registered by: the first that both have."""
    return int(np.flatnonzero(moving.present & fixed.present)[0])
