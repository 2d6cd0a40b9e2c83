"""The labelled scans of a fine-tuning in the shapes of other training scans: made, drawn from, and shown in the report.

No label map of the target is read but those of the labelled cases. The cases that choose the weights lend no shape, nor do
validation and test subjects; a member that is trained without a fold sees neither its label maps nor its shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from medae.data.case import Case, Manifest
from medae.errors import ConfigError
from medae.parallel import usable_cores
from medae.plan import Plan
from medae.preprocessing.deformed import Pair, RegistrationConfig, alike, build_deformed, pairs_of, shared_channel
from medae.preprocessing.registration import SMALLEST
from medae.preprocessing.store import Store
from medae.report.figures_registration import Example, deformed_cases
from medae.report.html import Report
from medae.seeding import numpy_generator
from pipelines.apart import marks
from pipelines.data import MOST_WORKERS, preprocess
from pipelines.finetune_sides import Sides
from pipelines.stage import Stage
from pipelines.training import TrainingConfig

SHOWN = 4
"""Deformed cases in the report's figure."""


@dataclass(frozen=True)
class Deformed:
    """The deformed cases of all labelled ones. store: theirs. cases, shapes: the scans whose shapes they took."""

    config: RegistrationConfig
    pairs: tuple[Pair, ...]
    cases: Manifest
    store: Store
    shapes: Store

    def beside(self, labelled: Store) -> Store:
        """One store of both."""
        return replace(labelled, keys={**labelled.keys, **self.store.keys})

    def of(self, labelled: Collection[str], held: Iterable[Case] = ()) -> list[str]:
        """The deformed cases of these labelled ones, but for those in a shape of a held out subject, or of its files.

        Raises ConfigError if none is left.
        """
        kept_out = {mark for case in held for mark in marks(case)}
        lending = {case.id for case in self.cases.cases if kept_out.isdisjoint(marks(case))}
        found = [pair.case_id for pair in self.pairs if pair.moving in labelled and pair.fixed in lending]
        if not found:
            raise ConfigError(
                f"Without a fold none of {len(self.pairs)} deformed scans is left to train on.",
                where="registration",
                remedy="Use fewer folds, or give more training scans, labelled or not.",
            )
        return found


def open_deformed(
    choice: RegistrationConfig, config: TrainingConfig, stage: Stage, sides: Sides, plan: Plan, labelled: Store
) -> Deformed:
    """Register and deform, or take what was made before. Raises ConfigError if there is no scan to take the shape of."""
    cases = _lending(choice, config.fit.seed, sides.unlabelled, sides.training)
    stage.uses("unlabelled", cases)
    shapes = preprocess(cases, plan.space, (), stage.screen, config.workers)
    training = replace(labelled, keys={case.id: labelled.keys[case.id] for case in sides.training.cases})
    pairs = pairs_of(training, shapes)
    if not pairs:
        raise ConfigError(
            f"None of {len(cases.cases)} other training scans can lend its shape to a labelled one: it takes a channel in "
            f"common and {SMALLEST} voxels along every axis.",
            where="registration",
            remedy="Leave registration out, raise registration.scans, or give more training scans, labelled or not.",
        )
    if few := len(cases.cases) - len(pairs):
        stage.screen.note(f"{few} of {len(cases.cases)} training scans lend no shape: too thin, or no channel in common.")
    workers = config.workers or min(MOST_WORKERS, usable_cores())
    with stage.screen.progress("Registering scans") as report:
        store = build_deformed(training, shapes, pairs, choice, workers, report)
    if twice := store.keys.keys() & labelled.keys.keys():
        raise ConfigError(
            f"A case is called as a deformed one would be: {', '.join(sorted(twice))}.",
            where="registration",
            remedy="Rename the case, or set case_ids to hashed.",
        )
    return Deformed(choice, tuple(pairs), cases, store, shapes)


def _lending(choice: RegistrationConfig, seed: int, cases: Manifest, training: Manifest) -> Manifest:
    """The scans whose shapes are taken: all but the only labelled one, or a random choice of this seed."""
    if len(training.cases) == 1:
        cases = cases.select(lambda case: case.id != training.cases[0].id)
    if choice.scans is None or choice.scans >= len(cases.cases):
        return cases
    order = numpy_generator(seed, "registered scans").permutation(len(cases.cases))[: choice.scans]
    taken = {cases.cases[place].id for place in order}
    return cases.select(lambda case: case.id in taken)


def describe(
    report: Report, stage: Stage, deformed: Deformed, labelled: Store, target: str, labels: Mapping[int, str]
) -> None:
    """A section of the report: some labelled scans, the scans whose shapes they took, and what became of them."""
    found = {pair.case_id: alike(deformed.store[pair.case_id], deformed.shapes[pair.fixed]) for pair in deformed.pairs}
    values = list(found.values())
    report.section("Deformed scans")
    report.text(
        f"{deformed.config.share:.0%} of the labelled patches came from {len(deformed.pairs)} deformed scans: these are "
        "labelled scans that were registered to other training scans and deformed into their shapes, image and label map "
        "alike. No other label map of the target was read. A deformed scan correlates with the one whose shape it took by "
        f"{np.median(values):.2f} (median; {min(values):.2f} to {max(values):.2f})."
    )
    ranked = sorted(deformed.pairs, key=lambda pair: (found[pair.case_id], pair.case_id))
    places = np.unique(np.linspace(0, len(ranked) - 1, SHOWN).round().astype(int))
    examples = []
    for pair in (ranked[place] for place in places):
        before, shape, after = labelled[pair.moving], deformed.shapes[pair.fixed], deformed.store[pair.case_id]
        channel = shared_channel(before, shape)
        examples.append(
            Example(
                names=(pair.moving, pair.fixed),
                images=(before.image[channel], shape.image[channel], after.image[channel]),
                labels=(before.targets[target][0], after.targets[target][0]),
                spacings=(before.spacing, shape.spacing),
                detail=f"correlation {found[pair.case_id]:.2f}",
            )
        )
    figure = deformed_cases(examples, stage.figure("deformed"), labels, slice_axis=labelled.space.slice_axis)
    report.figure(figure, "A labelled scan, another one, and the first in its shape: from the least alike to the most.")
