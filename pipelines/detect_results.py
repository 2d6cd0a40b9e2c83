"""The figures of a detection's rows, and where their evaluations lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics


def evaluation_file(folder: Path, kind: str, row: str) -> Path:
    """Of a stage's folder. kind: ``filtered`` or ``unfiltered``."""
    return folder / "evaluations" / f"{row}-{kind}.json"


def row_metrics(evaluation: AnomalyEvaluation, unfiltered: AnomalyEvaluation) -> dict[str, Any]:
    """What ``result.json`` says of a row: the headline, all figures, and the cases."""
    summary = evaluation.summary()
    return {
        **headline(summary),
        "average_precision_unfiltered": unfiltered.pooled.average_precision(),
        "summary": summary,
        "cases": {scan.case: _case(scan) for scan in evaluation.scans},
    }


def headline(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table, first those that a user can reach."""
    names = (
        "average_precision_pooled",
        "average_precision_mean",
        "auroc_pooled",
        "auroc_scan",
        "dice_mean",
        "dice_oracle",
        "false_positive_rate_mean",
        "lesion_recall",
        "l1_ratio",
    )
    return {**{name: summary[name] for name in names}, "n_test": summary["n_scans"]}


def with_intervals(summary: dict[str, Any]) -> dict[str, Any]:
    """The same, and the 95 % intervals that there are."""
    bounds = {f"{name}_{end}" for name in headline(summary) for end in ("low", "high")}
    return {name: summary[name] for name in summary if name in bounds} | headline(summary)


def _case(scan: ScanMetrics) -> dict[str, Any]:
    return {
        "score": scan.score,
        "has_lesion": scan.has_lesion,
        "average_precision": scan.average_precision,
        "dice": scan.dice,
        "recall": scan.recall,
        "precision": scan.precision,
        "false_positive_rate": scan.false_positive_rate,
    }
