"""How many labels an arm saves: at how many the baseline scores as much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import norm
from scipy.stats import t as student

from medae.config import Config
from medae.errors import DataError
from medae.metrics.statistics import by_subject
from medae.seeding import numpy_generator

Tables = Mapping[int, Sequence[Sequence[float]]]
"""Scores of an arm by the number of labels: ``[draws][cases]``, the same cases everywhere, draws in order from the first."""

FEWEST = 3
"""Draws without which there is no interval: what two of them differ by says next to nothing of others."""

UNCORRECTED = "by a 95 % interval that is not corrected for the other comparisons"


class LabelsEqual(Config):
    """At how many labels the baseline equals an arm of ``labels`` labels.

    equal, low, high: with the bounds of a 95 % interval over draws and test subjects together; None beyond the baseline's
    curve, as far as it was measured: ``equal`` and ``high`` above its most labels, ``low`` below its fewest. side: where
    ``equal`` is, ``within`` the curve or beyond an end of it. apart: the whole interval is beyond that end. certain: whether
    there is an interval; too few draws have none.
    """

    labels: int
    equal: float | None
    low: float | None
    high: float | None
    side: Literal["within", "below", "above"]
    apart: bool = False
    certain: bool = True

    def describe(self, arm: str, baseline: str, fewest: int, most: int) -> str:
        """A sentence for a report. fewest, most: labels that the baseline was measured with."""
        start = f"{arm} at {_named(self.labels)}"
        if self.apart and self.side == "below":
            return f"{start} scores less than {baseline} at {_named(fewest)}, the fewest that were measured, {UNCORRECTED}."
        if self.apart:
            return f"{start} scores more than {baseline} at {_named(most)}, the most that were measured, {UNCORRECTED}."
        said = {"within": f"{self.equal or 0:.1f}", "below": f"fewer than {fewest}", "above": f"more than {most}"}[self.side]
        said = f"{start} equals {baseline} at {said} labels"
        if not self.certain:
            return f"{said}; fewer than {FEWEST} draws: no interval."
        low = "fewer" if self.low is None else f"{self.low:.1f}"
        high = f"more than {most}" if self.high is None else f"{self.high:.1f}"
        return f"{said} [{low}, {high}]."


def _named(labels: int) -> str:
    return f"{labels} label" if labels == 1 else f"{labels} labels"


def labels_equal(
    baseline: Tables,
    arm: Tables,
    labels: int,
    subjects: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> LabelsEqual:
    """At how many labels the baseline scores what an arm does with ``labels``.

    The baseline's means are made monotone in the number of labels (isotonic regression, weighted by draws), and joined by
    straight lines over its logarithm. Resampled are the test subjects, the same for all, and the draws; where two numbers of
    labels have as many draws, the same of both, as a draw of more labels contains that of fewer. A bootstrap of few draws is
    too narrow, so a resampled mean's distance from the mean is stretched to the width of Student's interval: by
    sqrt(n / (n - 1)) t(n - 1) / z, n the number of draws. subjects: whom each case is of; each is its own unless given.
    Raises DataError if the arm has no such number of labels, or the baseline fewer than two.
    """
    if labels not in arm or len(baseline) < 2:
        raise DataError(
            f"There is no curve to find {labels} labels on.",
            remedy="Measure the baseline with at least two numbers of labels.",
        )
    mine = by_subject(np.asarray(arm[labels], dtype=np.float64), subjects)
    base = {count: by_subject(np.asarray(table, dtype=np.float64), subjects) for count, table in sorted(baseline.items())}
    people = mine.shape[1]
    if any(table.shape[1] != people for table in base.values()):
        raise DataError("The arms were scored on other test cases.", remedy="Score both on the same.")
    generator = numpy_generator(seed, "labels_equal")
    weights = [len(table) for table in base.values()]
    found = _where(list(base), [float(table.mean()) for table in base.values()], weights, float(mine.mean()))
    draws = sorted({len(table) for table in (*base.values(), mine)})
    widths = {number: _width(number) for number in draws}
    drawn = []
    for _ in range(resamples):
        places = {number: generator.integers(0, number, size=number) for number in draws}
        kept = np.asarray(generator.integers(0, people, size=people))
        *means, value = (_again(table[:, kept], places[len(table)], widths[len(table)]) for table in (*base.values(), mine))
        drawn.append(_where(list(base), means, weights, value))
    low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")
    certain = draws[0] >= FEWEST

    side: Literal["within", "below", "above"] = "within" if np.isfinite(found) else "below" if found < 0 else "above"
    return LabelsEqual(
        labels=labels,
        equal=_finite(found),
        low=_finite(low) if certain else None,
        high=_finite(high) if certain else None,
        side=side,
        apart=certain and bool((side == "below" and high == -np.inf) or (side == "above" and low == np.inf)),
        certain=certain,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _width(draws: int) -> float:
    """By what a resampled mean's distance from the mean is stretched: see ``labels_equal``."""
    fewer = max(1, draws - 1)
    return float(student.ppf(0.975, fewer) / norm.ppf(0.975) * np.sqrt(draws / fewer))


def _again(table: np.ndarray, drawn: np.ndarray, width: float) -> float:
    """The mean of a table of drawn subjects over drawn draws, stretched about that of all draws."""
    means = table.mean(axis=1)
    return float(means.mean() + (means[drawn].mean() - means.mean()) * width)


def _where(counts: Sequence[int], means: Sequence[float], weights: Sequence[int], value: float) -> float:
    """The number of labels at which a curve has a value, infinite beyond its ends."""
    curve = isotonic_regression(means, weights=weights).x
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
