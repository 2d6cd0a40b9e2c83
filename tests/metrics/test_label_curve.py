"""At how many labels the baseline equals an arm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from medae.errors import DataError
from medae.metrics.label_curve import labels_equal

ALONE = "by a 95 % interval that is not corrected for the other comparisons."


def flat(level: float, draws: int = 3, cases: int = 4) -> list[list[float]]:
    return [[level] * cases for _ in range(draws)]


def test_between_two_numbers_by_hand() -> None:
    base = {1: flat(0.5), 4: flat(0.7), 16: flat(0.8)}
    found = labels_equal(base, {1: flat(0.6)}, 1, resamples=10)
    assert found.equal == pytest.approx(2.0), "half way from 1 to 4, by the logarithm"
    assert (found.low, found.high) == pytest.approx((2.0, 2.0)), "nothing differs"
    assert labels_equal(base, {1: flat(0.7)}, 1, resamples=10).equal == pytest.approx(4.0)


def test_beyond_the_ends_of_the_curve() -> None:
    base = {1: flat(0.5), 4: flat(0.7)}
    below, above = (labels_equal(base, {2: flat(level)}, 2, resamples=10) for level in (0.4, 0.9))
    assert (below.side, above.side) == ("below", "above") and below.equal is above.equal is None
    said = "masked at 2 labels scores less than scratch at 1 label, the fewest that were measured, " + ALONE
    assert below.apart and below.describe("masked", "scratch", 1, 4) == said
    said = "masked at 2 labels scores more than scratch at 4 labels, the most that were measured, " + ALONE
    assert above.apart and above.describe("masked", "scratch", 1, 4) == said


def test_beyond_an_end_by_chance_is_no_gain() -> None:
    base = {1: flat(0.5), 4: flat(0.7)}
    arm = [[0.68] * 4, [0.72] * 4, [0.74] * 4]
    found = labels_equal(base, {4: arm}, 4, resamples=200)
    assert found.side == "above" and not found.apart and found.low is not None
    said = f"masked at 4 labels equals scratch at more than 4 labels [{found.low:.1f}, more than 4]."
    assert found.describe("masked", "scratch", 1, 4) == said
    low = [[0.48] * 4, [0.46] * 4, [0.52] * 4]
    words = labels_equal(base, {1: low}, 1, resamples=200).describe("masked", "scratch", 1, 4)
    assert words.startswith("masked at 1 label equals scratch at fewer than 1 labels [fewer, ")


def test_a_curve_that_falls_is_made_level() -> None:
    base = {1: flat(0.5), 2: flat(0.7), 4: flat(0.6), 8: flat(0.9)}
    found = labels_equal(base, {1: flat(0.6)}, 1, resamples=10)
    assert found.equal == pytest.approx(2 ** (2 / 3)), "2 and 4 labels are both 0.65, and 0.6 is two thirds of the way there"


def test_two_draws_have_no_interval_and_the_words_say_so() -> None:
    base = {1: flat(0.5, 2), 4: flat(0.7, 2)}
    found = labels_equal(base, {1: flat(0.6, 2)}, 1, resamples=10)
    assert not found.certain and found.low is found.high is None
    said = "masked at 1 label equals scratch at 2.0 labels; fewer than 3 draws: no interval."
    assert found.describe("masked", "scratch", 1, 4) == said


def test_the_interval_of_draws_is_about_as_wide_as_students() -> None:
    # the curve is certain and straight, 0.1 a doubling; the arm's five draws differ, its cases do not
    base = {2**place: flat(0.1 * place, 5) for place in range(9)}
    draws = 0.4 + np.array([-0.1, -0.05, 0.0, 0.05, 0.1])
    found = labels_equal(base, {1: [[level] * 4 for level in draws]}, 1, resamples=1000)
    half = student.ppf(0.975, 4) * draws.std(ddof=1) / np.sqrt(5)
    assert np.log2([found.low, found.high]) == pytest.approx([4 - 10 * half, 4 + 10 * half], abs=0.2)


def test_volumes_of_a_person_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(0, 0.05, 8), 6)
    names = [str(person) for person in np.repeat(np.arange(8), 6)]
    base = {2**place: flat(0.1 * place, 3, 48) for place in range(9)}
    arm = {1: [(0.4 + people).tolist()] * 3}
    alone, together = (labels_equal(base, arm, 1, subjects, resamples=300) for subjects in (None, names))
    assert together.equal == pytest.approx(alone.equal)
    wide, narrow = (np.log2(found.high / found.low) for found in (together, alone))
    assert wide / narrow == pytest.approx(np.sqrt(6), rel=0.35)


@pytest.mark.parametrize("base", [{1: flat(0.5)}, {}])
def test_without_a_curve_nothing_is_found(base: dict) -> None:
    with pytest.raises(DataError, match="no curve"):
        labels_equal(base, {1: flat(0.5)}, 1)


def test_other_test_cases_are_refused() -> None:
    with pytest.raises(DataError, match="other test cases"):
        labels_equal({1: flat(0.5), 2: flat(0.6)}, {1: flat(0.5, 3, 5)}, 1)
