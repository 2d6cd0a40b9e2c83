"""Evaluations kept on disk, and those of several parts as one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medae.errors import DataError
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import load_evaluation, merged, packed, save_evaluation, unpacked


def evaluated(cases: range, overlap: float = 0.1) -> AnomalyEvaluation:
    """Scans of random maps; every third is normal."""
    found = AnomalyEvaluation(overlap)
    for number in cases:
        rng = np.random.default_rng(number)
        scores = rng.normal(size=(6, 7, 8)).astype(np.float32)
        mask = np.ones(scores.shape, bool)
        mask[0] = False
        lesion = np.zeros_like(mask)
        if number % 3:
            lesion[:3, 2:5, 3:6] = True
            scores[lesion] += 1.0
        found.add(
            f"case{number}",
            scores,
            (scores > 1) & mask,
            mask,
            lesion,
            voxel_ml=0.5,
            scan_score=float(scores.max()),
            subject=f"subject{number // 2}",
            error=np.abs(scores) if number % 2 else None,
        )
    return found


def same(a: AnomalyEvaluation, b: AnomalyEvaluation) -> None:
    assert a.scans == b.scans
    assert a.summary() == b.summary()
    assert a.strata() == b.strata()
    assert a.false_positive_rates() == b.false_positive_rates()
    assert np.array_equal(a.curve().precision, b.curve().precision)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    before = evaluated(range(9))
    save_evaluation(before, tmp_path / "row.json")
    same(load_evaluation(tmp_path / "row.json"), before)
    assert (tmp_path / "row.json").stat().st_size < 50_000
    same(merged([load_evaluation(tmp_path / "row.json")]), before)


def test_parts_together_are_as_if_scored_in_one(tmp_path: Path) -> None:
    whole = evaluated(range(12))
    parts = [evaluated(range(start, start + 4)) for start in (0, 4, 8)]
    for number, part in enumerate(parts):
        save_evaluation(part, tmp_path / f"{number}.json")
    together = merged([load_evaluation(tmp_path / f"{number}.json") for number in range(3)])
    assert together.scans == whole.scans
    expected, found = whole.summary(), together.summary()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_coarse_scores_are_small_and_nearly_as_good() -> None:
    before = evaluated(range(9))
    content = packed(before, groups=16)
    after = unpacked(json.loads(json.dumps(content)), "here")
    assert after.scans == before.scans, "what was measured of a scan stays as it was"
    assert after.pooled.n_lesion == before.pooled.n_lesion and after.pooled.n_normal == before.pooled.n_normal
    assert after.pooled.average_precision() == pytest.approx(before.pooled.average_precision(), abs=1 / 16)
    assert len(content["scans"][0]["tally"]) < len(packed(before)["scans"][0]["tally"]) / 2


def test_scores_that_end_in_one_octave_lose_no_more_than_others() -> None:
    """Ranks: half of all voxels lie between 0.5 and 1, and of rare lesions nearly all in the last hundredth."""
    rng = np.random.default_rng(0)
    evaluation = AnomalyEvaluation()
    for place in range(3):
        lesion = rng.random((40, 40, 20)) < 0.01
        noise = rng.normal(size=lesion.shape) + 4 * lesion
        ranks = (noise.ravel().argsort().argsort().reshape(lesion.shape) / lesion.size).astype(np.float32)
        evaluation.add(f"c{place}", ranks, ranks > 2, np.ones_like(lesion), lesion, voxel_ml=1.0, scan_score=0.0)
    exact = evaluation.pooled.average_precision()
    after = unpacked(packed(evaluation, groups=512), "here")
    assert exact > 0.8 and after.pooled.average_precision() == pytest.approx(exact, abs=1 / 512)


def test_one_scan_in_two_parts_or_other_rules_are_refused() -> None:
    with pytest.raises(DataError, match="in two evaluations"):
        merged([evaluated(range(3)), evaluated(range(2, 5))])
    with pytest.raises(DataError, match="different rules"):
        merged([evaluated(range(3)), evaluated(range(3, 6), overlap=0.5)])


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "row.json"
    if damage != "missing":
        save_evaluation(evaluated(range(3)), path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    if damage == "other":
        path.write_text('{"something": 3}')
    with pytest.raises(DataError, match="cannot be read"):
        load_evaluation(path)
