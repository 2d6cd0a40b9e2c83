"""Who is for what in a fine-tuning: labelled, choosing, unlabelled and test cases, and that no scan is on two sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medae.data.case import Manifest
from medae.data.split import labelled_subset
from medae.errors import ConfigError
from pipelines.apart import keep_apart
from pipelines.data import refuse_seen
from pipelines.segmenting import with_target
from pipelines.stage import Stage

Scored = Literal["test", "validation", "both"]
Side = Literal["test", "validation", "out-of-fold"]


@dataclass(frozen=True)
class Sides:
    """The cases of each side. labelled: those of ``training`` and those of ``selection``, which choose the weights.

    trainable: all of the split's training subjects. unlabelled: those without the ones that choose; their label maps are
    not read. scored: the cases of the side that ``scored_as`` names; out of fold they are the labelled ones, each scored by
    the member that has not seen it. validation: those that are scored beside. Both with the target.
    """

    labelled_subjects: int
    labelled: Manifest
    training: Manifest
    selection: Manifest
    trainable: Manifest
    unlabelled: Manifest
    scored: Manifest
    validation: Manifest
    scored_as: Side


def take_sides(
    stage: Stage,
    target: str,
    labelled: int | None,
    salt: str,
    selection: int,
    *,
    unlabelled: bool,
    scored: Scored,
    folds: bool = False,
) -> Sides:
    """Take the first ``labelled`` training subjects with the target in the salt's order, the last of them for ``selection``.

    unlabelled: whether the images of all training subjects are trained on. scored: ``Config.scored``. folds: whether each
    labelled case is left out of a member's training, so that a test side is not needed.
    Raises ConfigError if none has the target or selection leaves none to train on, and DataError, with the cases' ids, if a
    scan is on two sides, or if a model that the stage starts from has seen a validation or test subject.
    """
    dataset, split = stage.dataset, stage.dataset.split
    if not labelled_subset(dataset.manifest, split.train, None, salt, target):
        known = sorted({name for case in dataset.subset(split.train).cases for name in case.targets})
        raise ConfigError(
            f"No training subject has the target '{target}'.",
            where="target",
            remedy=f"They have: {', '.join(known)}." if known else "They have no target at all: check data and split.",
        )
    subjects = labelled_subset(dataset.manifest, split.train, labelled, salt, target)
    if selection >= len(subjects):
        raise ConfigError(
            f"selection takes {selection} of {len(subjects)} labelled training subjects: none is left to train on.",
            where="selection",
            remedy="Lower it, or give more labelled subjects.",
        )
    chosen = with_target(dataset.subset(subjects), target)
    training = chosen.of_subjects(subjects[: len(subjects) - selection])
    choosing = chosen.of_subjects(subjects[len(subjects) - selection :])
    trainable = dataset.subset(split.train)
    without = trainable.select(lambda case: all(case.subject != other.subject for other in choosing.cases))
    held = {"test": dataset.subset(split.test), "validation": dataset.subset(split.validation)}
    keep_apart({"training": without if unlabelled else training, "selection": choosing, **held})
    for name, model in stage.inputs.items():
        for part, cases in held.items():
            refuse_seen(cases, model, name, part)
    scored_as: Side = "validation" if scored == "validation" else "test" if split.test or not folds else "out-of-fold"
    main = chosen if scored_as == "out-of-fold" else with_target(held[scored_as], target)
    beside = with_target(held["validation"], target) if scored == "both" else main.of_subjects([])
    return Sides(len(subjects), chosen, training, choosing, trainable, without, main, beside, scored_as)
