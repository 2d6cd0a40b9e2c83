"""The program that measures what detectors see of lesions in healthy heads: its cells, and its tables from lines alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return importlib.import_module("anomaly_diagnosis")


@pytest.fixture
def line() -> dict[str, Any]:
    places = ("5 mm, edge 0 mm", "5 mm, edge 2 mm")
    kinds = dict(
        zip((f"{each}, {place}" for each in ("-0.2", "+0.2") for place in places), (0.2, 0.1, 0.6, 0.5), strict=True)
    )
    return {
        "configuration": "ixi_lesions",
        "seed": 0,
        "average_precision": {"detector": kinds, "voxelwise": {kind: value / 2 for kind, value in kinds.items()}},
        "mean": {"voxelwise": 0.175, "detector": 0.35},
        "mean_unfiltered": {"voxelwise": 0.1, "detector": 0.3},
        "lesions": dict.fromkeys(kinds, 240),
        "best_baseline": "voxelwise",
        "difference": {"detector": {"difference": 0.175, "low": 0.1, "high": 0.25, "n_subjects": 12}},
        "promised": {"reached": 0.0117, "low": 0.0053, "high": 0.0172},
    }


def test_the_means_are_by_contrast_and_the_best_row_comes_first(program: ModuleType, line: dict[str, Any]) -> None:
    head, _, best, second = program.table_of_means([line]).splitlines()
    assert head == "| configuration | row | -0.2 | +0.2 | all | before filters | above the best baseline [95 %] |"
    assert best == "| ixi_lesions | detector | 0.150 | 0.550 | 0.350 | 0.300 | +0.175 [+0.100, +0.250] |"
    assert second == "| ixi_lesions | voxelwise | 0.075 | 0.275 | 0.175 | 0.100 | – |"
    line["difference"]["detector"] |= {"low": None, "high": None}
    assert program.table_of_means([line]).splitlines()[2].endswith("| +0.175 |"), "too few heads"


def test_every_kind_stands_beside_the_voxelwise_model(program: ModuleType, line: dict[str, Any]) -> None:
    head, _, sharp, soft = program.table_of_kinds(line).splitlines()
    assert head == "| ixi_lesions: size and edge | -0.2 | +0.2 |"
    assert sharp == "| 5 mm, edge 0 mm | 0.200 / 0.100 | 0.600 / 0.300 |"
    assert soft == "| 5 mm, edge 2 mm | 0.100 / 0.050 | 0.500 / 0.250 |"


def test_promises_are_said_where_there_are_some(program: ModuleType, line: dict[str, Any]) -> None:
    said = program.promises([line, line | {"seed": 1, "promised": None}])
    words = "the threshold was reached in 1.17% of the mask of the test heads; promised were 0.53% to 1.72%"
    assert said == f"- ixi_lesions, seed 0: {words}."


def test_the_lines_are_of_the_configurations_as_they_are(program: ModuleType) -> None:
    found = {(line["configuration"], line["recipe"]) for line in program.lines()}
    assert found, "lines are committed"
    assert found == {(name, program.recipe(program.config_of(name, 0))) for name, _ in found}


def test_a_recipe_is_what_all_seeds_share(program: ModuleType) -> None:
    recipes = {name: program.recipe(program.config_of(name, 1)) for name in program.CONFIGURATIONS}
    assert len(set(recipes.values())) == 3
    assert program.recipe(program.config_of("ixi_lesions", 5)) == recipes["ixi_lesions"]


def test_a_line_of_a_configuration_as_it_was_is_not_passed_over(
    program: ModuleType, line: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(program, "measured", lambda *_: pytest.fail("measured, though the line is there"))
    monkeypatch.setattr("sys.argv", ["anomaly_diagnosis.py", "--only", "ixi_lesions"])
    own = program.recipe(program.config_of("ixi_lesions", 0))
    program.RESULTS.write_text(json.dumps(line | {"recipe": own}) + "\n")
    program.main()
    program.RESULTS.write_text(json.dumps(line | {"recipe": "other"}) + "\n")
    with pytest.raises(SystemExit, match="as it was"):
        program.main()
