"""Results as NIfTI files that overlay the scan they were made from."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from medae.errors import DataError, GeometryError
from medae.export.beside import written_beside
from medae.volume import MM_PER_UNIT, NativeGrid


def write_native(array: np.ndarray, native: NativeGrid, path: Path, labels: bool) -> None:
    """Write label maps or float maps in the geometry of the scan's own file.

    array: ``[*shape]`` or ``[K, *shape]`` in the file's own array order; one map gives a file with the scan's axes (two of a
    file with two), several become its fourth axis.
    native: the scan's grid; its affine, qform and sform with their codes and its spatial unit are taken over.
    path: ``.nii`` or ``.nii.gz``; written beside and renamed. labels: stored as uint8, or uint16 if a label is above
    255; otherwise float32. No other header field of the scan is copied (they may name a patient).
    Raises GeometryError if the shape is not the file's, DataError for values that do not fit or a file that cannot be
    written.
    """
    if array.ndim not in (3, 4) or array.shape[-3:] != native.shape:
        raise GeometryError(f"An array of shape {array.shape} does not fit the scan's {native.shape}.", where=path.name)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError("Results are written as NIfTI.", where=path.name, remedy="Let the name end in .nii.gz or .nii.")
    values = as_labels(array, path) if labels else array.astype(np.float32)
    if values.ndim == 4:
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    image = nib.Nifti1Image(values[:, :, 0] if native.flat and values.ndim == 3 else values, None)
    _copy_geometry(image.header, native)
    with written_beside(path) as new:
        nib.save(image, new)


def as_labels(array: np.ndarray, path: Path) -> np.ndarray:
    """The label map as uint8, or uint16 if a label is above 255. Raises DataError, naming the path, for other values."""
    largest, smallest = array.max(), array.min()
    stored = array.astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
    if smallest < 0 or not np.array_equal(stored, array):
        raise DataError(
            "The label map holds values that are not whole numbers from 0 to 65535.",
            where=path.name,
            remedy="Write it as a float map.",
        )
    return stored


def _copy_geometry(header: nib.Nifti1Header, native: NativeGrid) -> None:
    affine = native.matrix()
    affine[:3] /= MM_PER_UNIT[native.spatial_units]
    header.set_xyzt_units(xyz=native.spatial_units)
    header.set_sform(affine, code=native.sform_code)
    if native.qform is None:
        header.set_qform(affine, code=native.qform_code)
        return
    header["pixdim"][:4] = native.qform[:4]
    header["qform_code"] = native.qform_code
    names = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    for name, value in zip(names, native.qform[4:], strict=True):
        header[name] = value
