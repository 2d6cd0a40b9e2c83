"""The tables of a BIDS data set: participants, sessions, names of labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medae.data.gather import Covariates, Files
from medae.data.tables import read_table, value
from medae.errors import DataError


def covariates(files: Files, subjects: Mapping[str, str], sessions: Mapping[str, str]) -> dict[str, Covariates]:
    """The columns of ``participants.tsv`` and of each subject's ``sub-X_sessions.tsv``, which go first, by case id.

    Rows without images, images without a row and tables of sessions that cannot be read are warnings. Raises DataError
    for a ``participants.tsv`` that is no table.
    """
    participants = _participants(files, subjects)
    of_sessions = {subject: _sessions(files, subject) for subject in sorted(set(subjects.values()))}
    return {
        case_id: {**participants.get(subject, {}), **of_sessions[subject].get(sessions.get(case_id, ""), {})}
        for case_id, subject in subjects.items()
    }


def _participants(files: Files, subjects: Mapping[str, str]) -> dict[str, Covariates]:
    path = files.root / "participants.tsv"
    if not path.exists():
        return {}
    table: dict[str, Covariates] = {}
    twice: set[str] = set()
    for row in read_table(path, ("participant_id",)).values():
        subject = f"sub-{row.pop('participant_id').removeprefix('sub-')}"
        if subject in table:
            twice.add(subject)
        table[subject] = {name: value(cell) for name, cell in row.items()}
    for subject in sorted(twice):
        problem = "has two rows in participants.tsv; none is used"
        files.report("warning", "participants", problem, "Keep one row a participant.", case=subject, path=path)
    for subject in sorted(table.keys() - set(subjects.values())):
        problem, remedy = "has a row in participants.tsv and no image that is taken", "Add its images, or let it be."
        files.report("warning", "participants", problem, remedy, case=subject, path=path)
    for case_id, subject in subjects.items():
        if subject not in table:
            problem, remedy = "has no row in participants.tsv", "Add a row, with n/a for what is not known."
            files.report("warning", "participants", problem, remedy, case=case_id, path=path)
    return {subject: row for subject, row in table.items() if subject not in twice}


def _sessions(files: Files, subject: str) -> dict[str, Covariates]:
    """The rows of a subject's table of sessions, by ``ses-Y``."""
    path = files.root / subject / f"{subject}_sessions.tsv"
    if not path.exists():
        return {}
    try:
        rows = list(read_table(path, ("session_id",)).values())
    except DataError:
        problem, remedy = "has a table of sessions that cannot be used", "Part it by tabs, with a column session_id."
        files.report("warning", "sessions", problem, remedy, case=subject, path=path)
        return {}
    names = [f"ses-{row.pop('session_id').removeprefix('ses-')}" for row in rows]
    return {name: {key: value(cell) for key, cell in row.items()} for name, row in zip(names, rows, strict=True)}


def dseg_names(root: Path, derivative: Path | None, is_only: bool) -> dict[int, str]:
    """Value -> name from the only ``dseg.tsv`` or ``*_dseg.tsv`` of the derivative, else of the data set.

    is_only: there is one kind of label map; beside others, tables with a ``desc`` are theirs.
    """
    for folder in [derivative, root]:
        tables = sorted(folder.glob("*dseg.tsv")) if folder else []
        tables = [table for table in tables if is_only or "desc-" not in table.name]
        if len(tables) == 1:
            rows = read_table(tables[0], ("index", "name")).values()
            if not all(row["index"].isdecimal() for row in rows):
                raise DataError("'index' holds more than whole numbers.", where=tables[0].name, remedy="Correct the table.")
            return {int(row["index"]): row["name"] for row in rows}
    return {}
