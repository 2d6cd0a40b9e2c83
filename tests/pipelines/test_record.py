"""The record of what is done to a folder of scans: goes on after a stop, does nothing twice, loses nothing of others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from medae.errors import DataError
from pipelines.record import Record


def done(folder: Path, name: str, **said) -> dict:
    (folder / f"{name}.nii.gz").write_text(name)
    return {"files": [f"{name}.nii.gz"], "remarks": [], **said}


def test_a_stopped_run_goes_on_and_a_line_cut_short_is_forgotten(tmp_path: Path):
    record = Record.open(tmp_path / "result.json", "model", False)
    record.add("a", "1", done(tmp_path, "a", volume_ml={"x": 1.5}))
    record.begin("b", ["b.nii.gz"])
    record.add("b", "2", done(tmp_path, "b"))
    growing = tmp_path / ".result.jsonl"
    growing.write_text(growing.read_text()[:-20])
    again = Record.open(tmp_path / "result.json", "model", False)
    assert again.has("a", "1") and not again.has("b", "2")
    assert all(again.made(tmp_path / f"{name}.nii.gz") for name in "ab") and not again.made(tmp_path / "c.nii.gz")
    again.add("b", "2", done(tmp_path, "b"))
    whole = again.close({"stage": "predict", "key": "model"}, ["b", "a"], {"c": "broken"})
    assert list(whole["cases"]) == ["b", "a"] and not growing.exists() and "made" not in whole
    assert json.loads((tmp_path / "result.json").read_text()) == whole
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [(row["case"], row["volume_ml.x"], row["failed"]) for row in rows] == [
        ("b", "", ""),
        ("a", "1.5", ""),
        ("c", "", "broken"),
    ]


def test_a_changed_scan_and_a_lost_file_are_done_again(tmp_path: Path):
    record = Record.open(tmp_path / "result.json", "model", False)
    record.add("a", "1", done(tmp_path, "a"))
    record.close({"key": "model"}, ["a"], {})
    again = Record.open(tmp_path / "result.json", "model", False)
    assert not again.has("a", "another scan") and again.has("a", "1")
    (tmp_path / "a.nii.gz").unlink()
    assert not Record.open(tmp_path / "result.json", "model", False).has("a", "1")


def test_results_of_another_model_stay_unless_forced(tmp_path: Path):
    record = Record.open(tmp_path / "result.json", "model", False)
    record.add("a", "1", done(tmp_path, "a"))
    record.close({"key": "model"}, ["a"], {})
    with pytest.raises(DataError, match="another model") as caught:
        Record.open(tmp_path / "result.json", "other", False)
    assert "--force" in caught.value.remedy
    assert not Record.open(tmp_path / "result.json", "other", True).has("a", "1")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(DataError, match="another model"):
        Record.open(tmp_path / "result.json", "model", False)
