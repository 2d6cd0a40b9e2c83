"""The report of a detection: the model beside the baseline, what the threshold rests on, heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import DETECTOR, Scoring
from medae.anomaly.maps.registry import BASELINES, parts_of
from medae.anomaly.postprocessing import PostprocessingConfig
from medae.data.case import ImageRef, Manifest
from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics
from medae.metrics.pooled import pooled_difference
from medae.plan import Plan
from medae.report.figures_anomaly import AnomalyCase, heatmap_panels, precision_recall, recall_by_lesion_size, scan_scores
from medae.report.figures_training import loss_curves
from medae.report.html import Report
from medae.report.view import View
from pipelines.data import description
from pipelines.detect_results import figure_words
from pipelines.detect_strata import Stratum
from pipelines.detect_titles import title_of
from pipelines.segmenting import native_image, read_native, reference
from pipelines.stage import Stage

SHOWN = 6


def make_report(
    name: str,
    stage: Stage,
    plan: Plan,
    test: Manifest,
    target: str | None,
    scoring: Scoring,
    histories: Sequence[Sequence[Mapping[str, float]]],
    evaluations: Mapping[str, AnomalyEvaluation],
    unfiltered: Mapping[str, AnomalyEvaluation],
    calibrations: Mapping[str, Calibration],
    groups: Sequence[Stratum],
    given: str,
    look_through: bool,
) -> Report:
    """Put the page together; figures are written into the stage's folder.

    histories: of each training. groups: of the test scans. given: what is to be said of a model that was given.
    look_through: with scans to be leafed through.
    """
    report = Report(f"Detection: {name}", stage.subtitle("Anomalies by reconstruction error"))
    shown = describe_scores(report, stage.figure, evaluations, unfiltered)
    describe_thresholds(report, shown, [calibrations], [evaluations])
    report.text(f"{scoring_in_words(scoring, plan)} {given}".strip())
    report.section("Scans")
    cases = _views(test, target, plan, stage, evaluations[DETECTOR].scans)
    figure = heatmap_panels(
        cases,
        stage.figure("heat-maps"),
        threshold=calibrations[DETECTOR].threshold,
        mask_name=f"{plan.space.foreground} mask",
    )
    report.figure(figure, "From the best to the worst average precision among scans with a lesion, then scans without one.")
    if look_through:
        report.viewer([_view(case, calibrations[DETECTOR].threshold) for case in cases])
    report.table(
        ["Case", "Score", "Lesion (ml)", "AUPRC", "Dice", "False positives in the mask"],
        [
            [s.case, s.score, s.lesion_ml, s.average_precision, s.dice, s.false_positive_rate]
            for s in evaluations[DETECTOR].scans
        ],
    )
    describe_groups(report, groups)
    if histories:
        report.section("Training")
    for number, history in enumerate(histories, start=1):
        alone = len(histories) == 1
        figure = loss_curves(history, stage.figure("loss" if alone else f"loss-member-{number}"))
        which = "the autoencoder" if alone else f"autoencoder {number} of {len(histories)}, whose answers are averaged"
        report.figure(figure, f"Training of {which}.", "chart")
    report.section("Data and plan")
    report.table(["Data", ""], [[key, value] for key, value in description(stage.dataset).items()])
    report.table(["Plan", "", "Reason"], plan.rows())
    return report


def describe_scores(
    report: Report,
    figure: Callable[[str], Path],
    evaluations: Mapping[str, AnomalyEvaluation],
    unfiltered: Mapping[str, AnomalyEvaluation],
) -> list[str]:
    """The section that compares the rows. figure: where one of a name is written. Returns the rows that all figures show:
    the detector and the best baseline."""
    summaries = {row: evaluation.summary() for row, evaluation in evaluations.items()}
    best = best_baseline(summaries)
    shown = [row for row in (DETECTOR, best) if row is not None]
    for row in shown:
        report.card(f"AUPRC, {title_of(row)}", summaries[row]["average_precision_pooled"], "voxels of all test scans")
    for row in shown:
        report.card(f"Dice, {title_of(row)}", summaries[row]["dice_mean"], "at the calibrated threshold")
    intervals = {row: evaluation.intervals() for row, evaluation in evaluations.items()}
    report.section("Scores")
    report.note(verdict(evaluations))
    columns = {
        "average_precision_pooled": "AUPRC, pooled",
        "average_precision_mean": "AUPRC, mean of scans",
        "auroc_pooled": "AUROC, voxels",
        "auroc_scan": "AUROC, scans",
        "average_precision_scan": "AUPRC, scans",
        "dice_mean": "Dice at the calibrated threshold",
        "dice_oracle": "Dice, oracle threshold",
        "false_positive_rate_mean": "False positives in the mask",
        "false_positive_rate_normal": "False positives in the mask, subjects without a lesion",
        "false_findings_normal": "False findings in a scan of a subject without a lesion",
        "lesion_recall": "Lesions found",
        "lesion_precision": "Findings that are lesions",
        "lesion_f1": "F1 of lesions and findings",
        "mask_recall_pooled": "Lesion inside the mask",
        "normal_l1": "Reconstruction error of normal voxels (L1)",
        "lesion_l1": "Reconstruction error of lesions (L1)",
        "l1_ratio": "Lesion L1 / normal L1, mean of scans",
    }
    report.table(
        ["", *(title_of(row) for row in summaries)],
        [
            *(
                [title, *(figure_words(summaries[row], intervals[row], key) for row in summaries)]
                for key, title in columns.items()
            ),
            [
                "AUPRC, pooled, before filters and erosion",
                *(unfiltered[row].pooled.average_precision() for row in summaries),
            ],
        ],
        caption="Voxels in each scan's own space; lesion outside the mask counts as missed. In brackets: 95 % intervals by "
        "a jackknife, where there are 5 subjects that the figure is of, with a lesion or without. The oracle threshold is "
        "chosen on the test scans themselves: an upper bound that no user can reach. All maps share mask, side, filters and "
        "calibration scans.",
    )
    curves = {row: curve for row, evaluation in evaluations.items() if (curve := evaluation.curve()) is not None}
    if curves:
        points = {row: (summaries[row]["recall_pooled"], summaries[row]["precision_pooled"]) for row in curves}
        operating = {title_of(row): (r, p) for row, (r, p) in points.items() if r is not None and p is not None}
        titled = {title_of(row): curve for row, curve in curves.items()}
        rivals = [title_of(row) for row in curves if row in BASELINES]
        drawn = precision_recall(titled, figure("precision-recall"), operating=operating, baselines=rivals)
        words = "Precision and recall of voxels. The detector's line is thick, those of the baselines are dashed."
        report.figure(drawn, words, "chart")
        strata = {title_of(row): evaluations[row].strata() for row in shown}
        sizes = recall_by_lesion_size(strata, figure("lesion-size"))
        report.figure(sizes, "Lesions found at the calibrated threshold.", "chart")
    scans = {title_of(row): evaluations[row].scans for row in shown}
    report.figure(scan_scores(scans, figure("scan-scores")), "Scan scores.", "chart")
    return shown


def describe_thresholds(
    report: Report,
    rows: Sequence[str],
    calibrations: Sequence[Mapping[str, Calibration]],
    evaluations: Sequence[Mapping[str, AnomalyEvaluation]],
) -> None:
    """The section on the thresholds of some rows, a line a fold, and on whether their promises were kept.

    calibrations, evaluations: by row, of each fold; one of each without folds.
    """
    report.section("Threshold")
    for row in rows:
        for fold, (calibration, evaluation) in enumerate(zip(calibrations, evaluations, strict=True), start=1):
            which = title_of(row).capitalize() + (f", fold {fold}" if len(calibrations) > 1 else "")
            kept = promise_in_words(calibration[row], evaluation[row])
            report.text(f"{which}: {calibration[row].rests_on()}{kept}")
    report.text(calibrations[0][DETECTOR].limits())


def describe_groups(report: Report, groups: Sequence[Stratum]) -> None:
    """The section on groups of the scans; nothing where the data set says nothing that groups them."""
    if not groups:
        return
    report.section("Groups")
    report.table(
        ["", "Group", "Subjects", "False positives in the mask", "Dice", "Scan score, mean"],
        [[s.covariate, s.group, s.subjects, s.false_positives, s.dice, s.score] for s in groups],
        caption="What the data set says of its cases. With few subjects a group, differences are to be looked at, not "
        "believed.",
    )


def promise_in_words(calibration: Calibration, evaluation: AnomalyEvaluation) -> str:
    """Whether the threshold is reached in normal test subjects as the calibration promised, by the calibration's own rule;
    empty where it cannot be told. Only more than was promised breaks the promise."""
    normal = evaluation.normal_subjects()
    rates = [share for subject, share in evaluation.reached(calibration.threshold).items() if subject in normal]
    promised = calibration.promise(len(rates)) if rates else None
    if promised is None:
        return ""
    found, (low, high) = sum(rates) / len(rates), promised
    ends = f"{low:.2%} to {high:.2%}"
    if len(rates) > 1:
        said = f" In {len(rates)} test subjects without a lesion it was reached in {found:.2%} of the mask, as their mean"
        said += f"; promised of such a mean, which varies less than a single subject, were {ends}"
    else:
        said = f" In one test subject without a lesion it was reached in {found:.2%} of the mask"
        said += f"; promised of a single subject were {ends}"
    if found < low:
        return f"{said}: fewer false positives than promised, which is harmless; the threshold is strict for these scans."
    if found > high:
        return f"{said}: not kept. They differ from the scans that the threshold was set on; set it on scans like these."
    return f"{said}: kept{', but so wide a promise is easily kept' if calibration.too_wide(high) else ''}."


def best_baseline(summaries: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The baseline with the highest pooled average precision on the test scans; None where no scan has a lesion."""
    found = {row: summaries[row]["average_precision_pooled"] for row in BASELINES if row in summaries}
    known = {row: value for row, value in found.items() if value is not None}
    return max(known, key=lambda row: known[row]) if known else None


def verdict(evaluations: Mapping[str, AnomalyEvaluation]) -> str:
    """Whether the detector found more than the best baseline, with the interval of the difference over subjects. Where there
    is none, only which of them scored higher.

    The best is chosen on these very subjects. That makes it hard to beat, and easy to fall behind: so "less" is said only by
    the interval for as many comparisons as there are baselines (Bonferroni).
    """
    summaries = {row: evaluation.summary() for row, evaluation in evaluations.items()}
    best = best_baseline(summaries)
    if best is None:
        return "No test scan has a lesion: only false positives can be judged."
    own, other = (float(summaries[row]["average_precision_pooled"] or 0.0) for row in (DETECTOR, best))
    mine, theirs = (evaluations[row].tallies for row in (DETECTOR, best))
    subjects, rivals = evaluations[DETECTOR].subjects(), sum(row in summaries for row in BASELINES)
    found, strict = (pooled_difference(mine, theirs, subjects, 1 - 0.05 / number) for number in (1, rivals))
    figures = f"pooled AUPRC {own:.3f} against {other:.3f} of the {title_of(best)}"
    if found.low is None or found.high is None:
        side = "higher than" if own > other else "lower than" if own < other else "as high as"
        return f"The detector scored {side} the best baseline: {figures}. Too few subjects to say how sure that is."
    figures += f", difference {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.n_subjects} subjects"
    if found.low > 0:
        return f"The detector found more than the best baseline: {figures}."
    if strict.high is not None and strict.high < 0:
        return f"The detector found less than a baseline: {figures}. On this data the baseline is the better tool."
    return f"The detector did not beat the best baseline: {figures}. No gain over it could be shown."


def scoring_in_words(scoring: Scoring, plan: Plan) -> str:
    """What the detector's map is, where it counts, and what is done with it."""
    side = "" if all(part.kind == "lesion_head" for part in parts_of(scoring.map)) else f"the {scoring.side} side of "
    mask = {
        "head": "a simple head mask (not a brain mask: skull and scalp are scored too)",
        "brain": "the brain mask",
        "nonzero": "the voxels that are not 0",
        "all": "the whole image",
    }[plan.space.foreground]
    return (
        f"Scored is {side}{_map_in_words(scoring)} inside {mask}, {_filters_in_words(scoring.postprocessing)}; "
        f"a scan's score is {scoring.scan_score.describe()}."
    )


def _filters_in_words(config: PostprocessingConfig) -> str:
    (across, *within), (along, *plane) = config.median, config.gaussian
    words = []
    if config.median != (1, 1, 1):
        words.append(f"a median filter of {across} slices by {within[0]} x {within[1]} voxels")
    if any(config.gaussian):
        words.append(f"a Gaussian of {along:g} slices by {plane[0]:g} x {plane[1]:g} voxels (standard deviations)")
    filtered = f"after {' and '.join(words)}" if words else "unfiltered"
    rim = f", the mask eroded by {_voxels(config.erode)} in plane" if config.erode else ""
    small = f"; findings under {config.min_component_ml:g} ml are dropped" if config.min_component_ml else ""
    return filtered + rim + small


def _voxels(number: int) -> str:
    return "1 voxel" if number == 1 else f"{number} voxels"


def _map_in_words(scoring: Scoring) -> str:
    words = {
        "residual": "the residual",
        "lesion_head": "what the lesion head finds",
        "perceptual": "the perceptual distance",
        "intensity": "the intensity",
        "blur": "the scan less a blurred copy",
    }
    parts = parts_of(scoring.map)
    named = [words[part.kind] + (" at its place" if getattr(part, "place", None) else "") for part in parts]
    rarity = {
        "none": "",
        "all": ", as its rarity among normal voxels",
        "intensity": ", as its rarity among normal voxels alike",
    }
    return " plus ".join(named) + rarity[scoring.rarity]


def _view(case: AnomalyCase, threshold: float) -> View:
    """The same scan, to be leafed through."""
    highest = 2 * threshold if threshold > 0 else max(1e-6, float(case.heat.max()))
    layers: list[tuple[str, np.ndarray, Mapping[int, str] | None, tuple[float, float]]] = [
        ("heat map", case.heat, None, (0.0, highest)),
        ("flagged", (case.prediction > 0).astype(np.uint8), {1: "flagged"}, (0.0, 1.0)),
    ]
    if case.truth is not None:
        layers.append(("lesion", (2 * (case.truth > 0)).astype(np.uint8), {2: "lesion"}, (0.0, 1.0)))
    return View.on_file(case.title, case.image, case.affine, layers, [case.detail])


def _views(test: Manifest, target: str | None, plan: Plan, stage: Stage, scans: Sequence[ScanMetrics]) -> list[AnomalyCase]:
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
                truth=None if target is None else reference(test, case, target, affine)[0],
                detail=f"AUPRC {scan.average_precision:.2f}" if scan.average_precision is not None else "no lesion",
                axis=2 if plan.space.slice_axis is None else plan.space.slice_axis,
            )
        )
    return views
