"""Comparisons of two arms over the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from medae.config import Config
from medae.errors import DataError
from medae.seeding import numpy_generator

FEWEST = 5
"""Cases below which a bootstrap interval is too narrow to be shown."""


class PairedDifference(Config):
    """Mean of ``a - b`` over cases and its interval.

    low, high: bounds of the 95 % percentile bootstrap interval over cases; None with fewer than 5 cases. It covers which
    cases were tested, not which cases were labelled nor the seed of the training.
    wins: cases in which a is above b.
    """

    mean: float
    low: float | None
    high: float | None
    wins: int
    n: int

    def describe(self, a: str, b: str) -> str:
        """One sentence for a report."""
        if self.low is None or self.high is None:
            return f"{a} - {b}: {self.mean:+.4f} on {self.n} cases: too few to say anything."
        if self.low > 0 or self.high < 0:
            verdict = f"{a if self.mean > 0 else b} was better on these cases"
        else:
            verdict = "no difference could be shown"
        return (
            f"{a} - {b}: {self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}], {a} above in {self.wins} of {self.n} cases: "
            f"{verdict}. The interval is a bootstrap over test cases of one draw of labelled cases and one seed; another "
            "draw may differ by more."
        )


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 9999) -> PairedDifference:
    """Compare two arms case by case.

    a, b: one value a case, in the same order. Raises DataError if their lengths differ or there is none.
    """
    if len(a) != len(b) or not len(a):
        raise DataError(f"{len(a)} and {len(b)} values cannot be paired.", remedy="Evaluate both arms on the same cases.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    low = high = None
    if len(differences) >= FEWEST:
        rng = numpy_generator(seed, "bootstrap")
        found = stats.bootstrap((differences,), np.mean, n_resamples=resamples, method="percentile", rng=rng)
        low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    wins = int(np.count_nonzero(differences > 0))
    return PairedDifference(mean=float(differences.mean()), low=low, high=high, wins=wins, n=len(differences))
