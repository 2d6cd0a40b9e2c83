"""The scans that a command is given: one image, a folder of images, or a data set."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from medae.config import digest
from medae.data.brain_masks import MaskFile
from medae.data.case import Case, Manifest, Modality
from medae.data.digests import reporting, sha256_of_files
from medae.data.folder import guess_patterns, matches
from medae.data.nnunet import CHANNEL_NUMBER
from medae.data.reading import read_array
from medae.data.sources import detect_format
from medae.errors import DataError, MedaeError
from medae.formats import read
from medae.formats.endings import NIFTI, image_files, stem
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.prepare import Change, Prepared, prepare_case, prepare_files
from medae.tracking.privacy import public_error
from medae.volume import NativeGrid
from pipelines.console import Screen, shown
from pipelines.data import open_folder
from pipelines.overlap import Steps, overlapped
from pipelines.record import Record

OR_LAYOUT = "the folder of the scans alone, or name the layout: --format folder (--set data.ids=names keeps their names)."
"""What to do where a plain folder holds more than scans."""

PLAIN = "image"
"""In the place of the channel of a file that does not say which one it is."""

Read = TypeVar("Read")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Scan:
    """One scan. name: of its results. case: of a data set, with its manifest; else files: by channel, each image a file."""

    name: str
    case: Case | None = None
    manifest: Manifest | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def prepare(
        self, space: SpacePlan, brain: BrainExtraction | None, mask: MaskFile | None, change: Change | None = None
    ) -> Prepared:
        """The scan in a plan's space. brain: makes the brain mask where none is given. mask: of a plain file. change: as in
        ``prepare_case``."""
        if self.case is not None and self.manifest is not None:
            return prepare_case(self.manifest, _named_for(self.case, space), space, brain=brain, change=change)
        names = {PLAIN: space.channels[0]} if set(self.files) == {PLAIN} else {}
        files = {names.get(name, name): [path] for name, path in self.files.items()}
        brain_mask, doubtful = (None, None) if mask is None else (mask.mask, mask.doubtful)
        return prepare_files(files, space, self.name, brain_mask, brain, change, doubtful)

    def modality(self, channels: Sequence[str] = ()) -> Modality:
        """Of the first of these channels that it has, or of its first image; a plain file does not say."""
        if self.case is None:
            return "unknown"
        images = self.case.images
        return next((images[name] for name in channels if name in images), next(iter(images.values()))).modality

    @property
    def paths(self) -> dict[str, list[Path]]:
        """The files of each image, by channel."""
        if self.case is not None and self.manifest is not None:
            return {name: self.manifest.paths(ref) for name, ref in self.case.images.items()}
        return {name: [path] for name, path in self.files.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each image's contents, by channel. Raises DataError for a file that cannot be read."""
        if self.case is not None:
            return {name: ref.sha256 for name, ref in self.case.images.items()}
        found = sha256_of_files(self.files.values())
        for path, contents in found.items():
            if not isinstance(contents, str):
                text = f"The file cannot be read: {contents.strerror or contents}."
                raise DataError(text, where=path.name, remedy="Check the file and who may read it.")
        return {name: str(found[path]) for name, path in self.files.items()}

    def images(self) -> list[tuple[np.ndarray, NativeGrid]]:
        """Every image of the scan: float32 ``[1, I, J, K]`` on nearest-RAS axes, and the grid of its file."""
        if self.case is not None and self.manifest is not None:
            return [read_array(self.manifest, ref) for ref in self.case.images.values()]
        return [read.read_array([path], "intensity") for path in self.files.values()]


def _named_for(case: Case, space: SpacePlan) -> Case:
    """The case; where it and the plan have one channel, and either does not say which, its image goes by the plan's name."""
    if len(case.images) == len(space.channels) == 1 and PLAIN in (*case.images, *space.channels):
        (image,) = case.images.values()
        return case.model_copy(update={"images": {space.channels[0]: image}})
    return case


@dataclass(frozen=True)
class Inputs:
    """What was given. refused: why the data set's own checks left scans out, by case. single: whether it is one image, whose
    result has the name that is asked for."""

    scans: list[Scan]
    refused: dict[str, str]
    is_data_set: bool
    single: bool


def find_inputs(
    source: Path,
    output: Path,
    screen: Screen,
    format: str = "auto",
    keys: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
) -> Inputs:
    """List the scans. output: where results go, which is no folder of scans. format, keys: of a data set's layout. channels:
    that files which end in the numbers of nnU-Net (``NAME_0000``) are taken for, so that those of a NAME are one scan.

    Raises DataError if there is none, and if results would lie among the scans.
    """
    layout = _layout(source)
    is_data_set = format != "auto" or bool(keys) or layout not in (None, "folder")
    _refuse_overwriting(source.resolve(), output.resolve())
    if not source.exists():
        raise DataError("The input does not exist.", where=source, remedy="Check the path.")
    if is_data_set:
        manifest = open_folder(source, format, keys or {})
        if any(path.resolve().parent == output.resolve() for case in manifest.cases for path in _files(manifest, case)):
            raise _among_the_scans(output)
        for (problem, remedy), count in Counter((each.problem, each.remedy) for each in manifest.findings).items():
            screen.warn(f"{problem} ({count} x; medae check names them). {remedy}")
        scans = [Scan(case.id, case=case, manifest=manifest) for case in manifest.cases]
        return Inputs(scans, _refused(manifest), is_data_set, single=False)
    files = image_files(source) if source.is_dir() else [source]
    if not files:
        found = f", but its subfolders are the layout '{layout}'" if layout else ""
        raise DataError(f"There is no image in the folder itself{found}.", where=source, remedy=f"Give {OR_LAYOUT}")
    if source.is_dir() and layout == "folder":
        _refuse_label_maps(source, len(files))
    single = source.is_file() and output.name.endswith(NIFTI)
    if source.is_dir() and _are_channels(files, channels):
        return Inputs(_numbered(files, channels), {}, is_data_set, single)
    return Inputs([Scan(stem(file), files={PLAIN: file}) for file in files], {}, is_data_set, single)


def _are_channels(files: Sequence[Path], channels: Sequence[str]) -> bool:
    """Whether files end in numbers that are channels. Those for a model of one channel may just be numbered scans: then not
    every NAME has a 0000."""
    matches = [CHANNEL_NUMBER.fullmatch(stem(file)) for file in files]
    named = [match for match in matches if match is not None]
    if not channels or len(named) < len(files):
        return False
    return len(channels) > 1 or {match[1] for match in named} == {match[1] for match in named if int(match[2]) == 0}


def _numbered(files: Sequence[Path], channels: Sequence[str]) -> list[Scan]:
    """The scans of a folder of ``NAME_0000``, ``NAME_0001`` and so on. Raises DataError for a number beyond the channels."""
    found: dict[str, dict[str, Path]] = {}
    for file in files:
        match = CHANNEL_NUMBER.fullmatch(stem(file))
        assert match is not None  # which the caller has seen
        name, number = match[1], int(match[2])
        if number >= len(channels):
            raise DataError(
                f"The file is channel {number} of a scan, and the model takes {len(channels)}: {', '.join(channels)}.",
                where=file.name,
                remedy="Leave out the channels that the model does not take, and number the others from 0000 in its order; "
                "scans of their own are named in another way than NAME_0000, NAME_0001.",
            )
        found.setdefault(name, {})[channels[number]] = file
    return [Scan(name, files=by_channel) for name, by_channel in found.items()]


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
        return _work_through(inputs, output, summary, screen, title, work, result, force, readers)


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


def _work_through(
    inputs: Inputs,
    output: Path,
    summary: Path,
    screen: Screen,
    title: str,
    work: Work[Any, Any],
    result: Mapping[str, Any],
    force: bool,
    readers: int,
) -> dict[str, Any]:
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
        why: dict[str, list[str]] = {}
        for name, reason in failed.items():  # many fail for one reason, in which only their own names differ
            why.setdefault(reason.replace(f"where:  {name}\n", ""), []).append(name)
        rows = "\n".join(f"    {', '.join(names)}:\n{indent(reason, 6 * ' ')}" for reason, names in why.items())
        remedy = "The others are done; mend these." if len(failed) < total else "No scan was predicted: mend these."
        raise DataError(f"{len(failed)} of {total} scans failed:\n{rows}", remedy=remedy)
    return whole


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


def _refused(manifest: Manifest) -> dict[str, str]:
    """What is wrong with the scans that the data set's layout has left out, by case."""
    kept = {case.id for case in manifest.cases}
    reasons: dict[str, list[str]] = {}
    for finding in manifest.findings:
        if finding.level == "error" and finding.case and finding.case not in kept:
            reasons.setdefault(finding.case, []).append(finding.problem)
    return {case: "; ".join(dict.fromkeys(problems)) for case, problems in reasons.items()}


def _files(manifest: Manifest, case: Case) -> Iterator[Path]:
    for ref in case.images.values():
        yield from manifest.paths(ref)


def _refuse_overwriting(source: Path, output: Path) -> None:
    """Results never go where the scans are: a label map could take the place of its scan."""
    scans = source if source.is_dir() else source.parent
    if output.parent == source / "derivatives":  # of BIDS
        return
    if output == source or (output.is_dir() and output == scans) or (source.is_dir() and output.is_relative_to(source)):
        raise _among_the_scans(output)


def _among_the_scans(output: Path) -> DataError:
    return DataError(
        "The output would be written among the scans.", where=output.name, remedy="Choose a folder apart from the input."
    )


def _layout(source: Path) -> str | None:
    """The layout of a data set that is recognised, as ``medae check`` does; ``folder`` where there is no more to it than
    images and label maps. None if there is none."""
    try:
        return detect_format(source.expanduser().absolute())
    except DataError:
        return None


def _refuse_label_maps(folder: Path, files: int) -> None:
    """Raises DataError for a plain folder in which some of the files are called like label maps of the others: ``A_seg``
    beside ``A`` or ``A_T1w``. What is ``masked`` is a scan."""
    _, labels = guess_patterns(folder, "label") or ({}, {})
    called = [path for pattern in labels.values() for _, path in matches(folder, pattern) if path.parent == folder]
    scans = {stem(path) for path in image_files(folder)} - {stem(path) for path in called}
    maps = []
    for path in called:
        before, _, suffix = stem(path).rpartition("_")
        if "masked" not in suffix.lower() and any(scan == before or scan.startswith(f"{before}_") for scan in scans):
            maps.append(path)
    if maps:
        raise DataError(
            f"{len(maps)} of the {files} images are label maps of the others by their names, such as {maps[0].name}.",
            where=folder,
            remedy=f"Give {OR_LAYOUT}",
        )
