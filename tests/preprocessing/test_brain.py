"""Brain masks: a given one first, a parcellation when it is named, an extraction when one is asked for, else a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from medae.data.bids import BIDSSource
from medae.data.case import Case, ImageKind, ImageRef, Manifest, Modality
from medae.errors import DataError, GeometryError
from medae.inference.brainmask import extraction_of
from medae.plan import RobustZ, SpacePlan
from medae.preprocessing.brain import DeepBet, Extracted, given_mask
from medae.preprocessing.prepare import prepare_case, prepare_files
from medae.preprocessing.store import build_store, entry_key

SPACE = SpacePlan(foreground="brain", intensity=RobustZ())


def box(start: int, stop: int) -> np.ndarray:
    array = np.zeros((14, 14, 14), dtype=np.uint8)
    array[start:stop, start:stop, start:stop] = 1
    return array


@dataclass(frozen=True)
class Middle:
    """An extraction that takes a box for the brain."""

    name: str = "middle 1"

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
        assert image_CIJK.shape == (1, 14, 14, 14)
        assert affine.shape == (4, 4)
        return Extracted(torch.from_numpy(box(5, 9) > 0)[None])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    arrays = {"image": np.random.default_rng(0).uniform(50, 99, (14, 14, 14)).astype(np.float32)}
    arrays |= {"brain_mask": box(3, 12), "regions": box(4, 11) * 7, "tumour": box(6, 8)}
    arrays["brain_mask"][6:8, 6:8, 6:8] = 0  # a ventricle that the mask leaves out
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return tmp_path


def ref(name: str, kind: ImageKind = "labels", modality: Modality = "MR") -> ImageRef:
    return ImageRef(files=(f"{name}.nii.gz",), sha256=name, kind=kind, modality=modality)


def case_of(root: Path, *targets: str, modality: Modality = "MR") -> tuple[Manifest, Case]:
    case = Case(
        id="a",
        subject="a",
        images={"image": ref("image", "intensity", modality)},
        targets={name: ref(name) for name in targets},
    )
    return Manifest(source="test", root=root, channels=("image",), cases=(case,)), case


def size(start: int, stop: int) -> int:
    return (stop - start) ** 3


def test_a_given_mask_comes_first_with_its_holes_filled(root: Path) -> None:
    manifest, case = case_of(root, "brain_mask", "regions")
    space = SPACE.model_copy(update={"brain_from": ("brain_mask", "regions")})
    prepared = prepare_case(manifest, case, space, ["regions"], brain=Middle())
    assert prepared.native.crop == ((3, 12),) * 3
    assert prepared.mask.all() and int(prepared.mask.sum()) == size(3, 12)
    assert prepared.targets.keys() == {"regions"}


def test_a_parcellation_is_the_brain_only_where_the_plan_says_so(root: Path) -> None:
    manifest, case = case_of(root, "regions")
    named = SPACE.model_copy(update={"brain_from": ("brain_mask", "regions")})
    assert int(prepare_case(manifest, case, named).mask.sum()) == size(4, 11)
    with pytest.raises(DataError, match="no brain mask") as caught:
        prepare_case(manifest, case, SPACE)
    assert caught.value.where == "a"
    assert "brain_from" in (caught.value.remedy or "")


def test_an_extraction_does_the_cases_without_a_mask(root: Path) -> None:
    manifest, case = case_of(root)
    assert int(prepare_case(manifest, case, SPACE, brain=Middle()).mask.sum()) == size(5, 9)
    manifest, case = case_of(root, modality="CT")
    with pytest.raises(DataError, match="this image is CT") as caught:
        prepare_case(manifest, case, SPACE, brain=Middle())
    assert caught.value.where == "image.nii.gz"


def test_plain_files_take_a_mask_or_are_refused(root: Path) -> None:
    files = {"image": [root / "image.nii.gz"]}
    assert int(prepare_files(files, SPACE, brain_mask=root / "brain_mask.nii.gz").mask.sum()) == size(3, 12)
    with pytest.raises(DataError, match="no brain mask") as caught:
        prepare_files(files, SPACE, "scan 1")
    assert "--brain-mask" in (caught.value.remedy or "")
    with pytest.raises(DataError, match="does not exist"):
        prepare_files(files, SPACE, brain_mask=root / "other.nii.gz")


def test_the_mask_is_part_of_the_entrys_name(root: Path) -> None:
    _, with_mask = case_of(root, "brain_mask")
    _, without = case_of(root)
    named = [entry_key(with_mask, SPACE, ()), entry_key(without, SPACE, (), Middle())]
    named += [entry_key(without, SPACE, (), Middle("middle 2")), entry_key(without, SPACE, ())]
    assert len(set(named)) == 4
    assert entry_key(with_mask, SPACE, (), Middle()) == named[0]
    head = SPACE.model_copy(update={"foreground": "head"})
    assert entry_key(with_mask, head, ()) == entry_key(without, head, (), Middle())


def test_a_store_of_brains(root: Path, tmp_path: Path) -> None:
    manifest, _ = case_of(root)
    store = build_store(manifest, SPACE, tmp_path / "store", brain=Middle())
    assert store["a"].shape == (4, 4, 4)
    assert store["a"].doubtful is None, "nothing is said to be certain or not"


@pytest.mark.parametrize("axis", [None, 2])
def test_what_is_doubtful_of_a_mask_is_kept_with_the_case(root: Path, tmp_path: Path, axis: int | None) -> None:
    class Unsure(Middle):
        def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
            edge = torch.from_numpy(box(5, 9) + box(8, 12) == 2)[None]  # one voxel of the mask
            return Extracted(super().__call__(image_CIJK, affine).mask, edge | torch.from_numpy(box(10, 12) > 0)[None])

    manifest, case = case_of(root)
    space = SPACE.model_copy(update={"slice_axis": axis})
    prepared = prepare_case(manifest, case, space, brain=Unsure())
    assert torch.nonzero(prepared.doubtful[0]).tolist() == [[3, 3, 3]], "inside the mask"
    kept = build_store(manifest, space, tmp_path / "store", brain=Unsure())["a"]
    assert np.array_equal(kept.doubtful, prepared.doubtful.numpy())
    assert torch.equal(kept.prepared().doubtful, prepared.doubtful)


def test_a_mask_on_another_grid_is_refused(root: Path) -> None:
    nib.save(nib.Nifti1Image(box(3, 12), np.diag([1, 1, 2.0, 1])), root / "brain_mask.nii.gz")
    manifest, case = case_of(root, "brain_mask")
    with pytest.raises(GeometryError, match=r"'brain mask' .* lie on different grids"):
        prepare_case(manifest, case, SPACE)


def test_bids_derivatives_name_brain_masks(root: Path) -> None:
    for name, place in (
        ("image", "sub-1/anat/sub-1_T1w"),
        ("regions", "derivatives/x/sub-1/anat/sub-1_space-orig_dseg"),
        ("brain_mask", "derivatives/x/sub-1/anat/sub-1_space-orig_desc-brain_mask"),
    ):
        path = root / "bids" / f"{place}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((root / f"{name}.nii.gz").read_bytes())
    case = BIDSSource(root=root / "bids").manifest().cases[0]
    assert case.targets.keys() == {"label", "brain_mask"}
    manifest = BIDSSource(root=root / "bids").manifest()
    prepared = prepare_case(manifest, case, SPACE.model_copy(update={"channels": ("T1w",)}), ["label"])
    assert int(prepared.mask.sum()) == size(3, 12)


def test_deepbet_that_is_not_installed_is_said_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("medae.preprocessing.brain.version", missing)
    asked = SPACE.model_copy(update={"brain_extraction": "deepbet"})
    manifest, case = case_of(root)
    with pytest.raises(DataError, match="not installed") as caught:
        prepare_case(manifest, case, asked, brain=extraction_of(asked))
    assert "medae[brain]" in (caught.value.remedy or "")
    manifest, case = case_of(root, "brain_mask")
    assert int(prepare_case(manifest, case, asked, brain=extraction_of(asked)).mask.sum()) == size(
        3, 12
    )  # a given mask needs no package


@pytest.mark.data
def test_deepbet_on_real_heads(data_root: Path) -> None:
    pytest.importorskip("deepbet")
    manifest = BIDSSource(root=data_root / "ixi_t1").manifest()
    space = SPACE.model_copy(update={"channels": ("T1w",), "spacing": (2.0,) * 3, "brain_extraction": "deepbet"})
    case = manifest.cases[0]
    found = prepare_case(manifest, case, space, brain=extraction_of(space))
    truth = prepare_case(manifest, case, space.model_copy(update={"brain_from": ("label",)}))
    assert DeepBet().name == f"deepbet {version('deepbet')}"
    assert int(found.mask.sum()) == pytest.approx(int(truth.mask.sum()), rel=0.05)
    low, high = np.array(found.native.crop).T, np.array(truth.native.crop).T
    assert np.abs(low - high).max() <= 4
    with pytest.raises(DataError, match="finds no brain"):
        DeepBet()(torch.zeros(1, 64, 64, 64), np.eye(4))


def test_a_given_mask_counts_every_label() -> None:
    labels = box(3, 12).astype(np.int16) * 40
    assert torch.equal(given_mask(labels[None]), torch.from_numpy(box(3, 12) > 0)[None])
