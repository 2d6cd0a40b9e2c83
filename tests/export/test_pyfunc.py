"""An artifact logged, registered, found by alias, loaded and run by MLflow, and fetched again by medae."""

from __future__ import annotations

import json
import os
import pickletools
import re
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from medae.artifact import Artifact, ArtifactMeta, load_artifact, save_artifact
from medae.errors import ArtifactError, DataError, TrackingError
from medae.export.pyfunc import log_pyfunc
from medae.models.networks import build_network
from medae.plan import Plan
from medae.tracking.client import open_client
from medae.tracking.mlflow import MlflowTracker
from medae.tracking.models import resolve_model

LEVELS = {"widths": [4, 8], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]]}


def artifact(folder: Path, seed: int = 0) -> Artifact:
    plan = Plan.model_validate(
        {
            "space": {"spatial_dims": 2, "slice_axis": 2, "channels": ["FLAIR", "T1"]},
            "network": LEVELS,
            "sampling": {"patch": [16, 16]},
        }
    )
    network = {"kind": "unet", "encoder": {**LEVELS, "spatial_dims": 2, "in_channels": 2}, "classes": 3}
    content = {"kind": "segmenter", "network": network, "plan": plan, "target": "lesion", "labels": {0: "none", 1: "lesion"}}
    meta = ArtifactMeta.model_validate(content)
    torch.manual_seed(seed)
    return save_artifact(folder, build_network(meta.network), meta, {"values": torch.arange(3.0)})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def store(work: Path) -> str:
    return f"sqlite:///{work}/mlflow.db"


@pytest.fixture(scope="module")
def run(work: Path, store: str) -> str:
    tracker = MlflowTracker.start("project", "finetune", folder=work / "run", uri=store, system_seconds=None)
    tracker.end()
    return tracker.run_id


@pytest.fixture(scope="module")
def stored(work: Path) -> Artifact:
    return artifact(work / "model")


@pytest.fixture(scope="module")
def logged(stored: Artifact, store: str, run: str) -> str:
    return log_pyfunc(stored.folder, run_id=run, name="lesion segmenter", uri=store)


@pytest.fixture(autouse=True)
def here(work: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def folder_of(logged: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(logged))


@pytest.mark.parametrize("address", ["models:/lesion segmenter@newest", "models:/lesion segmenter/1"])
def test_mlflow_loads_and_runs_the_registered_model(stored: Artifact, logged: str, address: str) -> None:
    assert logged == "models:/lesion segmenter/1"
    image = np.random.default_rng(0).standard_normal((2, 2, 16, 13), dtype=np.float32)
    predicted = mlflow.pyfunc.load_model(address).predict(image)
    with torch.inference_mode():
        expected = stored.model()(torch.from_numpy(image)).finest.numpy()
    np.testing.assert_array_equal(predicted, expected)
    assert predicted.shape == (2, 3, 16, 13)
    assert predicted.dtype == np.float32


@pytest.mark.parametrize("given", [np.zeros((1, 1, 16, 16), np.float32), np.zeros((16, 16), np.float32), 3, None])
def test_what_is_no_batch_of_its_images_is_refused(logged: str, given) -> None:
    with pytest.raises(DataError, match=r"is no batch of images|neither a path"):
        mlflow.pyfunc.load_model(logged).predict(given)


def test_nothing_in_it_is_pickled(logged: str) -> None:
    files = [file for file in folder_of(logged).rglob("*") if file.is_file()]
    assert {"MLmodel", "pyfunc_model.py", "weights.safetensors", "medae.json", "README.md"} <= {file.name for file in files}
    for file in files:
        assert file.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".joblib"), file
        with pytest.raises((ValueError, EOFError)):
            list(pickletools.genops(file.read_bytes()))


def test_no_path_and_no_user_in_it(logged: str, work: Path, store: str, run: str) -> None:
    texts = {
        file.name: file.read_bytes().decode(errors="replace") for file in folder_of(logged).rglob("*") if file.is_file()
    }
    client = open_client(store)
    model_id = client.get_model_version("lesion segmenter", "1").tags["medae.model"]
    texts["tags"] = str(client.get_logged_model(model_id).tags)
    for name, text in texts.items():
        assert str(work) not in text, name
        assert str(Path.home()) not in text, name
        if name in ("MLmodel", "tags"):
            assert not re.search(r"(?<![\w.:/])/\w+/", text), text
            assert "mlflow.user" not in text
            assert "mlflow.source" not in text


def test_version_model_and_run_are_tied_together(stored: Artifact, logged: str, store: str, run: str) -> None:
    client = open_client(store)
    version = client.get_model_version_by_alias("lesion segmenter", "newest")
    expected = {"medae.kind": "segmenter", "medae.digest": stored.digest}
    assert expected.items() <= version.tags.items()
    assert version.run_id == run
    model = client.get_logged_model(version.tags["medae.model"])
    assert expected.items() <= model.tags.items()
    assert model.source_run_id == run
    assert model.status == "READY"
    outputs = client.get_run(run).outputs
    assert outputs is not None
    assert model.model_id in [output.model_id for output in outputs.model_outputs]


@pytest.mark.parametrize("address", ["models:/lesion segmenter@newest", "models:/lesion segmenter/1", "runs:/{run}", "path"])
def test_medae_finds_the_artifact(stored: Artifact, logged: str, run: str, tmp_path: Path, address: str) -> None:
    text = str(stored.folder) if address == "path" else address.format(run=run)
    found = load_artifact(resolve_model(text, folder=tmp_path), kind="segmenter")
    assert found.digest == stored.digest
    assert all(torch.equal(tensor, stored.tensors()[name]) for name, tensor in found.tensors().items())
    if address != "path":
        assert found.folder.is_relative_to(tmp_path)
        assert resolve_model(text, folder=tmp_path) != found.folder, "no download is mixed with another"


def test_what_a_map_has_learnt_goes_with_the_weights(stored: Artifact, logged: str) -> None:
    fetched = load_artifact(resolve_model(logged))
    assert fetched.digest == stored.digest
    assert torch.equal(fetched.statistics()["values"], torch.arange(3.0))


def test_an_artifact_among_a_runs_files_is_found(stored: Artifact, store: str, work: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker.start("project", "plain", folder=work / "plain", uri=store, system_seconds=None)
    tracker.artifact(stored.folder)
    tracker.end()
    for address in (f"runs:/{tracker.run_id}", f"runs:/{tracker.run_id}/model", f"runs:/{tracker.run_id}/model/"):
        assert load_artifact(resolve_model(address, folder=tmp_path / "a")).digest == stored.digest


@pytest.mark.parametrize("own", ["first", "second"])
def test_of_a_runs_models_its_own_is_taken(store: str, work: Path, tmp_path: Path, own: str) -> None:
    """MLflow gives the models of a run in no order; the first that the result names is the run's own."""
    tracker = MlflowTracker.start("project", "arms", folder=work / own, uri=store, system_seconds=None)
    made = {name: artifact(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))}
    addresses = {arm: log_pyfunc(each.folder, run_id=tracker.run_id, name=arm, uri=store) for arm, each in made.items()}
    with pytest.raises(ArtifactError, match="does not say which of the 2 models"):
        resolve_model(f"runs:/{tracker.run_id}")
    names = [own, *(name for name in made if name != own)]
    (tmp_path / "result.json").write_text(json.dumps({"registered": {name: addresses[name] for name in names}}))
    tracker.artifact(tmp_path / "result.json")
    tracker.end()
    assert load_artifact(resolve_model(f"runs:/{tracker.run_id}")).digest == made[own].digest
    lost = MlflowTracker.start("project", "lost", folder=work / f"lost-{own}", uri=store, system_seconds=None)
    address = log_pyfunc(made["second"].folder, run_id=lost.run_id, name="second", uri=store)
    (tmp_path / "result.json").write_text(json.dumps({"registered": {"first": None, "second": address}}))
    lost.artifact(tmp_path / "result.json")
    lost.end()
    with pytest.raises(ArtifactError, match="does not say which of the 1 models"):
        resolve_model(f"runs:/{lost.run_id}")


def test_a_download_is_gone_when_the_program_ends(stored: Artifact, logged: str, store: str, tmp_path: Path) -> None:
    script = (
        "import sys; from medae.tracking.models import resolve_model as find; print(find(sys.argv[1], store=sys.argv[2]))"
    )
    program = [sys.executable, "-c", script, logged, store]
    done = subprocess.run(program, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path), "it was fetched to the temporary folder"
    assert not list(tmp_path.glob("medae-model-*")), "weights hold traces of their scans"


def test_the_alias_moves_on(logged: str, store: str, run: str, tmp_path: Path) -> None:
    first = log_pyfunc(artifact(tmp_path / "one", seed=1).folder, run_id=run, name="moving", uri=store)
    second = log_pyfunc(artifact(tmp_path / "two", seed=2).folder, run_id=run, name="moving", uri=store, alias="newest")
    third = log_pyfunc(artifact(tmp_path / "three", seed=3).folder, run_id=run, name="moving", uri=store, alias=None)
    assert (first, second, third) == ("models:/moving/1", "models:/moving/2", "models:/moving/3")
    newest = load_artifact(resolve_model("models:/moving@newest"))
    assert newest.digest == load_artifact(tmp_path / "two").digest


def test_a_damaged_artifact_is_not_logged(store: str, run: str, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "model").folder
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        log_pyfunc(folder, run_id=run, name="damaged", uri=store)
    with pytest.raises(TrackingError, match="is not in the tracking store"):
        resolve_model("models:/damaged@newest")


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("models:/absent@newest", TrackingError, "is not in the tracking store"),
        ("models:/lesion segmenter@absent", TrackingError, "tracking store"),
        ("models:/lesion segmenter/99", TrackingError, "is not in the tracking store"),
        ("runs:/00000000000000000000000000000000", TrackingError, "is not in the tracking store"),
        ("models:/name", TrackingError, "is not an address"),
        ("runs:/", TrackingError, "is not an address"),
        ("no/such/folder", ArtifactError, "no such model folder"),
        (".", ArtifactError, "not a medae model"),
    ],
)
def test_what_is_not_there_is_one_clear_error(logged: str, address: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        resolve_model(address)
    assert caught.value.remedy  # type: ignore[attr-defined]


def test_a_run_without_a_model(store: str, work: Path) -> None:
    tracker = MlflowTracker.start("project", "empty", folder=work / "empty", uri=store, system_seconds=None)
    with pytest.raises(ArtifactError, match="stored no model"):
        resolve_model(f"runs:/{tracker.run_id}")
    with pytest.raises(TrackingError, match="tracking store"):
        resolve_model(f"runs:/{tracker.run_id}/nothing/here")


def test_a_server_that_is_gone_is_told_at_once(stored: Artifact, run: str) -> None:
    gone = "http://127.0.0.1:9"
    began = time.monotonic()
    with pytest.raises(TrackingError, match="no connection"):
        log_pyfunc(stored.folder, run_id=run, name="x", uri=gone)
    with pytest.raises(TrackingError, match="no connection"):
        resolve_model("models:/x@newest", store=gone)
    assert time.monotonic() - began < 10
