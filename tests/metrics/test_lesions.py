"""Lesion-wise matching on masks small enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from medae.errors import GeometryError
from medae.metrics.lesions import LesionMatch, components, match_lesions, recall_by_size


def line(text: str) -> np.ndarray:
    """A row of voxels: '#' is inside."""
    return np.array([[[mark == "#" for mark in text]]])


def test_components_touch_by_corners() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert components(mask)[1] == 1
    mask[1, 1, 1], mask[2, 2, 2] = False, True
    assert components(mask)[1] == 2


def test_found_and_invented_by_hand() -> None:
    match = match_lesions(
        prediction=line("#....###......#."),
        lesion=line("......##..####.."),
        voxel_ml=0.5,
    )
    # Lesions of 2 and 4 voxels, the first found. Findings: alone at the left, on the first lesion, beside the second.
    assert match.volumes_ml == (1.0, 2.0)
    assert match.found == (True, False)
    assert (match.findings, match.true_findings) == (3, 1)


def test_overlap_is_a_share_of_the_lesion_and_of_the_finding() -> None:
    lesion = line("##########..........")
    prediction = line(".........###########")  # one voxel of ten of the lesion, one of eleven of the finding
    at_ten_percent = match_lesions(prediction, lesion, voxel_ml=1.0, overlap=0.1)
    assert at_ten_percent.found == (True,)
    assert at_ten_percent.true_findings == 0
    assert match_lesions(prediction, lesion, voxel_ml=1.0, overlap=0.05).true_findings == 1
    assert match_lesions(prediction, lesion, voxel_ml=1.0, overlap=0.2).found == (False,)


def test_one_finding_may_find_two_lesions() -> None:
    match = match_lesions(line("######"), line("##..##"), voxel_ml=1.0)
    assert match.found == (True, True)
    assert (match.findings, match.true_findings) == (1, 1)


def test_empty_masks() -> None:
    nothing, something = line("...."), line(".##.")
    assert match_lesions(nothing, nothing, 1.0) == LesionMatch((), (), 0, 0)
    assert match_lesions(something, nothing, 1.0) == LesionMatch((), (), 1, 0)
    assert match_lesions(nothing, something, 1.0) == LesionMatch((2.0,), (False,), 0, 0)


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match="shape"):
        match_lesions(line("##"), line("###"), 1.0)


def test_recall_by_size_pools_scans_and_bounds_are_half_open() -> None:
    matches = [LesionMatch((0.05, 0.1, 9.9), (False, True, True), 0, 0), LesionMatch((10.0, 0.5), (True, False), 0, 0)]
    strata = recall_by_size(matches)
    assert [stratum.label for stratum in strata] == ["< 0.1 ml", "0.1-1 ml", "1-10 ml", "≥ 10 ml"]
    assert [(stratum.lesions, stratum.found) for stratum in strata] == [(1, 0), (2, 1), (1, 1), (1, 1)]
    assert [stratum.recall for stratum in strata] == [0.0, 0.5, 1.0, 1.0]
    assert recall_by_size([])[0].recall is None
