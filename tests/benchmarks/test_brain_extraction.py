"""The program that compares brain extractions: its table from lines alone."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def program() -> ModuleType:
    return importlib.import_module("brain_extraction")


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of the first table of a page, without notes on the sets."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip(" *") for cell in line.replace("**", "").split("|")[1:-1]] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_latest_line_of_every_candidate_and_set_is_a_row(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = {"candidate": "medae", "package": "medae 1", "cases": 2, "cpu_seconds": 3.15}
    brains = {"set": "oasis", "dice": 0.8125, "dice_min": 0.7, "volume_ratio": 0.985}
    patients = {"set": "lgg", "lesion_recall": 0.9964, "lesion_recall_min": 0.9617, "mask_share": 0.1713}
    lines = [{**head, **brains, "dice": 0.1}, {**head, **patients}, {**head, **brains}]
    lines.append({**head, **brains, "candidate": "deepbet", "package": "deepbet 2", "set": "ixi_t1"})
    monkeypatch.setattr(program, "RESULTS", tmp_path / "lines.jsonl")
    program.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, second, third = rows_of(program.table())
    assert (first["candidate"], first["set"], first["Dice, mean (worst)"]) == ("medae (medae 1)", "oasis", "0.813 (0.700)")
    assert (first["scans"], first["volume ratio"], first["CPU s a scan"]) == ("2", "0.99", "3.2")
    assert first["lesion inside the mask, mean (worst)"] == first["mask's share of the image"] == ""
    assert (
        second["lesion inside the mask, mean (worst)"] == "0.996 (0.962)" and second["mask's share of the image"] == "0.171"
    )
    assert (third["candidate"], third["set"]) == ("deepbet (deepbet 2)", "ixi_t1")


def test_the_decisions_figures_are_those_of_the_table(program: ModuleType) -> None:
    printed = {row["set"]: row for row in rows_of(program.table()) if row["candidate"].startswith("medae")}
    decided = rows_of((ROOT / "docs" / "decisions" / "0013-own-brain-masks.md").read_text(encoding="utf-8"))
    assert len(decided) == 6
    for row in decided:
        name = re.match(r"`(\w+)`", row.pop("set"))
        assert name is not None
        assert row == {key: printed[name[1]][key] for key in row}, name[1]
