"""What a person should look at before a training: nothing that the rules can decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from medae.plan import CTWindow, Plan
from medae.planning.facts import Fingerprint
from medae.planning.space import unknown_slice_axis

MIXED = 2.0
"""Largest over smallest spacing along an axis from which resampling changes some scans a lot."""

THIN_PERCENTILE = 10.0

RANGES = 20.0
"""Largest over smallest maximum of the scans from which they are not in one unit."""

FEW_VOXELS = 8.0
"""A piece with fewer voxels is about two a side: halved once, it is one."""

NARROW = 0.5
"""Share of the CT window from which on labels use enough of it."""


def notes_on(found: Fingerprint, plan: Plan, targets: Collection[str] | None = None) -> tuple[str, ...]:
    """Sentences. targets: whose labels are used; None for all."""
    if targets is not None:
        found = found.model_copy(update={"labels": {name: found.labels[name] for name in found.labels if name in targets}})
    parts = (_spacing, _padding, _intensities, _structures, _images)
    return tuple(note for part in parts for note in part(found, plan))


def _spacing(found: Fingerprint, plan: Plan) -> Iterator[str]:
    unknown = unknown_slice_axis(found)
    if unknown is not None:
        extent = "x".join(f"{each:.0f}" for each in found.median_extent)
        remedy = "" if plan.space.spatial_dims == 2 else " Consider slice_axis and a spacing of null along it."
        yield (
            f"The distance of the slices is probably not known: the spacing is written as equal along all axes, and the "
            f"median field of view would be {extent} mm.{remedy} Distances and volumes in mm mean nothing along that axis."
        )
    least, most = np.min(found.spacings, axis=0), np.max(found.spacings, axis=0)
    for axis, name in enumerate("IJK"):
        if most[axis] >= MIXED * least[axis] and plan.space.spacing[axis] is not None:
            yield (
                f"The spacing along {name} runs from {least[axis]:.3g} to {most[axis]:.3g} mm: the coarsest scans gain "
                "voxels that nobody measured, the finest lose detail."
            )


def _padding(found: Fingerprint, plan: Plan) -> Iterator[str]:
    axes = [axis for axis in range(3) if axis != plan.space.slice_axis]
    shapes = found.shapes if plan.space.foreground == "all" else found.boxes
    for axis, edge in zip(axes, plan.sampling.patch, strict=True):
        step = plan.space.spacing[axis]
        sizes = [
            shape[axis] * (1 if step is None else spacing[axis] / step)
            for shape, spacing in zip(shapes, found.spacings, strict=True)
        ]
        thin = float(np.percentile(sizes, THIN_PERCENTILE))
        if thin <= edge / 2:
            yield (
                f"A tenth of the cases have at most {thin:.0f} voxels along {'IJK'[axis]}, where the patch has {edge}: the "
                "rest of it is padding."
            )


def _intensities(found: Fingerprint, plan: Plan) -> Iterator[str]:
    for name, channel in found.intensities.items():
        highs = [high for _, high in channel.ranges]
        if channel.modality != "CT" and highs and max(highs) > RANGES * max(min(highs), 1e-6):
            eight = f", {channel.eight_bit} of {len(highs)} scans in 8 bits" if channel.eight_bit else ""
            yield (
                f"{name}: the scans' largest values run from {min(highs):,.4g} to {max(highs):,.6g}{eight}: they are not in "
                "one unit, which a scheme by each image's own statistics allows for."
            )
        scheme = plan.space.intensity
        if isinstance(scheme, CTWindow) and channel.labelled is not None:
            low, middle, high = channel.labelled
            if high - low < NARROW * (scheme.upper - scheme.lower):
                yield (
                    f"{name}: labelled voxels lie between {low:.0f} and {high:.0f} HU (median {middle:.0f}), a part of the "
                    "window. nnU-Net would take them for the window; medae's also serves scans without labels."
                )


def _structures(found: Fingerprint, plan: Plan) -> Iterator[str]:
    steps = [step or median for step, median in zip(plan.space.spacing, found.median_spacing, strict=True)]
    voxel = float(np.prod(steps))
    for target, structures in found.labels.items():
        small = [label for label, structure in structures.items() if structure.piece[0] < FEW_VOXELS * voxel]
        if small:
            some = ", ".join(map(str, small[:5])) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
            least = min(structures[label].piece[0] for label in small)
            yield (
                f"{target}: 5 % of the connected pieces of label {some} have fewer than {FEW_VOXELS:.0f} voxels of the "
                f"plan's spacing (down to {least:.3g} mm³): specks to check, or structures too small for this spacing."
            )
        read = max(structure.cases for structure in structures.values()) if structures else 0
        rare = [label for label, structure in structures.items() if structure.cases < read / 2]
        if rare:
            some = ", ".join(map(str, rare[:5])) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
            yield f"{target}: label {some} is in fewer than half as many cases as the most frequent one."


def _images(found: Fingerprint, plan: Plan) -> Iterator[str]:
    rule, count = Counter(found.foreground).most_common(1)[0]
    if count < len(found.foreground):
        others = ", ".join(sorted({each for each in found.foreground if each != rule}))
        yield f"Backgrounds differ: {count} of {len(found.foreground)} cases call for '{rule}', the others for '{others}'."
