"""Filters, masks and components, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from medae.anomaly.postprocessing import RAW, PostprocessingConfig, eroded, native_slice_axis, process_map, threshold_map
from medae.errors import GeometryError
from medae.volume import NativeGrid


def grid(*columns: tuple[float, float, float]) -> NativeGrid:
    """A grid whose array axes step along the given world vectors."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    return NativeGrid.model_validate({"shape": (4, 5, 6), "affine": matrix.tolist()})


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_median_window_follows_the_slice_axis(slice_axis: int) -> None:
    rng = np.random.default_rng(slice_axis)
    mask = np.zeros((9, 11, 10), dtype=bool)
    mask[1:8, :, 2:9] = True
    raw = np.where(mask, rng.random(mask.shape), 0).astype(np.float32)
    window = [5, 5, 5]
    window[slice_axis] = 3
    expected = np.where(mask, ndimage.median_filter(raw, size=window, mode="constant", cval=0), 0)
    assert np.array_equal(process_map(raw, mask, PostprocessingConfig(), slice_axis), expected)


def test_unequal_in_plane_windows_keep_their_order() -> None:
    raw = np.random.default_rng(0).random((7, 8, 9)).astype(np.float32)
    mask = np.ones(raw.shape, dtype=bool)
    found = process_map(raw, mask, PostprocessingConfig(median=(1, 3, 5)), slice_axis=1)
    assert np.array_equal(found, ndimage.median_filter(raw, size=(3, 1, 5), mode="constant"))


@pytest.mark.parametrize("median", [(1, 1, 1), (3, 5, 5)])
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_the_gaussian_follows_the_median_and_knows_the_slice_axis(median: tuple[int, int, int], slice_axis: int) -> None:
    mask = np.zeros((24, 26, 28), dtype=bool)
    mask[9:13, 4:20, 11:15] = True  # a small part, so that the filters see less than the whole array
    raw = np.where(mask, np.random.default_rng(1).random(mask.shape), 0).astype(np.float32)
    order = (0, 1, 2) if slice_axis == 0 else (1, 2, 0)
    config = PostprocessingConfig(median=median, gaussian=(0.5, 2.0, 1.0))
    middle = ndimage.median_filter(raw, size=[median[axis] for axis in order], mode="constant")
    smooth = ndimage.gaussian_filter(middle, [config.gaussian[axis] for axis in order], mode="constant")
    assert process_map(raw, mask, config, slice_axis) == pytest.approx(np.where(mask, smooth, 0), abs=1e-6)


def test_a_gaussian_of_one_voxel_by_hand() -> None:
    raw = np.zeros((9, 9, 9), dtype=np.float32)
    raw[4, 4, 4] = 1
    found = process_map(raw, np.ones(raw.shape, bool), PostprocessingConfig(median=(1, 1, 1), gaussian=(0, 1, 0)), 0)
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    assert found[4, :, 4] == pytest.approx(weights / weights.sum(), abs=1e-6)
    assert np.count_nonzero(found) == 9


def test_a_single_bright_voxel_is_removed_and_raw_keeps_it() -> None:
    raw = np.zeros((5, 5, 5), dtype=np.float32)
    raw[2, 2, 2] = 9
    mask = np.ones(raw.shape, dtype=bool)
    assert process_map(raw, mask, PostprocessingConfig(), 2).max() == 0
    assert np.array_equal(process_map(raw, mask, RAW, 2), raw)


def test_erosion_is_in_plane_only() -> None:
    mask = np.zeros((7, 7, 3), dtype=bool)
    mask[1:6, 1:6, :] = True
    expected = np.zeros(mask.shape, dtype=bool)
    expected[2:5, 2:5, :] = True
    assert np.array_equal(eroded(mask, 1, 2), expected)
    assert np.array_equal(eroded(mask, 0, 2), mask)
    assert np.count_nonzero(eroded(mask, 1, 0)) == 5 * 3 * 1
    assert not eroded(np.ones((4, 4, 4), dtype=bool), 2, 0).any(), "what lies beyond the array is not mask"


def test_the_filters_see_the_map_beyond_what_counts() -> None:
    raw = np.zeros((7, 7, 1), dtype=np.float32)
    raw[1:6, 1:6] = 1
    raw[1, 1:6] = 9
    whole = raw > 0
    found = process_map(raw, eroded(whole, 1, 2), PostprocessingConfig(median=(1, 1, 1), gaussian=(0, 1, 1)), 2)
    smooth = ndimage.gaussian_filter(raw, (1, 1, 0), mode="constant")
    assert found == pytest.approx(np.where(eroded(whole, 1, 2), smooth, 0), abs=1e-6)


def test_an_empty_mask_gives_zeros() -> None:
    raw = np.ones((4, 4, 4), dtype=np.float32)
    assert process_map(raw, np.zeros(raw.shape, dtype=bool), PostprocessingConfig(), 0).max() == 0


def test_values_outside_the_mask_never_come_through() -> None:
    raw = np.ones((4, 4, 4), dtype=np.float32)
    mask = np.zeros(raw.shape, dtype=bool)
    mask[1:3, 1:3, 1:3] = True
    assert np.array_equal(process_map(raw, mask, RAW, 0) > 0, mask)


def test_threshold_is_inclusive_and_small_components_go() -> None:
    scores = np.zeros((1, 1, 9), dtype=np.float32)
    scores[0, 0] = [2, 1, 0, 3, 0, 5, 5, 5, 5]
    mask = np.ones(scores.shape, dtype=bool)
    mask[0, 0, 8] = False
    plain = threshold_map(scores, mask, 2.0, RAW, voxel_ml=0.1)
    assert plain[0, 0].astype(int).tolist() == [1, 0, 0, 1, 0, 1, 1, 1, 0]
    large = threshold_map(scores, mask, 2.0, PostprocessingConfig(min_component_ml=0.25), voxel_ml=0.1)
    assert large[0, 0].astype(int).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("native", "ras_axis", "expected"),
    [
        (grid((1, 0, 0), (0, 1, 0), (0, 0, 1)), 2, 2),
        (grid((0, -2, 0), (0, 0, 2), (2, 0, 0)), 2, 1),  # stored PSR
        (grid((0, -2, 0), (0, 0, 2), (2, 0, 0)), 1, 0),
        (grid((1, 0, 0), (0, 0.2, 5), (0, 1, -0.04)), None, 1),  # oblique, the second axis is the thick one
        (grid((0, 0, 1), (0, 1, 0), (1, 0, 0)), None, 0),  # equal spacings: the superior one
    ],
)
def test_native_slice_axis(native: NativeGrid, ras_axis: int | None, expected: int) -> None:
    assert native_slice_axis(native, ras_axis) == expected


def test_configuration_refuses_even_windows() -> None:
    with pytest.raises(ValidationError, match="odd"):
        PostprocessingConfig(median=(3, 4, 5))


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_configuration_refuses_what_is_no_deviation(sigma: float) -> None:
    with pytest.raises(ValidationError, match="at least 0 voxels"):
        PostprocessingConfig(gaussian=(0.0, sigma, 0.0))


def test_shapes_are_checked() -> None:
    with pytest.raises(GeometryError, match="shape"):
        process_map(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), RAW, 0)
    with pytest.raises(GeometryError, match="axes"):
        process_map(np.zeros((2, 2)), np.zeros((2, 2)), RAW, 0)
    with pytest.raises(GeometryError, match="shape"):
        threshold_map(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 1.0, RAW, 1.0)
