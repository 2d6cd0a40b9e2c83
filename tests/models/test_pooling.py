from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medae.models.pooling import max_pool, max_unpool

SIZES = [
    ((6, 8), (2, 2)),
    ((7, 5), (2, 2)),
    ((5, 7), (3, 2)),
    ((6, 4, 8), (2, 2, 2)),
    ((5, 7, 3), (2, 2, 1)),
    ((1, 5, 5), (1, 2, 2)),
]


def test_a_hand_made_image():
    image = torch.tensor([[1.0, 2, 0, 0, 5], [4, 3, 0, 7, 1], [-1, -2, -3, -4, -9]]).view(1, 1, 3, 5)
    pooled, indices = max_pool(image, (2, 2))
    assert pooled[0, 0].tolist() == [[4, 7, 5], [-1, -3, -9]]
    assert indices[0, 0].tolist() == [[5, 8, 4], [10, 12, 14]]
    placed = max_unpool(torch.tensor([[10.0, 20, 30], [40, 50, 60]]).view(1, 1, 2, 3), indices, (3, 5))
    assert placed[0, 0].tolist() == [[0, 0, 0, 0, 30], [10, 0, 0, 20, 0], [40, 0, 50, 0, 60]]


@pytest.mark.parametrize(("size", "stride"), SIZES)
def test_unpooling_puts_each_value_where_its_maximum_was(size: tuple[int, ...], stride: tuple[int, ...]):
    image = torch.randn(2, 3, *size)
    pooled, indices = max_pool(image, stride)
    placed = max_unpool(pooled, indices, size)
    there = placed != 0
    assert int(there.sum()) == pooled.numel()
    assert torch.equal(placed[there], image[there])


@pytest.mark.parametrize(("size", "stride"), SIZES)
def test_unpooling_is_torchs(size: tuple[int, ...], stride: tuple[int, ...]):
    image = torch.randn(2, 3, *size)
    pooled, indices = max_pool(image, stride)
    values = torch.randn_like(pooled)
    unpool = (nn.MaxUnpool2d if len(size) == 2 else nn.MaxUnpool3d)(stride)
    assert torch.equal(max_unpool(values, indices, size), unpool(values, indices, output_size=size))


@pytest.mark.parametrize(("size", "stride"), SIZES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_places_and_gradient_are_torchs(size: tuple[int, ...], stride: tuple[int, ...], channels_last: bool):
    memory = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    image = torch.randn(2, 3, *size)
    if channels_last:
        image = image.contiguous(memory_format=memory)
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    pooled, indices = max_pool(ours, stride)
    pool = functional.max_pool2d if len(size) == 2 else functional.max_pool3d
    expected, expected_indices = pool(theirs, stride, stride, ceil_mode=True, return_indices=True)
    assert torch.equal(pooled, expected)
    assert torch.equal(indices, expected_indices)
    weights = torch.randn_like(pooled)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]


def test_the_gradient_of_unpooling_comes_from_the_places():
    _, indices = max_pool(torch.randn(1, 2, 5, 3, 4), (2, 2, 2))
    values = torch.randn(indices.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: max_unpool(x, indices, (5, 3, 4)), (values,))


def test_hidden_voxels_never_win_and_an_empty_cell_is_zero():
    image = torch.tensor([[-5.0, 9.0, 3.0, 8.0]]).view(1, 1, 1, 4)
    visible = torch.tensor([[True, False, False, False]]).view(1, 1, 1, 4)
    pooled, indices = max_pool(image, (1, 2), visible)
    assert pooled.flatten().tolist() == [-5, 0]  # not 9, and not the zero that hiding would have put there
    assert indices.flatten().tolist()[0] == 0
    assert indices.flatten().tolist()[1] in (2, 3)


def test_it_runs_where_torchs_own_unpooling_is_refused():
    torch.use_deterministic_algorithms(True)
    try:
        image = torch.randn(1, 2, 5, 5, 5, requires_grad=True)
        pooled, indices = max_pool(image, (2, 2, 2))
        with pytest.raises(RuntimeError, match="deterministic"):
            nn.MaxUnpool3d(2)(pooled, indices, output_size=(5, 5, 5))
        max_unpool(pooled, indices, (5, 5, 5)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert image.grad is not None
    assert int((image.grad != 0).sum()) == pooled.numel()
