"""Preparing a case: values, grids, absent channels, targets, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medae.data.case import Case, ImageKind, ImageRef, Manifest
from medae.errors import DataError, GeometryError
from medae.plan import CTWindow, RobustZ, SpacePlan, ZScore
from medae.preprocessing.prepare import prepare_case, prepare_files

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])  # LPS, 2 mm slices
WINDOW = CTWindow(lower=-1000, upper=1000, mean=0, std=500)


def ref(name: str, kind: ImageKind) -> ImageRef:
    return ImageRef(files=(name,), sha256=name, kind=kind)


def manifest_of(root: Path, images: dict[str, str], targets: dict[str, ImageRef | str | float]) -> Manifest:
    channels = {name: ref(file, "intensity") for name, file in images.items()}
    case = Case(id="a", subject="s", images=channels, targets=targets)
    return Manifest(source="folder", root=root, channels=("flair", "t1"), cases=(case,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    flair = np.zeros((12, 14, 8), np.float32)
    flair[2:10, 3:12, 1:7] = random.uniform(50, 150, (8, 9, 6))
    labels = np.zeros((12, 14, 8), np.uint8)
    labels[4:7, 5:9, 2:5] = 2
    arrays = {"flair": flair, "t1": flair * 3 + 7, "label": labels, "half": labels / 2}
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / f"{name}.nii.gz")
    moved = AFFINE.copy()
    moved[:3, 3] = (0, 0, 0.5)
    nib.save(nib.Nifti1Image(labels, moved), tmp_path / "moved.nii.gz")
    nib.save(nib.Nifti1Image(labels[:-1], AFFINE), tmp_path / "smaller.nii.gz")
    return tmp_path


SPACE = SpacePlan(spacing=(1, 1, 1), intensity=WINDOW, foreground="nonzero", channels=("flair",))


def test_crop_spacing_mask_and_targets(root: Path) -> None:
    manifest = manifest_of(root, {"flair": "flair.nii.gz"}, {"lesion": ref("label.nii.gz", "labels")})
    prepared = prepare_case(manifest, manifest.cases[0], SPACE, ["lesion", "tissue"])
    # LPS: I and J are flipped, so 2..10 of 12 becomes 2..10, 3..12 of 14 becomes 2..11.
    assert prepared.native.crop == ((2, 10), (2, 11), (1, 7))
    assert prepared.shape == (8, 9, 12)
    assert prepared.spacing == pytest.approx((1, 1, 1))
    assert prepared.image.dtype == torch.float32
    assert prepared.mask.dtype == torch.bool
    assert prepared.mask.all()
    assert list(prepared.targets) == ["lesion"]
    lesion = prepared.targets["lesion"]
    assert lesion.dtype == torch.int16
    assert lesion.unique().tolist() == [0, 2]
    # 4..7 of 12 is 5..8 after the flip, 3..6 in the crop; 5..9 of 14 is 5..9, 3..7; slices 2..5 are 1..4, halved 2..8.
    assert [(int(axis.min()), int(axis.max()) + 1) for axis in lesion[0].nonzero().T] == [(3, 6), (3, 7), (2, 8)]
    # The first voxel of slice 2 lies a quarter of a slice below slice 2 of the file.
    np.testing.assert_allclose((prepared.affine @ [3, 3, 2, 1])[:3], AFFINE[:3] @ [6, 8, 1.75, 1])
    source = np.asarray(nib.load(root / "flair.nii.gz").dataobj)
    expected = 0.25 * source[6, 8, 1] + 0.75 * source[6, 8, 2]
    assert float(prepared.image[0, 3, 3, 2]) == pytest.approx(expected / 500, rel=1e-5)


def test_outside_the_foreground_is_zero(root: Path) -> None:
    image = np.asarray(nib.load(root / "flair.nii.gz").dataobj).copy()
    image[2:4, 3:5] = 0  # a corner of the box is background
    nib.save(nib.Nifti1Image(image, AFFINE), root / "cut.nii.gz")
    for spacing in ((None, None, None), (0.7, 0.9, 1.3)):
        for scheme in (WINDOW, ZScore(), RobustZ()):
            space = SPACE.model_copy(update={"spacing": spacing, "intensity": scheme})
            prepared = prepare_files({"flair": [root / "cut.nii.gz"]}, space)
            assert not prepared.mask.all()
            assert (prepared.image[~prepared.mask] == 0).all()
            assert (prepared.image[prepared.mask] != 0).float().mean() > 0.99


def test_an_absent_channel_is_zero_and_said_to_be_absent(root: Path) -> None:
    space = SPACE.model_copy(update={"channels": ("t1", "flair")})
    prepared = prepare_files({"flair": [root / "flair.nii.gz"]}, space)
    assert prepared.present.tolist() == [False, True]
    assert not prepared.image[0].any()
    alone = prepare_files({"flair": [root / "flair.nii.gz"]}, SPACE)
    assert torch.equal(prepared.image[1:], alone.image)
    both = prepare_files({name: [root / f"{name}.nii.gz"] for name in ("flair", "t1")}, space)
    assert both.present.all()
    assert both.image.shape[0] == 2
    assert both.native.crop is None  # t1 is nowhere 0: the foreground is that of any channel


def test_no_channel_of_the_plan_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="none of the plan's channels"):
        prepare_files({"t2": [root / "flair.nii.gz"]}, SPACE)


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (ref("moved.nii.gz", "labels"), GeometryError, "different grids"),
        (ref("smaller.nii.gz", "labels"), GeometryError, "11 x 14 x 8"),
        (ref("half.nii.gz", "labels"), None, ""),
        (ref("flair.nii.gz", "labels"), DataError, "not whole numbers"),
        (ref("missing.nii.gz", "labels"), DataError, "does not exist"),
        ("glioma", DataError, "not a label map"),
    ],
)
def test_targets_that_do_not_fit_are_named(
    root: Path, target: ImageRef | str, error: type[Exception] | None, words: str
) -> None:
    manifest = manifest_of(root, {"flair": "flair.nii.gz"}, {"lesion": target})
    if error is None:
        assert prepare_case(manifest, manifest.cases[0], SPACE, ["lesion"]).targets["lesion"].unique().tolist() == [0, 1]
        return
    with pytest.raises(error, match=words) as caught:
        prepare_case(manifest, manifest.cases[0], SPACE, ["lesion"])
    expected = "a" if isinstance(target, str) else target.files[0]
    assert caught.value.where == expected  # relative to the root: the folder of the data stays private
    assert str(root) not in str(caught.value)


def test_an_empty_image_is_named(root: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.float32), AFFINE), root / "empty.nii.gz")
    manifest = manifest_of(root, {"flair": "empty.nii.gz"}, {})
    with pytest.raises(DataError, match="no foreground") as caught:
        prepare_case(manifest, manifest.cases[0], SPACE)
    assert caught.value.where == "empty.nii.gz"


@pytest.mark.data
@pytest.mark.parametrize(
    ("image", "label", "space"),
    [
        ("hippocampus/imagesTr/*.nii.gz", "hippocampus/labelsTr/{0}.nii.gz", SpacePlan(foreground="all")),
        (
            "lgg/imagesTr/*.nii.gz",
            "lgg/labelsTr/{0}.nii.gz",
            SpacePlan(spatial_dims=2, slice_axis=2, spacing=(2, 2, None), foreground="head", intensity=RobustZ()),
        ),
        (
            "lidc/image/*.nii.gz",
            "lidc/nodule_mask/{0}.nii.gz",
            SpacePlan(spacing=(0.7, 0.7, 1.25), foreground="all", intensity=WINDOW),
        ),
        ("oasis_t1/*_T1w.nii.gz", "oasis_t1/{0}_dseg.nii.gz", SpacePlan(spacing=(1.5, 1.5, 1.5))),
        (
            "ixi_t1/sub-*/anat/*_T1w.nii.gz",
            "ixi_t1/derivatives/dlmuse/{0}/anat/{0}_space-orig_dseg.nii.gz",
            SpacePlan(spacing=(3, 3, 3), foreground="head"),
        ),
    ],
)
def test_real_scans_in_the_space_of_a_plan(data_root: Path, image: str, label: str, space: SpacePlan) -> None:
    for file in sorted(data_root.glob(image))[:2]:
        stem = file.name.removesuffix(".nii.gz").removesuffix("_0000").removesuffix("_T1w")
        target = ref(label.format(stem), "labels")
        case = Case(
            id=stem,
            subject=stem,
            images={"image": ref(file.relative_to(data_root).as_posix(), "intensity")},
            targets={"label": target},
        )
        manifest = Manifest(source="folder", root=data_root, channels=("image",), cases=(case,))
        prepared = prepare_case(manifest, case, space, ["label"])
        for axis, wanted in enumerate(space.spacing):
            if wanted is not None:
                assert prepared.spacing[axis] == pytest.approx(wanted, rel=1e-3)
        inside = prepared.image[0][prepared.mask[0]]
        if not isinstance(space.intensity, CTWindow):
            assert abs(float(inside.median())) < 0.5
            assert 0.5 < float(inside.std()) < 3
        before = np.asarray(nib.load(data_root / target.files[0]).dataobj) > 0
        after = (prepared.targets["label"] > 0).numpy()
        voxel = float(np.prod(nib.load(file).header.get_zooms()))
        assert after.sum() * np.prod(prepared.spacing) == pytest.approx(before.sum() * voxel, rel=0.12)


def test_channels_of_one_file_are_prepared_as_those_of_two(root: Path) -> None:
    pair = [np.asarray(nib.load(root / f"{name}.nii.gz").dataobj) for name in ("flair", "t1")]
    nib.save(nib.Nifti1Image(np.stack(pair, axis=-1), AFFINE), root / "both.nii.gz")
    space = SPACE.model_copy(update={"channels": ("flair", "t1")})
    apart = manifest_of(root, {"flair": "flair.nii.gz", "t1": "t1.nii.gz"}, {})
    images = {
        name: ref("both.nii.gz", "intensity").model_copy(update={"component": place})
        for place, name in enumerate(("flair", "t1"))
    }
    case = apart.cases[0].model_copy(update={"images": images})
    together = apart.model_copy(update={"cases": (case,)})
    first, second = (prepare_case(each, each.cases[0], space) for each in (apart, together))
    assert torch.equal(first.image, second.image)
    assert not torch.equal(second.image[0], second.image[1])
