"""DICOM: a folder tree of any depth, with series of any kind mixed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.data.case import Case, ImageKind, Manifest, Modality
from medae.data.dicom_scan import Fault, scan
from medae.data.dicom_series import Candidate, Issuers, Series, candidates, series_of
from medae.data.digests import reporter
from medae.data.files import FileSource, image_refs, relative
from medae.data.finding import Finding, Level, some_of
from medae.data.pseudonyms import pseudonym_key
from medae.data.roots import resolve_root
from medae.errors import DataError
from medae.formats.dicom.judge import Rules
from medae.formats.dicom.kinds import modality_of
from medae.parallel import usable_cores

ORDER = ("CT", "CTce", "T1", "T1ce", "T2", "FLAIR", "PD", "T2star", "SWI", "DWI", "ADC")
"""Channels in the order in which a case lists them; others follow by name."""

FAULTS: dict[Fault, tuple[Level, str, str, str]] = {
    "empty": ("error", "empty-file", "files are empty", "Copy or export them again: a slice may be missing."),
    "damaged": ("error", "damaged-file", "files cannot be read, or their DICOM header cannot", "Copy or export them again."),
    "unreadable folder": (
        "error",
        "unreadable-folder",
        "folders cannot be read, so nothing is known of what they hold",
        "Give yourself the right to read them, or take them out of the tree.",
    ),
    "linked folder": (
        "warning",
        "linked-folder",
        "folders are links and are not followed",
        "Nothing to do, or put the folder itself in its place.",
    ),
    "not DICOM": ("warning", "not-dicom", "files are not DICOM and are passed over", "Nothing to do, or remove them."),
}

SHOWN = 3

NO_SCANS = {"not-ct-or-mr", "secondary-capture", "localiser"}
"""Codes of series that were never meant as scans: a study that holds nothing else, such as a report, is no damaged case."""

Candidates = dict[str, dict[str, list[Candidate]]]
"""By case and channel."""


class DICOMSource(FileSource):
    """A tree of DICOM files; they are told by their contents, whatever their names. Ids are pseudonyms.

    cases: a case is a ``study`` of a patient with a channel a contrast, or each ``series`` by itself. channels: name ->
    regular expression, searched for in SeriesDescription (capitals do not count); series that fit none are left out.
    Without it the contrast is guessed from the header. phases: of a series with several volumes (contrast phases, echoes,
    b-values) take none, the ``first`` or ``all``, the second of a contrast as ``NAME_2``. tilt: bring slices of a
    tilted gantry to an ``upright`` grid, or refuse them. resample_slices: bring slices at uneven distances, or with gaps,
    to even ones by linear interpolation; without it they are refused. derived: keep or refuse images that were computed
    from others. workers: processes that read headers.
    """

    format: Literal["dicom"] = "dicom"
    cases: Literal["study", "series"] = "study"
    channels: dict[str, re.Pattern[str]] = Field(default_factory=dict)
    phases: Literal["refuse", "first", "all"] = "refuse"
    tilt: Literal["upright", "refuse"] = "upright"
    resample_slices: bool = False
    derived: Literal["keep", "refuse"] = "keep"
    workers: int = Field(default=4, ge=1)

    def manifest(self) -> Manifest:
        """Read all headers, judge each series, and put cases together. Raises DataError if no series can be read."""
        root = resolve_root(self.root)
        found = scan(root, min(self.workers, usable_cores()), reporter())
        if not found.headers:
            closed = len(found.faults.get("unreadable folder", []))
            text = (
                f"No DICOM file is found; {closed} folders cannot be read." if closed else "The folder holds no DICOM files."
            )
            raise DataError(text, where=root, remedy="Check the folder.")
        key = pseudonym_key()
        rules = Rules(self.phases, self.tilt, self.resample_slices, self.derived)
        issuers = Issuers(header for headers in found.headers.values() for header in headers)
        judged = (series_of(headers, root, issuers, key, rules) for headers in found.headers.values())
        series = sorted(judged, key=lambda one: (one.session, one.headers[0].series_number, one.pseudonym))
        by_case: Candidates = {}
        unwanted = 0
        for one in series:
            taken = list(candidates(one, self.channels))
            unwanted += bool(one.verdict.volumes) and not taken
            for candidate in taken:
                by_case.setdefault(self._case_id(one), {}).setdefault(candidate.channel, []).append(candidate)
        chosen = {
            case_id: {channel: min(rivals, key=Candidate.rank) for channel, rivals in channels.items()}
            for case_id, channels in by_case.items()
        }
        sessions = {candidate.series.session for images in chosen.values() for candidate in images.values()}
        findings = [
            *_files(found.faults, root),
            *_unwanted(unwanted),
            *(finding for one in series for finding in self._of_series(one, one.session in sessions)),
            *_rivals(by_case, chosen),
        ]
        if not chosen:
            raise _nothing(series, self.channels)
        return self._manifest(root, chosen, findings)

    def _case_id(self, series: Series) -> str:
        return series.case_id(self.cases == "study")

    def _of_series(self, series: Series, has_images: bool) -> Iterable[Finding]:
        """What is to be said of one series. A fault is an error where its study has no image; what is no scan never is."""
        problem = series.verdict.problem
        case_id = "" if problem and problem.code == "swapped-subject" else self._case_id(series)
        if problem is not None:
            is_harmless = problem.code in NO_SCANS or (has_images and case_id)
            level: Level = "warning" if is_harmless else "error"
            if is_harmless and (self.cases == "series" or not has_images):
                case_id = ""  # no case came of it
            yield Finding(case_id, series.place, level, problem.code, problem.problem, problem.remedy, series.role)
            return
        for warning in series.verdict.warnings:
            yield Finding(case_id, series.place, "warning", warning.code, warning.problem, warning.remedy, series.role)
        if not series.has_patient:
            remedy = "Export it with pseudonyms as PatientID."
            text = (
                "states no patient, so its study counts as a subject: studies of one person can be in training and in test"
            )
            yield Finding(case_id, series.place, "warning", "no-patient", text, remedy, series.role)

    def _manifest(self, root: Path, chosen: Mapping[str, Mapping[str, Candidate]], findings: list[Finding]) -> Manifest:
        names = {channel for images in chosen.values() for channel in images}
        channels = tuple(sorted(names, key=lambda name: _place(name, self.channels)))
        wanted: dict[tuple[str, str], tuple[tuple[Path, ...], ImageKind, Modality]] = {
            (case_id, channel): (candidate.files, "intensity", self.modality or modality_of(candidate.header))
            for case_id, images in chosen.items()
            for channel, candidate in images.items()
        }
        refs = image_refs(root, wanted)
        cases = []
        for case_id, images in sorted(chosen.items()):
            ordered = {channel: images[channel] for channel in channels if channel in images}
            first = next(iter(ordered.values()))
            extra = {
                channel: {
                    "series": candidate.series.pseudonym,
                    "resample_slices": self.resample_slices and candidate.stack.spacing != "even",
                }
                for channel, candidate in ordered.items()
            }
            cases.append(
                Case(
                    id=case_id,
                    subject=first.series.subject,
                    session=first.series.session,
                    images={name: refs[case_id, name].model_copy(update=extra[name]) for name in ordered},
                    covariates=dict(first.header.covariates),
                    split_key=first.series.split_key,
                )
            )
        return Manifest(source=self.format, root=root, channels=channels, cases=tuple(cases), findings=tuple(findings))


def _place(name: str, patterns: Mapping[str, object]) -> tuple[int, str]:
    """Of a channel: that of its pattern, else of its contrast; later phases behind the first."""
    order = tuple(patterns) or ORDER
    contrast, _, number = name.rpartition("_") if name.rpartition("_")[2].isdigit() else (name, "", "")
    return (order.index(contrast) if contrast in order else len(order)), f"{contrast} {number:>4}"


def _files(faults: Mapping[Fault, Sequence[Path]], root: Path) -> Iterable[Finding]:
    for kind, (level, code, problem, remedy) in FAULTS.items():
        if paths := faults.get(kind):
            places = some_of([relative(path, root) for path in paths], SHOWN)
            yield Finding("", places, level, code, f"{len(paths)} {problem}", remedy)


def _unwanted(count: int) -> list[Finding]:
    text = f"{count} series fit no pattern of 'channels' and are left out"
    return [Finding("", "", "warning", "no-channel", text, "Nothing to do, or widen a pattern.")] if count else []


def _rivals(by_case: Candidates, chosen: Mapping[str, Mapping[str, Candidate]]) -> Iterable[Finding]:
    """A warning for each series that was not taken because another one of its case has the same contrast."""
    for case_id, channels in sorted(by_case.items()):
        for channel, rivals in sorted(channels.items()):
            best = chosen[case_id][channel]
            for rival in (rival for rival in rivals if rival is not best):
                text = f"is a second {channel} of its case and left out; series {best.header.series_number} is taken"
                remedy = "Tell them apart by 'channels', patterns of SeriesDescription, or say 'cases: series'."
                yield Finding(case_id, rival.series.place, "warning", "second-of-channel", text, remedy, rival.series.role)


def _nothing(series: Sequence[Series], patterns: Mapping[str, object]) -> DataError:
    reasons = Counter(one.verdict.problem.problem for one in series if one.verdict.problem is not None)
    rows = "".join(f"\n    {count} x {problem}" for problem, count in reasons.most_common(5))
    remedy = "Widen the patterns of 'channels'." if patterns and not rows else "Export original CT or MR series."
    return DataError(f"None of the {len(series)} DICOM series can be taken.{rows}", remedy=remedy)
