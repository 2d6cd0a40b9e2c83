"""The scans that a command is given: one image, a folder of images, or a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medae.data.case import Case, Manifest, Modality
from medae.data.reading import read_array
from medae.data.sources import detect_format
from medae.errors import DataError, MedaeError
from medae.formats import read
from medae.formats.endings import NIFTI, image_files, stem
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.prepare import Prepared, prepare_case, prepare_files
from medae.tracking.privacy import public
from medae.volume import NativeGrid
from pipelines.console import Screen, shown
from pipelines.data import open_folder
from pipelines.files import write_json


@dataclass(frozen=True)
class Scan:
    """One scan. name: of its results. case: of a data set, with its manifest; else file: the only image that it is."""

    name: str
    case: Case | None = None
    manifest: Manifest | None = None
    file: Path | None = None

    def prepare(self, space: SpacePlan, brain: BrainExtraction | None, mask: Path | None) -> Prepared:
        """The scan in a plan's space. brain: makes the brain mask where none is given. mask: of a plain file."""
        if self.case is not None and self.manifest is not None:
            return prepare_case(self.manifest, self.case, space, brain=brain)
        assert self.file is not None  # one of them is there
        return prepare_files({space.channels[0]: [self.file]}, space, self.name, mask, brain)

    @property
    def modality(self) -> Modality:
        """Of its first image; a plain file does not say."""
        return "unknown" if self.case is None else next(iter(self.case.images.values())).modality

    def images(self) -> list[tuple[np.ndarray, NativeGrid]]:
        """Every image of the scan: float32 ``[1, I, J, K]`` on nearest-RAS axes, and the grid of its file."""
        if self.case is not None and self.manifest is not None:
            return [read_array(self.manifest, ref) for ref in self.case.images.values()]
        assert self.file is not None  # one of them is there
        return [read.read_array([self.file], "intensity")]


@dataclass(frozen=True)
class Inputs:
    """What was given. refused: why the data set's own checks left scans out, by case. single: whether it is one image, whose
    result has the name that is asked for."""

    scans: list[Scan]
    refused: dict[str, str]
    is_data_set: bool
    single: bool


def find_inputs(
    source: Path, output: Path, screen: Screen, format: str = "auto", keys: Mapping[str, Any] | None = None
) -> Inputs:
    """List the scans. output: where results go, which is no folder of scans. format, keys: of a data set's layout.

    Raises DataError if there is none, and if results would lie among the scans.
    """
    is_data_set = format != "auto" or bool(keys) or _is_data_set(source)
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
        raise DataError("There is no image in the folder.", where=source, remedy="Give a folder of NIfTI files.")
    single = source.is_file() and output.name.endswith(NIFTI)
    return Inputs([Scan(stem(file), file=file) for file in files], {}, is_data_set, single)


def work_through(
    inputs: Inputs,
    output: Path,
    screen: Screen,
    title: str,
    work: Callable[[Scan, Path], Mapping[str, Any]],
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Do every scan. One that fails is listed at the end, and the others are done.

    work: from a scan and the path of its result, to what the summary says of it. result: what else the summary says; it is
    returned, written beside what was made, and printed for programs. Raises DataError at the end if a scan failed.
    """
    if not inputs.single:
        output.mkdir(parents=True, exist_ok=True)
    cases: dict[str, Any] = {}
    failed = dict(inputs.refused)
    total = len(inputs.scans) + len(failed)
    with screen.progress(title) as report:
        for done, scan in enumerate(inputs.scans, start=len(failed) + 1):
            try:
                cases[scan.name] = work(scan, output if inputs.single else output / f"{scan.name}.nii.gz")
            except MedaeError as error:
                failed[scan.name] = str(public(str(error)))
            report(done, total)
    whole = {**result, "cases": cases, "failed": failed}
    # beside a single file may lie others' results
    write_json(output.with_name(f"{stem(output)}_result.json") if inputs.single else output / "result.json", whole)
    screen.say(f"{len(cases)} of {total} scans done, in {shown(output.parent if inputs.single else output)}")
    screen.json(whole)
    if failed:
        rows = "\n".join(f"    {name}: {reason}" for name, reason in failed.items())
        raise DataError(f"{len(failed)} of {total} scans failed:\n{rows}", remedy="The others are done; mend these.")
    return whole


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
    if output == source or (output.is_dir() and output == scans) or (source.is_dir() and output.is_relative_to(source)):
        raise _among_the_scans(output)


def _among_the_scans(output: Path) -> DataError:
    return DataError(
        "The output would be written among the scans.", where=output.name, remedy="Choose a folder apart from the input."
    )


def _is_data_set(source: Path) -> bool:
    """Whether it is a table of cases, or a folder of a layout with more to it than images."""
    try:
        return detect_format(source.expanduser().absolute()) != "folder"
    except DataError:
        return False
