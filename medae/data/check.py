"""Look at every file of a data set before hours of computing depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from medae.data.across import across_cases
from medae.data.case import Case, ImageRef, Manifest
from medae.data.digests import Memory
from medae.data.finding import Finding, some_of
from medae.data.inspection import Inspection, Picture, inspect_case, inspection_key
from medae.parallel import unordered

WORTH_A_PROCESS = 8
"""Cases that a process of its own must have to do: it takes seconds to start."""


@dataclass(frozen=True)
class Check:
    """What was found. findings: of the source, of the whole set, then case by case. inspections, pictures: by case id."""

    manifest: Manifest
    findings: tuple[Finding, ...]
    inspections: Mapping[str, Inspection] = field(repr=False)
    pictures: Mapping[str, bytes] = field(repr=False)

    @property
    def excluded(self) -> tuple[str, ...]:
        """Ids of the cases that have an error, in order."""
        return tuple(sorted({finding.case for finding in self.findings if finding.level == "error" and finding.case}))

    @property
    def usable(self) -> Manifest:
        """The cases without an error."""
        excluded = frozenset(self.excluded)
        return self.manifest.select(lambda case: case.id not in excluded)


def check_manifest(
    manifest: Manifest,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    picture: Picture | None = None,
) -> Check:
    """Read every image and label map once, and say what is wrong.

    Errors make a case unusable; warnings do not. What was found in the same contents before is remembered.
    workers: processes at most. progress: called with the number of cases done and of all. picture: draws a case from
    its first image and label map; a function that can be pickled.
    """
    memory = Memory()
    keys = {case.id: inspection_key(case, manifest.labels) for case in manifest.cases}
    inspections, pictures = _remembered(memory, keys, picture is not None)
    to_do = [case for case in manifest.cases if case.id not in inspections]
    inspect = partial(inspect_case, manifest.root, manifest.labels, picture)
    processes = min(workers, max(1, len(to_do) // WORTH_A_PROCESS))
    for done, (place, (inspection, drawn)) in enumerate(unordered(inspect, to_do, processes), start=1):
        case_id = to_do[place].id
        inspections[case_id] = inspection
        if drawn is not None:
            pictures[case_id] = drawn
        if inspection.is_lasting:
            memory.put(
                {keys[case_id]: inspection.model_dump_json()} | ({_drawn(keys[case_id]): drawn.hex()} if drawn else {})
            )
        if progress is not None:
            progress(len(manifest.cases) - len(to_do) + done, len(manifest.cases))
    of_cases = [finding for case in manifest.cases for finding in _findings(case, inspections[case.id])]
    findings = (*manifest.findings, *across_cases(manifest, inspections), *of_cases)
    return Check(manifest, findings, inspections, pictures)


def _remembered(
    memory: Memory, keys: Mapping[str, str], with_pictures: bool
) -> tuple[dict[str, Inspection], dict[str, bytes]]:
    """What is known by case id. With pictures, a case that has none was not drawn yet."""
    known = memory.get(keys.values())
    inspections = {case_id: Inspection.model_validate_json(known[key]) for case_id, key in keys.items() if key in known}
    if not with_pictures:
        return inspections, {}
    drawn = memory.get(_drawn(keys[case_id]) for case_id in inspections)
    pictures = {case_id: bytes.fromhex(drawn[key]) for case_id in inspections if (key := _drawn(keys[case_id])) in drawn}
    return {case_id: found for case_id, found in inspections.items() if case_id in pictures}, pictures


def _drawn(key: str) -> str:
    return f"picture {key}"


def _findings(case: Case, inspection: Inspection) -> list[Finding]:
    found = []
    for noted in inspection.noted:
        ref = (case.images if noted.role == "image" else case.targets)[noted.name]
        file = noted.name
        if isinstance(ref, ImageRef):
            file = some_of(ref.files)
        role = f"{noted.role} {noted.name}"
        found.append(Finding(case.id, file, noted.level, noted.code, noted.problem, noted.remedy, role))
    return found
