"""The raw layout of nnU-Net, versions 2 and 1, and its faults."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from medae.data.case import Manifest
from medae.data.nnunet import NNUNetSource
from medae.data.sources import AutoSource, open_manifest
from medae.errors import DataError


def table(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_nnunet(nnunet):
    manifest = auto(nnunet, target_name="tumour")
    assert (manifest.source, manifest.channels) == ("nnunet", ("T1", "CT"))
    assert manifest.labels == {"tumour": {0: "background", 1: "tumour"}}
    assert table(manifest) == {"a": (["T1", "CT"], ["tumour"]), "b": (["CT"], []), "c": (["T1"], [])}
    assert {name: ref.modality for name, ref in manifest.case("a").images.items()} == {"T1": "MR", "CT": "CT"}
    assert manifest.case("c").covariates == {"partition": "test"}


def test_nnunet_version_1(nnunet, edit_json):
    listed = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]  # names without channel, as version 1 has it
    edit_json(
        nnunet, channel_names=None, file_ending=None, modality={"0": "T1", "1": "CT"}, training=listed, labels={"0": "bg"}
    )
    manifest = auto(nnunet)
    assert (manifest.source, manifest.channels, manifest.labels) == ("nnunet", ("T1", "CT"), {"label": {0: "bg"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1"]}, "'channel_names' is not a mapping"),
        ({"channel_names": {"0": "T1", "1": "T1"}}, "different names"),
        ({"channel_names": {"0": "T1"}}, r"(?s)number of a declared channel.*a_0001"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "'whole' is a region"),
        ({"labels": {"background": 0, "ignore": 1}}, "'ignore' label is not supported"),
        ({"labels": {"background": 0, "other": 0}}, "not one value and its name"),
        ({"file_ending": ".png"}, "'.png' are not supported"),
        ({"dataset": {}}, "under 'dataset'"),
    ],
)
def test_malformed_nnunet(nnunet, changes, message, edit_json):
    edit_json(nnunet, **changes)
    with pytest.raises(DataError, match=message):
        auto(nnunet)


def test_nnunet_image_without_channel_number(nnunet, touch):
    touch(nnunet, "imagesTr/d.nii.gz")
    with pytest.raises(DataError, match=r"(?s)number of a declared channel.*imagesTr/d.nii.gz.*_0000, _0001"):
        open_manifest(NNUNetSource(root=nnunet))


def test_empty_and_unreadable(nnunet):
    shutil.rmtree(nnunet / "imagesTr")
    (nnunet / "imagesTr").mkdir()
    (nnunet / "imagesTr" / "a_0000.nii.gz").symlink_to("gone")  # how DataLad leaves a file that was not fetched
    with pytest.raises(DataError, match=r"(?s)cannot be read.*imagesTr/a_0000.nii.gz.*never downloaded"):
        auto(nnunet)
    for folder in ("imagesTr", "imagesTs"):
        shutil.rmtree(nnunet / folder)
    with pytest.raises(DataError, match="holds no images"):
        open_manifest(NNUNetSource(root=nnunet))
