"""``medae check``: what a data set holds, what is wrong with which file, and pictures to look through."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medae.config import apply_overrides, digest, to_dict, validate
from medae.data.across import HOUNSFIELD
from medae.data.check import Check, check_manifest
from medae.data.digests import reporting
from medae.data.finding import Finding
from medae.data.sources import ManifestSource, open_manifest, write_manifest
from medae.errors import DataError
from medae.parallel import usable_cores
from medae.report.html import Report, Tile, Tone
from medae.report.planes import CONVENTION
from medae.report.thumbnail import thumbnail
from pipelines.cli_options import RUNS
from pipelines.console import Screen, shown
from pipelines.data import Opened
from pipelines.files import read_json, write_json

TILES = 300
"""Cases on one page: some megabytes."""


def run(
    data: Path,
    format: str,
    case_ids: Literal["given", "hashed"],
    overrides: Sequence[str],
    out: Path | None,
    *,
    workers: int | None = None,
    strict: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Check a folder. out: for the report; without it one is chosen below ``runs/check``.

    Raises DataError, after everything is written, for errors and, with ``strict``, for warnings; before anything if ``out``
    holds the check of another data set.
    """
    screen = Screen(as_json)
    content = apply_overrides({"format": format, "root": str(data.expanduser().absolute())}, overrides)
    source = validate(Opened, {"data": content}, where="--set").data
    out, own = _folder_for(data, out)
    with screen.progress("Reading files") as report, reporting(report):
        manifest = open_manifest(source, case_ids)
    with screen.progress("Checking scans") as report:
        check = check_manifest(manifest, workers or usable_cores(), report, thumbnail)
    facts = describe(check)
    out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"stage": "check", "metrics": {}, "facts": facts, "excluded": list(check.excluded)}
    result["root"] = own
    result["findings"] = [asdict(finding.public()) for finding in check.findings]
    result["cases"] = {case_id: to_dict(inspection) for case_id, inspection in check.inspections.items()}
    write_json(out / "result.json", result)
    write_report(check, facts, out)
    if not isinstance(source, ManifestSource):  # which is one already
        write_manifest(check.usable, source, out / "manifest.json", case_ids)
    screen.table(data.name, ["", ""], list(facts.items()))
    for level, places, problem, remedy in grouped(check.findings, files=True):
        screen.say(f"{level}: {problem} [{places}] {remedy}")
    screen.say(f"Pictures and findings: {shown(out / 'report.html')}")
    if not isinstance(source, ManifestSource):
        screen.say(f"The usable cases, for data.format manifest: {shown(out / 'manifest.json')}")
    screen.json(result)
    n_errors = sum(finding.level == "error" for finding in check.findings)
    if n_errors or (strict and check.findings):
        text = f"{len(check.excluded)} of {facts['cases']} cases have an error; training would leave them out."
        text = text if check.excluded else f"{n_errors} files that belong to no case have an error."
        raise DataError(
            text if n_errors else f"{len(check.findings)} warnings, and --strict was asked for.",
            where=shown(out / "report.html"),
            remedy="Mend the files named above.",
        )
    return result


def _folder_for(data: Path, out: Path | None) -> tuple[Path, str]:
    """The folder for the report of a data set, and what stands for the place of that data set without naming it.

    Below ``runs/check`` it is called like the data set's folder; another of that name gets a number. Raises DataError if a
    folder that was asked for holds the check of another data set.
    """
    root = data.expanduser().resolve()
    own = digest({"root": str(root)})[:12]
    if out is not None:
        if not _is_free(out, own):
            raise DataError(
                "The folder holds the check of another data set.",
                where=out,
                remedy="Choose another one in --out, or remove it.",
            )
        return out, own
    name = re.sub(r"[^\w.-]+", "_", root.stem if root.is_file() else root.name) or "data"
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for each in names if _is_free(folder := RUNS / "check" / each, own)), own


def _is_free(folder: Path, own: str) -> bool:
    """Whether a folder holds no check, or one of the same data set; an earlier medae's does not say."""
    result = folder / "result.json"
    try:
        return not result.is_file() or read_json(result).get("root", own) == own
    except (OSError, ValueError, AttributeError):  # whatever it is, it is no check
        return True


def describe(check: Check) -> dict[str, Any]:
    """The data set in a few lines."""
    manifest = check.manifest
    images = [facts for found in check.inspections.values() for facts in found.images.values()]
    modalities = Counter(ref.modality for case in manifest.cases for ref in case.images.values())
    facts: dict[str, Any] = {
        "format": manifest.source,
        "cases": len({case.id for case in manifest.cases} | set(check.excluded)),
        "subjects": len({case.subject for case in manifest.cases}),
        "channels": ", ".join(manifest.channels),
        "modality": ", ".join(f"{name} ({count})" for name, count in modalities.most_common()),
        "label maps": _label_maps(check),
    }
    if images:
        orientations = Counter(found.orientation for found in images)
        facts |= {
            "shape": _spread([found.shape for found in images], "{:.0f}"),
            "voxels (mm)": _spread([found.spacing for found in images], "{:.3g}"),
            "stored orientation": ", ".join(f"{name} ({count})" for name, count in orientations.most_common()),
            "values": f"{min(found.lowest for found in images):g} to {max(found.highest for found in images):g}",
            "looks like CT": f"{sum(found.lowest < HOUNSFIELD for found in images)} of {len(images)} images",
        }
    return facts | {
        "cases with an error": len(check.excluded),
        "warnings": sum(finding.level == "warning" for finding in check.findings),
        "phantoms": "yes, not scans of people" if manifest.phantom else "no",
    }


def _label_maps(check: Check) -> str:
    """Of each target how many cases have it, and of how many its label map is empty."""
    cases = Counter(name for case in check.manifest.cases for name in case.targets)
    maps = [(name, facts.labels) for found in check.inspections.values() for name, facts in found.targets.items()]
    empty = Counter(name for name, labels in maps if labels is not None and not set(labels) - {0})
    with_labels = {name for name, labels in maps if labels is not None}
    said = {name: f", {empty[name]} empty" if name in with_labels else "" for name in cases}
    return ", ".join(f"{name} ({count} cases{said[name]})" for name, count in cases.items()) or "none"


def _spread(rows: Sequence[Sequence[float]], form: str) -> str:
    """Median and range along each axis; the median alone where all are equal."""
    columns = []
    for values in zip(*rows, strict=True):
        middle, low, high = (form.format(value) for value in (np.median(values), min(values), max(values)))
        columns.append(middle if low == high else f"{middle} ({low}-{high})")
    return " x ".join(columns)


def write_report(check: Check, facts: dict[str, Any], out: Path) -> None:
    """``report.html`` with the findings and the cases that they are about, and pages with all cases beside it."""
    for old in out.glob("cases-[0-9][0-9][0-9].html"):
        old.unlink(missing_ok=True)
    notes: dict[str, list[Finding]] = {}
    for finding in check.findings:
        notes.setdefault(finding.case, []).append(finding)
    tiles = {case.id: _tile(check, case.id, notes.get(case.id, [])) for case in check.manifest.cases}
    drawn = [tile for tile in tiles.values() if tile is not None]
    chunks = [drawn[start : start + TILES] for start in range(0, len(drawn), TILES)]
    pages = {f"Cases {TILES * place + 1} to {TILES * place + len(chunk)}": chunk for place, chunk in enumerate(chunks)}
    names = {title: f"cases-{place:03d}.html" for place, title in enumerate(pages, start=1)}
    subtitle = f"Axial, coronal, sagittal; label map outlined. {CONVENTION}"
    subtitle += " Phantoms, not patients." if check.manifest.phantom else ""
    for title, chunk in pages.items():
        Report(title, subtitle).section("Cases").gallery(chunk).write(out / names[title])
    page = Report("Check", "What the data set holds, and what is wrong with which file")
    page.card("Cases", facts["cases"], f"subjects: {facts['subjects']}")
    page.card("Left out", len(check.excluded), "cases with an error", "caution" if check.excluded else "good")
    page.card("Warnings", facts["warnings"], "", "caution" if facts["warnings"] else "good")
    page.section("Findings")
    rows = grouped(check.findings)
    if rows:
        page.table(["Level", "Cases", "What", "Remedy"], [list(row) for row in rows])
    else:
        page.note("Nothing is wrong with any file.", "good")
    flagged = [tile for case_id, tile in tiles.items() if tile is not None and case_id in notes]
    if flagged:
        page.section("Cases with findings").gallery(flagged[:TILES])
    page.section("All cases").links(names)
    if not flagged and drawn:
        page.gallery(drawn[:12])
    page.section("Data set").table(["Data set", ""], [[name, value] for name, value in facts.items()])
    page.section("Every finding").table(
        ["Case", "File", "Level", "Kind", "What", "Remedy"],
        [[note.case or "data set", note.role, note.level, note.code, note.problem, note.remedy] for note in check.findings],
    )
    page.write(out / "report.html")


def _tile(check: Check, case_id: str, notes: Sequence[Finding]) -> Tile | None:
    if case_id not in check.pictures:
        return None
    facts = next(iter(check.inspections[case_id].images.values()), None)
    lines = []
    if facts is not None:
        lines.append(f"{' x '.join(map(str, facts.shape))}, {' x '.join(f'{size:.3g}' for size in facts.spacing)} mm")
        lines.append(f"{facts.orientation}, {facts.stored}, {facts.lowest:g} to {facts.highest:g}")
    tone: Tone = "caution" if notes else "plain"
    return Tile(check.pictures[case_id], case_id, [*lines, *(f"{note.level}: {note.problem}" for note in notes)], tone)


def grouped(findings: Sequence[Finding], files: bool = False) -> list[tuple[str, str, str, str]]:
    """Findings that say the same of several cases as one row: level, cases, problem, remedy; errors first.

    files: name files rather than cases, which may be hashes: for the screen only.
    """
    groups: dict[tuple[str, str, str], dict[str, None]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.problem, finding.remedy), {})[_place(finding, files)] = None
    rows = []
    for (level, problem, remedy), found in sorted(groups.items(), key=lambda item: item[0]):
        cases = list(found)
        shown_cases = ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")
        rows.append((level, shown_cases, problem, remedy))
    return rows


def _place(finding: Finding, files: bool) -> str:
    return (finding.file if files else "") or finding.case or "data set"
