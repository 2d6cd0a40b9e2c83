"""NIfTI files, read by nibabel."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medae.formats.raw import RawImage, no_component, rows_of, three_dimensional, unreadable
from medae.volume import MM_PER_UNIT, NativeGrid

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""What nibabel raises for a file that is damaged or of another kind."""

Unit = Literal["unknown", "mm", "meter", "micron"]

UNITS: dict[int, Unit] = {1: "meter", 2: "mm", 3: "micron"}
"""Units of length by NIfTI's code."""


def unit_of(header: Any) -> Unit:
    """The unit of length that a header states; ``unknown`` where its code is none of NIfTI's."""
    return UNITS.get(int(header["xyzt_units"]) % 8, "unknown")  # the other bits are the unit of time


def volume_of(file: Any, component: int, path: Path) -> np.ndarray:
    """One volume of a four-dimensional file, the others unread where the file allows it. Raises DataError."""
    if len(file.shape) != 4 or not component < file.shape[3]:
        raise no_component(path, component, file.shape)
    return np.asanyarray(file.dataobj[..., component])


def read_nifti(path: Path, component: int | None = None) -> RawImage:
    """Read a ``.nii`` or ``.nii.gz`` file; its lengths become mm. Raises DataError and GeometryError.

    component: of a file with a fourth axis, the one volume to take.
    """
    try:
        file: Any = nib.load(path)
        array = np.asanyarray(file.dataobj if component is None else volume_of(file, component, path))
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    header = file.header
    units = unit_of(header)
    affine = file.affine.astype(np.float64)
    affine[:3] *= MM_PER_UNIT[units]
    quaternion = [header[name].item() for name in ("quatern_b", "quatern_c", "quatern_d")]
    offset = [header[name].item() for name in ("qoffset_x", "qoffset_y", "qoffset_z")]
    array = three_dimensional(array, path)
    native = NativeGrid(
        shape=array.shape,
        affine=rows_of(affine, path),
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        spatial_units=units,
        flat=len(file.shape) == 2,
        qform=(*(float(value) for value in header["pixdim"][:4]), *quaternion, *offset),
    )
    return RawImage(array, native)
