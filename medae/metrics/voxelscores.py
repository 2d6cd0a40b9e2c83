"""Scores of voxels pooled over any number of scans, in bounded memory.

A float32's bits, with the sign bit handled, order like the number itself. Keeping the upper 20 of the 32 bits (sign,
exponent, 11 bits of mantissa) gives a histogram whose range need not be known and whose bins are at most 1/2048 of
their value wide. Every figure below is the exact figure of the scores rounded down to their bin, where equal scores,
zeros above all, stay ties; on continuous scores it differs from the unrounded one by less than 1e-3 of its value.
Memory: 16 MiB, whatever the number of scans. Time: some 40 ns a voxel of the mask, 2 s for 25 scans of 256x256x60.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medae.errors import DataError, GeometryError

N_BINS = 1 << 20
_DROPPED_BITS = 12
_SIGN = np.uint32(1 << 31)


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each score: int64, same shape, larger for larger scores. Raises DataError unless all are finite."""
    values = np.asarray(scores, dtype=np.float32) + np.float32(0)  # the addition turns -0.0 into 0.0
    if not np.isfinite(values).all():
        raise DataError("An anomaly map holds values that are not finite.", remedy="Check the model's output for NaN.")
    bits = values.view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return (ordered >> np.uint32(_DROPPED_BITS)).astype(np.int64)


def bin_floor(bin_index: int) -> float:
    """The smallest score of a bin, so that ``score >= bin_floor(b)`` means ``score_bins(score) >= b``."""
    ordered = np.uint32(bin_index << _DROPPED_BITS)
    bits = ordered ^ _SIGN if ordered & _SIGN else ~ordered
    return float(np.array(bits, dtype=np.uint32).view(np.float32))


def rounded_down(scores: np.ndarray) -> np.ndarray:
    """Each score as the floor of its bin: float32, same shape. Raises DataError unless all are finite."""
    ordered = (score_bins(scores) << _DROPPED_BITS).astype(np.uint32)
    return np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float32)


def at_least(counts: np.ndarray) -> np.ndarray:
    """Per bin, how many scores lie in it or above: the count at the threshold ``bin_floor(b)``."""
    return np.cumsum(counts[::-1])[::-1]


def check_same_grid(**arrays: np.ndarray) -> None:
    """Raise GeometryError unless all arrays have one shape; the names are those of the message."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise GeometryError(f"The arrays of one scan differ in shape: {listed}.", remedy="Bring all to the file's own grid.")


@dataclass(frozen=True)
class PrecisionRecall:
    """Points of a precision-recall curve, thresholds falling, one entry a point."""

    threshold: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float
    prevalence: float


class VoxelScores:
    """Counts of normal and lesion voxels by score. ``missed`` are lesion voxels that no threshold can find."""

    def __init__(self) -> None:
        self.normal = np.zeros(N_BINS, dtype=np.int64)
        self.lesion = np.zeros(N_BINS, dtype=np.int64)
        self.missed = 0

    def add(self, scores: np.ndarray, mask: np.ndarray, lesion: np.ndarray) -> None:
        """Count one scan.

        scores, mask, lesion: same shape; mask and lesion true (non-zero) inside. Normal voxels count inside the mask
        only. Lesion voxels outside it count as missed. Raises GeometryError (shapes), DataError (not finite).
        """
        check_same_grid(scores=scores, mask=mask, lesion=lesion)
        inside, diseased = mask != 0, lesion != 0
        bins, is_lesion = score_bins(scores[inside]), diseased[inside]
        self.normal += np.bincount(bins[~is_lesion], minlength=N_BINS)
        self.lesion += np.bincount(bins[is_lesion], minlength=N_BINS)
        self.missed += int(np.count_nonzero(diseased & ~inside))

    def merge(self, other: VoxelScores) -> None:
        """Add another tally to this one."""
        self.normal += other.normal
        self.lesion += other.lesion
        self.missed += other.missed

    @property
    def n_normal(self) -> int:
        """Normal voxels inside the mask."""
        return int(self.normal.sum())

    @property
    def n_lesion(self) -> int:
        """Lesion voxels, those outside the mask included."""
        return int(self.lesion.sum()) + self.missed

    def average_precision(self) -> float | None:
        """Sum over thresholds of (gain in recall) x precision, as in scikit-learn; None without a lesion voxel.

        Missed lesion voxels are never retrieved: they add to the denominator of recall and nothing else.
        """
        if self.n_lesion == 0:
            return None
        _, true, false = self._falling()
        gained = np.diff(true, prepend=0)
        return float(np.sum(gained * (true / (true + false))) / self.n_lesion)

    def auroc(self) -> float | None:
        """Chance that a lesion voxel scores above a normal one, ties half; None unless both kinds are there.

        Missed lesion voxels count as scoring below every normal one.
        """
        if self.n_lesion == 0 or self.n_normal == 0:
            return None
        below = np.cumsum(self.normal) - self.normal
        return float(np.sum(self.lesion * (below + 0.5 * self.normal)) / (self.n_lesion * self.n_normal))

    def dice_curve(self) -> np.ndarray:
        """Dice at the threshold ``bin_floor(b)`` for every bin b: float64 ``[N_BINS]``. Needs a lesion voxel."""
        true, false = at_least(self.lesion), at_least(self.normal)
        return 2 * true / (true + false + self.n_lesion)

    def curve(self, points: int = 500) -> PrecisionRecall | None:
        """About ``points`` points of the curve, evenly spread over recall; None without a lesion voxel."""
        average = self.average_precision()
        if average is None:
            return None
        bins, true, false = self._falling()
        wanted = np.linspace(0, true[-1] if true.size else 0, points)
        keep = np.unique(np.minimum(np.searchsorted(true, wanted), true.size - 1)) if true.size else np.arange(0)
        return PrecisionRecall(
            threshold=np.array([bin_floor(int(b)) for b in bins[keep]]),
            recall=true[keep] / self.n_lesion,
            precision=true[keep] / (true[keep] + false[keep]),
            average_precision=average,
            prevalence=self.n_lesion / (self.n_lesion + self.n_normal),
        )

    def _falling(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Occupied bins from the highest score down, with the lesion and normal voxels at or above each."""
        bins = np.flatnonzero(self.normal + self.lesion)[::-1]
        return bins, np.cumsum(self.lesion[bins]), np.cumsum(self.normal[bins])
