"""Patch and batch by a memory target, with estimates that can be counted by hand."""

import math

import pytest
from handmade import found
from hypothesis import given, settings
from hypothesis import strategies as st

from medae.errors import ConfigError
from medae.plan import Plan
from medae.planning.hints import PlanHints
from medae.planning.memory import WORK_SPACE, Estimator, usable
from medae.planning.network import drafts
from medae.planning.rules import make_plan
from medae.planning.sampling import largest_that_fits, most_samples

KIB = 2**10
ESTIMATOR = Estimator(lambda plan: 50 * 2**20 + KIB * plan.sampling.batch * math.prod(plan.sampling.patch), "a step")
"""50 MiB of weights, 1 KiB a voxel."""

HEAD = found((160, 200, 180))


def plan_for(source=HEAD, **hints) -> Plan:
    return make_plan(source, ESTIMATOR, **hints)


def target(gib: float) -> int:
    """What an estimate may come to: nine tenths, less a quarter of a GiB."""
    return round(gib * 2**30 * 0.9 - 2**28)


def test_what_is_usable_of_a_target():
    assert usable(8 * 2**30) == pytest.approx(target(8), abs=1)
    assert usable(WORK_SPACE) == 0


def test_without_a_target_the_estimate_is_stated():
    plan = plan_for()
    assert plan.sampling == make_plan(HEAD).sampling
    assert plan.sampling.batch * math.prod(plan.sampling.patch) == 2 * 128**3
    assert "a step is estimated at 4.05 GiB" in plan.reasons["sampling.batch"]  # 2 x 2 GiB + 50 MiB


def test_the_patch_is_the_largest_of_which_two_samples_fit():
    plan = plan_for(memory="8G")
    assert plan.sampling.batch == 2
    assert 2 * math.prod(plan.sampling.patch) * KIB + 50 * 2**20 <= target(8)
    assert plan.sampling.patch == (128, 160, 160), "one cell more would be 160x160x160, 8 GiB"
    assert "cut to one edge in mm" in plan.reasons["sampling.patch"]
    assert "the memory goes to the patch" in plan.reasons["sampling.batch"]
    assert plan.reasons["sampling.batch"].endswith(" of 8 GiB")


def test_what_fits_whole_is_taken_whole_and_the_batch_grows_to_its_goal():
    small = found((35, 50, 36))
    patch = (40, 56, 40)
    assert plan_for(small, memory="24G").sampling == make_plan(small).sampling  # 11 samples: a million voxels
    voxels = math.prod(patch)
    for samples in (2, 3, 7):
        stated = (50 * 2**20 + (samples + 0.5) * voxels * KIB + WORK_SPACE) / 0.9
        sampling = plan_for(small, memory=f"{stated / 2**20:.0f}M").sampling
        assert (sampling.patch, sampling.batch) == (patch, samples)


def test_a_patch_or_a_batch_that_was_given_stays():
    assert plan_for(memory="4G", patch=(96, 96, 96)).sampling.batch == 2, "the goal"
    assert plan_for(memory="1.5G", patch=(96, 96, 96)).sampling.batch == 1, "0.84 GiB a sample, 1.1 usable"
    assert plan_for(memory="4G", patch=(64, 64, 64)).sampling.batch == 4
    four = plan_for(memory="8G", batch=4)
    assert four.sampling.batch == 4
    assert 4 * math.prod(four.sampling.patch) * KIB + 50 * 2**20 <= target(8)


@pytest.mark.parametrize("hints", [{}, {"patch": (128, 128, 128)}, {"batch": 64}, {"patch": (64, 64, 64), "batch": 64}])
def test_what_cannot_fit_is_refused_with_the_estimate(hints):
    with pytest.raises(ConfigError, match=r"is estimated at .+, more than the .+ that are usable of 0.3\d* GiB"):
        plan_for(memory="320M", **hints)


def test_a_target_needs_an_estimator_and_an_amount():
    with pytest.raises(ConfigError, match="needs an estimator"):
        make_plan(HEAD, memory="8G")
    with pytest.raises(ConfigError, match="'lots' is no amount of memory"):
        plan_for(memory="lots")


def test_levels_that_were_asked_for_are_kept_however_little_memory_there_is():
    plan = plan_for(memory="1G", widths=(8, 16, 32, 64))
    assert len(plan.network.widths) == 4
    assert min(plan.sampling.patch) >= 32


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(12, 400)] * 3),
    steps=st.tuples(*[st.floats(0.4, 4.0)] * 3),
    targets=st.tuples(*[st.floats(1.0, 80.0)] * 2),
    dims=st.sampled_from([2, 3]),
    jitter=st.floats(0.0, 0.3),
)
def test_more_memory_never_gives_fewer_voxels(shape, steps, targets, dims, jitter):
    def size(plan: Plan) -> int:
        """Not quite proportional to the voxels: deeper networks cost more."""
        voxels = plan.sampling.batch * math.prod(plan.sampling.patch)
        return round(voxels * KIB * (1 + jitter * (len(plan.network.strides) % 2)))

    less, more = sorted(targets)
    plans = [
        make_plan(found(shape, steps), Estimator(size, "a step"), memory=f"{gib}G", spatial_dims=dims)
        for gib in (less, more)
    ]
    patches = [math.prod(plan.sampling.patch) for plan in plans]
    assert patches[0] <= patches[1]
    assert patches[0] * plans[0].sampling.batch <= patches[1] * plans[1].sampling.batch
    for gib, plan in zip((less, more), plans, strict=True):
        assert size(plan) <= target(gib) + 1


def test_patches_shrink_by_a_cell_along_their_longest_edge():
    chain = [made.patch for made in drafts((160, 200, 180), (1.0, 1.0, 1.0), PlanHints())]
    assert chain[:5] == [(160, 224, 192), (160, 192, 192), (160, 160, 192), (160, 160, 160), (128, 160, 160)]
    flat = [made.patch for made in drafts((43, 43, 8), (0.7, 0.7, 1.25), PlanHints())]
    assert flat[:3] == [(48, 48, 8), (40, 48, 8), (40, 40, 8)], "8 slices of 1.25 mm are the shortest edge"
    assert [made.patch for made in drafts((43, 43, 8), (0.7, 0.7, 1.25), PlanHints(patch=(32, 32, 8)))] == [(32, 32, 8)]


def test_the_first_that_fits_is_found_without_asking_hopeless_ones():
    asked = []

    def need(size: int) -> int:
        asked.append(size)
        return 10 * size

    assert largest_that_fits([100, 90, 50, 20, 10], lambda size: size, need, 250) == 20
    assert asked == [100, 20]
    assert largest_that_fits([100, 90], lambda size: size, need, 950) == 90
    assert largest_that_fits([100, 90], lambda size: size, need, 50) is None


@pytest.mark.parametrize(("target", "most"), [(200, 2), (299, 2), (300, 3), (1100, 11), (5000, 11)])
def test_the_batch_is_found_by_halving(target, most):
    assert most_samples(2, 11, lambda count: 100 * count, target) == most
