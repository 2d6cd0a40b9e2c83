"""Figures of a segmentation: overlays, chosen cases, and Dice by arm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from scipy import stats

from medae.errors import DataError
from medae.report import canvas
from medae.report.colours import label_colour
from medae.report.mosaic import Mosaic, Panel, Row, draw, window
from medae.report.planes import CONVENTION, Cut, Scene


@dataclass(frozen=True)
class OverlayCase:
    """A scan and its label maps, all three-axis arrays on the file's grid.

    labels: by name, such as ``reference`` and ``prediction``, integer maps with 0 as background. affine: 4x4, file
    voxel to world mm. slice_axis: nearest-RAS axis across which the slices lie when they are far apart or of unknown
    spacing: three of them are shown; otherwise axial, coronal and sagittal.
    """

    title: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    affine: np.ndarray
    detail: str = ""
    slice_axis: int | None = None


def overlay(case: OverlayCase, path: Path, names: Mapping[int, str]) -> Path:
    """One scan: a row for the bare image, and one for each label map over it. names: label value -> name."""
    scene, cuts, levels = _stage(case)
    rows = [Row([_panel(scene, cut, case.image, levels, title=_heading(case, cut)) for cut in cuts], title="Image")]
    for name, labels in case.labels.items():
        rows.append(Row([_panel(scene, cut, case.image, levels, labels, names) for cut in cuts], title=name.capitalize()))
    return draw(Mosaic(rows, title=case.title, legend=label_colours(names), note=CONVENTION), path)


def case_overlays(cases: Sequence[OverlayCase], path: Path, names: Mapping[int, str], title: str = "") -> Path:
    """A row a case, its label maps side by side in the same slices; titles carry name and score."""
    rows = []
    for case in cases:
        scene, cuts, levels = _stage(case)
        panels = [
            _panel(scene, cut, case.image, levels, labels, names, title=f"{name} · {_heading(case, cut)}")
            for name, labels in case.labels.items()
            for cut in cuts
        ]
        rows.append(Row(panels, title=case.title, detail=case.detail))
    return draw(Mosaic(rows, title=title, legend=label_colours(names), note=CONVENTION), path)


def best_median_worst(scores: Mapping[str, float]) -> dict[str, str]:
    """``Best``, ``Median`` and ``Worst`` -> case id; fewer entries if there are fewer cases. Ties go by id."""
    if not scores:
        raise DataError("No case has a score to choose by.", remedy="Score at least one case.")
    ranked = sorted(scores, key=lambda case: (scores[case], case))
    places = {"Best": len(ranked) - 1, "Median": len(ranked) // 2, "Worst": 0}
    chosen: dict[str, str] = {}
    for name, place in places.items():
        if ranked[place] not in chosen.values():
            chosen[name] = ranked[place]
    return chosen


def label_colours(names: Mapping[int, str]) -> dict[str, str]:
    """Label name -> colour, background left out; the same label value has the same colour in every figure."""
    return {name: label_colour(value) for value, name in sorted(names.items()) if value != 0}


def dice_strip(
    arms: Mapping[str, Mapping[str, float]],
    path: Path,
    *,
    reference: str | None = None,
    measure: str = "Dice",
    title: str = "",
) -> Path:
    """Every case of every arm as a point, the same case joined by a line; beside it the differences to one arm.

    arms: arm -> case -> value. reference: the arm that the others are compared with; the first unless given. It stands at
    the left, the others follow in their order. Diamond and bar: mean and its 95 % confidence interval over cases (Student's
    t), also below the name. Lines are drawn where both neighbours have the case: green where the right one is above the
    reference, red where it is below. Raises DataError if an arm has no case.
    """
    for arm, values in arms.items():
        if not values:
            raise DataError(f"The arm '{arm}' has no case.", remedy="Leave it out or evaluate it.")
    base = next(iter(arms)) if reference is None else reference
    others = [name for name in arms if name != base]
    names = [base, *others]
    figure = canvas.chart(1.6 + 1.7 * len(names) + (1.2 + 1.7 * len(others) if others else 0), 5.0)
    grid = figure.add_gridspec(1, 2 if others else 1, width_ratios=[len(names), max(len(others), 0.8)] if others else [1])
    axes = figure.add_subplot(grid[0])
    canvas.tidy(axes, title or f"{measure} of every case", y=measure)
    colours = {name: canvas.SERIES[place % len(canvas.SERIES)] for place, name in enumerate(arms)}
    places = [_strip(axes, place, arms[name], colours[name]) for place, name in enumerate(names)]
    for left, right in itertools.pairwise(places):
        _join(axes, left, right, arms[base])
    _categories(axes, [f"{name}\n{_mean_in_words(arms[name])}\nn = {len(arms[name])}" for name in names])
    note = "Diamond, ±: mean and 95 % interval over cases."
    if others:
        compared = others[0] if len(others) == 1 else "the arm at the right end"
        note += f" Lines join a case:\ngreen where {compared} is above {base}, red where it is below."
        beside = figure.add_subplot(grid[1])
        canvas.tidy(beside, f"Against {base}", y=f"difference in {measure}, same case")
        beside.axhline(0, color=canvas.MUTED, linewidth=1)
        changes = {
            name: {case: value - arms[base][case] for case, value in arms[name].items() if case in arms[base]}
            for name in others
        }
        for place, name in enumerate(others):
            _strip(beside, place, changes[name], colours[name])
        _categories(beside, [f"{name}\n{_mean_in_words(changes[name], signed=True)}" for name in others])
    canvas.tighten(figure, pad=1.2, w_pad=2.5, rect=(0, 0.08, 1, 1))
    figure.text(0.02, 0.02, note, fontsize=8, color=canvas.MUTED)
    return canvas.save(figure, path)


def _stage(case: OverlayCase) -> tuple[Scene, list[Cut], tuple[float, float]]:
    scene = Scene(case.affine)
    maps = list(case.labels.values())
    interest = scene.ras(maps[0] != 0) if maps and np.any(maps[0]) else scene.ras(np.zeros(case.image.shape, dtype=bool))
    cuts = scene.orthogonal(interest) if case.slice_axis is None else scene.through(interest, case.slice_axis)
    return scene, cuts, window(case.image)


def _heading(case: OverlayCase, cut: Cut) -> str:
    return cut.name if case.slice_axis is None else f"slice {cut.index + 1}"


def _panel(
    scene: Scene,
    cut: Cut,
    image: np.ndarray,
    levels: tuple[float, float],
    labels: np.ndarray | None = None,
    names: Iterable[int] = (),
    title: str = "",
) -> Panel:
    image_IJK = scene.ras(image)
    fills = []
    if labels is not None:
        shown = cut.of(scene.ras(labels))
        fills = [(shown == value, label_colour(value)) for value in sorted(names) if value != 0]
    return Panel(cut.of(image_IJK), levels, cut.size_mm(image_IJK.shape), title, cut.marks, fills=fills)


Points = dict[str, tuple[float, float]]
"""Where the dot of each case is."""

SIDES = ((5, "left"), (-5, "right"), (0, "center"))
HEIGHTS = ((0, "center_baseline"), (-6, "top"), (6, "bottom"), (-16, "top"), (16, "bottom"))
"""Where a name may stand beside its point, in points, and what of it stands there; the nearest first."""


def reliability_diagram(arms: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Share of right labels against confidence. arms: by name, ``bins`` (confidence, share right, voxels) and ``error``."""
    figure = canvas.chart(5.2, 4.6)
    axes = figure.add_subplot()
    canvas.tidy(axes, "Confidence and truth", x="confidence in the label", y="share of right labels")
    axes.plot([0, 1], [0, 1], color=canvas.MUTED, linewidth=0.8, linestyle="--")
    for place, (arm, found) in enumerate(arms.items()):
        sure, right, counts = (np.array(values) for values in zip(*found["bins"], strict=True))
        colour = canvas.SERIES[place % len(canvas.SERIES)]
        axes.plot(sure, right, color=colour, linewidth=1.4, label=f"{arm}, error {found['error']:.3f}")
        axes.scatter(sure, right, s=10 + 110 * counts / counts.sum(), color=colour, zorder=3)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, loc="upper left", title="points: by their number of voxels", title_fontsize=7)
    return canvas.save(figure, path)


def dice_by_volume(labels: Mapping[str, Mapping[str, tuple[float, float]]], path: Path) -> Path:
    """A point a case and label: volume of the reference (ml, logarithmic over more than a decade) and Dice.

    labels: label -> case -> (volume above 0, Dice). The lowest case of each label is named where there is room, in the
    label's colour.
    """
    figure = canvas.chart(7.6, 4.4)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.add_subplot()
    canvas.tidy(axes, "Dice and size", x="volume of the reference (ml)", y="Dice")
    for place, (label, cases) in enumerate(labels.items()):
        volumes, dice = zip(*cases.values(), strict=True)
        axes.scatter(volumes, dice, s=16, color=label_colour(place + 1), edgecolor=canvas.INK, linewidth=0.3, label=label)
    points = [point for cases in labels.values() for point in cases.values()]
    if points:
        every, heights = zip(*points, strict=True)
        if max(every) > 10 * min(every):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(every) < 1000 * min(every) else (1,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        room = max(0.12 * (max(heights) - min(heights)), 0.03)
        axes.set_ylim(max(min(heights) - room, -0.02), min(max(heights) + room, 1.02))
        look: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": canvas.INK}
        figure.legend(loc="outside right upper", ncols=1 + len(labels) // 24, **look)
        canvas.plain(figure)
        figure.draw_without_rendering()  # so that places on the page are known
        _name_lowest(axes, labels, 5 * figure.dpi / 72)
    return canvas.save(figure, path)


def _name_lowest(axes: Axes, labels: Mapping[str, Mapping[str, tuple[float, float]]], reach: float) -> None:
    """Write the name of each label's lowest case beside its point, the lowest first, clear of all points and names.

    reach: what names keep away from the middle of a point, in pixels.
    """
    centres = axes.transData.transform([point for cases in labels.values() for point in cases.values()])
    taken = [Bbox([(x - reach, y - reach), (x + reach, y + reach)]) for x, y in centres]
    lowest = [
        (*min((dice, case, volume) for case, (volume, dice) in cases.items()), label_colour(place + 1))
        for place, cases in enumerate(labels.values())
    ]
    for dice, name, volume, bright in sorted(lowest):
        look: dict[str, Any] = {"fontsize": 7, "color": tuple(0.6 * part for part in to_rgb(bright))}  # for white paper
        line = {"arrowstyle": "-", "color": look["color"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        for (x, across), (y, up) in itertools.product(SIDES, HEIGHTS):
            where: dict[str, Any] = {"xytext": (x, y), "textcoords": "offset points", "parse_math": False}
            text = axes.annotate(name, (volume, dice), ha=across, va=up, **where, **look)
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                axes.annotate("", (volume, dice), arrowprops=line, **where).set_in_layout(False)
                break
            text.remove()


def _strip(axes: Axes, place: int, values: Mapping[str, float], colour: str) -> Points:
    """Dots spread sideways in a fixed pattern, mean with interval beside them; returns where the dots are."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    points = {case: (place + 0.09 * math.sin(2.4 * rank), value) for rank, (case, value) in enumerate(ordered)}
    if points:
        across, up = zip(*points.values(), strict=True)
        axes.scatter(across, up, s=17, color=colour, alpha=0.65, linewidths=0, zorder=2)
        mean, half = _mean(values)
        if half is not None:
            axes.errorbar(place - 0.24, mean, yerr=half, color=canvas.INK, linewidth=1.6, capsize=3, zorder=3)
        axes.scatter(place - 0.24, mean, marker="D", s=34, color=colour, edgecolors=canvas.INK, linewidths=1, zorder=4)
    return points


def _join(axes: Axes, left: Points, right: Points, base: Mapping[str, float]) -> None:
    """A line from each case's dot to its dot in the next arm, coloured by how that one differs from the base."""
    for case in sorted(left.keys() & right.keys()):
        change = right[case][1] - base.get(case, right[case][1])
        colour = canvas.SERIES[2] if change > 0 else canvas.SERIES[5] if change < 0 else canvas.MUTED
        axes.plot(*zip(left[case], right[case], strict=True), color=colour, alpha=0.28, linewidth=0.9, zorder=1)


def _mean(values: Mapping[str, float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % interval (Student's t); None for one case."""
    found = np.array(list(values.values()), dtype=float)
    if found.size < 2:
        return float(found.mean()), None
    return float(found.mean()), float(stats.t.ppf(0.975, found.size - 1) * found.std(ddof=1) / np.sqrt(found.size))


def _mean_in_words(values: Mapping[str, float], signed: bool = False) -> str:
    if not values:
        return "no case in common"
    mean, half = _mean(values)
    return (f"{mean:+.3f}" if signed else f"{mean:.3f}") + ("" if half is None else f" ± {half:.3f}")


def _categories(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_xticks(range(len(labels)), labels, fontsize=9.5, color=canvas.INK)
    axes.set_xlim(-0.55, len(labels) - 0.55)
