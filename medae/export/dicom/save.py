"""What all DICOM results have in common: who made them and when, the series they belong to, and the way to the disk."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from highdicom import SOPClass
from pydicom.valuerep import DT

from medae.export.beside import written_beside
from medae.export.dicom.identity import Algorithm, uid_of
from medae.export.dicom.source import Source

UTF_8 = "ISO_IR 192"


def common(source: Source, algorithm: Algorithm, when: datetime, seed: str) -> dict[str, Any]:
    """The arguments that every result gives highdicom. seed: what its identifiers are made of.

    Where the planes are not one file each, in order, highdicom is told where they lie, and finds the frames that they fit.
    """
    placed: dict[str, Any] = {}
    if not source.has_a_file_a_plane:
        placed["pixel_measures"] = source.planes.pixel_measures(source.thickness)
        placed["plane_orientation"] = source.planes.plane_orientation()
        placed["plane_positions"] = source.planes.plane_positions()
    return {
        "source_images": source.images,
        "series_instance_uid": uid_of(seed, "series"),
        "sop_instance_uid": uid_of(seed, "instance"),
        "instance_number": 1,
        "manufacturer": "medae",
        "manufacturer_model_name": algorithm.name,
        "software_versions": algorithm.version,
        "device_serial_number": algorithm.digest,
        "content_date": when.date(),
        "content_time": when.time(),
        "specific_character_set": UTF_8,
        **placed,
    }


def save(result: SOPClass, path: Path, when: datetime, seed: str) -> None:
    """Write a result beside ``path`` and rename it.

    What highdicom draws at random or takes from the clock is replaced, so that the same result of the same time is the
    same file. Raises DataError if it cannot be written.
    """
    result.InstanceCreationDate, result.InstanceCreationTime = result.ContentDate, result.ContentTime
    for item in result.ContributingEquipmentSequence:
        item.ContributionDateTime = DT(when)
    for item in (*result.DimensionIndexSequence, *result.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = uid_of(seed, "dimensions")
    with written_beside(path) as new:
        result.save_as(new, enforce_file_format=True)
