"""Rows of image panels at true proportions: every panel of a row has the same millimetres an inch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from medae.report import canvas

WIDTH, MARGIN, GAP = 10.0, 0.25, 0.08
HEADER, ROW_TITLE, PANEL_TITLE, ROW_GAP, FOOTER = 0.58, 0.34, 0.24, 0.14, 0.62
LEGEND_LINE, LEGEND_HANDLE, LEGEND_LETTER, BAR = 0.19, 0.37, 0.075, 3.0
TALLEST = 3.4
HEAT_COLOURS = "inferno"
FILLED = 0.42
"""Opacity of a label over the picture."""


@dataclass(frozen=True)
class Heat:
    """A map over the picture: transparent at 0, opaque from ``high`` on. contour: a value to be outlined."""

    values: np.ndarray
    high: float
    contour: float | None = None
    opaque: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture and what is drawn over it; all arrays are slices, rows from the top.

    grey: intensities; window: the values shown black and white. size_mm: width and height. marks: the body's side at
    left, right, top, bottom. fills: (mask, colour) drawn half transparent; outlines: (mask, colour).
    """

    grey: np.ndarray
    window: tuple[float, float]
    size_mm: tuple[float, float]
    title: str = ""
    marks: tuple[str, str, str, str] | None = None
    heat: Heat | None = None
    fills: Sequence[tuple[np.ndarray, str]] = ()
    outlines: Sequence[tuple[np.ndarray, str]] = ()


@dataclass(frozen=True)
class Row:
    """Panels side by side under a title."""

    panels: Sequence[Panel]
    title: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Mosaic:
    """A figure of image panels.

    legend: name -> colour. bar: (label, lowest, highest) of the heat map's colour bar. note: small print. tallest: the most
    inches that a row may have.
    """

    rows: Sequence[Row]
    title: str = ""
    legend: dict[str, str] = field(default_factory=dict)
    bar: tuple[str, float, float] | None = None
    note: str = ""
    tallest: float = TALLEST


def window(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Grey values shown black and white: the 1st and 99.5th percentile, inside the mask if there is one.

    Without a mask the value of the first corner counts as background and is left out. Never empty.
    """
    values = image[mask != 0] if mask is not None and np.any(mask) else image[image != image.flat[0]]
    low, high = (float(value) for value in np.percentile(values, (1, 99.5))) if values.size else (float(image.flat[0]),) * 2
    return (low, high) if high > low else (low, low + 1.0)


def windows_of(slices: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """The window of each picture; of those with next to no contrast, such as a patch of air, that of all together.

    Next to none: less than a quarter of the window of all, which would show noise as if it were anatomy.
    """
    low, high = window(np.concatenate([np.ravel(each) for each in slices]))
    own = [window(each) for each in slices]
    return [limits if 4 * (limits[1] - limits[0]) >= high - low else (low, high) for limits in own]


def draw(mosaic: Mosaic, path: Path) -> Path:
    """Lay the rows out at full width, their panels at true proportions, and write a PNG."""
    inside = WIDTH - 2 * MARGIN
    scales = [_inches_per_mm(row, inside, mosaic.tallest) for row in mosaic.rows]
    heights = [scale * max(panel.size_mm[1] for panel in row.panels) for row, scale in zip(mosaic.rows, scales, strict=True)]
    bands = [ROW_TITLE * bool(row.title) + PANEL_TITLE * any(panel.title for panel in row.panels) for row in mosaic.rows]
    header = HEADER if mosaic.title else MARGIN
    columns = _legend_columns(mosaic)
    footer = FOOTER if mosaic.legend or mosaic.bar or mosaic.note else MARGIN
    footer += LEGEND_LINE * (-(-len(mosaic.legend) // columns) - 1) if mosaic.legend else 0
    total = header + sum(heights) + sum(bands) + ROW_GAP * (len(mosaic.rows) - 1) + footer
    figure = canvas.lightbox(WIDTH, total)
    if mosaic.title:
        _write(figure, MARGIN, total - 0.36, mosaic.title, size=13, weight="bold")
    top = total - header
    for row, scale, height, band in zip(mosaic.rows, scales, heights, bands, strict=True):
        if row.title:
            _write(figure, MARGIN, top - 0.22, row.title, size=10.5, weight="bold")
            _write(figure, WIDTH - MARGIN, top - 0.22, row.detail, size=9, colour=canvas.MUTED_ON_DARK, align="right")
        _place(figure, row, scale, top - band, height)
        top -= band + height + ROW_GAP
    _foot(figure, mosaic, columns)
    return canvas.save(figure, path)


def _inches_per_mm(row: Row, inside: float, tallest: float) -> float:
    room = inside - GAP * (len(row.panels) - 1)
    widest = room / sum(panel.size_mm[0] for panel in row.panels)
    return min(widest, tallest / max(panel.size_mm[1] for panel in row.panels))


def _place(figure: Figure, row: Row, scale: float, top: float, height: float) -> None:
    width, total = figure.get_size_inches()
    used = scale * sum(panel.size_mm[0] for panel in row.panels) + GAP * (len(row.panels) - 1)
    left = (width - used) / 2
    for panel in row.panels:
        wide, high = (scale * side for side in panel.size_mm)
        bottom = top - height + (height - high) / 2
        axes = figure.add_axes((left / width, bottom / total, wide / width, high / total))
        _draw_panel(axes, panel)
        if panel.title:
            _write(figure, left + wide / 2, top + 0.08, panel.title, size=9, colour=canvas.MUTED_ON_DARK, align="center")
        left += wide + GAP


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_axis_off()
    low, high = panel.window
    if panel.heat is not None:  # a darker picture lets the map shine
        high = low + 1.7 * (high - low)
    axes.imshow(panel.grey, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect="auto")
    if panel.heat is not None:
        axes.imshow(_heat_rgba(panel.heat), interpolation="nearest", aspect="auto")
        if panel.heat.contour is not None:
            _outline(axes, panel.heat.values >= panel.heat.contour, canvas.ON_DARK, 0.7)
    for mask, colour in panel.fills:
        axes.imshow(_flat_rgba(mask, colour), interpolation="nearest", aspect="auto")
        _outline(axes, mask, colour, 0.9)
    for mask, colour in panel.outlines:
        _outline(axes, mask, colour, 1.1)
    if panel.marks is not None:
        _mark(axes, panel.marks)


def _heat_rgba(heat: Heat) -> np.ndarray:
    share = np.clip(heat.values / heat.high, 0, 1)
    rgba = colormaps[HEAT_COLOURS](share)
    rgba[..., 3] = 1.0 if heat.opaque else np.clip(2.2 * share, 0, 0.92)
    return rgba


def _flat_rgba(mask: np.ndarray, colour: str) -> np.ndarray:
    rgba = np.zeros((*mask.shape, 4))
    rgba[mask != 0] = to_rgba(colour, FILLED)
    return rgba


def _outline(axes: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    # A rim of zeros closes outlines that reach the picture's border.
    padded = np.pad((mask != 0).astype(float), 1)
    if padded.any():
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=width)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _mark(axes: Axes, marks: tuple[str, str, str, str]) -> None:
    places = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for text, (x, y, across, up) in zip(marks, places, strict=True):
        label = axes.text(x, y, text, transform=axes.transAxes, ha=across, va=up, fontsize=7.5, color=canvas.ON_DARK)
        label.set_path_effects([withStroke(linewidth=1.8, foreground=canvas.DARK)])


def _legend_columns(mosaic: Mosaic) -> int:
    """How many names fit side by side, beside the colour bar if there is one."""
    room = WIDTH - 2 * MARGIN - (BAR if mosaic.bar is not None else 0)
    longest = max(map(len, mosaic.legend), default=0)
    return max(1, min(len(mosaic.legend), int(room / (LEGEND_HANDLE + LEGEND_LETTER * longest))))


def _foot(figure: Figure, mosaic: Mosaic, columns: int) -> None:
    width, total = figure.get_size_inches()
    if mosaic.legend:
        # as labels are drawn: the rim in the colour itself, the inside half transparent
        handles = [
            Patch(facecolor=to_rgba(colour, FILLED), edgecolor=colour, label=name) for name, colour in mosaic.legend.items()
        ]
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=((MARGIN - 0.1) / width, 0.24 / total),
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            labelcolor=canvas.ON_DARK,
            handlelength=1.0,
            handleheight=0.9,
            columnspacing=1.4,
        )
    if mosaic.bar is not None:
        label, low, high = mosaic.bar
        axes = figure.add_axes(((width - MARGIN - 2.2) / width, 0.36 / total, 1.8 / width, 0.1 / total))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT_COLOURS, aspect="auto")
        axes.set_axis_off()
        _write(figure, width - MARGIN - 2.26, 0.365, f"{low:.3g}", size=8, align="right")
        _write(figure, width - MARGIN - 0.34, 0.365, f"{high:.3g}", size=8)
        _write(figure, width - MARGIN, 0.12, label, size=8, colour=canvas.MUTED_ON_DARK, align="right")
    if mosaic.note:
        _write(figure, MARGIN, 0.12, mosaic.note, size=8, colour=canvas.MUTED_ON_DARK)


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str = canvas.ON_DARK,
    align: str = "left",
    weight: str = "normal",
) -> None:
    width, total = figure.get_size_inches()
    figure.text(x / width, y / total, text, fontsize=size, color=colour, ha=align, va="baseline", fontweight=weight)
