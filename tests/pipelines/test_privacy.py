"""Names that stand in file names, folders and headers stay out of MLflow, reports, artifacts and results."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import pytest

from medae.config import validate
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.stage import program_of, run_stage

NAMES = ("DOEXAMPLE_1", "ROEXAMPLE_2", "MUELLER_3", "ROSSINI_4", "SMITHSON_5", "DUPONTEL_6", "GARCIALOPEZ_7")
WORDS = [name.split("_")[0].encode() for name in NAMES]


@pytest.fixture
def named(smoke, tmp_path):
    """Phantoms laid out as a hospital might: patients' names in folders, file names and headers."""
    root = tmp_path / "Ward of DOEXAMPLE"
    phantoms = smoke.folder / "runs" / "smoke-phantoms"
    for number, name in enumerate(NAMES, start=1):
        case = f"sub-phantom{number:03d}"
        for kind, folder in (("T1w", "image"), ("tissue", "label")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            image = nib.load(phantoms / case / "anat" / f"{case}_{kind}.nii.gz")
            image.header["descrip"] = name.encode()
            image.header["db_name"] = name.encode()
            nib.save(nib.Nifti1Image(image.dataobj, image.affine, image.header), root / folder / f"{name}.nii.gz")
    return root


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def test_no_name_leaves_the_data_folder(named, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    overrides = [
        f"data={{format: folder, root: '{named}', images: image, labels: label}}",
        "target=label",
        "plan.widths=[4, 8]",
        "plan.patch=[24, 24, 24]",
        "split={test: 2, validation: 1}",
        "fit={steps: 2, epoch_steps: 1}",
    ]
    config = validate(program_of("finetune").Config, read_config("phantoms", "finetune", overrides))
    finished = run_stage("finetune", config, work / "runs", Screen())
    assert finished.result.metrics["scratch"]["n_test"] == 2
    stored = [path for path in work.rglob("*") if path.is_file() and path != finished.folder / "config.yaml"]
    assert any(path.name == "mlflow.db" for path in stored)
    assert any(path.suffix == ".gz" for path in stored), "the predictions are looked at too"
    leaks = {path.relative_to(work): word for path in stored for word in WORDS if word in content(path)}
    assert leaks == {}
    assert not [path for path in stored if any(word.decode() in str(path.relative_to(work)) for word in WORDS)]
