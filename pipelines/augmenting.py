"""The section of a report that shows what augmentation makes of the training patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.plan import Plan
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler
from medae.report.figures_augmentation import Patches, augmented_patches
from medae.report.figures_training import MOST_SAMPLES
from medae.report.html import Report
from medae.seeding import Draw
from pipelines.stage import Stage

SHOWN_DRAWS = 3
"""How often the first patches are augmented for the report."""


def show_augmentation(
    report: Report,
    stage: Stage,
    augment: Augmentation,
    sampler: PatchSampler,
    plan: Plan,
    labels: Mapping[int, str] | None = None,
) -> None:
    """A section with the transformations in use and what they make of training patches; none without any.

    sampler: of patches with the margin that ``augment`` needs. labels: value -> name, of the sampler's target.
    """
    if not augment.rows():
        return
    target, seed, size = sampler.target, sampler.seed, sampler.config.batch
    # the samples' random numbers go by their place, so that those that are not shown need not be augmented
    batches = [sampler.batch(step).first(MOST_SAMPLES - step * size) for step in range(-(-MOST_SAMPLES // size))]
    still = Augmentation.of_plan(AugmentationConfig(preset="none"), plan)
    rows = {"As read": _patches([still(batch, Draw(seed, 0)) for batch in batches], target)}
    for time in range(SHOWN_DRAWS):
        draws = [Draw(seed, time, place * size).scoped("augmentation") for place in range(len(batches))]
        shown = [augment(batch, draw) for batch, draw in zip(batches, draws, strict=True)]
        rows[f"Augmented, draw {time + 1}"] = _patches(shown, target, turned=any(augment.flip))
    first, second, third = (1.0 if step is None else step for step in plan.space.spacing)
    figure = augmented_patches(
        rows,
        stage.figure("augmentation"),
        spacing=(first, second, third),
        slice_axis=plan.space.slice_axis,
        names=labels,
    )
    report.section("Augmentation")
    channels = plan.space.channels
    seen = f", channel {channels[0]}" if len(channels) > 1 else ""
    report.figure(
        figure, f"Training patches as they were read and as the network sees them; the middle slice of each{seen}."
    )
    report.table(["Transformation", "Probability", "Strength"], augment.rows())


def _patches(batches: Sequence[Batch], target: str | None, turned: bool = False) -> Patches:
    """The first channel."""
    images = torch.cat([batch.centre[:, 0] for batch in batches])
    labels = None if target is None else torch.cat([batch.target[target][:, 0] for batch in batches]).numpy()
    return Patches(images.numpy(), labels, turned)
