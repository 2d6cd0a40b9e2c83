"""The volumes of a DICOM series as candidates for the channels of a case, under pseudonyms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medae.data.contrast import contrast_of
from medae.data.finding import some_of
from medae.data.pseudonyms import pseudonym
from medae.formats.dicom.headers import Header
from medae.formats.dicom.judge import Rules, Verdict, judge
from medae.formats.dicom.kinds import is_derived
from medae.formats.dicom.stack import Stack

Patterns = Mapping[str, re.Pattern[str]]


@dataclass(frozen=True)
class Series:
    """A series with its verdict. Every name in it was made by medae, but for that of its place.

    subject, session, pseudonym: ``sub-``, ``ses-`` and ``ser-`` with a keyed hash. place, role: for findings; its first file
    and how many more there are, for the screen only, and such as ``series 3``. split_key: what orders subjects in a
    split, never written. headers: of its files.
    """

    subject: str
    session: str
    pseudonym: str
    place: str
    role: str
    split_key: str
    has_patient: bool
    headers: Sequence[Header]
    verdict: Verdict

    def case_id(self, whole_study: bool) -> str:
        """The id of the case that the series belongs to: its study, or itself."""
        return f"{self.subject}_{self.session}" + ("" if whole_study else f"_{self.pseudonym}")


@dataclass(frozen=True)
class Candidate:
    """A volume that could become the image of a channel. header: of its first slice's file."""

    series: Series
    stack: Stack
    header: Header
    channel: str

    @property
    def files(self) -> tuple[Path, ...]:
        """In the order of the slices."""
        return tuple(dict.fromkeys(item.path for item in self.stack.slices))

    def rank(self) -> tuple[object, ...]:
        """Originals first, then the most slices, then the lowest number."""
        return is_derived(self.header), -len(self.stack.slices), self.header.series_number, self.series.pseudonym


class Issuers:
    """Who is who in a tree: a PatientID is one person, unless the tree has it from two issuers.

    Scanners and archives fill in IssuerOfPatientID now and then only, so one that is missing makes nobody another person.
    Of a PatientID with two issuers, a file without one counts to the issuer of its study, if that is one.
    """

    def __init__(self, headers: Iterable[Header]) -> None:
        self.of_patient: dict[str, set[str]] = {}
        self.of_study: dict[tuple[str, str], set[str]] = {}
        for header in headers:
            if header.patient and header.issuer:
                self.of_patient.setdefault(header.patient, set()).add(header.issuer)
                self.of_study.setdefault((header.patient, header.study), set()).add(header.issuer)

    def identity(self, headers: Sequence[Header]) -> str | None:
        """What makes the person of a series' files, None without PatientID. Not to be shown."""
        patient, study = headers[0].patient, headers[0].study
        if patient is None or len(self.of_patient.get(patient, ())) < 2:
            return patient
        own = {header.issuer for header in headers if header.issuer} or self.of_study.get((patient, study), set())
        return f"{patient}\x1f{min(own) if len(own) == 1 else ''}"


def series_of(headers: Sequence[Header], root: Path, issuers: Issuers, key: bytes, rules: Rules) -> Series:
    """Judge a series and name it. root, issuers: of the whole tree."""
    one = headers[0]
    study = one.study or one.series
    identity = issuers.identity(headers) or study
    verdict = judge(headers, rules)
    session = pseudonym(key, "ses", study)
    own = pseudonym(key, "ser", one.series)
    is_swapped = verdict.problem is not None and verdict.problem.code == "swapped-subject"
    return Series(
        subject=pseudonym(key, "sub", identity),
        session=session,
        pseudonym=own,
        place=some_of([path.relative_to(root).as_posix() for path in dict.fromkeys(header.path for header in headers)]),
        role="series" if is_swapped else f"series {one.series_number}",
        split_key=identity,
        has_patient=one.patient is not None,
        headers=headers,
        verdict=verdict,
    )


def candidates(series: Series, patterns: Patterns) -> Iterator[Candidate]:
    """A candidate a volume; none for a series that fits no pattern, if there are patterns.

    A phase whose contrast an earlier phase of the series has already gets its number behind the name: ``T1ce_2``.
    """
    by_path = {header.path: header for header in series.headers}
    taken: dict[str, int] = {}
    for stack in series.verdict.volumes:
        header = by_path[stack.slices[0].path]
        channel = channel_of(header, patterns)
        if channel is None:
            continue
        taken[channel] = taken.get(channel, 0) + 1
        number = taken[channel]
        yield Candidate(series, stack, header, channel if number == 1 else f"{channel}_{number}")


def channel_of(header: Header, patterns: Patterns) -> str | None:
    """The first channel whose pattern is found in the description (or protocol, if there is none); without patterns the
    contrast.
    """
    if not patterns:
        return contrast_of(header)
    described = header.description or header.protocol
    found = (name for name, pattern in patterns.items() if re.search(pattern.pattern, described, re.IGNORECASE))
    return next(found, None)
