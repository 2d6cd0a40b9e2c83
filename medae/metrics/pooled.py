"""How sure a pooled average precision is: a jackknife over subjects, paired between two maps of the same scans.

Pooled over voxels, a few large lesions decide; the interval says how far the figure depends on who was in the test. A
percentile bootstrap is not used: of 5 to 16 subjects with lesions of unequal sizes it covers 80 to 92 % where it says 95.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from medae.config import Config
from medae.errors import DataError
from medae.metrics.statistics import FEWEST
from medae.metrics.voxelscores import VoxelScores

GROUPS = 2048
"""Of scores in a table: no group of scores holds more than this share of the lesion or of the normal voxels, unless one bin
does."""

EDGE = 1e-6
"""An average precision nearer to 0 or 1 than this is taken to be so near, where its logit is asked for."""


@dataclass(frozen=True)
class Tally:
    """The voxels of one scan by score: occupied bins, rising, with their normal and lesion voxels.

    missed: lesion voxels that no threshold finds.
    """

    bins: np.ndarray
    normal: np.ndarray
    lesion: np.ndarray
    missed: int

    @classmethod
    def of(cls, scores: VoxelScores) -> Tally:
        """Of a scan's counts."""
        bins, normal, lesion = (each.astype(np.int32) for each in (scores.bins, scores.normal, scores.lesion))
        return cls(bins, normal, lesion, scores.missed)

    def scores(self) -> VoxelScores:
        """The counts again."""
        found = VoxelScores()
        found.bins, found.normal, found.lesion = (each.astype(np.int64) for each in (self.bins, self.normal, self.lesion))
        found.missed = self.missed
        return found

    def coarse(self, floors: np.ndarray) -> Tally:
        """With scores rounded down to one of these bins, rising, the first of which is at most the lowest score's."""
        bins, places = np.unique(floors[np.searchsorted(floors, self.bins, side="right") - 1], return_inverse=True)
        normal, lesion = (np.bincount(places, counts, len(bins)).astype(np.int32) for counts in (self.normal, self.lesion))
        return Tally(bins, normal, lesion, self.missed)


def floors_of(tally: Tally, groups: int) -> np.ndarray:
    """The lowest bin of each group of scores, rising: no group holds more than 1 / groups of the lesion or of the normal
    voxels, unless one bin does. The average precision of what is rounded down to these differs by less than that."""
    group = _groups(tally.normal[::-1], tally.lesion[::-1], groups)[::-1]
    return np.asarray(tally.bins[np.flatnonzero(np.diff(group, prepend=-1))])


def pooled_average_precision(tallies: Sequence[Tally]) -> float:
    """Over the voxels of all scans; 0 where no scan has a lesion."""
    one = [""] * len(tallies)
    return _Table(tallies, one, [""]).figure()


class PooledDifference(Config):
    """Pooled average precision of one map less that of another, on the same scans.

    low, high: of the interval over subjects; None with fewer than 5 of them that have a lesion.
    """

    difference: float
    low: float | None
    high: float | None
    n_subjects: int


def pooled_difference(
    a: Sequence[Tally], b: Sequence[Tally], subjects: Sequence[str], level: float = 0.95
) -> PooledDifference:
    """Compare two maps of the same scans, pooled over voxels.

    a, b: one tally a scan, in the same order. subjects: whom each scan is of. level: of the interval. It is Student's, of
    the jackknife's pseudo-values of the difference, each subject left out of both maps at once; see ``half_width``.
    Raises DataError if the lengths differ.
    """
    return mean_difference([(a, b)], subjects, level)


def mean_difference(
    pairs: Sequence[tuple[Sequence[Tally], Sequence[Tally]]], subjects: Sequence[str], level: float = 0.95
) -> PooledDifference:
    """Compare two maps by the mean of their pooled average precisions over several kinds of lesions in the same scans.

    pairs: one for each kind, of tallies as in `pooled_difference`. A subject is left out of all kinds at once, so that the
    interval is over subjects and not over kinds. Degrees of freedom, and whether there are enough subjects for an interval,
    are those of the kind that the fewest subjects have. Raises DataError if the lengths differ or there is no kind.
    """
    one, other = ([pair[place] for pair in pairs] for place in (0, 1))
    return mean_differences({"": one}, other, subjects, level)[""]


def mean_differences(
    maps: Mapping[str, Sequence[Sequence[Tally]]],
    other: Sequence[Sequence[Tally]],
    subjects: Sequence[str],
    level: float = 0.95,
) -> dict[str, PooledDifference]:
    """The same of several maps against one other. maps, other: by kind of lesion, in the same order."""
    if not other:
        raise DataError("There is no kind of lesion to compare maps by.", remedy="Score scans that have lesions.")
    names = sorted(set(subjects))
    for a, b in ((a, b) for kinds in maps.values() for a, b in zip(kinds, other, strict=True)):
        if not len(a) == len(b) == len(subjects):
            raise DataError(f"{len(a)} and {len(b)} scans cannot be paired.", remedy="Score both maps on the same scans.")
    against = [_Table(tallies, subjects, names) for tallies in other]
    fewest = min(table.diseased for table in against)
    values, without = _figures(against, fewest)
    found = {}
    for name, kinds in maps.items():
        own, own_without = _figures([_Table(tallies, subjects, names) for tallies in kinds], fewest)
        difference, low, high = own - values, None, None
        if fewest >= FEWEST:
            half = half_width(own_without - without, fewest, level)
            low, high = max(difference - half, -1.0), min(difference + half, 1.0)
        found[name] = PooledDifference(difference=difference, low=low, high=high, n_subjects=len(names))
    return found


def _figures(tables: Sequence[_Table], fewest: int) -> tuple[float, np.ndarray]:
    """The mean of the average precisions, and where there are enough subjects those when each in turn is left out."""
    value = float(np.mean([table.figure() for table in tables]))
    if fewest < FEWEST:
        return value, np.empty(0)
    return value, np.mean([table.without_each() for table in tables], axis=0)


def pooled_interval(tallies: Sequence[Tally], subjects: Sequence[str]) -> tuple[float, float] | None:
    """The 95 % interval over subjects of one map's pooled average precision; None with fewer than 5 that have a lesion.

    Student's, of the jackknife's pseudo-values of its logit; see ``half_width``.
    """
    return mean_interval([tallies], subjects)


def mean_interval(maps: Sequence[Sequence[Tally]], subjects: Sequence[str]) -> tuple[float, float] | None:
    """The same of the mean of the pooled average precisions of several maps of the same scans, such as of several seeds.

    A subject is left out of all maps at once: the interval is over subjects, for these maps.
    """
    tables = [_Table(tallies, subjects, sorted(set(subjects))) for tallies in maps]
    fewest = min((table.diseased for table in tables), default=0)
    if fewest < FEWEST:
        return None
    return share_interval(*_figures(tables, fewest), fewest, EDGE)


def auroc_interval(tallies: Sequence[Tally], subjects: Sequence[str]) -> tuple[float, float] | None:
    """The same of the AUROC of all voxels as one."""
    table = _Table(tallies, subjects, sorted(set(subjects)))
    if table.diseased < FEWEST:
        return None
    every, without = table.auroc(np.ones((1, len(table.missed)))), table.auroc(1.0 - np.eye(len(table.missed)))
    if not (np.isfinite(every).all() and np.isfinite(without).all()):
        return None  # no normal voxel
    return share_interval(float(every[0]), without, table.diseased, EDGE)


def share_interval(value: float, without_each: np.ndarray, carriers: int, edge: float = 1e-3) -> tuple[float, float] | None:
    """The interval of a figure between 0 and 1, on the scale of its logit; None if it hangs on no subject at all.

    Where everything is found in everybody, subjects do not differ, and what they differ by says nothing of others.
    without_each, carriers: see ``half_width``. edge: a figure nearer to 0 or 1 is taken to be so near.
    """
    if not np.ptp(without_each) > 0:
        return None
    middle = float(logit(np.clip(value, edge, 1 - edge)))
    half = half_width(logit(np.clip(without_each, edge, 1 - edge)), carriers)
    return min(float(expit(middle - half)), value), max(float(expit(middle + half)), value)


def half_width(without_each: np.ndarray, carriers: int, level: float = 0.95) -> float:
    """Half the width of an interval from the figures that remain when each subject in turn is left out.

    The pseudo-values of n subjects are n times the figure of all less n - 1 times these, and differ as those do. Degrees of
    freedom: one less than the carriers, the subjects who carry most of the figure, such as those with a lesion. Source:
    Tukey 1958.
    """
    n = len(without_each)
    error = np.sqrt((n - 1) ** 2 * np.var(without_each, ddof=1) / n)
    return float(student.ppf((1 + level) / 2, carriers - 1) * error)


class _Table:
    """The voxels of each subject by group of scores: ``[subjects, groups]``, from the highest down.

    Groups are of neighbouring bins, so that a table is small: the average precision of one sample differs from that of the
    bins by less than 1 / GROUPS.
    """

    def __init__(self, tallies: Sequence[Tally], subjects: Sequence[str], names: Sequence[str]) -> None:
        row = {name: place for place, name in enumerate(names)}
        bins, columns = np.unique(np.concatenate([tally.bins for tally in tallies] or [np.arange(0)]), return_inverse=True)
        totals = [
            np.bincount(columns, np.concatenate([getattr(tally, kind) for tally in tallies] or [np.arange(0)]), len(bins))
            for kind in ("normal", "lesion")
        ]
        group = _groups(totals[0][::-1], totals[1][::-1])[::-1]
        count = int(group.max(initial=-1)) + 1
        self.normal, self.lesion = (np.zeros((len(names), count)) for _ in range(2))
        self.missed = np.zeros(len(names))
        for tally, subject in zip(tallies, subjects, strict=True):
            own = group[np.searchsorted(bins, tally.bins)]
            self.normal[row[subject]] += np.bincount(own, tally.normal, count)
            self.lesion[row[subject]] += np.bincount(own, tally.lesion, count)
            self.missed[row[subject]] += tally.missed

    @property
    def diseased(self) -> int:
        return int(np.count_nonzero(self.lesion.sum(axis=1) + self.missed))

    def figure(self) -> float:
        """The average precision of all subjects."""
        return float(self.average_precision(np.ones((1, len(self.missed))))[0])

    def without_each(self) -> np.ndarray:
        """The average precision of the others when each subject in turn is left out."""
        return self.average_precision(1.0 - np.eye(len(self.missed)))

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """One value for each row of weights ``[draws, subjects]``; NaN where there is no normal voxel."""
        normal, lesion = weights @ self.normal, weights @ self.lesion
        every = normal.sum(axis=1, keepdims=True)
        below = every - np.cumsum(normal, axis=1)
        total = lesion.sum(axis=1) + weights @ self.missed
        with np.errstate(invalid="ignore"):
            found = (lesion * (below + 0.5 * normal)).sum(axis=1) / (every[:, 0] * total)
        return np.asarray(found)

    def average_precision(self, weights: np.ndarray, chunk: int = 100) -> np.ndarray:
        """One value for each row of weights ``[draws, subjects]``."""
        found = []
        for start in range(0, len(weights), chunk):
            part = weights[start : start + chunk]
            gained = part @ self.lesion
            true, false = np.cumsum(gained, axis=1), np.cumsum(part @ self.normal, axis=1)
            precision = true / np.maximum(true + false, 1e-12)
            total = part @ (self.lesion.sum(axis=1) + self.missed)
            found.append((gained * precision).sum(axis=1) / np.maximum(total, 1e-12))
        return np.concatenate(found)


def _groups(normal: np.ndarray, lesion: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """The number of the group of each bin, both from the highest score down."""
    steps = [
        np.floor(groups * np.cumsum(counts) / counts.sum()) if counts.sum() else 0 * counts for counts in (normal, lesion)
    ]
    changes = np.any([np.diff(step, prepend=-1) != 0 for step in steps], axis=0)
    # a bin that fills a step stands alone: what comes after it is another group
    after = np.concatenate([[False], changes[:-1]])
    return np.asarray(np.cumsum(changes | after) - 1, dtype=np.int64)
