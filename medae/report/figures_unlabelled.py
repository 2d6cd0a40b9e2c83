"""What a mean teacher and its student saw and said of unlabelled patches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medae.report.colours import label_colour
from medae.report.figures_segmentation import label_colours
from medae.report.figures_training import MOST_SAMPLES, as_volumes
from medae.report.mosaic import Heat, Mosaic, Panel, Row, draw, windows_of
from medae.report.planes import CONVENTION, Scene, largest_slice

TALLEST = 1.7
"""Inches of a row: five of them belong on one screen."""
LEAST_HIGH = 0.05
"""The brightest colour never stands for less: two that agree everywhere look so."""


def teacher_and_student(
    shown: Mapping[str, np.ndarray],
    path: Path,
    names: Mapping[int, str],
    *,
    threshold: float | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slice_axis: int | None = None,
) -> Path:
    """Unlabelled patches side by side; below each other what the teacher and the student saw and said.

    shown: ``teacher saw`` and ``student saw``, images ``[N, C, *S]`` of which the first channel is drawn; ``teacher said``
    and ``student said``, probabilities ``[N, K, *S]``; patches in nearest-RAS axes, at most 8. Labels are the likeliest
    classes; with ``threshold`` only the voxels of the teacher's that reach it, which are those that taught. The last row
    is half the summed difference of the probabilities: 0 where both agree, 1 where each is sure of another class; its
    brightest colour is the largest that is shown, as the bar says. In
    three dimensions the slice with most of the teacher's labels is drawn. names: label value -> name. spacing: mm along
    I, J, K.
    """
    axis = 2 if slice_axis is None else slice_axis
    images = {who: as_volumes(shown[f"{who} saw"][:MOST_SAMPLES, 0], axis) for who in ("teacher", "student")}
    chances = {who: shown[f"{who} said"][:MOST_SAMPLES] for who in ("teacher", "student")}
    labels = {who: as_volumes(chance.argmax(axis=1), axis) for who, chance in chances.items()}
    if threshold is not None:
        labels["teacher"] = np.where(as_volumes(chances["teacher"].max(axis=1), axis) >= threshold, labels["teacher"], 0)
    apart = as_volumes(np.abs(chances["teacher"] - chances["student"]).sum(axis=1) / 2, axis)
    scene = Scene(np.diag([*spacing, 1.0]))
    cuts = [scene.cut(axis, largest_slice(one != 0, axis)) for one in labels["teacher"]]
    high = max(LEAST_HIGH, *(float(cut.of(one).max()) for cut, one in zip(cuts, apart, strict=True)))
    rows = []
    for who in ("teacher", "student"):
        panels = []
        windows = windows_of([cut.of(image) for cut, image in zip(cuts, images[who], strict=True)])
        for cut, image, found, limits in zip(cuts, images[who], labels[who], windows, strict=True):
            said = cut.of(found)
            fills = [(said == value, label_colour(value)) for value in sorted(names) if value != 0]
            panels.append(Panel(cut.of(image), limits, cut.size_mm(image.shape), "", cut.marks, fills=fills))
        bare = [Panel(panel.grey, panel.window, panel.size_mm, "", panel.marks) for panel in panels]
        sure = "" if threshold is None or who == "student" else f", where its probability is at least {threshold:g}"
        rows += [Row(bare, title=f"{who.capitalize()} saw"), Row(panels, title=f"{who.capitalize()} said{sure}")]
    heat = [
        Panel(cut.of(one), (0.0, 1.0), cut.size_mm(one.shape), heat=Heat(cut.of(one), high, opaque=True))
        for cut, one in zip(cuts, apart, strict=True)
    ]
    rows.append(Row(heat, title="Difference"))
    bar = ("half the summed difference of the probabilities", 0.0, high)
    note = f"{cuts[0].name.capitalize()} slices. {CONVENTION}"
    return draw(Mosaic(rows, legend=label_colours(names), bar=bar, note=note, tallest=TALLEST), path)
