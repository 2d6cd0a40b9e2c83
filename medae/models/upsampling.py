"""Seven ways back to a finer grid. Each puts cells of ``stride`` voxels in the place of one and cuts the result to size.

The grid's geometry is the encoder's: coarse voxel i covers fine voxels i * stride to (i + 1) * stride - 1. So the result
does not depend on where the image ends, which a sliding window relies on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medae.models.blocks import convolution, projection
from medae.models.cells import cut, depth_to_space, join_cells
from medae.models.pooling import max_unpool

UpsamplingKind = Literal["nearest", "linear", "cubic", "fixed_unpool", "max_unpool", "transposed", "pixelshuffle"]
InterpolationKind = Literal["nearest", "linear", "cubic"]

CUBIC = -0.75
"""The free parameter of Keys' cubic kernel, as torch's bicubic interpolation has it."""


class Upsampler(nn.Module):
    """``[B, inputs, *S']`` to ``[B, outputs, *S]``.

    ``transposed`` and ``pixelshuffle`` learn the way up and change the channels in it; before the others a 1x1
    convolution changes them where they differ.
    """

    def __init__(self, kind: UpsamplingKind, inputs: int, outputs: int, stride: Sequence[int]):
        super().__init__()
        self.kind = kind
        self.stride = tuple(stride)
        if kind == "transposed":
            self.conv: nn.Module = transposed_convolution(inputs, outputs, self.stride)
        elif kind == "pixelshuffle":
            self.conv = shuffled_convolution(inputs, outputs, self.stride)
        else:
            self.conv = nn.Identity() if inputs == outputs else projection(inputs, outputs, len(self.stride))

    def forward(self, x: Tensor, size: Sequence[int], indices: Tensor | None = None) -> Tensor:
        """size: voxels of the result along each axis. indices: of the max pooling that is undone, for ``max_unpool``."""
        x = self.conv(x)
        match self.kind:
            case "nearest" | "linear" | "cubic":
                return interpolate(x, self.kind, self.stride, size)
            case "fixed_unpool":
                return fixed_unpool(x, self.stride, size)
            case "max_unpool":
                if indices is None:
                    raise ValueError("max_unpool needs the indices of a max-pooling encoder")
                return max_unpool(x, indices, size)
            case "transposed":
                return cut(x, size)
            case "pixelshuffle":
                return depth_to_space(x, self.stride, size)


def fixed_unpool(x: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Each value into the first corner of its cell, zeros elsewhere. Source: Dosovitskiy et al. 2015."""
    corner = x.movedim(1, -1).unsqueeze(-1)
    return join_cells(nn.functional.pad(corner, (0, math.prod(stride) - 1)), stride, size)


def interpolate(x: Tensor, kind: InterpolationKind, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Separable interpolation between voxel centres, an axis at a time; beyond the border the last value goes on.

    Matrix products: unlike torch's interpolate they are deterministic on every device and have cubic in 3D.
    """
    x = x.movedim(1, -1).contiguous()
    for axis in reversed(range(len(size))):  # the last axis first: its products are the smallest
        if stride[axis] > 1:
            x = _interpolate_axis(x, kind, axis + 1, stride[axis], size[axis])
    return x.movedim(-1, 1)


def _interpolate_axis(x: Tensor, kind: InterpolationKind, axis: int, stride: int, size: int) -> Tensor:
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    matrix = interpolation_matrix(kind, x.shape[axis], size, stride, x.device).to(x.dtype)
    rows = x.reshape(math.prod(before), x.shape[axis], math.prod(after))
    return torch.bmm(matrix.expand(rows.shape[0], -1, -1), rows).reshape(*before, size, *after)


def interpolation_matrix(kind: InterpolationKind, count: int, size: int, stride: int, device: torch.device) -> Tensor:
    """Weights ``[size, count]`` float32 of ``count`` coarse voxels in each of ``size`` fine ones; each row sums to one."""
    fine = torch.arange(size, device=device)
    if kind == "nearest":
        taps = [(fine // stride, torch.ones(size, device=device))]
    else:
        position = (fine + 0.5) / stride - 0.5
        base = position.floor()
        reach = (0, 1) if kind == "linear" else (-1, 0, 1, 2)
        kernel = _linear_kernel if kind == "linear" else _cubic_kernel
        taps = [(base + k, kernel((position - base - k).abs())) for k in reach]
    coarse = torch.arange(count, device=device)
    return torch.stack([(index.clamp(0, count - 1)[:, None] == coarse) * weight[:, None] for index, weight in taps]).sum(0)


def _linear_kernel(distance: Tensor) -> Tensor:
    return 1 - distance


def _cubic_kernel(distance: Tensor) -> Tensor:
    """Source: Keys 1981, with a = CUBIC."""
    a, d = CUBIC, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, far)


def transposed_convolution(inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """A transposed convolution whose kernel is its stride: cells do not overlap, and all voxels of a cell start equal."""
    kind: Any = nn.ConvTranspose2d if len(stride) == 2 else nn.ConvTranspose3d
    conv: nn.ConvTranspose2d | nn.ConvTranspose3d = kind(inputs, outputs, tuple(stride), stride=tuple(stride), bias=False)
    start = torch.randn(inputs, outputs, *(1,) * len(stride)) / math.sqrt(inputs)
    with torch.no_grad():
        conv.weight.copy_(start.expand_as(conv.weight))
    return conv


def shuffled_convolution(inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """A convolution that makes all voxels of a cell as channels; it sees the neighbours along the axes that grow.

    All voxels of a cell start equal, so that no checkerboard is there at the start. Source: Aitken et al. 2017,
    "Checkerboard artifact free sub-pixel convolution".
    """
    kernel = [3 if s > 1 else 1 for s in stride]
    voxels = math.prod(stride)
    conv = convolution(inputs, outputs * voxels, kernel)
    start = torch.randn(outputs, inputs, *kernel) / math.sqrt(inputs * math.prod(kernel))
    with torch.no_grad():
        conv.weight.copy_(start.repeat_interleave(voxels, 0))
    return conv
