"""What every file source shares: names, lists, and the digests of contents."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from medae.config import Config
from medae.data.case import ImageKind, ImageRef, Modality
from medae.data.digests import sha256_of_files
from medae.data.structures import Values, check_structures
from medae.errors import DataError

K = TypeVar("K", bound=Hashable)


class FileSource(Config):
    """What the sources of image files have in common.

    root: folder of the data set; relative to the folder in MEDAE_DATA, or to the working folder if that is not set.
    modality: of all images, where the layout does not say it or says it wrongly. target_name: of the label maps.
    structures: what is to be learnt, of the many values of an atlas: name -> value or values in the label map, which
    become 1, 2, 3 in this order; all other values are background. brain_masks: folder of brain masks, as ``medae brainmask``
    writes them, also with where they are doubtful, relative as the root is; they are the target ``brain_mask``.
    """

    root: Path
    modality: Modality | None = None
    target_name: str = "label"
    structures: dict[str, Values] | None = Field(default=None, min_length=1)
    brain_masks: Path | None = None

    @field_validator("structures")
    @classmethod
    def _apart(cls, structures: dict[str, Values] | None) -> dict[str, Values] | None:
        check_structures(structures or {})
        return structures


def subject_of(name: str, pattern: re.Pattern[str] | None) -> str:
    """The subject in a case's name: group 1 of ``pattern``, else its whole match; without a pattern the name itself."""
    if pattern is None:
        return name
    match = pattern.search(name)
    found = match and (match.group(1) if pattern.groups else match.group())
    if not found:
        raise DataError(
            f"The subject pattern '{pattern.pattern}' finds nothing in '{name}'.", where="subject", remedy="Correct it."
        )
    return found


def modality_of(name: str) -> Modality:
    """CT or MR, from the name that a data set gives to a channel."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    if "CT" in words:
        return "CT"
    sequences = re.compile(r"MRI?|T[12]([WCG].*|STAR)?|FLAIR|PDW?|PDT2|ADC|DWI|SWI|UNIT1|MP2?RAGE|INPLANET[12]")
    return "MR" if any(sequences.fullmatch(word) for word in words) else "unknown"


def read_json(path: Path, root: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError that names the file relative to ``root``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read: {error}", where=relative(path, root), remedy="Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name} does not hold a JSON object.", where=relative(path, root), remedy="Correct the file.")
    return content


def label_names(labels: object, where: str) -> dict[int, str]:
    """Label value -> name, from ``{"0": "background"}`` (MSD, nnU-Net 1) or ``{"background": 0}`` (nnU-Net 2).

    Raises DataError for anything else, and for nnU-Net's regions (lists of values) and ``ignore`` label.
    """
    remedy = 'Write "labels": {"background": 0, "name": 1, ...} or {"0": "background", "1": "name", ...}.'
    if not isinstance(labels, dict):
        raise DataError("'labels' is not a mapping of label names to values.", where=where, remedy=remedy)
    names: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            text = f"The label '{key}' is a region (a list of values); region-based labels are not supported."
            raise DataError(text, where=where, remedy="Declare one label a value.")
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if not str(number).isdecimal() or not isinstance(name, str) or int(number) in names:
            raise DataError(
                f"'labels' has an entry that is not one value and its name: {key!r}: {value!r}.", where=where, remedy=remedy
            )
        if name == "ignore":
            text = "An 'ignore' label is not supported: it would be learned as a structure."
            raise DataError(text, where=where, remedy="Remove the partly labelled cases and the label.")
        names[int(number)] = name
    return dict(sorted(names.items()))


def inside(root: Path, written: str) -> Path | None:
    """The file that a list of the data set names: relative to the root or absolute; None if it is outside the root."""
    base, path = (Path(os.path.normpath(each)) for each in (root, root / written))
    return root / path.relative_to(base) if path.is_relative_to(base) and path != base else None


def image_refs(root: Path, wanted: Mapping[K, tuple[Path | Sequence[Path], ImageKind, Modality]]) -> dict[K, ImageRef]:
    """A reference to each file beneath ``root``, or to the files of a series. Raises DataError for an unreadable file."""
    files = {key: (entry[0],) if isinstance(entry[0], Path) else tuple(entry[0]) for key, entry in wanted.items()}
    digests: dict[Path, str] = {}
    for path, digest in sha256_of_files(path for paths in files.values() for path in paths).items():
        if isinstance(digest, OSError):
            problem, remedy = why_unreadable(path, digest)
            raise DataError(f"A file of the data set {problem}.", where=relative(path, root), remedy=remedy) from digest
        digests[path] = digest
    return {
        key: ImageRef(
            files=tuple(relative(path, root) for path in files[key]),
            sha256=digest_of([digests[path] for path in files[key]]),
            kind=kind,
            modality=modality,
        )
        for key, (_, kind, modality) in wanted.items()
    }


def digest_of(digests: Sequence[str]) -> str:
    """The digest of an image from those of its files, in order: that of its one file, or SHA-256 over those of several."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def why_unreadable(path: Path, error: OSError) -> tuple[str, str]:
    """What is wrong with a file that could not be read, and what to do."""
    if path.is_symlink() and not path.exists():
        return "is a link to nothing", "Fetch its content, if it was never downloaded (DataLad: datalad get)."
    if isinstance(error, FileNotFoundError):
        return "is not there", "Complete the download, or take it off the list."
    return f"cannot be read: {error.strerror or type(error).__name__}", "Check its permissions, and the disk."


def relative(path: Path, root: Path) -> str:
    """A path beneath the root as it is written everywhere: with slashes, without the root."""
    return path.relative_to(root).as_posix()
