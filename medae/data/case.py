"""Cases and manifests: what a data set holds, independent of how its files are laid out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.config import Config
from medae.data.finding import Finding

ImageKind = Literal["intensity", "labels", "mask"]
Modality = Literal["CT", "MR", "unknown"]


class ImageRef(Config):
    """One image of a case: a file, or the files of a DICOM series.

    files: relative to the manifest's root, POSIX separators. sha256: over the contents, in the order of files.
    series: a pseudonym of the DICOM series. resample_slices: slices at uneven distances are resampled to even ones; without
    it they are refused. component: which of the channels in the file it is, from 0; None for a file of one channel.
    groups: of a label map whose values are regrouped: k where the file has one of ``groups[k - 1]``, elsewhere 0.
    doubtful: of a brain mask, where it is not sure: a mask on its grid. None if that is not known.
    """

    files: tuple[str, ...] = Field(min_length=1)
    sha256: str
    kind: ImageKind
    modality: Modality = "unknown"
    series: str | None = None
    resample_slices: bool = False
    component: int | None = Field(default=None, ge=0)
    groups: tuple[tuple[int, ...], ...] = ()
    doubtful: ImageRef | None = None

    def identity(self) -> str:
        """What decides the image that is read: contents, how uneven slices are treated, which channel, which values; and
        what is doubtful of it."""
        parts = [self.sha256]
        parts += ["resample_slices"] if self.resample_slices else []
        parts += [] if self.component is None else [f"component={self.component}"]
        parts += [f"groups={self.groups}"] if self.groups else []
        parts += [] if self.doubtful is None else [f"doubtful={self.doubtful.identity()}"]
        return "+".join(parts)


class Case(Config):
    """One imaging session of one subject.

    images: by channel name; a declared channel may be absent. targets: by name; a label map (ImageRef), a class
    name or a number. covariates: age, sex, site, scanner and the like. split_key: the subject's name before it was
    hashed, by which splits are ordered, so that hashing changes no split; it is never written.
    """

    id: str
    subject: str
    session: str | None = None
    images: dict[str, ImageRef]
    targets: dict[str, ImageRef | str | float] = Field(default_factory=dict)
    covariates: dict[str, str | float | None] = Field(default_factory=dict)
    split_key: str | None = Field(default=None, exclude=True, repr=False)

    def digest(self) -> str:
        """SHA-256 over the contents of every image and target; file names and folders do not count."""
        rows: list[list[str]] = [["case", self.id, self.subject]]
        rows += [["image", name, ref.identity()] for name, ref in sorted(self.images.items())]
        for name, target in sorted(self.targets.items()):
            rows.append(["target", name, target.identity() if isinstance(target, ImageRef) else repr(target)])
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class Manifest(Config):
    """The cases of a data set.

    root: absolute folder that the files are relative to; never logged. channels: declared image names, in order.
    labels: by target name, label value -> label name, background 0 included when the data set names it.
    phantom: true if the images are synthetic; said wherever the cases appear. findings: what the source noticed about
    its files before any image was read, such as a file that is listed and not there.

    A case with an error among the findings is not in ``cases``, so that nothing downstream can use it by mistake; the
    findings carry its id, and ``excluded`` counts it. One bad file leaves out its case, never the data set: only what
    makes the whole unusable is an exception.
    """

    source: str
    root: Path
    channels: tuple[str, ...]
    labels: dict[str, dict[int, str]] = Field(default_factory=dict)
    cases: tuple[Case, ...]
    phantom: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def excluded(self) -> tuple[str, ...]:
        """Ids of the cases that the source left out because of an error, sorted."""
        return tuple(sorted({finding.case for finding in self.findings if finding.case and finding.level == "error"}))

    def digest(self) -> str:
        """SHA-256 over the cases' contents, independent of paths and of the order of cases."""
        rows = [*sorted(case.digest() for case in self.cases), *self.channels, json.dumps(self.labels, sort_keys=True)]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def select(self, keep: Callable[[Case], bool]) -> Manifest:
        """The same data set with only the cases for which ``keep`` is true."""
        return self.model_copy(update={"cases": tuple(case for case in self.cases if keep(case))})

    def of_subjects(self, subjects: Iterable[str]) -> Manifest:
        """The cases of the given subjects, in the manifest's order."""
        wanted = frozenset(subjects)
        return self.select(lambda case: case.subject in wanted)

    def case(self, case_id: str) -> Case:
        """The case of that id. Raises KeyError."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise KeyError(case_id)

    def paths(self, ref: ImageRef) -> list[Path]:
        """The absolute paths of an image's files."""
        return [self.root / file for file in ref.files]
