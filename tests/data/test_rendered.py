"""Rendered heads: made where missing, the same bytes, split as the scans they come from, safe for other people's files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.config import validate
from medae.data.rendered import RenderedSource
from medae.data.sources import open_manifest
from medae.data.split import SplitConfig, split_subjects
from medae.errors import ConfigError, DataError
from medae.synthesis import head as synthesis
from pipelines.data import Opened


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two subjects in plain folders; their axes are stored the other way round."""
    places = np.indices((20, 22, 18)) - np.array([10, 11, 9]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm(places, axis=0)
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    for number, name in enumerate(("ann", "ben")):
        rng = np.random.default_rng(number)
        image = np.where(distance < 9, rng.uniform(40, 100, distance.shape), 0).astype(np.float32)
        image[2, 11, 9] = 90
        brain = (distance < 6).astype(np.uint8)
        brain[10, 11, 9] = 0  # a hole
        for folder, array in (("image", image), ("mask", 7 * brain)):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), tmp_path / "scans" / folder / f"{name}.nii.gz")
    return tmp_path / "scans"


def source(scans: Path, **changes: object) -> RenderedSource:
    of = {
        "format": "folder",
        "root": scans,
        "image_pattern": "image/*.nii.gz",
        "label_pattern": "mask/*.nii.gz",
        "ids": "names",
    }
    content = {"root": scans.parent / "rendered", "of": of, "renderings": 2, **changes}
    return validate(RenderedSource, content)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_scan_has_its_renderings_with_one_brain(scans: Path) -> None:
    manifest = source(scans).manifest()
    assert [case.id for case in manifest.cases] == ["ann_r01", "ann_r02", "ben_r01", "ben_r02"]
    assert [case.subject for case in manifest.cases] == ["ann", "ann", "ben", "ben"]
    assert (manifest.channels, manifest.labels) == (("image",), {"brain": {0: "background", 1: "brain"}})
    first, second = manifest.cases[:2]
    assert first.images["image"].sha256 != second.images["image"].sha256
    assert first.images["image"].modality == "MR"
    assert first.targets["brain"] == second.targets["brain"]
    brain = nib.load(manifest.paths(first.targets["brain"])[0])
    assert nib.aff2axcodes(brain.affine) == ("R", "A", "S")
    given = np.asarray(nib.as_closest_canonical(nib.load(scans / "mask" / "ann.nii.gz")).dataobj) > 0
    found = np.asarray(brain.dataobj) > 0
    assert found.sum() == given.sum() + 1  # the hole is filled
    assert found[given].all()
    np.testing.assert_allclose(nib.load(manifest.paths(first.images["image"])[0]).affine, brain.affine)


def test_files_are_made_once_and_more_are_added(scans: Path) -> None:
    made = source(scans).manifest()
    before = contents(made.root)
    stamps = {path: path.stat().st_mtime_ns for path in made.root.rglob("*.nii.gz")}
    assert source(scans).manifest() == made
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    again = contents(source(scans, root=scans.parent / "elsewhere").manifest().root)
    assert again == before
    more = contents(source(scans, renderings=3).manifest().root)
    assert before.items() <= more.items()
    assert len(more) == len(before) + 4
    (made.root / "ann" / "ann_r01.nii.gz").unlink()
    assert contents(source(scans).manifest().root) == more


def test_other_settings_or_scans_are_not_mixed_in(scans: Path) -> None:
    source(scans).manifest()
    with pytest.raises(DataError, match="made with other settings") as caught:
        source(scans, seed=1).manifest()
    assert "ann_r01" in str(caught.value)
    mask = scans / "mask" / "ben.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(mask).dataobj)[::-1], nib.load(mask).affine), mask)
    with pytest.raises(DataError, match="or of other scans") as caught:
        source(scans).manifest()
    assert "ben_r01" in str(caught.value)


def test_a_folder_of_other_files_is_left_alone(scans: Path) -> None:
    with pytest.raises(DataError, match="holds other files"):
        source(scans, root=scans).manifest()
    assert sorted(path.name for path in scans.iterdir()) == ["image", "mask"]


def test_what_cannot_be_rendered_is_named(scans: Path) -> None:
    with pytest.raises(DataError, match="None of the scans to render has the label map 'brains'"):
        source(scans, label="brains").manifest()
    mask = nib.load(scans / "mask" / "ben.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:, :, :-1], mask.affine), scans / "mask" / "ben.nii.gz")
    with pytest.raises(DataError, match="different grids") as caught:
        source(scans).manifest()
    assert "ben" in str(caught.value)


def test_a_scan_without_contrast_is_named(scans: Path) -> None:
    image = nib.load(scans / "image" / "ann.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(image.shape, dtype=np.float32), image.affine), scans / "image" / "ann.nii.gz")
    with pytest.raises(DataError, match="cannot be parted into tissues") as caught:
        source(scans).manifest()
    assert "ann" in str(caught.value)


def test_a_change_of_recipe_is_another_setting(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(scans).manifest()
    monkeypatch.setattr("medae.data.rendered.RECIPE", synthesis.RECIPE + 1)
    with pytest.raises(DataError, match="other settings"):
        source(scans).manifest()


def test_renderings_are_split_as_their_scans(scans: Path) -> None:
    config = SplitConfig(salt="x", test=1, validation=0)
    rendered = source(scans)
    assert split_subjects(rendered.manifest(), config) == split_subjects(rendered.of.manifest(), config)


def test_a_configuration_names_the_layout(scans: Path) -> None:
    content = {"format": "rendered", "root": scans.parent / "r", "of": {"format": "folder", "root": scans}, "renderings": 1}
    opened = open_manifest(validate(Opened, {"data": content}).data)
    assert len(opened.cases) == 2
    with pytest.raises(ConfigError, match="of"):
        validate(Opened, {"data": {"format": "rendered", "root": "x"}})
