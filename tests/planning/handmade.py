"""Fingerprints made by hand."""

from __future__ import annotations

from medae.planning.facts import Fingerprint, Intensities, Structure


def found(
    shape,
    spacing=(1.0, 1.0, 1.0),
    *,
    modality="MR",
    guessed=False,
    foreground="all",
    boxes=None,
    channels=("image",),
    labels=None,
    **values,
) -> Fingerprint:
    """Of one case, or of several where shape, spacing, boxes or foreground are lists with one entry a case."""
    shapes = shape if isinstance(shape, list) else [shape] * (len(spacing) if isinstance(spacing, list) else 1)
    statistics = {"lower": -1000.4, "median": -800.0, "upper": 700.6, "mean": -650.26, "std": 330.04} | values
    return Fingerprint(
        cases=len(shapes),
        channels=channels,
        shapes=tuple(shapes),
        boxes=tuple(_each(boxes, shapes) if boxes else shapes),
        spacings=tuple(_each(spacing, shapes)),
        foreground=tuple(_each(foreground, shapes)),
        intensities={name: Intensities(modality=modality, guessed=guessed, **statistics) for name in channels},
        labels={} if labels is None else {"label": labels},
    )


def structure(cases=4, volume=(900.0, 1000.0, 1100.0), piece=None, pieces=1.0) -> Structure:
    """A label's sizes."""
    return Structure(cases=cases, share=0.01, volume=volume, pieces=pieces, piece=piece or volume)


def _each(value, cases: list) -> list:
    return value if isinstance(value, list) else [value] * len(cases)
