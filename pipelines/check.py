"""``medae check``: what a data set holds, and what is wrong with which file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from medae.config import apply_overrides, validate
from medae.data.check import check_manifest
from medae.data.finding import Finding
from medae.data.sources import open_manifest
from medae.errors import DataError
from medae.report.html import Report
from pipelines.console import Screen, shown
from pipelines.data import Opened
from pipelines.files import write_json


def run(
    data: Path, format: str, case_ids: Literal["given", "hashed"], overrides: Sequence[str], out: Path, as_json: bool
) -> dict[str, Any]:
    """Check a folder. Raises DataError, after the report is written, when a case has an error."""
    screen = Screen(as_json)
    content = apply_overrides({"format": format, "root": str(data.expanduser().absolute())}, overrides)
    manifest = open_manifest(validate(Opened, {"source": content}, where="--set").source, case_ids)
    with screen.progress("Checking scans") as report:
        findings = check_manifest(manifest, report)
    excluded = sorted({finding.case for finding in findings if finding.level == "error"})
    targets = Counter(name for case in manifest.cases for name in case.targets)
    facts = {
        "format": manifest.source,
        "cases": len(manifest.cases),
        "subjects": len({case.subject for case in manifest.cases}),
        "channels": ", ".join(manifest.channels),
        "label maps": ", ".join(f"{name} ({count} cases)" for name, count in targets.items()) or "none",
        "cases with an error": len(excluded),
        "warnings": sum(finding.level == "warning" for finding in findings),
        "phantoms": "yes, not scans of people" if manifest.phantom else "no",
    }
    rows = grouped(findings)
    page = Report("Check", "What the data set holds, and what is wrong with which file")
    page.table(["Data set", ""], [[name, value] for name, value in facts.items()])
    page.table(["Level", "Cases", "What", "Remedy"], [[row[0], row[1], row[2], row[3]] for row in rows])
    out.mkdir(parents=True, exist_ok=True)
    page.write(out / "report.html")
    result: dict[str, Any] = {"stage": "check", "metrics": {}, "facts": facts, "excluded": excluded}
    result["findings"] = [asdict(finding) for finding in findings]
    write_json(out / "result.json", result)
    screen.table(data.name, ["", ""], list(facts.items()))
    for level, cases, problem, remedy in rows:
        screen.say(f"{level}: {problem} [{cases}] {remedy}")
    screen.say(f"Report: {shown(out / 'report.html')}")
    screen.json(result)
    if excluded:
        raise DataError(
            f"{len(excluded)} of {len(manifest.cases)} cases have an error; training would leave them out.",
            where=shown(out / "result.json"),
            remedy="Mend the files named above.",
        )
    return result


def grouped(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """Findings that say the same of several cases as one row: level, cases, problem, remedy; errors first."""
    groups: dict[tuple[str, str, str], dict[str, None]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.problem, finding.remedy), {})[finding.case or "data set"] = None
    rows = []
    for (level, problem, remedy), found in sorted(groups.items(), key=lambda item: item[0]):
        cases = list(found)
        shown_cases = ", ".join(cases[:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "")
        rows.append((level, shown_cases, problem, remedy))
    return rows
