"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
