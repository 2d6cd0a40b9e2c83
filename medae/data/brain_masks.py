"""Brain masks in a folder of their own, such as ``medae brainmask`` writes, beside a data set of any layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medae.data.case import Case, ImageRef, Manifest
from medae.data.digests import sha256_of_files
from medae.data.files import why_unreadable
from medae.data.finding import Finding
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.endings import image_files, stem

BRAIN_MASK = "brain_mask"
"""The target that brain masks are, whatever they came with."""

DOUBTFUL = "_doubtful"
"""What the name of a mask's file ends in, before its ending, for the file that says where the mask is not sure."""


@dataclass(frozen=True)
class MaskFile:
    """A brain mask that is a file. doubtful: says where the mask is not sure; None if that is not known."""

    mask: Path
    doubtful: Path | None = None

    @classmethod
    def of(cls, mask: Path) -> Self:
        """With what lies beside the mask: a file of its name with ``_doubtful`` after it."""
        name = f"{stem(mask)}{DOUBTFUL}"
        return cls(mask, next((path for path in image_files(mask.parent) if stem(path) == name), None))


def masks_in(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without endings. Raises DataError where two have the same."""
    files: dict[str, Path] = {}
    for path in image_files(folder):
        if stem(path) in files:
            raise DataError(
                f"{path.name} and {files[stem(path)].name} claim to be the mask of the same scan.",
                where=folder,
                remedy="Keep one of them.",
            )
        files[stem(path)] = path
    return files


def with_brain_masks(manifest: Manifest, folder: Path, aliases: Mapping[str, str]) -> Manifest:
    """The manifest with the masks of a folder as the target ``brain_mask``, which take the place of those that it had.

    folder: resolved as a data set's root. A mask has the name of its case, or of the file of one of its images, and any
    image's ending; a file of that name with ``_doubtful`` after it says where the mask is not sure, unless it is the mask of
    a case itself. aliases: other names of cases, by their id: their hashes. A case without a mask keeps what it has, and
    that is a finding. Raises DataError for a file that cannot be read, two masks of one case, a mask of two, and if no case
    has one.
    """
    files = masks_in(resolve_root(folder))
    masks: dict[str, Path] = {}
    for case in manifest.cases:
        name = next((name for name in _names(case, aliases) if name in files), None)
        if name is not None and files[name] in masks.values():
            raise DataError(
                f"{files[name].name} has the name of several cases' images.",
                where=folder,
                remedy="Name each mask after its case (medae check lists them).",
            )
        if name is not None:
            masks[case.id] = files[name]
    if not masks:
        raise DataError(
            f"None of the {len(files)} masks in the folder belongs to a case of the data set.",
            where=folder,
            remedy="Name each mask after its case (medae check lists them) or after the file of its image.",
        )
    beside = {path: files.get(f"{stem(path)}{DOUBTFUL}") for path in masks.values()}
    doubts = {path: doubt for path, doubt in beside.items() if doubt is not None and doubt not in beside}
    digests = sha256_of_files([*masks.values(), *doubts.values()])

    def ref_of(path: Path, doubtful: ImageRef | None = None) -> ImageRef:
        digest = digests[path]
        if isinstance(digest, OSError):
            problem, remedy = why_unreadable(path, digest)
            raise DataError(f"A brain mask {problem}.", where=f"{folder}/{path.name}", remedy=remedy) from digest
        # of the real places: the system follows links before it goes up, and the text of a path does not know them
        file = Path(os.path.relpath(os.path.realpath(path), os.path.realpath(manifest.root))).as_posix()
        return ImageRef(files=(file,), sha256=digest, kind="mask", doubtful=doubtful)

    def masked(case: Case) -> Case:
        path = masks.get(case.id)
        if path is None:
            return case
        ref = ref_of(path, ref_of(doubts[path]) if path in doubts else None)
        return case.model_copy(update={"targets": {**case.targets, BRAIN_MASK: ref}})

    missing = tuple(
        Finding(case.id, "", "warning", "brain-mask", "has no mask in the folder of brain masks", "Add one.")
        for case in manifest.cases
        if case.id not in masks
    )
    return manifest.model_copy(
        update={
            "cases": tuple(masked(case) for case in manifest.cases),
            "labels": {**manifest.labels, BRAIN_MASK: {0: "background", 1: "brain"}},
            "findings": (*manifest.findings, *missing),
        }
    )


def _names(case: Case, aliases: Mapping[str, str]) -> Iterator[str]:
    """What the case's mask may be called."""
    yield case.id
    if case.id in aliases:
        yield aliases[case.id]
    yield from (stem(Path(file)) for ref in case.images.values() for file in ref.files)
