"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

sys.path.append(str(Path(__file__).parent))  # the module beside this one

from webserver import Web

from medae.data import phantom
from medae.tracking import client as tracking

_CHECK = tracking._check_writable


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real scans: MEDAE_DATA, else ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDAE_DATA", beside))
    if not root.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the real scans are expected under {root} in continuous integration")
        pytest.skip("real scans not found: set MEDAE_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with its tables, which MLflow takes seconds to make: to be copied."""
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    tracking.open_client(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture(scope="session", autouse=True)
def _copied_tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """New SQLite stores that this process opens are copies of one."""
    known: list[Path] = []

    def copied(database: Path) -> None:
        _CHECK(database)
        if database.stat().st_size or database.parent.name.startswith("template"):
            return
        known[:] = known or [request.getfixturevalue("migrated_database")]
        with FileLock(f"{database}.lock", timeout=tracking.PATIENCE):
            if not database.stat().st_size:
                shutil.copyfile(known[0], database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_check_writable", copied)
        yield


@pytest.fixture(scope="session", autouse=True)
def _phantoms_made_once() -> Iterator[None]:
    """Phantoms that many tests ask for alike, and the template that they are made of, are made once in this process."""
    known: dict[str, phantom.Phantom] = {}
    make = phantom.make_phantom

    def made(template: phantom.Template, spacing: float, lesions: Any, seed: int, subject: int) -> phantom.Phantom:
        key = repr((spacing, lesions, seed, subject))
        if key not in known:
            known[key] = make(template, spacing, lesions, seed, subject)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "load_template", functools.lru_cache(maxsize=2)(phantom.load_template))
        patch.setattr(phantom, "make_phantom", made)
        yield


@pytest.fixture
def own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """New stores are made as users' are."""
    monkeypatch.setattr(tracking, "_check_writable", _CHECK)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on this machine, reached without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Web()
    yield server
    server.stop()
