"""What has been done to a folder of scans: grows as it goes, so that a stopped run goes on, and ends as ``result.json``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from medae.config import flatten
from medae.errors import DataError
from pipelines.console import shown
from pipelines.files import read_json, write_json, write_text

SENTENCES = ("remarks", "notes")
UNLISTED = {*SENTENCES, "findings", "files", "input"}
"""Of a case in the summary, what a table shows in another way or not at all."""


class Record:
    """The cases that are done, in this run or in earlier ones of the same key.

    summary: ``…result.json``. key: stands for the model and the options. known: cases of earlier runs. begun: files that a
    run of this key has begun to write. retired: whether the summary is of another key. While it is open, each step is a line
    of a file beside the summary (``….jsonl``); ``close`` writes the summary and a table (``…cases.csv``), and removes it.
    """

    def __init__(self, summary: Path, key: str, known: Mapping[str, dict[str, Any]], begun: set[str], retired: bool) -> None:
        self.summary, self.key, self._known, self._begun = summary, key, dict(known), begun
        self._retired, self._lock = retired, Lock()
        self.cases: dict[str, dict[str, Any]] = {}
        self.others: set[str] = set()
        """Files that runs of another key have written, or begun."""

    @classmethod
    def open(cls, summary: Path, key: str, force: bool) -> Record:
        """What was done with this key before. Raises DataError where there is something of another key, unless forced."""
        known: dict[str, dict[str, Any]] = {}
        begun: set[str] = set()
        others: set[str] = set()
        other = False
        if summary.is_file():
            try:
                before = read_json(summary)
            except ValueError:
                before = {}
            other = before.get("key") != key
            if not other:
                known |= before.get("cases", {})
                begun |= set(before.get("made", ()))
            else:
                others |= {file for case in before.get("cases", {}).values() for file in case.get("files", ())}
        for line in _lines(_growing(summary)):
            if line.get("key") != key:
                other = True
                others |= set(line.get("begun", ()))
                known.pop(line.get("name", ""), None)
                continue
            begun |= set(line["begun"])
            if "case" in line:
                known[line["name"]] = line["case"]
            else:
                known.pop(line["name"], None)
        if other and not force:
            raise DataError(
                "The output holds the results of another model, of other options, or of another version of medae.",
                where=shown(summary),
                remedy="Choose another folder, or give --force to replace them.",
            )
        found = cls(summary, key, known, begun, other)
        found.others = others
        return found

    @property
    def began(self) -> bool:
        """Whether a run of this key has begun to write here."""
        return bool(self._begun or self._known)

    def has(self, name: str, given: str) -> bool:
        """Whether a case was done with this input, and its files are there; then it counts as done."""
        case = self._known.get(name)
        if case is None or case.get("input") != given or not self._is_there(case):
            return False
        self.cases[name] = case
        return True

    def made(self, path: Path) -> bool:
        """Whether a file was written, or begun, by a run of this key."""
        every = [*self._begun, *(file for case in self._known.values() for file in case.get("files", ()))]
        return any(self.summary.parent / file == path for file in every)

    def is_ours(self, path: Path) -> bool:
        """Whether a run of any key has written a file, or begun to."""
        return self.made(path) or any(self.summary.parent / file == path for file in self.others)

    def begin(self, name: str, files: Sequence[str]) -> None:
        """The files of a case are about to be written."""
        if self._retired:  # what another key has left is no longer what the files hold
            self.summary.unlink(missing_ok=True)
            _growing(self.summary).unlink(missing_ok=True)
            self._retired = False
        self._line({"key": self.key, "name": name, "begun": list(files)})

    def add(self, name: str, given: str, case: Mapping[str, Any]) -> None:
        """A case is done."""
        self.cases[name] = {**case, "input": given}
        self._line({"key": self.key, "name": name, "begun": case["files"], "case": self.cases[name]})

    def close(self, result: Mapping[str, Any], order: Sequence[str], failed: Mapping[str, str]) -> dict[str, Any]:
        """Write the summary and the table, and return the summary.

        order: of the cases of this run; those of earlier runs that are not among them stay, behind.
        """
        cases = {name: self.cases[name] for name in order if name in self.cases}
        cases |= {name: case for name, case in self._known.items() if name not in order and self._is_there(case)}
        listed = {file for case in cases.values() for file in case["files"]}
        earlier = {file for case in self._known.values() for file in case.get("files", ())}
        made = sorted(file for file in (self._begun | earlier) - listed if (self.summary.parent / file).is_file())
        whole = {**result, "cases": cases, "failed": dict(failed)} | ({"made": made} if made else {})
        write_json(self.summary, whole)
        write_text(self.summary.with_name(self.summary.name.replace("result.json", "cases.csv")), _table(cases, failed))
        _growing(self.summary).unlink(missing_ok=True)
        return whole

    def _is_there(self, case: Mapping[str, Any]) -> bool:
        files = case.get("files", ())
        return bool(files) and all((self.summary.parent / file).is_file() for file in files)

    def _line(self, content: Mapping[str, Any]) -> None:
        self._begun |= set(content["begun"])
        path = _growing(self.summary)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, path.open("ab+") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a line that was cut short
                    file.write(b"\n")
            file.write((json.dumps(content, allow_nan=False) + "\n").encode())


def _growing(summary: Path) -> Path:
    return summary.with_name(f".{summary.stem}.jsonl")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may have been cut short."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _table(cases: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """A line a case; of findings their number, of remarks and notes the sentences."""
    rows = []
    for name, case in cases.items():
        row: dict[str, Any] = {"case": name}
        row |= flatten({key: value for key, value in case.items() if key not in UNLISTED})
        row |= {"findings": len(case["findings"])} if "findings" in case else {}
        row |= {key: " ".join(case[key]) for key in SENTENCES if case.get(key)}
        rows.append(row)
    rows += [{"case": name, "failed": " ".join(reason.split())} for name, reason in failed.items()]
    named = dict.fromkeys(key for row in rows for key in row if key not in SENTENCES)
    columns = [*(named or ["case"]), *SENTENCES]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()
