"""Coarse noise: drawn on a grid, linear in between, moved at random."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medae.seeding import Draw

INTERPOLATION = {2: "bilinear", 3: "trilinear"}


def coarse_noise(size: tuple[int, ...], count: int, channels: int, cell: int, draw: Draw) -> Tensor:
    """Normal noise on points about ``cell`` voxels apart, interpolated linearly: float32 ``[count, channels, *size]``, CPU.

    The grid is a cell wider on each side than the patch, which lies in it at random, so that no place of a patch has more
    noise than another. size: two or three axes.
    """
    cells = [max(1, round(length / cell)) for length in size]
    points = draw.scoped("noise").normal(count, (channels, *(number + 2 for number in cells)))
    wide = [round(length * (number + 2) / number) for length, number in zip(size, cells, strict=True)]
    noise = functional.interpolate(points, size=wide, mode=INTERPOLATION[len(size)], align_corners=False)
    places = draw.scoped("place").uniform(count, (len(size),))
    patches = []
    for sample, place in zip(noise, places.tolist(), strict=True):
        patch = sample
        for axis, (length, number, share) in enumerate(zip(size, cells, place, strict=True), start=1):
            patch = patch.narrow(axis, int(length / number * (0.5 + share)), length)
        patches.append(patch)
    return torch.stack(patches)
