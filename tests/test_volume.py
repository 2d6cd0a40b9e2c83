"""Reading: orientation, world positions, values, and the plain refusal of what cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.errors import DataError, GeometryError
from medae.formats.read import read_volume
from medae.volume import NativeGrid, from_ras, spacing_of, to_ras

CODES = ["RAS", "LPS", "PSR", "PLS", "LAS", "AIL"]


def affine_of(codes: str, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0), tilt: float = 0.0) -> np.ndarray:
    """4x4 of a file stored along ``codes``, turned by ``tilt`` degrees about an oblique line, with an odd origin."""
    world = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    turn = Rotation.from_rotvec(np.radians(tilt) * np.array([1, 2, 3]) / np.sqrt(14)).as_matrix()
    directions = np.array([world[code] for code in codes], dtype=float).T
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions * np.asarray(spacing)
    affine[:3, 3] = (-31.5, 17.25, 8.0)
    return affine


def world_of(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World position in mm of every voxel, ``[*shape, 3]``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def save(path: Path, array: np.ndarray, affine: np.ndarray, **units: str) -> Path:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(**(units or {"xyz": "mm"}))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize("codes", CODES)
def test_every_voxel_keeps_its_place_in_the_world(tmp_path: Path, codes: str, tilt: float) -> None:
    affine = affine_of(codes, tilt=tilt)
    world = world_of(affine, (5, 6, 7))
    for axis in range(3):
        file = save(tmp_path / f"{axis}.nii.gz", world[..., axis].astype(np.float32), affine)
        volume = read_volume([file], "intensity")
        matrix = volume.image.affine.numpy()
        assert "".join(nib.aff2axcodes(matrix)) == "RAS"
        expected = world_of(matrix, tuple(volume.image.shape[1:]))[..., axis]
        np.testing.assert_allclose(volume.image.numpy()[0], expected, atol=1e-4)
    assert volume.native.shape == (5, 6, 7)
    np.testing.assert_allclose(volume.native.matrix(), affine, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    tilt=st.floats(-40, 40),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_to_ras_and_back_is_the_identity(
    order: list[int], signs: tuple[int, ...], tilt: float, shape: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [tilt, tilt / 2, -tilt / 3], degrees=True).as_matrix()
    affine[:3, :3] = affine[:3, order] * signs * np.array([0.7, 1.0, 4.0])
    array = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    turned = to_ras(array, affine)
    grid = NativeGrid(shape=shape, affine=affine.tolist())
    assert turned.shape[1:] == grid.ras()[0]
    assert np.diag(grid.ras()[1])[:3].min() > 0
    np.testing.assert_array_equal(from_ras(turned, affine), array)


def test_crop_moves_the_origin_to_its_first_voxel() -> None:
    grid = NativeGrid(shape=(4, 5, 6), affine=affine_of("LPS").tolist(), crop=((1, 3), (2, 5), (0, 6)))
    shape, affine = grid.cropped()
    assert shape == (2, 3, 6)
    np.testing.assert_allclose(affine[:3, 3], grid.ras()[1][:3] @ [1, 2, 0, 1])


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_give_what_nifti_gives(tmp_path: Path, ending: str) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    file = save(tmp_path / "scan.nii.gz", values, affine_of("PSR", tilt=15))
    other = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.ReadImage(str(file)), str(other))
    first, second = read_volume([file], "intensity"), read_volume([other], "intensity")
    assert torch.equal(first.image.as_tensor(), second.image.as_tensor())
    np.testing.assert_allclose(second.image.affine, first.image.affine, atol=1e-4)
    assert second.native.shape == (5, 6, 7)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_become_mm(tmp_path: Path, unit: str, factor: float) -> None:
    file = save(tmp_path / "scan.nii", np.zeros((3, 3, 3), np.uint8), affine_of("RAS"), xyz=unit)
    native = read_volume([file], "intensity").native
    np.testing.assert_allclose(spacing_of(native.matrix()), np.array([1, 2, 3]) * factor, rtol=1e-6)
    assert native.spatial_units == unit


def test_scale_factor_of_the_header_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.array([[[0, 100]]], np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -7)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume([tmp_path / "scan.nii"], "intensity")
    raw = np.asarray(nib.load(tmp_path / "scan.nii").dataobj.get_unscaled()).ravel()
    np.testing.assert_allclose(volume.image.numpy().ravel(), raw * 0.5 - 7)
    assert volume.image.dtype == torch.float32


def test_one_slice_and_trailing_axes_are_three_dimensional(tmp_path: Path) -> None:
    flat = save(tmp_path / "flat.nii", np.ones((4, 5), np.float32), np.eye(4))
    single = save(tmp_path / "single.nii", np.ones((4, 5, 6, 1), np.float32), np.eye(4))
    assert read_volume([flat], "intensity").image.shape == (1, 4, 5, 1)
    assert read_volume([single], "intensity").image.shape == (1, 4, 5, 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_become_integers_whatever_they_are_stored_as(tmp_path: Path, dtype: type) -> None:
    file = save(tmp_path / "labels.nii.gz", np.array([[[0, 1, 2, 0, 5]]], dtype), np.eye(4))
    labels = read_volume([file], "labels").image
    assert labels.dtype == torch.int16
    assert labels.flatten().tolist() == [0, 1, 2, 0, 5]
    assert read_volume([file], "mask").image.flatten().tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(("value", "words"), [(0.5, "0.5"), (-1.0, "-1"), (40000.0, "40000"), (np.nan, "nan")])
def test_labels_that_are_none_are_refused_by_name(tmp_path: Path, value: float, words: str) -> None:
    file = save(tmp_path / "broken_labels.nii.gz", np.array([[[0, 1, value]]], np.float32), np.eye(4))
    with pytest.raises(DataError) as caught:
        read_volume([file], "labels")
    assert words in caught.value.what
    assert "broken_labels" in str(caught.value.where)
    assert caught.value.remedy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_intensities_that_are_not_finite_are_counted(tmp_path: Path, value: float) -> None:
    file = save(tmp_path / "scan.nii.gz", np.array([[[0, 1, value, value]]], np.float32), np.eye(4))
    with pytest.raises(DataError, match="2 of 4 voxels are not finite"):
        read_volume([file], "intensity")


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz", np.random.default_rng(0).random((9, 9, 9), np.float32), np.eye(4))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:400])
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "text.mha").write_text("no image")
    save(tmp_path / "series.nii", np.zeros((3, 3, 3, 2), np.float32), np.eye(4))
    sitk.WriteImage(sitk.Image([3, 3, 3], sitk.sitkVectorFloat32, 2), str(tmp_path / "vector.nrrd"))
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    names = [
        "cut.nii.gz",
        "text.nii",
        "text.mha",
        "series.nii",
        "vector.nrrd",
        "complex.nii",
        "rgb.nii",
        "no.nii",
    ]
    for name in names:
        with pytest.raises(DataError) as caught:
            read_volume([tmp_path / name], "intensity")
        assert name in str(caught.value.where)
        assert caught.value.remedy
        assert "\n" not in caught.value.what
    with pytest.raises(DataError, match="2 files were given"):
        read_volume([good, good], "intensity")


def test_a_2d_image_is_one_slice(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)  # rows, columns
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "slice.png"))
    volume = read_volume([tmp_path / "slice.png"], "intensity")
    assert volume.native.shape == (4, 3, 1)
    np.testing.assert_array_equal(from_ras(volume.image.numpy(), volume.native.matrix())[0, :, :, 0], pixels.T)


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), None)
    image.header["sform_code"] = 1
    image.header["srow_x"] = (1, 0, 0, 0)
    nib.save(image, tmp_path / "scan.nii")
    with pytest.raises(GeometryError, match="singular"):
        read_volume([tmp_path / "scan.nii"], "intensity")


@pytest.mark.data
@pytest.mark.parametrize(
    ("pattern", "codes"),
    [
        ("hippocampus/imagesTr/*.nii.gz", "RAS"),
        ("lgg/imagesTr/*.nii.gz", "PLS"),
        ("lgg_3ch/imagesTr/*_0002.nii.gz", "PLS"),
        ("ixi_t1/sub-*/anat/*.nii.gz", "PSR"),
        ("lidc/image/*.nii.gz", "LPS"),
        ("oasis_t1/*_T1w.nii.gz", "LAS"),
    ],
)
def test_real_scans_equal_the_canonical_image_of_nibabel(data_root: Path, pattern: str, codes: str) -> None:
    file = sorted(data_root.glob(pattern))[0]
    source = nib.load(file)
    assert "".join(nib.aff2axcodes(source.affine)) == codes
    expected = nib.as_closest_canonical(source)
    volume = read_volume([file], "intensity")
    np.testing.assert_array_equal(volume.image.numpy()[0], np.asarray(expected.dataobj, np.float32))
    np.testing.assert_array_equal(volume.image.affine.numpy(), expected.affine)
