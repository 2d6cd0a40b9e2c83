"""Figures of augmentation: patches as they were drawn and as training sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medae.report.colours import label_colour
from medae.report.figures_segmentation import label_colours
from medae.report.figures_training import as_volumes
from medae.report.mosaic import Mosaic, Panel, Row, draw, windows_of
from medae.report.planes import CONVENTION, Cut, Scene


@dataclass(frozen=True)
class Patches:
    """Patches in nearest-RAS axes. images: float ``[N, *S]``; labels: integers of the same shape, 0 is not outlined.

    turned: they may be mirrored or turned, so that their sides are not those of the body and are not marked.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    turned: bool = False


def augmented_patches(
    rows: Mapping[str, Patches],
    path: Path,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slice_axis: int | None = None,
    names: Mapping[int, str] | None = None,
) -> Path:
    """The same patches below each other, a row for each of what was done to them; the middle slices, labels outlined.

    rows: by title; grey values have the window of the first row's patch throughout, so that a change of brightness
    shows. spacing, slice_axis: as in `reconstruction_grid`. names: label value -> name, for the legend.
    """
    first = next(iter(rows.values()))
    cut = middle_cut(first.images[0], spacing, slice_axis)
    windows = windows_of([image_slice(image, cut) for image in first.images])
    drawn = []
    for title, patches in rows.items():
        labels = [None] * len(patches.images) if patches.labels is None else patches.labels
        panels = [
            patch_panel(image, label, cut, limits, marked=not patches.turned)
            for image, label, limits in zip(patches.images, labels, windows, strict=True)
        ]
        drawn.append(Row(panels, title=title))
    note = f"{cut.name.capitalize()} slices through the middle. {CONVENTION}"
    if any(patches.turned for patches in rows.values()):
        note += " Patches without marks may be mirrored."
    return draw(Mosaic(drawn, legend=label_colours(names or {}), note=note), path)


def middle_cut(image: np.ndarray, spacing: tuple[float, float, float], slice_axis: int | None) -> Cut:
    """The slice through the middle of a patch ``[*S]``: across slice_axis, axial if there is none."""
    axis = 2 if slice_axis is None else slice_axis
    size = image.shape[axis] if image.ndim == 3 else 1
    return Scene(np.diag([*spacing, 1.0])).cut(axis, size // 2)


def image_slice(image: np.ndarray, cut: Cut) -> np.ndarray:
    """The slice of a patch ``[*S]``, as it is shown."""
    return cut.of(as_volumes(image[None], cut.axis)[0])


def patch_panel(
    image: np.ndarray,
    labels: np.ndarray | None,
    cut: Cut,
    limits: tuple[float, float],
    title: str = "",
    *,
    marked: bool = True,
) -> Panel:
    """A slice of a patch with its labels outlined. limits: the values shown black and white. marked: with its sides."""
    grey = image_slice(image, cut)
    values = [] if labels is None else [int(value) for value in np.unique(labels) if value > 0]
    outlines = [(image_slice(labels == value, cut), label_colour(value)) for value in values if labels is not None]
    size = cut.size_mm(as_volumes(image[None], cut.axis)[0].shape)
    return Panel(grey, limits, size, title, cut.marks if marked else None, outlines=outlines)
