"""What was flagged in a scan, as a list: where each piece lies, how large it is, how far it stands out."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields

import numpy as np
from scipy import ndimage

from medae.metrics.lesions import components
from medae.volume import NativeGrid


@dataclass(frozen=True)
class Finding:
    """A connected piece (faces, edges, corners) of a flagged mask.

    volume_ml: millilitres. peak, mean: of the map in it. x_mm, y_mm, z_mm: of its peak's voxel in the scan's world (mm,
    RAS+). i, j, k: that voxel in the file's array, from 0.
    """

    volume_ml: float
    peak: float
    mean: float
    x_mm: float
    y_mm: float
    z_mm: float
    i: int
    j: int
    k: int


def findings_of(heat: np.ndarray, flagged: np.ndarray, native: NativeGrid) -> list[Finding]:
    """The pieces of a flagged mask, the largest first.

    heat: float map; flagged: bool; both on the file's own axes, three of them. native: the file's grid.
    """
    pieces, count = components(flagged)
    if count == 0:
        return []
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(heat, pieces, numbers)
    places = ndimage.maximum_position(heat, pieces, numbers)
    matrix, found = native.matrix(), []
    for size, mean, place in zip(sizes, means, places, strict=True):
        x, y, z = (round(float(value), 2) for value in (matrix @ (*place, 1.0))[:3])
        i, j, k = (int(index) for index in place)
        found.append(Finding(float(size) * native.voxel_ml, float(heat[i, j, k]), float(mean), x, y, z, i, j, k))
    return sorted(found, key=lambda finding: -finding.volume_ml)


def as_csv(findings: list[Finding]) -> str:
    """A table with a line a finding."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Finding)])
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in astuple(each)] for each in findings)
    return text.getvalue()
