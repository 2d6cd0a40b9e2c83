"""Read one image, whatever its format, as a Volume on nearest-RAS axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medae.errors import DataError, MedaeError
from medae.formats import LARGEST_LABEL
from medae.formats.dicom.read import read_series
from medae.formats.dicom.sniff import is_dicom
from medae.formats.endings import NIFTI, is_image
from medae.formats.itk import read_itk
from medae.formats.labels import as_labels, label_problem
from medae.formats.nifti import read_nifti
from medae.formats.raw import RawImage
from medae.volume import NativeGrid, Volume, to_ras

Kind = Literal["intensity", "labels", "mask"]
NAMES: dict[Kind, str] = {"intensity": "image", "labels": "label map", "mask": "mask"}


def read_volume(paths: Sequence[Path], kind: Kind, *, resample_slices: bool = False, component: int | None = None) -> Volume:
    """As `read_array`, as a Volume."""
    import torch
    from monai.data.meta_tensor import MetaTensor  # takes seconds to import, which whoever needs arrays only is spared

    array, native = read_array(paths, kind, resample_slices=resample_slices, component=component)
    return Volume(MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(native.ras()[1])), native)


def read_array(
    paths: Sequence[Path], kind: Kind, *, resample_slices: bool = False, component: int | None = None
) -> tuple[np.ndarray, NativeGrid]:
    """Read one 3D image and turn it to the nearest RAS axes: an array ``[1, I, J, K]`` and the grid of its file.

    paths: one file, or the files of a DICOM series in any order. NIfTI (``.nii``, ``.nii.gz``) is read by nibabel; DICOM,
    told by its contents, by dcm2niix or SimpleITK; everything else by SimpleITK, whose LPS world becomes RAS. kind:
    ``intensity`` gives float32, ``labels`` int16, ``mask`` int16 with every non-zero value 1.
    resample_slices: of a DICOM series, bring slices at uneven distances to even ones. component: of a file that holds
    several channels (the Decathlon's 4D NIfTI), the one to take.
    Raises DataError for a file that cannot be read, is not 3D, or whose values do not fit the kind (not finite,
    label values that are negative, above 32767 or not whole numbers); GeometryError for an unusable affine.
    """
    raw = read_raw(paths, kind, resample_slices=resample_slices, component=component)
    values = _intensities(raw.array, paths[0]) if kind == "intensity" else _labels(raw.array, kind == "mask", paths[0])
    return np.ascontiguousarray(to_ras(values[None], raw.native.matrix())), raw.native


def read_raw(
    paths: Sequence[Path], kind: Kind = "intensity", *, resample_slices: bool = False, component: int | None = None
) -> RawImage:
    """Read one image on the axes of its file. kind: what errors call it. Raises DataError and GeometryError."""
    try:
        return _read_raw(paths, resample_slices, component)
    except MedaeError as error:
        error.what = re.sub(r"\b([Tt]he) image\b", rf"\1 {NAMES[kind]}", error.what)
        raise


def _read_raw(paths: Sequence[Path], resample_slices: bool, component: int | None) -> RawImage:
    if not paths:
        raise DataError("An image without files cannot be read.", remedy="Name its file.")
    path = paths[0]
    missing = next((each for each in paths if not each.is_file()), None)
    if missing is not None:
        raise DataError("The image file does not exist.", where=missing, remedy="Check the path.")
    if not is_image(path) and is_dicom(path):
        return read_series(paths, resample_slices=resample_slices)
    if len(paths) > 1:
        raise DataError(
            f"An image is one file, or a DICOM series; {len(paths)} files were given.",
            where=path,
            remedy="Give one file a channel.",
        )
    return (read_nifti if path.name.lower().endswith(NIFTI) else read_itk)(path, component)


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


def _labels(array: np.ndarray, is_mask: bool, path: Path) -> np.ndarray:
    problem = label_problem(array, is_mask=is_mask)
    if problem is not None:
        remedy = f"A label map holds whole numbers from 0 to {LARGEST_LABEL}; correct the file or declare it as an image."
        if is_mask:
            remedy = "Replace them in the file; every value but 0 is inside of a mask."
        raise DataError(f"The {NAMES['mask' if is_mask else 'labels']} {problem}.", where=path, remedy=remedy)
    return as_labels(array, is_mask=is_mask)
