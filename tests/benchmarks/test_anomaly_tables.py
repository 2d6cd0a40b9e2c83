"""The tables of gliomas in folds, from lines alone."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import numpy as np
import pytest

from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import merged
from medae.metrics.pooled import mean_difference, mean_interval


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return importlib.import_module("anomaly_tables")


def evaluated(patients: range, signal: float, seed: int = 0) -> AnomalyEvaluation:
    """Two patients a fold whose lesions are brighter by ``signal``."""
    found = AnomalyEvaluation()
    for number in patients:
        rng = np.random.default_rng((number, seed))
        scores = rng.uniform(size=(8, 8, 8)).astype(np.float32)
        lesion = np.zeros(scores.shape, bool)
        lesion[2:5, 2:5, 2:5] = True
        scores[lesion] += signal
        mask = np.ones_like(lesion)
        mask[2] = False
        heat = np.where(mask, scores, 0)
        found.add(f"p{number}", heat, (heat > 1) & mask, mask, lesion, voxel_ml=2.0, scan_score=1.0)
    return found


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """Of five folds: the first seed with baselines, another without."""
    kept, found = importlib.import_module("anomaly_folds").kept, []
    for seed in range(2):
        for fold in range(5):
            patients = range(2 * fold, 2 * fold + 2)
            signals = {"detector": 0.9, **({"intensity": 0.3, "voxelwise": 0.5} if seed == 0 else {})}
            rows = {
                row: kept(*(evaluated(patients, part, seed if row == "detector" else 0) for part in (signal, signal / 2)))
                for row, signal in signals.items()
            }
            given = {"masks": "m", "data": "d", "recipe": "r", "source": "s"}
            found.append({"configuration": "lgg", "seed": seed, "fold": fold, **given, "rows": rows})
    return found


def test_the_table_puts_folds_and_seeds_together_and_compares_with_the_best_baseline(
    program: ModuleType, lines: list[dict]
) -> None:
    text = program.table(program.pooled(lines)).splitlines()
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text if line.startswith("|")]
    by_row = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(by_row) == ["detector", "voxelwise", "intensity"], "the best first"
    each = [evaluated(range(10), 0.9, seed) for seed in range(2)]
    low, high = sorted(own.pooled.average_precision() for own in each)
    assert by_row["detector"]["seeds"] == f"2 ({low:.3f} to {high:.3f})" and by_row["intensity"]["seeds"] == "1"
    ends = mean_interval([own.tallies for own in each], each[0].subjects())
    found = [float(number) for number in re.findall(r"[\d.]+", by_row["detector"]["AUPRC [95 %]"])]
    assert found == pytest.approx([(low + high) / 2, *ends], abs=2e-3)
    pairs = [(own.tallies, evaluated(range(10), 0.5).tallies) for own in each]
    above = mean_difference(pairs, each[0].subjects())
    found = [float(number) for number in re.findall(r"[-+][\d.]+", by_row["detector"]["above the best baseline"])]
    assert found == pytest.approx([above.difference, above.low, above.high], abs=2e-3)
    assert by_row["voxelwise"]["above the best baseline"] == "–"
    assert by_row["intensity"]["above the best baseline"].startswith("-")
    whole = {
        row: evaluated(range(10), signal).pooled.average_precision()
        for row, signal in (("intensity", 0.3), ("voxelwise", 0.5))
    }
    for row, value in whole.items():
        assert float(by_row[row]["AUPRC [95 %]"].split()[0]) == pytest.approx(value, abs=0.01)
    half = evaluated(range(10), 0.25).pooled.average_precision()
    assert float(by_row["voxelwise"]["unfiltered"]) == pytest.approx(half, abs=0.01)
    assert "10 patients. The masks hold 66.7 % of all lesion voxels" in "\n".join(text)
    assert "896 ml (896 to 896)" in "\n".join(text), "7 of 8 slices of 64 voxels of 2 ml"
    assert "best baseline is voxelwise" in text[-1]


def test_every_other_figure_of_the_first_seed_has_its_interval(program: ModuleType, lines: list[dict]) -> None:
    head, _, best, *_ = program.table_of_intervals(program.pooled(lines)).splitlines()
    cells = dict(zip(head.split(" | "), best.split(" | "), strict=True))
    first = evaluated(range(10), 0.9, 0)
    low, high = first.intervals()["dice_mean"]
    assert cells["Dice"] == f"{first.summary()['dice_mean']:.3f} [{low:.3f}, {high:.3f}]"
    assert "0 of 0, 0 of 0, 0 of 0, 10 of 10" in best, "lesions of 54 ml"


def test_patients_who_settled_nothing_are_shown_alone(
    program: ModuleType, lines: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SETTLED_ON", {"p0", "p7"})
    head, _, best, second, third = program.table_of_others(program.pooled(lines)).splitlines()
    assert head.startswith("| 8 patients |") and best.startswith("| lgg | detector |") and "| – | intensity |" in third
    parts = [evaluated(patients, 0.5) for patients in (range(1, 7), range(8, 10))]
    value = merged(parts).pooled.average_precision()
    assert float(second.split("|")[3].split()[0]) == pytest.approx(value, abs=0.01)
    assert "| – | voxelwise |" in second


def test_folds_that_are_not_complete_are_not_shown(program: ModuleType, lines: list[dict]) -> None:
    assert (
        program.table(program.pooled([line for line in lines if line["fold"] < 4]))
        == "No configuration has been measured in all folds with its baselines."
    )


@pytest.mark.parametrize("what", ["masks", "data"])
def test_lines_of_other_masks_or_data_are_refused(program: ModuleType, lines: list[dict], what: str) -> None:
    with pytest.raises(SystemExit, match=f"different {what}"):
        program.pooled([*lines, {**lines[0], what: "n"}])


def test_a_cell_counts_once(program: ModuleType, lines: list[dict]) -> None:
    with pytest.raises(SystemExit, match="more than once"):
        program.pooled([*lines, lines[0]])


def test_lines_of_a_configuration_as_it_was_are_refused(program: ModuleType, lines: list[dict]) -> None:
    with pytest.raises(SystemExit, match="as it was"):
        program.pooled([*lines, {**lines[0], "recipe": "other"}])


def test_all_tables_are_printed_with_the_states_of_the_code(program: ModuleType, lines: list[dict]) -> None:
    rows = program.pooled(lines)
    first, second, third = program.table(rows), program.table_of_others(rows), program.table_of_intervals(rows)
    assert program.tables(lines) == f"{first}\n\n{second}\n\n{third}", "of one state nothing is said"
    found = program.tables([{**lines[0], "source": "other"}, *lines[1:]])
    assert found.splitlines()[-1] == "Measured with 2 states of the code: other, s."
