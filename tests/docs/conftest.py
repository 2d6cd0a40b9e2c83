"""One world for all tests of the documentation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the modules beside this one

from docshell import Shell
from docworld import World, enter, make_data
from pictures import leave_blank


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data sets, and the demo, made small."""
    root = tmp_path_factory.mktemp("world")
    made = World(root / "data", root / "work", root / "store")
    made.work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, made, made.work)
        leave_blank(patch)
        Shell(patch).run(["medae", "demo"])
    make_data(made.work / "runs" / "phantoms", made.data)
    shutil.copytree(made.data / "new-scans", made.work / "scans")
    return made
