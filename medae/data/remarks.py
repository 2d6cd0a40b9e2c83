"""What can be wrong with one image: its header, its values, its labels. Each remark says what and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from medae.data.case import Modality
from medae.data.finding import Level
from medae.formats.nifti import UNREADABLE, unit_of

SMALLEST_MM, LARGEST_MM = 0.005, 100.0
"""A voxel size outside of these is a slip of the unit."""

FLAT = 2.5
"""Ratio of the longest to the shortest axis from which voxels of exactly 1 mm are more likely a default than a fact."""

SAME_PLACE = 0.05
"""Share of the smallest voxel size by which corners may lie apart: above a quaternion's rounding, below what is seen."""

SAME_SPACING = 0.01
"""Relative difference from which two statements of one spacing contradict each other."""

SAME_DIRECTION = 0.1
"""Degrees from which two axes count as differently directed."""


class Remark(NamedTuple):
    """A finding that does not know yet which file it is about."""

    level: Level
    code: str
    problem: str
    remedy: str


def nifti_header(path: Path) -> Iterator[Remark]:
    """What a NIfTI header says of itself that cannot all be true, or that nobody can rely on."""
    try:
        header: Any = nib.load(path).header
        units = unit_of(header)
        sform, qform = header.get_sform(), header.get_qform()
    except UNREADABLE:
        return  # whoever reads the image will say so
    codes = int(header["sform_code"]), int(header["qform_code"])
    if units in ("meter", "micron"):
        yield Remark(
            "warning", "units", f"states its lengths in {units}s; they are converted to mm", "Make sure of its voxel size."
        )
    elif units == "unknown":
        yield Remark(
            "warning", "units", "states no unit of length; mm is assumed", "Make sure that its voxel size is in mm."
        )
    if codes == (0, 0):
        text = "states no position (neither sform nor qform); left and right cannot be known"
        yield Remark("warning", "no_position", text, "Convert it from its source again.")
    shape = header.get_data_shape()[:3]
    if min(codes) > 0 and len(shape) == 3:
        apart = corners_apart(shape, sform, qform)
        if not apart <= SAME_PLACE * voxel_sizes(sform).min():
            text = f"has an sform and a qform that lie up to {apart:.3g} mm apart; the sform is used, as by nibabel"
            yield Remark("warning", "sform_qform", text, "ITK-based programs use the qform: make both the same.")
    if codes[0] > 0 and np.isfinite(sform).all():
        zooms, sizes = np.abs(header["pixdim"][1:4].astype(float)), voxel_sizes(sform)
        if np.abs(zooms - sizes).max() > SAME_SPACING * sizes.max():
            text = f"states voxels of {_mm(zooms)} in pixdim and of {_mm(sizes)} in the sform, which is used"
            yield Remark("warning", "pixdim", text, "Correct the header.")


def geometry(shape: tuple[int, ...], affine: np.ndarray) -> Iterator[Remark]:
    """Of a 3D image: voxel sizes that nobody scans with, and single slices. affine: 4x4, mm."""
    sizes = voxel_sizes(affine)
    if sizes.min() < SMALLEST_MM or sizes.max() > LARGEST_MM:
        yield Remark("error", "spacing", f"has voxels of {_mm(sizes)}", "Correct its spacing, or the unit that it states.")
    if np.allclose(sizes, 1.0, rtol=1e-6) and max(shape) > FLAT * min(shape) > FLAT:
        text = "states voxels of exactly 1 x 1 x 1 mm in a flat field of view: the distance of slices looks unset"
        remedy = "If it is not known, keep slices as they are: a 2D plan, or spacing null along that axis."
        yield Remark("warning", "unset_spacing", text, remedy)
    if min(shape) == 1:
        text = f"has one voxel along an axis ({' x '.join(map(str, shape))})"
        yield Remark("warning", "single_slice", text, "Use a 2D plan (spatial_dims: 2), or leave the case out.")


def intensities(voxels: np.ndarray, modality: Modality) -> Iterator[Remark]:
    """Values that nothing can be learnt from, and CT that is not in Hounsfield units."""
    if np.iscomplexobj(voxels):
        yield Remark("error", "complex", "holds complex numbers", "Give the magnitude image.")
        return
    n_bad = 0 if voxels.dtype.kind in "biu" else int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
    if n_bad:
        text = f"has {n_bad} voxels that are not a number or infinite"
        yield Remark("error", "not_finite", text, "Replace them, or leave the case out.")
        return
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest == highest:
        yield Remark("error", "constant", f"has the value {lowest:g} everywhere", "Export it again, or leave the case out.")
    elif modality == "CT" and lowest >= 0:
        text = "is CT without any value below 0: these are no Hounsfield units, unless the body was cut out"
        remedy = "Make sure that it was exported with rescale slope and intercept, and without a window."
        yield Remark("warning", "not_hounsfield", text, remedy)


def undeclared_labels(values: Iterable[int], declared: Mapping[int, str] | None) -> Iterator[Remark]:
    """Labels of a map that the data set gives no names to, where it gives any. declared: names by value."""
    unknown = [value for value in values if value != 0 and value not in declared] if declared else []
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        text = f"has labels that are not declared: {shown}"
        yield Remark("error", "undeclared", text, "Declare them, or correct the label map.")


def grid(shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray) -> str | None:
    """How the second grid differs from the first, or None. Both on nearest-RAS axes, affines 4x4 in mm.

    They are the same if their shapes are equal and no two corners lie more than 5 % of the smallest voxel apart.
    Otherwise it is said whether spacing (1 %), direction (0.1 degrees) or origin differs.
    """
    if tuple(shape) != tuple(other_shape):
        return f"shape {tuple(other_shape)}, not {tuple(shape)}"
    apart = corners_apart(shape, affine, other)
    sizes, other_sizes = voxel_sizes(affine), voxel_sizes(other)
    if apart <= SAME_PLACE * sizes.min():
        return None
    if np.abs(other_sizes / sizes - 1).max() > SAME_SPACING:
        return f"spacing {_mm(other_sizes)}, not {_mm(sizes)}"
    cosines = np.sum((affine[:3, :3] / sizes) * (other[:3, :3] / other_sizes), axis=0)
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
    if angle > SAME_DIRECTION:
        return f"its axes are turned by up to {angle:.3g} degrees"
    return f"its corners lie up to {apart:.3g} mm apart"


def corners_apart(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray) -> float:
    """The largest distance in mm between the same corner voxel under two affines."""
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(shape) - 1
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def _mm(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"
