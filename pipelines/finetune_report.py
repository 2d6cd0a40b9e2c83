"""The report of a fine-tuning: scores, the comparison of the arms, overlays of the best, median and worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medae.data.case import ImageRef, Manifest
from medae.metrics.statistics import PairedDifference
from medae.plan import Plan
from medae.report.figures_segmentation import OverlayCase, best_median_worst, case_overlays, dice_strip
from medae.report.figures_training import loss_curves
from medae.report.html import Report
from medae.transfer import TransferReport
from pipelines.data import description
from pipelines.segmenting import native_image, read_native, reference
from pipelines.stage import Stage


def case_dice(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice over the labels of each case of an arm's summary; cases without any are left out."""
    means = {}
    for case, labels in metrics["cases"].items():
        values = [score["dice"] for score in labels.values() if score["dice"] is not None]
        if values:
            means[case] = float(np.mean(values))
    return means


def make_report(
    name: str,
    stage: Stage,
    plan: Plan,
    test: Manifest,
    target: str,
    labels: Mapping[int, str],
    metrics: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    differences: Mapping[tuple[str, str], PairedDifference],
    moved: TransferReport | None,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> Report:
    """Put the page together; figures are written into the stage's folder."""
    report = Report(
        f"Fine-tuning: {name}",
        stage.subtitle(f"Segmentation of '{target}' from {facts['labelled_subjects']} labelled subjects"),
    )
    columns = ("dice_mean", "hd95_mean", "surface_dice_mean", "n_test")
    for arm, values in metrics.items():
        report.card(f"Dice, {arm}", values["dice_mean"], f"{values['n_test']} test cases")
    report.section("Scores")
    for arm, label in never_found(metrics):
        report.note(f"{arm} never found {label}: its Dice is 0 in every case.", "caution")
    report.table(
        ["Arm", "Dice", "HD95 (mm)", "Surface Dice", "Test cases"],
        [[arm, *(values[column] for column in columns)] for arm, values in metrics.items()],
        best={"Dice": "max", "HD95 (mm)": "min", "Surface Dice": "max"},
        caption="Mean over the labels of a case, then over cases, in each scan's own space. A structure that is missed or "
        "invented counts as Dice 0 and as the image diagonal in HD95.",
    )
    for pair, difference in differences.items():
        report.text(difference.describe(*pair))
    report.table(
        ["Arm", "Label", "Dice", "HD95 (mm)", "Surface Dice", "Cases"],
        [
            [arm, label, score["dice"], score["hd95"], score["surface_dice"], score["n"]]
            for arm, values in metrics.items()
            for label, score in values["labels"].items()
        ],
    )
    dice = {arm: case_dice(values) for arm, values in metrics.items()}
    if all(dice.values()):
        report.figure(dice_strip(dice, stage.figure("dice"), reference=_base(dice)), "Dice of every test case.", "chart")
    report.section("Cases")
    for arm in histories:
        if dice[arm]:
            cases = _views(test, target, plan, stage, arm, dice[arm])
            figure = case_overlays(cases, stage.figure(f"cases-{arm}"), labels)
            report.figure(figure, f"Best, median and worst test case by Dice: {arm}.")
    report.section("Training")
    for arm, history in histories.items():
        report.figure(loss_curves(history, stage.figure(f"loss-{arm}")), f"Training: {arm}.", "chart")
    if moved is not None:
        report.text(f"Transfer: {moved.summary}.")
        for place in moved.differences:
            report.text(f"The encoders differ in {place}")
        report.table(
            ["Tensor", "Status", "Reason"], [[row.name, row.status, row.reason] for row in moved.rows], caption="Transfer."
        )
    report.section("Data and plan")
    report.table(["Data", ""], [[key, value] for key, value in description(stage.dataset).items()])
    report.table(["Plan", "", "Reason"], plan.rows())
    return report


def never_found(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arm and label of every structure that an arm missed in all cases that have it: a mean hides it."""
    return [
        (arm, label) for arm, values in metrics.items() for label, score in values["labels"].items() if score["dice"] == 0
    ]


def _base(arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with."""
    return "scratch" if "scratch" in arms else next(iter(arms))


def _views(test: Manifest, target: str, plan: Plan, stage: Stage, arm: str, dice: Mapping[str, float]) -> list[OverlayCase]:
    views = []
    for rank, case_id in best_median_worst(dice).items():
        case = test.case(case_id)
        ref = next(ref for name in plan.space.channels if isinstance(ref := case.images.get(name), ImageRef))
        image, affine = native_image(test, ref)
        found, _ = read_native(stage.folder / "predictions" / arm / f"{case_id}.nii.gz", "labels")
        views.append(
            OverlayCase(
                title=f"{rank}: {case_id}",
                image=image,
                labels={"reference": reference(test, case, target)[0], "prediction": found},
                affine=affine,
                detail=f"Dice {dice[case_id]:.3f}",
                slice_axis=plan.space.slice_axis,
            )
        )
    return views
