"""Results come back to the voxels of the file: exact on its own grid, close at another spacing, always in place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.data.case import Case, ImageRef, Manifest
from medae.errors import GeometryError
from medae.export.nifti import write_native
from medae.formats.read import read_volume
from medae.inference.native import labels_to_native, maps_to_native
from medae.plan import CTWindow, SpacePlan
from medae.preprocessing.prepare import Prepared, prepare_case, prepare_files

WINDOW = CTWindow(lower=-1e6, upper=1e6, mean=30, std=200)
Spacing = tuple[float | None, float | None, float | None]
KEEP: Spacing = (None, None, None)


def affine_of(codes: str, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), tilt: float = 0.0) -> np.ndarray:
    world = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    turn = Rotation.from_rotvec(np.radians(tilt) * np.array([1, 2, 3]) / np.sqrt(14)).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([world[code] for code in codes], dtype=float).T * np.asarray(spacing)
    affine[:3, 3] = (-31.5, 17.25, 8.0)
    return affine


def world_of(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World position in mm of every voxel, ``[3, *shape]``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.einsum("ab,bijk->aijk", affine[:3, :3], index) + affine[:3, 3, None, None, None]


def smooth_volume(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Waves of 260 to 340 mm and a ramp along every world axis, all above 0."""
    x, y, z = world_of(affine, shape)
    waves = np.sin(2 * np.pi * x / 260) + np.cos(2 * np.pi * (y + z) / 340) + np.sin(2 * np.pi * z / 300 + 1)
    return (1000 + 100 * waves + 0.9 * x - 1.1 * y + 1.3 * z).astype(np.float32)


def prepare(path: Path, array: np.ndarray, affine: np.ndarray, spacing: Spacing, foreground: str = "all") -> Prepared:
    nib.save(nib.Nifti1Image(array, affine), path)
    space = SpacePlan(spacing=spacing, intensity=WINDOW, foreground=foreground)
    return prepare_files({"image": [path]}, space)


def prepare_pair(root: Path, image: str, label: str, space: SpacePlan) -> Prepared:
    references = [
        ImageRef(files=(name,), sha256=name, kind=kind) for name, kind in ((image, "intensity"), (label, "labels"))
    ]
    case = Case(id="a", subject="s", images={"image": references[0]}, targets={"label": references[1]})
    manifest = Manifest(source="folder", root=root, channels=("image",), cases=(case,))
    return prepare_case(manifest, case, space, ["label"])


def normalised(array: np.ndarray) -> np.ndarray:
    return ((torch.from_numpy(array) - WINDOW.mean) / WINDOW.std).numpy()


ORIENTATIONS = [("RAS", 0.0), ("LPS", 0.0), ("PSR", 0.0), ("PLS", 0.0), ("LPS", 17.0), ("AIL", -28.0)]


@pytest.mark.parametrize("spacing", [KEEP, (0.9, 1.1, 2.5)])
@pytest.mark.parametrize(("codes", "tilt"), ORIENTATIONS)
def test_identity_on_the_own_grid_is_bitwise_exact(tmp_path: Path, codes: str, tilt: float, spacing: Spacing) -> None:
    along = {"R": 0.9, "L": 0.9, "A": 1.1, "P": 1.1, "S": 2.5, "I": 2.5}
    affine = affine_of(codes, tuple(along[code] for code in codes), tilt)
    array = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32) * 300
    prepared = prepare(tmp_path / "scan.nii.gz", array, affine, spacing)
    np.testing.assert_array_equal(maps_to_native(prepared.image, prepared), normalised(array)[None])

    label = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (1, *prepared.shape)).astype(np.int16))
    native_label = labels_to_native(label, prepared)
    assert native_label.shape == (7, 8, 9)
    assert native_label.dtype == np.int16
    write_native(native_label, prepared.native, tmp_path / "label.nii.gz", labels=True)
    again = read_volume([tmp_path / "label.nii.gz"], "labels")
    assert torch.equal(again.image.as_tensor(), label)
    np.testing.assert_array_equal(again.native.matrix(), prepared.native.matrix())


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.7, 0.8, 0.9), (1.3, 0.6, None), (1.01, 1.9, 1.0)])
@pytest.mark.parametrize(
    ("shape", "own"), [((41, 53, 37), (1.0, 1.0, 1.2)), ((64, 47, 1), (1.0, 1.0, 5.0)), ((31, 1, 44), (1.1, 3.0, 0.7))]
)
@pytest.mark.parametrize(("codes", "tilt"), ORIENTATIONS)
def test_identity_at_another_spacing_is_close_up_to_the_edges(
    tmp_path: Path, codes: str, tilt: float, shape: tuple[int, int, int], own: tuple[float, ...], spacing: Spacing
) -> None:
    affine = affine_of(codes, own, tilt)
    array = smooth_volume(affine, shape)
    prepared = prepare(tmp_path / "scan.nii", array, affine, spacing)
    assert prepared.shape != prepared.native.ras()[0]
    expected = normalised(array)
    back = maps_to_native(prepared.image, prepared)[0]
    assert np.abs(back - expected).max() < 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("spacing", [KEEP, (1.5, 0.8, 1.2)])
@pytest.mark.parametrize(("codes", "tilt"), ORIENTATIONS)
def test_the_crop_is_undone(tmp_path: Path, codes: str, tilt: float, spacing: Spacing) -> None:
    affine = affine_of(codes, tilt=tilt)
    inside = np.zeros((40, 45, 50), dtype=bool)
    inside[3:31, 8:45, 1:33] = True
    array = np.where(inside, smooth_volume(affine, inside.shape), 0).astype(np.float32)
    prepared = prepare(tmp_path / "scan.nii", array, affine, spacing, "nonzero")
    assert prepared.native.crop is not None
    assert prepared.mask.all()
    back = maps_to_native(prepared.image, prepared)[0]
    error = np.abs(back - np.where(inside, normalised(array), 0))
    assert error.max() < 1e-3 * np.ptp(normalised(array)[inside])
    assert (error[~inside] == 0).all()
    assert (maps_to_native(prepared.image, prepared, fill=-7)[0][~inside] == -7).all()
    np.testing.assert_array_equal(labels_to_native(prepared.mask, prepared), inside)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(["RL", "AP", "SI"]),
    sides=st.tuples(*[st.integers(0, 1)] * 3),
    tilt=st.floats(-35, 35),
    shape=st.tuples(*[st.integers(2, 15)] * 3),
    own=st.tuples(*[st.floats(0.4, 4)] * 3),
    spacing=st.tuples(*[st.one_of(st.none(), st.floats(0.4, 4))] * 3),
    margin=st.integers(0, 1),
)
def test_every_voxel_of_a_result_lies_where_it_was_computed(
    tmp_path: Path,
    order: list[str],
    sides: tuple[int, ...],
    tilt: float,
    shape: tuple[int, int, int],
    own: tuple[float, ...],
    spacing: Spacing,
    margin: int,
) -> None:
    """The map to bring back holds the world position of each plan voxel: it must come to that of each file voxel."""
    codes = "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    affine = affine_of(codes, own, tilt)
    array = np.zeros(shape, np.float32)
    box = tuple(slice(0, size - margin) for size in shape)
    array[box] = 1
    prepared = prepare(tmp_path / "scan.nii", array, affine, spacing, "nonzero")
    back = maps_to_native(world_of(prepared.affine, prepared.shape), prepared)
    expected = world_of(prepared.native.matrix(), shape)
    np.testing.assert_allclose(back[(slice(None), *box)], expected[(slice(None), *box)], atol=2e-3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.sampled_from(["RAS", "LPS", "PSR", "PLS", "IRP"]),
    tilt=st.floats(-35, 35),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    finer=st.tuples(*[st.floats(0.3, 0.95)] * 3),
)
def test_labels_survive_a_finer_plan_grid(
    tmp_path: Path, codes: str, tilt: float, shape: tuple[int, int, int], finer: tuple[float, ...]
) -> None:
    labels = np.random.default_rng(0).integers(0, 4, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, affine_of(codes, tilt=tilt)), tmp_path / "scan.nii")
    space = SpacePlan(spacing=(finer[0], finer[1], finer[2]), intensity=WINDOW, foreground="all")
    prepared = prepare_pair(tmp_path, "scan.nii", "scan.nii", space)
    assert max(prepared.shape) > max(shape) or max(shape) == 1
    np.testing.assert_array_equal(labels_to_native(prepared.targets["label"], prepared), labels)


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "scan.nii", np.ones((4, 5, 6), np.float32), affine_of("PSR"), KEEP)
    with pytest.raises(GeometryError, match="plan grid"):
        maps_to_native(np.zeros((1, 4, 5, 6)), prepared)
    with pytest.raises(GeometryError, match="plan grid"):
        labels_to_native(np.zeros(prepared.shape), prepared)


REAL = [
    ("hippocampus/imagesTr/*.nii.gz", "hippocampus/labelsTr/{0}.nii.gz", "all", (1.2, 0.8, 1.1)),
    ("lgg/imagesTr/*.nii.gz", "lgg/labelsTr/{0}.nii.gz", "head", (0.8, 0.9, None)),
    ("lidc/image/*.nii.gz", "lidc/nodule_mask/{0}.nii.gz", "all", (0.6, 0.6, 1.25)),
    ("oasis_t1/*_T1w.nii.gz", "oasis_t1/{0}_dseg.nii.gz", "nonzero", (0.9, 0.9, 0.9)),
    (
        "ixi_t1/sub-*/anat/*_T1w.nii.gz",
        "ixi_t1/derivatives/dlmuse/{0}/anat/{0}_space-orig_dseg.nii.gz",
        "head",
        (1.8, 2.2, 1.6),
    ),
]


@pytest.mark.data
@pytest.mark.parametrize(("image", "label", "foreground", "other"), REAL)
def test_real_labels_and_images_come_back_into_their_file(
    data_root: Path, tmp_path: Path, image: str, label: str, foreground: str, other: Spacing
) -> None:
    file = sorted(data_root.glob(image))[1]
    truth = label.format(file.name.removesuffix(".nii.gz").removesuffix("_0000").removesuffix("_T1w"))
    source = nib.load(file)
    expected = np.asarray(nib.load(data_root / truth).dataobj)
    for spacing in (KEEP, other):
        space = SpacePlan(spacing=spacing, intensity=WINDOW, foreground=foreground)
        prepared = prepare_pair(data_root, file.relative_to(data_root).as_posix(), truth, space)
        back = labels_to_native(prepared.targets["label"], prepared)
        write_native(back, prepared.native, tmp_path / "label.nii.gz", labels=True)
        written = nib.load(tmp_path / "label.nii.gz")
        np.testing.assert_array_equal(written.affine, source.affine)
        for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            first, second = (getattr(sitk.ReadImage(str(path)), geometry)() for path in (file, tmp_path / "label.nii.gz"))
            np.testing.assert_allclose(second, first, rtol=1e-6)
        inside = labels_to_native(prepared.mask, prepared)
        if spacing is KEEP:
            cropped = labels_to_native(torch.ones_like(prepared.mask), prepared)
            np.testing.assert_array_equal(back, np.where(cropped, expected, 0))
            values = normalised(np.asarray(source.dataobj, np.float32))
            np.testing.assert_array_equal(maps_to_native(prepared.image, prepared)[0], np.where(inside, values, 0))
        assert 2 * ((back > 0) & (expected > 0)).sum() / ((back > 0).sum() + (expected > 0).sum()) > 0.9
