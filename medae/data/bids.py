"""BIDS: ``sub-X[/ses-Y]/anat/sub-X[_ses-Y]_T1w.nii.gz``, ``participants.tsv``, label maps among the ``derivatives``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.data.case import Manifest, Modality
from medae.data.files import Files, FileSource, image_files, modality_of, resolve_root, stem
from medae.errors import DataError

LABEL_SUFFIXES = ("dseg", "mask")
NOT_IMAGES = frozenset({*LABEL_SUFFIXES, "probseg", "defacemask"})
NATIVE_SPACES = frozenset({"orig", "T1w", "T2w", "FLAIR"})
MISSING = frozenset({"", "n/a", "N/A", "NA", "nan", "NaN"})


class BIDSSource(FileSource):
    """A data set in the Brain Imaging Data Structure.

    Cases are sessions (``sub-X`` or ``sub-X_ses-Y``), channels are suffixes (``T1w``), covariates are the columns of
    ``participants.tsv``. Label maps are the ``dseg`` and ``mask`` files beside the images and in one derivative, as far
    as they are in the images' own space. Where a data set has both, ``dseg`` gets ``target_name`` and the other ``mask``;
    a ``desc-brain_mask`` is the target ``brain`` in any case, which ``space.foreground: brain`` looks for.
    datatype: the folder that holds the images. channels: name -> pattern of the file name without ending
    (``{T1: "*_ce-gd_T1w"}``), needed where a session has several files of one suffix; other files are left out.
    derivatives: folder under ``derivatives``; ``auto`` is the only one with label maps, ``none`` takes none.
    label_pattern: of the label maps' file names without ending, where a session has several.
    label_names: value -> name, where no ``dseg.tsv`` says it.
    """

    format: Literal["bids"] = "bids"
    datatype: str = "anat"
    channels: dict[str, str] = Field(default_factory=dict)
    derivatives: str = "auto"
    label_pattern: str = "*"
    label_names: dict[int, str] = Field(default_factory=dict)

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if it is not in this layout."""
        root = resolve_root(self.root)
        files = Files(root)
        raw = list(scan(root, self.datatype))
        channels: dict[str, Modality] = dict.fromkeys(self.channels, "unknown")
        for image in raw:
            for channel in self._channels_of(image):
                files.add_image(image.case_id, channel, image.path)
                channels[channel] = self.modality or modality_of(image.suffix)
        if not files.images:
            raise DataError(
                f"No image is found in sub-*/{self.datatype} or sub-*/ses-*/{self.datatype}.",
                where=root,
                remedy="Correct 'datatype' and 'channels', or add the images.",
            )
        derived, folder = self._derived(root)
        self._add_targets(files, [image for image in [*raw, *derived] if image.is_label and image.is_native])
        participants = _participants(root)
        sessions = {image.case_id: image.session for image in raw if image.session is not None}
        subjects = {image.case_id: image.subject for image in raw}
        names = self.label_names or _label_names(root, folder)
        has_maps = any(self.target_name in targets for targets in files.targets.values())
        return files.manifest(
            self.format,
            channels if self.channels else dict(sorted(channels.items())),
            subjects,
            labels={self.target_name: names} if names and has_maps else {},
            sessions=sessions,
            covariates={case_id: participants.get(subjects[case_id], {}) for case_id in files.images},
        )

    def _channels_of(self, image: BIDSFile) -> list[str]:
        if image.suffix in NOT_IMAGES:
            return []
        if not self.channels:
            return [image.suffix]
        return [name for name, pattern in self.channels.items() if fnmatchcase(stem(image.path), pattern)]

    def _derived(self, root: Path) -> tuple[list[BIDSFile], Path | None]:
        """The files of the derivative that holds the label maps, and its folder."""
        base = root / "derivatives"
        if self.derivatives == "none" or (self.derivatives == "auto" and not base.is_dir()):
            return [], None
        if self.derivatives != "auto":
            folder = base / self.derivatives
            if not folder.is_dir():
                known = ", ".join(sorted(path.name for path in base.glob("*/"))) or "nothing"
                raise DataError(
                    f"There is no derivative '{self.derivatives}'.", where="derivatives", remedy=f"The folder holds {known}."
                )
            return list(scan(folder, self.datatype)), folder
        found = {folder: list(scan(folder, self.datatype)) for folder in sorted(base.iterdir()) if folder.is_dir()}
        found = {
            folder: images for folder, images in found.items() if any(image.is_label and image.is_native for image in images)
        }
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise DataError(
                f"Several derivatives hold label maps: {names}.",
                where="derivatives",
                remedy="Choose one with 'derivatives: NAME'.",
            )
        return next(((images, folder) for folder, images in found.items()), ([], None))

    def _add_targets(self, files: Files, labels: list[BIDSFile]) -> None:
        chosen = [image for image in labels if fnmatchcase(stem(image.path), self.label_pattern)]
        for image in [image for image in chosen if image.is_brain_mask]:
            files.add_target(image.case_id, "brain", image.path)
        chosen = [image for image in chosen if not image.is_brain_mask]
        main = LABEL_SUFFIXES[0] if any(image.suffix == LABEL_SUFFIXES[0] for image in chosen) else LABEL_SUFFIXES[1]
        for image in chosen:
            files.add_target(image.case_id, self.target_name if image.suffix == main else "mask", image.path)


@dataclass(frozen=True)
class BIDSFile:
    """A file of the data set, by its folders (subject, session) and its name (space, suffix)."""

    path: Path
    subject: str
    session: str | None
    space: str | None
    suffix: str
    desc: str | None = None

    @property
    def case_id(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return self.subject if self.session is None else f"{self.subject}_{self.session}"

    @property
    def is_label(self) -> bool:
        """Whether it is a map of labels or a mask."""
        return self.suffix in LABEL_SUFFIXES

    @property
    def is_brain_mask(self) -> bool:
        """Whether it is a brain mask, as BIDS derivatives name it."""
        return self.suffix == "mask" and self.desc == "brain"

    @property
    def is_native(self) -> bool:
        """Whether it is on the grid of the images, by its ``space`` entity."""
        return self.space is None or self.space in NATIVE_SPACES


def scan(root: Path, datatype: str) -> Iterator[BIDSFile]:
    """The NIfTI files of one datatype, of all subjects and sessions. Raises DataError for a file in another's folder."""
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
        for folder in [subject, *sessions]:
            session = None if folder == subject else folder.name
            for path in image_files(folder / datatype):
                *entities, suffix = stem(path).split("_")
                values = dict(entity.split("-", 1) for entity in entities if "-" in entity)
                expected = {"sub": subject.name, "ses": session}
                if any(name is not None and values.get(key) != name.split("-", 1)[1] for key, name in expected.items()):
                    raise DataError(
                        "A file's name does not begin with the subject and session whose folder it is in.",
                        where=path.relative_to(root),
                        remedy="Rename or move the file; it may be another person's.",
                    )
                yield BIDSFile(path, subject.name, session, values.get("space"), suffix, values.get("desc"))


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a TSV file that has at least the given columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table cannot be read: {error}", where=path.name, remedy="Correct the file.") from error
    if not set(columns) <= set(reader.fieldnames or ()) or any(None in row for row in rows):
        needed = ", ".join(columns)
        raise DataError(
            f"The table is not tab-separated with the columns: {needed}.", where=path.name, remedy="Correct the file."
        )
    return rows


def _participants(root: Path) -> dict[str, dict[str, str | float | None]]:
    """The columns of ``participants.tsv`` by ``sub-X``; numbers as such, ``n/a`` as None."""
    path = root / "participants.tsv"
    if not path.exists():
        return {}
    table: dict[str, dict[str, str | float | None]] = {}
    for row in _rows(path, ("participant_id",)):
        subject = f"sub-{row.pop('participant_id').removeprefix('sub-')}"
        if subject in table:
            raise DataError(f"'{subject}' has two rows.", where=path.name, remedy="Keep one row a participant.")
        table[subject] = {name: _value(text) for name, text in row.items()}
    return table


def _value(text: str) -> str | float | None:
    if text.strip() in MISSING:
        return None
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _label_names(root: Path, derivative: Path | None) -> dict[int, str]:
    """Value -> name from the only ``dseg.tsv`` or ``*_dseg.tsv`` of the derivative, else of the data set."""
    for folder in [derivative, root]:
        tables = sorted(folder.glob("*dseg.tsv")) if folder else []
        if len(tables) == 1:
            rows = _rows(tables[0], ("index", "name"))
            if not all(row["index"].isdecimal() for row in rows):
                raise DataError("'index' holds more than whole numbers.", where=tables[0].name, remedy="Correct the table.")
            return {int(row["index"]): row["name"] for row in rows}
    return {}
