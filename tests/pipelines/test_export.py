"""Exporting as a user calls it: what is said, what is refused, and what is left on the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from stored import stored_model
from typer.testing import CliRunner

from medae.artifact import Artifact
from medae.errors import ArtifactError, ConfigError
from medae.export import torch_export
from pipelines import export
from pipelines.cli_export import export as command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return stored_model(tmp_path_factory.mktemp("export") / "model", "segnet", 2)


def test_a_bundle_and_what_it_needs(model: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = export.run(str(model.folder), tmp_path / "out" / "bundle", "bundle")
    assert result["digest"] == model.digest
    assert set(result["needs"]) == {"nibabel", "safetensors", "scikit-image", "scipy"}
    shown = capfd.readouterr()
    assert "nibabel, safetensors" in shown.err
    assert "bundle/docs/README.md" in shown.err
    assert "Exported to" in shown.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bundle"}, "nothing is left beside it"
    assert {path.name for path in (tmp_path / "out/bundle").iterdir()} == {"configs", "models", "scripts", "docs", "LICENSE"}


def test_a_network_that_predicts_no_labels_is_said_to_be_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    detector = stored_model(tmp_path / "model", "autoencoder", 2, kind="detector")
    export.run(str(detector.folder), tmp_path / "bundle", "bundle")
    assert "calibration and the score are not" in capfd.readouterr().err


def test_a_graph_and_the_sizes_it_takes(model: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = export.run(str(model.folder), tmp_path / "net.pt2", "torch-export")
    assert result["sizes"] == {"batch": "any", "axes": ["multiples of 2 from 4 on"] * 2}
    assert result["fixed"] is None
    assert result["difference"] <= 1e-6
    said = capfd.readouterr().err
    assert "voxels: multiples of 2 from 4 on x multiples of 2 from 4 on" in said
    assert "to logits" in said


def test_sizes_that_are_fixed_are_told(
    model: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(artifact: Artifact, path: Path) -> Any:
        found = original(artifact, path)
        return replace(found, graph=replace(found.graph, batch=1, fixed="it depends on the batch"))

    original = torch_export.export_torch
    monkeypatch.setattr(torch_export, "export_torch", exported)
    result = export.run(str(model.folder), tmp_path / "net.pt2", "torch-export")
    assert result["fixed"] == "it depends on the batch"
    assert "All sizes are fixed, because torch cannot leave them free here: it depends" in capfd.readouterr().err


@pytest.mark.parametrize("to", ["bundle", "onnx", "torch-export"])
def test_nothing_takes_the_place_of_what_is_there(to: Any, model: Artifact, tmp_path: Path) -> None:
    out = tmp_path / {"bundle": "bundle", "onnx": "net.onnx", "torch-export": "net.pt2"}[to]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something of this name") as caught:
        export.run(str(model.folder), out, to)
    assert caught.value.remedy is not None
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("to", "ending"), [("onnx", ".onnx"), ("torch-export", ".pt2")])
def test_a_wrong_ending_is_told_before_the_model_is_opened(to: Any, ending: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"has to end in \{ending}") as caught:
        export.run("no/such/model", tmp_path / "net.pt", to)
    assert caught.value.remedy == f"Write net{ending}."


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        export.run(str(tmp_path / "none"), tmp_path / "bundle", "bundle")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_json_alone(model: Artifact, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(model.folder), str(tmp_path / "bundle"), "--to", "bundle", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["to"] == "bundle"
    missing = CliRunner().invoke(app, [str(model.folder), str(tmp_path / "other")])
    assert missing.exit_code == 2
    assert "--to" in missing.output
