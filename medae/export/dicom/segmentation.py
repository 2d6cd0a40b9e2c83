"""Label maps as DICOM Segmentation (PS3.3, A.51), on the slices of the series that they were made from."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes as dicom_codes

from medae.errors import DataError, GeometryError
from medae.export.dicom.codes import GENERIC, SegmentCode, segment_code
from medae.export.dicom.identity import Algorithm, digest_of
from medae.export.dicom.save import common, save
from medae.export.dicom.source import quiet, read_source
from medae.volume import NativeGrid

SERIES_NUMBER = 9001
LARGEST = 65535
SMALLEST = 8
"""Pixels of a slice, a byte of a mask: highdicom packs smaller ones wrongly."""


def write_segmentation(
    labels: np.ndarray,
    native: NativeGrid,
    series: Sequence[Path],
    path: Path,
    *,
    names: Mapping[int, str],
    codes: Mapping[str, SegmentCode],
    algorithm: Algorithm,
    kind: Literal["BINARY", "LABELMAP"] = "BINARY",
    when: datetime | None = None,
) -> tuple[str, ...]:
    """Write a label map as DICOM Segmentation in the study of its scan, and say what was repaired or could not be said.

    labels: integers ``[columns, rows, slices]`` on the grid of the series, 0 is background. series: the files of that
    volume, in any order. names: of every label but 0; a label that does not occur is a segment without frames. codes: by
    name, before the shipped ones. kind: BINARY has a frame a segment and slice where there is something, segments
    numbered from 1; LABELMAP a frame a slice, segments numbered like the labels, which fewer programs read. when: now if
    not given; the same result of the same time is the same file. path: written beside and renamed.
    Returns remarks that name attributes and labels, and no values of the headers.
    Raises GeometryError if labels or grid are not the series', DataError for labels without a name, for a series that no
    result can refer to, and for a file that cannot be written.
    """
    if labels.shape != native.shape:
        raise GeometryError(f"Labels of shape {labels.shape} do not fit the scan's {native.shape}.", where=path.name)
    when = when or datetime.now()
    named = {value: name for value, name in sorted(names.items()) if value != 0}
    numbers = {value: value if kind == "LABELMAP" else place for place, value in enumerate(named, start=1)}
    frames, occurring = _frames(labels, numbers, path)
    with quiet():
        source = read_source(series, native)
        segments = [_segment(numbers[value], name, codes, algorithm) for value, name in named.items()]
        described = [(value, name, str(segment_code(name, codes))) for value, name in named.items()]
        seed = repr((source.series, kind, described, algorithm, when.isoformat(), digest_of(frames)))
        result = Segmentation(
            pixel_array=frames,
            segmentation_type=kind,
            segment_descriptions=segments,
            series_number=SERIES_NUMBER,
            series_description="medae segmentation (research)",
            content_label="SEGMENTATION",
            content_description="Segmentation by a neural network",
            omit_empty_frames=kind == "BINARY",
            **common(source, algorithm, when, seed),
        )
        if result.BitsAllocated == 1:
            result.PixelData = _padded(result.PixelData, result.Rows * result.Columns * result.NumberOfFrames)
        save(result, path, when, seed)
    return (*source.remarks, *_remarks(named, numbers, occurring, codes))


def _frames(labels: np.ndarray, numbers: Mapping[int, int], path: Path) -> tuple[np.ndarray, set[int]]:
    """Numbers of segments ``[slices, rows, columns]``, uint8 or uint16, and the labels that occur, 0 among them.

    Raises DataError for labels that no segment can be made of, GeometryError for slices of a few pixels.
    """
    if not numbers:
        raise DataError("There are no labels to write segments of.", where=path.name, remedy="Name the labels.")
    limits = [int(labels.min()), int(labels.max()), *numbers] if labels.dtype.kind in "iu" else [-1]
    if min(limits) < 0 or max(limits) > LARGEST:
        text = f"Labels are not whole numbers from 0 to {LARGEST}."
        raise DataError(text, where=path.name, remedy="Write the map as a float map.")
    if labels.shape[0] * labels.shape[1] < SMALLEST:
        raise GeometryError(f"A DICOM segmentation needs slices of {SMALLEST} pixels or more.", where=path.name)
    ordered = np.ascontiguousarray(labels.transpose(2, 1, 0))
    is_there = np.zeros(LARGEST + 1, dtype=bool)
    is_there[ordered] = True
    occurring = set(np.flatnonzero(is_there).tolist())
    unnamed = sorted(occurring - set(numbers) - {0})
    if unnamed:
        text = f"The label map holds values without a name: {', '.join(map(str, unnamed[:8]))}."
        raise DataError(text, where=path.name, remedy="Name every label.")
    table = np.zeros(max(numbers) + 1, dtype=np.uint8 if max(numbers.values()) < 256 else np.uint16)
    table[list(numbers)] = list(numbers.values())
    return table[ordered], occurring


def _padded(pixels: bytes, bits: int) -> bytes:
    """Pixels of one bit with a zero byte at the end if their number is odd; highdicom takes the letter 0."""
    size = (bits + 7) // 8
    return pixels[:size] + bytes(size % 2)


def _remarks(
    named: Mapping[int, str], numbers: Mapping[int, int], occurring: Container[int], codes: Mapping[str, SegmentCode]
) -> list[str]:
    remarks = []
    for value, name in named.items():
        if segment_code(name, codes) is None:
            remarks.append(f"Label '{name}': in no table of codes; written as {GENERIC.type.meaning} under its name.")
        if numbers[value] != value:
            remarks.append(f"Label '{name}': of value {value}, is segment {numbers[value]}; segments count from 1.")
        if value not in occurring:
            remarks.append(f"Label '{name}': does not occur; its segment is empty.")
    return remarks


def _segment(number: int, name: str, codes: Mapping[str, SegmentCode], algorithm: Algorithm) -> SegmentDescription:
    code = segment_code(name, codes) or GENERIC
    segment = SegmentDescription(
        segment_number=number,
        segment_label=re.sub(r"[\\\x00-\x1f]+", " ", name).strip()[:64] or f"label {number}",
        segmented_property_category=code.category.concept(),
        segmented_property_type=code.type.concept(),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=dicom_codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            parameters={"model": algorithm.digest},
        ),
        anatomic_regions=[code.region.concept()] if code.region else None,
    )
    if code.modifier:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [code.modifier.concept()]
    return segment
