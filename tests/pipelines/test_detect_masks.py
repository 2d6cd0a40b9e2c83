"""Doubtful edges of masks that medae made: kept with the prepared scan, with given masks too, none without; idle masks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.config import validate
from medae.data.sources import AutoSource, open_manifest
from medae.errors import ConfigError
from medae.inference.brainmask import extraction_of
from medae.plan import SpacePlan
from medae.preprocessing.store import build_store
from medae.report.html import Report
from pipelines import brainmask
from pipelines.data import DataConfig, refuse_idle_masks
from pipelines.detect_masks import Doubt, describe, doubts_of, facts, kept_doubts


@pytest.fixture(scope="module")
def head(data_root: Path, tmp_path_factory) -> Path:
    """One real head, its mask and where that is doubtful, and a map that flags a box across the edge of the brain."""
    folder = tmp_path_factory.mktemp("head")
    source = sorted((data_root / "ixi_t1").glob("sub-*/anat/*_T1w.nii.gz"))[0]
    (folder / "scans").mkdir()
    (folder / "scans" / "head_T1w.nii.gz").write_bytes(source.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        brainmask.run(Path("scans"), Path("masks"), {"device": "cpu", "doubtful": True})
    return folder


def test_what_is_flagged_in_doubt_is_counted(head: Path) -> None:
    manifest = open_manifest(validate(AutoSource, {"root": head / "scans"}))
    (case,) = manifest.cases
    doubtful = nib.load(head / "masks" / "head_T1w_doubtful.nii.gz")
    mask = np.asarray(nib.load(head / "masks" / "head_T1w.nii.gz").dataobj) > 0
    unsure = (np.asarray(doubtful.dataobj) > 0) & mask
    flagged = np.zeros(unsure.shape, dtype=np.uint8)
    flagged[: unsure.shape[0] // 2] = 1
    (head / "maps").mkdir()
    nib.save(nib.Nifti1Image(flagged, doubtful.affine), head / "maps" / f"{case.id}_anomaly.nii.gz")
    space = SpacePlan(foreground="brain", brain_extraction="medae", channels=manifest.channels)
    store = build_store(manifest, space, head / "store", brain=extraction_of(space))
    (found,) = doubts_of(manifest, store, head / "maps")
    voxel = abs(np.linalg.det(doubtful.affine[:3, :3])) / 1000
    assert found.doubtful_ml == pytest.approx(unsure.sum() * voxel, rel=0.01)
    assert found.flagged_ml == pytest.approx(flagged.sum() * voxel)
    assert found.flagged_in_doubt_ml == pytest.approx((unsure & (flagged > 0)).sum() * voxel, rel=0.02)
    assert 0 < found.flagged_in_doubt_ml < found.doubtful_ml
    head_alone = build_store(manifest, SpacePlan(foreground="head", channels=manifest.channels), head / "store")
    assert doubts_of(manifest, head_alone, head / "maps") == []

    def given(masks: Path) -> list[Doubt]:
        beside = open_manifest(validate(AutoSource, {"root": head / "scans", "brain_masks": masks}))
        store = build_store(beside, SpacePlan(foreground="brain", channels=manifest.channels), head / "store")
        return doubts_of(beside, store, head / "maps")

    assert given(head / "masks") == [found], "the same masks from files"
    (head / "certain").mkdir()
    (head / "certain" / "head_T1w.nii.gz").write_bytes((head / "masks" / "head_T1w.nii.gz").read_bytes())
    assert given(head / "certain") == [], "nothing is known of what is doubtful"


def test_the_report_says_how_much_lies_there(tmp_path: Path) -> None:
    page = Report("A detection", "")
    describe(page, [Doubt("a", 10.0, 4.0, 1.0), Doubt("b", 20.0, 0.0, 0.0)])
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "25% of what was flagged lies there" in text and "Brain masks" in text
    assert facts([Doubt("a", 10.0, 4.0, 1.0)]) == {"a": {"doubtful_ml": 10.0, "flagged_ml": 4.0, "flagged_in_doubt_ml": 1.0}}
    assert kept_doubts(facts([Doubt("a", 10.0, 4.0, 1.0)])) == [Doubt("a", 10.0, 4.0, 1.0)], "as folds keep them"
    empty = Report("Another", "")
    describe(empty, [])
    empty.write(tmp_path / "empty.html")
    assert "Brain masks" not in (tmp_path / "empty.html").read_text()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (SpacePlan(foreground="head"), "the foreground is 'head'"),
        (SpacePlan(foreground="brain", brain_from=("label",)), "the brain is taken from label"),
    ],
)
def test_masks_that_the_plan_has_no_use_for_are_refused(space: SpacePlan, said: str) -> None:
    config = validate(DataConfig, {"data": {"format": "nnunet", "root": "heads", "brain_masks": "masks"}})
    with pytest.raises(ConfigError, match=f"would not be used: {said}") as caught:
        refuse_idle_masks(config, space)
    assert caught.value.where == "data.brain_masks"
    refuse_idle_masks(config, SpacePlan(foreground="brain"))
    refuse_idle_masks(validate(DataConfig, {"data": {"format": "nnunet", "root": "heads"}}), space)
