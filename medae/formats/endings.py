"""File names of images."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
"""Read by nibabel."""

ITK = (".nrrd", ".mha", ".png", ".tif", ".tiff")
"""Read by SimpleITK: formats that keep header and voxels in one file."""

PICTURES = (".png", ".tif", ".tiff")
"""Those of ITK's that are images of their own, or only a preview of a scan beside it."""

ENDINGS = (*NIFTI, *ITK)
"""How the names of image files end. DICOM files are told by their contents instead."""

UNREAD = (
    *(".mgz", ".mgh", ".hdr", ".img", ".img.gz", ".mhd", ".nhdr", ".nii.bz2", ".nii.xz", ".nii.zst", ".mnc"),
    *(".gipl", ".gipl.gz", ".head", ".dcm", ".ima", ".jpg", ".jpeg", ".bmp"),
)
"""Endings of other files that hold images."""

UNREAD_PICTURES = (".jpg", ".jpeg", ".bmp")
"""Those of them that beside volumes are figures and previews."""


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; hidden files, such as macOS' ``._scan.nii``, are none."""
    return path.name.lower().endswith(ENDINGS) and not path.name.startswith(".")


def unread_ending(path: Path) -> str:
    """The ending of a file's name in a format of images that is not read; empty for others, and for hidden files."""
    name = path.name.lower()
    found = [ending for ending in UNREAD if name.endswith(ending)]
    return "" if name.startswith(".") else max(found, key=len, default="")


def is_unread(path: Path) -> bool:
    """Whether a file's name is that of an image in a format that is not read."""
    return bool(unread_ending(path))


def image_files(folder: Path) -> list[Path]:
    """Image files directly in ``folder``, by name, without previews; none if there is no such folder."""
    return without_previews(sorted(path for path in folder.iterdir() if is_image(path))) if folder.is_dir() else []


def without_previews(paths: list[Path]) -> list[Path]:
    """The files that are scans: a picture (PNG, TIFF) beside a volume of the same name is a preview of it."""
    volumes = {path.with_name(stem(path)) for path in paths if not is_picture(path)}
    return [path for path in paths if not is_picture(path) or path.with_name(stem(path)) not in volumes]


def is_picture(path: Path) -> bool:
    """Whether a file's name is that of a picture."""
    return path.name.lower().endswith(PICTURES)


def stem(path: Path) -> str:
    """The file name without the ending of an image."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]
