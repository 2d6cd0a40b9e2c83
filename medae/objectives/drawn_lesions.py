"""Synthetic lesions for a batch, drawn on the device in 2D, in 3D, and through neighbouring slices.

``medae.synthesis.lesions`` draws a lesion as large as a head allows, once; a training draws thousands in patches.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from medae.config import Config
from medae.objectives.coarse import coarse_noise
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

BEND = 8
"""Voxels between the points of the noise that bends surfaces and mottles the inside of a lesion of that radius or more."""

EDGE = math.log(81)
"""A logistic edge rises from 10 to 90 % over so many times its scale."""


class LesionShape(Config):
    """Ranges that lesions are drawn from, uniformly unless it says otherwise; the lower end first.

    radius: of the ball of equal volume, in voxels, log-uniform. stretch: an axis is up to so many times as long as another.
    roughness: deviation of the surface from the ellipsoid, as a share of the radius. edge: voxels over which a lesion fades,
    from 90 to 10 %. contrast: absolute difference from its surroundings, in normalised intensity units, by channel. bright:
    share of lesions that are brighter. mottling: deviation of the contrast within a lesion, as a share of it. uniformity:
    how much of the anatomy inside gives way to its mean: 0 adds the contrast to the structures below, 1 replaces them.
    core: share of lesions whose middle has a contrast of its own, which is as often darker as brighter (a cyst, a necrosis).
    core_size: its radius, as a share of the lesion's.
    slice_distance: from a slice to its neighbour, in voxels of a slice.
    """

    radius: tuple[float, float] = (1.5, 20.0)
    stretch: float = Field(default=2.0, ge=1)
    roughness: float = Field(default=0.3, ge=0)
    edge: tuple[float, float] = (1.0, 6.0)
    contrast: tuple[float, float] = (1.0, 6.0)
    bright: float = Field(default=0.5, ge=0, le=1)
    mottling: float = Field(default=0.3, ge=0)
    uniformity: tuple[float, float] = (0.0, 1.0)
    core: float = Field(default=0.0, ge=0, le=1)
    core_size: tuple[float, float] = (0.3, 0.9)
    slice_distance: tuple[float, float] = (1.0, 4.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("radius", "edge", "contrast", "uniformity", "core_size", "slice_distance"):
            low, high = getattr(self, name)
            least = 0.0 if name == "uniformity" else 1e-6
            if not least <= low <= high:
                raise ValueError(f"{name} is two numbers above 0, the lower one first, not {low} and {high}")
        for name in ("uniformity", "core_size"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name} is at most 1")
        return self


def with_lesion(batch: Batch, image: Tensor, there: Tensor, shape: LesionShape, draw: Draw) -> tuple[Tensor, Tensor]:
    """The image with one more lesion in each sample that is to have one, and the lesions' soft maps.

    image: float32 ``[B, slices x C, *S]`` in the place of the batch's. there: bool ``[B]``. A lesion's centre is a voxel of
    the mask, and what of it lies outside is lost; absent channels stay as they are. Returns the image and float32
    ``[B, slices, *S]`` in [0, 1], 0.5 at the lesion's edge.
    """
    count, slices, dims = len(batch), batch.slices, image.ndim - 2
    soft, core = _soft(batch, shape, draw)
    soft = there.reshape(-1, *[1] * (dims + 1)).to(image.device) * soft
    channels = image.shape[1] // slices
    sizes = (count, 1, channels, *[1] * dims)
    contrast = _contrast(shape.contrast, shape.bright, draw, count, channels).reshape(sizes).to(image.device)
    if shape.core > 0:
        other = _contrast(shape.contrast, 0.5, draw.scoped("core"), count, channels).reshape(sizes).to(image.device)
        contrast = contrast + core[:, :, None] * (other - contrast)
    mottled = 1 + shape.mottling * coarse_noise(tuple(image.shape[2:]), count, channels, BEND, draw.scoped("mottling"))
    uniformity = _between(shape.uniformity, draw.scoped("uniformity"), count).reshape(count, *[1] * (dims + 2))

    own, weight = image.unflatten(1, (slices, channels)), soft[:, :, None]
    space = tuple(range(3, 3 + dims))
    mean = (own * weight).sum(space, keepdim=True) / weight.sum(space, keepdim=True).clamp_min(1e-6)
    added = contrast * mottled[:, None].to(image.device)
    inside = own + uniformity.to(image.device) * (mean - own) + added
    present = batch.present.reshape(sizes)
    return (own + weight * present * (inside - own)).flatten(1, 2), soft


def _contrast(ends: tuple[float, float], bright: float, draw: Draw, count: int, channels: int) -> Tensor:
    """Contrasts with their sign, ``[count, channels]``. bright: share of those above 0."""
    size = _between(ends, draw.scoped("contrast"), count, channels)
    return torch.where(draw.scoped("bright").uniform(count, (channels,)) < bright, size, -size)


def _soft(batch: Batch, shape: LesionShape, draw: Draw) -> tuple[Tensor, Tensor]:
    """One lesion a sample, and its core: float32 ``[B, slices, *S]`` each, a bent ellipsoid, 0 outside the mask."""
    size, count, device = tuple(batch.image.shape[2:]), len(batch), batch.image.device
    dims = len(size)

    def between(name: str, low: float, high: float, *extra: int) -> Tensor:
        return _between((low, high), draw.scoped(name), count, *extra).to(device)

    along = [1] * dims
    smallest, largest = (math.log(value) for value in shape.radius)
    radius = torch.exp(between("radius", smallest, largest)).reshape(-1, 1, *along)
    spread = math.log(shape.stretch) / 2
    axes = torch.exp(between("axes", -spread, spread, dims))
    axes = axes / axes.log().mean(dim=1, keepdim=True).exp()
    turn = torch.linalg.qr(draw.scoped("turn").normal(count, (dims, dims)))[0].to(device)
    grid = torch.stack(torch.meshgrid(*(torch.arange(length, device=device) for length in size), indexing="ij")).float()
    offset = grid[None] - _centres(batch, draw).reshape(count, dims, *along)
    turned = torch.einsum("bij,bj...->bi...", turn, offset) / axes.reshape(count, dims, *along)
    step = between("slice_distance", *shape.slice_distance).reshape(-1, 1, *along)
    beside = torch.arange(batch.slices, device=device).reshape(1, -1, *along) - batch.slices // 2
    distance = (turned.square().sum(dim=1, keepdim=True) + (beside * step).square()).sqrt()
    noise = [coarse_noise(size, count, 1, cell, draw.scoped(f"bend {cell}")).to(device) for cell in (BEND, BEND // 2)]
    bend = shape.roughness * (noise[0] + 0.5 * noise[1]) * (radius / BEND).clamp(max=1)
    depth = radius * (1 + bend) - distance
    steepness = EDGE / between("edge", *shape.edge).reshape(-1, 1, *along)
    soft = torch.sigmoid(depth * steepness) * batch.mask
    cored = (draw.scoped("cored").uniform(count) < shape.core).reshape(-1, 1, *along).to(device)
    rim = radius * (1 - between("core size", *shape.core_size).reshape(-1, 1, *along))
    return soft, cored * torch.sigmoid((depth - rim) * steepness) * soft


def _between(ends: tuple[float, float], draw: Draw, count: int, *extra: int) -> Tensor:
    """Uniform numbers, ``[count, *extra]``."""
    low, high = ends
    return low + (high - low) * draw.uniform(count, extra)


def _centres(batch: Batch, draw: Draw) -> Tensor:
    """A voxel of each sample's mask, ``[B, D]``; of one without a mask the first voxel."""
    shares = draw.scoped("centre").uniform(len(batch)).tolist()
    found = []
    for mask, share in zip(batch.mask[:, 0], shares, strict=True):
        inside = mask.nonzero()
        found.append(inside[int(share * len(inside))] if len(inside) else inside.new_zeros(mask.ndim))
    return torch.stack(found).float()
