"""A threshold from normal scans alone, and the record of how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import stats

from medae.anomaly.score import LEVEL_SHARES
from medae.config import Config
from medae.errors import DataError
from medae.metrics.voxelscores import bin_floor, check_same_grid, score_bins

FEWEST = 3
"""Calibration subjects without which nothing is promised."""

WIDE, MANY = 5, 20
"""Times the rate that was asked for from which on a promise is too wide to be of use; subjects that are not few."""

Normals = Literal["lesion_free_scans", "lesion_free_slices"]


class Calibration(Config):
    """A threshold and where it comes from.

    threshold: a voxel is flagged when its value is at least this (units of the processed map).
    false_positive_rate: asked for, as the mean over subjects of the share of the mask whose value reaches the threshold,
    small findings not yet dropped.
    achieved_mean, achieved_sd, achieved_max: of that share over the calibration subjects at the threshold (sd None
    for one subject). left_out: that share of each subject at the threshold that all others give: what the calibration
    promises of subjects that it has not seen rests on these. threshold_low, threshold_high: range of thresholds when each
    subject in turn is left out; the threshold itself for one subject.
    normal_levels: of each calibration subject, the levels of ``anomaly.score.LEVEL_SHARES``. normal_scores: of each
    calibration scan, its score (learned from the other subjects); where lesion-free slices are normal, that of these slices.
    normals: whether the cohort is of healthy subjects, or of patients' slices without a marked lesion.
    cohort: which scans, in words: data set, scanner or site if known, phantoms if they are.
    """

    threshold: float
    false_positive_rate: float = Field(gt=0, lt=1)
    achieved_mean: float
    achieved_sd: float | None
    achieved_max: float
    left_out: tuple[float, ...] = ()
    normal_levels: tuple[tuple[float, ...], ...] = ()
    normal_scores: tuple[float, ...] = ()
    threshold_low: float
    threshold_high: float
    n_scans: int = Field(ge=1)
    n_subjects: int = Field(ge=1)
    normals: Normals
    cohort: str = Field(min_length=1)

    def promise(self, n_subjects: int) -> tuple[float, float] | None:
        """Where the mean share of the mask that reaches the threshold should lie in so many further normal subjects of this
        cohort, with 95 % confidence.

        Student's prediction interval of the mean of the square roots of ``left_out``, which are less skewed than the shares.
        A mean of n shares is the square of the mean of their roots plus 1 - 1/n times the variance of the roots: both ends
        are moved by so much. None with fewer than three calibration subjects.
        """
        n = len(self.left_out)
        if n < FEWEST:
            return None
        roots = np.sqrt(self.left_out)
        variance = float(np.var(roots, ddof=1))
        reach = stats.t.ppf(0.975, n - 1) * np.sqrt(variance * (1 / n + 1 / n_subjects))
        low, high = max(float(roots.mean()) - reach, 0.0), float(roots.mean()) + reach
        moved = (1 - 1 / n_subjects) * variance
        return float(low**2 + moved), float(high**2 + moved)

    def too_wide(self, high: float) -> bool:
        """Whether a promise with this upper end says next to nothing."""
        return high > WIDE * self.false_positive_rate

    def without(self, subject: int) -> Calibration:
        """The same, as if the levels of one subject, by its place, were not known: it does not vouch for itself."""
        kept = tuple(own for place, own in enumerate(self.normal_levels) if place != subject)
        return self.model_copy(update={"normal_levels": kept})

    def percentile(self, score: float) -> float | None:
        """Share of the normal calibration scans whose score is at most this; None without their scores."""
        return float(np.mean(np.asarray(self.normal_scores) <= score)) if self.normal_scores else None

    def rests_on(self) -> str:
        """Sentences for a report: the threshold, what it was set on, how far it moves, and what it promises."""
        parts = [
            f"The threshold {self.threshold:.4g} is reached in {self.achieved_mean:.2%} of the mask on average (asked for: "
            f"{self.false_positive_rate:.2%}), in {self.achieved_max:.2%} in the highest subject, over "
            f"{_count(self.n_scans, 'scan')} of {_count(self.n_subjects, 'subject')}. Cohort: {self.cohort}."
        ]
        if self.n_subjects > 1:
            parts.append(
                f"Leaving out each subject in turn moves it between {self.threshold_low:.4g} and {self.threshold_high:.4g}."
            )
        if (one := self.promise(1)) is not None:
            parts.append(
                f"A single further normal subject of this cohort should reach it in {one[0]:.2%} to {one[1]:.2%} of its "
                "mask, with 95 % confidence."
            )
            if self.too_wide(one[1]):
                remedy = "" if self.n_subjects >= MANY else "; calibrate on more normal scans to narrow it"
                parts.append(f"This is too wide to be of use: it rests on {self.n_subjects} subjects{remedy}.")
        return " ".join(parts)

    def limits(self) -> str:
        """Sentences for a report: what the cohort is not, and where the threshold does not hold."""
        parts = []
        if self.normals == "lesion_free_slices":
            parts.append(
                "The normals are lesion-free slices of patients, not healthy people: choosing them used the lesion labels, "
                "and tissue near a lesion may be abnormal without being marked."
            )
        parts.append(
            "Thresholds drift between scanners and protocols: recalibrate on normal scans of another site before use there."
        )
        return " ".join(parts)


def calibrate(
    maps: Iterable[np.ndarray],
    masks: Iterable[np.ndarray],
    rate: float,
    *,
    cohort: str,
    normals: Normals,
    subjects: Sequence[str] | None = None,
) -> Calibration:
    """The lowest threshold that is reached, as the mean over subjects, in a share of the mask of at most ``rate``.

    maps, masks: one of each a normal scan, same shape, read one at a time (generators are welcome); maps as they come
    from ``process_map``, masks non-zero where voxels count (brain, or its lesion-free slices). subjects: one name a
    scan, so that the scans of a subject count as one; each scan is its own subject unless given. The names are not
    kept. The threshold is a bin floor of ``metrics.voxelscores``, exact at that value and at most 1/2048 above the
    lowest real one.
    Raises DataError (no scan, an empty mask, values not finite, rate outside (0, 1)), GeometryError (shapes).
    """
    if not 0 < rate < 1:
        raise DataError(f"A false-positive rate of {rate} is outside (0, 1).", remedy="Use 0.01 for 1 %.")
    counts, n_scans = _count_by_subject(maps, masks, subjects)
    bins = np.unique(np.concatenate([histogram.bins for histogram in counts.values()]))
    total = np.zeros(len(bins))
    for histogram in counts.values():
        total += histogram.share_from(bins)
    n_subjects = len(counts)
    chosen = _lowest_bin(bins, total / n_subjects, rate)
    achieved = [float(histogram.share_from(chosen)) for histogram in counts.values()]
    thresholds, left_out = [chosen], list[float]()
    if n_subjects > 1:
        thresholds = []
        for histogram in counts.values():
            thresholds.append(_lowest_bin(bins, (total - histogram.share_from(bins)) / (n_subjects - 1), rate))
            left_out.append(float(histogram.share_from(thresholds[-1])))
    return Calibration(
        threshold=bin_floor(chosen),
        false_positive_rate=rate,
        achieved_mean=float(np.mean(achieved)),
        achieved_sd=float(np.std(achieved, ddof=1)) if len(achieved) > 1 else None,
        achieved_max=max(achieved),
        left_out=tuple(left_out),
        normal_levels=tuple(histogram.levels() for histogram in counts.values()),
        threshold_low=bin_floor(min(thresholds)),
        threshold_high=bin_floor(max(thresholds)),
        n_scans=n_scans,
        n_subjects=n_subjects,
        normals=normals,
        cohort=cohort,
    )


@dataclass(frozen=True)
class _Histogram:
    """Occupied bins of one subject and their counts: small, however many subjects there are."""

    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Histogram:
        bins, counts = np.unique(score_bins(values), return_counts=True)
        return cls(bins, counts)

    def plus(self, other: _Histogram) -> _Histogram:
        bins, place = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([self.counts, other.counts])).astype(np.int64)
        return _Histogram(bins, counts)

    def levels(self) -> tuple[float, ...]:
        """As `medae.anomaly.score.levels`, rounded down to the floors of bins."""
        reached = np.cumsum(self.counts)
        places = [int(np.ceil((1 - share) * reached[-1])) for share in LEVEL_SHARES]
        found = np.searchsorted(reached, np.minimum(places, reached[-1] - 1), side="right")
        return tuple(bin_floor(int(self.bins[place])) for place in found)

    def share_from(self, bins: np.ndarray | int) -> np.ndarray:
        """By bin, the share of voxels in it or above: float64, shaped as ``bins``."""
        above = np.concatenate([np.cumsum(self.counts[::-1])[::-1], [0]])
        return np.asarray(above[np.searchsorted(self.bins, bins)] / self.counts.sum())


def _count_by_subject(
    maps: Iterable[np.ndarray], masks: Iterable[np.ndarray], subjects: Sequence[str] | None
) -> tuple[dict[int | str, _Histogram], int]:
    scans = zip(maps, masks, strict=True)
    named = enumerate(scans) if subjects is None else zip(subjects, scans, strict=True)
    counts: dict[int | str, _Histogram] = {}
    n_scans = 0
    for name, (scores, mask) in named:
        check_same_grid(map=scores, mask=mask)
        values = scores[mask != 0]
        if values.size == 0:
            raise DataError(
                "The mask of a normal scan is empty.", where=f"calibration scan {n_scans + 1}", remedy="Leave the scan out."
            )
        histogram = _Histogram.of(values)
        counts[name] = counts[name].plus(histogram) if name in counts else histogram
        n_scans += 1
    if n_scans == 0:
        raise DataError("No normal scan was given to calibrate on.", remedy="Keep normal scans aside for calibration.")
    return counts, n_scans


def _lowest_bin(bins: np.ndarray, share: np.ndarray, rate: float) -> int:
    """The lowest bin at which the share is at most the rate, rounding of the mean forgiven.

    bins: the occupied ones, rising. share: of voxels in each or above; it is that of the next occupied bin in between.
    """
    low = np.flatnonzero(share <= rate * (1 + 1e-9))
    first = int(low[0]) if len(low) else len(bins)
    return 0 if first == 0 else int(bins[first - 1]) + 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
