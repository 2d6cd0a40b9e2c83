"""Two ways from the slices of a stack to its voxels: dcm2niix, and SimpleITK. Both are verified."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medae.formats.dicom.pixels import values_of
from medae.formats.dicom.stack import Stack
from medae.formats.dicom.verify import same_grid, same_plane, same_values
from medae.formats.nifti import UNREADABLE

SECONDS = 120
SECONDS_A_FILE = 0.5
"""How long dcm2niix may take; it needs about 0.01 s a file."""

OPTIONS = (
    *("-g", "i"),  # no defaults file of the user's
    *("-f", "image", "-b", "n", "-z", "n", "-o", "out"),
    *("-m", "y"),  # these files are one volume: their headers have been looked at
    *("-p", "n"),  # the header's own slope and intercept, not a vendor's
    *("-x", "i"),  # neither cropped nor turned
    *("-i", "n"),  # derived images too
)


class Unconverted(Exception):
    """A conversion that failed, or whose result is not what the headers say. The text names no file and no patient."""


def by_dcm2niix(stack: Stack) -> np.ndarray:
    """The voxels of a regular stack, float32 ``[columns, rows, slices]``, converted by dcm2niix and verified.

    dcm2niix sees exactly these files, under names that medae made. Raises Unconverted.
    """
    try:
        from dcm2niix import bin as program
    except ImportError as error:
        raise Unconverted("it is not installed") from error
    with tempfile.TemporaryDirectory(prefix="medae-") as name:
        folder = Path(name)
        (folder / "out").mkdir()
        (folder / "in").mkdir()
        paths = list(dict.fromkeys(item.path for item in stack.slices))
        for place, path in enumerate(paths):
            _link(path, folder / "in" / f"{place:06d}.dcm")
        limit = SECONDS + SECONDS_A_FILE * len(paths)
        try:
            done = subprocess.run([program, *OPTIONS, "in"], cwd=folder, capture_output=True, check=False, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise Unconverted(f"it took more than {limit:.0f} s") from error
        except OSError as error:
            raise Unconverted("it cannot be started") from error
        made = sorted((folder / "out").glob("*.nii"))
        if len(made) != 1:
            raise Unconverted(f"it made {len(made)} images of one volume (exit status {done.returncode})")
        try:
            file = nib.load(made[0])
            array = np.asanyarray(file.dataobj, dtype=np.float32)  # type: ignore[attr-defined]
        except UNREADABLE as error:
            raise Unconverted("its result cannot be read") from error
        array, problem = same_grid(array, file.affine, stack)  # type: ignore[attr-defined]
    problem = problem or same_values(array, stack, by_simpleitk_slice)
    if problem:
        raise Unconverted(problem)
    return array


def by_simpleitk(stack: Stack) -> np.ndarray:
    """The voxels of a stack, float32 ``[columns, rows, slices]``, each slice read by SimpleITK (GDCM) and verified.

    The slices may lie anywhere: each is compared with its own header. Frames of one file that have several slopes are
    decoded by pydicom, since GDCM applies the first frame's to all. Raises Unconverted.
    """
    scales = _scales(stack)
    array = np.empty(stack.shape, dtype=np.float32)
    files: dict[Path, sitk.Image] = {}
    for place, item in enumerate(stack.slices):
        if item.path not in files:
            files = {item.path: _read(item.path)}  # frames of a file follow each other: one file at a time is enough
        image = files[item.path]
        values = _frame(image, stack, place) if len(scales[item.path]) == 1 else values_of(item)
        if values is None:
            raise Unconverted(f"slice {place + 1} has a slope of its own, and pydicom cannot decode it")
        array[:, :, place] = values
        problem = same_plane(image, item)
        if problem:
            raise Unconverted(f"slice {place + 1}: {problem}")
    problem = same_values(array, stack)
    if problem:
        raise Unconverted(problem)
    return array


def by_simpleitk_slice(stack: Stack, place: int) -> np.ndarray | None:
    """One slice as SimpleITK reads it, or None if it cannot: GDCM applies one slope to all frames of a file."""
    path = stack.slices[place].path
    if len(_scales(stack)[path]) > 1:
        return None
    try:
        return _frame(_read(path), stack, place)
    except Unconverted:
        return None


def _scales(stack: Stack) -> dict[Path, set[tuple[float, float]]]:
    """The slopes and intercepts of each file."""
    scales: dict[Path, set[tuple[float, float]]] = {}
    for item in stack.slices:
        scales.setdefault(item.path, set()).add((item.slope, item.intercept))
    return scales


def _read(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise Unconverted("its pixels cannot be decoded") from error


def _frame(image: sitk.Image, stack: Stack, place: int) -> np.ndarray:
    item = stack.slices[place]
    size = image.GetSize()
    if size[:2] != item.size or image.GetNumberOfComponentsPerPixel() != 1 or (size[2:] or (1,))[0] <= item.frame:
        raise Unconverted(f"slice {place + 1} has another size than its header says")
    frames = sitk.GetArrayViewFromImage(image).reshape((-1, *reversed(item.size)))
    return np.array(frames[item.frame].T, dtype=np.float32)


def _link(path: Path, target: Path) -> None:
    try:
        target.symlink_to(path.absolute())
    except OSError:  # Windows without the privilege, and file systems without links
        shutil.copyfile(path, target)
