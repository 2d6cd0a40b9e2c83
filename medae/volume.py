"""Volumes: the array, its geometry, and the way back to the file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from pydantic import BaseModel, ConfigDict

from medae.errors import DataError, GeometryError

MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""NIfTI's spatial units in mm; a file that names none is taken to be in mm."""

RAS = np.array([[0, 1], [1, 1], [2, 1]])
"""The orientation of nearest-RAS axes, as nibabel writes it: output axis and direction of each array axis."""

LARGEST_LABEL = int(np.iinfo(np.int16).max)

WHOLE = 1e-4
"""How far a stored label may be from a whole number: a header's scale factor rounds."""

Rows = tuple[tuple[float, float, float, float], ...]


class NativeGrid(BaseModel):
    """The grid of the file that a volume was read from: all that is needed to write a result that overlays it.

    shape: voxels along the file's three array axes. affine: 4x4 rows, file voxel -> world mm (RAS+).
    qform_code, sform_code, spatial_units: as in the file's NIfTI header (mm if the file has none).
    qform: the header's pixdim[0:4], quatern b, c, d and offset x, y, z in the file's units, since a file's qform may
    differ from its sform; None where the file is not NIfTI.
    crop: start and stop along I, J, K of the nearest-RAS array that the stored array was cropped to; None if not cropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    affine: Rows
    qform_code: int = 1
    sform_code: int = 1
    spatial_units: Literal["unknown", "mm", "meter", "micron"] = "mm"
    qform: tuple[float, ...] | None = None
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None

    def matrix(self) -> np.ndarray:
        """The affine as a float64 4x4 array."""
        return np.asarray(self.affine, dtype=np.float64)

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


def read_volume(paths: Sequence[Path], kind: Literal["intensity", "labels", "mask"]) -> Volume:
    """Read one 3D image and turn it to the nearest RAS axes.

    paths: one file; NIfTI (``.nii``, ``.nii.gz``) is read by nibabel, everything else by SimpleITK, whose LPS world
    becomes RAS. kind: ``intensity`` gives float32, ``labels`` int16, ``mask`` int16 with every non-zero value 1.
    Raises DataError for a file that cannot be read, is not 3D, or whose values do not fit the kind (not finite,
    label values that are negative, above 32767 or not whole numbers); GeometryError for an unusable affine.
    """
    if len(paths) != 1:
        raise DataError(
            f"An image is one file, and {len(paths)} were given.",
            where=paths[0] if paths else None,
            remedy="Convert a series to one NIfTI file, for example with dcm2niix.",
        )
    path = paths[0]
    if not path.is_file():
        raise DataError("The image file does not exist.", where=path, remedy="Check the path.")
    array, native = _read_nifti(path) if path.name.endswith((".nii", ".nii.gz")) else _read_itk(path)
    values = _intensities(array, path) if kind == "intensity" else _labels(array, path)
    if kind == "mask":
        values = (values != 0).astype(np.int16)
    oriented = np.ascontiguousarray(to_ras(values[None], native.matrix()))
    return Volume(MetaTensor(torch.from_numpy(oriented), affine=torch.from_numpy(native.ras()[1])), native)


def _read_nifti(path: Path) -> tuple[np.ndarray, NativeGrid]:
    try:
        file: Any = nib.load(path)
        array = np.asanyarray(file.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise _unreadable(path, error) from error
    header = file.header
    units = header.get_xyzt_units()[0]
    affine = file.affine.astype(np.float64)
    affine[:3] *= MM_PER_UNIT[units]
    quaternion = [header[name].item() for name in ("quatern_b", "quatern_c", "quatern_d")]
    offset = [header[name].item() for name in ("qoffset_x", "qoffset_y", "qoffset_z")]
    array = _three_dimensional(array, path)
    native = NativeGrid(
        shape=array.shape,
        affine=_rows(affine, path),
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        spatial_units=units,
        qform=(*(float(value) for value in header["pixdim"][:4]), *quaternion, *offset),
    )
    return array, native


def _read_itk(path: Path) -> tuple[np.ndarray, NativeGrid]:
    try:
        file = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if file.GetNumberOfComponentsPerPixel() != 1 or file.GetDimension() != 3:
        raise _not_three_dimensional(path, (*file.GetSize(), file.GetNumberOfComponentsPerPixel()))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(file.GetDirection(), (3, 3)) * np.asarray(file.GetSpacing())
    lps[:3, 3] = file.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return sitk.GetArrayFromImage(file).transpose(2, 1, 0), NativeGrid(shape=file.GetSize(), affine=_rows(affine, path))


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return DataError(f"The image cannot be read: {reason}", where=path, remedy="Copy or export the file again.")


def _not_three_dimensional(path: Path, shape: Sequence[int]) -> DataError:
    return DataError(
        f"The image is not one 3D volume: its size is {' x '.join(map(str, shape))}.",
        where=path,
        remedy="Give one file a channel, each with a single 3D volume.",
    )


def _three_dimensional(array: np.ndarray, path: Path) -> np.ndarray:
    """Three axes: trailing axes of one are dropped, a single slice gets its third axis."""
    if array.dtype.fields or array.ndim < 2 or 0 in array.shape or any(size != 1 for size in array.shape[3:]):
        raise _not_three_dimensional(path, array.shape)
    return array.reshape((*array.shape, 1)[:3])


def _rows(affine: np.ndarray, path: Path) -> Rows:
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise GeometryError(
            "The affine (voxel to world) of the image is singular or not finite.",
            where=path,
            remedy="Correct the header's sform or qform, or convert the image again from its source.",
        )
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)


def _intensities(array: np.ndarray, path: Path) -> np.ndarray:
    if np.iscomplexobj(array):
        raise DataError("The image holds complex numbers.", where=path, remedy="Give the magnitude image.")
    values = array.astype(np.float32)
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise DataError(
            f"{bad} of {values.size} voxels are not finite (NaN or infinite).",
            where=path,
            remedy="Replace them in the file, for example by the background value.",
        )
    return values


def _labels(array: np.ndarray, path: Path) -> np.ndarray:
    remedy = "A label map holds whole numbers from 0 to 32767; correct the file or declare it as an image."
    found = np.unique(array)
    if np.iscomplexobj(found) or not np.isfinite(found).all():
        raise DataError("The label map holds values that are not finite numbers.", where=path, remedy=remedy)
    fractions = found[np.abs(found - np.round(found)) > WHOLE]
    if fractions.size:
        raise DataError(f"The label map holds {fractions[0]:g}, not a whole number.", where=path, remedy=remedy)
    outside = found[(found < 0) | (found > LARGEST_LABEL)]
    if outside.size:
        raise DataError(f"The label map holds the value {outside[0]:g}.", where=path, remedy=remedy)
    return np.rint(array).astype(np.int16)
