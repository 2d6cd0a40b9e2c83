"""Comparisons of two arms over the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_1samp

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


class CrossedDifference(Config):
    """Mean of ``a - b`` over draws of labelled cases and test cases, and its interval over both.

    low, high: bounds of the 95 % interval; None with fewer than two draws or two cases. It covers which cases were labelled
    (and what else changes with the draw, such as the seed) and which were tested. deviation: standard deviation between
    draws of a draw's mean difference; None with one draw.
    """

    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    n_draws: int
    n_cases: int


def crossed_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> CrossedDifference:
    """Compare two arms over draws of labelled cases, all scored on the same test cases.

    a, b: ``[draws][cases]``, draws and cases in the same order, a case a subject. Draws and cases are crossed random
    effects: the variance of the grand mean is estimated by (MS_draws + MS_cases) / (draws x cases), the mean squares of a
    two-way table without replicates. This is too large by the residual's share, and never negative. The interval is
    Student's, with Satterthwaite's (1946) degrees of freedom: with few draws it is wide, as it should be. A bootstrap over
    draws is not: resampling three of them gives no more than the range of the three.
    Raises DataError if the tables differ in shape or hold nothing.
    """
    one, two = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if one.shape != two.shape or one.ndim != 2 or one.size == 0:
        raise DataError(
            f"Tables of {one.shape} and {two.shape} values cannot be paired.",
            remedy="Give both arms one row a draw and one value a case.",
        )
    found = crossed_mean(one - two)
    draws = len(one)
    return CrossedDifference(
        mean=found.mean, low=found.low, high=found.high, deviation=found.deviation, n_draws=draws, n_cases=one.shape[1]
    )


class CrossedMean(Config):
    """Mean over draws and cases, and its interval over both; see ``CrossedDifference``."""

    mean: float
    low: float | None
    high: float | None
    deviation: float | None


def crossed_mean(values: Sequence[Sequence[float]] | np.ndarray) -> CrossedMean:
    """The mean of one arm over draws of labelled cases, all scored on the same test cases.

    values: ``[draws][cases]``, a case a subject. The interval is that of ``crossed_difference``.
    Raises DataError unless it is a table with values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise DataError(
            f"A table of {table.shape} values has no mean over draws and cases.",
            remedy="Give one row a draw, one value a case.",
        )
    draws, cases = table.shape
    mean, by_draw, by_case = table.mean(), table.mean(axis=1), table.mean(axis=0)
    low = high = None
    if draws > 1 and cases > 1:
        squares = np.array([cases * by_draw.var(ddof=1), draws * by_case.var(ddof=1)])
        total = squares.sum()
        degrees = 1 / ((squares / total) ** 2 / [draws - 1, cases - 1]).sum() if total else 1.0
        half = float(student.ppf(0.975, degrees) * np.sqrt(total / table.size))
        low, high = float(mean) - half, float(mean) + half
    deviation = float(by_draw.std(ddof=1)) if draws > 1 else None
    return CrossedMean(mean=float(mean), low=low, high=high, deviation=deviation)


def draws_test(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p-value of a paired t-test, one value a draw of labelled cases; None with fewer than two draws.

    Equal values in all draws have the p-value 1.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(ttest_1samp(differences, 0.0).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given. Source: Holm 1979, Scand J Stat 6, 65-70."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
