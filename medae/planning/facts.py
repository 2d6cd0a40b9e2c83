"""What a fingerprint holds: the facts about a data set that a plan depends on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from medae.commented import commented_yaml
from medae.config import Config, to_dict
from medae.data.case import Modality
from medae.plan import Foreground
from medae.volume import in_ml

Triple = tuple[int, int, int]
Range = tuple[float, float]
Spread = tuple[float, float, float]
"""Three percentiles, the middle one the median."""


class Intensities(Config):
    """Of one channel, in the files' units, inside the foreground, over all cases read.

    modality: as declared, otherwise guessed. lower, median, upper: percentiles 0.5, 50, 99.5. mean, std: after
    clipping to lower and upper. ranges: least and largest value of each case, background included. eight_bit: cases whose
    values are all whole numbers from 0 to 255. tails: of each case, the standard deviation over 1.4826 times the median
    absolute deviation, both after clipping to the case's own percentiles 0.5 and 99.5: 1 for a normal distribution, 1.38
    for a Laplace distribution, None where more than half of the voxels are equal. labelled: percentiles 0.5, 50
    and 99.5 of the voxels that have any label, None if there are none.
    """

    modality: Modality
    guessed: bool
    lower: float
    median: float
    upper: float
    mean: float
    std: float
    ranges: tuple[Range, ...] = ()
    eight_bit: int = 0
    tails: tuple[float | None, ...] = ()
    labelled: Spread | None = None

    @property
    def heaviness(self) -> float | None:
        """The median of ``tails``; None if it cannot be told of every case."""
        known = [tail for tail in self.tails if tail is not None]
        return float(np.median(known)) if known and len(known) == len(self.tails) else None


class Structure(Config):
    """One label, over the cases read that have its label map.

    cases: in which it occurs; volume and pieces are of those. share: its mean share of the voxels. volume: percentiles 5,
    50, 95 of its volume in a case, mm³. pieces: mean number of connected components in a case (26 neighbours). piece:
    percentiles 5, 50, 95 of their volumes, mm³.
    """

    cases: int
    share: float
    volume: Spread
    pieces: float
    piece: Spread


class Fingerprint(Config):
    """What was found in the cases that were read; axes are I, J, K of the nearest RAS, lengths mm.

    cases: in the data set. shapes, boxes, spacings, orientations: an entry a case read; boxes are the bounding boxes of the
    foreground, in voxels; orientations the axes' directions as stored, such as PSR. foreground: the rule that fits each
    case. intensities: by channel. labels: by target and label, 0 is left out.
    """

    cases: int
    channels: tuple[str, ...]
    shapes: tuple[Triple, ...]
    boxes: tuple[Triple, ...]
    spacings: tuple[tuple[float, float, float], ...]
    orientations: tuple[str, ...] = ()
    foreground: tuple[Foreground, ...]
    intensities: dict[str, Intensities]
    labels: dict[str, dict[int, Structure]]

    @property
    def median_spacing(self) -> tuple[float, float, float]:
        """mm along I, J, K."""
        return _three(np.median(self.spacings, axis=0))

    @property
    def median_shape(self) -> tuple[float, float, float]:
        """Voxels along I, J, K."""
        return _three(np.median(self.shapes, axis=0))

    @property
    def median_extent(self) -> tuple[float, float, float]:
        """mm along I, J, K of the median case's field of view, as far as the files' spacing is to be believed."""
        return _three(np.median(np.multiply(self.shapes, self.spacings), axis=0))

    @property
    def anisotropy(self) -> float:
        """The coarsest median spacing over the finest."""
        return max(self.median_spacing) / min(self.median_spacing)

    def spacing_percentile(self, axis: int, percent: float) -> float:
        """mm along one axis."""
        return float(np.percentile([spacing[axis] for spacing in self.spacings], percent))

    def rows(self, names: dict[str, dict[int, str]] | None = None) -> list[tuple[str, str]]:
        """For a table: what was found, in words. names: of the labels, by target."""
        least, most = np.min(self.spacings, axis=0), np.max(self.spacings, axis=0)
        rows = [
            ("cases read", f"{len(self.shapes)} of {self.cases}"),
            ("voxels, median", _times(self.median_shape)),
            (
                "voxels, smallest and largest",
                f"{_times(np.min(self.shapes, axis=0))}, {_times(np.max(self.shapes, axis=0))}",
            ),
            ("foreground's box, median", _times(np.median(self.boxes, axis=0))),
            ("spacing, median (mm)", _times(self.median_spacing)),
            ("spacing, least and most (mm)", "the same" if np.allclose(least, most) else f"{_times(least)}, {_times(most)}"),
            ("anisotropy", f"{self.anisotropy:.2f}"),
            ("stored orientation", _counted(self.orientations)),
            ("background", _counted(self.foreground)),
        ]
        for name, found in self.intensities.items():
            rows += [(f"{name}: {what}", value) for what, value in _described(found, len(self.shapes))]
        for target, structures in self.labels.items():
            for label, structure in structures.items():
                named = (names or {}).get(target, {}).get(label)
                title = f"{target} {label}" + (f", {named}" if named and named != str(label) else "")
                rows.append((title, _sizes(structure)))
        return rows

    def as_yaml(self) -> str:
        """Everything in it, as YAML that a person can read: a summary in comments, then an entry a line, rounded."""
        content = _rounded(to_dict(self))
        parts: dict[str, dict[Any, Any]] = {"data": {key: content[key] for key in ("cases", "channels")}}
        parts["read"] = {key: content[key] for key in ("shapes", "boxes", "spacings", "orientations", "foreground")}
        parts |= {f"intensities of {name}": values for name, values in content["intensities"].items()}
        for name, structures in content["labels"].items():
            parts[f"labels of {name}"] = {int(label): structure for label, structure in structures.items()}
        return commented_yaml(parts, {}, [f"{what}: {value}" for what, value in self.rows()])


def _described(found: Intensities, read: int) -> list[tuple[str, str]]:
    rows = [
        ("modality", f"{found.modality}, {'guessed from the values' if found.guessed else 'declared by the data set'}"),
        ("percentiles 0.5, 50, 99.5", ", ".join(f"{each:,.4g}" for each in (found.lower, found.median, found.upper))),
        ("mean, deviation", f"{found.mean:,.4g}, {found.std:,.4g}"),
    ]
    if found.labelled is not None:
        rows.append(("the same inside labels", ", ".join(f"{each:,.4g}" for each in found.labelled)))
    if found.ranges:
        lows, highs = zip(*found.ranges, strict=True)
        rows.append(("largest values of the cases", f"from {min(highs):,.6g} to {max(highs):,.6g}"))
        rows.append(("least values of the cases", f"from {min(lows):,.6g} to {max(lows):,.6g}"))
        rows.append(("stored in 8 bits", f"{found.eight_bit} of {len(found.ranges)} cases"))
    if found.heaviness is not None:
        rows.append(("deviation / median absolute deviation", f"{found.heaviness:.2f} (normal: 1)"))
    return rows


def _sizes(found: Structure) -> str:
    volume = " to ".join(_volume(each) for each in (found.volume[0], found.volume[2]))
    text = f"{found.cases} cases, {found.share:.2%} of the voxels; {volume} a case, median {_volume(found.volume[1])}"
    if found.pieces > 1:
        text += f"; {found.pieces:.1f} pieces, 5 % of them below {_volume(found.piece[0])}"
    return text


def _volume(cubic_mm: float) -> str:
    return in_ml(cubic_mm / 1000) if cubic_mm >= 1000 else f"{cubic_mm:,.3g} mm³"


def _times(values: Any) -> str:
    return "x".join(f"{value:.4g}" for value in values)


def _counted(values: tuple[str, ...]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common())


def _three(values: Any) -> tuple[float, float, float]:
    i, j, k = (float(value) for value in values)
    return i, j, k


def _rounded(value: Any) -> Any:
    """Numbers to six significant digits, in whatever holds them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
