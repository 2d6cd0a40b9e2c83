from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from medae.models.cells import any_visible, coarse_size, cut, depth_to_space, hide, space_to_depth


def test_a_row_becomes_channels():
    row = torch.arange(5.0).view(1, 1, 1, 5)
    cells = space_to_depth(row, (1, 2))
    assert cells.tolist() == [[[[0.0, 2.0, 4.0]], [[1.0, 3.0, 0.0]]]]  # the cut-off cell is filled with a zero


def test_the_last_axis_of_a_cell_is_fastest():
    cube = torch.arange(8.0).view(1, 1, 2, 2, 2)
    assert space_to_depth(cube, (2, 2, 2)).flatten().tolist() == list(range(8))
    assert space_to_depth(cube, (2, 1, 2)).shape == (1, 4, 1, 2, 1)
    assert space_to_depth(cube, (2, 1, 2))[0, :, 0, 1, 0].tolist() == [2, 3, 6, 7]


def test_in_2d_it_is_torchs_pixel_unshuffle_and_shuffle():
    image = torch.randn(2, 3, 6, 8)
    cells = space_to_depth(image, (2, 2))
    torch.testing.assert_close(cells, functional.pixel_unshuffle(image, 2), rtol=0, atol=0)
    torch.testing.assert_close(depth_to_space(cells, (2, 2), (6, 8)), functional.pixel_shuffle(cells, 2), rtol=0, atol=0)


@given(
    size=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    stride=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    channels=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_depth_to_space_undoes_space_to_depth_at_any_size(size: list[int], stride: list[int], channels: int):
    stride = stride[: len(size)]
    image = torch.randn(2, channels, *size)
    cells = space_to_depth(image, stride)
    assert cells.shape == (2, channels * math.prod(stride), *(-(-n // s) for n, s in zip(size, stride, strict=True)))
    assert cells.shape[2:] == coarse_size(size, stride)
    torch.testing.assert_close(depth_to_space(cells, stride, size), image, rtol=0, atol=0)


def test_a_cell_is_visible_if_one_of_its_voxels_is():
    visible = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool).view(1, 1, 3, 5)
    assert any_visible(visible, (2, 2)).tolist() == [[[[False, True, True], [False, False, False]]]]


def test_hiding_replaces_anything_and_stops_its_gradient():
    x = torch.tensor([1.0, math.nan, math.inf]).view(1, 1, 3).requires_grad_()
    visible = torch.tensor([True, False, False]).view(1, 1, 3)
    hidden = hide(x, visible)
    hidden.sum().backward()
    assert hidden.flatten().tolist() == [1, 0, 0]
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 0, 0]


def test_cut_keeps_the_first_voxels():
    assert cut(torch.arange(6).view(1, 1, 2, 3), (1, 2)).tolist() == [[[[0, 1]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_the_type_is_kept(dtype: torch.dtype):
    assert space_to_depth(torch.ones(1, 1, 3, 3, dtype=dtype), (2, 2)).dtype == dtype
