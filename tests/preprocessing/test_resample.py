"""Resampling: the grid, exactness, ramps to the very edge, labels, smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medae.errors import GeometryError
from medae.preprocessing.resample import plan_grid, resample_linear, resample_nearest
from medae.volume import spacing_of

OBLIQUE = np.array([[0.8, -0.6, 0, 7], [0.6, 0.8, 0, -3], [0, 0, 2.5, 11], [0, 0, 0, 1]])

shapes = st.tuples(*[st.integers(1, 24)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)


def scaled(spacing: tuple[float, ...]) -> np.ndarray:
    return OBLIQUE @ np.diag([*(1 / np.array(spacing_of(OBLIQUE)) * spacing), 1])


def world_of(affine: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    world = np.einsum("ab,bijk->aijk", affine[:3, :3], index) + affine[:3, 3, None, None, None]
    return torch.from_numpy(world.astype(np.float32))


def test_grid_by_hand() -> None:
    # 5 voxels of 2 mm: centres from 0 to 8 mm. At 3 mm, 4 centres span 9 mm: from -0.5 to 8.5 mm.
    shape, affine = plan_grid((5, 5, 1), np.diag([2.0, 2, 2, 1]), (3.0, None, 3.0))
    assert shape == (4, 5, 1)
    np.testing.assert_allclose(affine, [[3, 0, 0, -0.5], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


@settings(max_examples=200, deadline=None)
@given(shapes, spacings, spacings)
def test_grid_encloses_the_image_and_is_centred(
    shape: tuple[int, int, int], own: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    affine = scaled(own)
    sizes, onto = plan_grid(shape, affine, wanted)
    between = np.linalg.inv(affine) @ onto
    for axis in range(3):
        first, last = between[axis, 3], between[axis, 3] + between[axis, axis] * (sizes[axis] - 1)
        assert first <= 1e-9
        assert last >= shape[axis] - 1 - 1e-9
        assert last - (shape[axis] - 1) < max(1, between[axis, axis]) / 2 + 1e-9
        assert first + last == pytest.approx(shape[axis] - 1, abs=1e-6)
        if shape[axis] > 1:
            assert spacing_of(onto)[axis] == pytest.approx(wanted[axis], rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(shapes, spacings)
def test_the_same_grid_gives_the_same_bits(shape: tuple[int, int, int], own: tuple[float, ...]) -> None:
    affine = scaled(own)
    image = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
    for spacing in (own, (None, None, None)):
        sizes, onto = plan_grid(shape, affine, spacing)
        assert sizes == shape
        assert torch.equal(resample_linear(image, affine, sizes, onto, extrapolate=True, smooth=True), image)
        assert torch.equal(resample_nearest(image > 0, affine, sizes, onto), image > 0)


@settings(max_examples=80, deadline=None)
@given(shapes, spacings, spacings)
def test_world_coordinates_are_resampled_exactly_there_and_back(
    shape: tuple[int, int, int], own: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    """Each world coordinate is a ramp over the voxels: a shift, a wrong scale or a clamped edge would show."""
    affine = scaled(own)
    sizes, onto = plan_grid(shape, affine, wanted)
    there = resample_linear(world_of(affine, shape), affine, sizes, onto, extrapolate=True, smooth=True)
    torch.testing.assert_close(there, world_of(onto, sizes), atol=2e-3, rtol=0)
    back = resample_linear(there, onto, shape, affine, extrapolate=False, smooth=False)
    torch.testing.assert_close(back, world_of(affine, shape), atol=2e-3, rtol=0)


@settings(max_examples=60, deadline=None)
@given(shapes, spacings, spacings)
def test_the_way_back_stays_in_the_range_of_the_map(
    shape: tuple[int, int, int], own: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    affine = scaled(own)
    sizes, onto = plan_grid(shape, affine, wanted)
    probability = torch.rand((1, *sizes), generator=torch.Generator().manual_seed(1))
    back = resample_linear(probability, onto, shape, affine, extrapolate=False, smooth=False)
    assert probability.min() <= back.min()
    assert back.max() <= probability.max()


@settings(max_examples=60, deadline=None)
@given(shapes, spacings, spacings, st.integers(1, 3))
def test_a_flipped_image_gives_the_flipped_result(
    shape: tuple[int, int, int], own: tuple[float, ...], wanted: tuple[float, ...], axis: int
) -> None:
    affine = scaled(own)
    sizes, onto = plan_grid(shape, affine, wanted)
    assume(not any(new % 2 and not old % 2 for new, old in zip(sizes, shape, strict=True)))  # a tie in the very middle
    labels = torch.randint(0, 4, (1, *shape), generator=torch.Generator().manual_seed(1)).short()
    there = resample_nearest(labels, affine, sizes, onto)
    assert there.dtype == torch.int16
    assert torch.equal(resample_nearest(labels.flip(axis), affine, sizes, onto), there.flip(axis))
    image = labels.float()
    smooth = resample_linear(image, affine, sizes, onto, extrapolate=True, smooth=True)
    turned = resample_linear(image.flip(axis), affine, sizes, onto, extrapolate=True, smooth=True)
    torch.testing.assert_close(turned, smooth.flip(axis), atol=1e-4, rtol=1e-4)


def test_labels_by_hand() -> None:
    labels = torch.tensor([1, 2, 3, 4], dtype=torch.int16).reshape(1, 4, 1, 1)
    sizes, onto = plan_grid((4, 1, 1), np.eye(4), (0.5, None, None))
    finer = resample_nearest(labels, np.eye(4), sizes, onto)
    assert finer.flatten().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(resample_nearest(finer, onto, (4, 1, 1), np.eye(4)), labels)
    sizes, onto = plan_grid((4, 1, 1), np.eye(4), (2.0, None, None))
    # Centres at -0.5, 1.5 and 3.5: repeated at the ends, and in the very middle the upper of the two.
    assert resample_nearest(labels, np.eye(4), sizes, onto).flatten().tolist() == [1, 3, 4]
    sizes, onto = plan_grid((6, 1, 1), np.eye(4), (2.0, None, None))
    six = torch.arange(6).reshape(1, 6, 1, 1)
    # Centres at -0.5, 1.5, 3.5 and 5.5: halfway, the one nearer to the middle of the axis.
    assert resample_nearest(six, np.eye(4), sizes, onto).flatten().tolist() == [0, 2, 3, 5]


@settings(max_examples=60, deadline=None)
@given(shapes, spacings, st.tuples(*[st.floats(0.2, 0.99)] * 3))
def test_labels_survive_a_finer_grid(shape: tuple[int, int, int], own: tuple[float, ...], finer: tuple[float, ...]) -> None:
    affine = scaled(own)
    sizes, onto = plan_grid(shape, affine, [a * b for a, b in zip(own, finer, strict=True)])
    labels = torch.randint(0, 9, (1, *shape), generator=torch.Generator().manual_seed(1)).short()
    there = resample_nearest(labels, affine, sizes, onto)
    assert torch.equal(resample_nearest(there, onto, shape, affine), labels)


def test_smoothing_before_a_coarser_grid_removes_what_it_cannot_show() -> None:
    checker = (torch.arange(65) % 2).float().reshape(1, 65, 1, 1) * 2 - 1
    sizes, onto = plan_grid((65, 1, 1), np.eye(4), (4.0, None, None))
    aliased = resample_linear(checker, np.eye(4), sizes, onto, extrapolate=True, smooth=False)
    smoothed = resample_linear(checker, np.eye(4), sizes, onto, extrapolate=True, smooth=True)
    assert (aliased == -1).all()
    assert smoothed[0, 1:-1].abs().max() < 0.02


def test_an_impulse_becomes_the_profile_of_the_coarser_voxel() -> None:
    sizes, onto = plan_grid((101, 1, 1), np.eye(4), (2.0, None, None))
    profile = {}
    for centre in (50, 51):  # the coarser grid reads the profile at even distances, then at odd ones
        impulse = torch.zeros(1, 101, 1, 1)
        impulse[0, centre] = 1
        result = resample_linear(impulse, np.eye(4), sizes, onto, extrapolate=True, smooth=True).flatten()
        profile |= {2 * place - centre: float(value) for place, value in enumerate(result)}
    assert sum(profile.values()) == pytest.approx(1)
    variance = sum(distance**2 * value for distance, value in profile.items())
    assert variance == pytest.approx((2**2 - 1) / (8 * np.log(2)), rel=0.01)


def test_grids_with_other_axes_are_refused() -> None:
    turned = OBLIQUE @ np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(GeometryError, match="same axes"):
        resample_linear(torch.zeros(1, 3, 3, 3), OBLIQUE, (3, 3, 3), turned, extrapolate=False, smooth=False)
