"""The section of a report that shows what augmentation makes of the training patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.plan import Plan
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.preprocessing.store import Store
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
    config: AugmentationConfig,
    plan: Plan,
    store: Store,
    cases: Sequence[str],
    drawing: SamplerConfig,
    seed: int,
    labels: Mapping[int, str] | None = None,
    target: str | None = None,
) -> None:
    """A section with the transformations in use and what they make of patches of the training cases; none without any."""
    augment = Augmentation.of_plan(config, plan)
    if not augment.rows():
        return
    sampler = PatchSampler(store, cases, plan.space, drawing, seed, target=target, margin=augment.margin)
    # the samples' random numbers go by their place, so that those that are not shown need not be augmented
    batches = [
        sampler.batch(step).first(MOST_SAMPLES - step * drawing.batch) for step in range(-(-MOST_SAMPLES // drawing.batch))
    ]
    still = Augmentation.of_plan(AugmentationConfig(preset="none"), plan)
    rows = {"As read": _patches([still(batch, Draw(seed, 0)) for batch in batches], target)}
    for time in range(SHOWN_DRAWS):
        draws = [Draw(seed, time, place * drawing.batch).scoped("augmentation") for place in range(len(batches))]
        shown = [augment(batch, draw) for batch, draw in zip(batches, draws, strict=True)]
        rows[f"Augmented, draw {time + 1}"] = _patches(shown, target)
    first, second, third = (1.0 if step is None else step for step in plan.space.spacing)
    figure = augmented_patches(
        rows,
        stage.figure("augmentation"),
        spacing=(first, second, third),
        slice_axis=plan.space.slice_axis,
        names=labels,
    )
    report.section("Augmentation")
    report.figure(figure, "Training patches as they were read and as the network sees them; the middle slice of each.")
    report.table(["Transformation", "Probability", "Strength"], augment.rows())


def _patches(batches: Sequence[Batch], target: str | None) -> Patches:
    """The first channel."""
    images = torch.cat([batch.image[:, 0] for batch in batches])
    labels = None if target is None else torch.cat([batch.target[target][:, 0] for batch in batches]).numpy()
    return Patches(images.numpy(), labels)
