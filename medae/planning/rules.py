"""The rules that make a plan, each with its reason. A hint overrules the rule of the same name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medae.config import Config, validate
from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.plan import CTWindow, Foreground, IntensityScheme, NetworkPlan, Plan, SamplingPlan, SpacePlan, ZScore
from medae.planning.fingerprint import Fingerprint, fingerprint
from medae.planning.strides import Shapes, strides_for, total_strides

FEWEST_SLICES = 4
"""A median case with fewer voxels along an axis is a stack of slices rather than a volume."""

PATCH_VOXELS = {2: 512 * 512, 3: 128**3}
"""Largest patch by spatial dimensions: one sample of a 32-wide network then trains within about 10 GB."""

BATCH_VOXELS = 2**20
"""Voxels a step aims at, within the two limits on the number of samples."""

FEWEST_SAMPLES, MOST_SAMPLES = 2, 16

MOST_LEVELS = 6
FIRST_WIDTH = 32
LARGEST_WIDTH = {2: 512, 3: 320}


class PlanHints(Config):
    """What the user fixes; None leaves it to the rules.

    slice_axis: implies 2 spatial dimensions. spacing: mm along I, J, K, None within it keeps an axis as it is.
    widths: one entry a level. patch: along the spatial dimensions.
    """

    spatial_dims: Literal[2, 3] | None = None
    slice_axis: Literal[0, 1, 2] | None = None
    spacing: tuple[float | None, float | None, float | None] | None = None
    intensity: IntensityScheme | None = None
    foreground: Foreground | None = None
    stem: Literal["plain", "space_to_depth"] | None = None
    downsampling: Literal["strided", "maxpool"] | None = None
    levels: int | None = Field(default=None, ge=1)
    widths: tuple[int, ...] | None = Field(default=None, min_length=1)
    patch: tuple[int, ...] | None = Field(default=None, min_length=2, max_length=3)
    batch: int | None = Field(default=None, ge=1)


def make_plan(source: Manifest | Fingerprint, **hints: Any) -> Plan:
    """The plan for a data set, with the reason of every choice. hints: the fields of `PlanHints`.

    Raises ConfigError for hints that do not fit each other or the data, DataError for files that cannot be read.
    """
    given = validate(PlanHints, hints, where="plan hints")
    found = fingerprint(source) if isinstance(source, Manifest) else source
    return _Rules(found, given).plan()


class _Rules:
    """One method a choice; each leaves its reason."""

    def __init__(self, found: Fingerprint, hints: PlanHints) -> None:
        self.found = found
        self.hints = hints
        self.reasons: dict[str, str] = {}

    def plan(self) -> Plan:
        """Space first, then the patch, which the network is made for."""
        slice_axis = self._slice_axis()
        spacing = self._spacing(slice_axis)
        foreground = self._foreground()
        space = SpacePlan(
            spatial_dims=3 if slice_axis is None else 2,
            slice_axis=slice_axis,
            spacing=spacing,
            intensity=self._intensity(),
            foreground=foreground,
            channels=self.found.channels,
        )
        axes = [axis for axis in range(3) if axis != slice_axis]
        pitch = [spacing[axis] for axis in axes]
        sizes = [self._extent(axis, spacing[axis], foreground) for axis in axes]
        target = self.hints.patch or _largest_cube(sizes, [step or 1.0 for step in pitch], PATCH_VOXELS[len(axes)])
        network = self._network(target, pitch)
        patch = self._patch(target, sizes, network.strides)
        sampling = SamplingPlan(patch=patch, batch=self._batch(patch))
        return Plan(space=space, network=network, sampling=sampling, reasons=self.reasons)

    def _say(self, key: str, hint: object, reason: str) -> None:
        self.reasons[key] = reason if hint is None else "given"

    def _slice_axis(self) -> Literal[0, 1, 2] | None:
        hints, shape, steps = self.hints, self.found.median_shape, self.found.median_spacing
        if hints.spatial_dims == 3 and hints.slice_axis is not None:
            raise ConfigError(
                "A slice axis was given for 3 spatial dimensions.", where="slice_axis", remedy="Leave out one of the two."
            )
        asked = hints.spatial_dims or (2 if hints.slice_axis is not None else None)
        flat = min(shape) < FEWEST_SLICES if asked is None else asked == 2
        enough = "too few" if flat else "enough"
        reason = f"the median case has {min(shape):g} voxels along its shortest axis, {enough} for 3D"
        self._say("space.spatial_dims", asked, reason)
        if not flat:
            return None
        reason = "the axis with the largest spacing, of equal ones that with the fewest voxels"
        self._say("space.slice_axis", hints.slice_axis, reason)
        axes: list[Literal[0, 1, 2]] = [0, 1, 2] if hints.slice_axis is None else [hints.slice_axis]
        return max(axes, key=lambda axis: (round(steps[axis], 3), -shape[axis], axis))

    def _spacing(self, slice_axis: int | None) -> tuple[float | None, float | None, float | None]:
        if self.hints.spacing is not None:
            self.reasons["space.spacing"] = "given"
            return self.hints.spacing
        steps: list[float | None] = [round(step, 4) for step in self.found.median_spacing]
        spread = np.ptp(self.found.spacings, axis=0) / np.asarray(self.found.median_spacing)
        reason = "the spacing of all cases" if spread.max() < 0.01 else "the median of the cases along each axis"
        if self.found.anisotropy >= 1.5:
            reason += f"; {self.found.anisotropy:.1f} times as coarse along one axis as along another, and kept so"
        if slice_axis is not None:
            steps[slice_axis] = None
            reason += "; slices stay where they are"
        self.reasons["space.spacing"] = reason
        return steps[0], steps[1], steps[2]

    def _foreground(self) -> Foreground:
        if self.hints.foreground is not None:
            self.reasons["space.foreground"] = "given"
            return self.hints.foreground
        rule, count = Counter(self.found.foreground).most_common(1)[0]
        why = {
            "all": "the images have no empty background",
            "nonzero": "the background has been set to 0",
            "head": "there is noisy air around the body; a simple head mask leaves it out",
        }
        self.reasons["space.foreground"] = f"{why[rule]} (in {count} of {len(self.found.foreground)} cases)"
        return rule

    def _intensity(self) -> IntensityScheme:
        if self.hints.intensity is not None:
            self.reasons["space.intensity"] = "given"
            return self.hints.intensity
        channels = self.found.intensities.values()
        kinds = {channel.modality for channel in channels}
        how = "guessed from the values" if any(channel.guessed for channel in channels) else "declared"
        if kinds == {"MR"}:
            self.reasons["space.intensity"] = f"MR ({how}): its units differ from scan to scan, so each is scaled by itself"
            return ZScore()
        if kinds != {"CT"}:
            raise ConfigError(
                f"The data set mixes CT and MR, which no one intensity scheme fits ({how}).",
                where="intensity",
                remedy="Split the data set, or give the intensity scheme.",
            )
        self.reasons["space.intensity"] = (
            f"CT ({how}): one window for all, percentiles 0.5 to 99.5 of the voxels above -1024 HU"
        )
        return CTWindow(
            lower=round(min(channel.lower for channel in channels)),
            upper=round(max(channel.upper for channel in channels)),
            mean=round(float(np.mean([channel.mean for channel in channels])), 1),
            std=max(round(float(np.mean([channel.std for channel in channels])), 1), 1.0),
        )

    def _extent(self, axis: int, step: float | None, foreground: Foreground) -> int:
        """Voxels of the plan's spacing of the median case along an axis, inside the box that scans are cropped to."""
        shapes = self.found.shapes if foreground == "all" else self.found.boxes
        pairs = zip(shapes, self.found.spacings, strict=True)
        voxels = [shape[axis] if step is None else shape[axis] * spacing[axis] / step for shape, spacing in pairs]
        return max(round(float(np.median(voxels))), 1)

    def _network(self, patch: Sequence[int], pitch: Sequence[float | None]) -> NetworkPlan:
        hints, dims = self.hints, len(pitch)
        if len(patch) != dims:
            raise ConfigError(
                f"A patch of {len(patch)} entries was given for {dims} spatial dimensions.",
                where="patch",
                remedy=f"Give {dims} entries.",
            )
        stem, wanted = hints.stem or "plain", len(hints.widths) if hints.widths else hints.levels
        if hints.levels and hints.widths and hints.levels != len(hints.widths):
            raise ConfigError(
                f"{hints.levels} levels and {len(hints.widths)} widths were given.",
                where="levels",
                remedy="Give one width a level, or leave one of the two out.",
            )
        strides, kernels = strides_for(patch, pitch, wanted or MOST_LEVELS, stem)
        if wanted and len(strides) < wanted:
            raise ConfigError(
                f"A patch of {'x'.join(map(str, patch))} allows {len(strides)} levels, and {wanted} were asked for.",
                where="levels",
                remedy="Ask for fewer levels or a larger patch: a pooled axis keeps at least 4 voxels.",
            )
        largest = LARGEST_WIDTH[dims]
        widths = hints.widths or tuple(min(FIRST_WIDTH * 2**level, largest) for level in range(len(strides)))
        rule = "an axis is halved while 4 voxels remain and while it is less than twice as coarse as the finest"
        self._say("network.stem", hints.stem, "plain keeps the finest detail; space_to_depth is faster")
        self._say("network.downsampling", hints.downsampling, "strided; SegNet and max-unpooling decoders need maxpool")
        self._say("network.widths", hints.widths, f"{FIRST_WIDTH}, doubled with every level, at most {largest}")
        self._say("network.strides", None, rule)
        self._say("network.kernels", None, "3, but 1 along axes that are over twice as coarse as the finest")
        return NetworkPlan(
            stem=stem, widths=widths, strides=strides, kernels=kernels, downsampling=hints.downsampling or "strided"
        )

    def _patch(self, target: Sequence[int], sizes: Sequence[int], strides: Shapes) -> tuple[int, ...]:
        """Down to a multiple of the total stride where the scan is larger than the patch, up to one where it is not."""
        if self.hints.patch is not None:
            self.reasons["sampling.patch"] = "given"
            return self.hints.patch
        median = "x".join(map(str, sizes))
        reason = f"the median case has {median} voxels in the plan's space"
        if list(target) != list(sizes):
            reason += ", more than memory allows at once, so it is cut to one edge in mm"
        self.reasons["sampling.patch"] = f"{reason}; a multiple of the strides"
        return tuple(
            (size // total if size < whole else math.ceil(size / total)) * total
            for size, whole, total in zip(target, sizes, total_strides(strides), strict=True)
        )

    def _batch(self, patch: Sequence[int]) -> int:
        reason = f"about {BATCH_VOXELS // 10**6} million voxels a step, from {FEWEST_SAMPLES} to {MOST_SAMPLES} samples"
        self._say("sampling.batch", self.hints.batch, reason)
        if self.hints.batch is not None:
            return self.hints.batch
        return min(max(BATCH_VOXELS // math.prod(patch), FEWEST_SAMPLES), MOST_SAMPLES)


def _largest_cube(sizes: Sequence[int], pitch: Sequence[float], voxels: int) -> tuple[int, ...]:
    """The sizes, if need be cut to the edge (mm) of the largest cube with which the patch has at most so many voxels."""

    def cut(edge: float) -> tuple[int, ...]:
        return tuple(max(min(size, int(edge / step)), 1) for size, step in zip(sizes, pitch, strict=True))

    if math.prod(sizes) <= voxels:
        return tuple(sizes)
    fits, too_large = 0.0, max(size * step for size, step in zip(sizes, pitch, strict=True))
    while too_large - fits > min(pitch) / 4:
        edge = (fits + too_large) / 2
        fits, too_large = (edge, too_large) if math.prod(cut(edge)) <= voxels else (fits, edge)
    return cut(fits)
