"""What has been done to a folder of scans: grows as it goes, so that a stopped run goes on, and ends as ``result.json``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medae.config import flatten
from medae.errors import DataError
from pipelines.files import read_json, write_json, write_text

LISTS = {"findings", "remarks", "files"}
"""Of a case in the summary, what a table shows as a count or not at all."""


class Record:
    """The cases that are done. summary: ``…result.json``. key: stands for the model and the options.

    While it is open, each case is a line of a file beside the summary (``….jsonl``); ``close`` writes the summary and a
    table (``…cases.csv``), and removes it.
    """

    def __init__(self, summary: Path, key: str, known: Mapping[str, dict[str, Any]]) -> None:
        self.summary, self.key, self._known = summary, key, dict(known)
        self.cases: dict[str, dict[str, Any]] = {}

    @classmethod
    def open(cls, summary: Path, key: str, force: bool) -> Record:
        """What was done with this key before. Raises DataError for a summary of another key, unless forced."""
        known: dict[str, dict[str, Any]] = {}
        if summary.is_file():
            try:
                before = read_json(summary)
            except ValueError:
                before = {}
            if before.get("key") == key:
                known |= before.get("cases", {})
            elif not force:
                raise DataError(
                    "The output holds the results of another model, or of other options.",
                    where=summary.name,
                    remedy="Choose another folder, or give --force to replace them.",
                )
        for line in _lines(_growing(summary)):
            if line.get("key") == key:
                known[line["name"]] = line["case"]
        return cls(summary, key, known)

    def has(self, name: str, given: str) -> bool:
        """Whether a case was done with this input, and its files are there; then it counts as done."""
        case = self._known.get(name)
        if case is None or case.get("input") != given or not case.get("files"):
            return False
        if not all((self.summary.parent / file).is_file() for file in case["files"]):
            return False
        self.cases[name] = case
        return True

    def made(self, path: Path) -> bool:
        """Whether a file is a result that was recorded before."""
        return any(self.summary.parent / file == path for case in self._known.values() for file in case.get("files", ()))

    def add(self, name: str, given: str, case: Mapping[str, Any]) -> None:
        """A case is done: one line more."""
        self.cases[name] = {**case, "input": given}
        line = json.dumps({"key": self.key, "name": name, "case": self.cases[name]}, allow_nan=False)
        with _growing(self.summary).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def close(self, result: Mapping[str, Any], order: Sequence[str], failed: Mapping[str, str]) -> dict[str, Any]:
        """Write the summary and the table, and return the summary. order: of the cases."""
        cases = {name: self.cases[name] for name in order if name in self.cases}
        whole = {**result, "cases": cases, "failed": dict(failed)}
        write_json(self.summary, whole)
        write_text(self.summary.with_name(self.summary.name.replace("result.json", "cases.csv")), _table(cases, failed))
        _growing(self.summary).unlink(missing_ok=True)
        return whole


def _growing(summary: Path) -> Path:
    return summary.with_name(f".{summary.stem}.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may have been cut short."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _table(cases: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """A line a case; of lists their length, and of remarks the sentences."""
    rows = []
    for name, case in cases.items():
        row: dict[str, Any] = {"case": name}
        row |= flatten({key: value for key, value in case.items() if key not in LISTS and key != "input"})
        row |= {key: len(case[key]) for key in ("findings",) if key in case}
        row["remarks"] = " ".join(case.get("remarks", ()))
        rows.append(row)
    rows += [{"case": name, "failed": reason} for name, reason in failed.items()]
    columns = [*dict.fromkeys(key for row in rows for key in row if key != "remarks"), "remarks"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()
