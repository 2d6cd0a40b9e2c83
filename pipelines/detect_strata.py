"""Figures of a detection by sex, age, site and whatever else the data set says of its cases.

A threshold that holds on average may flag the old, or the patients of one scanner, several times as often.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medae.data.case import Manifest
from medae.metrics.anomaly import AnomalyEvaluation, ScanMetrics, false_positive_rates

FEW = 8
"""So many values of a covariate are groups of their own; of more names the largest groups are."""

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
    subjects = {scan.case: scan.subject for scan in evaluation.scans}
    found = []
    for name in names:
        values = {case: value for case in subjects if (value := covariates.get(case, {}).get(name)) is not None}
        groups = _groups(name, values, subjects)
        if len(set(groups.values())) < 2:
            continue
        members: dict[Group, list[ScanMetrics]] = defaultdict(list)
        for scan in evaluation.scans:
            members[groups.get(scan.case, UNKNOWN)].append(scan)
        found += [_stratum(name, group[1], members[group]) for group in sorted(members)]
    return found


Group = tuple[float, str]
"""Where a group stands among those of its covariate, and what it is called."""

OTHERS: Group = (1.0, "others")
UNKNOWN: Group = (math.inf, "not known")


def _groups(name: str, values: Mapping[str, str | float], subjects: Mapping[str, str]) -> dict[str, Group]:
    """The group of each case whose value is known; none where the covariate does not group them.

    Ages go by twenty years, other numbers by quartiles if there are many, and of many names the most frequent stand alone.
    Names of which no two subjects share one, such as identifiers, are no grouping.
    """
    numbers = {case: value for case, value in values.items() if isinstance(value, float)}
    if len(numbers) == len(values) and _is_age(name):
        return {case: _age_group(value) for case, value in numbers.items()}
    if len(set(values.values())) <= FEW:
        return {case: (value if isinstance(value, float) else 0.0, _said(value)) for case, value in values.items()}
    if len(numbers) == len(values):
        return _quartiles(numbers)
    sharing: dict[str, set[str]] = defaultdict(set)
    for case, value in values.items():
        sharing[_said(value)].add(subjects[case])
    largest = sorted(sharing, key=lambda each: (-len(sharing[each]), each))[:FEW]
    if len(sharing[largest[0]]) < 2:
        return {}
    return {case: (0.0, _said(value)) if _said(value) in largest else OTHERS for case, value in values.items()}


def _is_age(name: str) -> bool:
    """``age``, ``age_years``, ``age_at_scan``, but not ``age_months``."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return "age" in words and not words & {"month", "months", "week", "weeks", "day", "days"}


def _age_group(age: float) -> Group:
    low = int(age // YEARS * YEARS)
    return low, f"{low}-{low + int(YEARS) - 1} years"


def _quartiles(values: Mapping[str, float]) -> dict[str, Group]:
    """Four groups of about as many cases, named by the range of their own values; fewer where values are alike."""
    bounds = np.quantile(list(values.values()), [0.25, 0.5, 0.75])
    quarter = {case: int(np.searchsorted(bounds, value)) for case, value in values.items()}
    inside = {place: [value for case, value in values.items() if quarter[case] == place] for place in set(quarter.values())}
    return {case: (place, f"{min(inside[place]):g} to {max(inside[place]):g}") for case, place in quarter.items()}


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
