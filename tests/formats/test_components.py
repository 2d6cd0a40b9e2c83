"""One channel of a file that holds several."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medae.errors import DataError
from medae.formats.read import read_raw, read_volume

VALUES = np.random.default_rng(0).integers(0, 100, (4, 3, 2, 5), dtype=np.int16)
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])


@pytest.fixture(params=[".nii", ".nii.gz", ".nrrd", ".mha"])
def file(request, tmp_path):
    path = tmp_path / f"four{request.param}"
    nib.save(nib.Nifti1Image(VALUES, AFFINE), tmp_path / "four.nii")
    if not request.param.startswith(".nii"):
        image = sitk.GetImageFromArray(VALUES.transpose(2, 1, 0, 3), isVector=True)
        lps = np.diag([-1, -1, 1]) @ AFFINE[:3]
        image.SetSpacing((1.5, 2.0, 3.0))
        image.SetDirection((lps[:, :3] / (1.5, 2.0, 3.0)).ravel())
        image.SetOrigin(lps[:, 3])
        sitk.WriteImage(image, path)
    elif request.param == ".nii.gz":
        nib.save(nib.load(tmp_path / "four.nii"), path)
    return path


def test_each_component_is_a_volume_on_the_same_grid(file):
    for component in range(5):
        raw = read_raw([file], component=component)
        np.testing.assert_array_equal(raw.array, VALUES[..., component])
        np.testing.assert_allclose(raw.native.matrix(), AFFINE, atol=1e-6)
        assert read_volume([file], "intensity", component=component).image.shape == (1, 3, 4, 2)


@pytest.mark.parametrize("component", [5, 7])
def test_a_component_that_is_not_there(file, component):
    with pytest.raises(DataError, match=rf"no channel {component} .*4 x 3 x 2 x 5"):
        read_raw([file], component=component)


def test_without_a_component_the_file_is_refused(file):
    with pytest.raises(DataError, match="not one 3D volume"):
        read_raw([file])


@pytest.mark.parametrize("ending", [".nii", ".nrrd"])
def test_a_plain_volume_has_no_components(tmp_path, ending):
    path = tmp_path / f"three{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(VALUES[..., 0]), path)
    with pytest.raises(DataError, match="no channel 0 "):
        read_raw([path], component=0)


def test_colour_pictures_are_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True), tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"(?s)not one 3D volume: its size is 5 x 4 x 3.*photo\.png"):
        read_raw([tmp_path / "photo.png"])
