"""The size estimate: from headers only, never too small, not far too large; and the refusal of a small disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medae.data.case import Case, ImageRef, Manifest
from medae.data.folder import FolderSource
from medae.data.msd import MSDSource
from medae.data.nnunet import NNUNetSource
from medae.errors import DataError
from medae.formats.header import read_grid
from medae.formats.read import read_array
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing import estimate as estimate_module
from medae.preprocessing import store as store_module
from medae.preprocessing.estimate import entry_bytes, readable
from medae.preprocessing.store import build_store
from pipelines.console import Screen
from pipelines.data import preprocess

AFFINE = np.array([[0.0, -2, 0, 5], [0.9, 0, 0, -3], [0, 0, 1.5, 11], [0, 0, 0, 1]])


def one_case(root: Path, name: str = "image.nii.gz", shape: tuple[int, ...] = (20, 10, 30)) -> Manifest:
    noise = np.random.default_rng(0).normal(100, 9, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, AFFINE), root / name)
    ref = ImageRef(files=(name,), sha256="a", kind="intensity")
    case = Case(id="a", subject="a", images={"image": ref})
    return Manifest(source="test", root=root, channels=("image",), cases=(case,))


def test_by_hand(tmp_path: Path) -> None:
    manifest = one_case(tmp_path)
    # 10 voxels of 2 mm along I, 20 of 0.9 mm along J, 30 of 1.5 mm along K, brought to 1 mm: 20 x 19 x 45, as the centres
    # of 18 along J would not enclose those of the image.
    space = SpacePlan(channels=("image", "other"), intensity=CTWindow(), foreground="all")
    voxels = 20 * 19 * 45
    size = entry_bytes(manifest, manifest.cases[0], space, ["label"])
    assert size == voxels * (2 * 4 + 1) + 10_000 * 6 + estimate_module.RECORD


@pytest.mark.parametrize(("extraction", "known", "masks"), [("none", False, 1), ("medae", False, 1), ("none", True, 2)])
def test_where_a_given_mask_is_doubtful_takes_room_too(tmp_path: Path, extraction: str, known: bool, masks: int) -> None:
    manifest = one_case(tmp_path)
    ref = manifest.cases[0].images["image"]
    mask = ref.model_copy(update={"kind": "mask", "doubtful": ref if known else None})
    case = manifest.cases[0].model_copy(update={"targets": {"brain_mask": mask}})
    space = SpacePlan(channels=("image",), foreground="brain", brain_extraction=extraction)
    assert entry_bytes(manifest, case, space, []) == 20 * 19 * 45 * (4 + masks) + 10_000 * 6 + estimate_module.RECORD


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.png"])
def test_the_header_says_the_same_as_the_whole_file(tmp_path: Path, name: str) -> None:
    if name == "a.png":
        sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), str(tmp_path / name))
    elif ".nii" in name:
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), AFFINE), tmp_path / name)
    else:
        image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
        image.SetSpacing((0.5, 2, 3))
        image.SetOrigin((1, 2, 3))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / name))
    grid, whole = read_grid([tmp_path / name]), read_array([tmp_path / name], "intensity")[1]
    assert grid.ras()[0] == whole.ras()[0]
    np.testing.assert_allclose(grid.ras()[1], whole.ras()[1])


def test_no_voxel_is_read(tmp_path: Path) -> None:
    """A file whose voxels are cut off has a header all the same."""
    manifest = one_case(tmp_path, shape=(60, 60, 60))
    path = tmp_path / "image.nii.gz"
    path.write_bytes(path.read_bytes()[:20_000])
    assert read_grid([path]).shape == (60, 60, 60)
    with pytest.raises(DataError, match="cannot be read"):
        read_array([path], "intensity")
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read") as caught:
        entry_bytes(manifest, manifest.cases[0], SpacePlan(), [])
    assert caught.value.where == "image.nii.gz"


@pytest.mark.data
def test_the_slices_of_a_series(data_root: Path) -> None:
    files = sorted(path for path in (data_root / "dicom").rglob("*") if path.is_file() and path.suffix in (".dcm", ""))
    series: dict[str, list[Path]] = {}
    for file in files:
        series.setdefault(str(file.parent), []).append(file)
    for paths in series.values():
        shape, affine = read_grid(paths).ras()
        assert sorted(shape) == [len(paths), 512, 512]
        assert sorted(np.linalg.norm(affine[:3, :3], axis=0)) == pytest.approx([0.43, 0.43, 6.5], rel=0.01)
    assert series


@pytest.mark.data
@pytest.mark.parametrize("name", ["hippocampus", "lidc", "lgg"])
def test_real_sets_take_no_more_than_estimated_and_at_least_half(data_root: Path, tmp_path: Path, name: str) -> None:
    source = {
        "hippocampus": MSDSource(root=data_root / name),
        "lgg": NNUNetSource(root=data_root / name),
        "lidc": FolderSource(root=data_root / name, images="image", labels="nodule_mask", subject="^.{14}"),
    }[name]
    manifest = source.manifest()
    manifest = manifest.model_copy(update={"cases": manifest.cases[: 2 if name == "lgg" else 20]})
    space = {
        "hippocampus": SpacePlan(channels=manifest.channels),
        "lgg": SpacePlan(
            spatial_dims=2, slice_axis=2, spacing=(1.0, 1.0, None), foreground="head", channels=manifest.channels
        ),
        "lidc": SpacePlan(spacing=(0.7, 0.7, 1.25), intensity=CTWindow(), foreground="all", channels=manifest.channels),
    }[name]
    said: list[tuple[int, int]] = []
    build_store(manifest, space, tmp_path / "store", ["label"], starting=lambda *work: said.append(work))
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert [cases for cases, _ in said] == [len(manifest.cases)]
    assert size <= said[0][1] <= 2 * size


def test_a_far_too_small_disk_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = one_case(tmp_path, shape=(200, 100, 30))
    space = SpacePlan(spacing=(None,) * 3)
    monkeypatch.setattr(store_module, "prepare_case", None)
    monkeypatch.setattr(estimate_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=700_000))
    with pytest.raises(DataError, match=r"1 preprocessed cases need up to 3 MB, 1 MB are free") as caught:
        build_store(manifest, space, tmp_path / "store")
    assert caught.value.where == str(tmp_path / "store")
    assert "MEDAE_CACHE" in (caught.value.remedy or "")
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize(("free", "warned"), [(800_000, True), (4_000_000, False)])
def test_a_disk_that_may_be_too_small_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: int, warned: bool
) -> None:
    """The estimate is an upper bound, so the work goes on."""
    manifest = one_case(tmp_path, shape=(200, 100, 30))
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(estimate_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    store = preprocess(manifest, SpacePlan(spacing=(None,) * 3), [], Screen(), workers=1)
    assert store["a"].image.shape == (1, 100, 200, 30)
    said = " ".join(capsys.readouterr().err.split())
    assert "Preprocessing 1 cases, at most 3 MB" in said
    assert ("1 MB are free: it may not be enough" in said) is warned


def test_what_is_there_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = one_case(tmp_path)
    build_store(manifest, SpacePlan(), tmp_path / "store")
    monkeypatch.setattr(estimate_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    said: list[tuple[int, int]] = []
    build_store(manifest, SpacePlan(), tmp_path / "store", starting=lambda *work: said.append(work))
    assert said == []


@pytest.mark.parametrize(("size", "text"), [(0, "1 MB"), (38_400_000, "38 MB"), (99_600_000, "0.1 GB"), (2.46e9, "2.5 GB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert readable(int(size)) == text
