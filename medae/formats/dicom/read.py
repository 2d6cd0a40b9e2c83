"""Read a DICOM series as one volume, verified against its headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medae.errors import DataError
from medae.formats.dicom.convert import Unconverted, by_dcm2niix, by_simpleitk
from medae.formats.dicom.headers import read_header
from medae.formats.dicom.judge import Rules, judge
from medae.formats.dicom.stack import Stack
from medae.formats.dicom.upright import upright
from medae.formats.raw import RawImage, rows_of
from medae.volume import NativeGrid

GRID = {"no-geometry", "single-slice", "mixed-sizes", "mixed-orientations", "missing-slices", "uneven-slices", "tilted"}
"""Codes of problems that are the grid's."""


def read_series(paths: Sequence[Path], *, resample_slices: bool = False) -> RawImage:
    """Read the files of one volume, in any order, by dcm2niix or else SimpleITK.

    The array is float32 ``[columns, rows, slices]``, slices along row direction x column direction; values are stored
    value x slope + intercept. The geometry is that of the headers: a conversion that does not have it, within 0.01 mm at
    every corner, or whose values differ, is discarded. Tilted stacks come on an upright grid, with a larger field of view;
    uneven ones and those with gaps are refused, or resampled to even slices with ``resample_slices``.
    Raises DataError and GeometryError, whose text names no file and no patient; ``where`` is the first path.
    """
    where = paths[0]
    verdict = judge([read_header(path) for path in paths], Rules(resample_slices=resample_slices))
    if verdict.problem is not None:
        kind = verdict.problem.geometry_error if verdict.problem.code in GRID else verdict.problem.error
        raise kind(where)
    stack = verdict.volumes[0]
    array, affine = _voxels(stack, where), stack.affine
    if not stack.is_regular:
        array, affine = upright(array, stack)
    i, j, k = array.shape
    return RawImage(array, NativeGrid(shape=(i, j, k), affine=rows_of(affine, where)))


def _voxels(stack: Stack, where: Path) -> np.ndarray:
    ways: list[tuple[str, Callable[[Stack], np.ndarray]]] = [("SimpleITK", by_simpleitk)]
    if stack.is_regular:
        ways.insert(0, ("dcm2niix", by_dcm2niix))  # it has ways of its own with tilt and gaps, which are not the headers'
    reasons = []
    for name, way in ways:
        try:
            return way(stack)
        except Unconverted as error:
            reasons.append(f"{name}: {error}")
    raise DataError(
        f"The series cannot be converted. {'; '.join(reasons)}.",
        where=where,
        remedy="Copy the series again, or export it uncompressed.",
    )
