"""The figure of a diagnosis: what a detector finds, by contrast, size and edge of lesions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from medae.report import canvas

Found = Mapping[tuple[float, float, float], float]
"""Average precision by (contrast, radius mm, edge mm)."""


def diagnosis_map(rows: Mapping[str, Found], path: Path, *, differences: tuple[str, ...] = ()) -> Path:
    """A matrix for each row and edge: contrasts across, radii up, average precision as colour and number.

    differences: names of rows that hold differences, which are drawn blue above and orange below 0.
    """
    edges = sorted({cell[2] for found in rows.values() for cell in found})
    contrasts, radii = (sorted({cell[axis] for found in rows.values() for cell in found}) for axis in (0, 1))
    width, height = 1.3 + 0.62 * len(contrasts), 1.15 + 0.5 * len(radii)
    figure = canvas.chart(width * len(edges) + 0.6, height * len(rows) + 0.2)
    for row, (name, found) in enumerate(rows.items()):
        for column, edge in enumerate(edges):
            axes = figure.add_subplot(len(rows), len(edges), row * len(edges) + column + 1)
            values = np.array([[found.get((contrast, radius, edge), np.nan) for contrast in contrasts] for radius in radii])
            _matrix(axes, values, signed=name in differences)
            title = f"{name}, edge {edge:g} mm" if edge else f"{name}, sharp edge"
            canvas.tidy(axes, title, x="contrast" if row == len(rows) - 1 else "", y="radius (mm)" if column == 0 else "")
            axes.grid(visible=False)
            axes.set_xticks(range(len(contrasts)), [f"{contrast:+g}" for contrast in contrasts])
            axes.set_yticks(range(len(radii)), [f"{radius:g}" for radius in radii])
    canvas.tighten(figure, pad=1.2, w_pad=1.5, h_pad=1.5)
    return canvas.save(figure, path)


def _matrix(axes: Axes, values: np.ndarray, *, signed: bool) -> None:
    low, high, colours = (-0.5, 0.5, "PuOr") if signed else (0.0, 1.0, "Blues")
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, origin="lower", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        strong = abs(value) > (0.3 if signed else 0.6)
        text = "" if np.isnan(value) else f"{value:+.2f}" if signed else f"{value:.2f}"
        axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=canvas.PAPER if strong else canvas.INK)
