"""A manifest as a file: the cases that were checked, to be opened again as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

from pydantic import ValidationError

from medae.config import Config, to_dict
from medae.data.case import Case, ImageRef, Manifest
from medae.data.finding import Finding, some_of
from medae.errors import DataError


class ManifestSource(Config):
    """A data set as ``medae check`` saw it: exactly the cases in its manifest file, each with the contents it had then.

    The data set is opened as it was then and compared: cases whose contents changed or went are left out and named, and
    so are cases that the file does not hold.
    root: folder of the data set; relative to the folder in MEDAE_DATA, or to the working folder if that is not set.
    file: the manifest file, relative to the working folder.
    """

    format: Literal["manifest"] = "manifest"
    root: Path
    file: Path

    def record(self) -> Record:
        """What the file says. Raises DataError if it is not there or not a manifest file."""
        return Record.read(self.file.expanduser())


class RecordedCase(Config):
    """A case without its files. images, targets: by name, what decides the image that is read, or the value itself."""

    id: str
    subject: str
    images: dict[str, str]
    targets: dict[str, str]
    covariates: dict[str, str | float | None]

    @classmethod
    def of(cls, case: Case) -> Self:
        """What is recorded of a case."""
        images = {name: ref.identity() for name, ref in case.images.items()}
        targets = {name: ref.identity() if isinstance(ref, ImageRef) else repr(ref) for name, ref in case.targets.items()}
        return cls(id=case.id, subject=case.subject, images=images, targets=targets, covariates=case.covariates)


class Record(Config):
    """What a manifest file holds: how the data set was opened, and which contents each case had.

    It names no file and no folder in the data set, which may be patients' names: the cases are found again by opening the
    data set in the same way, which also finds the names that splits are ordered by. source: the layout's keys, without the
    root. case_ids: as it was opened. digest: of the manifest. channels, labels: as declared then. root: what the folder of
    the data set was called, not where it lay; None where ids are hashed.
    """

    medae_manifest: Literal[1] = 1
    source: dict[str, Any]
    case_ids: Literal["given", "hashed"]
    digest: str
    channels: tuple[str, ...]
    labels: dict[str, dict[int, str]]
    cases: tuple[RecordedCase, ...]
    root: str | None = None

    @property
    def origin(self) -> str:
        """What it was made from, for the end of a sentence."""
        return "" if self.root is None else f", which was made from a folder called '{self.root}'"

    @classmethod
    def of(
        cls, manifest: Manifest, source: Mapping[str, Any], case_ids: Literal["given", "hashed"], root: str | None = None
    ) -> Self:
        """The record of a manifest that a source of these keys gave. root: what its folder is called."""
        return cls(
            source=dict(source),
            case_ids=case_ids,
            digest=manifest.digest(),
            channels=manifest.channels,
            labels=manifest.labels,
            cases=tuple(RecordedCase.of(case) for case in manifest.cases),
            root=root,
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:  # another process may write there too
            beside = Path(own) / path.name
            beside.write_text(json.dumps(to_dict(self), indent=1) + "\n", encoding="utf-8")
            beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote. Raises DataError for anything else."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is none, or one of another version of medae"
            raise DataError(
                f"The manifest file cannot be read: {reason}.", where=path, remedy="Write it again with medae check."
            ) from error


def frozen(record: Record, opened: Manifest) -> Manifest:
    """The recorded cases as they are in the data set that was opened again, with the covariates of the record.

    What changed since is a finding. Raises DataError if channels or labels are declared otherwise than they were, or if
    no case is left.
    """
    if (record.channels, record.labels) != (opened.channels, opened.labels):
        raise DataError(
            f"The channels or labels of the data set are not those of the manifest file{record.origin}.",
            where=opened.root,
            remedy="Name that data set's own manifest file, or check the data set again and use what this writes.",
        )
    present = {case.id: case for case in opened.cases}
    findings = list(opened.findings)
    kept: list[Case] = []
    for recorded in record.cases:
        case = present.pop(recorded.id, None)
        changes = list(_changes(recorded, case, opened))
        findings += changes
        if case is not None and not changes:
            kept.append(case.model_copy(update={"covariates": recorded.covariates}))
    problem = "is not in the manifest file: the check left it out, or it is new"
    remedy = "Check the data set again to take it in."
    findings += [Finding(case_id, "", "warning", "new", problem, remedy) for case_id in present]
    if not kept:
        raise DataError(
            f"No case of the data set is as it was in the manifest file{record.origin}.",
            where=opened.root,
            remedy="Check root, and MEDAE_CASE_SALT if the ids are hashed; or check the data set again.",
        )
    return opened.model_copy(update={"cases": tuple(kept), "findings": tuple(findings)})


def _changes(recorded: RecordedCase, case: Case | None, opened: Manifest) -> Iterator[Finding]:
    """Errors for what is not as it was. A case that opening left out is named already."""
    remedy = "Bring it back, or check the data set again."
    if case is None:
        if recorded.id not in opened.excluded:
            yield Finding(recorded.id, "", "error", "gone", "is gone, or has other images, since the check", remedy)
        return
    now = RecordedCase.of(case)
    refs: dict[str, Mapping[str, object]] = {"image": case.images, "target": case.targets}
    for kind, before, after in (("image", recorded.images, now.images), ("target", recorded.targets, now.targets)):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                ref = refs[kind].get(name)
                file = some_of(ref.files) if isinstance(ref, ImageRef) else ""
                yield Finding(case.id, file, "error", "changed", "changed since the check", remedy, f"{kind} {name}")
    if case.split_key is None and recorded.subject != now.subject:  # the hash of a subject changes with its other scans
        yield Finding(case.id, "", "error", "changed", "has another subject since the check", remedy)
