from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medae.models.cells import split_cells
from medae.models.pooling import max_pool
from medae.models.upsampling import InterpolationKind, Upsampler, UpsamplingKind, fixed_unpool, interpolate


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def test_nearest_by_hand():
    assert interpolate(row(1, 2, 3), "nearest", (1, 2), (1, 5)).flatten().tolist() == [1, 1, 2, 2, 3]


def test_linear_by_hand():
    # fine centres at coarse positions -.25, .25, .75, 1.25, 1.75; the border value goes on beyond the first centre
    assert interpolate(row(0, 4, 8), "linear", (1, 2), (1, 5)).flatten().tolist() == [0, 1, 3, 5, 7]
    assert interpolate(row(0, 3), "linear", (1, 3), (1, 6)).flatten().tolist() == pytest.approx([0, 0, 1, 2, 3, 3])


def test_cubic_by_hand():
    # Keys' kernel with a = -3/4, at the distances 1/4 and 3/4 (near) and 5/4 and 7/4 (far)
    w = {d: 1.25 * d**3 - 2.25 * d**2 + 1 for d in (0.25, 0.75)}
    w |= {d: -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) for d in (1.25, 1.75)}
    assert sum(w.values()) == pytest.approx(1)
    values = interpolate(row(5, 2, 1, 7), "cubic", (1, 2), (1, 8)).flatten().tolist()
    assert values[3] == pytest.approx(w[1.25] * 5 + w[0.25] * 2 + w[0.75] * 1 + w[1.75] * 7)
    assert values[4] == pytest.approx(w[1.75] * 5 + w[0.75] * 2 + w[0.25] * 1 + w[1.25] * 7)
    assert values[0] == pytest.approx((w[1.75] + w[0.75] + w[0.25]) * 5 + w[1.25] * 2)  # 5 goes on beyond the border


def test_fixed_unpool_by_hand():
    placed = fixed_unpool(torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2), (2, 2), (3, 4))
    assert placed[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0]]
    cube = fixed_unpool(torch.full((1, 1, 1, 1, 1), 5.0), (2, 2, 2), (2, 2, 2))
    assert cube.flatten().tolist() == [5, 0, 0, 0, 0, 0, 0, 0]


def test_max_unpool_by_hand():
    _, indices = max_pool(torch.tensor([[1.0, 2, 9], [4, 3, 5]]).view(1, 1, 2, 3), (2, 2))
    up = Upsampler("max_unpool", 1, 1, (2, 2))
    assert up(row(7, 8), (2, 3), indices)[0, 0].tolist() == [[0, 0, 8], [7, 0, 0]]
    with pytest.raises(ValueError, match="needs the indices"):
        up(row(7, 8), (2, 3))


def test_transposed_by_hand():
    up = Upsampler("transposed", 1, 1, (1, 2))
    up.load_state_dict({"conv.weight": torch.tensor([[[[10.0, 1.0]]]])})
    assert up(row(1, 2, 3), (1, 5)).flatten().tolist() == [10, 1, 20, 2, 30]


def test_pixelshuffle_by_hand():
    up = Upsampler("pixelshuffle", 1, 1, (1, 2))
    weight = torch.zeros(2, 1, 1, 3)
    weight[0, 0, 0, 0], weight[1, 0, 0, 2] = 1, 1  # first voxel of the cell: left neighbour; second: right neighbour
    up.load_state_dict({"conv.weight": weight, "conv.bias": torch.tensor([0.0, 100.0])})
    assert up(row(1, 2, 3), (1, 5)).flatten().tolist() == [0, 102, 1, 103, 2]


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        ("nearest", "nearest", (4, 5)),
        ("linear", "bilinear", (4, 5)),
        ("cubic", "bicubic", (4, 5)),
        ("nearest", "nearest", (3, 4, 5)),
        ("linear", "trilinear", (3, 4, 5)),
    ],
)
def test_interpolation_is_torchs_where_torch_has_it(ours: InterpolationKind, theirs: str, size: tuple[int, ...]):
    x = torch.randn(2, 3, *size)
    stride = (2, 3, 2)[: len(size)]
    fine = tuple(n * s for n, s in zip(size, stride, strict=True))
    expected = functional.interpolate(x, size=fine, mode=theirs)
    torch.testing.assert_close(interpolate(x, ours, stride, fine), expected, rtol=1e-5, atol=1e-5)


def test_cubic_in_3d_is_cubic_along_every_axis():
    x = torch.randn(1, 2, 4, 5, 6)
    plane = functional.interpolate(x.flatten(1, 2), scale_factor=(2, 2), mode="bicubic").unflatten(1, (2, 4))  # J and K
    plane = plane.permute(0, 1, 3, 2, 4).flatten(1, 2)  # [1, C * J, I, K]
    expected = functional.interpolate(plane, size=(8, 12), mode="bicubic").unflatten(1, (2, 10)).permute(0, 1, 3, 2, 4)
    torch.testing.assert_close(interpolate(x, "cubic", (2, 2, 2), (8, 10, 12)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic"])
def test_a_constant_stays_constant_and_an_axis_of_stride_one_is_left_alone(kind: InterpolationKind):
    ones = torch.ones(1, 1, 3, 1, 2)
    torch.testing.assert_close(interpolate(ones, kind, (2, 2, 1), (5, 2, 2)), torch.ones(1, 1, 5, 2, 2))
    x = torch.randn(1, 1, 3, 4)
    assert torch.equal(interpolate(x, kind, (1, 1), (3, 4)), x)


@pytest.mark.parametrize("kind", [kind for kind in get_args(UpsamplingKind) if kind != "max_unpool"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_smaller_target_is_the_same_result_cut(kind: UpsamplingKind, dims: int):
    torch.manual_seed(0)
    stride, full = (2,) * dims, (6, 8, 4)[:dims]
    odd = tuple(n - 1 for n in full)
    up = Upsampler(kind, 3, 2, stride)
    x = torch.randn(1, 3, *(n // 2 for n in full))
    whole = up(x, full)
    assert whole.shape == (1, 2, *full)
    torch.testing.assert_close(up(x, odd), whole[(..., *(slice(n) for n in odd))])


@pytest.mark.parametrize("kind", ["transposed", "pixelshuffle"])
@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_learned_starts_without_a_checkerboard(kind: UpsamplingKind, dims: int):
    up = Upsampler(kind, 16, 4, (2,) * dims)
    fine = up(torch.randn(2, 16, *(3,) * dims), (6,) * dims)
    cells = split_cells(fine, (2,) * dims)
    torch.testing.assert_close(cells, cells[..., :1].expand_as(cells))
    assert 0.5 < fine.std().item() < 2  # neither vanishes nor explodes


def test_interpolation_passes_the_gradient_back():
    x = torch.randn(1, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for kind in get_args(InterpolationKind):
        assert torch.autograd.gradcheck(lambda x, kind=kind: interpolate(x, kind, (2, 2, 1), (5, 4, 2)), (x,))
