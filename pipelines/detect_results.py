"""The figures of a detection's rows, and where their evaluations lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics
from medae.report.html import format_value

COUNTS = ("false_findings_normal",)
"""Figures that count."""


def evaluation_file(folder: Path, kind: str, row: str) -> Path:
    """Of a stage's folder. kind: ``filtered`` or ``unfiltered``."""
    return folder / "evaluations" / f"{row}-{kind}.json"


def row_metrics(evaluation: AnomalyEvaluation, unfiltered: AnomalyEvaluation) -> dict[str, Any]:
    """What ``result.json`` says of a row: the headline, all figures with the intervals that there are, and the cases."""
    summary = evaluation.summary()
    return {
        **headline(summary),
        "average_precision_unfiltered": unfiltered.pooled.average_precision(),
        "summary": summary,
        "intervals": {name: list(ends) for name, ends in evaluation.intervals().items()},
        "lesion_sizes": {size.label: {"lesions": size.lesions, "found": size.found} for size in evaluation.strata()},
        "cases": {scan.case: _case(scan) for scan in evaluation.scans},
    }


def headline(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table, all of which a user can reach."""
    names = (
        "average_precision_pooled",
        "average_precision_mean",
        "auroc_pooled",
        "auroc_scan",
        "average_precision_scan",
        "dice_mean",
        "false_positive_rate_mean",
        "lesion_recall",
        "lesion_precision",
        "l1_ratio",
    )
    return {**{name: summary[name] for name in names}, "n_test": summary["n_scans"]}


def with_intervals(evaluation: AnomalyEvaluation) -> dict[str, Any]:
    """The headline, and the 95 % intervals that there are."""
    found = headline(evaluation.summary())
    ends = {name: interval for name, interval in evaluation.intervals().items() if name in found}
    low, high = ({f"{name}_{end}": both[place] for name, both in ends.items()} for place, end in enumerate(("low", "high")))
    return found | low | high


def figure_words(summary: Mapping[str, Any], intervals: Mapping[str, tuple[float, float]], name: str) -> str | None:
    """Such as ``0.745 [0.644, 0.825]``, without ends where there is no interval; None without the figure. Counts, and means
    of counts, have three digits and no decimals that are 0."""
    value = summary[name]
    if value is None:
        return None
    value, *ends = (_count(each) if name in COUNTS else format_value(each) for each in (value, *intervals.get(name, ())))
    return f"{value} [{', '.join(ends)}]" if ends else value


def _count(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else format_value(float(value))


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
