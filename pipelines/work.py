"""What a command does to every scan that it is given, recorded as it goes, so that it can be stopped and taken up again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from medae.config import digest
from medae.data.digests import reporting, sha256_of_files
from medae.errors import DataError, MedaeError
from medae.formats.endings import stem
from medae.tracking.privacy import public_error
from pipelines.console import Screen, shown
from pipelines.inputs import Inputs, Scan
from pipelines.overlap import Steps, overlapped
from pipelines.record import Record

Read = TypeVar("Read")
Made = TypeVar("Made")


class Work(Steps[Scan, Read, Made, dict[str, Any]]):
    """What is done to every scan: ``read``, ``make`` and ``write``, which returns what the summary says of the scan.

    ``write`` names the files that it made under ``files``, relative to the folder of the summary. key: stands for all that
    decides results beside the scan: model, options. page: of the report, if ``finish`` writes one.
    """

    key: str = ""
    page: Path | None = None

    @abstractmethod
    def files_of(self, scan: Scan) -> list[Path]:
        """All files that are written of a scan."""

    def beside(self) -> list[Path]:
        """Files of the folder as a whole, without the summary and its table."""
        return []

    def finish(self, cases: Mapping[str, Any], failed: Mapping[str, str]) -> None:
        """Write what the folder has beside the results; called once, when all is done, with the summary."""

    def input_of(self, scan: Scan) -> str:
        """Stands for what is read of a scan."""
        return digest({"images": scan.digests()})[:16]


class _Recorded(Steps[Scan, Any, Any, None]):
    """The same work, each scan recorded where it is written, so that a run that is stopped knows of every file."""

    def __init__(self, work: Work[Any, Any], record: Record, keys: Mapping[str, str]) -> None:
        self.work, self.record, self.keys = work, record, keys

    def read(self, item: Scan) -> Any:
        return self.work.read(item)

    def make(self, item: Scan, read: Any) -> Any:
        return self.work.make(item, read)

    def write(self, item: Scan, made: Any) -> None:
        folder = self.record.summary.parent
        self.record.begin(item.name, [path.relative_to(folder).as_posix() for path in self.work.files_of(item)])
        self.record.add(item.name, self.keys[item.name], self.work.write(item, made))


def work_through(
    inputs: Inputs,
    output: Path,
    screen: Screen,
    title: str,
    work: Work[Any, Any],
    result: Mapping[str, Any],
    *,
    force: bool = False,
    readers: int = 1,
) -> dict[str, Any]:
    """Do every scan that is not done yet. One that fails is listed at the end, and the others are done.

    result: what else the summary says; it is returned, written beside what was made, and printed for programs. force: take
    the place of results that another model or other options gave. readers: see ``overlapped``.
    Raises DataError at the end if a scan failed, and before anything if the output holds other results.
    """
    if not inputs.single:
        output.mkdir(parents=True, exist_ok=True)
    # beside a single file may lie others' results
    summary = output.with_name(f"{stem(output)}_result.json") if inputs.single else output / "result.json"
    with nullcontext() if inputs.single else _alone(summary):
        record = Record.open(summary, work.key, force)
        _refuse_doubles(inputs.scans, work)
        to_do, keys = [], dict[str, str]()
        failed = dict(inputs.refused)
        with screen.progress("Looking for what is done") as report, reporting(report):
            sha256_of_files([path for scan in inputs.scans if scan.case is None for path in scan.files.values()])
        for scan in inputs.scans:
            try:
                keys[scan.name] = work.input_of(scan)
            except MedaeError as error:
                failed[scan.name] = _without_folders(error, scan)
                continue
            if not record.has(scan.name, keys[scan.name]):
                to_do.append(scan)
        if inputs.single:  # beside its scan lie others
            near = {path.resolve().parent for scan in inputs.scans for path in scan.files.values()}
            own = [path for scan in to_do for path in work.files_of(scan) if path.resolve().parent in near]
            _refuse_foreign([path for path in own if path.exists() and not record.is_ours(path)], "Choose another name.")
        if not force:
            own = [path for scan in to_do for path in work.files_of(scan)]
            table = summary.with_name(summary.name.replace("result.json", "cases.csv"))
            whole_folder = [] if summary.exists() or record.began else [*work.beside(), table]
            _refuse_foreign([path for path in [*own, *whole_folder] if path.exists() and not record.made(path)])
        skipped, total = len(record.cases), len(inputs.scans) + len(inputs.refused)
        before = total - len(to_do)
        results = overlapped(to_do, _Recorded(work, record, keys), readers)
        with screen.progress(title) as report:
            for done, (scan, found) in enumerate(results, start=before + 1):
                if isinstance(found, MedaeError):
                    failed[scan.name] = _without_folders(found, scan)
                report(done, total)
        whole = record.close({**result, "key": work.key}, [scan.name for scan in inputs.scans], failed)
        work.finish(whole["cases"], failed)
        _say_remarks(whole["cases"], screen)
        place = shown(output.parent if inputs.single else output)
        earlier = f" ({skipped} of them before)" if skipped else ""
        screen.say(f"{len(whole['cases'])} of {total} scans done{earlier}, in {place}")
        if work.page is not None:
            screen.say(f"Report: {shown(work.page)}")
        screen.json(whole)
    if failed:
        raise _failures(failed, total)
    return whole


@contextmanager
def _alone(summary: Path) -> Iterator[None]:
    """Within it no other process works in a folder of results: each would write a summary without the other's scans.

    Raises DataError if one does.
    """
    lock = FileLock(summary.with_name(f".{summary.stem}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            "Another process writes results here.",
            where=shown(summary.parent),
            remedy="Wait for it, or choose another folder.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _failures(failed: Mapping[str, str], total: int) -> DataError:
    """The scans that failed, by what is wrong with them."""
    why: dict[str, list[str]] = {}
    for name, reason in failed.items():  # many fail for one reason, in which only their own names differ
        why.setdefault(reason.replace(f"where:  {name}\n", ""), []).append(name)
    rows = "\n".join(f"    {', '.join(names)}:\n{indent(reason, 6 * ' ')}" for reason, names in why.items())
    remedy = "The others are done; mend these." if len(failed) < total else "No scan was predicted: mend these."
    return DataError(f"{len(failed)} of {total} scans failed:\n{rows}", remedy=remedy)


def _without_folders(error: MedaeError, scan: Scan) -> str:
    """What an error says, for the summary too: of plain files, after which results are called, with the name of the file."""
    where = error.where
    if scan.case is None and where is not None and "\n" not in where:
        where = Path(where).name
    return public_error(type(error)(error.what, where=where, remedy=error.remedy))


def _say_remarks(cases: Mapping[str, Any], screen: Screen) -> None:
    """What is to be said of scans, each sentence once."""
    named: dict[str, list[str]] = {}
    for name, case in cases.items():
        for remark in (*case.get("remarks", ()), *case.get("notes", ())):
            named.setdefault(remark, []).append(name)
    for remark, names in named.items():
        screen.warn(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {remark}")


def _refuse_doubles(scans: Sequence[Scan], work: Work[Any, Any]) -> None:
    """Raises DataError for two scans whose results would have one name."""
    names: dict[Path, Scan] = {}
    for scan in scans:
        for path in work.files_of(scan):
            if path in names:
                both = [", ".join(file.name for file in each.files.values()) or each.name for each in (names[path], scan)]
                raise DataError(
                    f"The results of two scans would both be called {path.name}: {both[0]} and {both[1]}.",
                    where="the input",
                    remedy="Give the scans different names, or predict them into different folders.",
                )
            names[path] = scan


def _refuse_foreign(paths: Sequence[Path], remedy: str = "Choose another folder, or give --force to replace it.") -> None:
    if paths:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise DataError(
            f"The file is there already{more}, and no run has recorded that it made it.",
            where=shown(paths[0]),
            remedy=remedy,
        )
