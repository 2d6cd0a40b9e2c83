"""Headers of DICOM files, without pixels and without fields of patients beyond what a pseudonym is made of."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from medae.errors import DataError
from medae.formats.dicom.frames import FRAME_TAGS, Slice, number, slices_of, text, words
from medae.formats.dicom.quiet import pydicom
from medae.formats.dicom.sniff import MAGIC, PREAMBLE, begins_like_a_data_set, has_magic

TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "InstanceNumber", "SeriesDescription", "ProtocolName", "SequenceName", "ImageType",
    "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "Rows", "Columns", "NumberOfFrames",
    "EncryptedAttributesSequence", "ContrastBolusAgent", "ScanningSequence", "SequenceVariant", "EchoTime",
    "RepetitionTime", "InversionTime", "FlipAngle", "MRAcquisitionType", "PatientAge", "PatientSex", "Manufacturer",
    "ManufacturerModelName", "MagneticFieldStrength", "KVP", "ContrastBolusAgentSequence", "BurnedInAnnotation",
    *FRAME_TAGS,
]  # fmt: skip

UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError),
    *(NotImplementedError, MemoryError, struct.error, zlib.error, InvalidDicomError, BytesLengthException),
)
"""What pydicom raises for damaged headers."""

NUMBERS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
YEARS = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52.18, "D": 1 / 365.25}

OLDEST = 90.0
"""Higher ages are given as this one: they are rare enough to name a person."""


@dataclass(frozen=True)
class Header:
    """What medae takes from a file's header. Identifiers are for grouping and for pseudonyms only, and are not shown.

    syntax: UID of the transfer syntax. patient: PatientID, None if there is none. issuer: IssuerOfPatientID, often empty.
    image_type: upper case.
    size: columns and rows. missing_bytes: how much shorter the file is than its uncompressed pixels need.
    description, protocol: free text that the contrast is guessed from; not shown either. acquisition: ms and degrees.
    covariates: age in years, sex, scanner; no dates, no names. slices: one a frame.
    """

    path: Path = field(repr=False)
    syntax: str
    sop_class: str
    instance: str = field(repr=False)
    patient: str | None = field(repr=False)
    issuer: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    modality: str
    series_number: int
    instance_number: int
    description: str = field(repr=False)
    protocol: str = field(repr=False)
    image_type: tuple[str, ...]
    photometric: str
    samples: int
    size: tuple[int, int]
    has_contrast: bool
    is_encrypted: bool
    missing_bytes: int
    sequence: tuple[str, ...]
    acquisition: Mapping[str, float]
    covariates: Mapping[str, str | float]
    slices: tuple[Slice, ...]


class IndexFile(DataError):
    """A DICOMDIR, which lists other files and holds nothing itself."""


def read_header(path: Path) -> Header:
    """Read a file's header; pixels are left alone, so a compressed file costs no decoding.

    Raises DataError, whose text names neither file nor patient, for a file that is empty, cut short within its header, or
    not DICOM. ``where`` is the path.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(PREAMBLE + len(MAGIC))
            if not start:
                raise DataError("The file is empty.", where=path, remedy="Copy or export it again.")
            if not (has_magic(start) or begins_like_a_data_set(start)):
                raise DataError("The file is not DICOM.", where=path, remedy="Give DICOM files.")
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=not has_magic(start))
            rest = size - file.tell()
            return _header(path, dataset, rest)
    except UNREADABLE as error:
        text = f"The DICOM header cannot be read ({type(error).__name__})."
        raise DataError(text, where=path, remedy="Copy or export the file again.") from error


def _header(path: Path, dataset: Any, rest: int) -> Header:
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise IndexFile("The file is an index of others (DICOMDIR).", where=path, remedy="Leave it out.")
    if not text(dataset, "SOPClassUID") or not text(dataset, "SeriesInstanceUID"):
        raise DataError("The file holds no DICOM object of a series.", where=path, remedy="Leave it out.")
    columns, rows = int(number(dataset, "Columns") or 0), int(number(dataset, "Rows") or 0)
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian))
    slices = slices_of(path, dataset, (columns, rows))
    numbers = {name: number(dataset, name) for name in NUMBERS}
    return Header(
        path=path,
        syntax=syntax,
        sop_class=text(dataset, "SOPClassUID"),
        instance=text(dataset, "SOPInstanceUID"),
        patient=text(dataset, "PatientID") or None,
        issuer=text(dataset, "IssuerOfPatientID"),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        modality=text(dataset, "Modality").upper(),
        series_number=int(number(dataset, "SeriesNumber") or 0),
        instance_number=int(number(dataset, "InstanceNumber") or 0),
        description=text(dataset, "SeriesDescription"),
        protocol=text(dataset, "ProtocolName"),
        image_type=words(dataset, "ImageType"),
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        samples=int(number(dataset, "SamplesPerPixel") or 1),
        size=(columns, rows),
        has_contrast=_has_contrast(dataset),
        is_encrypted="EncryptedAttributesSequence" in dataset,
        missing_bytes=_missing(dataset, syntax, columns * rows * len(slices), rest),
        sequence=words(dataset, "ScanningSequence"),
        acquisition={name: value for name, value in numbers.items() if value is not None},
        covariates=_covariates(dataset),
        slices=slices,
    )


def _missing(dataset: Any, syntax: str, pixels: int, rest: int) -> int:
    """Bytes that are missing after the header. Compressed pixels have no size to compare with, but are never nothing."""
    uid = pydicom.uid.UID(syntax)
    if not pixels or uid == DeflatedExplicitVRLittleEndian:
        return 0
    rest -= 8 if uid == ImplicitVRLittleEndian else 12  # the element's tag, representation and length
    is_plain = uid.is_transfer_syntax and not uid.is_private and not uid.is_compressed
    bits = int(number(dataset, "BitsAllocated") or 16) * int(number(dataset, "SamplesPerPixel") or 1)
    return max(0, (pixels * bits // 8 if is_plain else 1) - rest)


def _has_contrast(dataset: Any) -> bool:
    agent = text(dataset, "ContrastBolusAgent").lower()
    if agent:
        return agent not in {"no", "none", "n", "0", "-", "n/a", "na", "off", "without", "unknown"}
    return bool(dataset.get("ContrastBolusAgentSequence"))


def _covariates(dataset: Any) -> dict[str, str | float]:
    found: dict[str, str | float] = {}
    age = text(dataset, "PatientAge").upper()
    if age[:-1].isdigit() and age[-1:] in YEARS:
        found["age"] = min(OLDEST, round(int(age[:-1]) * YEARS[age[-1]], 2))
    if text(dataset, "PatientSex").upper() in {"F", "M", "O"}:
        found["sex"] = text(dataset, "PatientSex").upper()
    for name, tag in (("manufacturer", "Manufacturer"), ("model", "ManufacturerModelName")):
        if text(dataset, tag):
            found[name] = text(dataset, tag)
    for name, tag in (("field_strength_t", "MagneticFieldStrength"), ("kvp", "KVP")):
        value = number(dataset, tag)
        if value:
            found[name] = value
    return found
