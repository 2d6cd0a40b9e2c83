"""Figures of a training: its curves, and what the autoencoder makes of its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from medae.errors import GeometryError
from medae.report import canvas
from medae.report.mosaic import Heat, Mosaic, Panel, Row, draw, windows_of
from medae.report.planes import CONVENTION, Scene

NOT_DRAWN = ("step", "epoch", "seconds", "samples_per_second", "probe/seconds", "probe/untrained")
PROBE = "Probe (Dice)"
CURVES = {"rate": "all but the encoder", "rate/encoder": "encoder, coarsest level"}
"""What curves are called in a legend, where that is not their own name."""
SMOOTHED_FROM = 40
MOST_SAMPLES = 8


def loss_curves(history: Sequence[Mapping[str, float]], path: Path, best_step: int | None = None) -> Path:
    """Losses, validation metrics, gradients and learning rate by step, a panel each.

    history: a record an epoch, with ``step``. Keys with ``loss`` in them share a panel (log scale when they span
    more than tenfold), so do ``gradient_norm`` of all groups, and ``rate`` and ``rate/<part>``; other metrics share one
    if they stay within 0 to 1 and have their own if not. Times are left out. What begins with
    ``probe/`` has a panel beside the losses and begins with ``probe/untrained``, its baseline, at step 0. best_step:
    where the kept weights were reached.
    """
    names = list(dict.fromkeys(name for record in history for name in record if name not in NOT_DRAWN))
    probed = [name for name in names if name.startswith("probe/")]
    losses = _without_copies([name for name in names if "loss" in name and name not in probed], history)
    rates = [name for name in names if name.split("/")[0] == "rate"]
    gradients = [name for name in names if name.split("@")[0] == "gradient_norm"]
    others = [name for name in names if "loss" not in name and name not in (*rates, *gradients, *probed)]
    shares = [name for name in others if all(0 <= record[name] <= 1 for record in history if name in record)]
    panels = [
        ("Loss", losses),
        (PROBE, _without_copies(probed, history)),
        (_plain(shares[0]) if len(shares) == 1 else "Validation", shares),
        *((_plain(name), [name]) for name in others if name not in shares),
        ("Gradient norm", gradients),
        ("Learning rate", rates),
    ]
    panels = [(title, members) for title, members in panels if set(members) & set(names)]
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = canvas.chart(4.0 * columns + 0.4, 3.0 * rows + 0.2)
    for place, (title, members) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        canvas.tidy(axes, title, x="step")
        _curves(axes, [*_baseline(axes, history), *history] if title == PROBE else history, members)
        if title == "Loss" and _spans_tenfold(history, members):
            axes.set_yscale("log")
        if best_step is not None and title not in ("Gradient norm", "Learning rate"):
            axes.axvline(best_step, color=canvas.MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
            axes.text(
                best_step, 1.01, "kept", transform=axes.get_xaxis_transform(), ha="center", fontsize=7.5, color=canvas.MUTED
            )
    canvas.tighten(figure, pad=1.2, w_pad=2.0)
    return canvas.save(figure, path)


def rate_curves(arms: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> Path:
    """The learning rate of each part of the network by step, a panel an arm, all on one scale.

    arms: by name, parts by name, the rate in each step from the first.
    """
    figure = canvas.chart(4.6 * len(arms) + 0.4, 3.2)
    highest = max(max(rates) for parts in arms.values() for rates in parts.values())
    for place, (arm, parts) in enumerate(arms.items()):
        axes = figure.add_subplot(1, len(arms), place + 1)
        canvas.tidy(axes, f"Learning rate, {arm}", x="step")
        for number, (part, rates) in enumerate(parts.items()):
            # thinner towards the last, so that equal rates show as such
            width, colour = max(1.2, 3.6 - 0.8 * number), canvas.SERIES[number % len(canvas.SERIES)]
            axes.plot(range(1, 1 + len(rates)), rates, color=colour, linewidth=width, label=part)
        axes.set_ylim(-0.03 * highest, 1.08 * highest)
        axes.legend(frameon=False, fontsize=8, labelcolor=canvas.INK, handlelength=1.4)
    canvas.tighten(figure, pad=1.2, w_pad=2.0)
    return canvas.save(figure, path)


def reconstruction_grid(
    stages: Mapping[str, np.ndarray],
    path: Path,
    *,
    difference: tuple[str, str] | None = ("input", "reconstruction"),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slice_axis: int | None = None,
    samples: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Samples side by side; below each other what they go through, such as input, corrupted, reconstruction.

    stages: by name, in order, float ``[N, *S]`` of one shape: patches in nearest-RAS axes, at most 8 are shown. In
    three dimensions the middle slice is shown, axial unless ``slice_axis`` is given; two-dimensional patches are
    slices across slice_axis. Grey values: the window of the sample's first stage, see `windows_of`. spacing: mm along
    I, J, K.
    difference: two stages whose absolute difference is added, on one scale for all samples; left out where either is
    missing. samples: names above the columns. Raises GeometryError if shapes differ.
    """
    shapes = {name: np.shape(stack) for name, stack in stages.items()}
    if len(set(shapes.values())) != 1:
        raise GeometryError(f"The stages differ in shape: {shapes}.", remedy="Give the same samples in every stage.")
    axis = 2 if slice_axis is None else slice_axis
    volumes = {name: as_volumes(np.asarray(stack[:MOST_SAMPLES], dtype=np.float32), axis) for name, stack in stages.items()}
    first = next(iter(volumes.values()))
    cut = Scene(np.diag([*spacing, 1.0])).cut(axis, first.shape[1 + axis] // 2)
    windows = windows_of([cut.of(volume) for volume in first])
    size = cut.size_mm(first.shape[1:])
    rows: list[Row] = []
    for name, stack in volumes.items():
        above = samples if not rows else ()
        panels = [
            Panel(cut.of(volume), limits, size, heading, cut.marks)
            for volume, limits, heading in zip(stack, windows, [*above, *[""] * len(stack)], strict=False)
        ]
        rows.append(Row(panels, title=name.capitalize()))
    bar = None
    if difference is not None and set(difference) <= set(volumes):
        errors = np.abs(volumes[difference[0]] - volumes[difference[1]])
        high = float(np.percentile(errors, 99.8)) or 1.0
        panels = [Panel(cut.of(error), (0.0, 1.0), size, heat=Heat(cut.of(error), high, opaque=True)) for error in errors]
        rows.append(Row(panels, title=f"|{difference[0]} − {difference[1]}|"))
        bar = ("absolute difference (normalised intensity)", 0.0, high)
    return draw(Mosaic(rows, title=title, bar=bar, note=f"{cut.name.capitalize()} slices. {CONVENTION}"), path)


def as_volumes(stack: np.ndarray, axis: int) -> np.ndarray:
    """``[N, *S]`` as ``[N, I, J, K]``."""
    if stack.ndim not in (3, 4):
        raise GeometryError(f"Samples of {stack.ndim - 1} axes cannot be shown.", remedy="Give [N, *S], one channel.")
    return stack if stack.ndim == 4 else np.expand_dims(stack, 1 + axis)


def _plain(name: str) -> str:
    """A metric's name as a title: ``dice_mean`` is Dice mean."""
    return name.replace("_", " ").capitalize()


def _without_copies(names: list[str], history: Sequence[Mapping[str, float]]) -> list[str]:
    """Names without those whose values are those of an earlier one: the only term of a loss."""
    kept: dict[tuple[float | None, ...], str] = {}
    for name in names:
        kept.setdefault(tuple(record.get(name) for record in history), name)
    return list(kept.values())


def _spans_tenfold(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> bool:
    values = [record[name] for record in history for name in names if name in record]
    return min(values) > 0 and max(values) > 10 * min(values)


def _baseline(axes: Axes, history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """A line at the value of the untrained encoder, and that value as a record of step 0."""
    value = next((record["probe/untrained"] for record in history if "probe/untrained" in record), None)
    if value is None:
        return []
    axes.axhline(value, color=canvas.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    axes.text(
        0.99,
        value,
        "untrained",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=canvas.MUTED,
    )
    return [{"step": 0, "probe/dice": value}]


def _curves(axes: Axes, history: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    for name, colour in zip(names, cycle(canvas.SERIES)):
        points = np.array([(record["step"], record[name]) for record in history if name in record], dtype=float)
        if len(points) >= SMOOTHED_FROM and not name.startswith("rate"):
            axes.plot(*points.T, color=colour, linewidth=0.8, alpha=0.3)
            points[:, 1] = _smooth(points[:, 1])
        axes.plot(*points.T, color=colour, linewidth=1.8, label=CURVES.get(name, name), solid_capstyle="round")
        axes.plot(*points[-1], marker="o", markersize=4, color=colour)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=canvas.INK, handlelength=1.4)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a twentieth of the points, shorter at the ends."""
    half = max(1, len(values) // 40)
    return np.array([values[max(0, place - half) : place + half + 1].mean() for place in range(len(values))])
