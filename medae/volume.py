"""Volumes: the array, its geometry, and the way back to the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor  # takes seconds to import, and most of this file does without

MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""NIfTI's spatial units in mm; a file that names none is taken to be in mm."""

RAS = np.array([[0, 1], [1, 1], [2, 1]])
"""The orientation of nearest-RAS axes, as nibabel writes it: output axis and direction of each array axis."""

Rows = tuple[tuple[float, float, float, float], ...]


class NativeGrid(BaseModel):
    """The grid of the file that a volume was read from: all that is needed to write a result that overlays it.

    shape: voxels along the file's three array axes. affine: 4x4 rows, file voxel -> world mm (RAS+).
    qform_code, sform_code, spatial_units: as in the file's NIfTI header (mm if the file has none).
    qform: the header's pixdim[0:4], quatern b, c, d and offset x, y, z in the file's units, since a file's qform may
    differ from its sform; None where the file is not NIfTI.
    flat: whether the file has two array axes, and the third of ``shape``, of one voxel, is none of its own.
    crop: start and stop along I, J, K of the nearest-RAS array that the stored array was cropped to; None if not cropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    affine: Rows
    qform_code: int = 1
    sform_code: int = 1
    spatial_units: Literal["unknown", "mm", "meter", "micron"] = "mm"
    qform: tuple[float, ...] | None = None
    flat: bool = False
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None

    def matrix(self) -> np.ndarray:
        """The affine as a float64 4x4 array."""
        return np.asarray(self.affine, dtype=np.float64)

    @property
    def voxel_ml(self) -> float:
        """Millilitres of a voxel of the file."""
        return float(abs(np.linalg.det(self.matrix()[:3, :3]))) / 1000.0

    def ras(self) -> tuple[tuple[int, int, int], np.ndarray]:
        """Shape and affine (4x4, mm) of the nearest-RAS array of the whole file, before any crop."""
        orientation = io_orientation(self.matrix())
        axes = np.argsort(orientation[:, 0])
        shape = tuple(self.shape[axis] for axis in axes)
        return (shape[0], shape[1], shape[2]), self.matrix() @ inv_ornt_aff(orientation, self.shape)

    def cropped(self) -> tuple[tuple[int, int, int], np.ndarray]:
        """Shape and affine (4x4, mm) of the nearest-RAS array after the crop."""
        shape, affine = self.ras()
        if self.crop is None:
            return shape, affine
        start = np.array([limits[0] for limits in self.crop])
        i, j, k = (stop - start for start, stop in self.crop)
        return (i, j, k), affine @ nib.affines.from_matvec(np.eye(3), start)


@dataclass(frozen=True)
class Volume:
    """An image in nearest-RAS axes: permuted and flipped only, so that obliquity is kept in the affine.

    image: MetaTensor ``[C, I, J, K]``, float32 intensities or int16 labels, affine in mm.
    """

    image: MetaTensor
    native: NativeGrid


def in_ml(volume: float) -> str:
    """A volume (ml) in words: three significant digits, whole from 1000 ml on, with an exponent only from 100,000 ml on."""
    if volume >= 1e5:
        return f"{volume:.3g} ml"
    if volume >= 999.5:
        return f"{volume:,.0f} ml"
    return f"{np.format_float_positional(volume, precision=3, unique=False, fractional=False, trim='-')} ml"


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along the array axes of a 4x4 affine."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def to_ras(array_CXYZ: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An array on a file's axes, permuted and flipped to the nearest-RAS axes ``[C, I, J, K]``; values untouched.

    affine: 4x4 of the file's axes. The affine of the result is ``NativeGrid.ras``.
    """
    return np.stack([apply_orientation(channel, io_orientation(affine)) for channel in array_CXYZ])


def from_ras(array_CIJK: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The inverse of `to_ras`: back to the axes of the file whose 4x4 affine is given."""
    back = ornt_transform(RAS, io_orientation(affine))
    return np.stack([apply_orientation(channel, back) for channel in array_CIJK])
