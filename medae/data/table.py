"""A table of cases: a CSV or TSV file with a row a case and a column a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from medae.data.case import ImageKind, Manifest
from medae.data.files import FileSource, inside, modality_of
from medae.data.gather import Covariates, Files
from medae.data.roots import absolute_root, resolve_root
from medae.data.tables import read_table, value
from medae.errors import DataError
from medae.formats.endings import ENDINGS, is_image

TABLES = (".csv", ".tsv")
FILE_COLUMN = re.compile(r"(image|label|mask)(?:\s*:\s*(.+))?", re.IGNORECASE)
KEYS = ("case", "subject", "session")
KINDS: dict[str, ImageKind] = {"image": "intensity", "label": "labels", "mask": "mask"}


def is_table(root: Path) -> bool:
    """Whether a data set's root is a table of cases rather than a folder."""
    return root.suffix.lower() in TABLES and absolute_root(root).is_file()


class TableSource(FileSource):
    """A data set in a table (CSV with commas or semicolons, or TSV), a row a case.

    Columns: ``subject``, and as wanted ``case`` (else the subject and session) and ``session``; ``image``, or
    ``image:NAME`` for each channel; ``label`` (``label:NAME``) for label maps, ``mask`` (``mask:NAME``) for masks, in which
    every value but 0 is inside; each other column is a covariate. Paths are relative to the root, and beneath it; an
    empty cell is a file that the case does not have.
    table: the file, relative to the root or absolute; without it the root itself is the table, and its folder the root.
    label_names: value -> name.
    """

    format: Literal["table"] = "table"
    table: Path | None = None
    label_names: dict[int, str] = Field(default_factory=dict)

    def manifest(self) -> Manifest:
        """Open the data set. Raises DataError if the table is not in this form; a bad row is a finding."""
        root, path = self.places()
        rows = _rows(path)
        columns = _columns(rows, path, self.target_name)
        files = Files(root)
        subjects: dict[str, str] = {}
        sessions: dict[str, str] = {}
        covariates: dict[str, Covariates] = {}
        for number, row in rows.items():
            case_id = _case_id(row)
            if not row["subject"]:
                files.report("error", "row", f"states no subject, in line {number}", "Fill in the column.", case=case_id)
                continue
            if case_id in subjects:
                problem, remedy = f"has a second row, in line {number}", "Give each row a 'case' of its own."
                files.report("error", "row", problem, remedy, case=case_id)
                continue
            subjects[case_id] = row["subject"]
            if row.get("session"):
                sessions[case_id] = row["session"]
            covariates[case_id] = {
                name: value(cell) for name, cell in row.items() if name not in columns and name not in KEYS
            }
            _add_row(files, case_id, row, columns, number)
        channels = [name for kind, name in columns.values() if kind == "image"]
        targets = [name for kind, name in columns.values() if kind == "label"]
        return files.manifest(
            self.format,
            {name: self.modality or modality_of(name) for name in channels},
            subjects,
            labels={name: self.label_names for name in targets if self.label_names},
            sessions=sessions,
            covariates=covariates,
        )

    def places(self) -> tuple[Path, Path]:
        """The folder of the files, and the table."""
        named = absolute_root(self.root)
        if self.table is None and is_table(self.root):
            return named.parent, named
        root = resolve_root(self.root)
        if self.table is None:
            raise DataError("It is not said which file is the table.", where="table", remedy="Set 'table: FILE.csv'.")
        path = root / self.table.expanduser()
        if not path.is_file():
            raise DataError("The table does not exist.", where=self.table, remedy="Correct 'table'.")
        return root, path


def _rows(path: Path) -> dict[int, dict[str, str]]:
    """The rows by their line; the names of the columns that say who and when in lower case."""
    table = read_table(path, delimiters="\t" if path.suffix.lower() == ".tsv" else ",;\t")
    rows = {
        line: {name.lower() if name.lower() in KEYS else name: cell for name, cell in row.items()}
        for line, row in table.items()
    }
    if not rows or "subject" not in next(iter(rows.values())):
        problem = "The table has no rows." if not rows else "The table has no column 'subject'."
        remedy = "Write a line of column names (subject, image, ...) and a line for each case."
        raise DataError(problem, where=path.name, remedy=remedy)
    return rows


def _columns(rows: Mapping[int, dict[str, str]], path: Path, target: str) -> dict[str, tuple[str, str]]:
    """Column -> kind of file (image, label, mask) and name of the channel or target."""
    columns: dict[str, tuple[str, str]] = {}
    for column in next(iter(rows.values())):
        match = FILE_COLUMN.fullmatch(column)
        if match:
            kind = match[1].lower()
            columns[column] = kind, (match[2] or {"image": "image", "label": target, "mask": "mask"}[kind]).strip()
        elif any(row[column].lower().endswith(ENDINGS) for row in rows.values()):
            text = f"The column '{column}' holds files, and its name does not say of what kind."
            remedy = "Call it image, label or mask, or image:NAME, label:NAME, mask:NAME."
            raise DataError(text, where=path.name, remedy=remedy)
    places = [("image" if kind == "image" else "target", name) for kind, name in columns.values()]
    if len(set(places)) < len(places):
        raise DataError("Two columns have the same name.", where=path.name, remedy="Name them image:NAME, label:NAME.")
    if not any(kind == "image" for kind, _ in columns.values()):
        raise DataError("The table has no column of images.", where=path.name, remedy="Name one 'image' or 'image:NAME'.")
    return columns


def _case_id(row: dict[str, str]) -> str:
    return row.get("case") or "_".join(part for part in (row["subject"], row.get("session")) if part)


def _add_row(files: Files, case_id: str, row: dict[str, str], columns: dict[str, tuple[str, str]], number: int) -> None:
    for column, (kind, name) in columns.items():
        written = row[column]
        if not written:
            continue
        path = inside(files.root, written)
        role = f"{'image' if kind == 'image' else 'target'} {name}"
        if path is None:
            problem, remedy = f"is a file outside the data set, in line {number}", "Name it relative to the root."
            files.report("error", "outside", problem, remedy, case=case_id, role=role)
        elif not is_image(path):
            problem, remedy = f"is no image by its ending, in line {number}", f"Convert it to {ENDINGS[0]}."
            files.report("error", "ending", problem, remedy, case=case_id, path=path, role=role)
        elif kind == "image":
            files.add_image(case_id, name, path)
        else:
            files.add_target(case_id, name, path, KINDS[kind])
    if not any(row[column] for column, (kind, _) in columns.items() if kind == "image"):
        files.report("error", "row", f"names no image, in line {number}", "Fill in an image column.", case=case_id)
