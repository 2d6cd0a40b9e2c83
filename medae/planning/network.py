"""The rules of the network's shape, and the patches that go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medae.errors import ConfigError
from medae.plan import Foreground, NetworkPlan
from medae.planning.facts import Fingerprint
from medae.planning.hints import PlanHints
from medae.planning.strides import WIDE, strides_for, total_strides

MOST_LEVELS = 6
FEWEST_LEVELS = 2
FIRST_WIDTH = 32
LARGEST_WIDTH = {2: 512, 3: 320}


@dataclass(frozen=True)
class Draft:
    """A network and the patch that it is made for."""

    network: NetworkPlan
    patch: tuple[int, ...]

    @property
    def voxels(self) -> int:
        """Of the patch."""
        return math.prod(self.patch)


def median_sizes(
    found: Fingerprint, steps: Sequence[float | None], axes: Sequence[int], rule: Foreground
) -> tuple[int, ...]:
    """Voxels of the plan's spacing of the median case along some axes, inside the box that scans are cropped to."""
    shapes = found.shapes if rule == "all" else found.boxes
    pairs = list(zip(shapes, found.spacings, strict=True))
    sizes = []
    for axis in axes:
        step = steps[axis]
        voxels = [shape[axis] if step is None else shape[axis] * spacing[axis] / step for shape, spacing in pairs]
        sizes.append(max(round(float(np.median(voxels))), 1))
    return tuple(sizes)


def draft(target: Sequence[int], sizes: Sequence[int], pitch: Sequence[float | None], hints: PlanHints) -> Draft:
    """The network for patches of about the target's voxels, and the patch that fits its strides; a given one as it is.

    sizes: of the median case. pitch: mm. Where the target is smaller than the case it is rounded down to a multiple of the
    total stride, elsewhere up. Raises ConfigError for hints that do not fit each other or the patch.
    """
    network = network_for(target, pitch, hints)
    if hints.patch is not None:
        return Draft(network, hints.patch)
    triples = zip(target, sizes, total_strides(network.strides), strict=True)
    return Draft(
        network,
        tuple((size // total if size < whole else math.ceil(size / total)) * total for size, whole, total in triples),
    )


def network_for(patch: Sequence[int], pitch: Sequence[float | None], hints: PlanHints) -> NetworkPlan:
    """As many levels as the patch allows, or as were asked for. Raises ConfigError for hints that do not fit."""
    dims = len(pitch)
    if len(patch) != dims:
        raise ConfigError(
            f"A patch of {len(patch)} entries was given for {dims} spatial dimensions.",
            where="patch",
            remedy=f"Give {dims} entries.",
        )
    if hints.levels and hints.widths and hints.levels != len(hints.widths):
        raise ConfigError(
            f"{hints.levels} levels and {len(hints.widths)} widths were given.",
            where="levels",
            remedy="Give one width a level, or leave one of the two out.",
        )
    stem: Literal["plain", "space_to_depth"] = hints.stem or "plain"
    wanted = len(hints.widths) if hints.widths else hints.levels
    strides, kernels = strides_for(patch, pitch, wanted or MOST_LEVELS, stem)
    if hints.kernel is not None:
        kernels = tuple(tuple(hints.kernel if size == WIDE else size for size in kernel) for kernel in kernels)
    if wanted and len(strides) < wanted:
        raise ConfigError(
            f"A patch of {'x'.join(map(str, patch))} allows {len(strides)} levels, and {wanted} were asked for.",
            where="levels",
            remedy="Ask for fewer levels or a larger patch: a pooled axis keeps at least 4 voxels.",
        )
    return NetworkPlan(
        stem=stem,
        widths=hints.widths or tuple(min(FIRST_WIDTH * 2**level, LARGEST_WIDTH[dims]) for level in range(len(strides))),
        strides=strides,
        kernels=kernels,
        downsampling=hints.downsampling or "strided",
    )


def network_reasons(network: NetworkPlan, pitch: Sequence[float | None], hints: PlanHints) -> dict[str, str]:
    """By key of the network."""
    totals = total_strides(network.strides)
    whole = [axis for axis, total in zip("IJK" if len(pitch) == 3 else "12", totals, strict=True) if total == 1]
    strides = "an axis is halved while 4 voxels remain and while it is less than twice as coarse as the finest"
    if whole:
        strides += f"; never halved: {', '.join(whole)}"
    rules = {
        "stem": (hints.stem, "plain keeps the finest detail; space_to_depth is faster"),
        "downsampling": (hints.downsampling, "strided; SegNet and max-unpooling decoders need maxpool"),
        "widths": (hints.widths, f"{FIRST_WIDTH}, doubled with every level, at most {LARGEST_WIDTH[len(pitch)]}"),
        "strides": (None, strides),
        "kernels": (hints.kernel, "3, but 1 along axes that are over twice as coarse as the finest"),
    }
    return {key: reason if hint is None else "given" for key, (hint, reason) in rules.items()}


def cut_to_edge(sizes: Sequence[int], pitch: Sequence[float], edge: float) -> tuple[int, ...]:
    """The sizes, each cut to an edge in mm."""
    return tuple(max(min(size, int(edge / step + 1e-9)), 1) for size, step in zip(sizes, pitch, strict=True))


def largest_cube(sizes: Sequence[int], pitch: Sequence[float], voxels: int) -> tuple[int, ...]:
    """The sizes, if need be cut to the edge (mm) of the largest cube with which the patch has at most so many voxels."""
    if math.prod(sizes) <= voxels:
        return tuple(sizes)
    fits, too_large = 0.0, max(size * step for size, step in zip(sizes, pitch, strict=True))
    while too_large - fits > min(pitch) / 4:
        edge = (fits + too_large) / 2
        fits, too_large = (edge, too_large) if math.prod(cut_to_edge(sizes, pitch, edge)) <= voxels else (fits, edge)
    return cut_to_edge(sizes, pitch, fits)


def drafts(sizes: Sequence[int], pitch: Sequence[float | None], hints: PlanHints) -> list[Draft]:
    """The largest first: the median case whole, then each time its longest edge (mm) shorter by one cell of the bottleneck.

    Without those that the hints do not allow and those that leave no level to pool to. A given patch is the only one.
    Source: nnU-Net shortens its patches in this way too, but relative to the median case instead of in mm.
    """
    if hints.patch is not None:
        return [draft(hints.patch, sizes, pitch, hints)]
    found = [draft(sizes, sizes, pitch, hints)]
    while True:
        patch, totals = found[-1].patch, total_strides(found[-1].network.strides)
        longest = max(range(len(sizes)), key=lambda axis: patch[axis] * (pitch[axis] or 1.0))
        shorter = [size - (totals[axis] if axis == longest else 0) for axis, size in enumerate(patch)]
        if min(shorter) < 1:
            break
        target = [min(size, whole) for size, whole in zip(shorter, sizes, strict=True)]
        try:
            made = draft(target, sizes, pitch, hints)
        except ConfigError:  # too small for the levels or the stem that were asked for
            break
        if len(made.network.strides) < FEWEST_LEVELS or made.voxels >= found[-1].voxels:
            break
        found.append(made)
    return found
