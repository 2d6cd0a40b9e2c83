"""The encoder that every network shares: one configuration, one set of parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medae.config import Config
from medae.models.blocks import ActivationKind, BlockKind, ConvBlock, NormKind, ResidualBlock
from medae.models.cells import any_visible, coarse_size, hide, space_to_depth
from medae.models.pooling import max_pool


class EncoderConfig(Config):
    """Shape of an encoder; tuples have one entry a level, the finest first, and per entry one number a spatial axis.

    in_channels: of the input. slices: that these are of, one after the other, each with its own channels (2.5D).
    stem: ``plain`` (a convolution at full resolution; strides[0] is all ones) or ``space_to_depth`` (the voxels of each
    cell of strides[0] become channels first, which saves nearly all work at full resolution).
    strides: from the level above to this one. kernels: odd; a strided convolution must not skip voxels.
    blocks: convolution blocks a level; a plain block is one convolution, a residual block two and a shortcut.
    norm: statistics of a channel of a sample, of a channel of the batch, or of up to 8 groups of channels of a sample.
    dropout: share of channels dropped after each block in training.
    """

    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    slices: int = Field(default=1, ge=1)
    stem: Literal["plain", "space_to_depth"] = "plain"
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    downsampling: Literal["strided", "maxpool"] = "strided"
    block: BlockKind = "plain"
    blocks: int = Field(default=1, ge=1)
    norm: NormKind = "instance"
    activation: ActivationKind = "leaky_relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _shapes(self) -> EncoderConfig:
        if not len(self.widths) == len(self.strides) == len(self.kernels):
            raise ValueError("widths, strides and kernels need one entry a level")
        if len(self.widths) < 2:
            raise ValueError("an encoder needs at least two levels")
        if any(len(entry) != self.spatial_dims for entry in (*self.strides, *self.kernels)):
            raise ValueError(f"each entry of strides and kernels needs {self.spatial_dims} numbers, one a spatial axis")
        if self.in_channels % self.slices or self.slices % 2 == 0:
            raise ValueError(f"{self.in_channels} input channels are not those of {self.slices} slices, an odd number")
        if min(self.widths) < 1 or min(map(min, self.strides)) < 1:
            raise ValueError("widths and strides must be 1 or more")
        if any(k < 1 or k % 2 == 0 for kernel in self.kernels for k in kernel):
            raise ValueError("kernel sizes must be odd, so that a convolution has a centre")
        return self

    @model_validator(mode="after")
    def _strides(self) -> EncoderConfig:
        if self.stem == "plain" and set(self.strides[0]) != {1}:
            raise ValueError(
                "a plain stem works at full resolution: make strides[0] all ones, or choose stem space_to_depth"
            )
        if self.stem == "space_to_depth" and set(self.strides[0]) == {1}:
            raise ValueError("a space_to_depth stem needs its factor in strides[0], for example 2 along each axis")
        for level, (kernel, stride) in enumerate(zip(self.kernels, self.strides, strict=True)):
            skipping = any(s > k for k, s in zip(kernel, stride, strict=True))
            if level and self.downsampling == "strided" and skipping:
                raise ValueError(
                    f"at level {level} a convolution of kernel {kernel} and stride {stride} would skip voxels: "
                    "make the kernel at least as large as the stride, or downsample by maxpool"
                )
        return self

    @property
    def channels(self) -> int:
        """Of one slice, or of the volume."""
        return self.in_channels // self.slices

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.widths)

    @property
    def cell(self) -> tuple[int, ...]:
        """Voxels of the input along each axis that one voxel of the bottleneck stands for: the product of all strides."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    def sizes(self, size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Each level's feature size for an input of ``size`` voxels, finest first."""
        found = []
        current = tuple(size)
        for stride in self.strides:
            current = coarse_size(current, stride)
            found.append(current)
        return tuple(found)


@dataclass(frozen=True)
class Features:
    """What an encoder returns; all tuples have one entry a level, the finest first.

    levels: ``[B, widths[i], *S_i]``. indices: where each maximum came from on the way into the level, int64
    ``[B, widths[i - 1], *S_i]``, None without max pooling. sizes: spatial size on the way into the level; sizes[0] is the
    image's.
    """

    levels: tuple[Tensor, ...]
    indices: tuple[Tensor | None, ...]
    sizes: tuple[tuple[int, ...], ...]


class Encoder(nn.Module):
    """Levels of convolution blocks. Any input size works: a level has ceil(n / stride) voxels along an axis."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        stem = math.prod(config.strides[0]) if config.stem == "space_to_depth" else 1
        inputs = (config.in_channels * stem, *config.widths[:-1])
        self.levels = nn.ModuleList(self._level(level, inputs[level]) for level in range(config.levels))

    def _level(self, level: int, inputs: int) -> nn.ModuleList:
        config = self.config
        stride = config.strides[level] if level and config.downsampling == "strided" else None
        width, kernel = config.widths[level], config.kernels[level]
        blocks = nn.ModuleList()
        for place in range(config.blocks):
            channels, step = (width, None) if place else (inputs, stride)
            if config.block == "plain":
                blocks.append(ConvBlock(channels, width, kernel, config.norm, config.activation, step, config.dropout))
            else:
                project = place == 0  # always, so that the parameters do not depend on the number of input channels
                blocks.append(
                    ResidualBlock(channels, width, kernel, config.norm, config.activation, step, config.dropout, project)
                )
        return blocks

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Features:
        """The features of every level.

        x: ``[B, C, *S]``. visible: bool ``[B, 1, *S]`` for sparse encoding: hidden voxels are zeroed after every convolution
        and not counted by norms; a coarser voxel is visible if any voxel of its cell is. Raises ValueError if the shapes
        do not fit the configuration, or if instance norm would see a single voxel.
        """
        self._check(x, visible)
        config = self.config
        x = hide(x, visible)
        levels: list[Tensor] = []
        indices: list[Tensor | None] = []
        sizes: list[tuple[int, ...]] = []
        for level, blocks in enumerate(self.levels):
            stride = config.strides[level]
            index = None
            sizes.append(tuple(x.shape[2:]))
            if level == 0 and config.stem == "space_to_depth":
                x = space_to_depth(x, stride)
            elif level and config.downsampling == "maxpool":
                x, index = max_pool(x, stride, visible)
            if visible is not None:
                visible = any_visible(visible, stride)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, visible)
            levels.append(x)
            indices.append(index)
        return Features(tuple(levels), tuple(indices), tuple(sizes))

    def _check(self, x: Tensor, visible: Tensor | None) -> None:
        config = self.config
        if x.dim() != config.spatial_dims + 2 or x.shape[1] != config.in_channels:
            expected = f"[batch, {config.in_channels}, {config.spatial_dims} spatial axes]"
            raise ValueError(f"the encoder expects an image of shape {expected}, not {list(x.shape)}")
        if visible is not None and (visible.shape != (x.shape[0], 1, *x.shape[2:])):
            raise ValueError(f"visible must have shape {[x.shape[0], 1, *x.shape[2:]]}, not {list(visible.shape)}")
        if config.norm == "instance" and math.prod(config.sizes(x.shape[2:])[-1]) == 1:
            raise ValueError(
                f"an image of {tuple(x.shape[2:])} voxels leaves a single voxel at the coarsest level, where instance norm "
                "would erase every feature: use larger patches, fewer levels or smaller strides"
            )


def stem_parameters(config: EncoderConfig) -> tuple[str, ...]:
    """Names within the encoder of the weights whose second axis counts input channels (times the voxels of a cell)."""
    if config.block == "plain":
        return ("levels.0.0.conv.weight",)
    return ("levels.0.0.first.conv.weight", "levels.0.0.shortcut.conv.weight")


def adapt_stem(weight: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """A stem weight for other input channels: one of the same name keeps its filters, a new one gets the source's mean.

    weight: ``[width, S * P, *kernel]`` with S the source's channels, P the voxels of a space-to-depth cell (1 for a plain
    stem), the channel slowest. Returns ``[width, T * P, *kernel]``, scaled by S / T, so that features keep their size: with
    more channels, equal ones give the same features. As many channels that all have other names keep their places.
    """
    cells = weight.unflatten(1, (len(source), -1))
    if len(source) == len(target) and not set(source) & set(target):
        return weight
    mean = cells.mean(1)
    rows = [cells[:, list(source).index(name)] if name in source else mean for name in target]
    return torch.stack(rows, 1).flatten(1, 2) * (len(source) / len(target))
