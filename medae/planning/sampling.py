"""The rules of patch and batch: by number of voxels, or such that a training step fits a memory target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from medae.errors import ConfigError
from medae.plan import SamplingPlan
from medae.planning.hints import Choice, PlanHints, given
from medae.planning.memory import bytes_of, in_words, usable
from medae.planning.network import Draft, draft, drafts, largest_cube

PATCH_VOXELS = {2: 512 * 512, 3: 128**3}
"""Largest patch by spatial dimensions where no memory is stated: two such samples of a 32-wide U-Net come to 6 GiB."""

BATCH_VOXELS = 2**20
"""Voxels a step aims at, within the two limits on the number of samples."""

FEWEST_SAMPLES, MOST_SAMPLES = 2, 16

MARGIN = 1.25
"""What is larger than the target by this much, in proportion to the largest candidate, is not tried."""

T = TypeVar("T")
Need = Callable[[Draft, int], int]
"""Bytes of a training step with a draft's network and patch, and so many samples."""


def by_voxels(sizes: Sequence[int], pitch: Sequence[float | None], hints: PlanHints) -> tuple[Choice[Draft], Choice[int]]:
    """Patch and batch without a memory target."""
    target = hints.patch or largest_cube(sizes, [step or 1.0 for step in pitch], PATCH_VOXELS[len(sizes)])
    made = draft(target, sizes, pitch, hints)
    batch = Choice(batch_goal(made.patch), _batch_rule()) if hints.batch is None else given(hints.batch)
    if hints.patch is not None:
        return given(made), batch
    cut = list(target) != list(sizes)
    limit = f", more than {PATCH_VOXELS[len(sizes)]:,} at once, so it is cut to one edge in mm"
    return Choice(made, f"{_median(sizes)}{limit if cut else ''}; a multiple of the strides"), batch


def by_memory(
    sizes: Sequence[int], pitch: Sequence[float | None], hints: PlanHints, need: Need
) -> tuple[Choice[Draft], Choice[int]]:
    """The largest patch of which the fewest samples fit the target, then as many samples as fit and as a step aims at.

    More memory never gives a smaller patch, nor fewer voxels a step. Raises ConfigError if nothing fits.
    """
    stated = bytes_of(hints.memory or "")
    target = usable(stated)
    candidates = drafts(sizes, pitch, hints)
    fewest = hints.batch or (FEWEST_SAMPLES if hints.patch is None else 1)
    made = largest_that_fits(candidates, lambda each: each.voxels, lambda each: need(each, fewest), target)
    if made is None:
        smallest = candidates[-1]
        raise ConfigError(
            f"A training step on {fewest} patches of {'x'.join(map(str, smallest.patch))}, the smallest, is estimated at "
            f"{in_words(need(smallest, fewest))}, more than the "
            f"{in_words(target)} that are usable of {in_words(stated)}.",
            where="memory",
            remedy="State more memory, give smaller widths, or leave out the patch or batch that was given.",
        )
    if hints.patch is not None:
        patch = given(made)
    elif made == candidates[0]:
        patch = Choice(made, f"{_median(sizes)}, which fit the memory; a multiple of the strides")
    else:
        patch = Choice(made, f"{_median(sizes)}, more than the memory holds {fewest} times, so it is cut to one edge in mm")
    if hints.batch is not None:
        return patch, given(hints.batch)
    if made != candidates[0]:
        return patch, Choice(fewest, "the fewest samples: the memory goes to the patch")
    most = most_samples(fewest, batch_goal(made.patch), lambda count: need(made, count), target)
    return patch, Choice(most, f"{_batch_rule()}; as many as fit the memory")


def largest_that_fits(
    candidates: Sequence[T], size: Callable[[T], float], need: Callable[[T], int], target: float
) -> T | None:
    """The first of the candidates, largest first, that needs no more than the target; None if none does.

    Those that could not fit even if the need shrank with the size by less than the margin are passed over unasked.
    """
    largest = need(candidates[0])
    if largest <= target:
        return candidates[0]
    likely = [each for each in candidates[1:] if largest * size(each) / size(candidates[0]) <= MARGIN * target]
    return next((each for each in likely if need(each) <= target), None)


def most_samples(fits: int, goal: int, need: Callable[[int], int], target: float) -> int:
    """How many samples fit, of which so many are known to, up to the goal: by halving, as each sample adds to the need."""
    most = max(fits, goal)
    while fits < most:
        middle = (fits + most + 1) // 2
        fits, most = (middle, most) if need(middle) <= target else (fits, middle - 1)
    return fits


def batch_goal(patch: Sequence[int]) -> int:
    """Samples a step, by voxels."""
    return min(max(BATCH_VOXELS // math.prod(patch), FEWEST_SAMPLES), MOST_SAMPLES)


def sampling(made: Draft, batch: int) -> SamplingPlan:
    """As the plan has it."""
    return SamplingPlan(patch=made.patch, batch=batch)


def _batch_rule() -> str:
    return f"about {BATCH_VOXELS // 10**6} million voxels a step, from {FEWEST_SAMPLES} to {MOST_SAMPLES} samples"


def _median(sizes: Sequence[int]) -> str:
    return f"the median case has {'x'.join(map(str, sizes))} voxels in the plan's space"
