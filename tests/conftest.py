"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the module beside this one

from webserver import Web


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


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on this machine, reached without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Web()
    yield server
    server.stop()
