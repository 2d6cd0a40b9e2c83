"""Convolution blocks: convolution, norm, activation, with an optional mask of visible voxels.

With ``visible``, every convolution is followed by zeroing what is hidden and every norm counts visible voxels only, so
that nothing of a hidden voxel reaches a visible one. Source: Tian et al. 2023, "Designing BERT for convolutional networks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medae.models.cells import hide

NormKind = Literal["instance", "batch", "group", "none"]
ActivationKind = Literal["leaky_relu", "relu", "gelu"]
BlockKind = Literal["plain", "residual"]

LEAK = 0.01
GROUPS = 8

SAFE = 8
"""Input channels from which on a strided projection is safe; see ``convolve``."""


def convolution(
    inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | None = None, bias: bool = True
) -> nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the size (ceil(n / stride) voxels for odd kernels), initialised for a following rectifier."""
    kind: Any = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    conv: nn.Conv2d | nn.Conv3d = kind(
        inputs,
        outputs,
        tuple(kernel),
        stride=1 if stride is None else tuple(stride),
        padding=tuple(k // 2 for k in kernel),
        bias=bias,
    )
    nn.init.kaiming_normal_(conv.weight, a=LEAK)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def convolve(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """``conv(x)``, without what oneDNN 3.12 (in torch 2.13, on CPUs with AVX2 at most) has broken.

    The backward pass of a 2D convolution of one voxel with a stride and fewer than 8 channels, channels last, writes beyond
    its memory there and kills the process. Taking every ``stride``-th voxel first is the same, in another kernel.
    """
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels < SAFE:
        down, right = conv.stride
        return functional.conv2d(x[..., ::down, ::right], conv.weight, conv.bias)
    return conv(x)


def projection(inputs: int, outputs: int, spatial_dims: int, scale: float = 1.0) -> nn.Conv2d | nn.Conv3d:
    """A 1x1 convolution without activation: outputs start with ``scale`` times the inputs' root mean square."""
    conv = convolution(inputs, outputs, (1,) * spatial_dims)
    nn.init.normal_(conv.weight, std=scale / math.sqrt(inputs))
    return conv


class Norm(nn.Module):
    """Instance, batch or group normalisation (up to 8 groups, as many as divide the channels), affine, over visible voxels.

    Parameters and buffers are named as torch's: ``weight``, ``bias``, and for batch norm the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, kind: Literal["instance", "batch", "group"], channels: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.kind, self.momentum, self.eps = kind, momentum, eps
        self.groups = math.gcd(channels, GROUPS) if kind == "group" else channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels) if kind == "batch" else None)
        self.register_buffer("running_var", torch.ones(channels) if kind == "batch" else None)

    def forward(self, x_BCS: Tensor, visible_B1S: Tensor | None = None) -> Tensor:
        """The normalised features, same shape and type; zero where hidden."""
        if visible_B1S is not None:
            return self._over_visible(x_BCS, visible_B1S)
        if self.kind == "instance":
            return functional.instance_norm(x_BCS, weight=self.weight, bias=self.bias, eps=self.eps)
        if self.kind == "group":
            return functional.group_norm(x_BCS, self.groups, self.weight, self.bias, self.eps)
        return functional.batch_norm(
            x_BCS, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def _over_visible(self, x_BCS: Tensor, visible: Tensor) -> Tensor:
        spatial = (1,) * (x_BCS.dim() - 2)
        x = hide(x_BCS, visible).float()
        if self.kind == "batch" and not self.training:
            mean, variance = self.running_mean.view(1, -1, *spatial), self.running_var.view(1, -1, *spatial)
        else:
            mean, variance = self._moments(x, visible)
        scale = self.weight.view(1, -1, *spatial) * (variance + self.eps).rsqrt()
        y = (x - mean) * scale + self.bias.view(1, -1, *spatial)
        return hide(y, visible).to(x_BCS.dtype)

    def _moments(self, x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over visible voxels, broadcastable to ``x``; hidden voxels of ``x`` are zero."""
        grouped = x.unflatten(1, (self.groups, -1))  # [B, G, C / G, *S]
        members = grouped.shape[2]
        axes = ((0,) if self.kind == "batch" else ()) + tuple(range(2, grouped.dim()))
        seen = visible.unsqueeze(1)
        count = seen.sum(axes, keepdim=True).clamp(min=1) * members
        mean = grouped.sum(axes, keepdim=True) / count
        variance = hide(grouped - mean, seen).square().sum(axes, keepdim=True) / count
        if self.kind == "batch":
            unbiased = variance * count / (count - 1).clamp(min=1)
            # by .data: the backward pass of a dense call before this one holds the statistics, but does not read them
            self.running_mean.data.lerp_(mean.detach().flatten(), self.momentum)
            self.running_var.data.lerp_(unbiased.detach().flatten(), self.momentum)
        return _repeat_members(mean, members), _repeat_members(variance, members)


def _repeat_members(moment: Tensor, members: int) -> Tensor:
    """``[B, G, 1, ...]`` as ``[B, C, ...]``: each group's value for all its channels."""
    return moment.expand(-1, -1, members, *moment.shape[3:]).flatten(1, 2)


def activate(kind: ActivationKind, x: Tensor) -> Tensor:
    """The activation; rectifiers work in place, which saves memory traffic."""
    if kind == "leaky_relu":
        return functional.leaky_relu(x, LEAK, inplace=True)
    return functional.relu(x, inplace=True) if kind == "relu" else functional.gelu(x)


class ConvBlock(nn.Module):
    """Convolution, norm, activation (``activation=None`` leaves it out), dropout of whole channels."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        norm: NormKind,
        activation: ActivationKind | None,
        stride: Sequence[int] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = convolution(inputs, outputs, kernel, stride, bias=norm == "none")
        self.norm = None if norm == "none" else Norm(norm, outputs)
        self.activation = activation
        self.dropout = dropout

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x: ``[B, C, *S]``. visible: bool ``[B, 1, *S']`` at the output's size."""
        x = convolve(self.conv, x)
        x = hide(x, visible) if self.norm is None else self.norm(x, visible)
        if self.activation is not None:
            x = activate(self.activation, x)
        return drop_channels(x, self.dropout, self.training)


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to the input; ``project`` brings the input to the new width and stride.

    Source: He et al. 2016, the basic block, with the norm of choice.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        norm: NormKind,
        activation: ActivationKind,
        stride: Sequence[int] | None = None,
        dropout: float = 0.0,
        project: bool = False,
    ):
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel, norm, activation, stride)
        self.second = ConvBlock(outputs, outputs, kernel, norm, None)
        self.shortcut = ConvBlock(inputs, outputs, (1,) * len(kernel), norm, None, stride) if project else None
        self.activation = activation
        self.dropout = dropout

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x: ``[B, C, *S]``. visible: bool ``[B, 1, *S']`` at the output's size."""
        change = self.second(self.first(x, visible), visible)
        x = x if self.shortcut is None else self.shortcut(x, visible)
        return drop_channels(activate(self.activation, x + change), self.dropout, self.training)


def drop_channels(x: Tensor, share: float, training: bool) -> Tensor:
    """Whole channels set to zero in training, a share of them, by torch's global generator."""
    drop = functional.dropout2d if x.dim() == 4 else functional.dropout3d
    return drop(x, share, training) if share else x
