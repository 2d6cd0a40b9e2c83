"""The rules of the space: dimensions, slice axis, spacing, foreground and intensity scheme."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from medae.errors import ConfigError
from medae.plan import CTWindow, Foreground, IntensityScheme, RobustZ, ZScore
from medae.planning.facts import Fingerprint
from medae.planning.hints import Choice, PlanHints, given

FEWEST_SLICES = 4
"""A median case with fewer voxels along an axis is a stack of slices rather than a volume."""

SLAB = 0.25
"""Share of the other axes' extent below which slices "as thick as the pixels are wide" are not believed."""

COARSE = 3.0
"""An axis this many times coarser than both others, with as many times fewer voxels, gets its own rule. Source: nnU-Net."""

COARSE_PERCENTILE = 10.0
"""Of the spacings along such an axis. Source: nnU-Net."""

HEAVY = 1.2
"""Tails (`Intensities.tails`) about midway between a normal and a Laplace distribution."""

Axis = Literal[0, 1, 2]
AXES: tuple[Axis, Axis, Axis] = (0, 1, 2)
Spacing = tuple[float | None, float | None, float | None]


def unknown_slice_axis(found: Fingerprint) -> Axis | None:
    """The axis whose slice spacing is not to be believed: written as that in the plane, for a field of view far flatter.

    Scans without a known slice distance are often written with 1 mm along every axis.
    """
    extent = found.median_extent
    axis = min(AXES, key=lambda axis: extent[axis])
    flat = extent[axis] < SLAB * min(extent[other] for other in AXES if other != axis)
    return axis if flat and found.anisotropy < 1.01 else None


def dimensions(found: Fingerprint, hints: PlanHints) -> Choice[Literal[2, 3]]:
    """Volumes, unless there are too few slices or nobody knows how far apart they are."""
    if hints.spatial_dims == 3 and hints.slice_axis is not None:
        raise ConfigError(
            "A slice axis was given for 3 spatial dimensions.", where="slice_axis", remedy="Leave out one of the two."
        )
    if hints.spatial_dims is not None:
        return given(hints.spatial_dims)
    if hints.slice_axis is not None:
        return Choice(2, "a slice axis was given")
    fewest = min(found.median_shape)
    if fewest < FEWEST_SLICES:
        return Choice(2, f"the median case has {fewest:g} voxels along its shortest axis, too few for 3D")
    unknown = unknown_slice_axis(found)
    if unknown is not None:
        extent = " x ".join(f"{each:.0f}" for each in found.median_extent)
        return Choice(
            2,
            f"slices: their distance is written as that of the pixels, which would make the field of view {extent} mm, so "
            "it is taken for unknown; if it is right, set spatial_dims=3",
        )
    return Choice(
        3,
        f"the median case has {fewest:g} voxels along its shortest axis, enough for 3D, which sees the neighbouring slices; "
        "spatial_dims=2 is the cheaper alternative",
    )


def slice_axis(found: Fingerprint, hints: PlanHints) -> Choice[Axis]:
    """For 2 dimensions."""
    if hints.slice_axis is not None:
        return given(hints.slice_axis)
    steps, shape = found.median_spacing, found.median_shape
    axis = max(AXES, key=lambda axis: (round(steps[axis], 3), -shape[axis], axis))
    return Choice(axis, "the axis with the largest spacing, of equal ones that with the fewest voxels")


def spacing(found: Fingerprint, hints: PlanHints, across: Axis | None) -> Choice[Spacing]:
    """The median, along a very coarse axis a finer one. across: the slice axis of a 2D plan, which keeps its spacing."""
    if hints.spacing is not None:
        return given(hints.spacing)
    median, shape = found.median_spacing, found.median_shape
    steps: list[float | None] = [round(step, 4) for step in median]
    spread = np.ptp(found.spacings, axis=0) / np.asarray(median)
    reason = "the spacing of all cases" if spread.max() < 0.01 else "the median of the cases along each axis"
    coarse = max(AXES, key=lambda axis: median[axis])
    others = [axis for axis in AXES if axis != coarse]
    fine = round(found.spacing_percentile(coarse, COARSE_PERCENTILE), 4)
    if across is not None:
        steps[across] = None
        reason += "; slices stay where they are"
    elif median[coarse] > COARSE * max(median[axis] for axis in others) and COARSE * shape[coarse] < min(
        shape[axis] for axis in others
    ):
        finer = max(fine, *(round(median[axis], 4) for axis in others))
        if finer < median[coarse]:
            steps[coarse] = finer
            reason += f"; but along the coarse axis the {COARSE_PERCENTILE:.0f}th percentile, so that few cases lose slices"
        else:
            reason += f"; {found.anisotropy:.1f} times as coarse along one axis as along another, and kept so"
    elif found.anisotropy >= 1.5:
        reason += f"; {found.anisotropy:.1f} times as coarse along one axis as along another, and kept so"
    return Choice((steps[0], steps[1], steps[2]), reason)


def foreground(found: Fingerprint, hints: PlanHints) -> Choice[Foreground]:
    """What most cases call for."""
    if hints.foreground is not None:
        return given(hints.foreground)
    rule, count = Counter(found.foreground).most_common(1)[0]
    why = {
        "all": "the images have no empty background",
        "nonzero": "the background has been set to 0",
        "head": "there is noisy air around the body; a simple head mask leaves it out",
    }
    return Choice(rule, f"{why[rule]} (in {count} of {len(found.foreground)} cases)")


def intensity(found: Fingerprint, hints: PlanHints) -> Choice[IntensityScheme]:
    """CT by one window for all, MR by each image's own statistics. Raises ConfigError for CT beside MR."""
    if hints.intensity is not None:
        return given(hints.intensity)
    channels = found.intensities.values()
    kinds = {channel.modality for channel in channels}
    how = "guessed from the values" if any(channel.guessed for channel in channels) else "declared"
    if kinds == {"MR"}:
        return _of_magnetic_resonance(found, how)
    if kinds != {"CT"}:
        raise ConfigError(
            f"The data set mixes CT and MR, which no one intensity scheme fits ({how}).",
            where="intensity",
            remedy="Split the data set, or give the intensity scheme.",
        )
    window = CTWindow(
        lower=round(min(channel.lower for channel in channels)),
        upper=round(max(channel.upper for channel in channels)),
        mean=round(float(np.mean([channel.mean for channel in channels])), 1),
        std=max(round(float(np.mean([channel.std for channel in channels])), 1), 1.0),
    )
    return Choice(window, f"CT ({how}): one window for all, percentiles 0.5 to 99.5 of the voxels above -1024 HU")


def _of_magnetic_resonance(found: Fingerprint, how: str) -> Choice[IntensityScheme]:
    reason = f"MR ({how}): its units differ from scan to scan, so each is scaled by itself"
    weights = [channel.heaviness for channel in found.intensities.values()]
    known = [weight for weight in weights if weight is not None]
    if not known or len(known) < len(weights):
        return Choice(ZScore(), reason)
    compared = f"standard deviation {max(known):.2f} times the scaled median absolute deviation"
    if max(known) > HEAVY:
        reason += f", by its median, which bright tissue moves less than the mean (heavy tails: {compared}, normal 1)"
        return Choice(RobustZ(), reason)
    return Choice(ZScore(), f"{reason}; by mean and deviation, as the tails are light ({compared}, normal 1)")
