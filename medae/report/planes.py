"""Slices of a volume as a radiologist expects them.

Radiological convention: the patient's right is on the picture's left, anterior and superior are up; in a sagittal
picture anterior is on the left. Every slice knows its marks, so that a picture never leaves the side to be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation

from medae.errors import GeometryError
from medae.volume import spacing_of, to_ras

AXIS_NAMES = ("sagittal", "coronal", "axial")
CONVENTION = "Radiological convention: the patient's right (R) is on the picture's left."


@dataclass(frozen=True)
class Cut:
    """A slice through nearest-RAS arrays: across ``axis`` at ``index``; spacing in mm along I, J, K."""

    axis: int
    index: int
    spacing: tuple[float, float, float]

    @property
    def name(self) -> str:
        """Such as ``axial``."""
        return AXIS_NAMES[self.axis]

    @property
    def in_plane(self) -> tuple[int, int]:
        """The array axes that run along the picture's columns and rows."""
        across, up = (axis for axis in range(3) if axis != self.axis)
        return across, up

    @property
    def marks(self) -> tuple[str, str, str, str]:
        """The body's side at the picture's left, right, top and bottom."""
        across, up = self.in_plane
        return "RAS"[across], "LPI"[across], "RAS"[up], "LPI"[up]

    def of(self, array_IJK: np.ndarray) -> np.ndarray:
        """The slice, rows from the top, columns from the left."""
        return np.flip(np.take(array_IJK, self.index, axis=self.axis), axis=(0, 1)).T

    def size_mm(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Width and height in mm of the slice of an array of this shape."""
        across, up = self.in_plane
        return shape[across] * self.spacing[across], shape[up] * self.spacing[up]


class Scene:
    """Turns the arrays of one scan, all on its file's grid, to nearest-RAS, and crops them alike."""

    def __init__(self, affine: np.ndarray, around: np.ndarray | None = None, margin_mm: float = 6.0) -> None:
        """affine: 4x4 of the file. around: shows this region's bounding box and a margin (the brain), else all."""
        self._affine = np.asarray(affine, dtype=np.float64)
        spacing = spacing_of(self._affine)
        i, j, k = (spacing[int(axis)] for axis in np.argsort(io_orientation(self._affine)[:, 0]))
        self.spacing = (i, j, k)
        self._box: tuple[slice, ...] = (slice(None),) * 3
        if around is not None and np.any(around):
            self._box = self._bounding_box(self.ras(around), margin_mm)

    def ras(self, array: np.ndarray) -> np.ndarray:
        """A three-axis array of the file's grid as a cropped ``[I, J, K]``. Raises GeometryError for other arrays."""
        if array.ndim != 3:
            raise GeometryError(f"A picture needs a volume, and got {array.ndim} axes.", remedy="Choose one channel.")
        return to_ras(array[None], self._affine)[0][self._box]

    def cut(self, axis: int, index: int) -> Cut:
        """The slice across a nearest-RAS axis, counted after the crop."""
        return Cut(axis, index, self.spacing)

    def orthogonal(self, interest_IJK: np.ndarray) -> list[Cut]:
        """Axial, coronal and sagittal, each where the region of interest is largest; the centre if it is empty."""
        return [self.cut(axis, largest_slice(interest_IJK, axis)) for axis in (2, 1, 0)]

    def through(self, interest_IJK: np.ndarray, axis: int, count: int = 3) -> list[Cut]:
        """Up to ``count`` slices across one axis, spread evenly over the region of interest, in rising order.

        For scans whose slices are far apart or of unknown spacing, where other planes would be distorted.
        """
        extent = _extent(interest_IJK, axis)
        places = [extent[0] + (extent[1] - extent[0]) * (place + 0.5) / count for place in range(count)]
        return [self.cut(axis, index) for index in sorted({int(place) for place in places})]

    def _bounding_box(self, mask_IJK: np.ndarray, margin_mm: float) -> tuple[slice, ...]:
        box = []
        for axis in range(3):
            start, stop = _extent(mask_IJK, axis)
            margin = round(margin_mm / self.spacing[axis])
            box.append(slice(max(0, start - margin), stop + margin))
        return tuple(box)


def largest_slice(mask_IJK: np.ndarray, axis: int) -> int:
    """The slice across ``axis`` with most of the mask; the middle one if the mask is empty."""
    counts = np.count_nonzero(mask_IJK, axis=tuple(other for other in range(3) if other != axis))
    return int(np.argmax(counts)) if counts.any() else mask_IJK.shape[axis] // 2


def _extent(mask_IJK: np.ndarray, axis: int) -> tuple[int, int]:
    """First and one past the last slice with any of the mask; the whole axis if it is empty."""
    occupied = np.flatnonzero(np.any(mask_IJK, axis=tuple(other for other in range(3) if other != axis)))
    return (int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else (0, mask_IJK.shape[axis])
