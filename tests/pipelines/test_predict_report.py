"""The report of a prediction: what it says of scans of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.predict_report import RANKS, Pictures, _lines, _table


def case(**more: Any) -> dict[str, Any]:
    return {"score": 1.5, "percentile_among_normals": 0.9, "flagged_ml": 4.0, "findings": [{}, {}], **more}


def test_what_was_flagged_where_a_made_mask_is_doubtful_stands_in_table_and_lines():
    doubted = case(doubtful_ml=30.0, flagged_in_doubt_ml=1.25)
    columns, rows = _table({"a": doubted, "b": case(remarks=["another scanner"])}, detects=True)
    place = columns.index("Flagged where the mask is doubtful (ml)")
    assert [row[place] for row in rows] == [1.25, None]
    assert [row[-1] for row in rows] == ["", "another scanner"]
    assert _lines(doubted, detects=True)[-1] == "1.25 ml of it where the mask is doubtful"


def test_masks_of_which_nothing_is_known_are_not_doubted():
    columns, rows = _table({"a": case()}, detects=True)
    assert columns == ["Scan", "Score", "Among normals", "Flagged (ml)", "Findings", "Remarks"]
    assert rows == [["a", 1.5, 0.9, 4.0, 2, ""]]
    assert _lines(case(), detects=True)[-1] == "flagged 4 ml in 2 pieces"


def test_what_a_killed_run_left_half_drawn_is_cleared(tmp_path: Path):
    for name in ("a.webp", "b.webp", RANKS):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".new-1a2b").mkdir()
    (tmp_path / ".new-1a2b" / "a.webp").write_text("half")
    Pictures(tmp_path).keep({"a"})
    assert {path.name for path in tmp_path.iterdir()} == {"a.webp", RANKS}


@pytest.mark.parametrize(
    ("normals", "cell", "said"),
    [(0, 0.9, "90% of normal scans"), (10, "9 of 10", "9 of 10 normal scans"), (20, 0.9, "90% of normal scans")],
)
def test_few_normal_scans_are_counted(normals: int, cell: float | str, said: str):
    _, rows = _table({"a": case()}, True, normals)
    assert rows[0][2] == cell
    assert _lines(case(), True, normals)[0] == f"score 1.5, above {said}"


def test_volumes_have_no_exponent():
    assert _lines({"volume_ml": {"grey": 1238.6, "spot": 0.00002345}}, False) == ["grey: 1,239 ml", "spot: 0.0000235 ml"]
    assert _lines(case(flagged_ml=1000.2), True)[1] == "flagged 1,000 ml in 2 pieces"
