"""A migrated SQLite store, made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medae.tracking.client import open_client


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The default store of a fresh working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(migrated_database, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return "sqlite:///mlflow.db"
