"""The look that all figures share: colours, a figure without global state, axes, saving.

Charts are drawn on white, images on near-black as on a reading screen; the HTML report inverts charts in dark mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from medae.report import colours

INK, MUTED, RULE, PAPER = "#1f2933", "#6b7785", "#e4e8ed", "#ffffff"
DARK, ON_DARK, MUTED_ON_DARK = colours.DARK, colours.ON_DARK, "#93a1b0"
SERIES = (
    *("#2563eb", "#ea7317", "#0f9d8a", "#9b4fd6", "#8a5a2b", "#c2306e", "#7a8b00", "#0891b2"),
    *("#111827", "#f472b6", "#166534", "#d4a017"),
)
"""Colours of curves and arms, in order; the first two differ for every kind of colour vision."""
DPI = 160


def chart(width: float, height: float) -> Figure:
    """An empty figure for curves, in inches."""
    return _figure(width, height, PAPER)


def lightbox(width: float, height: float) -> Figure:
    """An empty figure for images, in inches."""
    return _figure(width, height, DARK)


def _figure(width: float, height: float, colour: str) -> Figure:
    figure = Figure(figsize=(width, height), facecolor=colour)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title at the left, hairline grid behind, no box."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=10)
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_ylabel(y, fontsize=9, color=MUTED)
    axes.set_facecolor(PAPER)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    if x == "step":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(which="both", colors=MUTED, labelsize=8.5, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def plain(figure: Figure) -> None:
    """From here on names of cases and labels are written as they are: between two ``$`` is no formula, as it is in the
    numbers of a logarithmic axis. Called before anything is measured or drawn."""
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    formulae = {label for axis in axes if "log" in axis.get_scale() for label in axis.get_ticklabels(which="both")}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in formulae:
            text.set_parse_math(False)


def tighten(figure: Figure, **how: Any) -> None:
    """Matplotlib's tight layout, of names as they are."""
    plain(figure)
    figure.tight_layout(**how)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, making the folder; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain(figure)
    figure.savefig(path, dpi=DPI, facecolor=figure.get_facecolor())
    return path
