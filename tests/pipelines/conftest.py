"""One smoke run of all stages, shared by the tests that look at what it left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pictures import leave_blank

from pipelines.run import run

SMOKE = "smoke/phantoms"


@dataclass(frozen=True)
class Smoke:
    """The working folder of a finished smoke run, and its result."""

    folder: Path
    result: dict[str, Any]

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        (found,) = (self.folder / "runs" / "smoke").glob(f"{name}-????????")
        return found


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Smoke:
    """All three stages on a handful of small phantoms, run once."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("medae.report.canvas.DPI", 40)
        run(SMOKE, [], Path("runs"))
    return Smoke(folder, json.loads((folder / "runs" / "smoke" / "result.json").read_text()))


@pytest.fixture(autouse=True)
def _blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a test itself; what fixtures of modules and sessions run is drawn."""
    leave_blank(monkeypatch)


@pytest.fixture
def medae() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process of its own."""

    def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        import os

        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        return subprocess.run(
            command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
        )

    return call


@pytest.fixture
def medae_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in this process: spares the seconds of the imports where the process is not what is tested."""
    from pipelines import cli

    def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["medae", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        code = ended.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, *capfd.readouterr())

    return call


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medae.report.canvas.DPI", 30)
    for name in ("MLFLOW_TRACKING_URI", "MEDAE_DATA", "MEDAE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
