"""Results of good and of faulty series have no error for dciodvfy, the validator of David Clunie's dicom3tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dicomfiles import Geometry, Writer, ramp

from medae.export.dicom.codes import ANOMALY_SCORE, NO_UNITS
from medae.export.dicom.identity import Algorithm
from medae.export.dicom.parametric_map import write_parametric_map
from medae.export.dicom.segmentation import write_segmentation
from medae.formats.dicom.read import read_series

NAMES = {1: "Kidney_left", 2: "glioma", 3: "something of ours"}
ALGORITHM = Algorithm("ab" * 32)
GOOD = {
    "FrameOfReferenceUID": "1.2.3",
    "StudyTime": "101112",
    "StudyID": "S1",
    "ReferringPhysicianName": "A^B",
    "PositionReferenceIndicator": "",
    "SliceThickness": "2",
    "Laterality": "L",
}
BAD = {
    "PatientBirthDate": "24.12.1961",
    "StudyDate": "20260230",
    "StudyTime": "25:61",
    "PatientSex": "female",
    "ReferringPhysicianName": "x" * 70,
    "PatientAge": "64",
    "StudyDescription": "y" * 65,
    "PatientIdentityRemoved": "YES",
    "LossyImageCompression": "maybe",
}
TERMS = {  # that are the standard's or our own, and not among those that dciodvfy knows
    "Warning - Unrecognized defined term <99MEDAE> for value 1 of attribute <Coding Scheme Designator>",
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Image Type>",
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Frame Type>",
}
NO_LABELMAP = {  # what a dciodvfy says that is older than label maps
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 (from one) "
    "with SegmentNumber of 0",
}

pytestmark = [
    pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed: it is part of dicom3tools"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),  # of the writer of the series
]


def complaints(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60)
    return {row for row in (done.stdout + done.stderr).splitlines() if row.startswith(("Error", "Warning"))}


def errors(found: set[str]) -> list[str]:
    return [row for row in found if row.startswith("Error")]


def results(paths: list[Path], folder: Path, highest: int = 3, kind="BINARY") -> tuple[set[str], set[str]]:
    """The complaints about a segmentation and a map of a series."""
    native = read_series(paths, resample_slices=True).native
    labels = np.random.default_rng(0).integers(0, highest + 1, native.shape).astype(np.uint8)
    files = folder / "seg.dcm", folder / "map.dcm"
    write_segmentation(labels, native, paths, files[0], names=NAMES, codes={}, algorithm=ALGORITHM, kind=kind)
    choices = {"quantity": ANOMALY_SCORE, "unit": NO_UNITS, "window": (0, 1), "algorithm": ALGORITHM}
    write_parametric_map(labels, native, paths, files[1], **choices)
    return complaints(files[0]), complaints(files[1])


@pytest.mark.parametrize("highest", [0, 1, 3])
def test_a_good_series_leaves_nothing_to_complain_about_but_terms(tmp_path, writer, highest):
    geometry = Geometry(orientation=(0.8, 0.6, 0.0, -0.48, 0.64, 0.6))
    segmentation, numbers = results(writer.series(ramp(), geometry, **GOOD), tmp_path, highest)
    assert segmentation == set()
    assert numbers <= TERMS


def bare(writer: Writer) -> list[Path]:
    def change(_, dataset):
        for name in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "FrameOfReferenceUID"):
            del dataset[name]

    return writer.series(ramp(), change=change)


SERIES = {
    "bare": bare,
    "invalid": lambda writer: writer.series(ramp(), **BAD),
    "tilted": lambda writer: writer.series(ramp(), Geometry(step=(0.0, 0.5, 2.0)), modality="CT", **GOOD),
    "uneven": lambda writer: writer.series(ramp(), places=(0, 1, 2.3, 3.1, 4), **GOOD),
    "multi-frame CT": lambda writer: [writer.enhanced([ramp()], modality="CT", shuffle=True)],
    "multi-frame MR": lambda writer: [writer.enhanced([ramp()])],
}


@pytest.mark.parametrize("make", SERIES.values(), ids=SERIES)
def test_other_series_have_results_without_errors(tmp_path, writer, make):
    segmentation, numbers = results(make(writer), tmp_path)
    assert errors(segmentation) == errors(numbers) == []


def test_a_label_map_has_no_error_but_of_a_validator_that_does_not_know_it(tmp_path, writer):
    segmentation, _ = results(writer.series(ramp(), **GOOD), tmp_path, kind="LABELMAP")
    assert segmentation <= NO_LABELMAP


@pytest.mark.data
def test_results_of_a_real_series_have_no_errors(tmp_path, data_root):
    folder = min((data_root / "dicom" / "Study1").iterdir())
    segmentation, numbers = results(sorted(folder.iterdir()), tmp_path)
    assert segmentation == set()
    assert errors(numbers) == []
