"""What a series is, by what its headers say: an image of CT or MR, or something that is not read, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pydicom.uid import UID

from medae.formats.dicom.headers import Header
from medae.formats.dicom.problem import Problem

CT = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
}
MR = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image",
}
ENHANCED_COLOUR = "1.2.840.10008.5.1.4.1.1.4.3"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

PROJECTIONS = {"PROJECTION IMAGE", "MIP", "MAX_IP", "MINIP", "MIN_IP", "MNIP", "SSD", "VRT", "VOLUME_RENDERING"}
SCREENS = {"SCREEN SAVE", "SCREENSAVE", "CSA REPORT", "PASTED"}

SCOUT = re.compile(r"locali[sz]er|topogram|surview|(?<![a-z])(scout|survey|3.?plane.?loc)(?![a-z])", re.IGNORECASE)

READABLE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Process 14",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, first-order prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
"""Transfer syntaxes that GDCM, within SimpleITK, decodes."""


def is_localiser(header: Header) -> bool:
    """A scout: a few slices to plan the others by. Some scanners say so in the description only."""
    return "LOCALIZER" in header.image_type or bool(SCOUT.search(header.description))


def modality_of(header: Header) -> Literal["CT", "MR", "unknown"]:
    """CT or MR of an image, unknown for any other object."""
    if header.sop_class in CT:
        return "CT"
    return "MR" if header.sop_class in MR else "unknown"


def refusal(headers: Sequence[Header]) -> Problem | None:
    """Why a series is not read, by its headers alone; None if nothing speaks against it. Geometry is another matter."""
    if is_swapped(headers):
        text = "has files of several patients or studies under one series identifier"
        return Problem("swapped-subject", text, "Find out whose they are before anything else, and export them again.")
    one = headers[0]
    for header in headers:
        problem = _object(header) or _content(header)
        if problem is not None:
            return problem
    if len({header.sop_class for header in headers}) > 1 or len({header.modality for header in headers}) > 1:
        return Problem("mixed-objects", "mixes several kinds of DICOM objects", "Export one series a kind.")
    if modality_of(one) != one.modality:
        text = f"says that it is {one.modality or 'nothing'} and holds an object for {modality_of(one)}"
        return Problem("modality-conflict", text, "Leave it out, or export it again.")
    return None


def is_swapped(headers: Sequence[Header]) -> bool:
    """Files of several patients or studies. An issuer that some files leave out makes no other patient; two do."""
    patients = {(header.patient, header.study) for header in headers}
    return len(patients) > 1 or len({header.issuer for header in headers if header.patient} - {""}) > 1


def _object(header: Header) -> Problem | None:
    if header.sop_class == ENHANCED_COLOUR:
        return _colour()
    if header.sop_class.startswith(SECONDARY_CAPTURE) or SCREENS & set(header.image_type):
        return Problem("secondary-capture", "is a secondary capture, a picture of a screen or report", "Leave it out.")
    if modality_of(header) == "unknown":
        kind = header.modality if header.modality.isalnum() and len(header.modality) <= 16 else "another object"
        return Problem("not-ct-or-mr", f"is no image of CT or MR ({kind})", "Leave it out.")
    return None


def _content(header: Header) -> Problem | None:
    return next(_faults(header), None)


def _faults(header: Header) -> Iterator[Problem]:
    if "MOSAIC" in header.image_type:
        text = "is a mosaic, many slices tiled into one picture"
        yield Problem("mosaic", text, "Convert it to NIfTI, for example with dcm2niix.")
    if PROJECTIONS & set(header.image_type):
        yield Problem("projection", "is a projection (such as MIP), not slices", "Leave it out.")
    if header.samples != 1 or header.photometric in ("RGB", "PALETTE COLOR") or header.photometric.startswith("YBR"):
        yield _colour()
    if header.photometric == "MONOCHROME1":
        text = "is stored with dark and bright exchanged (MONOCHROME1), and medae does not guess which values are meant"
        yield Problem("monochrome1", text, "Export it as MONOCHROME2.")
    if header.syntax not in READABLE:
        name = UID(header.syntax).name if UID(header.syntax).is_transfer_syntax else "one that is not in the standard"
        text = f"is compressed in a way that no decoder here reads ({name})"
        yield Problem("transfer-syntax", text, "Export it uncompressed, or as JPEG 2000 or RLE.")
    if header.is_encrypted and not any(item.has_geometry for item in header.slices):
        yield Problem("encrypted", "has its geometry encrypted", "Export it unencrypted.")
    if not header.slices:
        yield Problem("no-pixels", "holds no pixels", "Export it again.")
    if header.missing_bytes:
        yield Problem("truncated", "has a file that is cut short", "Copy or export the series again.")


def _colour() -> Problem:
    return Problem("colour", "is in colour, and colours are no intensities of CT or MR", "Leave it out.")


def is_derived(header: Header) -> bool:
    """Computed from other images, such as reformatted or registered ones. Many are as good as originals."""
    return header.image_type[:1] == ("DERIVED",) or header.image_type[1:2] == ("SECONDARY",)
