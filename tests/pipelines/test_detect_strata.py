"""Groups of a detection's scans: by what the data set says of its cases, unknown ones apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medae.data.case import Case, ImageRef, Manifest
from medae.metrics.anomaly import AnomalyEvaluation
from pipelines.detect_strata import strata

IMAGE = ImageRef(files=("x.nii.gz",), sha256="0", kind="intensity")


def cohort(*rows: dict[str, str | float | None]) -> Manifest:
    cases = [
        Case(id=f"c{place}", subject=f"s{place}", images={"T1w": IMAGE}, covariates=row) for place, row in enumerate(rows)
    ]
    return Manifest(source="test", root=Path("/"), channels=("T1w",), cases=tuple(cases))


def evaluation(*flagged: int, diseased: int | None = None) -> AnomalyEvaluation:
    """A scan of 100 voxels for each number of them that is flagged; one of them with a lesion of 10 voxels, all found."""
    found = AnomalyEvaluation()
    mask = np.ones((100, 1, 1), dtype=bool)
    for place, count in enumerate(flagged):
        flags, lesion = np.zeros_like(mask), np.zeros_like(mask)
        flags[:count] = True
        lesion[:10] = place == diseased
        found.add(
            f"c{place}",
            flags.astype(np.float32),
            flags,
            mask,
            lesion,
            voxel_ml=1.0,
            scan_score=float(place),
            subject=f"s{place}",
        )
    return found


def test_ages_are_grouped_by_twenty_years_and_sexes_by_name():
    manifest = cohort(
        {"age": 39.9, "sex": "F"}, {"age": 40.0, "sex": "M"}, {"age": 59.0, "sex": "F"}, {"age": None, "sex": None}
    )
    found = strata(manifest, evaluation(1, 3, 5, 20))
    assert [(s.covariate, s.group, s.subjects) for s in found] == [
        ("age", "20-39 years", 1),
        ("age", "40-59 years", 2),
        ("age", "not known", 1),
        ("sex", "F", 2),
        ("sex", "M", 1),
        ("sex", "not known", 1),
    ]
    assert [s.false_positives for s in found] == pytest.approx([0.01, 0.04, 0.20, 0.03, 0.03, 0.20])
    assert [s.score for s in found] == pytest.approx([0.0, 1.5, 3.0, 1.0, 1.0, 3.0])
    assert all(s.dice is None for s in found)


def test_lesions_count_for_dice_and_not_as_false_positives():
    (young, old) = strata(cohort({"age": 20.0}, {"age": 80.0}), evaluation(20, 5, diseased=0))
    assert young.dice == pytest.approx(2 * 10 / (20 + 10))
    assert young.false_positives == pytest.approx(10 / 90)
    assert old.dice is None


def test_what_does_not_group_the_cases_is_left_out():
    ids = [{"barcode": f"b{place}", "site": "one"} for place in range(10)]
    assert strata(cohort(*ids), evaluation(*[1] * 10)) == []
    assert strata(cohort({}, {}), evaluation(1, 2)) == []


def test_scans_of_one_subject_count_once():
    manifest = cohort({"site": "a"}, {"site": "a"}, {"site": "b"})
    found = evaluation(0, 10, 4)
    found.scans = [type(scan)(**{**scan.__dict__, "subject": "s0" if scan.case != "c2" else "s2"}) for scan in found.scans]
    assert [(s.group, s.subjects, s.false_positives) for s in strata(manifest, found)] == [("a", 1, 0.05), ("b", 1, 0.04)]


def test_many_numbers_are_grouped_by_quartiles_and_few_stand_alone():
    rows = [{"weight": 50.0 + place, "tesla": 1.5 if place < 6 else 3.0} for place in range(12)]
    rows[3] = {"weight": None, "tesla": 1.5}
    found = strata(cohort(*rows), evaluation(*range(12)))
    # Of 50 to 52 and 54 to 61 the quartiles are 53, 56 and 58.5.
    assert [(s.covariate, s.group, s.subjects) for s in found] == [
        ("tesla", "1.5", 6),
        ("tesla", "3", 6),
        ("weight", "50 to 52", 3),
        ("weight", "54 to 56", 3),
        ("weight", "57 to 58", 2),
        ("weight", "59 to 61", 3),
        ("weight", "not known", 1),
    ]
    below = strata(cohort(*({"z": float(place - 6)} for place in range(12))), evaluation(*range(12)))
    assert [s.group for s in below] == ["-6 to -4", "-3 to -1", "0 to 2", "3 to 5"]


def test_an_age_by_another_name_is_an_age_and_in_months_it_is_not():
    rows = [{"age_years": 20.0 + 5 * place, "age_months": 240.0 + 60 * place} for place in range(9)]
    found = strata(cohort(*rows), evaluation(*range(9)))
    assert [s.group for s in found if s.covariate == "age_years"] == ["20-39 years", "40-59 years", "60-79 years"]
    assert "240 to 360" in [s.group for s in found if s.covariate == "age_months"]


def test_of_many_names_the_largest_groups_stand_alone():
    sites = [f"site {letter}" for letter in "abcdefghij"]
    rows = [{"site": site} for site in [*sites, *sites[2:]]]
    found = strata(cohort(*rows), evaluation(*range(18)))
    assert [(s.group, s.subjects) for s in found] == [*((site, 2) for site in sites[2:]), ("others", 2)]
