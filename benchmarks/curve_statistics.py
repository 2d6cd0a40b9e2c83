"""How far the statistics of a label curve can be trusted: simulations in which the truth is known.

    python benchmarks/curve_statistics.py p         how often no difference has a p below a level, as a multiple of the level
    python benchmarks/curve_statistics.py labels    how often the interval of the labels saved holds the truth
    python benchmarks/curve_statistics.py pool      how often the interval of draws that overlap holds the truth

Dice of an arm is a sum of what a draw of labelled cases, a test case and chance contribute, each normal; of ``pool`` the
draw's part is the mean of its subjects'. One core takes a minute, four minutes, and a minute.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import t as student

from medae.metrics.label_curve import labels_equal
from medae.metrics.statistics import beyond_pool, crossed_difference

LEVELS = (0.05, 0.05 / 16)
CHANCE = 0.02


def p_values(draws: int, of_draws: float, of_cases: float, cases: int = 60, trials: int = 4000) -> list[float]:
    """By level, how often p is below it, over the level: of the interval's t, then of the test."""
    rng, zero = np.random.default_rng(0), np.zeros((draws, cases))
    found = []
    for _ in range(trials):
        table = rng.normal(0, of_draws, (draws, 1)) + rng.normal(0, of_cases, (1, cases))
        made = crossed_difference(table + rng.normal(0, CHANCE, (draws, cases)), zero)
        found.append((2 * student.sf(abs(made.mean) / made.error, made.degrees), made.p()))
    return [float((np.array(found)[:, column] < level).mean() / level) for column in (0, 1) for level in LEVELS]


def coverage(draws: int, of_draws: float = 0.02, trials: int = 120) -> float:
    """How often the interval holds the truth: 2 labels of the arm are worth 2.8 of the baseline."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(trials):
        people, shared = rng.normal(0, 0.04, 60), rng.normal(0, 0.7 * of_draws, (draws, 1))

        def table(level: float, shared: np.ndarray = shared, people: np.ndarray = people) -> list[list[float]]:
            own = rng.normal(0, 0.7 * of_draws, (draws, 1)) + rng.normal(0, 0.03, (draws, 60))
            made: list[list[float]] = (level + people + shared + own).tolist()
            return made

        base = {number: table(0.6 + 0.04 * np.log2(number)) for number in (1, 2, 4, 8)}
        found = labels_equal(base, {2: table(0.6 + 0.04 * 1.5)}, 2, resamples=250)
        held += (found.low or 0) <= 2**1.5 <= (found.high or np.inf)
    return held / trials


def pools(labelled: int, pool: int, draws: int, cases: int = 60, trials: int = 4000) -> list[float]:
    """How often the interval holds the mean over all draws from the pool, that over all pools, and that if it is stretched.

    The spread between draws is 0.012 whatever their size, a third of its variance the seeds'.
    """
    rng, zero, held = np.random.default_rng(0), np.zeros((draws, cases)), []
    of_people = 0.012 * np.sqrt(2 / 3 * labelled / (1 - labelled / pool))
    for _ in range(trials):
        people = rng.normal(0, of_people, pool)
        own = np.array([rng.permutation(people)[:labelled].mean() for _ in range(draws)])
        own += rng.normal(0, 0.012 * np.sqrt(1 / 3), draws)
        table = own[:, None] + rng.normal(0, 0.01, (1, cases)) + rng.normal(0, CHANCE, (draws, cases))
        made = crossed_difference(table, zero)
        half = (made.high or 0) - made.mean
        stretched = half * beyond_pool(labelled, pool, draws)
        held.append((abs(made.mean - people.mean()) <= half, abs(made.mean) <= half, abs(made.mean) <= stretched))
    return [float(value) for value in np.mean(held, axis=0)]


def main() -> None:
    """Print a line a case."""
    if sys.argv[1:] == ["p"]:
        print("draws, deviation of draws, of cases: interval's t at", LEVELS, "; the test at", LEVELS)
        for draws in (3, 8):
            for of_draws, of_cases in ((0.012, 0.01), (0.004, 0.01), (0.012, 0.0), (0.0, 0.01)):
                print(draws, of_draws, of_cases, *(f"{value:.2f}" for value in p_values(draws, of_draws, of_cases)))
    elif sys.argv[1:] == ["labels"]:
        for draws in (3, 5, 8):
            print(draws, f"draws: {coverage(draws):.3f}")
    elif sys.argv[1:] == ["pool"]:
        print("labels, of, draws: this pool, other pools, other pools by an interval that is longer by the last")
        for labelled, pool in ((4, 160), (16, 160), (4, 32), (8, 32), (16, 32)):
            for draws in (3, 8):
                told = " ".join(f"{value:.3f}" for value in pools(labelled, pool, draws))
                print(labelled, pool, draws, told, f"{beyond_pool(labelled, pool, draws):.2f}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
