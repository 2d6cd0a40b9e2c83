"""Scores of voxels pooled over any number of scans, in bounded memory.

A float32's bits, with the sign bit handled, order like the number itself. Keeping the upper 20 of the 32 bits (sign,
exponent, 11 bits of mantissa) gives a histogram whose range need not be known and whose bins are at most 1/2048 of
their value wide. Every figure below is the exact figure of the scores rounded down to their bin, where equal scores,
zeros above all, stay ties; on continuous scores it differs from the unrounded one by less than 1e-3 of its value.
Only bins that hold a voxel are kept: some ten thousand a scan, a million at most.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Points of a precision-recall curve, thresholds falling, one entry a point.

    prevalence: lesion's share of the voxels inside the mask, the precision of a random map. reach: the recall that the mask
    permits. random: the average precision of a random map, their product.
    """

    threshold: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float
    prevalence: float
    reach: float

    @property
    def random(self) -> float:
        """The average precision of a map that knows nothing."""
        return self.prevalence * self.reach


class VoxelScores:
    """Counts of normal and lesion voxels by score, of the bins that hold any. ``missed`` are lesion voxels that no threshold
    can find.

    bins: rising. normal, lesion: voxels in each. All int64, of one length.
    """

    def __init__(self) -> None:
        self.bins, self.normal, self.lesion = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self.missed = 0

    def add(self, scores: np.ndarray, mask: np.ndarray, lesion: np.ndarray) -> None:
        """Count one scan.

        scores, mask, lesion: same shape; mask and lesion true (non-zero) inside. Normal voxels count inside the mask
        only. Lesion voxels outside it count as missed. Raises GeometryError (shapes), DataError (not finite).
        """
        check_same_grid(scores=scores, mask=mask, lesion=lesion)
        inside, diseased = mask != 0, lesion != 0
        bins, is_lesion = score_bins(scores[inside]), diseased[inside]
        lowest, count = int(bins.min(initial=N_BINS)), int(np.ptp(bins)) + 1 if bins.size else 0
        normal, found = (np.bincount(bins[chosen] - lowest, minlength=count) for chosen in (~is_lesion, is_lesion))
        occupied = np.flatnonzero(normal + found)
        scan = VoxelScores()
        scan.bins, scan.normal, scan.lesion = occupied + lowest, normal[occupied], found[occupied]
        scan.missed = int(np.count_nonzero(diseased & ~inside))
        self.merge(scan)

    def merge(self, *others: VoxelScores) -> None:
        """Add other tallies to this one."""
        parts = (self, *others)
        bins, places = np.unique(np.concatenate([part.bins for part in parts]), return_inverse=True)
        self.normal, self.lesion = (
            np.bincount(places, np.concatenate(counts), len(bins)).astype(np.int64)
            for counts in ([part.normal for part in parts], [part.lesion for part in parts])
        )
        self.bins = bins
        self.missed += sum(other.missed for other in others)

    @property
    def n_normal(self) -> int:
        """Normal voxels inside the mask."""
        return int(self.normal.sum())

    @property
    def n_lesion(self) -> int:
        """Lesion voxels, those outside the mask included."""
        return int(self.lesion.sum()) + self.missed

    @property
    def prevalence(self) -> float:
        """Lesion's share of the voxels inside the mask; 0 where there are none."""
        inside = int(self.lesion.sum())
        return inside / (inside + self.n_normal) if inside else 0.0

    @property
    def reach(self) -> float:
        """Share of the lesion voxels that lie inside the mask; 0 without a lesion voxel."""
        return int(self.lesion.sum()) / self.n_lesion if self.n_lesion else 0.0

    def average_precision(self) -> float | None:
        """Sum over thresholds of (gain in recall) x precision, as in scikit-learn; None without a lesion voxel.

        Missed lesion voxels are never retrieved: they add to the denominator of recall and nothing else.
        """
        if self.n_lesion == 0:
            return None
        true, false = self._falling()
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

    def dice_at(self, bins: np.ndarray) -> np.ndarray:
        """Dice at the threshold ``bin_floor(b)`` for each bin b: float64. Needs a lesion voxel."""
        places = np.searchsorted(self.bins, bins)
        true, false = (np.append(at_least(counts), 0)[places] for counts in (self.lesion, self.normal))
        return np.asarray(2 * true / (true + false + self.n_lesion))

    def curve(self, points: int = 500) -> PrecisionRecall | None:
        """About ``points`` points of the curve, evenly spread over recall; None without a lesion voxel."""
        average = self.average_precision()
        if average is None:
            return None
        bins, (true, false) = self.bins[::-1], self._falling()
        wanted = np.linspace(0, true[-1] if true.size else 0, points)
        keep = np.unique(np.minimum(np.searchsorted(true, wanted), true.size - 1)) if true.size else np.arange(0)
        return PrecisionRecall(
            threshold=np.array([bin_floor(int(b)) for b in bins[keep]]),
            recall=true[keep] / self.n_lesion,
            precision=true[keep] / (true[keep] + false[keep]),
            average_precision=average,
            prevalence=self.prevalence,
            reach=self.reach,
        )

    def _falling(self) -> tuple[np.ndarray, np.ndarray]:
        """Lesion and normal voxels at or above each bin, from the highest down."""
        return np.cumsum(self.lesion[::-1]), np.cumsum(self.normal[::-1])


def best_dice(parts: Sequence[VoxelScores]) -> tuple[float, float]:
    """The highest mean Dice that one threshold reaches over several tallies, each with a lesion, and the highest threshold
    that does. Between occupied bins nothing changes."""
    occupied = np.unique(np.concatenate([part.bins for part in parts]))
    bins = np.append(occupied, occupied.max(initial=int(score_bins(np.zeros(1))[0])) + 1)
    curve = sum((part.dice_at(bins) for part in parts), np.zeros(len(bins))) / len(parts)
    place = len(bins) - 1 - int(np.argmax(curve[::-1]))
    return float(curve[place]), bin_floor(int(bins[place]))
