"""Comparisons of two arms over the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medae.config import Config
from medae.errors import DataError
from medae.seeding import numpy_generator

FEWEST = 5
"""Subjects below which a bootstrap interval is too narrow to be shown."""


class PairedDifference(Config):
    """Mean of ``a - b`` over cases and its interval.

    low, high: bounds of the 95 % percentile bootstrap interval over subjects; None with fewer than 5. It covers who was
    tested, not which cases were labelled nor the seed of the training. wins: cases in which a is above b, of n.
    """

    mean: float
    low: float | None
    high: float | None
    wins: int
    n: int
    n_subjects: int

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
            f"{verdict}. The interval is a bootstrap over the test subjects, for one draw of labelled cases and one "
            "seed; another draw may differ by more."
        )


def paired_difference(
    a: Sequence[float], b: Sequence[float], subjects: Sequence[str] | None = None, *, seed: int = 0, resamples: int = 9999
) -> PairedDifference:
    """Compare two arms case by case.

    a, b: one value a case, in the same order. subjects: whom each case is of; subjects are resampled with all their
    cases, since the cases of one person are alike. Every case is its own subject unless given.
    Raises DataError if the lengths differ or there is no case.
    """
    names = [str(place) for place in range(len(a))] if subjects is None else list(subjects)
    if not len(a) == len(b) == len(names) > 0:
        raise DataError(f"{len(a)} and {len(b)} values cannot be paired.", remedy="Evaluate both arms on the same cases.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    _, owner = np.unique(names, return_inverse=True)
    counts = np.bincount(owner)
    low = high = None
    if len(counts) >= FEWEST:
        drawn = numpy_generator(seed, "bootstrap").integers(0, len(counts), (resamples, len(counts)))
        sums = np.bincount(owner, weights=differences)
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = (float(bound) for bound in np.percentile(means, [2.5, 97.5]))
    return PairedDifference(
        mean=float(differences.mean()),
        low=low,
        high=high,
        wins=int(np.count_nonzero(differences > 0)),
        n=len(differences),
        n_subjects=len(counts),
    )
