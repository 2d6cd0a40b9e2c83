"""Figures of an anomaly detection: heat maps beside the truth, precision against recall, scan scores, lesion sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from medae.metrics.anomaly import ScanMetrics
from medae.metrics.lesions import SizeStratum
from medae.metrics.voxelscores import PrecisionRecall
from medae.report import canvas
from medae.report.mosaic import Heat, Mosaic, Panel, Row, draw, window
from medae.report.planes import CONVENTION, Scene, largest_slice

FOUND, INVENTED, MISSED, TRUTH, BRAIN = "#34d399", "#fb923c", "#f472b6", "#fbbf24", "#5b6b7c"

COMPARED, BASELINE = ((7, 1.6, 1.2, 1.6), (7, 1.6, 1.2, 1.6, 1.2, 1.6)), ((5, 1.8), (2, 1.2))
"""Dashes of curves; the second of each where colours come again."""

HEAT_RANGE = 2.0
"""The heat map's brightest colour, in calibrated thresholds."""


@dataclass(frozen=True)
class AnomalyCase:
    """A scan, its processed map and masks, all three-axis arrays on the file's grid, non-zero inside.

    prediction: the map at the calibrated threshold. truth: None if it is not known. affine: 4x4, file voxel to world
    mm. axis: the nearest-RAS axis across which the shown slice lies (2 is axial).
    """

    title: str
    image: np.ndarray
    heat: np.ndarray
    prediction: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    truth: np.ndarray | None = None
    detail: str = ""
    axis: int = 2


def heatmap_panels(
    cases: Sequence[AnomalyCase],
    path: Path,
    *,
    threshold: float,
    title: str = "",
    unit: str = "",
    mask_name: str = "brain mask",
) -> Path:
    """A row a case: image, heat map, flagged mask and truth, in the slice that holds most of the truth.

    Without truth: the slice with most flagged voxels. All maps share one colour scale, so that rows can be compared:
    from 0 to twice the calibrated threshold, at which a line is drawn; to their highest value where that threshold is not
    above 0. unit: of the map.
    """
    highest = _highest(cases, threshold)
    panels = [_panels(case, threshold, highest, first=place == 0) for place, case in enumerate(cases)]
    rows = [Row(each, case.title, case.detail) for each, case in zip(panels, cases, strict=True)]
    legend = {"flagged": INVENTED, mask_name: BRAIN}
    if any(case.truth is not None for case in cases):
        legend = {
            "flagged, lesion": FOUND,
            "flagged, no lesion": INVENTED,
            "missed lesion": MISSED,
            "truth": TRUTH,
            mask_name: BRAIN,
        }
    label = f"anomaly{f' ({unit})' if unit else ''}, line at the threshold {threshold:.3g}"
    return draw(Mosaic(rows, title=title, legend=legend, bar=(label, 0.0, highest), note=CONVENTION), path)


def precision_recall(
    curves: Mapping[str, PrecisionRecall],
    path: Path,
    *,
    operating: Mapping[str, tuple[float, float]] | None = None,
    baselines: Collection[str] = (),
    title: str = "Precision and recall of voxels, all scans pooled",
) -> Path:
    """Curves of the model, of the maps beside it and of the baselines over lines of equal Dice; the legend is beside them.

    curves: by row name, the model first: a thick line. baselines: names of rows whose lines are dashed; all others are
    dash-dotted. operating: row name -> (recall, precision) of its mask at the calibrated threshold, drawn as a point. The
    dotted line is that of a random map: it ends at the recall that the mask permits.
    """
    figure = canvas.chart(10, 5.2)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    axes = figure.add_subplot()
    canvas.tidy(axes, title, x="recall (lesion outside the mask counts as missed)", y="precision")
    top = _top(curves.values())
    _equal_dice(axes, top)
    for place, (name, curve) in enumerate(curves.items()):
        colour = canvas.SERIES[place % len(canvas.SERIES)]
        dashes = (BASELINE if name in baselines else COMPARED)[place // len(canvas.SERIES) % 2]
        look: dict[str, Any] = {"linewidth": 1.7, "linestyle": (0, dashes)} if place else {"linewidth": 3, "zorder": 3}
        label = f"{name}   AP {curve.average_precision:.3f}"
        axes.step(curve.recall, curve.precision, where="pre", color=colour, label=label, **look)
        if operating is not None and name in operating:
            axes.scatter(
                *operating[name], s=70, color=colour, edgecolors=canvas.PAPER, linewidths=1.5, zorder=5 if place else 6
            )
    if curves:
        first = next(iter(curves.values()))
        label, height = f"random map   AP {first.random:.3f}", 2 * [first.prevalence]
        axes.plot([0, first.reach], height, color=canvas.MUTED, linewidth=1, linestyle=":", label=label)
    if operating:
        axes.scatter([], [], s=50, color=canvas.MUTED, label="at the calibrated threshold")
    axes.set_xlim(0, 1.0)
    axes.set_ylim(0, top)
    look = {"frameon": False, "fontsize": 9, "labelcolor": canvas.INK, "handlelength": 3.6, "labelspacing": 0.7}
    figure.legend(loc="outside right upper", **look)
    return canvas.save(figure, path)


def scan_scores(rows: Mapping[str, Sequence[ScanMetrics]], path: Path) -> Path:
    """A panel a row name: each scan's score against its lesion volume; scans without a lesion are open circles."""
    figure = canvas.chart(0.6 + 4.0 * len(rows), 3.9)
    for place, (name, scans) in enumerate(rows.items()):
        axes = figure.add_subplot(1, len(rows), place + 1)
        canvas.tidy(axes, name.capitalize(), x="lesion volume (ml); open circle: no lesion", y="scan score")
        sick = np.array([(scan.lesion_ml, scan.score) for scan in scans if scan.has_lesion]).reshape(-1, 2)
        well = np.array([(0.0, scan.score) for scan in scans if not scan.has_lesion]).reshape(-1, 2)
        colour = canvas.SERIES[place % len(canvas.SERIES)]
        axes.set_xscale("symlog", linthresh=0.1)
        axes.scatter(sick[:, 0], sick[:, 1], s=46, color=colour, edgecolors=canvas.PAPER, linewidths=0.8, clip_on=False)
        axes.scatter(well[:, 0], well[:, 1], s=36, facecolors="none", edgecolors=canvas.MUTED, clip_on=False, zorder=3)
        axes.set_xlim(-0.03, 3 * sick[:, 0].max(initial=1.0))
        axes.set_ylim(bottom=0)
    canvas.tighten(figure, pad=1.2, w_pad=2)
    return canvas.save(figure, path)


def recall_by_lesion_size(
    rows: Mapping[str, Sequence[SizeStratum]], path: Path, *, title: str = "Lesions found, by size"
) -> Path:
    """Grouped bars: the share of lesions found in each stratum, a colour a row name, found / all above each bar."""
    figure = canvas.chart(7.4, 3.9)
    axes = figure.add_subplot()
    canvas.tidy(axes, title, y="share of lesions found")
    wide = 0.8 / max(1, len(rows))
    labels: list[str] = []
    for place, (name, strata) in enumerate(rows.items()):
        labels = [stratum.label for stratum in strata]
        colour = canvas.SERIES[place % len(canvas.SERIES)]
        places = np.arange(len(strata)) + (place - (len(rows) - 1) / 2) * wide
        axes.bar(places, [stratum.recall or 0.0 for stratum in strata], wide * 0.9, color=colour, label=name)
        for x, stratum in zip(places, strata, strict=True):
            text = f"{stratum.found}/{stratum.lesions}" if stratum.lesions else "none"
            axes.annotate(
                text,
                (x, stratum.recall or 0.0),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=canvas.MUTED,
            )
    axes.set_xticks(range(len(labels)), labels, fontsize=9.5, color=canvas.INK)
    axes.set_ylim(0, 1.12)
    axes.legend(frameon=False, fontsize=9, labelcolor=canvas.INK, ncols=len(rows), loc="lower right", bbox_to_anchor=(1, 1))
    canvas.tighten(figure, pad=1.2)
    return canvas.save(figure, path)


def _highest(cases: Sequence[AnomalyCase], threshold: float) -> float:
    """The value of the brightest colour. A threshold of 0 or below, which a map has that is 0 wherever it is normal, has no
    multiple that says anything."""
    return HEAT_RANGE * threshold if threshold > 0 else max(1e-6, *(float(case.heat.max()) for case in cases))


def _panels(case: AnomalyCase, threshold: float, highest: float, *, first: bool) -> list[Panel]:
    scene = Scene(case.affine, around=case.mask)
    image, heat, mask = scene.ras(case.image), scene.ras(case.heat), scene.ras(case.mask) != 0
    flagged = scene.ras(case.prediction) != 0
    truth = None if case.truth is None else scene.ras(case.truth) != 0
    cut = scene.cut(case.axis, largest_slice(truth if truth is not None and truth.any() else flagged, case.axis))

    def panel(title: str, **over: Any) -> Panel:
        titled = title if first else ""
        return Panel(cut.of(image), window(image, mask), cut.size_mm(image.shape), titled, cut.marks, **over)

    brain = (cut.of(mask), BRAIN)
    panels = [panel("image"), panel("heat map", heat=Heat(cut.of(heat), highest, contour=threshold))]
    if truth is None:
        return [*panels, panel("flagged at the threshold", fills=[(cut.of(flagged), INVENTED)], outlines=[brain])]
    colours = [(flagged & truth, FOUND), (flagged & ~truth, INVENTED), (truth & ~flagged, MISSED)]
    fills = [(cut.of(part), colour) for part, colour in colours]
    return [
        *panels,
        panel("flagged at the threshold", fills=fills),
        panel("truth", fills=[(cut.of(truth), TRUTH)], outlines=[brain]),
    ]


def _top(curves: Iterable[PrecisionRecall]) -> float:
    """Upper end of the precision axis: room for the curves, their first hundredth of recall apart."""
    highest = [curve.precision[curve.recall >= 0.01].max(initial=0.0) for curve in curves]
    return float(np.clip(1.1 * max(highest, default=1.0), 0.2, 1.02))


def _equal_dice(axes: Axes, top: float) -> None:
    for value in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8):
        end = value / (2 - value)
        if not 0.15 * top < end < 0.9 * top:
            continue
        recall = np.linspace(end, 1, 400)[1:]
        axes.plot(recall, value * recall / (2 * recall - value), color=canvas.RULE, linewidth=1.1, zorder=0)
        axes.text(0.995, end + 0.008 * top, f"Dice {value:g}", fontsize=7.5, color=canvas.MUTED, ha="right", va="bottom")
