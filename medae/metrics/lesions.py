"""Lesion-wise detection: which lesions were found, and which findings were lesions.

The rule. Truth and prediction are split into connected components (voxels that share a face, edge or corner). A lesion
is found if at least the share ``overlap`` of its voxels, and at least one, is predicted. A predicted component is a
true finding if at least the share ``overlap`` of its voxels, and at least one, lies on lesion. One component may find
several lesions. Lesion voxels outside the brain mask belong to their lesion and are never predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medae.metrics.voxelscores import check_same_grid

SIZE_STRATA_ML = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class LesionMatch:
    """volumes_ml, found: one entry a true lesion. findings: predicted components; true_findings: those on lesion."""

    volumes_ml: tuple[float, ...]
    found: tuple[bool, ...]
    findings: int
    true_findings: int


@dataclass(frozen=True)
class SizeStratum:
    """Recall of the lesions with lower_ml <= volume < upper_ml (None: no upper bound); None where there is none."""

    lower_ml: float
    upper_ml: float | None
    lesions: int
    found: int

    @property
    def recall(self) -> float | None:
        """Share of the lesions that were found."""
        return self.found / self.lesions if self.lesions else None

    @property
    def label(self) -> str:
        """Such as ``0.1-1 ml``."""
        if self.upper_ml is None:
            return f"≥ {self.lower_ml:g} ml"
        return f"< {self.upper_ml:g} ml" if self.lower_ml == 0 else f"{self.lower_ml:g}-{self.upper_ml:g} ml"


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels 1..n of the components that are connected by faces, edges or corners, and n."""
    return ndimage.label(mask != 0, structure=np.ones((3,) * mask.ndim, dtype=bool))


def match_lesions(prediction: np.ndarray, lesion: np.ndarray, voxel_ml: float, overlap: float = 0.1) -> LesionMatch:
    """Match a scan's predicted mask with its true one by the rule above.

    prediction, lesion: same shape, non-zero inside. voxel_ml: a voxel's volume in millilitres. overlap: in (0, 1].
    Raises GeometryError if the shapes differ.
    """
    check_same_grid(prediction=prediction, lesion=lesion)
    sizes, on_prediction = _sizes_and_hits(lesion, prediction)
    finding_sizes, on_lesion = _sizes_and_hits(prediction, lesion)
    return LesionMatch(
        volumes_ml=tuple(float(size) * voxel_ml for size in sizes),
        found=tuple(bool(hit) for hit in _enough(on_prediction, sizes, overlap)),
        findings=len(finding_sizes),
        true_findings=int(np.count_nonzero(_enough(on_lesion, finding_sizes, overlap))),
    )


def recall_by_size(matches: Iterable[LesionMatch], edges_ml: Sequence[float] = SIZE_STRATA_ML) -> list[SizeStratum]:
    """Recall in strata of lesion volume over all scans; edges_ml are the inner bounds, rising."""
    pairs = [(volume, hit) for match in matches for volume, hit in zip(match.volumes_ml, match.found, strict=True)]
    bounds = [(0.0 if place == 0 else edges_ml[place - 1], edge) for place, edge in enumerate(edges_ml)]
    strata = []
    for lower, upper in [*bounds, (edges_ml[-1], None)]:
        hits = [hit for volume, hit in pairs if volume >= lower and (upper is None or volume < upper)]
        strata.append(SizeStratum(lower_ml=lower, upper_ml=upper, lesions=len(hits), found=sum(hits)))
    return strata


def _sizes_and_hits(mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of each component of ``mask``, and how many of them lie on ``other``."""
    labels, count = components(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(labels[other != 0], minlength=count + 1)[1:]
    return sizes, hits


def _enough(hits: np.ndarray, sizes: np.ndarray, overlap: float) -> np.ndarray:
    return (hits > 0) & (hits >= overlap * sizes)
