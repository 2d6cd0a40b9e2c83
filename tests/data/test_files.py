"""What all file sources share: names, label tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medae.data.case import Manifest
from medae.data.files import label_names, modality_of
from medae.data.sources import AutoSource, open_manifest


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


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
