"""Resampling between a scan's own voxels and the plan's spacing.

Both grids share their axes (nearest RAS, obliquity kept), so resampling is separable: one axis after the other.

The plan grid of an axis with ``n`` voxels of ``s`` mm, at a spacing of ``t`` mm, has ``round(n s / t)`` voxels, so that
it fills the image's extent (each thick slice becomes two of half the thickness), but never fewer than the
``ceil((n - 1) s / t) + 1`` whose centres enclose those of the image. It is centred on the image. So the way back only
interpolates: a probability stays one. The way there leaves the image's voxel centres by less than half a voxel (of the
image or of the plan, the larger) at each end; there images go on linearly, so that a ramp stays a ramp, and labels
repeat their last voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medae.errors import GeometryError
from medae.volume import spacing_of

SAME_SPACING = 1e-3
"""Relative difference below which an axis keeps its own voxels: headers round their spacing."""

PLACES = 9
"""Decimals of a position in voxels: below lies only rounding, which must not decide between two neighbours."""


def plan_grid(
    shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float | None]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (4x4, mm) of the grid at the plan's spacing over an image in nearest-RAS axes.

    shape, affine: of the image. spacing: mm along I, J, K; None keeps the image's own. An axis that already has the
    spacing, or that has one voxel only, is left as it is.
    """
    scale, shift, sizes = np.ones(3), np.zeros(3), list(shape)
    for axis, (size, own, wanted) in enumerate(zip(shape, spacing_of(affine), spacing, strict=True)):
        if wanted is None or size == 1 or abs(own / wanted - 1) < SAME_SPACING:
            continue
        scale[axis] = wanted / own
        enclosing = int(np.ceil(round((size - 1) / scale[axis], PLACES))) + 1
        sizes[axis] = max(round(size / scale[axis]), enclosing)
        shift[axis] = -((sizes[axis] - 1) * scale[axis] - (size - 1)) / 2
    placed = np.eye(4)
    placed[:3, :3] = np.diag(scale)
    placed[:3, 3] = shift
    return (sizes[0], sizes[1], sizes[2]), affine @ placed


def resample_linear(
    image_CIJK: Tensor, affine: np.ndarray, shape: Sequence[int], onto: np.ndarray, *, extrapolate: bool, smooth: bool
) -> Tensor:
    """Linear interpolation of float maps onto another grid with the same axes; float32 ``[C, *shape]``.

    affine, onto: 4x4 of the image and of the wanted grid. extrapolate: continue linearly beyond the outermost voxel
    centres, else repeat them. smooth: before an axis is made coarser by the factor f, blur it with a Gaussian of
    full width at half maximum sqrt(f^2 - 1) voxels, which turns the profile of the finer voxel into that of the coarser
    (Cardoso et al. 2015). An axis on which both grids agree is not touched, so the same grid gives the same bits.
    Raises GeometryError if the grids' axes differ.
    """
    result = image_CIJK
    for axis, positions in enumerate(_positions(affine, shape, onto)):
        if _same(positions, image_CIJK.shape[1 + axis]):
            continue
        factor = (positions[-1] - positions[0]) / (len(positions) - 1) if len(positions) > 1 else 1.0
        if smooth and factor > 1:
            result = _blur(result, 1 + axis, sigma=np.sqrt(factor**2 - 1) / np.sqrt(8 * np.log(2)))
        result = _interpolate(result, 1 + axis, positions, extrapolate)
    return result


def resample_nearest(labels_CIJK: Tensor, affine: np.ndarray, shape: Sequence[int], onto: np.ndarray) -> Tensor:
    """Nearest neighbour of integer or boolean maps onto another grid with the same axes; same type, ``[C, *shape]``.

    Halfway between two voxels the one nearer to the middle of the axis is taken, so that a flipped map gives the
    flipped result; halfway between the two middle ones the upper. Beyond the edge the last voxel is repeated.
    Raises GeometryError if the grids' axes differ.
    """
    result = labels_CIJK
    for axis, positions in enumerate(_positions(affine, shape, onto)):
        size = labels_CIJK.shape[1 + axis]
        if _same(positions, size):
            continue
        nearest = np.where(positions <= (size - 1) / 2, np.floor(positions + 0.5), np.ceil(positions - 0.5))
        result = result.index_select(1 + axis, torch.from_numpy(np.clip(nearest, 0, size - 1).astype(np.int64)))
    return result


def _positions(affine: np.ndarray, shape: Sequence[int], onto: np.ndarray) -> list[np.ndarray]:
    """Where the wanted grid's voxels lie on the image's axes, in voxels of the image; one float64 array an axis."""
    between = np.linalg.solve(affine, onto)
    scale = np.diag(between)[:3]
    if np.abs(between[:3, :3] - np.diag(scale)).max() > 1e-6 or scale.min() <= 0:
        raise GeometryError("The two grids do not have the same axes.", remedy="Resample between grids of one scan only.")
    return [np.round(between[axis, 3] + scale[axis] * np.arange(size), PLACES) for axis, size in enumerate(shape)]


def _same(positions: np.ndarray, size: int) -> bool:
    return len(positions) == size and np.abs(positions - np.arange(size)).max() < 1e-6


def _interpolate(x: Tensor, dim: int, positions: np.ndarray, extrapolate: bool) -> Tensor:
    size = x.shape[dim]
    lower = np.clip(np.floor(positions), 0, max(size - 2, 0)).astype(np.int64)
    weight = positions - lower if extrapolate else np.clip(positions - lower, 0, 1)
    upper = np.minimum(lower + 1, size - 1)
    column = [1] * x.ndim
    column[dim] = -1
    first = x.index_select(dim, torch.from_numpy(lower))
    second = x.index_select(dim, torch.from_numpy(upper))
    return torch.lerp(first, second, torch.from_numpy(weight).to(x.dtype).reshape(column))


def _blur(x: Tensor, dim: int, sigma: float) -> Tensor:
    """Gaussian along one axis; the border is reflected in the value too, so that a ramp stays a ramp."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    widths = [(0, 0)] * x.ndim
    widths[dim] = (radius, radius)
    mode = {"mode": "reflect", "reflect_type": "odd"} if x.shape[dim] > 1 else {"mode": "edge"}
    padded = torch.from_numpy(np.pad(x.numpy(), widths, **mode))  # type: ignore[call-overload]
    result = torch.zeros_like(x)
    for place, value in enumerate(kernel / kernel.sum()):
        result += float(value) * padded.narrow(dim, place, x.shape[dim])
    return result
