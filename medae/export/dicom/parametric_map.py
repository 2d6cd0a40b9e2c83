"""Maps of numbers as DICOM Parametric Map (PS3.3, A.75), on the slices of the series that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping

from medae.errors import DataError, GeometryError
from medae.export.dicom.codes import Code
from medae.export.dicom.identity import Algorithm, digest_of
from medae.export.dicom.save import common, save
from medae.export.dicom.source import quiet, read_source
from medae.volume import NativeGrid

SERIES_NUMBER = 9002


def write_parametric_map(
    values: np.ndarray,
    native: NativeGrid,
    series: Sequence[Path],
    path: Path,
    *,
    quantity: Code,
    unit: Code,
    window: tuple[float, float],
    algorithm: Algorithm,
    when: datetime | None = None,
) -> tuple[str, ...]:
    """Write a map of numbers as DICOM Parametric Map in the study of its scan, and say what was repaired.

    values: finite numbers ``[columns, rows, slices]`` on the grid of the series, stored as float32 as they are. series:
    the files of that volume, in any order. quantity, unit: what the numbers are. window: those shown as black and as
    white. when: now if not given; the same result of the same time is the same file. path: written beside and renamed.
    Returns remarks that name attributes, and no values of the headers.
    Raises GeometryError if values or grid are not the series', DataError for values that are not finite, an empty window,
    a series that no result can refer to, and a file that cannot be written.
    """
    if values.shape != native.shape:
        raise GeometryError(f"A map of shape {values.shape} does not fit the scan's {native.shape}.", where=path.name)
    low, high = window
    with np.errstate(over="ignore"):  # too large a number is infinite, and named below
        values = values.astype(np.float32, copy=False)
    smallest, largest = float(values.min()), float(values.max())
    if not np.isfinite([smallest, largest, low, high]).all() or low >= high:
        text = "The map holds values that are not finite numbers, or its window is empty."
        raise DataError(text, where=path.name, remedy="Give every voxel a number, and a window from low to high.")
    when = when or datetime.now()
    mapping = RealWorldValueMapping(
        lut_label=quantity.meaning[:16].strip(),
        lut_explanation=quantity.meaning,
        unit=unit.concept(),
        value_range=(smallest, largest),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity.concept(),
    )
    with quiet():
        source = read_source(series, native)
        seed = repr((source.series, quantity, unit, window, algorithm, when.isoformat(), digest_of(values)))
        result = ParametricMap(
            pixel_array=values.transpose(2, 1, 0),
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[VOILUTTransformation((low + high) / 2, high - low, voi_lut_function="LINEAR_EXACT")],
            contains_recognizable_visual_features=True,
            series_number=SERIES_NUMBER,
            series_description=f"medae {quantity.meaning.lower()} (research)"[:64],
            content_label="MAP",
            content_description="Map by a neural network",
            **common(source, algorithm, when, seed),
        )
        result.Laterality = source.images[0].get("Laterality")  # type 2C, which highdicom leaves out
        save(result, path, when, seed)
    return source.remarks
