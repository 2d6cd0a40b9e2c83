"""How many labels an arm saves: at how many the baseline scores as much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from medae.config import Config
from medae.errors import DataError
from medae.seeding import numpy_generator

Tables = Mapping[int, Sequence[Sequence[float]]]
"""Scores of an arm by the number of labels: ``[draws][cases]``, the same cases everywhere."""


class LabelsEqual(Config):
    """At how many labels the baseline equals an arm of ``labels`` labels.

    equal, low, high: with the bounds of a 95 % percentile bootstrap interval over draws and test cases together; None where
    the baseline's curve, as far as it was measured, does not get there: above its most labels. below: the arm scores less
    than the baseline with the fewest labels that were measured.
    """

    labels: int
    equal: float | None
    low: float | None
    high: float | None
    below: bool

    def describe(self, arm: str, baseline: str, most: int) -> str:
        """A sentence for a report. most: the most labels that the baseline was measured with."""
        start = f"{arm} at {self.labels} labels"
        if self.below:
            return f"{start} scores less than {baseline} with the fewest labels that were measured."
        if self.equal is None:
            return f"{start} scores more than {baseline} at {most} labels, the most that were measured."
        low = "fewer" if self.low is None else f"{self.low:.1f}"
        high = f"more than {most}" if self.high is None else f"{self.high:.1f}"
        return f"{start} equals {baseline} at {self.equal:.1f} labels [{low}, {high}]."


def labels_equal(baseline: Tables, arm: Tables, labels: int, *, seed: int = 0, resamples: int = 2000) -> LabelsEqual:
    """At how many labels the baseline scores what an arm does with ``labels``.

    The baseline's means are made monotone in the number of labels (isotonic regression, weighted by draws), and joined by
    straight lines over its logarithm. Resampled are the test cases, the same for all, and the draws; draws of equal number
    are resampled together, as a draw of more labels contains that of fewer. With few draws a bootstrap is too narrow: each
    resampled deviation from the mean is stretched by sqrt(n / (n - 1)), n the number of draws.
    Raises DataError if the arm has no such number of labels, or the baseline fewer than two.
    """
    if labels not in arm or len(baseline) < 2:
        raise DataError(
            f"There is no curve to find {labels} labels on.",
            remedy="Measure the baseline with at least two numbers of labels.",
        )
    mine = np.asarray(arm[labels], dtype=np.float64)
    base = {count: np.asarray(table, dtype=np.float64) for count, table in sorted(baseline.items())}
    cases = mine.shape[1]
    if any(table.shape[1] != cases for table in base.values()):
        raise DataError("The arms were scored on other test cases.", remedy="Score both on the same.")
    generator = numpy_generator(seed, "labels_equal")
    found = _where(base, mine)
    most = max(len(table) for table in (*base.values(), mine))
    drawn = []
    for _ in range(resamples):
        places = generator.random(most)
        kept = np.asarray(generator.integers(0, cases, size=cases))
        drawn.append(_where({n: _again(table, places, kept) for n, table in base.items()}, _again(mine, places, kept)))
    low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")

    def finite(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return LabelsEqual(labels=labels, equal=finite(found), low=finite(low), high=finite(high), below=bool(found == -np.inf))


def _again(table: np.ndarray, places: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """A resampled table, as means of draws: drawn rows, stretched about their mean, of the drawn cases."""
    rows = len(table)
    means = table[:, cases].mean(axis=1)
    again = means[(places[:rows] * rows).astype(int)]
    stretched: np.ndarray = means.mean() + (again - means.mean()) * np.sqrt(rows / max(1, rows - 1))
    return stretched[:, None]


def _where(base: Mapping[int, np.ndarray], mine: np.ndarray) -> float:
    """The number of labels, infinite beyond the curve's ends."""
    counts = list(base)
    curve = isotonic_regression([base[n].mean() for n in counts], weights=[len(base[n]) for n in counts]).x
    value = mine.mean()
    if value < curve[0]:
        return -np.inf
    if value > curve[-1]:
        return np.inf
    after = int(np.searchsorted(curve, value, side="left"))
    if after == 0:
        return float(counts[0])
    low, high = curve[after - 1], curve[after]
    share = (value - low) / (high - low)
    return float(2 ** (np.log2(counts[after - 1]) * (1 - share) + np.log2(counts[after]) * share))
