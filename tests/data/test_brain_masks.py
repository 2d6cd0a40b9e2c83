"""Brain masks from a folder of their own, beside data sets of any layout."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medae.config import validate
from medae.data.check import check_manifest
from medae.data.folder import FolderSource
from medae.data.reading import read_array
from medae.data.sources import AutoSource, ManifestSource, open_manifest, write_manifest
from medae.errors import ConfigError, DataError, GeometryError
from medae.plan import SpacePlan
from medae.preprocessing.prepare import prepare_case
from medae.volume import spacing_of

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """``set``: two patients in BIDS, one with a brain mask of its derivatives. ``masks``: of both, one voxel smaller."""
    root = tmp_path / "set"
    for number, name in enumerate(("sub-1", "sub-2")):
        image = np.random.default_rng(number).normal(size=(8, 9, 10)).astype(np.float32)
        save(root / name / "anat" / f"{name}_T1w.nii.gz", image)
        mask = np.zeros(image.shape, dtype=np.uint8)
        mask[2:6, 2:7, 3:8] = 1
        save(tmp_path / "masks" / f"{name}.nii.gz", mask)
    given = np.ones((8, 9, 10), dtype=np.uint8)
    save(root / "derivatives" / "x" / "sub-1" / "anat" / "sub-1_desc-brain_mask.nii.gz", given)
    return tmp_path


def opened(world: Path, **keys):
    return open_manifest(validate(AutoSource, {"root": world / "set", "brain_masks": world / "masks", **keys}))


def test_masks_by_the_case_take_the_place_of_those_of_the_data_set_and_are_the_foreground(world: Path) -> None:
    manifest = opened(world)
    assert [set(case.targets) for case in manifest.cases] == [{"brain_mask"}, {"brain_mask"}]
    assert manifest.labels["brain_mask"] == {0: "background", 1: "brain"}
    for case in manifest.cases:
        prepared = prepare_case(manifest, case, SpacePlan(foreground="brain", spacing=(2.0, 2.0, 2.0), channels=("T1w",)))
        assert prepared.shape == (4, 5, 5), "cropped to the mask"
        assert prepared.spacing == spacing_of(AFFINE)
    assert not [each for each in check_manifest(manifest).findings if each.level == "error"]


def test_masks_by_the_file_of_the_image(world: Path) -> None:
    for name in ("sub-1", "sub-2"):
        (world / "masks" / f"{name}.nii.gz").rename(world / "masks" / f"{name}_T1w.nii.gz")
    assert all("brain_mask" in case.targets for case in opened(world).cases)


def test_other_masks_are_other_data_and_a_written_manifest_keeps_them(world: Path) -> None:
    first = opened(world)
    source = validate(AutoSource, {"root": world / "set", "brain_masks": world / "masks"})
    write_manifest(first, source, world / "manifest.json")
    again = open_manifest(ManifestSource(root=world / "set", file=world / "manifest.json"))
    assert again.digest() == first.digest()
    save(world / "masks" / "sub-2.nii.gz", np.ones((8, 9, 10), dtype=np.uint8))
    assert opened(world).digest() != first.digest()


def test_a_case_without_a_mask_keeps_what_it_has_and_is_named(world: Path) -> None:
    (world / "masks" / "sub-1.nii.gz").unlink()
    manifest = opened(world)
    assert "derivatives" in manifest.case("sub-1").targets["brain_mask"].files[0]
    assert [(finding.case, finding.code) for finding in manifest.findings] == [("sub-1", "brain-mask")]


def test_where_a_mask_is_doubtful_comes_with_it(world: Path) -> None:
    plain = opened(world)
    doubtful = np.zeros((8, 9, 10), dtype=np.uint8)
    doubtful[5:7, 2:7, 3:8] = 1
    save(world / "masks" / "sub-2_doubtful.nii.gz", doubtful)
    manifest = opened(world)
    first, second = (case.targets["brain_mask"] for case in manifest.cases)
    assert first == plain.case("sub-1").targets["brain_mask"] and first.doubtful is None
    assert [Path(file).name for file in second.doubtful.files] == ["sub-2_doubtful.nii.gz"]
    assert second.identity() != plain.case("sub-2").targets["brain_mask"].identity()
    assert not [each for each in check_manifest(manifest).findings if each.level == "error"]
    space = SpacePlan(foreground="brain", spacing=(2.0, 2.0, 2.0), channels=("T1w",))
    known, unknown = (prepare_case(manifest, manifest.case(name), space).doubtful for name in ("sub-2", "sub-1"))
    assert unknown is None
    # the file's first axis runs from right to left: its last slice inside the mask is the first on RAS axes
    assert known.shape == (1, 4, 5, 5) and known[0, 0].all() and not known[0, 1:].any(), "inside the mask"
    again = open_manifest(validate(AutoSource, {"root": world / "set", "brain_masks": world / "masks"}), "hashed")
    assert sum(case.targets["brain_mask"].doubtful is not None for case in again.cases) == 1


def test_the_mask_of_a_case_is_not_the_doubt_of_another(tmp_path: Path) -> None:
    for name in ("a", "a_doubtful"):
        save(
            tmp_path / "set" / f"{name}.nii.gz", np.random.default_rng(len(name)).normal(size=(8, 9, 10)).astype(np.float32)
        )
        save(tmp_path / "masks" / f"{name}.nii.gz", np.ones((8, 9, 10), dtype=np.uint8))
    content = {"format": "folder", "root": tmp_path / "set", "image_pattern": "*.nii.gz", "brain_masks": tmp_path / "masks"}
    found = open_manifest(validate(FolderSource, content))
    assert [case.targets["brain_mask"].doubtful for case in found.cases] == [None, None]


def test_what_is_doubtful_on_another_grid_is_refused(world: Path) -> None:
    save(world / "masks" / "sub-2_doubtful.nii.gz", np.ones((8, 9, 9), dtype=np.uint8))
    manifest = opened(world)
    with pytest.raises(GeometryError, match=r"'doubt of the brain mask' .* lie on different grids") as caught:
        prepare_case(manifest, manifest.case("sub-2"), SpacePlan(foreground="brain", channels=("T1w",)))
    assert caught.value.where.endswith("masks/sub-2_doubtful.nii.gz")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.ones((8, 9, 9), dtype=np.uint8), "is not on the grid of the case's first image"),
        (np.full((8, 9, 10), np.nan, dtype=np.float32), "not finite|NaN|no number"),
    ],
)
def test_check_finds_a_bad_file_of_what_is_doubtful(world: Path, values: np.ndarray, problem: str) -> None:
    save(world / "masks" / "sub-2_doubtful.nii.gz", values)
    errors = [each for each in check_manifest(opened(world)).findings if each.level == "error"]
    assert [error.case for error in errors] == ["sub-2"]
    assert "has a file beside it, of where it is doubtful, that" in errors[0].problem
    assert re.search(problem, errors[0].problem)


def test_hashed_cases_find_their_masks(world: Path) -> None:
    source = validate(AutoSource, {"root": world / "set", "brain_masks": world / "masks"})
    hashed = open_manifest(source, "hashed")
    assert all("brain_mask" in case.targets for case in hashed.cases)
    assert not any("sub-" in case.id for case in hashed.cases)


def test_what_cannot_be_used_is_refused(world: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        opened(world, brain_masks=world / "nowhere")
    save(world / "masks" / "sub-1.nii", np.ones((8, 9, 10), dtype=np.uint8))
    with pytest.raises(DataError, match="claim to be the mask of the same scan"):
        opened(world)
    (world / "masks" / "sub-1.nii").unlink()
    for path in list((world / "masks").iterdir()):
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(DataError, match="None of the 2 masks"):
        opened(world)


def test_a_data_set_behind_a_link(world: Path) -> None:
    (world / "far" / "away").mkdir(parents=True)
    (world / "set").rename(world / "far" / "away" / "set")
    (world / "set").symlink_to(world / "far" / "away" / "set")
    manifest = opened(world)
    for case in manifest.cases:
        assert np.asarray(read_array(manifest, case.targets["brain_mask"])[0]).sum() == 100


def test_masks_by_the_hashed_names_that_medae_shows(world: Path) -> None:
    source = validate(AutoSource, {"root": world / "set"})
    names = {ref.files[0]: case.id for case in open_manifest(source, "hashed").cases for ref in case.images.values()}
    for file, name in names.items():
        (world / "masks" / f"{file.split('/')[0]}.nii.gz").rename(world / "masks" / f"{name}.nii.gz")
    assert all("masks/case-" in case.targets["brain_mask"].files[0] for case in opened(world).cases)


def test_one_mask_for_two_cases_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        image = np.random.default_rng(number).normal(size=(8, 9, 10)).astype(np.float32)
        save(tmp_path / "set" / f"p{number}" / "T1.nii.gz", image)
    save(tmp_path / "masks" / "T1.nii.gz", np.ones((8, 9, 10), dtype=np.uint8))
    content = {
        "format": "folder",
        "root": tmp_path / "set",
        "image_pattern": "*/T1.nii.gz",
        "brain_masks": tmp_path / "masks",
    }
    with pytest.raises(DataError, match="name of several cases"):
        open_manifest(validate(FolderSource, content))


def test_phantoms_have_no_use_for_them(world: Path, tmp_path: Path) -> None:
    (tmp_path / "phantoms").mkdir()
    (tmp_path / "phantoms" / "phantom.json").write_text("{}")
    with pytest.raises(ConfigError, match="brain_masks"):
        open_manifest(AutoSource(root=tmp_path / "phantoms", brain_masks=world / "masks"))
