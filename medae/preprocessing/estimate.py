"""How large entries become, from the headers of their images alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from medae.data.case import Case, ImageRef, Manifest
from medae.data.reading import read_grid
from medae.errors import DataError
from medae.plan import SpacePlan
from medae.preprocessing.entry import VOXELS
from medae.preprocessing.prepare import brain_mask_of
from medae.preprocessing.resample import plan_grid

RECORD = 8192
"""Bytes of an entry's JSON and the headers of its arrays, and what the file system rounds up."""

TOO_HIGH = 4
"""By how many times an estimate can exceed what is written: cropping to a small foreground makes it up to 3."""

PLACE = 6
"""Bytes of a kept voxel coordinate."""


def entry_bytes(manifest: Manifest, case: Case, space: SpacePlan, targets: Sequence[str]) -> int:
    """The most that the case's entry takes on disk: as if nothing were cropped.

    A label map whose structures are not declared counts as one of them: where it has a hundred, the entry can be a little
    larger than this (by 1 % in one head with a parcellation).

    Raises DataError and GeometryError if the header of the case's first channel cannot be used.
    """
    ref = next((case.images[name] for name in space.channels if name in case.images), None)
    if ref is None:
        return 0  # the preparation says what is wrong
    shape, affine = read_grid(manifest, ref).ras()
    i, j, k = plan_grid(shape, affine, space.spacing)[0]
    maps = [name for name in targets if isinstance(case.targets.get(name), ImageRef)]
    regions = 1 + sum(max(1, len(manifest.labels.get(name, {}))) for name in maps)
    given = brain_mask_of(case, space)
    is_doubted = space.brain_extraction == "medae" if given is None else given.doubtful is not None
    masks = 2 if space.foreground == "brain" and is_doubted else 1
    return i * j * k * (4 * len(space.channels) + masks + 2 * len(maps)) + regions * min(VOXELS, i * j * k) * PLACE + RECORD


def free_bytes(folder: Path) -> int:
    """What the folder's disk has free."""
    return shutil.disk_usage(folder).free


def refuse_small_disk(folder: Path, what: str, needed: int, remedy: str) -> None:
    """Raises DataError, with both numbers, if the disk is certainly too small for what is needed at most (bytes)."""
    free = free_bytes(folder)
    if free < needed / TOO_HIGH:
        raise DataError(
            f"The disk is too small: {what} need up to {readable(needed)}, {readable(free)} are free.",
            where=folder,
            remedy=remedy,
        )


def readable(size: int) -> str:
    """A size for people: ``0.4 GB``, ``38 MB``, of 1000s."""
    if size >= 99.5e6:
        return f"{size / 1e9:.1f} GB"
    return f"{max(1, round(size / 1e6))} MB"
