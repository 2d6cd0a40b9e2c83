"""Files of a BIDS data set by their names, and the sessions and runs that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medae.formats.endings import NIFTI, image_files, stem

LABEL_SUFFIXES = ("dseg", "mask")
NOT_IMAGES = frozenset({*LABEL_SUFFIXES, "probseg", "defacemask"})
NATIVE_SPACES = frozenset({"orig", "T1w", "T2w", "FLAIR"})
OF_THE_LABEL = frozenset({"sub", "ses", "run", "space", "desc", "label", "atlas", "seg", "res", "den", "hemi", "mod"})
"""Entities that a label map may have without its image having them; ``run`` is matched apart."""


@dataclass(frozen=True)
class BIDSFile:
    """A file of the data set: by its folders the subject and session (``sub-X``, ``ses-Y``), by its name the rest."""

    path: Path
    subject: str
    session: str | None
    entities: dict[str, str] = field(hash=False)
    suffix: str

    @property
    def session_id(self) -> str:
        """``sub-X`` or ``sub-X_ses-Y``."""
        return self.subject if self.session is None else f"{self.subject}_{self.session}"

    @property
    def run(self) -> str | None:
        """The ``run`` entity."""
        return self.entities.get("run")

    @property
    def is_placed(self) -> bool:
        """Whether the name begins with the subject and session whose folder it is in."""
        folder = {"sub": self.subject, "ses": self.session}
        return all(name is None or self.entities.get(key) == name.split("-", 1)[1] for key, name in folder.items())

    @property
    def is_native(self) -> bool:
        """Whether it is on the grid of the images, by its ``space`` entity."""
        return self.entities.get("space", "orig") in NATIVE_SPACES

    @property
    def mask_name(self) -> str | None:
        """What a mask is of, by its ``label`` or ``desc``, empty if neither is there; None for a label map."""
        if self.suffix != "mask":
            return None
        return self.entities.get("label") or self.entities.get("desc", "")


def scan(root: Path, datatype: str) -> Iterator[BIDSFile]:
    """The NIfTI files of one datatype, of all subjects and sessions."""
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
        for folder in [subject, *sessions]:
            session = None if folder == subject else folder.name
            for path in image_files(folder / datatype):
                if path.name.lower().endswith(NIFTI):
                    suffix = stem(path).rpartition("_")[2]
                    yield BIDSFile(path, subject.name, session, entities_of(path), suffix)


def entities_of(path: Path) -> dict[str, str]:
    """Those that a file's name states, in its order: ``{"sub": "01", "ses": "1"}``; without the suffix."""
    entities = stem(path).split("_")[:-1]
    return dict(entity.split("-", 1) for entity in entities if "-" in entity)


def misplaced(files: Iterable[BIDSFile]) -> list[BIDSFile]:
    """The files in another subject's or session's folder."""
    return [file for file in files if not file.is_placed]


class Sessions:
    """The cases of the images: a session, or each run of a session that has several runs of one channel.

    images: each with its channel. subjects, sessions: by case id.
    """

    def __init__(self, images: Sequence[tuple[BIDSFile, str]]) -> None:
        runs: dict[tuple[str, str], set[str | None]] = {}
        for image, channel in images:
            runs.setdefault((image.session_id, channel), set()).add(image.run)
        self._split = {session for (session, _), found in runs.items() if len(found - {None}) > 1}
        self._images: dict[str, list[BIDSFile]] = {}
        for image, _ in images:
            self._images.setdefault(image.session_id, []).append(image)
        self.subjects: dict[str, str] = {}
        self.sessions: dict[str, str] = {}
        for image, _ in images:
            for case_id in self.cases_of(image):
                self.subjects[case_id] = image.subject
                if image.session is not None:
                    self.sessions[case_id] = image.session

    def has(self, file: BIDSFile) -> bool:
        """Whether the file's session has images."""
        return file.session_id in self._images

    def cases_of(self, image: BIDSFile) -> list[str]:
        """The cases that an image belongs to: one, or all runs of its session if its own name states none."""
        session = image.session_id
        if session not in self._split:
            return [session]
        runs = sorted({each.run for each in self._images[session] if each.run is not None})
        return [f"{session}_run-{run}" for run in runs if image.run in (run, None)]

    def case_of_label(self, label: BIDSFile) -> str | None:
        """The case whose images the label map fits by its entities; None if there is none, or if there are several."""
        session = label.session_id
        images = self._images.get(session, [])
        fitting = [image for image in images if _fits(label, image)]
        if not fitting or (session in self._split and label.run is None):
            return None
        return f"{session}_run-{label.run}" if session in self._split else session


def _fits(label: BIDSFile, image: BIDSFile) -> bool:
    """Whether an image can be the one that a label map was drawn on: nothing that its name states contradicts."""
    stated = {key: text for key, text in label.entities.items() if key not in OF_THE_LABEL}
    return label.run in (None, image.run) and all(image.entities.get(key) == text for key, text in stated.items())
