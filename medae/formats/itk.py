"""NRRD, MetaImage, PNG, TIFF and whatever else SimpleITK reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medae.formats.raw import RawImage, no_component, not_three_dimensional, rows_of, unreadable
from medae.volume import NativeGrid


def read_itk(path: Path, component: int | None = None) -> RawImage:
    """Read a file by SimpleITK; its LPS world becomes RAS. A 2D image is one slice of 1 mm.

    component: of a file with several values a voxel, the one to take.
    Raises DataError for a file that cannot be read or is not one volume of one channel, GeometryError for an unusable
    affine.
    """
    try:
        file = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise unreadable(path, error) from error
    if component is not None:
        if not component < file.GetNumberOfComponentsPerPixel() > 1:
            raise no_component(path, component, (*file.GetSize(), file.GetNumberOfComponentsPerPixel()))
        file = sitk.VectorIndexSelectionCast(file, component)
    if file.GetNumberOfComponentsPerPixel() != 1 or file.GetDimension() not in (2, 3):
        raise not_three_dimensional(path, (*file.GetSize(), file.GetNumberOfComponentsPerPixel()))
    if file.GetDimension() == 2:
        file = sitk.JoinSeries(file)
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(file.GetDirection(), (3, 3)) * np.asarray(file.GetSpacing())
    lps[:3, 3] = file.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    array = sitk.GetArrayFromImage(file).transpose(2, 1, 0)
    return RawImage(array, NativeGrid(shape=file.GetSize(), affine=rows_of(affine, path)))
