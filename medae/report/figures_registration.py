"""Labelled scans, the scans whose shapes they took, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medae.report.colours import label_colour
from medae.report.figures_segmentation import label_colours
from medae.report.mosaic import Mosaic, Panel, Row, draw, windows_of
from medae.report.planes import CONVENTION, Scene, largest_slice

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Example:
    """A labelled scan in another one's shape, all on nearest-RAS axes.

    names: of the labelled scan and of the other. images: ``[I, J, K]`` of the labelled scan, of the other, and of the
    deformed scan, which is on the other's grid. labels: integers, of the labelled and of the deformed scan. spacings: mm, of
    the labelled scan and of the other. detail: beside the deformed scan.
    """

    names: tuple[str, str]
    images: tuple[np.ndarray, np.ndarray, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]
    spacings: tuple[Triple, Triple]
    detail: str = ""


def deformed_cases(
    examples: Sequence[Example], path: Path, names: Mapping[int, str], *, slice_axis: int | None = None
) -> Path:
    """A row an example; each scan in the slice with most of its labels, the other scan in that of the deformed one.

    names: label value -> name. slice_axis: across the slices that are shown; None for axial ones.
    """
    axis = 2 if slice_axis is None else slice_axis
    rows = []
    for example in examples:
        before, shape, after = example.images
        scenes = (Scene(np.diag([*spacing, 1.0])) for spacing in example.spacings)
        places = (largest_slice(labels != 0, axis) for labels in example.labels)
        cuts = [scene.cut(axis, place) for scene, place in zip(scenes, places, strict=True)]
        shown = ((cuts[0], before, example.labels[0]), (cuts[1], shape, None), (cuts[1], after, example.labels[1]))
        titles = (f"{example.names[0]}, labelled", example.names[1], f"deformed, {example.detail}")
        windows = windows_of([cut.of(image) for cut, image, _ in shown])
        panels = []
        for (cut, image, labels), title, limits in zip(shown, titles, windows, strict=True):
            values = [] if labels is None else [value for value in sorted(names) if value != 0]
            outlines = [(cut.of(labels == value), label_colour(value)) for value in values if labels is not None]
            panels.append(Panel(cut.of(image), limits, cut.size_mm(image.shape), title, cut.marks, outlines=outlines))
        rows.append(Row(panels))
    note = f"{cuts[0].name.capitalize()} slices with most of the labels. {CONVENTION}" if examples else CONVENTION
    return draw(Mosaic(rows, legend=label_colours(names), note=note), path)
