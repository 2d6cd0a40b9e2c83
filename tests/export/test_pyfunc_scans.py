"""The registered model on the path of a scan, as MLflow's own programs call it, far from where it was trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # dicomfiles

from dicomfiles import Writer

from medae.artifact import ArtifactMeta, save_artifact
from medae.errors import DataError
from medae.export.pyfunc import log_pyfunc
from medae.plan import NetworkPlan, Plan, SamplingPlan, SpacePlan
from medae.preprocessing.domain import Domain
from medae.tracking.mlflow import MlflowTracker
from pipelines import predict
from pipelines.networks import network_config, seeded_network

AFFINE = np.diag([-1.5, 1.5, 1.5, 1.0])
DOMAIN = Domain(scans=2, modalities=("MR",), spacing=((1.0, 2.0),) * 3, extent=((10.0, 30.0),) * 3)


def make_model(folder: Path, channels: tuple[str, ...]) -> Path:
    plan = Plan(
        space=SpacePlan(channels=channels, foreground="all"),
        network=NetworkPlan(widths=(4, 4), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3), (3, 3, 3))),
        sampling=SamplingPlan(patch=(8, 8, 8)),
    )
    model = seeded_network(network_config({"kind": "unet"}, plan, classes=2), 0)
    labels = {0: "background", 1: "organ"}
    meta = ArtifactMeta(kind="segmenter", network=model.config, plan=plan, target="label", labels=labels, domain=DOMAIN)
    save_artifact(folder, model, meta)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two models, whose folders are gone, and scans."""
    folder = tmp_path_factory.mktemp("work")
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = MlflowTracker.start("project", "finetune", folder=folder / "run", uri=uri, system_seconds=None)
    tracker.end()
    for name, channels in (("one", ("T1",)), ("two", ("FLAIR", "T1"))):
        make_model(folder / name, channels)
        log_pyfunc(folder / name, run_id=tracker.run_id, name=name, uri=uri)
    (folder / "two").rename(folder / "gone")
    for number in (0, 1):
        values = np.random.default_rng(number).uniform(1, 99, (9, 10, 11)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, AFFINE), folder / f"scan{number}.nii.gz")
    return folder


@pytest.fixture(autouse=True)
def here(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work}/mlflow.db")


def test_the_path_of_a_scan_gives_what_medae_predict_writes(work: Path, tmp_path: Path) -> None:
    predict.run(str(work / "one"), work / "scan0.nii.gz", tmp_path / "mask.nii.gz", {"device": "cpu"})
    found = mlflow.pyfunc.load_model("models:/one@newest").predict(str(work / "scan0.nii.gz"))
    expected = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    assert found.dtype == np.int16 and np.array_equal(found, expected) and 0 < expected.mean() < 1


def test_channels_are_joined_in_the_order_of_the_model(work: Path) -> None:
    model = mlflow.pyfunc.load_model("models:/two@newest")
    one, other = str(work / "scan0.nii.gz"), str(work / "scan1.nii.gz")
    assert not np.array_equal(model.predict(f"{one};{other}"), model.predict(f"{other};{one}"))
    with pytest.raises(DataError, match="1 paths are given, and the model takes 2: FLAIR, T1"):
        model.predict(one)


def test_a_scan_of_another_kind_is_refused_here_too(work: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1000, 500, (9, 9, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "ct.nii.gz")
    with pytest.raises(DataError, match="as CT has") as refused:
        mlflow.pyfunc.load_model("models:/one@newest").predict(str(tmp_path / "ct.nii.gz"))
    assert "--anyway" not in str(refused.value), "there is no such option here"


def test_the_header_of_dicom_says_what_it_is(work: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1000, 1100, (12, 12, 12)).astype(np.int16)  # -24 to 76 HU: could be anything
    Writer(tmp_path / "tree").series(values, modality="CT", name="ct")
    Writer(tmp_path / "tree").series(values, name="mr")
    model = mlflow.pyfunc.load_model("models:/one@newest")
    with pytest.raises(DataError, match="The model is for MR, and the image is CT"):
        model.predict(str(next((tmp_path / "tree").glob("*/ct"))))
    assert model.predict(str(next((tmp_path / "tree").glob("*/mr")))).shape == (12, 12, 12)


def test_mlflow_models_predict_takes_a_table_of_paths(work: Path, tmp_path: Path) -> None:
    rows = [{"path": str(work / f"scan{number}.nii.gz"), "output": str(tmp_path / f"{number}.nii.gz")} for number in (0, 1)]
    pd.DataFrame(rows).to_csv(tmp_path / "scans.csv", index=False)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", "models:/one@newest", "--env-manager", "local"]
    files = ["-i", str(tmp_path / "scans.csv"), "-t", "csv", "-o", str(tmp_path / "said.json")]
    done = subprocess.run([*command, *files], env=os.environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "said.json").read_text())["predictions"]
    for number, row in enumerate(said):
        mask = nib.load(tmp_path / f"{number}.nii.gz")
        assert np.array_equal(mask.affine, AFFINE)
        assert row["volume_ml.organ"] == pytest.approx(np.count_nonzero(mask.dataobj) * 1.5**3 / 1000)


def test_a_result_takes_no_scan_s_place_and_an_empty_folder_is_one_row_s_error(work: Path, tmp_path: Path) -> None:
    model = mlflow.pyfunc.load_model("models:/one@newest")
    scan, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    for path in (scan, other):
        path.write_bytes((work / "scan0.nii.gz").read_bytes())
    before = scan.read_bytes()
    (tmp_path / "empty").mkdir()
    rows = [(scan, scan), (other, scan), (tmp_path / "empty", tmp_path / "c.nii.gz"), (other, tmp_path / "d.nii.gz")]
    found = model.predict(pd.DataFrame([{"path": str(path), "output": str(output)} for path, output in rows]))
    assert scan.read_bytes() == before and (tmp_path / "d.nii.gz").is_file()
    assert all("take the place of a scan" in found["error"][row] for row in (0, 1))
    assert "holds no file" in found["error"][2] and found["volume_ml.organ"][3] > 0


def test_a_scan_that_fails_does_not_take_the_numbers_of_the_others(work: Path, tmp_path: Path) -> None:
    model = mlflow.pyfunc.load_model("models:/one@newest")
    rows = pd.DataFrame({"path": [str(work / "scan0.nii.gz"), str(tmp_path / "nothing.nii.gz")], "output": [None, np.nan]})
    found = model.predict(rows)
    assert found["volume_ml.organ"][0] > 0 and "does not exist" in found["error"][1]
    maps = model.predict([str(work / "scan0.nii.gz"), str(work / "scan1.nii.gz")])
    assert len(maps) == 2 and maps[0].shape == (9, 10, 11)
