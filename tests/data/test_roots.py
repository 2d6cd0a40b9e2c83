"""Where a data set lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from medae.data.roots import absolute_root, resolve_root
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError


def test_missing_folder_says_how_to_get_the_data(tmp_path, monkeypatch, touch):
    monkeypatch.setenv("MEDAE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)does not exist.*MEDAE_DATA.*medicaldecathlon"):
        open_manifest(AutoSource(root=Path("hippocampus")))
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="is a file, not a folder"):
        open_manifest(AutoSource(root=Path("file")))


def test_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEDAE_DATA", "~/data")
    assert absolute_root(Path("set")) == tmp_path / "data" / "set"
    assert absolute_root(Path("~/set")) == tmp_path / "set"
    assert absolute_root(tmp_path) == tmp_path
    monkeypatch.delenv("MEDAE_DATA")
    monkeypatch.chdir(tmp_path)
    assert resolve_root(Path()) == tmp_path
