"""The grid of an image from its header alone: no voxel is read, and of a ``.nii.gz`` only the first block is unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medae.errors import DataError
from medae.formats.endings import NIFTI
from medae.formats.nifti import UNREADABLE, unit_of
from medae.formats.raw import not_three_dimensional, rows_of, unreadable
from medae.volume import MM_PER_UNIT, NativeGrid


def read_grid(paths: Sequence[Path], component: int | None = None) -> NativeGrid:
    """Shape and affine (mm, RAS+) of one 3D image: of one file, or of the files of a DICOM series.

    component: a file that holds several channels is allowed, of which one will be taken.
    Exact for single files. Of a series the slices are taken to be even, and it is placed at its first file: good enough
    for the size of what it becomes, not for its place.
    Raises DataError for a file that is missing, unreadable or not 3D, GeometryError for an unusable affine.
    """
    path = paths[0]
    if not path.is_file():
        raise DataError("The image file does not exist.", where=path, remedy="Check the path.")
    if path.name.lower().endswith(NIFTI):
        return _nifti(path, component)
    reader = sitk.ImageFileReader()
    origins = []
    for file in paths:
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise unreadable(file, error) from error
        origins.append(reader.GetOrigin())
    dimensions = reader.GetDimension()
    if dimensions not in (2, 3):
        raise not_three_dimensional(path, reader.GetSize())
    size = [*reader.GetSize(), 1][:3]
    spacing = [*reader.GetSpacing(), 1.0][:3]
    direction = np.eye(3)
    direction[:dimensions, :dimensions] = np.reshape(reader.GetDirection(), (dimensions, dimensions))
    if len(paths) > 1:
        along = np.array(origins) @ np.cross(direction[:, 0], direction[:, 1])
        size[2], spacing[2] = len(paths), float(np.ptp(along)) / (len(paths) - 1) or spacing[2]
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ direction * spacing
    affine[:3, 3] = np.array([-1.0, -1.0, 1.0]) * [*origins[0], 0.0][:3]
    return NativeGrid(shape=(size[0], size[1], size[2]), affine=rows_of(affine, path))


def _nifti(path: Path, component: int | None) -> NativeGrid:
    try:
        file: Any = nib.load(path)
        shape = file.shape
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    if component is not None and len(shape) == 4:
        shape = shape[:3]
    if len(shape) < 2 or 0 in shape or any(size != 1 for size in shape[3:]):
        raise not_three_dimensional(path, shape)
    affine = file.affine.astype(np.float64)
    affine[:3] *= MM_PER_UNIT[unit_of(file.header)]
    i, j, k = (*shape, 1)[:3]
    return NativeGrid(shape=(i, j, k), affine=rows_of(affine, path))
