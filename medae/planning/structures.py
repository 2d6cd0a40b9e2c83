"""Sizes of labelled structures: of each label in a case, and of each connected piece of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medae.planning.facts import Spread, Structure

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong to one piece."""

EXTREMES = (5.0, 50.0, 95.0)


@dataclass(frozen=True)
class Found:
    """One label in one case. share: of all voxels. pieces: the volume of each connected component, mm³."""

    share: float
    pieces: tuple[float, ...]


def structures_in(labels_IJK: np.ndarray, spacing: Sequence[float]) -> dict[int, Found]:
    """Each label of a label map but 0. labels: non-negative whole numbers. spacing: mm along the axes."""
    voxel = float(np.prod(spacing))
    found = {}
    for label, box in enumerate(ndimage.find_objects(labels_IJK), start=1):
        if box is not None:
            pieces, count = ndimage.label(labels_IJK[box] == label, TOUCHING)
            sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
            found[label] = Found(float(sizes.sum() / labels_IJK.size), tuple((sizes * voxel).tolist()))
    return found


def summarised(cases: Sequence[dict[int, Found]]) -> dict[int, Structure]:
    """Over all cases that have the label map, by label."""
    summary = {}
    for label in sorted({label for case in cases for label in case}):
        rows = [case[label] for case in cases if label in case]
        pieces = [size for row in rows for size in row.pieces]
        summary[label] = Structure(
            cases=len(rows),
            share=sum(row.share for row in rows) / len(cases),
            volume=_spread([sum(row.pieces) for row in rows]),
            pieces=len(pieces) / len(rows),
            piece=_spread(pieces),
        )
    return summary


def _spread(values: Sequence[float]) -> Spread:
    low, middle, high = (float(value) for value in np.percentile(values, EXTREMES))
    return low, middle, high
