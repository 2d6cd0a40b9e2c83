"""Comparisons of two arms over the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy.stats import t as student

from medae.config import Config
from medae.errors import DataError

FEWEST = 5
"""Subjects below which nothing is said of a difference."""


ONE_DRAW = (
    "The intervals are over the test subjects, for one draw of labelled cases and one seed; another draw may differ by more "
    "(medae curve measures that)."
)


class PairedDifference(Config):
    """Mean of ``a - b`` over cases and its interval.

    low, high: bounds of the 95 % interval over subjects; None with fewer than 5. It covers who was tested, not which cases
    were labelled nor the seed of the training. wins: cases in which a is above b, of n.
    """

    mean: float
    low: float | None
    high: float | None
    wins: int
    n: int
    n_subjects: int

    def describe(self, a: str, b: str) -> str:
        """One sentence for a report; what the interval leaves out is said by ``ONE_DRAW``."""
        if self.low is None or self.high is None:
            return f"{a} - {b}: {self.mean:+.4f} on {self.n} cases of {self.n_subjects} subjects: too few to say anything."
        if self.low > 0 or self.high < 0:
            verdict = f"{a if self.mean > 0 else b} was better on these cases"
        else:
            verdict = "no difference could be shown"
        return (
            f"{a} - {b}: {self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}], {a} above in {self.wins} of {self.n} cases: "
            f"{verdict}."
        )


def paired_difference(a: Sequence[float], b: Sequence[float], subjects: Sequence[str] | None = None) -> PairedDifference:
    """Compare two arms case by case.

    a, b: one value a case, in the same order. subjects: whom each case is of; the cases of one person are alike, so that the
    interval is over subjects: Student's, of the ratio (sum of differences / number of cases) with its linearised variance
    (Cochran 1977, section 6.3). Every case is its own subject unless given. A percentile bootstrap is not used: of 5
    subjects it covers 85 % where it says 95.
    Raises DataError if the lengths differ or there is no case.
    """
    names = [str(place) for place in range(len(a))] if subjects is None else list(subjects)
    if not len(a) == len(b) == len(names) > 0:
        raise DataError(f"{len(a)} and {len(b)} values cannot be paired.", remedy="Evaluate both arms on the same cases.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    _, owner = np.unique(names, return_inverse=True)
    mean, count = float(differences.mean()), int(owner.max()) + 1
    low = high = None
    if count >= FEWEST:
        residuals = np.bincount(owner, weights=differences - mean)
        error = np.sqrt(count / (count - 1) * np.square(residuals).sum()) / len(differences)
        half = float(student.ppf(0.975, count - 1) * error)
        low, high = mean - half, mean + half
    return PairedDifference(
        mean=mean, low=low, high=high, wins=int(np.count_nonzero(differences > 0)), n=len(differences), n_subjects=count
    )


class CrossedMean(Config):
    """Mean over draws of labelled cases and test cases, and its interval over both.

    low, high: bounds of the 95 % interval; None with fewer than two draws or two subjects. It covers which cases of the pool
    that all draws are from were labelled (and what else changes with the draw, such as the seed) and who was tested, not
    another pool: see ``beyond_pool``. error, degrees: standard error and degrees of freedom of the mean. deviation: standard
    deviation between draws; None with one draw.
    """

    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    error: float | None
    degrees: float | None

    def within(self, least: float, most: float) -> Self:
        """With an interval that ends where the score does, such as the Dice at 0 and 1: Student's does not know of that."""
        if self.low is None or self.high is None:
            return self
        return self.model_copy(update={"low": max(self.low, least), "high": min(self.high, most)})


class CrossedDifference(CrossedMean):
    """Mean of ``a - b``, and its test. n_draws, n_subjects: how many there were.

    The interval's t is not fit for the small levels that many comparisons ask for: where three draws happen to be alike, it
    takes the subjects' many degrees of freedom. In simulations without a difference it was below 0.05 / 16 up to 8 times as
    often as it should be. So a second t, over the means of the draws alone, has to agree: what it says holds at any level,
    though not beyond these subjects. Both together were too small by a fifth at the most.
    """

    n_draws: int
    n_subjects: int

    def half(self, comparisons: int = 1) -> float | None:
        """How large a mean difference has to be to be shown among so many comparisons (5 %, Holm's first step)."""
        if self.error is None or self.degrees is None or self.deviation is None:
            return None
        level = 0.025 / comparisons
        own = student.isf(level, self.n_draws - 1) * self.deviation / np.sqrt(self.n_draws)
        return float(max(student.isf(level, self.degrees) * self.error, own))

    def p(self) -> float | None:
        """Two-sided; the larger of that of the interval and that over draws. None without an interval."""
        if self.error is None or self.degrees is None or self.deviation is None:
            return None
        if self.mean == 0:
            return 1.0
        tests = ((self.error, self.degrees), (self.deviation / np.sqrt(self.n_draws), self.n_draws - 1))
        return max(float(2 * student.sf(abs(self.mean) / error, degrees)) if error else 0.0 for error, degrees in tests)


def crossed_difference(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], subjects: Sequence[str] | None = None
) -> CrossedDifference:
    """Compare two arms over draws of labelled cases, all scored on the same test cases.

    a, b: ``[draws][cases]``, draws and cases in the same order. subjects: whom each case is of; see ``crossed_mean``.
    Raises DataError if the tables differ in shape or hold nothing.
    """
    one, two = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if one.shape != two.shape or one.ndim != 2 or one.size == 0:
        raise DataError(
            f"Tables of {one.shape} and {two.shape} values cannot be paired.",
            remedy="Give both arms one row a draw and one value a case.",
        )
    found = crossed_mean(one - two, subjects)
    count = one.shape[1] if subjects is None else len(set(subjects))
    return CrossedDifference(**found.model_dump(), n_draws=len(one), n_subjects=count)


def crossed_mean(values: Sequence[Sequence[float]] | np.ndarray, subjects: Sequence[str] | None = None) -> CrossedMean:
    """The mean of one arm over draws of labelled cases, all scored on the same test cases.

    values: ``[draws][cases]``. subjects: whom each case is of; every case is its own subject unless given. Draws and
    subjects are crossed random effects: the variance of the grand mean is estimated by (MS_draws + MS_subjects) / (draws x
    subjects), the mean squares of a two-way table without replicates. This is too large by the residual's share, and never
    negative. The interval is Student's, with Satterthwaite's (1946) degrees of freedom: with few draws it is wide, as it
    should be. A bootstrap over draws is not: resampling three of them gives no more than the range of the three.
    Raises DataError unless it is a table with values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise DataError(
            f"A table of {table.shape} values has no mean over draws and cases.",
            remedy="Give one row a draw, one value a case.",
        )
    table = by_subject(table, subjects)
    draws, people = table.shape
    mean, by_draw, by_person = float(table.mean()), table.mean(axis=1), table.mean(axis=0)
    low = high = error = degrees = None
    if draws > 1 and people > 1:
        squares = np.array([people * by_draw.var(ddof=1), draws * by_person.var(ddof=1)])
        total = squares.sum()
        degrees = float(1 / ((squares / total) ** 2 / [draws - 1, people - 1]).sum()) if total else 1.0
        error = float(np.sqrt(total / table.size))
        half = float(student.ppf(0.975, degrees) * error)
        low, high = mean - half, mean + half
    deviation = float(by_draw.std(ddof=1)) if draws > 1 else None
    return CrossedMean(mean=mean, low=low, high=high, deviation=deviation, error=error, degrees=degrees)


def beyond_pool(labelled: int, pool: int, draws: int) -> float:
    """By what the standard error over draws of ``labelled`` of a pool's subjects is too small for other pools, at most.

    Given the pool, draws are independent, and their spread is right. Over pools they are not: two draws share the part
    f = labelled / pool of their subjects on average. Where a score is a mean over the labelled subjects, two scores have the
    correlation f, so that the variance of the mean of all is larger than that of the draws' spread by
    (1 + (draws - 1) f) / (1 - f); this is its root. Effects of several subjects together are shared less, and seeds not at
    all. Infinite where every draw is the whole pool: then draws differ in their seeds alone.
    Source: Nadeau and Bengio 2003, Machine Learning 52, 239-281, section 3, for training sets that overlap.
    """
    share = labelled / pool
    return float(np.sqrt((1 + (draws - 1) * share) / (1 - share))) if share < 1 else float("inf")


def by_subject(table: np.ndarray, subjects: Sequence[str] | None) -> np.ndarray:
    """``[draws, cases]`` as ``[draws, subjects]``, subjects in the order of their names; the means of the rows stay.

    A row's mean over cases is a ratio, of the sum over subjects to the number of cases; a subject's value is the mean plus
    its part of the linearised ratio (Cochran 1977, section 6.3), so that a person of nine volumes counts nine times in
    the mean, and once as somebody who might not have been there.
    """
    if subjects is None:
        return table
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    means = table.mean(axis=1, keepdims=True)
    own = (table - means) @ np.eye(len(names))[owner]
    found: np.ndarray = means + own * len(names) / table.shape[1]
    return found


def holm(values: Sequence[float], planned: int | None = None) -> list[float]:
    """P-values corrected for their number, in the order given. Source: Holm 1979, Scand J Stat 6, 65-70.

    planned: how many comparisons were meant to be made, at least those that were; what is still missing counts as p = 1, so
    that looking early is no gain.
    """
    number = len(values) if planned is None else max(planned, len(values))
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (number - rank) * values[place]))
        corrected[place] = highest
    return corrected
