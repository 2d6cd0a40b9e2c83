"""A data set's files, sorted into cases; what is wrong with one of them leaves out its case and is listed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medae.data.case import Case, ImageKind, ImageRef, Manifest, Modality
from medae.data.digests import sha256_of_files
from medae.data.files import relative, subject_of, why_unreadable
from medae.data.finding import Finding, Level
from medae.data.passed_over import passed_over
from medae.errors import DataError
from medae.formats.endings import ENDINGS

Covariates = dict[str, str | float | None]
SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """A file in its place. kind: how it is read. component: which of the channels in it is meant, None for the only one."""

    path: Path
    kind: ImageKind
    component: int | None = None


Table = dict[str, dict[str, Entry]]


@dataclass
class Files:
    """The files of a data set as a source finds them, sorted into cases before they are hashed.

    images, targets: case id -> channel or target name -> file, absolute. findings: what is wrong so far.
    ambiguous: what to do where two files claim one place, which is an error of their case.
    """

    root: Path
    images: Table = field(default_factory=dict)
    targets: Table = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    ambiguous: str = "Keep one of them in the data set, or name the files with a narrower pattern."
    _noted: set[Finding] = field(default_factory=set, init=False, repr=False)

    def add_image(self, case_id: str, channel: str, path: Path, component: int | None = None) -> None:
        """Take a file as an image."""
        self._add(self.images, case_id, channel, Entry(path, "intensity", component))

    def add_target(self, case_id: str, target: str, path: Path, kind: ImageKind = "labels") -> None:
        """Take a file as a label map or mask."""
        self._add(self.targets, case_id, target, Entry(path, kind))

    def report(
        self, level: Level, code: str, problem: str, remedy: str, *, case: str = "", path: Path | None = None, role: str = ""
    ) -> None:
        """Note a finding. path: absolute, beneath the root."""
        file = "" if path is None else relative(path, self.root)
        finding = Finding(case, file, level, code, problem, remedy, role)
        if finding not in self._noted:
            self._noted.add(finding)
            self.findings.append(finding)

    def _add(self, table: Table, case_id: str, name: str, entry: Entry) -> None:
        first = table.setdefault(case_id, {}).setdefault(name, entry)
        if first != entry:
            for claimant in (first, entry):
                role = _role(table is self.images, name)
                problem = f"is one of several files that claim to be the {role} of their case"
                self.report("error", "ambiguous", problem, self.ambiguous, case=case_id, path=claimant.path, role=role)

    def subjects(self, pattern: re.Pattern[str] | None) -> dict[str, str]:
        """The subject of each case by its id. Cases in which the pattern finds none are errors; in all, a DataError."""
        found: dict[str, str] = {}
        failure: DataError | None = None
        for case_id in self.images:
            try:
                found[case_id] = subject_of(case_id, pattern)
            except DataError as error:
                failure = error
                problem = "has a name in which the subject pattern finds no subject"
                self.report("error", "subject", problem, "Correct the pattern, or rename the files.", case=case_id)
        if failure is not None and not found:
            raise failure
        return found

    def report_passed_over(
        self, beneath: Sequence[Path] | None = None, *, images: bool = True, considered: Iterable[Path] = ()
    ) -> None:
        """Note files that look like images and are in no case; see ``passed_over``.

        beneath: the root if None. considered: files that the source knows and left out for a reason.
        """
        taken = {entry.path for _, _, entry in self._places()}
        named = {self.root / finding.file for finding in self.findings if finding.file} | set(considered)
        self.findings.extend(passed_over(self.root, taken, named, beneath or [self.root], images=images))

    def folders(self) -> list[Path]:
        """The folders that hold files of cases, without those inside another one."""
        outer: list[Path] = []
        for folder in sorted({entry.path.parent for _, _, entry in self._places()}):
            if not outer or not folder.is_relative_to(outer[-1]):
                outer.append(folder)
        return outer

    def manifest(
        self,
        source: str,
        channels: Mapping[str, Modality],
        subjects: Mapping[str, str],
        *,
        labels: Mapping[str, dict[int, str]],
        sessions: Mapping[str, str] | None = None,
        covariates: Mapping[str, Covariates] | None = None,
    ) -> Manifest:
        """Hash all files and put the manifest together, cases ordered by id.

        channels: declared names in order, with their modality; one without any image is left out. subjects, sessions,
        covariates: by case id. Raises DataError for a data set without images, and if no case is without an error.
        """
        if not any(self.images.values()):
            self._refuse("The data set holds no images that can be used.")
        self._report_orphans()
        channels = self._used(channels)
        digests = self._digests()
        bad = {finding.case for finding in self.findings if finding.level == "error"}

        def ref(entry: Entry, modality: Modality) -> ImageRef:
            file = relative(entry.path, self.root)
            return ImageRef(
                files=(file,), sha256=digests[entry.path], kind=entry.kind, modality=modality, component=entry.component
            )

        cases = tuple(
            Case(
                id=case_id,
                subject=subjects[case_id],
                session=(sessions or {}).get(case_id),
                images={name: ref(images[name], modality) for name, modality in channels.items() if name in images},
                targets={name: ref(entry, "unknown") for name, entry in sorted(self.targets.get(case_id, {}).items())},
                covariates=(covariates or {}).get(case_id, {}),
            )
            for case_id, images in sorted(self.images.items())
            if images and case_id not in bad
        )
        if not cases:
            self._refuse("No case of the data set can be used: every one has an error.")
        return Manifest(
            source=source,
            root=self.root,
            channels=tuple(channels),
            labels=dict(labels),
            cases=cases,
            findings=tuple(sorted(self.findings, key=lambda finding: (finding.case, finding.file, finding.code))),
        )

    def _report_orphans(self) -> None:
        remedy = "Give it its image, under the same case name, or remove it."
        for case_id, targets in self.targets.items():
            if not self.images.get(case_id):
                for name, entry in targets.items():
                    role = _role(False, name)
                    self.report("error", "orphan", "has no image", remedy, case=case_id, path=entry.path, role=role)

    def _digests(self) -> dict[Path, str]:
        """Of the contents of each file that can be read; the others are errors of their cases."""
        found = sha256_of_files(entry.path for _, _, entry in self._places())
        for case_id, role, entry in self._places():
            digest = found[entry.path]
            if isinstance(digest, OSError):
                problem, remedy = why_unreadable(entry.path, digest)
                self.report("error", "unreadable", problem, remedy, case=case_id, path=entry.path, role=role)
        return {path: digest for path, digest in found.items() if isinstance(digest, str)}

    def _used(self, channels: Mapping[str, Modality]) -> dict[str, Modality]:
        used = {name for images in self.images.values() for name in images}
        for name in channels:
            if name not in used:
                problem = f"No case has an image of the channel '{name}'; it is left out"
                self.report("warning", "channel", problem, "Add its images, or take it off the data set's channels.")
        return {name: modality for name, modality in channels.items() if name in used}

    def _places(self) -> Iterator[tuple[str, str, Entry]]:
        for table in (self.images, self.targets):
            for case_id, files in table.items():
                for name, entry in files.items():
                    yield case_id, _role(table is self.images, name), entry

    def _refuse(self, what: str) -> None:
        errors = [finding for finding in self.findings if finding.level == "error"]
        rows = "".join(f"\n    {finding.file or finding.case}: {finding.problem}" for finding in errors[:SHOWN])
        more = f"\n    and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        remedies = dict.fromkeys(finding.remedy for finding in errors[:SHOWN])
        remedy = " ".join(remedies) or f"It needs files that end in {', '.join(ENDINGS)}."
        raise DataError(what + rows + more, where=self.root, remedy=remedy)


def _role(is_image: bool, name: str) -> str:
    return f"{'image' if is_image else 'target'} {name}"
