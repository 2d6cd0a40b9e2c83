"""Series that results are written for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # dicomfiles, dicomresults

from dicomfiles import Writer


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """Writes one study of one patient."""
    return Writer(tmp_path / "tree")
