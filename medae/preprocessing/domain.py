"""What the training scans of a model were like, so that a new scan that is unlike them is not taken for one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medae.config import Config
from medae.data.case import Manifest, Modality
from medae.volume import NativeGrid, spacing_of

if TYPE_CHECKING:
    from medae.preprocessing.store import Store

SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
"""Of the body, at the start and at the end of the nearest-RAS axes I, J, K."""

FOREGROUND = 0
"""In ``Domain.reached``, the foreground itself (the brain)."""

Range = tuple[float, float]


class Domain(Config):
    """Facts of the training scans, over all of them. Ranges are the lowest and the highest value.

    scans: how many. modalities: of their images. spacing: of the files' voxels, mm along I, J, K (right, anterior,
    superior). extent: of the foreground's box, mm along I, J, K. absent: channels that some of the scans lacked. reached: by
    label value, the sides of the image that the structure reached in some scan; 0 is the brain where the foreground is one.
    lowest: of CT, the 0.5th percentile of the foreground, HU (no lower than the plan's window); None of other images.
    """

    scans: int = Field(ge=1)
    modalities: tuple[Modality, ...]
    spacing: tuple[Range, Range, Range]
    extent: tuple[Range, Range, Range]
    absent: tuple[str, ...] = ()
    reached: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    lowest: Range | None = None

    def in_words(self) -> dict[str, str]:
        """In words, for a model card."""
        axes = ("left to right", "posterior to anterior", "inferior to superior")

        def shown(ranges: Iterable[Range], unit: str) -> str:
            return ", ".join(
                f"{shown_range(low, high)} {unit} {axis}" for (low, high), axis in zip(ranges, axes, strict=True)
            )

        return {
            "Scans": str(self.scans),
            "Modality": ", ".join(self.modalities),
            "Voxels": shown(self.spacing, "mm"),
            "Foreground": shown(self.extent, "mm"),
        }


def shown_range(low: float, high: float) -> str:
    """In three digits; one number where both are the same in these."""
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def domain_of(manifest: Manifest, store: Store, target: str | None = None) -> Domain:
    """Of the cases of a manifest, all in the store. target: the label map whose structures are followed."""
    spacings, extents, absent, reached = [], [], set[str](), dict[int, set[str]]()
    lowest, scheme = [], store.space.intensity
    for case in manifest.cases:
        entry = store[case.id]
        spacings.append(spacing_of(entry.native.ras()[1]))
        extents.append([size * step for size, step in zip(entry.shape, entry.spacing, strict=True)])
        if scheme.kind == "ct_window":
            inside = np.asarray(entry.image)[:, np.asarray(entry.mask[0])]
            lowest.append(float(np.percentile(inside, 0.5)) * scheme.std + scheme.mean)
        absent |= {name for name, there in zip(store.space.channels, entry.present, strict=True) if not there}
        if target is not None and target in entry.targets:
            for label, sides in sides_reached(entry.targets[target][0], entry.native).items():
                reached.setdefault(label, set()).update(sides)
        if store.space.foreground == "brain":
            brain = sides_reached(entry.mask[0].astype(np.int16), entry.native)
            reached.setdefault(FOREGROUND, set()).update(brain.get(1, ()))
    i, j, k = (_range(values) for values in np.transpose(spacings))
    i_mm, j_mm, k_mm = (_range(values) for values in np.transpose(extents))
    used = (ref for case in manifest.cases for name, ref in case.images.items() if name in store.space.channels)
    return Domain(
        scans=len(manifest.cases),
        modalities=tuple(sorted({ref.modality for ref in used})),
        spacing=(i, j, k),
        extent=(i_mm, j_mm, k_mm),
        absent=tuple(name for name in store.space.channels if name in absent),
        reached={label: tuple(sorted(sides)) for label, sides in sorted(reached.items())},
        lowest=_range(lowest) if lowest else None,
    )


def sides_reached(labels_IJK: np.ndarray, native: NativeGrid) -> dict[int, tuple[str, ...]]:
    """By label value, the sides of the whole image that its voxels reach; labels that are there and reach none included.

    labels: on the plan's grid, which covers the crop of ``native``.
    """
    shape = native.ras()[0]
    crop = native.crop or tuple((0, size) for size in shape)
    found: dict[int, list[str]] = {int(label): [] for label in np.unique(labels_IJK) if label > 0}
    for axis, (start, stop) in enumerate(crop):
        for side, at_edge, place in ((0, start == 0, 0), (1, stop == shape[axis], -1)):
            if at_edge:
                for label in np.unique(np.take(labels_IJK, place, axis=axis)):
                    if label > 0:
                        found[int(label)].append(SIDES[axis][side])
    return {label: tuple(sides) for label, sides in found.items()}


def _range(values: Iterable[float]) -> Range:
    known = [round(float(value), 3) for value in values]
    return min(known), max(known)


def named(labels: Mapping[int, str], label: int) -> str:
    """What a label is called in a sentence."""
    return "The brain" if label == FOREGROUND else f"'{labels.get(label, label)}'"
