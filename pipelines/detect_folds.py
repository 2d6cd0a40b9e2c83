"""``medae detect --folds``: every subject is tested once, by a detector that has not seen it; the folds are one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import medae
from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import DETECTOR
from medae.artifact import load_artifact
from medae.config import digest, to_dict, validate
from medae.errors import MedaeError
from medae.metrics.evaluations import load_evaluation, merged
from medae.report.html import Report
from pipelines import stage
from pipelines.console import Screen, shown
from pipelines.data import open_dataset
from pipelines.detect_config import Config
from pipelines.detect_masks import describe as describe_masks
from pipelines.detect_masks import facts as mask_facts
from pipelines.detect_masks import kept_doubts
from pipelines.detect_report import describe_groups, describe_scores, describe_thresholds, scoring_in_words, verdict
from pipelines.detect_results import evaluation_file, row_metrics
from pipelines.detect_sides import sides
from pipelines.detect_strata import strata
from pipelines.detect_titles import title_of
from pipelines.files import write_json
from pipelines.outcome import Finished, open_mlflow
from pipelines.parent import Named, Parent


def command(
    name: str,
    overrides: Sequence[str],
    extra: Mapping[str, Any],
    runs: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """What ``medae detect`` does: one stage, or all folds where the configuration asks for folds and names none of them."""
    config: Config = stage.read_stage("detect", name, overrides, extra)
    if config.folds is None or config.fold is not None:
        stage.command("detect", name, overrides, extra, runs, resume, force, as_json)
        return
    screen = Screen(as_json)
    folder = runs / config.name
    finished = run_folds(config, folder, screen, force=force)
    place = folder / f"folds-{digest({'folds': [each.result.fingerprint for each in finished]})[:8]}"
    pool(config, finished, place, screen)


def run_folds(config: Config, folder: Path, screen: Screen, *, force: bool = False) -> list[Finished]:
    """One stage a fold; what is finished is skipped, what was interrupted goes on. Their detectors are not registered.

    The sides of every fold are checked before the first is trained.
    """
    _check_sides(config, screen)
    parent = Parent(Named(name=config.name, experiment=config.experiment), folder, "folds", screen)
    finished = []
    with parent:
        for fold in range(config.folds or 0):
            own = _of_fold(config, fold)
            screen.note(f"\n— fold {fold + 1} of {config.folds} —")
            label = f"fold-{fold}"
            done = stage.run_stage("detect", own, folder, screen, resume=True, force=force, parent=parent.open, label=label)
            finished.append(done)
    return finished


def _check_sides(config: Config, screen: Screen) -> None:
    """Raises DataError or ConfigError, with the fold, if the sides of one are not what a detection needs."""
    dataset = open_dataset(_of_fold(config, 0), screen)
    known: dict[str, bool] = {}
    for fold in range(config.folds or 0):
        own = _of_fold(config, fold)
        try:
            sides(own, replace(dataset, split=own.divide(dataset.manifest)), known)
        except MedaeError as error:
            raise type(error)(
                f"Fold {fold + 1} of {config.folds}: {error.what}", where=error.where, remedy=error.remedy
            ) from error


def _of_fold(config: Config, fold: int) -> Config:
    """The configuration of one fold."""
    return validate(Config, to_dict(config) | {"fold": fold, "registered": False}, where=f"fold {fold}")


def _calibrations(finished: Finished) -> dict[str, Calibration]:
    """The thresholds of a fold, by row."""
    known = finished.result.facts["calibration"]
    return {row: validate(Calibration, each, where=finished.folder) for row, each in known.items()}


def pool(config: Config, finished: Sequence[Finished], place: Path, screen: Screen) -> dict[str, Any]:
    """Put the evaluations of all folds together: report and ``result.json`` in ``place``; returns the latter."""
    rows = list(finished[0].result.metrics)
    by_fold, unfiltered_by_fold = (
        [{row: load_evaluation(evaluation_file(each.folder, kind, row)) for row in rows} for each in finished]
        for kind in ("filtered", "unfiltered")
    )
    filtered, unfiltered = (
        {row: merged([each[row] for each in folds]) for row in rows} for folds in (by_fold, unfiltered_by_fold)
    )
    metrics = {row: row_metrics(filtered[row], unfiltered[row]) for row in rows}
    page = Report(
        f"Detection in {config.folds} folds: {config.name}", "Every scan scored by a detector that has not seen it"
    )

    def figure(name: str) -> Path:
        (place / "figures").mkdir(parents=True, exist_ok=True)
        return place / "figures" / f"{name}.png"

    best = describe_scores(page, figure, filtered, unfiltered)
    describe_thresholds(page, best, [_calibrations(each) for each in finished], by_fold)
    plan = load_artifact(finished[0].folder / finished[0].result.models["detector"]).meta.plan
    page.text(scoring_in_words(config.scoring, plan))
    groups = strata(open_dataset(_of_fold(config, 0), screen).manifest, filtered[DETECTOR])
    describe_groups(page, groups)
    doubts = [doubt for each in finished for doubt in kept_doubts(each.result.facts.get("doubtful_masks", {}))]
    describe_masks(page, doubts)
    page.section("Folds")
    page.text(
        "Each fold has a threshold of its own, from its own normal validation scans, and a report of its own beside this "
        "one. Pooled figures compare the values of all folds."
    )
    page.table(
        ["Fold", *(f"AUPRC, {title_of(row)}" for row in rows), "Report"],
        [
            [
                number,
                *(each.result.metrics[row]["average_precision_pooled"] for row in rows),
                f"{each.folder.name}/report.html",
            ]
            for number, each in enumerate(finished, start=1)
        ],
    )
    page.write(place / "report.html")
    result = {
        "stage": "detect",
        "name": config.name,
        "normals": config.normals,
        "folds": [{"run_id": each.result.run_id, "folder": each.folder.name} for each in finished],
        "metrics": metrics,
        "facts": {"sentences": [verdict(filtered)]}
        | ({"groups": [asdict(group) for group in groups]} if groups else {})
        | ({"doubtful_masks": mask_facts(doubts)} if doubts else {}),
        "medae": medae.__version__,
    }
    write_json(place / "result.json", result)
    headers = ("average_precision_pooled", "average_precision_mean", "dice_mean", "false_positive_rate_mean", "n_test")
    screen.table(
        f"{config.name}: {config.folds} folds",
        ["", *headers],
        [[row, *(metrics[row][key] for key in headers)] for row in rows],
    )
    screen.say(verdict(filtered))
    screen.say(f"Report: {shown(place / 'report.html')}")
    screen.say(f"MLflow: {open_mlflow()}")
    screen.json(result)
    return result
