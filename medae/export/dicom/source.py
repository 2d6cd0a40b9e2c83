"""The series that a result belongs to: its headers, reduced to what a result takes over, and repaired."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medae.errors import DataError
from medae.export.dicom.identity import uid_of
from medae.export.dicom.planes import Planes, plane_position, planes_of
from medae.export.dicom.repair import OPTIONAL, REQUIRED, is_valid_value, repaired, value_of
from medae.formats.dicom.frames import Slice, text
from medae.formats.dicom.headers import UNREADABLE, Header, read_header
from medae.formats.dicom.judge import Rules, judge
from medae.formats.dicom.kinds import CT, MR
from medae.formats.dicom.quiet import pydicom
from medae.formats.dicom.read import GRID
from medae.volume import NativeGrid

logging.getLogger("highdicom").setLevel(logging.CRITICAL)

LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
TAGS = [
    *REQUIRED, *OPTIONAL, *LOSSY, "LossyImageCompression", "FrameOfReferenceUID", "SliceThickness",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A series for highdicom. images: one a file, in the order of the slices, with what a result needs of the header.

    planes: of the result. thickness: mm, of a slice. remarks: what was wrong with the headers, by the names of attributes.
    """

    images: tuple[Dataset, ...]
    planes: Planes
    thickness: float
    remarks: tuple[str, ...]

    @property
    def series(self) -> str:
        """SeriesInstanceUID, to derive identifiers from. Not to be shown."""
        return str(self.images[0].SeriesInstanceUID)

    @property
    def has_a_file_a_plane(self) -> bool:
        """The planes of the result are those of the files, one each."""
        return self.planes.are_slices and len(self.images) == len(self.planes.positions)


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of pydicom and highdicom are not shown: they quote values. What matters is among the remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_source(series: Sequence[Path], native: NativeGrid) -> Source:
    """The headers of the files of one volume, in any order. Reads no pixels, but of slices that seem to be there twice.

    native: the grid that medae reads the files on. Raises DataError and GeometryError, whose text names no patient;
    ``where`` is the first path.
    """
    where = series[0]
    headers = {path: read_header(path) for path in series}
    verdict = judge(list(headers.values()), Rules(resample_slices=True))
    if verdict.problem is not None:
        kind = verdict.problem.geometry_error if verdict.problem.code in GRID else verdict.problem.error
        raise kind(where)
    stack = verdict.volumes[0]
    used = {item.path: headers[item.path] for item in stack.slices}
    _check(list(used.values()), where)
    planes = planes_of(stack, native, where)
    details = [_details(path) for path in used]
    patient, remarks = repaired(details[0])
    thickness = _thickness(details[0])
    if thickness is None:
        thickness = planes.step
        remarks.append("SliceThickness: not in the series or not valid; written as the distance between slices.")
    if not planes.are_slices:
        remarks.append("The series is tilted or uneven: the result lies on the upright, even grid that it was read onto.")
    images = [_image(header, planes, thickness) for header in used.values()]
    frame = _frame_of_reference(details, images[0].SeriesInstanceUID, remarks)
    for image in images:
        image.FrameOfReferenceUID = frame
    _note_uids(images, remarks)
    images[0].update(patient)
    images[0].update(_lossy(details, remarks))
    return Source(tuple(images), planes, thickness, tuple(remarks))


def _check(headers: Sequence[Header], where: Path) -> None:
    """Raises DataError for a series that no result can refer to."""
    instances = {header.instance for header in headers}
    problem = None
    if len({header.series for header in headers}) > 1:
        problem = "The files belong to several DICOM series.", "Give those of one."
    elif not headers[0].study or "" in instances or len(instances) < len(headers):
        text = "The series lacks StudyInstanceUID or SOPInstanceUID, or has one twice: no DICOM object can refer to it."
        problem = text, "Export the series again, or write NIfTI."
    elif _is_multiframe(headers[0]) and len(headers) > 1:
        text = "The series has several files of many frames, and a DICOM result refers to one such file only."
        problem = text, "Export the series as one file or as single slices, or write NIfTI."
    if problem:
        raise DataError(problem[0], where=where, remedy=problem[1])


def _is_multiframe(header: Header) -> bool:
    return "Enhanced" in (CT | MR)[header.sop_class]


def _details(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
    except UNREADABLE as error:
        text = f"The DICOM header cannot be read ({type(error).__name__})."
        raise DataError(text, where=path, remedy="Copy or export the file again.") from error


def _image(header: Header, planes: Planes, thickness: float) -> Dataset:
    """One file for highdicom: what identifies it, and where its slices lie."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = header.sop_class, header.instance
    image.StudyInstanceUID, image.SeriesInstanceUID = header.study, header.series
    image.Modality = header.modality
    image.Columns, image.Rows = header.size
    measures = planes.pixel_measures(thickness)
    if _is_multiframe(header):
        image.NumberOfFrames = len(header.slices)
        image.SharedFunctionalGroupsSequence = [Dataset()]
        image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
        image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = planes.plane_orientation()
        image.PerFrameFunctionalGroupsSequence = [_frame(item) for item in header.slices]
    else:
        image.update(measures[0])
        image.update(planes.plane_orientation()[0])
        image.update(_frame(header.slices[0]).PlanePositionSequence[0])
    return image


def _frame(item: Slice) -> Dataset:
    """The functional groups of a frame."""
    assert item.position is not None
    group = Dataset()
    group.PlanePositionSequence = plane_position(item.position)
    return group


def _thickness(details: Dataset) -> float | None:
    names = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
    groups = [group for name in names for group in (details.get(name) or ())[:1]]
    places = [details, *(measures for group in groups for measures in group.get("PixelMeasuresSequence") or ())]
    found = [value_of(place, "SliceThickness") for place in places]
    return next((float(str(value)) for value, is_valid in found if value and is_valid and float(str(value)) > 0), None)


def _frame_of_reference(details: Sequence[Dataset], series: str, remarks: list[str]) -> str:
    """The UID of the space that positions are given in; one of our own if the series has none."""
    found = [name for name in (text(each, "FrameOfReferenceUID") for each in details) if name]
    if not found:
        remarks.append("FrameOfReferenceUID: not in the series; the results of this series have one of their own.")
        return uid_of(series, "frame of reference")
    if len(set(found)) > 1:
        remarks.append("FrameOfReferenceUID: differs between the slices; that of the first is taken.")
    return found[0]


def _note_uids(images: Sequence[Dataset], remarks: list[str]) -> None:
    """Identifiers are kept whatever they look like: with others, nothing would belong together."""
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        if not all(is_valid_value(name, image[name].value) for image in images):
            remarks.append(f"{name}: not valid in the series; kept as it is, since the result refers to it.")


def _lossy(details: Sequence[Dataset], remarks: list[str]) -> Dataset:
    """What a result must say about pixels that were compressed with loss. Nothing if none were."""
    result = Dataset()
    compressed = next((each for each in details if text(each, "LossyImageCompression") == "01"), None)
    if compressed is None:
        return result
    result.LossyImageCompression = "01"
    for name in LOSSY:
        value, is_valid = value_of(compressed, name)
        if value and is_valid:
            setattr(result, name, value)
        else:
            remarks.append(f"{name}: not stated or not valid in a series that was compressed with loss; left out.")
    return result
