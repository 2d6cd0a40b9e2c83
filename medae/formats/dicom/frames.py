"""The slices of a file: one in a classic object, one a frame in an enhanced one (PS3.3, C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FRAME_TAGS = [
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "EchoNumbers",
    "DiffusionBValue", "DiffusionGradientOrientation", "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime",
    "AcquisitionTime", "ContentTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

Marks = tuple[tuple[str, str | float], ...]


@dataclass(frozen=True)
class Slice:
    """One slice: where it lies, and what else tells it from its neighbours.

    frame: its place in the file, from 0. size: columns and rows. position: centre of the first pixel, LPS mm. orientation:
    direction of a row (along which the column number grows), then of a column. spacing: mm between rows, then between
    columns, as in PixelSpacing. slope, intercept: stored value -> value. marks: name and value of what may tell phases
    apart, such as the echo time. order: instance number, or the frame's.
    """

    path: Path = field(repr=False)
    frame: int
    size: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float = 1.0
    intercept: float = 0.0
    marks: Marks = field(default=(), repr=False)
    order: int = 0

    @property
    def has_geometry(self) -> bool:
        """Position, orientation and spacing are all there."""
        return None not in (self.position, self.orientation, self.spacing)

    def mark(self, name: str) -> str | float | None:
        """The value of a mark."""
        return dict(self.marks).get(name)


def slices_of(path: Path, dataset: Any, size: tuple[int, int]) -> tuple[Slice, ...]:
    """The slices of a file, in the order of its frames; none if it holds no pixels."""
    if 0 in size:
        return ()
    order = int(number(dataset, "InstanceNumber") or 0)
    count = int(number(dataset, "NumberOfFrames") or 1)
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        one = _classic(path, dataset, size, order)
        bare = Slice(path, 0, size, None, None, None)
        return (one,) if count == 1 else tuple(bare for _ in range(count))  # without functional groups frames have no place
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    return tuple(_enhanced(path, place, group, shared, size) for place, group in enumerate(frames[:count]))


def _classic(path: Path, dataset: Any, size: tuple[int, int], order: int) -> Slice:
    gradient = numbers(dataset, "DiffusionGradientOrientation", 3)
    marks = {
        "echo time": number(dataset, "EchoTime"),
        "echo number": number(dataset, "EchoNumbers"),
        "b-value": number(dataset, "DiffusionBValue"),
        "gradient direction": None if gradient is None else " ".join(f"{value:.4f}" for value in gradient),
        "inversion time": number(dataset, "InversionTime"),
        "temporal position": number(dataset, "TemporalPositionIdentifier"),
        "acquisition number": number(dataset, "AcquisitionNumber"),
        "image type": "\\".join(words(dataset, "ImageType")) or None,
        "trigger time": number(dataset, "TriggerTime"),
        "acquisition time": text(dataset, "AcquisitionTime") or None,
        "content time": text(dataset, "ContentTime") or None,
    }
    return Slice(
        path=path,
        frame=0,
        size=size,
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=_directions(numbers(dataset, "ImageOrientationPatient", 6)),
        spacing=_positive(numbers(dataset, "PixelSpacing", 2)),
        slope=_or(number(dataset, "RescaleSlope"), 1.0),
        intercept=_or(number(dataset, "RescaleIntercept"), 0.0),
        marks=_known(marks),
        order=order,
    )


def _enhanced(path: Path, place: int, group: Any, shared: Any, size: tuple[int, int]) -> Slice:
    def macro(name: str) -> Any:
        """A functional group's first item: the frame's own, else the shared one."""
        return next((found[0] for found in (_get(group, name), _get(shared, name)) if found), None)

    content, diffusion = macro("FrameContentSequence"), macro("MRDiffusionSequence")
    gradient = next(iter(_get(diffusion, "DiffusionGradientDirectionSequence") or ()), None)
    frame_type = macro("MRImageFrameTypeSequence") or macro("CTImageFrameTypeSequence")
    values = macro("PixelValueTransformationSequence")
    direction = numbers(gradient, "DiffusionGradientOrientation", 3)
    marks = {
        "stack": text(content, "StackID") or None,
        "echo time": number(macro("MREchoSequence"), "EffectiveEchoTime"),
        "b-value": number(diffusion, "DiffusionBValue"),
        "gradient direction": None if direction is None else " ".join(f"{value:.4f}" for value in direction),
        "temporal position": number(content, "TemporalPositionIndex"),
        "acquisition number": number(content, "FrameAcquisitionNumber"),
        "image type": "\\".join(words(frame_type, "FrameType")) or None,
        "trigger time": number(macro("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
    }
    return Slice(
        path=path,
        frame=place,
        size=size,
        position=numbers(macro("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=_directions(numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6)),
        spacing=_positive(numbers(macro("PixelMeasuresSequence"), "PixelSpacing", 2)),
        slope=_or(number(values, "RescaleSlope"), 1.0),
        intercept=_or(number(values, "RescaleIntercept"), 0.0),
        marks=_known(marks),
        order=place,
    )


def _get(dataset: Any, name: str) -> Any:
    return None if dataset is None else dataset.get(name)


def text(dataset: Any, name: str) -> str:
    """A value as text, stripped of blanks and zero bytes; empty if it is not there."""
    value = _get(dataset, name)
    return "" if value is None else str(value).strip(" \0")


def words(dataset: Any, name: str) -> tuple[str, ...]:
    """The values of an element that may have several, upper case."""
    value = _get(dataset, name)
    if value is None or value == "":
        return ()
    return tuple(str(part).strip().upper() for part in ([value] if isinstance(value, str) else value))


def number(dataset: Any, name: str) -> float | None:
    """A value as a finite number, the first of several; None if it is not there or not a number."""
    found = next(iter(_floats(_get(dataset, name))), None)
    return found if found is not None and math.isfinite(found) else None


def numbers(dataset: Any, name: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    found = tuple(_floats(_get(dataset, name)))
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _floats(value: Any) -> Iterator[float]:
    for part in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        try:
            yield float(part)
        except (TypeError, ValueError):
            return


def _directions(orientation: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """None unless a row's and a column's direction are unit vectors at a right angle, within the rounding of headers."""
    if orientation is None:
        return None
    row, column = orientation[:3], orientation[3:]
    is_unit = all(abs(math.hypot(*vector) - 1.0) < 0.01 for vector in (row, column))
    return orientation if is_unit and abs(sum(a * b for a, b in zip(row, column, strict=True))) < 0.01 else None


def _positive(spacing: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return spacing if spacing and min(spacing) > 0 else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _known(marks: dict[str, str | float | None]) -> Marks:
    return tuple((name, value) for name, value in marks.items() if value is not None)
