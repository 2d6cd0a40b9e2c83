"""Written results lie exactly where the scan lies, for nibabel and for ITK."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medae.errors import DataError, GeometryError
from medae.export.nifti import write_native
from medae.formats.read import read_volume

OBLIQUE = np.array([[-0.94, 0.1, 0.5, 12.5], [0.12, 1.9, -0.3, -70.25], [0.21, -0.33, 2.9, 33], [0, 0, 0, 1]])
ROTATION = np.array([[0, 0, 3, -4], [-2, 0, 0, 5], [0, 1.5, 0, 6], [0, 0, 0, 1.0]])


def scan(path: Path, affine: np.ndarray, qform: int, sform: int, units: str = "mm") -> Path:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    image.header.set_xyzt_units(xyz=units)
    image.set_qform(affine if qform else None, code=qform)
    image.set_sform(affine if sform else None, code=sform)
    image.header["descrip"] = b"NAME OF A PATIENT"
    nib.save(image, path)
    return path


def itk_geometry(path: Path) -> list[float]:
    image = sitk.ReadImage(str(path))
    return [*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2), (2, 4), (0, 0)])
@pytest.mark.parametrize("units", ["mm", "unknown", "meter"])
def test_geometry_codes_and_units_are_those_of_the_scan(
    tmp_path: Path, qform: int, sform: int, units: str, ending: str
) -> None:
    source = scan(tmp_path / f"scan{ending}", ROTATION, qform, sform, units)
    native = read_volume([source], "intensity").native
    label = np.arange(60).reshape(3, 4, 5) % 3
    write_native(label, native, tmp_path / "deeper" / "label.nii.gz", labels=True)

    first, second = nib.load(source), nib.load(tmp_path / "deeper" / "label.nii.gz")
    assert second.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(second.dataobj), label)
    np.testing.assert_allclose(second.affine, first.affine, rtol=1e-6)
    for name in ("qform_code", "sform_code"):
        assert second.header[name] == first.header[name]
    np.testing.assert_array_equal(second.header["pixdim"][:4], first.header["pixdim"][:4])
    assert second.header.get_xyzt_units()[0] == units
    assert bytes(second.header["descrip"]).strip(b"\0") == b""
    np.testing.assert_allclose(itk_geometry(tmp_path / "deeper" / "label.nii.gz"), itk_geometry(source), rtol=1e-6)
    assert [each.name for each in (tmp_path / "deeper").iterdir()] == ["label.nii.gz"]


def test_a_qform_that_differs_from_the_sform_is_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(ROTATION, code=1)
    nib.save(image, tmp_path / "scan.nii")
    write_native(np.ones((3, 4, 5)), read_volume([tmp_path / "scan.nii"], "intensity").native, tmp_path / "map.nii", False)
    first, second = nib.load(tmp_path / "scan.nii"), nib.load(tmp_path / "map.nii")
    np.testing.assert_array_equal(second.get_sform(), first.get_sform())
    np.testing.assert_array_equal(second.get_qform(), first.get_qform())
    assert itk_geometry(tmp_path / "map.nii") == itk_geometry(tmp_path / "scan.nii")


def test_results_of_other_formats_overlay_too(tmp_path: Path) -> None:
    source = scan(tmp_path / "scan.nii", ROTATION, 1, 1)
    sitk.WriteImage(sitk.ReadImage(str(source)), str(tmp_path / "scan.nrrd"))
    volume = read_volume([tmp_path / "scan.nrrd"], "intensity")
    write_native(np.zeros((3, 4, 5)), volume.native, tmp_path / "map.nii.gz", labels=False)
    np.testing.assert_allclose(
        itk_geometry(tmp_path / "map.nii.gz"), itk_geometry(tmp_path / "scan.nrrd"), rtol=1e-6, atol=1e-6
    )


def test_types_and_axes_of_the_file(tmp_path: Path) -> None:
    native = read_volume([scan(tmp_path / "scan.nii", ROTATION, 1, 1)], "intensity").native
    maps = np.random.default_rng(0).random((2, 3, 4, 5))
    write_native(maps, native, tmp_path / "maps.nii.gz", labels=False)
    write_native(maps[:1], native, tmp_path / "map.nii.gz", labels=False)
    write_native(np.full((3, 4, 5), 2035), native, tmp_path / "regions.nii.gz", labels=True)
    several, one, regions = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("maps", "map", "regions"))
    assert several.shape == (3, 4, 5, 2)
    assert several.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(several.dataobj)[..., 1], maps[1].astype(np.float32))
    assert one.shape == (3, 4, 5)
    assert regions.get_data_dtype() == np.uint16
    assert np.unique(np.asarray(regions.dataobj)).tolist() == [2035]


@pytest.mark.parametrize("value", [-1, 0.5, 70000])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, value: float) -> None:
    native = read_volume([scan(tmp_path / "scan.nii", ROTATION, 1, 1)], "intensity").native
    with pytest.raises(DataError, match="whole numbers"):
        write_native(np.full((3, 4, 5), value), native, tmp_path / "label.nii.gz", labels=True)
    assert not (tmp_path / "label.nii.gz").exists()


def test_a_wrong_shape_or_ending_is_refused(tmp_path: Path) -> None:
    native = read_volume([scan(tmp_path / "scan.nii", ROTATION, 1, 1)], "intensity").native
    with pytest.raises(GeometryError):
        write_native(np.zeros((5, 4, 3)), native, tmp_path / "map.nii.gz", labels=False)
    with pytest.raises(DataError, match="NIfTI"):
        write_native(np.zeros((3, 4, 5)), native, tmp_path / "map.nrrd", labels=False)


def test_a_failed_write_leaves_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = read_volume([scan(tmp_path / "scan.nii", ROTATION, 1, 1)], "intensity").native
    target = tmp_path / "map.nii.gz"
    write_native(np.ones((3, 4, 5)), native, target, labels=False)
    before = target.read_bytes()

    def half(image: nib.Nifti1Image, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises(DataError, match="No space left"):
        write_native(np.zeros((3, 4, 5)), native, target, labels=False)
    assert target.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["map.nii.gz", "scan.nii"]
