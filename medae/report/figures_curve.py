"""The figure of a label curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from medae.report import canvas

COLUMNS = 2


@dataclass(frozen=True)
class CurvePoint:
    """A score at a number of labels. low, high: of its interval, None without one; draws: the scores of the single draws."""

    labels: int
    score: float
    low: float | None
    high: float | None
    draws: Sequence[float]


Arms = Mapping[str, Sequence[CurvePoint]]


def label_curves(panels: Mapping[str, Arms], path: Path, *, baseline: str, differences: Sequence[str] = ()) -> Path:
    """Scores against the number of labels (logarithmic), a panel each; a line an arm, intervals as bars and draws as dots.

    panels: title -> arm -> points. baseline: the arm that is drawn first, in grey and dashed. differences: titles of panels
    that hold differences to it, which get a line at 0. Arms lie a little apart, so that bars do not hide each other; an arm
    has the same colour and place in every panel.
    """
    names = list(dict.fromkeys(name for arms in panels.values() for name in arms))
    order = sorted(names, key=lambda name: name != baseline)
    colours = dict(zip([name for name in order if name != baseline], canvas.SERIES * len(order), strict=False))
    colours[baseline] = canvas.MUTED
    rows = -(-len(panels) // COLUMNS)
    figure = canvas.chart(5.4 * min(COLUMNS, len(panels)) + 0.2, 3.9 * rows + 0.5)
    for number, (title, arms) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, min(COLUMNS, len(panels)), number)
        canvas.tidy(axes, title, x="labelled subjects")
        if title in differences:
            axes.axhline(0, color=canvas.MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, name in enumerate(order):
            beside = 1.02 ** (2 * (place - (len(order) - 1) / 2))
            if name in arms:
                _line(axes, name, arms[name], colours[name], beside, dashed=name == baseline)
        _counts(axes, arms)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    style = {"frameon": False, "fontsize": 9, "labelcolor": canvas.INK, "handlelength": 3.2}
    figure.legend(handles, labels, loc="lower center", ncols=min(5, len(names)), **style)
    canvas.tighten(figure, pad=1.2, w_pad=2.0, h_pad=2.0, rect=(0, 0.5 / (3.9 * rows + 0.5), 1, 1))
    return canvas.save(figure, path)


def _line(axes: Axes, name: str, found: Sequence[CurvePoint], colour: str, beside: float, *, dashed: bool) -> None:
    points = sorted(found, key=lambda point: point.labels)
    at = [point.labels * beside for point in points]
    style = (0, (4, 3)) if dashed else "-"
    scores = [point.score for point in points]
    axes.plot(at, scores, color=colour, linestyle=style, linewidth=1.8, marker="o", ms=5, label=name)
    for x, point in zip(at, points, strict=True):
        axes.scatter([x] * len(point.draws), point.draws, s=9, color=colour, alpha=0.35, linewidths=0, zorder=2)
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1.2, alpha=0.8, zorder=1)


def _counts(axes: Axes, arms: Arms) -> None:
    """The numbers of labels below the axis."""
    axes.set_xscale("log")
    counts = sorted({point.labels for points in arms.values() for point in points})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
