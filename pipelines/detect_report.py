"""The report of a detection: the model beside the baseline, what the threshold rests on, heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import Scoring
from medae.data.case import ImageRef, Manifest
from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics
from medae.metrics.voxelscores import VoxelScores
from medae.plan import Plan
from medae.report.figures_anomaly import AnomalyCase, heatmap_panels, precision_recall, recall_by_lesion_size, scan_scores
from medae.report.figures_training import loss_curves
from medae.report.html import Report
from pipelines.data import description
from pipelines.segmenting import native_image, read_native, reference
from pipelines.stage import Stage

MODEL, INTENSITY = "model", "intensity"
SHOWN = 6


def make_report(
    name: str,
    stage: Stage,
    plan: Plan,
    test: Manifest,
    target: str,
    scoring: Scoring,
    history: Sequence[Mapping[str, float]],
    evaluations: Mapping[str, AnomalyEvaluation],
    unfiltered: Mapping[str, VoxelScores],
    calibrations: Mapping[str, Calibration],
) -> Report:
    """Put the page together; figures are written into the stage's folder."""
    report = Report(f"Detection: {name}", stage.subtitle("Anomalies by reconstruction error"))
    summaries = {arm: evaluation.summary() for arm, evaluation in evaluations.items()}
    for arm, summary in summaries.items():
        report.card(f"AUPRC, {arm}", summary["average_precision_pooled"], "voxels of all test scans")
    for arm, summary in summaries.items():
        report.card(f"Dice, {arm}", summary["dice_mean"], "at the calibrated threshold")
    report.section("Scores")
    report.note(verdict(summaries))
    columns = {
        "average_precision_pooled": "AUPRC, pooled",
        "average_precision_mean": "AUPRC, mean of scans",
        "auroc_pooled": "AUROC, voxels",
        "auroc_scan": "AUROC, scans",
        "dice_mean": "Dice at the calibrated threshold",
        "dice_oracle": "Dice, oracle threshold",
        "false_positive_rate_mean": "False positives in the mask",
        "lesion_recall": "Lesions found",
        "lesion_precision": "Findings that are lesions",
        "mask_recall_pooled": "Lesion inside the mask",
        "l1_ratio": "Lesion L1 / normal L1",
    }
    report.table(
        ["", *summaries],
        [
            *([title, *(summary[key] for summary in summaries.values())] for key, title in columns.items()),
            ["AUPRC, pooled, without the median filter", *(unfiltered[arm].average_precision() for arm in summaries)],
        ],
        caption="Voxels in each scan's own space; lesion outside the mask counts as missed. The oracle threshold is chosen "
        "on the test scans themselves: an upper bound that no user can reach. Both rows share mask and filter.",
    )
    curves = {arm: curve for arm, evaluation in evaluations.items() if (curve := evaluation.curve()) is not None}
    if curves:
        points = {arm: (summaries[arm]["recall_pooled"], summaries[arm]["precision_pooled"]) for arm in curves}
        operating = {arm: (r, p) for arm, (r, p) in points.items() if r is not None and p is not None}
        figure = precision_recall(curves, stage.figure("precision-recall"), operating=operating)
        report.figure(figure, "Precision and recall of voxels.", "chart")
        strata = {arm: evaluation.strata() for arm, evaluation in evaluations.items()}
        sizes = recall_by_lesion_size(strata, stage.figure("lesion-size"))
        report.figure(sizes, "Lesions found at the calibrated threshold.", "chart")
    scans = {arm: evaluation.scans for arm, evaluation in evaluations.items()}
    report.figure(scan_scores(scans, stage.figure("scan-scores")), "Scan scores.", "chart")
    report.section("Threshold")
    for arm, calibration in calibrations.items():
        report.text(f"{arm.capitalize()}: {calibration.describe()}")
    report.text(_scoring_in_words(scoring, plan))
    report.section("Scans")
    cases = _views(test, target, plan, stage, evaluations[MODEL].scans)
    figure = heatmap_panels(
        cases, stage.figure("heat-maps"), threshold=calibrations[MODEL].threshold, mask_name=f"{plan.space.foreground} mask"
    )
    report.figure(figure, "From the best to the worst average precision among scans with a lesion, then scans without one.")
    report.table(
        ["Case", "Score", "Lesion (ml)", "AUPRC", "Dice", "False positives in the mask"],
        [
            [s.case, s.score, s.lesion_ml, s.average_precision, s.dice, s.false_positive_rate]
            for s in evaluations[MODEL].scans
        ],
    )
    if history:
        report.section("Training")
        report.figure(loss_curves(history, stage.figure("loss")), "Training of the autoencoder.", "chart")
    report.section("Data and plan")
    report.table(["Data", ""], [[key, value] for key, value in description(stage.dataset).items()])
    report.table(["Plan", "", "Reason"], plan.rows())
    return report


def verdict(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the model found more than the intensity alone, in one sentence."""
    model, plain = (summaries[arm]["average_precision_pooled"] for arm in (MODEL, INTENSITY))
    if model is None or plain is None:
        return "No test scan has a lesion: only false positives can be judged."
    if model > plain:
        return f"The model found more than thresholding the intensity: pooled AUPRC {model:.3f} against {plain:.3f}."
    return (
        f"The model did not beat thresholding the intensity: pooled AUPRC {model:.3f} against {plain:.3f}. "
        "On this data it adds nothing to the plain image."
    )


def _scoring_in_words(scoring: Scoring, plan: Plan) -> str:
    across, *within = scoring.postprocessing.median
    mask = {
        "head": "a simple head mask (not a brain mask: skull and scalp are scored too)",
        "brain": "the brain mask",
        "nonzero": "the voxels that are not 0",
        "all": "the whole image",
    }[plan.space.foreground]
    return (
        f"Scored is the {scoring.residual} residual inside {mask}, after a median filter of {across} slices by "
        f"{within[0]} x {within[1]} voxels; a scan's score is the mean of its highest {scoring.top_share:.1%} of voxels."
    )


def _views(test: Manifest, target: str, plan: Plan, stage: Stage, scans: Sequence[ScanMetrics]) -> list[AnomalyCase]:
    """A spread of scans with lesions, from best to worst, and up to two without."""
    sick = sorted((scan for scan in scans if scan.has_lesion), key=lambda scan: -(scan.average_precision or 0.0))
    well = [scan for scan in scans if not scan.has_lesion]
    places = np.unique(np.linspace(0, len(sick) - 1, min(SHOWN - min(2, len(well)), len(sick))).round().astype(int))
    views = []
    for scan in [*(sick[place] for place in places), *well[:2]]:
        case = test.case(scan.case)
        ref = next(ref for name in plan.space.channels if isinstance(ref := case.images.get(name), ImageRef))
        image, affine = native_image(test, ref)
        heat, flagged, mask = (
            read_native(stage.folder / "maps" / f"{scan.case}_{kind}.nii.gz", "intensity")[0]
            for kind in ("heatmap", "anomaly", "mask")
        )
        views.append(
            AnomalyCase(
                title=scan.case,
                image=image,
                heat=heat,
                prediction=flagged,
                mask=mask,
                affine=affine,
                truth=reference(test, case, target)[0],
                detail=f"AUPRC {scan.average_precision:.2f}" if scan.average_precision is not None else "no lesion",
                axis=2 if plan.space.slice_axis is None else plan.space.slice_axis,
            )
        )
    return views
