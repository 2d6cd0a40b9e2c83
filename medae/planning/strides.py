"""Strides and kernels per axis and level: thin axes are not pooled, coarse axes wait for the fine ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medae.errors import ConfigError

Shapes = tuple[tuple[int, ...], ...]

SMALLEST_POOLED = 4
"""Voxels that a pooled axis keeps at the coarsest level."""

ANISOTROPY = 2.0
"""An axis this many times coarser than the finest is neither pooled nor convolved along."""


WIDE = 3
"""Of a kernel, along an axis that is convolved along."""


def strides_for(
    patch: Sequence[int],
    spacing: Sequence[float | None],
    levels: int,
    stem: Literal["plain", "space_to_depth"] = "plain",
) -> tuple[Shapes, Shapes]:
    """The strides and kernels of an encoder for patches of this size and spacing.

    patch: voxels along the spatial axes. spacing: mm along the same axes; None is unknown and counts as the finest
    known one. levels: at most so many, the finest included; fewer if nothing is left to pool. stem: with ``plain``
    the first level keeps the resolution, with ``space_to_depth`` the first level's stride is the unshuffle factor.

    An axis is halved while at least 4 voxels remain and while it is less than twice as coarse as the finest axis that
    can still be halved. A kernel is 3 along an axis, or 1 where neighbours are more than twice as far apart as along
    the finest axis, or where there is only one voxel; once 3 it stays 3 at the coarser levels.
    Returns (strides, kernels), one entry a level, finest first.
    Raises ConfigError for a patch that a space-to-depth stem cannot halve, and for sizes that are not positive.
    Source: the rule for anisotropic kernels follows Isensee et al. 2021 (nnU-Net), supplementary note 2.
    """
    _check(patch, spacing, levels)
    size = [float(extent) for extent in patch]
    finest = min((step for step in spacing if step is not None), default=1.0)
    pitch = [finest if step is None else float(step) for step in spacing]
    strides: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    kernel = _kernel(size, pitch, (1,) * len(size))
    for level in range(levels):
        stride = (1,) * len(size) if level == 0 and stem == "plain" else _pool(size, pitch)
        if max(stride) == 1 and (level > 0 or stem == "space_to_depth"):
            break
        size = [extent / factor for extent, factor in zip(size, stride, strict=True)]
        pitch = [step * factor for step, factor in zip(pitch, stride, strict=True)]
        kernel = _kernel(size, pitch, kernel)
        kernels.append(kernel)
        strides.append(stride)
    if not strides:
        raise ConfigError(
            f"A patch of {'x'.join(map(str, patch))} voxels is too small for a space-to-depth stem.",
            where="network.stem",
            remedy=f"Use the plain stem, or a patch of at least {2 * SMALLEST_POOLED} voxels along one axis.",
        )
    return tuple(strides), tuple(kernels)


def total_strides(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The product over the levels, an entry an axis: how many voxels the bottleneck's voxel stands for."""
    totals = [1] * len(strides[0])
    for stride in strides:
        totals = [total * factor for total, factor in zip(totals, stride, strict=True)]
    return tuple(totals)


def _pool(size: Sequence[float], pitch: Sequence[float]) -> tuple[int, ...]:
    halvable = [extent / 2 >= SMALLEST_POOLED for extent in size]
    finest = min((step for step, can in zip(pitch, halvable, strict=True) if can), default=0.0)
    return tuple(2 if can and step < ANISOTROPY * finest else 1 for step, can in zip(pitch, halvable, strict=True))


def _kernel(size: Sequence[float], pitch: Sequence[float], finer: Sequence[int]) -> tuple[int, ...]:
    near = ANISOTROPY * min(pitch)
    wide = [step < near or width == WIDE for step, width in zip(pitch, finer, strict=True)]
    return tuple(WIDE if extent > 1 and reaches else 1 for extent, reaches in zip(size, wide, strict=True))


def _check(patch: Sequence[int], spacing: Sequence[float | None], levels: int) -> None:
    if len(patch) != len(spacing) or len(patch) not in {2, 3}:
        raise ConfigError(
            f"The patch has {len(patch)} and the spacing {len(spacing)} entries.",
            where="sampling.patch",
            remedy="Give both the same number of entries, 2 or 3: one a spatial axis.",
        )
    if min(patch) < 1 or any(step is not None and step <= 0 for step in spacing) or levels < 1:
        raise ConfigError(
            f"Patch {tuple(patch)}, spacing {tuple(spacing)} and levels {levels} must be positive.",
            where="sampling.patch",
            remedy="Correct the plan or its hints.",
        )
