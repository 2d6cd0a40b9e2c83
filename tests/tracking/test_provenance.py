"""Revision and versions, with and without git."""

from __future__ import annotations

import getpass
import platform
import socket
import subprocess
from pathlib import Path

import pytest

from medae.tracking.provenance import git_state, provenance


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_revision_and_changes(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout / "package") == {"git.revision": revision, "git.dirty": "false"}
    (checkout / "package" / "code.py").write_text("2")
    assert git_state(checkout / "package") == {"git.revision": revision, "git.dirty": "true"}


def test_an_environment_inside_somebody_elses_checkout_has_no_revision(checkout: Path) -> None:
    installed = checkout / ".venv" / "medae"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert git_state(installed) == {}


def test_no_checkout_and_no_git(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(Path("/")) == {}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git_state(checkout / "package") == {}


def test_versions_and_machine_without_names() -> None:
    facts = provenance()
    assert facts["version.python"] == platform.python_version()
    assert {"version.medae", "version.torch", "version.mlflow", "machine.cpus"} <= set(facts)
    text = " ".join(facts.values())
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() not in text.split()
