"""Writes DICOM files for tests: series of CT and MR in any orientation, with any of the faults that real ones have.

Identity fields hold `SECRETS`, words that no output of medae may contain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRETS = ("Mustermann", "Erika", "PID4711", "19611224", "20260315", "ACC0815", "1.2.826.0.1.3680043", "Klinikum")

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
}

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Change = Callable[[int, Dataset], None]


@dataclass(frozen=True)
class Geometry:
    """LPS mm. orientation: of a row, then of a column. spacing: between rows, then between columns. step: from slice to
    slice, along the normal if it is a number.
    """

    origin: Sequence[float] = (-12.5, 7.25, 31.0)
    orientation: Sequence[float] = AXIAL
    spacing: Sequence[float] = (0.8, 1.2)
    step: float | Sequence[float] = 2.5

    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def position(self, place: float) -> np.ndarray:
        step = self.normal() * self.step if isinstance(self.step, float | int) else np.array(self.step)
        return np.array(self.origin) + place * step


@dataclass
class Writer:
    """Writes series of one study of one patient."""

    folder: Path
    patient: str = "PID4711"
    study: str = field(default_factory=generate_uid)

    def series(
        self,
        volume: np.ndarray,
        geometry: Geometry | None = None,
        *,
        modality: str = "MR",
        kind: str = "",
        name: str = "",
        number: int = 1,
        uid: str = "",
        places: Sequence[float] | None = None,
        change: Change | None = None,
        first: int = 1,
        **tags: Any,
    ) -> list[Path]:
        """Write ``volume``, ``[columns, rows, slices]`` of stored int16 values, a file a slice, in slice order.

        places: of the slices in units of the step. change: called with slice number and data set before it is written.
        """
        geometry, uid = geometry or Geometry(), uid or generate_uid()
        places = range(volume.shape[2]) if places is None else places
        paths = []
        for k, place in enumerate(places):
            dataset = self.dataset(CLASSES[kind or modality], modality, number, uid)
            dataset.InstanceNumber = first + k
            dataset.ImagePositionPatient = [decimal(value) for value in geometry.position(place)]
            dataset.ImageOrientationPatient = [decimal(value) for value in geometry.orientation]
            dataset.PixelSpacing = [decimal(value) for value in geometry.spacing]
            pixels(dataset, volume[:, :, k].T)
            if modality == "CT":
                dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
            for tag, value in tags.items():
                setattr(dataset, tag, value)
            if change is not None:
                change(k, dataset)
            paths.append(self.save(dataset, name or f"s{number}", f"{first + k:04d}"))
        return paths

    def enhanced(
        self,
        volumes: Sequence[np.ndarray],
        geometry: Geometry | None = None,
        *,
        modality: str = "MR",
        number: int = 1,
        shuffle: bool = False,
    ) -> Path:
        """Write one multi-frame file with a volume a temporal position."""
        geometry = geometry or Geometry()
        dataset = self.dataset(CLASSES[f"enhanced {modality}"], modality, number, generate_uid())
        frames, groups = [], []
        for time, volume in enumerate(volumes):
            for k in range(volume.shape[2]):
                group = Dataset()
                group.FrameContentSequence = item(TemporalPositionIndex=time + 1, InStackPositionNumber=k + 1, StackID="1")
                group.PlanePositionSequence = item(ImagePositionPatient=[decimal(value) for value in geometry.position(k)])
                frames.append(volume[:, :, k].T)
                groups.append(group)
        order = np.random.default_rng(0).permutation(len(frames)) if shuffle else range(len(frames))
        shared = Dataset()
        shared.PlaneOrientationSequence = item(ImageOrientationPatient=[decimal(value) for value in geometry.orientation])
        shared.PixelMeasuresSequence = item(PixelSpacing=list(geometry.spacing), SliceThickness=str(geometry.step))
        shared.PixelValueTransformationSequence = item(RescaleSlope="2", RescaleIntercept="-10", RescaleType="US")
        dataset.SharedFunctionalGroupsSequence = Items([shared])
        dataset.PerFrameFunctionalGroupsSequence = Items([groups[place] for place in order])
        dataset.NumberOfFrames = len(frames)
        dataset.InstanceNumber = 1
        pixels(dataset, np.stack([frames[place] for place in order]))
        return self.save(dataset, f"s{number}", "enhanced")

    def dataset(self, sop_class: str, modality: str, number: int, uid: str) -> FileDataset:
        """A data set with every identity field filled in."""
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Mustermann^Erika", self.patient, "19611224"
        dataset.PatientAge, dataset.PatientSex = "064Y", "F"
        dataset.StudyDate = dataset.SeriesDate = "20260315"
        dataset.AccessionNumber, dataset.InstitutionName = "ACC0815", "Klinikum"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study, uid
        dataset.FrameOfReferenceUID = generate_uid()
        dataset.Modality, dataset.SeriesNumber = modality, number
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.Manufacturer, dataset.ManufacturerModelName = "MAKER", "MODEL 1"
        return dataset

    def save(self, dataset: Dataset, *place: str) -> Path:
        """Write a file without an ending, in a folder that is called like the patient."""
        path = self.folder.joinpath("Mustermann_Erika", *place)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path


def decimal(value: float) -> str:
    """As a DICOM decimal string, of 16 characters at most."""
    return f"{value:.10g}"[:16]


def item(**tags: Any) -> Items:
    dataset = Dataset()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    return Items([dataset])


def pixels(dataset: Dataset, array: np.ndarray) -> None:
    """Set the pixels: int16 ``[rows, columns]`` or ``[frames, rows, columns]``."""
    dataset.Rows, dataset.Columns = array.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = np.ascontiguousarray(array, dtype="<i2").tobytes()


def compress(path: Path, kind: str) -> str:
    """Compress a classic file in place by GDCM (``JPEG2000``, ``JPEG`` lossless) or pydicom (``RLE``); the new syntax."""
    import pydicom

    dataset = pydicom.dcmread(path)
    if kind == "RLE":
        dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    else:
        beside = path.with_name("compressed.dcm")
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(beside))
        writer.SetUseCompression(True)
        writer.SetCompressor(kind)
        writer.Execute(sitk.GetImageFromArray(dataset.pixel_array))
        other = pydicom.dcmread(beside)
        beside.unlink()
        dataset.PixelData = encapsulate(list(generate_fragments(other.PixelData))[1:])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = other.file_meta.TransferSyntaxUID
    dataset.save_as(path)
    return str(dataset.file_meta.TransferSyntaxUID)


def ramp(shape: Sequence[int] = (7, 6, 5)) -> np.ndarray:
    """Stored values that differ in every voxel, some negative: int16 ``[columns, rows, slices]``."""
    return (np.arange(np.prod(shape)).reshape(shape) * 3 - 100).astype(np.int16)


def world(geometry: Geometry, shape: Sequence[int], places: Sequence[float] | None = None) -> np.ndarray:
    """RAS mm of every voxel ``[columns, rows, slices, 3]``, directly from the standard's formula, voxel by voxel."""
    row, column = np.array(geometry.orientation[:3]), np.array(geometry.orientation[3:])
    between_rows, between_columns = geometry.spacing
    result = np.empty((*shape, 3))
    for k in range(shape[2]):
        origin = geometry.position(k if places is None else places[k])
        for j in range(shape[1]):
            for i in range(shape[0]):
                lps = origin + row * between_columns * i + column * between_rows * j
                result[i, j, k] = lps * (-1, -1, 1)
    return result
