"""The program that scores models of gliomas in folds: its cells."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from stored import stored_model

from medae.artifact import load_artifact
from pipelines.detect_given import check_given

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return importlib.import_module("anomaly_folds")


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
    shipped = {path.stem for path in (ROOT / "configs" / "detect").glob("lgg*.yaml")}
    assert shipped == set(program.CONFIGURATIONS)
    for name in program.CONFIGURATIONS:
        assert program.config_of(name, 0, 4, tmp_path).fold == 4
