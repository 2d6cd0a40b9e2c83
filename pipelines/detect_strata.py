"""Figures of a detection by sex, age, site and whatever else the data set says of its cases.

A threshold that holds on average may flag the old, or the patients of one scanner, several times as often.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medae.data.case import Manifest
from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics, false_positive_rates

FEW = 8
"""A covariate with more values than this is no grouping, unless they are numbers."""

YEARS = 20.0
"""Width of the groups of an age."""


@dataclass(frozen=True)
class Stratum:
    """Scans alike in one covariate. group: in words. false_positives: mean over subjects of the flagged share of the normal
    voxels in the mask. dice: mean over scans with a lesion. score: mean scan score."""

    covariate: str
    group: str
    subjects: int
    false_positives: float | None
    dice: float | None
    score: float


def strata(test: Manifest, evaluation: AnomalyEvaluation) -> list[Stratum]:
    """The scans by group of every covariate that has at least two groups; those for which it is not known are a group."""
    covariates = {case.id: case.covariates for case in test.cases}
    names = sorted({name for known in covariates.values() for name in known})
    found = []
    for name in names:
        values = {scan.case: covariates.get(scan.case, {}).get(name) for scan in evaluation.scans}
        groups = _groups(name, values)
        if len(set(groups.values()) - {UNKNOWN}) < 2:
            continue
        members: dict[str, list[ScanMetrics]] = defaultdict(list)
        for scan in evaluation.scans:
            members[groups[scan.case]].append(scan)
        found += [_stratum(name, group, members[group]) for group in sorted(members, key=_order)]
    return found


UNKNOWN = "not known"


def _order(group: str) -> tuple[bool, float, str]:
    """Ages by age, names by name, the unknown last."""
    first = group.split("-", maxsplit=1)[0].split(" ", maxsplit=1)[0]
    return group == UNKNOWN, float(first) if first.replace(".", "", 1).isdigit() else 0.0, group


def _groups(name: str, values: Mapping[str, str | float | None]) -> dict[str, str]:
    """Each case's group; all of one where the covariate does not group them."""
    known = {value for value in values.values() if value is not None}
    numbers = [value for value in known if isinstance(value, float)]
    if name.lower() == "age" and len(numbers) == len(known):
        return {case: UNKNOWN if not isinstance(value, float) else _age_group(value) for case, value in values.items()}
    if len(known) > FEW:
        return dict.fromkeys(values, "all")
    return {case: UNKNOWN if value is None else _said(value) for case, value in values.items()}


def _age_group(age: float) -> str:
    low = int(age // YEARS * YEARS)
    return f"{low}-{low + int(YEARS) - 1} years"


def _said(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else value


def _stratum(covariate: str, group: str, scans: Sequence[ScanMetrics]) -> Stratum:
    rates = list(false_positive_rates(scans).values())
    dice = [scan.dice for scan in scans if scan.has_lesion and scan.dice is not None]
    return Stratum(
        covariate,
        group,
        len({scan.subject for scan in scans}),
        float(np.mean(rates)) if rates else None,
        float(np.mean(dice)) if dice else None,
        float(np.mean([scan.score for scan in scans])),
    )
