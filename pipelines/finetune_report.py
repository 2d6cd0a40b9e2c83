"""The report of a fine-tuning: scores, the comparison of the arms, overlays of the best, median and worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medae.data.case import Case, ImageRef
from medae.metrics.segmentation import case_dice, dice_and_volume
from medae.report.figures_segmentation import (
    OverlayCase,
    best_median_worst,
    case_overlays,
    dice_by_volume,
    dice_strip,
    reliability_diagram,
)
from medae.report.figures_training import loss_curves, rate_curves
from medae.report.html import Report
from medae.report.view import View
from medae.report.viewer import MOST
from medae.training.finetuning import rates_by_part
from medae.training.loop import FitResult
from medae.transfer import TransferReport
from pipelines.augmenting import show_augmentation
from pipelines.data import description
from pipelines.deformed import describe as describe_deformed
from pipelines.finetune_config import CHOOSER, Config
from pipelines.finetune_members import TrainedArm
from pipelines.finetune_results import Results
from pipelines.finetune_training import Setting
from pipelines.segmenting import native_image, read_native, reference
from pipelines.stage import Stage
from pipelines.unlabelled import describe as describe_unlabelled

CALLED = {
    "validation": "one of the split's validation subjects",
    "out-of-fold": "a labelled case, segmented by the member that was trained without its label map. Each member had fewer "
    "labels than all of them together, whose mean is the model that is kept and was not tested itself; a pretrained encoder "
    "may have seen the images",
}
"""What a report means by a test case, where no test subject was scored."""


@dataclass(frozen=True)
class Training:
    """How an arm was trained. words: its rates. rates: by part of the network and step. results: by member. chosen: whether
    cases chose each member's weights."""

    words: str
    rates: Mapping[str, Sequence[float]]
    results: Mapping[str, FitResult]
    chosen: bool


def training_of(config: Config, arm: TrainedArm) -> Training:
    """What the report says of an arm's training."""
    fit, tuning = config.fit_of(arm.name, config.fit.seed), config.tuning_of(arm.name)
    words = f"{fit.steps} steps, peak rate {fit.rate:g}; "
    words += "all weights learn alike" if tuning is None else tuning.describe(fit.steps)
    levels = arm.members[0].network.encoder.config.levels
    found = {member.name: member.result for member in arm.members}
    return Training(words, rates_by_part(fit, tuning, levels), found, fit.monitor is not None)


def make_report(
    setting: Setting, trained: Mapping[str, TrainedArm], results: Results, moved: TransferReport | None
) -> Report:
    """Put the page together; figures are written into the stage's folder."""
    config, stage = setting.config, setting.stage
    report = Report(
        f"Fine-tuning: {config.name}",
        stage.subtitle(f"Segmentation of '{config.target}' from {_labelled(setting)}"),
    )
    dice = {arm: case_dice(values) for arm, values in results.metrics.items()}
    _scores(report, results)
    if all(dice.values()):
        figure = dice_strip(dice, stage.figure("dice"), reference=_base(dice))
        words = f" The arm that the others are compared with, {_base(dice)}, stands at the left." if len(dice) > 1 else ""
        report.figure(figure, f"Dice of every test case.{words}", "chart")
    report.section("Cases")
    for arm in trained:
        if dice[arm]:
            figure = case_overlays(_views(setting, arm, dice[arm]), stage.figure(f"cases-{arm}"), setting.labels)
            report.figure(figure, f"Best, median and worst test case by Dice: {arm}.")
    own = next(iter(trained))
    if dice[own]:
        figure = dice_by_volume(dice_and_volume(results.metrics[own]["cases"]), stage.figure("dice-volume"))
        report.figure(figure, f"Dice against the volume of the reference: {own}.", "chart")
        reliability = {arm: found for arm, found in results.facts["reliability"].items() if found["bins"]}
        if reliability:
            report.figure(
                reliability_diagram(reliability, stage.figure("reliability")),
                "Is the network right as often as it is sure? Voxels that it gave a label, over all test cases. "
                "Below the diagonal it is too sure. The expected calibration error stands beside each arm.",
                "chart",
            )
        if config.registered:  # one of many trainings is not looked through
            report.text("The worst test cases first:").viewer(_to_look_through(setting, own, dice[own]))
    report.section("Training")
    _trainings(report, stage, {name: training_of(config, arm) for name, arm in trained.items()})
    if moved is not None:
        _transfer(report, moved)
    report.section("Data and plan")
    report.table(["Data", ""], [[key, value] for key, value in description(stage.dataset).items()])
    report.table(["Plan", "", "Reason"], setting.plan.rows())
    if (beside := setting.unlabelled) is not None:
        first = trained[beside.config.kind].members[0]
        describe_unlabelled(report, stage, beside, config.objective, first, setting.labels)
    if setting.deformed is not None:
        describe_deformed(report, stage, setting.deformed, setting.store, config.target, setting.labels)
    patches = setting.sampler(config.fit.seed)
    show_augmentation(report, stage, setting.augmentation, patches, setting.plan, setting.labels)
    return report


def _labelled(setting: Setting) -> str:
    """How many subjects have labels, and what for."""
    count, choosing = setting.sides.labelled_subjects, setting.config.selection
    words = f"{count} labelled subjects"
    return f"{words}: {count - choosing} to train on, {choosing} to choose the weights" if choosing else words


def _scores(report: Report, results: Results) -> None:
    """Cards and tables of the figures, and what the arms' differences say."""
    metrics = results.metrics
    columns = ("dice_mean", "hd95_mean", "surface_dice_mean", "n_test")
    for arm, values in metrics.items():
        report.card(f"Dice, {arm}", values["dice_mean"], f"{values['n_test']} test cases")
    report.section("Scores")
    if results.part in CALLED:
        report.note(f"What is called a test case here is {CALLED[results.part]}.", "caution")
    for caution in results.cautions:
        report.note(caution, "caution")
    report.table(
        ["Arm", "Dice", "HD95 (mm)", "Surface Dice", "Test cases"],
        [[arm, *(values[column] for column in columns)] for arm, values in metrics.items()],
        best={"Dice": "max", "HD95 (mm)": "min", "Surface Dice": "max"},
        caption="Mean over the labels of a case, then over cases, in each scan's own space. A structure that is missed or "
        "invented counts as Dice 0 and as the image diagonal in HD95, one that is rightly absent as Dice 1.",
    )
    for sentence in results.facts["sentences"]:
        if sentence not in results.cautions:
            report.text(sentence)
    report.table(
        ["Arm", "Label", "Dice", "HD95 (mm)", "Surface Dice", "Cases with it", "Found in others"],
        [
            [arm, label, score["dice"], score["hd95"], score["surface_dice"], score["n"], score["invented"]]
            for arm, values in metrics.items()
            for label, score in values["labels"].items()
        ],
    )
    if "members" in results.facts:
        _members(report, metrics, results.facts["members"], folds="out_of_fold" in results.facts)
    if "out_of_fold" in results.facts and results.part != "out-of-fold":
        report.table(
            ["Out of fold", "Dice", "HD95 (mm)", "Surface Dice", "Labelled cases"],
            [[arm, *(found[column] for column in columns)] for arm, found in results.facts["out_of_fold"].items()],
            caption="The labelled training cases, each segmented by the member that was trained without its label map. Each "
            "member had fewer labels than the arm as one model, and a pretrained encoder may have seen the images.",
        )


def _trainings(report: Report, stage: Stage, trainings: Mapping[str, Training]) -> None:
    """How each arm was trained: its rates and its losses."""
    for arm, training in trainings.items():
        report.text(f"{arm.capitalize()}: {training.words}.")
    rates = {arm: training.rates for arm, training in trainings.items()}
    report.figure(rate_curves(rates, stage.figure("rates")), "The learning rate of each part of the network.", "chart")
    for training in trainings.values():
        for member, found in training.results.items():
            kept = found.best_step if training.chosen else None
            curves = loss_curves(found.history, stage.figure(f"loss-{member}"), kept)
            words = (
                "" if kept is None else f" The weights of step {kept} are kept: the best {CHOOSER} of the choosing cases."
            )
            report.figure(curves, f"Training: {member}.{words}", "chart")


def _transfer(report: Report, moved: TransferReport) -> None:
    """What the pretrained arms took over, tensor by tensor."""
    report.text(f"Transfer: {moved.summary}.")
    for place in moved.differences:
        report.text(f"The encoders differ in {place}")
    report.table(
        ["Tensor", "Status", "Reason"], [[row.name, row.status, row.reason] for row in moved.rows], caption="Transfer."
    )


def _members(report: Report, metrics: Mapping[str, Any], members: Mapping[str, Any], *, folds: bool) -> None:
    """A table of each arm as one model, beside its members one by one."""
    columns = ("dice_mean", "hd95_mean", "surface_dice_mean")
    rows: list[list[Any]] = []
    for arm, found in members.items():
        rows.append([f"{arm}, {len(found['each'])} members as one", *(metrics[arm][key] for key in columns)])
        rows.append([f"{arm}, mean of its members alone", *(found["mean"][key] for key in columns)])
        rows += [[name, *(figures[key] for key in columns)] for name, figures in found["each"].items()]
    report.table(
        ["Model", "Dice", "HD95 (mm)", "Surface Dice"],
        rows,
        caption="An arm's probabilities are the mean of its members'. The mean of their figures is what one training is "
        f"expected to reach; how far they lie apart is the noise of a seed{' and of a fold left out' if folds else ''}.",
    )


def _base(arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with."""
    return "scratch" if "scratch" in arms else next(iter(arms))


def _to_look_through(setting: Setting, arm: str, dice: Mapping[str, float]) -> list[View]:
    """The cases with the lowest Dice, with reference and prediction over them."""
    test, names = setting.sides.scored, {value: name for value, name in setting.labels.items() if value}
    views = []
    for case_id in sorted(dice, key=lambda case: (dice[case], case))[:MOST]:
        image, affine, truth, found = _case(setting, test.case(case_id), arm)
        layers = [(title, array, names, (0.0, 1.0)) for title, array in (("reference", truth), ("prediction", found))]
        views.append(View.on_file(case_id, image, affine, layers, [f"Dice {dice[case_id]:.3f}"]))
    return views


def _case(setting: Setting, case: Case, arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image and affine, reference and prediction, on the file's own axes."""
    test, space = setting.sides.scored, setting.plan.space
    ref = next(ref for name in space.channels if isinstance(ref := case.images.get(name), ImageRef))
    image, affine = native_image(test, ref)
    found, _ = read_native(setting.stage.folder / "predictions" / arm / f"{case.id}.nii.gz", "labels")
    return image, affine, reference(test, case, setting.config.target, affine)[0], found


def _views(setting: Setting, arm: str, dice: Mapping[str, float]) -> list[OverlayCase]:
    views = []
    for rank, case_id in best_median_worst(dice).items():
        image, affine, truth, found = _case(setting, setting.sides.scored.case(case_id), arm)
        views.append(
            OverlayCase(
                title=f"{rank}: {case_id}",
                image=image,
                labels={"reference": truth, "prediction": found},
                affine=affine,
                detail=f"Dice {dice[case_id]:.3f}",
                slice_axis=setting.plan.space.slice_axis,
            )
        )
    return views
