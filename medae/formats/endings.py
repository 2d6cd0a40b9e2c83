"""File names of images."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
"""Read by nibabel."""

ITK = (".nrrd", ".mha", ".png", ".tif", ".tiff")
"""Read by SimpleITK: formats that keep header and voxels in one file."""

ENDINGS = (*NIFTI, *ITK)
"""How the names of image files end. DICOM files are told by their contents instead."""


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; hidden files, such as macOS' ``._scan.nii``, are none."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The file name without the ending of an image."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]
