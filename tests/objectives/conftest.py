"""The helpers of the semi-supervised tests as a module."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def semi():
    spec = importlib.util.spec_from_file_location("semi", Path(__file__).with_name("semi.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
