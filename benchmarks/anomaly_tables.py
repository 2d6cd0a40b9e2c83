"""The tables of the low-grade gliomas in five folds, as Markdown: from the lines of ``anomaly_folds.py`` alone.

python benchmarks/anomaly_folds.py --table
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medae.anomaly.maps.registry import BASELINES
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import merged, tally_of, unpacked
from medae.metrics.pooled import Tally, mean_difference, mean_interval, pooled_average_precision
from pipelines.detect_diagnosis import words_of

FOLDS = 5
SETTLED_ON = (
    *("CS_4941", "CS_5393", "CS_5396", "CS_6665", "DU_5851", "DU_5855", "DU_5872", "DU_5874", "DU_6401"),
    *("DU_6407", "DU_6408", "DU_7014", "DU_7019", "DU_8162", "DU_8163", "DU_A5TW", "FG_6688", "HT_7855"),
)
"""Patients, not tested in fold 0, by whose maps there it was settled what ``lgg_lesions`` draws and how long it trains: the
others are shown alone, too."""

Line = dict[str, Any]
Cell = tuple[str, int, int]
"""Configuration, seed, fold."""


@dataclass(frozen=True)
class Row:
    """All folds as one. unfiltered: average precision pooled over the voxels of all patients, without the filter."""

    filtered: AnomalyEvaluation
    unfiltered: float


Rows = dict[tuple[str, str, int], Row]
"""By configuration, row and seed."""


def tables(found: Sequence[Line]) -> str:
    """All that is printed of the lines. Raises SystemExit as in `pooled`."""
    rows = pooled(found)
    text = "\n\n".join((table(rows), table_of_others(rows), table_of_intervals(rows)))
    if len(states := {line["source"] for line in found}) > 1:
        text += f"\nMeasured with {len(states)} states of the code: {', '.join(sorted(states))}."
    return text


def cell_of(line: Line) -> Cell:
    """What a line was measured of."""
    return line["configuration"], line["seed"], line["fold"]


def pooled(found: Sequence[Line]) -> Rows:
    """The rows whose folds are all there. Raises SystemExit if the lines do not belong together."""
    for what in ("masks", "data"):
        if len({line[what] for line in found}) > 1:
            raise SystemExit(f"The lines were measured with different {what}: measure all of them with the same.")
    recipes: dict[str, set[str]] = {}
    for line in found:
        recipes.setdefault(line["configuration"], set()).add(line["recipe"])
    if changed := [name for name, own in recipes.items() if len(own) > 1]:
        raise SystemExit(f"{', '.join(changed)} was measured as it is and as it was: take the older lines out.")
    if len({cell_of(line) for line in found}) < len(found):
        raise SystemExit("A cell is there more than once: take the older line out.")
    parts: dict[tuple[str, str, int], dict[int, Mapping[str, Any]]] = {}
    for line in found:
        for row, kinds in line["rows"].items():
            parts.setdefault((line["configuration"], row, line["seed"]), {})[line["fold"]] = kinds
    return {
        key: Row(
            merged([unpacked(own[fold]["filtered"], key[0]) for fold in sorted(own)]),
            pooled_average_precision([tally_of(own[fold]["unfiltered"]) for fold in sorted(own)]),
        )
        for key, own in parts.items()
        if len(own) == FOLDS
    }


COLUMNS = {
    "average_precision_mean": "mean of patients",
    "auroc_pooled": "AUROC",
    "dice_mean": "Dice",
    "dice_oracle": "Dice, oracle",
    "lesion_recall": "lesions found",
    "lesion_precision": "findings that are lesions",
    "lesion_f1": "F1 of both",
    "false_positive_rate_mean": "false positives",
    "l1_ratio": "L1 ratio",
}


def table(rows: Rows) -> str:
    """One line a row: the headline with its interval, what it is above the best baseline, then everything else.

    Of several seeds the means stand there; their intervals leave a patient out of all seeds at once.
    """
    reference = best_of(rows)
    if reference is None:
        return "No configuration has been measured in all folds with its baselines."
    heads = ["configuration", "row", "seeds", "AUPRC [95 %]", "above the best baseline", "unfiltered", *COLUMNS.values()]
    text = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for name, row, each in listed(rows):
        cells = [name if row not in BASELINES else "–", row, spread(each), headline(each)]
        cells.append("–" if row == reference[0] else difference(each, reference[1]))
        cells.append(shown(mean_of([own.unfiltered for own in each])))
        summaries = [own.filtered.summary() for own in each]
        cells += [shown(mean_of([summary[key] for summary in summaries])) for key in COLUMNS]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", facts(reference[1].filtered), f"The best baseline is {reference[0]}."])


def table_of_intervals(rows: Rows) -> str:
    """Everything else of the first seed, with intervals over patients, and how many lesions of each size were found."""
    heads = ["configuration", "row", *INTERVALS.values(), "lesions found by size"]
    text = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for name, row, (first, *_) in listed(rows):
        summary, intervals = first.filtered.summary(), first.filtered.intervals()
        cells = [name if row not in BASELINES else "–", row]
        for key in INTERVALS:
            low, high = intervals.get(key, (None, None))
            cells.append(f"{shown(summary[key])} [{shown(low)}, {shown(high)}]")
        sizes = [f"{size.found} of {size.lesions}" for size in first.filtered.strata()]
        text.append(f"| {' | '.join([*cells, ', '.join(sizes)])} |")
    sizes = ", ".join(size.label for size in AnomalyEvaluation().strata())
    return "\n".join([*text, "", f"The first seed of each. Sizes are {sizes}."])


INTERVALS = {
    "average_precision_mean": "AUPRC, mean of patients",
    "auroc_pooled": "AUROC",
    "auroc_mean": "AUROC, mean of patients",
    "dice_mean": "Dice",
    "recall_pooled": "recall",
    "precision_pooled": "precision",
    "lesion_recall": "lesions found",
    "lesion_precision": "findings that are lesions",
    "lesion_f1": "F1 of both",
    "false_positive_rate_mean": "false positives",
    "normal_l1": "L1, normal",
    "lesion_l1": "L1, lesion",
    "l1_ratio": "L1 ratio",
}


def best_of(rows: Rows) -> tuple[str, Row] | None:
    """The baseline with the highest headline."""
    found = {row: own for (_, row, seed), own in rows.items() if row in BASELINES and seed == 0}
    best = max(found, key=lambda row: found[row].filtered.pooled.average_precision() or 0, default=None)
    return None if best is None else (best, found[best])


def listed(rows: Rows) -> list[tuple[str, str, list[Row]]]:
    """Configuration, row and the row of each seed, the best first."""
    found = []
    for name, row in dict.fromkeys((name, row) for name, row, _ in rows):
        seeds = sorted(seed for one, other, seed in rows if (one, other) == (name, row))
        found.append((name, row, [rows[name, row, seed] for seed in seeds]))
    return sorted(found, key=lambda entry: -values(entry[2])[0])


def values(each: Sequence[Row]) -> list[float]:
    """The headline: the mean over seeds, the lowest, the highest."""
    found = [own.filtered.pooled.average_precision() or 0.0 for own in each]
    return [statistics.mean(found), min(found), max(found)]


def spread(each: Sequence[Row]) -> str:
    """How many seeds, and from where to where their headlines lie."""
    _, low, high = values(each)
    return str(len(each)) if len(each) == 1 else f"{len(each)} ({low:.3f} to {high:.3f})"


def headline(each: Sequence[Row]) -> str:
    """The mean over seeds with its interval."""
    first = each[0].filtered
    low, high = mean_interval([in_order(own, each[0]) for own in each], first.subjects()) or (None, None)
    return f"{values(each)[0]:.3f} [{shown(low)}, {shown(high)}]"


def in_order(one: Row, other: Row) -> list[Tally]:
    """The tallies of a row, its scans as another row has them."""
    place = {scan.case: tally for scan, tally in zip(one.filtered.scans, one.filtered.tallies, strict=True)}
    return [place[scan.case] for scan in other.filtered.scans]


def table_of_others(rows: Rows) -> str:
    """The headline, of the patients whose maps settled nothing."""
    others = {key: Row(without(own.filtered, SETTLED_ON), own.unfiltered) for key, own in rows.items()}
    reference = best_of(others)
    if reference is None or not reference[1].filtered.scans:
        return ""
    count = len(reference[1].filtered.scans)
    text = [f"| {count} patients | row | AUPRC [95 %] | above the best baseline |", "|---|---|---:|---:|"]
    for name, row, each in listed(others):
        above = "–" if row == reference[0] else difference(each, reference[1])
        text.append(f"| {'–' if row in BASELINES else name} | {row} | {headline(each)} | {above} |")
    return "\n".join(text)


def without(evaluation: AnomalyEvaluation, patients: Collection[str]) -> AnomalyEvaluation:
    """The scans of all others. patients: the middle of their names, as in ``SETTLED_ON``."""
    found = AnomalyEvaluation(evaluation.overlap, evaluation.strata_ml)
    for scan, tally in zip(evaluation.scans, evaluation.tallies, strict=True):
        if not any(patient in scan.case for patient in patients):
            found.include(scan, tally)
    return found


def difference(each: Sequence[Row], other: Row) -> str:
    """Paired over patients; the mean over the seeds of the one."""
    pairs = [(in_order(own, other), other.filtered.tallies) for own in each]
    return words_of(mean_difference(pairs, other.filtered.subjects()))


def facts(evaluation: AnomalyEvaluation) -> str:
    """What the masks permit, in words."""
    shares = [scan.mask_recall for scan in evaluation.scans if scan.mask_recall is not None]
    pooled_share = evaluation.summary()["mask_recall_pooled"]
    inside = [
        (scan.normal_voxels + tally.lesion.sum()) * scan.lesion_ml / (tally.lesion.sum() + tally.missed)
        for scan, tally in zip(evaluation.scans, evaluation.tallies, strict=True)
        if scan.lesion_ml
    ]
    return (
        f"{len(evaluation.scans)} patients. The masks hold {100 * pooled_share:.1f} % of all lesion voxels, "
        f"{100 * statistics.mean(shares):.1f} % of a patient's on average ({100 * min(shares):.1f} % of the worst), and "
        f"{statistics.mean(inside):.0f} ml ({min(inside):.0f} to {max(inside):.0f})."
    )


def mean_of(values: Sequence[float | int | None]) -> float | None:
    """Of those that are there."""
    present = [value for value in values if value is not None]
    return statistics.mean(present) if present else None


def shown(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.3f}"
