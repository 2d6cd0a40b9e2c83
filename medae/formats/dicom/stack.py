"""How the slices of a series lie in space, from ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone.

Directions and positions are LPS mm, as in the headers; an affine is RAS mm, as everywhere else in medae. PS3.3, C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medae.formats.dicom.frames import Slice
from medae.formats.dicom.problem import Problem

TOLERANCE = 0.01
"""mm by which a corner of a slice may lie apart from where a regular grid has it: the rounding of headers."""

UPRIGHT = 0.1
"""Degrees up to which a stack counts as upright: orientations are often given with three decimals. The small shear is kept
in the affine, so that no coordinate changes by it."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Spacing = Literal["even", "missing", "uneven"]


@dataclass(frozen=True)
class Stack:
    """Slices in the order in which they lie along the normal, row direction x column direction.

    affine: 4x4 float64, (column, row, slice) -> RAS mm; the least-squares fit, so only for an even stack that of every
    voxel. spacing: ``even`` within 0.01 mm; ``missing`` if the gaps are multiples of one, and most are that one; else
    ``uneven``.
    step: mm along the normal between slices, for missing ones between those that should be there. absent: number of
    slices that are missing. apart: mm, the largest distance of a slice from the fit. tilt: degrees between the way from
    slice to slice and the normal. depths: mm of each slice along the normal, from the first.
    """

    slices: tuple[Slice, ...]
    affine: np.ndarray = field(repr=False)
    spacing: Spacing
    step: float
    absent: int
    apart: float
    tilt: float
    depths: np.ndarray = field(repr=False)

    @property
    def is_tilted(self) -> bool:
        """The slices are shifted against each other by more than the rounding of headers."""
        return self.tilt > UPRIGHT

    @property
    def is_regular(self) -> bool:
        """The slices lie on one grid, and that is upright."""
        return self.spacing == "even" and not self.is_tilted

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return (*self.slices[0].size, len(self.slices))


def arrange(slices: Sequence[Slice]) -> Stack | Problem:
    """The stack that slices make, or why they make none: no geometry, mixed grids, mixed orientations, one slice only,
    several slices in one place.
    """
    problem = unstackable(slices)
    if problem is not None:
        return problem
    origins = np.array([item.position for item in slices], dtype=np.float64)
    normal = normal_of(slices[0])
    order = np.argsort(origins @ normal, kind="stable")
    origins, ordered = origins[order], tuple(slices[place] for place in order)
    depths = (origins - origins[0]) @ normal
    gaps = np.diff(depths)
    doubles = int(np.count_nonzero(gaps < TOLERANCE))
    if doubles:
        return Problem(
            "duplicate-slices",
            f"has {doubles} slices in the place of another one",
            "Remove what is there twice, or export each phase as a series of its own.",
        )
    places = np.arange(len(ordered), dtype=np.float64)
    first, step, apart = _line(places, origins)
    spacing: Spacing = "even"
    absent = 0
    if apart > TOLERANCE:
        multiples = np.rint(gaps / gaps.min())
        counted = np.concatenate([[0.0], np.cumsum(multiples)])
        _, wide_step, remaining = _line(counted, origins)
        spacing = "missing" if remaining <= TOLERANCE and np.median(multiples) == 1 else "uneven"
        absent = int(counted[-1] - places[-1]) if spacing == "missing" else 0
        step_mm = float(wide_step @ normal) if spacing == "missing" else float(np.median(gaps))
    else:
        step_mm = float(step @ normal)
    return Stack(
        slices=ordered,
        affine=affine_of(ordered[0], first, step),
        spacing=spacing,
        step=step_mm,
        absent=absent,
        apart=apart,
        tilt=_tilt(origins, depths, normal),
        depths=depths,
    )


def unstackable(slices: Sequence[Slice]) -> Problem | None:
    """Why slices cannot be laid on each other, whatever their places along the normal."""
    export = "Export the original slices."
    if not all(item.has_geometry for item in slices):
        bare = sum(not item.has_geometry for item in slices)
        text = f"states no usable position, orientation or pixel spacing for {bare} of {len(slices)} slices"
        return Problem("no-geometry", text, export)
    if len(slices) == 1:
        return Problem("single-slice", "has a single slice", "Leave it out, or export the whole series.")
    if len({item.size for item in slices}) > 1:
        return Problem("mixed-sizes", "has slices of several sizes", "Export one series a reconstruction.")
    if max(_turned(item, slices[0]) for item in slices) > TOLERANCE:
        directions = len({tuple(round(value, 2) for value in item.orientation or ()) for item in slices})
        if directions > 1:
            text = f"has slices in {directions} orientations"
            return Problem("mixed-orientations", text, "Export one series an orientation.")
        text = "has slices that are turned slightly against each other, or of several pixel spacings"
        return Problem("mixed-orientations", text, "Export one series a reconstruction.")
    return None


def affine_of(item: Slice, first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """4x4 (column, row, slice) -> RAS mm, from a slice's directions, the first slice's position and the step, LPS mm."""
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = in_plane(item)
    lps[:3, 2], lps[:3, 3] = step, first
    affine: np.ndarray = LPS_TO_RAS @ lps
    return affine


def in_plane(item: Slice) -> tuple[np.ndarray, np.ndarray]:
    """LPS mm from one column to the next, and from one row to the next."""
    assert item.orientation is not None and item.spacing is not None
    between_rows, between_columns = item.spacing
    return np.array(item.orientation[:3]) * between_columns, np.array(item.orientation[3:]) * between_rows


def normal_of(item: Slice) -> np.ndarray:
    """Unit vector across a slice, LPS: row direction x column direction."""
    across = np.cross(*in_plane(item))
    unit: np.ndarray = across / np.linalg.norm(across)
    return unit


def corners_of(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """World mm of the centres of the eight corner voxels, ``[8, 3]``."""
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.array(shape) - 1
    world: np.ndarray = (corners @ affine.T)[:, :3]
    return world


def _turned(item: Slice, other: Slice) -> float:
    """mm by which the far corner of a slice lies elsewhere because of its own directions and spacing."""
    ends = np.array(item.size, dtype=np.float64) - 1
    own, reference = (np.stack(in_plane(each), axis=1) for each in (item, other))
    corners = np.array([[ends[0], 0.0], [0.0, ends[1]], ends])
    return float(np.linalg.norm(corners @ (own - reference).T, axis=1).max())


def _line(places: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The straight line through positions by least squares: start, step, and the largest distance from it (mm)."""
    design = np.stack([np.ones_like(places), places], axis=1)
    centre = origins.mean(axis=0)
    start, step = np.linalg.lstsq(design, origins - centre, rcond=None)[0]
    apart = np.linalg.norm(origins - centre - design @ np.stack([start, step]), axis=1).max()
    return start + centre, step, float(apart)


def _tilt(origins: np.ndarray, depths: np.ndarray, normal: np.ndarray) -> float:
    sideways = origins - origins[0] - depths[:, None] * normal
    centred = depths - depths.mean()
    slope = centred @ sideways / (centred @ centred)
    return float(np.degrees(np.arctan(np.linalg.norm(slope))))
