"""What all file sources share: roots, names, label tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medae.data.case import Manifest
from medae.data.files import absolute_root, label_names, modality_of, resolve_root
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_missing_folder_says_how_to_get_the_data(tmp_path, monkeypatch, touch):
    monkeypatch.setenv("MEDAE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)does not exist.*MEDAE_DATA.*medicaldecathlon"):
        auto(Path("hippocampus"))
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="is a file, not a folder"):
        auto(Path("file"))


def test_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEDAE_DATA", "~/data")
    assert absolute_root(Path("set")) == tmp_path / "data" / "set"
    assert absolute_root(Path("~/set")) == tmp_path / "set"
    assert absolute_root(tmp_path) == tmp_path
    monkeypatch.delenv("MEDAE_DATA")
    monkeypatch.chdir(tmp_path)
    assert resolve_root(Path()) == tmp_path


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        *((name, "CT") for name in ("CT", "ct-abdomen")),
        *((name, "MR") for name in ("MRI", "T1w", "t1gd", "T1ce", "FLAIR", "T2*")),
        *((name, "unknown") for name in ("image", "pet", "T10", "contrast")),
    ],
)
def test_modality_of_channel_names(name, modality):
    assert modality_of(name) == modality


def test_modality_override(plain):
    manifest = auto(plain, modality="CT")
    assert {case.images["image"].modality for case in manifest.cases} == {"CT"}


def test_label_names_in_both_notations():
    assert (
        label_names({"2": "b", "0": "background"}, "")
        == label_names({"background": 0, "b": 2}, "")
        == {0: "background", 2: "b"}
    )
