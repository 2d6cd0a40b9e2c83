"""Look at every file of a data set before hours of computing depend on it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, cast

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medae.data.case import Case, ImageRef, Manifest
from medae.data.finding import Finding, Level
from medae.formats.endings import stem

UNREADABLE = (OSError, EOFError, ValueError, MemoryError, zlib.error, ImageFileError, HeaderDataError)
THREADS = 4  # each holds one decompressed scan
GRID_TOLERANCE = 0.05  # of the smallest voxel size: more than the rounding of a quaternion, less than is seen


class Grid(NamedTuple):
    """Shape and affine (file voxel -> mm) of an image."""

    shape: tuple[int, ...]
    affine: np.ndarray


def check_manifest(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Read every image and label map once, in threads, and say what is wrong, in the order of the cases.

    Errors make a case unusable: unreadable, not 3D, no size or position, units other than mm, not-a-number or
    infinite values, labels that are not whole numbers, label map and image on different grids. Warnings do not:
    constant image, labels that are not declared, units not stated, subjects that may be one person.
    progress: called with the number of cases done and of all cases.
    """
    findings: dict[str, list[Finding]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        jobs = {pool.submit(lambda case: list(_case_findings(manifest, case)), case): case.id for case in manifest.cases}
        for done, job in enumerate(as_completed(jobs), start=1):
            findings[jobs[job]] = job.result()
            if progress is not None:
                progress(done, len(jobs))
    return [*_shared_names(manifest), *(finding for case in manifest.cases for finding in findings[case.id])]


def _case_findings(manifest: Manifest, case: Case) -> Iterator[Finding]:
    grids: dict[str, Grid] = {}
    targets = {name: target for name, target in case.targets.items() if isinstance(target, ImageRef)}
    for refs, labels in ((case.images, None), (targets, manifest.labels)):
        for name, ref in refs.items():
            for path in manifest.paths(ref):
                file = path.relative_to(manifest.root).as_posix()
                try:
                    image, voxels = _read(path)
                except UNREADABLE as error:
                    reason = re.sub(re.escape(str(path)), file, str(error))
                    yield Finding(
                        case.id, file, "error", "unreadable", f"cannot be read: {reason}", "Restore or convert the file."
                    )
                    continue
                header = _header_findings(image, warn_units=labels is None)
                values = _label_findings(voxels, labels.get(name)) if labels is not None else _intensity_findings(voxels)
                for level, problem, remedy in [*header, *values]:
                    yield Finding(case.id, file, level, "image", problem, remedy)
                if voxels.ndim == 3:
                    grids[file] = Grid(voxels.shape, image.affine)
    yield from _grid_findings(case.id, grids)


def _read(path: Path) -> tuple[nib.Nifti1Image, np.ndarray]:
    image = cast(nib.Nifti1Image, nib.load(path))  # sources list NIfTI endings only
    voxels = np.asanyarray(image.dataobj)
    if voxels.size == 0:
        raise ValueError("it holds no voxels")
    if voxels.dtype.kind not in "biuf":
        raise ValueError(f"its voxels are not plain numbers but {voxels.dtype}")
    return image, voxels


Row = tuple[Level, str, str]


def _header_findings(image: nib.Nifti1Image, warn_units: bool) -> Iterator[Row]:
    if len(image.shape) != 3:
        yield "error", f"has {len(image.shape)} dimensions {image.shape}, not 3", "Store one volume (one channel) a file."
    linear = image.affine[:3, :3]
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(linear)) < 1e-9:
        yield "error", "states no usable voxel size and position (singular affine)", "Convert it from its source again."
    units = image.header.get_xyzt_units()[0]
    if units in ("meter", "micron"):
        yield "error", f"states its lengths in {units}s", "Convert the header to mm."
    elif units == "unknown" and warn_units:
        yield "warning", "states no unit of length; mm is assumed", "Make sure that its voxel size is in mm."


def _intensity_findings(voxels: np.ndarray) -> Iterator[Row]:
    n_bad = int(voxels.size - np.isfinite(voxels).sum())
    if n_bad:
        yield "error", f"has {n_bad} voxels that are not a number or infinite", "Replace them, or leave the case out."
    elif voxels.min() == voxels.max():
        yield "warning", f"has the value {voxels.flat[0]:g} everywhere", "Leave the case out."


def _label_findings(voxels: np.ndarray, declared: dict[int, str] | None) -> Iterator[Row]:
    values = np.unique(voxels)
    if not (np.isfinite(values).all() and (values == np.round(values)).all() and values[0] >= 0):
        odd = [value for value in values if not (np.isfinite(value) and value >= 0 and value == round(value))]
        yield "error", f"has labels that are not whole numbers from 0 on, such as {odd[0]:g}", "Store labels 0, 1, 2, ..."
    elif declared is not None:
        unknown = [int(value) for value in values if value != 0 and int(value) not in declared]
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            yield "warning", f"has labels that are not declared: {shown}", "Declare them, or correct the label map."


def _grid_findings(case_id: str, grids: dict[str, Grid]) -> Iterator[Finding]:
    """Every file of a case against its first image."""
    (reference_file, reference), *others = grids.items() or [("", Grid((), np.eye(4)))]
    for file, grid in others:
        problem = _difference(reference, grid)
        if problem:
            text = f"is not on the grid of {reference_file}: {problem}"
            yield Finding(case_id, file, "error", "grid", text, "Resample it to that image, or find the right file.")


def _difference(first: Grid, second: Grid) -> str | None:
    if first.shape != second.shape:
        return f"shape {second.shape}, not {first.shape}"
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(first.shape) - 1
    apart = np.linalg.norm(corners @ (first.affine - second.affine).T, axis=1).max()
    tolerance = GRID_TOLERANCE * voxel_sizes(first.affine).min()
    return f"its corners lie up to {apart:.3g} mm apart" if not apart <= tolerance else None


def _shared_names(manifest: Manifest) -> list[Finding]:
    """A warning if file names come in small groups that differ in their last part only, each counted as a subject.

    Names that all begin alike (``scan_001``) say nothing; groups (``0001_left``, ``0001_right``) hint at one person.
    """
    if manifest.source not in ("folder", "msd", "nnunet"):
        return []  # the others state their subjects
    groups: dict[str, set[str]] = {}
    for case in manifest.cases:
        name = stem(Path(next(iter(case.images.values())).files[0]))
        if manifest.source == "nnunet":
            name = name.rpartition("_")[0]
        groups.setdefault(name.rpartition("_")[0], set()).add(case.subject)
    shared = sorted(name for name, subjects in groups.items() if name and 2 <= len(subjects) <= 10)
    if len(shared) < 3:
        return []
    return [
        Finding(
            "",
            "",
            "warning",
            "subjects",
            f"{len(shared)} groups of files have names that differ in the last part only, but each counts as a subject: "
            f"scans of one person could be in training and in test",
            "State 'subject', a pattern that finds the subject in a file's name.",
        )
    ]
