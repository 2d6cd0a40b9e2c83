"""The figure of a label curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import NullLocator

from medae.report import canvas


@dataclass(frozen=True)
class CurvePoint:
    """A score at a number of labels. low, high: of its interval; draws: the scores of the single draws."""

    labels: int
    score: float
    low: float | None
    high: float | None
    draws: Sequence[float]


def label_curve(arms: Mapping[str, Sequence[CurvePoint]], path: Path, *, score: str, baseline: str) -> Path:
    """A score against the number of labels (logarithmic), a line an arm, intervals as bars and draws as dots.

    baseline: the arm that is drawn first, in grey. Arms lie a little apart, so that bars do not hide each other.
    """
    figure = canvas.chart(8.2, 4.6)
    axes = figure.add_subplot()
    canvas.tidy(axes, f"{score} against labelled scans", x="labelled scans", y=score)
    order = sorted(arms, key=lambda name: name != baseline)
    colours = dict(zip([name for name in order if name != baseline], canvas.SERIES * len(arms), strict=False))
    for place, name in enumerate(order):
        points = sorted(arms[name], key=lambda point: point.labels)
        beside = 1.02 ** (2 * (place - (len(order) - 1) / 2))
        colour = canvas.MUTED if name == baseline else colours[name]
        style = (0, (4, 3)) if name == baseline else "-"
        at = [point.labels * beside for point in points]
        axes.plot(
            at, [point.score for point in points], color=colour, linestyle=style, linewidth=1.8, marker="o", ms=5, label=name
        )
        for x, point in zip(at, points, strict=True):
            axes.scatter([x] * len(point.draws), point.draws, s=9, color=colour, alpha=0.35, linewidths=0, zorder=2)
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1.2, alpha=0.8, zorder=1)
    axes.set_xscale("log")
    counts = sorted({point.labels for points in arms.values() for point in points})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=9, labelcolor=canvas.INK, loc="lower right")
    figure.tight_layout(pad=1.2)
    return canvas.save(figure, path)
