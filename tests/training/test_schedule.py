from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medae.training.config import FitConfig
from medae.training.schedule import ScheduleConfig, rate_factor


def test_warm_up_is_linear_and_reaches_the_peak():
    config = ScheduleConfig(warmup=4)
    assert [rate_factor(step, 100, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_is_half_way_down_in_the_middle():
    config = ScheduleConfig(kind="cosine", warmup=10, floor=0.2)
    assert rate_factor(60, 110, config) == pytest.approx(0.6)
    assert rate_factor(110, 110, config) == pytest.approx(0.2)


def test_poly_by_hand():
    config = ScheduleConfig(kind="poly", warmup=0, power=2.0)
    assert rate_factor(25, 100, config) == pytest.approx(0.75**2)


def test_constant_stays():
    assert rate_factor(99, 100, ScheduleConfig(kind="constant", warmup=3)) == 1.0


@given(
    kind=st.sampled_from(["cosine", "poly", "constant"]),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 600),
    floor=st.floats(0, 1),
)
def test_the_factor_rises_then_falls_within_0_and_1(kind, steps, warmup, floor):
    config = ScheduleConfig(kind=kind, warmup=warmup, floor=floor)
    factors = [rate_factor(step, steps, config) for step in range(steps)]
    rise, fall = factors[: min(warmup, steps)], factors[warmup:]
    assert all(0 <= factor <= 1 for factor in factors)
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)


def test_patience_needs_a_monitor():
    with pytest.raises(ValidationError, match="patience needs monitor"):
        FitConfig(steps=10, patience=2)


def test_only_length_and_workers_may_change_on_resuming():
    one, other = FitConfig(steps=10, workers=0), FitConfig(steps=20, workers=2)
    assert one.decisive() == other.decisive()
    assert one.decisive() != FitConfig(steps=10, seed=1).decisive()
