"""The program that scores models of gliomas in folds: its cells, and its table from lines alone."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from stored import stored_model

from medae.artifact import load_artifact
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import merged
from medae.metrics.pooled import mean_difference, mean_interval
from pipelines.detect_given import check_given

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "anomaly_folds.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return importlib.import_module("anomaly_folds")


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
def lines(program: ModuleType) -> list[dict]:
    """Of five folds: the first seed with baselines, another without."""
    found = []
    for seed in range(2):
        for fold in range(5):
            patients = range(2 * fold, 2 * fold + 2)
            signals = {"detector": 0.9, **({"intensity": 0.3, "voxelwise": 0.5} if seed == 0 else {})}
            rows = {
                row: program.kept(
                    *(evaluated(patients, part, seed if row == "detector" else 0) for part in (signal, signal / 2))
                )
                for row, signal in signals.items()
            }
            given = {"masks": "m", "data": "d", "recipe": "r"}
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


def test_masks_are_the_same_by_their_voxels(program: ModuleType, tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[1:3] = 1
    other = voxels.copy()
    other[0, 0, 0] = 1
    images = {
        "one.nii.gz": nib.Nifti1Image(voxels, np.eye(4)),
        "same.nii": nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)),
        "other.nii.gz": nib.Nifti1Image(other, np.eye(4)),
        "elsewhere.nii.gz": nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1])),
    }
    found = {}
    for name, image in images.items():
        nib.save(image, tmp_path / name)
        found[name] = program._voxels([tmp_path / name])
    assert found["one.nii.gz"] == found["same.nii"]
    assert len(set(found.values())) == 3


def test_the_networks_of_several_seeds_are_scored_as_one_model(program: ModuleType, tmp_path: Path) -> None:
    runs, trained = tmp_path / "runs", {}
    for seed in (0, 3):
        folder = runs / "lgg" / f"seed-{seed}-fold-4-0a1b2c"
        known = {"kind": "detector", "seen": ("a", str(seed)), "metrics": {"auroc": 0.5}, "calibration": {"threshold": 1.0}}
        trained[seed] = stored_model(folder / "model", "autoencoder", 2, **known)
        (folder / "result.json").touch()
    config = program.together("lgg", [0, 3], 4, tmp_path, runs)
    assert (config.folds, config.fold, config.fit.seed) == (5, 4, 0)
    assert "perceptual" in program.config_of("lgg", 0, 4, tmp_path).scoring.compare
    assert {"ssim", "with_voxelwise"} <= config.scoring.compare.keys()
    assert "perceptual" not in config.scoring.compare, "several encoders"
    artifact = load_artifact(Path(config.model))
    check_given(artifact, config.scoring, "lesion_free_scans")
    assert artifact.meta.seen == ("0", "3", "a")
    assert (artifact.meta.calibration, artifact.meta.metrics) == (None, {}), "what was measured of one is not theirs"
    image = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        expected = [each.model()(image).finest for each in trained.values()]
        assert torch.allclose(artifact.model()(image).finest, (expected[0] + expected[1]) / 2, atol=1e-6)
    with pytest.raises(SystemExit, match="0 finished runs of seed-1-fold-4"):
        program.together("lgg", [0, 1], 4, tmp_path, runs)


def test_the_lines_are_of_the_configurations_as_they_are(program: ModuleType, tmp_path: Path) -> None:
    found = {(line["configuration"].partition(",")[0], line["recipe"]) for line in program.lines()}
    assert found == {(name, program.recipe(program.config_of(name, 0, 0, tmp_path))) for name, _ in found}


def test_a_recipe_is_what_the_configuration_says(program: ModuleType, tmp_path: Path) -> None:
    config = program.config_of("lgg", 3, 1, tmp_path)
    assert (config.fold, config.folds, config.fit.seed, config.registered) == (1, 5, 3, False)
    assert config.data.brain_masks == tmp_path.resolve()
    same = program.recipe(program.config_of("lgg", 0, 2, tmp_path / "other"))
    assert program.recipe(config) == same != program.recipe(program.config_of("lgg_vae", 3, 1, tmp_path))
    median = config.scoring.postprocessing.model_copy(update={"median": (1, 1, 1)})
    scoring = config.scoring.model_copy(update={"postprocessing": median})
    assert program.recipe(config.model_copy(update={"scoring": scoring})) != same, "a default that changes is another recipe"


def test_every_configuration_of_the_gliomas_can_be_put_into_folds(program: ModuleType, tmp_path: Path) -> None:
    shipped = {path.stem for path in (PROGRAM.parents[1] / "configs" / "detect").glob("lgg*.yaml")}
    assert shipped == set(program.CONFIGURATIONS)
    for name in program.CONFIGURATIONS:
        assert program.config_of(name, 0, 4, tmp_path).fold == 4
