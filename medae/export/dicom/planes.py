"""Where the planes of a result lie: those of the series' slices, or of the upright, even grid that medae made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from highdicom import (
    CoordinateSystemNames,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)

from medae.errors import GeometryError
from medae.formats.dicom.stack import LPS_TO_RAS, TOLERANCE, Stack, corners_of, normal_of
from medae.formats.dicom.upright import upright
from medae.volume import NativeGrid

PATIENT = CoordinateSystemNames.PATIENT


@dataclass(frozen=True)
class Planes:
    """The planes of a result, along row direction x column direction; LPS mm.

    positions: ``[slices, 3]``, centres of the first pixels. orientation: direction of a row, then of a column. spacing: mm
    between rows, then between columns. step: mm between slices along the normal. are_slices: they are the series' own.
    """

    positions: np.ndarray = field(repr=False)
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    step: float
    are_slices: bool

    def plane_positions(self) -> list[PlanePositionSequence]:
        """For highdicom, as decimal strings of 16 characters."""
        return [plane_position(position.tolist()) for position in self.positions]

    def plane_orientation(self) -> PlaneOrientationSequence:
        """For highdicom."""
        return PlaneOrientationSequence(PATIENT, self.orientation)

    def pixel_measures(self, thickness: float) -> PixelMeasuresSequence:
        """For highdicom. thickness: mm, of the slices."""
        return PixelMeasuresSequence(self.spacing, thickness, self.step)


def plane_position(position: Sequence[float]) -> PlanePositionSequence:
    """The place of a plane, LPS mm, for highdicom."""
    return PlanePositionSequence(PATIENT, position)


def planes_of(stack: Stack, native: NativeGrid, where: Path) -> Planes:
    """The planes of a result on the grid of a series. Raises GeometryError if ``native`` is not the one that medae reads."""
    shape, affine = _grid(stack)
    is_same = native.shape == shape
    if is_same:
        apart = np.linalg.norm(corners_of(shape, affine) - corners_of(shape, native.matrix()), axis=1).max()
        is_same = bool(apart <= TOLERANCE)
    first = stack.slices[0]
    if not is_same or first.orientation is None or first.spacing is None:
        raise GeometryError(
            "The result does not lie on the grid of the DICOM series.",
            where=where,
            remedy="Give the files that the scan was read from.",
        )
    positions = np.array([item.position for item in stack.slices], dtype=np.float64)
    lps = LPS_TO_RAS @ affine
    if not stack.is_regular:
        positions = lps[:3, 3] + np.arange(shape[2])[:, None] * lps[:3, 2]
    return Planes(positions, first.orientation, first.spacing, float(lps[:3, 2] @ normal_of(first)), stack.is_regular)


def _grid(stack: Stack) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the volume that medae reads from a stack."""
    if stack.is_regular:
        return stack.shape, stack.affine
    columns, rows, slices = stack.shape
    pixel, affine = upright(np.zeros((1, 1, slices), dtype=np.float32), stack)  # the affine does not depend on the size
    return (columns + pixel.shape[0] - 1, rows + pixel.shape[1] - 1, pixel.shape[2]), affine
