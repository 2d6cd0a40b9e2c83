"""Values of label maps and masks: what is refused, what is read, and how much of each there is."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medae.errors import DataError
from medae.formats.labels import as_labels, count_labels, label_problem, regroup
from medae.formats.read import read_array


@pytest.mark.parametrize(
    ("values", "such_as"),
    [
        ([0, 1, 2], None),
        ([0, 32767], None),
        ([0, 32768], "32768"),
        (np.array([0, 65535], np.uint16), "65535"),
        ([-1, 0], "-1"),
        ([0.0, 0.5], "0.5"),
        ([0.0, 1.00001], None),  # a scale factor's rounding
        ([-1e-6, 1.0], None),
        ([-1e-3, 1.0], "-0.001"),
        ([0.0, 40000.0], "40000"),
        ([0.0, np.nan], "nan"),
        ([0.0, -np.inf], "-inf"),
    ],
)
def test_labels_are_whole_numbers_that_fit(values, such_as):
    problem = label_problem(np.array(values))
    assert problem == (such_as and f"has labels that are not whole numbers from 0 to 32767, such as {such_as}")


@pytest.mark.parametrize(
    ("values", "is_fit"),
    [
        ([0, 255], True),
        (np.array([0, 65535], np.uint16), True),
        ([0.0, 0.5, -3], True),
        ([0.0, np.nan], False),
        ([1j, 0], False),
    ],
)
def test_a_mask_has_any_finite_values(values, is_fit):
    assert (label_problem(np.array(values), is_mask=True) is None) == is_fit


def test_what_is_read():
    assert as_labels(np.array([0, 2.99999, -1e-6])).tolist() == [0, 3, 0]
    assert as_labels(np.array([0, 0.2, 65535, -1]), is_mask=True).tolist() == [0, 1, 1, 1]
    assert as_labels(np.array([0, 32767], np.uint16)).dtype == np.int16


@pytest.mark.parametrize("value", [0.5, 255, 65535])
def test_masks_of_any_values_are_read(tmp_path, value):
    voxels = np.zeros((4, 3, 2), np.float32)
    voxels[1:3] = value
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "mask.nii")
    array, _ = read_array([tmp_path / "mask.nii"], "mask")
    np.testing.assert_array_equal(array[0], voxels != 0)
    nib.save(nib.Nifti1Image(voxels * np.float32(np.nan), np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(DataError, match="not finite"):
        read_array([tmp_path / "nan.nii"], "mask")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_are_counted(dtype):
    array = np.array([[0, 3, 3], [7, 0, 3]], dtype)
    assert count_labels(array) == count_labels(array.T) == {0: 2, 3: 3, 7: 1}


@given(arrays(np.int16, (3, 4), elements=st.integers(-3, 9)), st.permutations(list(range(1, 9))), st.integers(1, 7))
def test_a_value_becomes_the_place_of_its_group(labels: np.ndarray, values: list[int], cut: int) -> None:
    groups = (tuple(values[:cut]), tuple(values[cut:]))
    found = regroup(labels, groups)
    assert found.dtype == labels.dtype
    for given_value, place in zip(labels.flat, found.flat, strict=True):
        assert place == (1 if given_value in groups[0] else 2 if given_value in groups[1] else 0)
