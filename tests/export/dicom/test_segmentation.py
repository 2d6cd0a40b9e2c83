"""Segmentations lie where the labels lie, for every reader, say what they show and refer to their series."""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicomfiles import SECRETS, Geometry, Writer, ramp
from dicomresults import by_highdicom, by_pydicom, by_simpleitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.errors import DataError, GeometryError
from medae.export.dicom.codes import SegmentCode
from medae.export.dicom.identity import Algorithm
from medae.export.dicom.segmentation import write_segmentation
from medae.formats.dicom.read import read_series
from medae.volume import NativeGrid

ALGORITHM = Algorithm(digest="0123456789abcdef" * 4)
NAMES = {0: "background", 1: "Liver", 2: "liver tumour"}
COMPLETE = {
    "FrameOfReferenceUID": "1.2.3",
    "StudyTime": "101112",
    "StudyID": "S1",
    "ReferringPhysicianName": "",
    "PositionReferenceIndicator": "",
    "SliceThickness": "2",
}
SHAPE = (7, 6, 5)
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": tuple(Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()[:, :2].T.ravel()),
}


def scan(writer: Writer, geometry: Geometry | None = None, shape=SHAPE, **tags) -> tuple[list[Path], NativeGrid]:
    """Files of a series, and the grid that medae reads them on."""
    paths = writer.series(ramp(shape), geometry, **(COMPLETE | tags))
    return paths, read_series(paths).native


def labels_on(native: NativeGrid, highest: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, highest + 1, native.shape).astype(np.int16)


def write(labels, native, paths, path, names=NAMES, codes=None, **more) -> tuple[str, ...]:
    return write_segmentation(labels, native, paths, path, names=names, codes=codes or {}, algorithm=ALGORITHM, **more)


@pytest.mark.parametrize(("is_reversed", "kind"), [(False, "LABELMAP"), (True, "BINARY")])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_labelled_voxel_is_where_the_scan_has_it(tmp_path, writer, orientation, is_reversed, kind):
    places = range(SHAPE[2])[::-1] if is_reversed else range(SHAPE[2])
    paths, native = scan(writer, Geometry(orientation=orientation), places=places)
    labels, path = labels_on(native), tmp_path / "out" / "seg.dcm"
    assert write(labels, native, paths[::2] + paths[1::2], path, kind=kind) == ()
    assert np.array_equal(by_pydicom(path, native), labels)
    assert np.array_equal(by_highdicom(path, native), labels)
    assert [each.name for each in path.parent.iterdir()] == ["seg.dcm"]


def test_slices_of_a_few_pixels_are_refused(tmp_path, writer):
    paths, native = scan(writer, shape=(2, 3, 4))
    with pytest.raises(GeometryError, match="8 pixels"):
        write(labels_on(native), native, paths, tmp_path / "seg.dcm")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    step=st.floats(0.3, 9),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_three_readers_agree_in_any_orientation(tmp_path_factory, turn, spacing, step, origin):
    folder = tmp_path_factory.mktemp("any")
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    geometry = Geometry(origin, tuple(matrix[:, :2].T.ravel()), spacing, step)
    paths, native = scan(Writer(folder / "tree"), geometry, (8, 5, 4))  # ITK loses pixels beyond the last whole byte
    labels, path = labels_on(native, 1), folder / "seg.dcm"
    labels[0, 0, :] = 1  # ITK wants a frame a slice
    write(labels, native, paths, path, names={1: "liver"})
    for read in (by_pydicom, by_highdicom, by_simpleitk):
        assert np.array_equal(read(path, native), labels)


def test_frames_refer_to_their_slices_and_the_file_to_study_patient_and_space(tmp_path, writer):
    paths, native = scan(writer, Geometry(orientation=ORIENTATIONS["oblique"]), SpacingBetweenSlices="-99")
    path = tmp_path / "seg.dcm"
    write(labels_on(native), native, paths, path)
    result, source = pydicom.dcmread(path), pydicom.dcmread(paths[0])
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "StudyDate", "FrameOfReferenceUID"):
        assert result[name].value == source[name].value
    assert result.SeriesInstanceUID != source.SeriesInstanceUID
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert len(result.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]
    measures = result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5, abs=1e-6)
    at = {str(each.SOPInstanceUID): each.ImagePositionPatient for each in map(pydicom.dcmread, paths)}
    for group in result.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        assert image.SpatialLocationsPreserved == "YES"
        assert at[image.ReferencedSOPInstanceUID] == group.PlanePositionSequence[0].ImagePositionPatient


def test_segments_say_what_they_are_and_what_made_them(tmp_path, writer):
    paths, native = scan(writer)
    path = tmp_path / "seg.dcm"
    own = SegmentCode.model_validate({"category": "SCT 49755003 Abnormal", "type": "99MINE X1 My thing"})
    names = {1: "Hippocampus_anterior", 2: "left kidney", 3: "lung nodule", 4: "ROI\\7\n", 5: "Ganz_Eigenes", 6: "LIVER"}
    codes = {"ganz eigenes": own, "liver": own}
    remarks = write(labels_on(native, 6), native, paths, path, names, codes)
    assert remarks == ("Label 'ROI\\7\n': in no table of codes; written as Tissue under its name.",)
    segments = hd.seg.segread(path).SegmentSequence
    types = [each.segmented_property_type for each in segments]
    assert [each.meaning for each in types] == ["Hippocampus", "Kidney", "Nodule", "Tissue", "My thing", "My thing"]
    assert [each.segment_label for each in segments][2:4] == ["lung nodule", "ROI 7"]
    modifiers = [each.get("SegmentedPropertyTypeModifierCodeSequence") for each in types]
    assert [each and each[0].CodeMeaning for each in modifiers] == ["Anterior", "Left", None, None, None, None]
    assert segments[2].anatomic_regions[0].meaning == "Lung"
    made_by = segments[0].algorithm_identification[0]
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == (ALGORITHM.name, ALGORITHM.version)
    assert made_by.AlgorithmParameters == f"model={ALGORITHM.digest}"


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_scan_without_a_finding_gives_a_valid_segmentation_of_empty_frames(tmp_path, writer, kind):
    paths, native = scan(writer)
    path = tmp_path / "seg.dcm"
    remarks = write(np.zeros(native.shape, np.uint8), native, paths, path, kind=kind)
    assert remarks == tuple(f"Label '{NAMES[value]}': does not occur; its segment is empty." for value in (1, 2))
    result = pydicom.dcmread(path)
    assert result.NumberOfFrames == len(result.PerFrameFunctionalGroupsSequence) == SHAPE[2] * (2 if kind == "BINARY" else 1)
    assert not result.pixel_array.any()
    assert not by_highdicom(path, native).any()


def test_a_label_that_does_not_occur_is_described_and_has_no_frames(tmp_path, writer):
    paths, native = scan(writer)
    labels, path = np.zeros(native.shape, np.int32), tmp_path / "seg.dcm"
    labels[3, 2, 4] = 2
    remarks = write(labels, native, paths, path)
    assert remarks == ("Label 'Liver': does not occur; its segment is empty.",)
    result = pydicom.dcmread(path)
    assert (result.NumberOfFrames, len(result.SegmentSequence)) == (1, 2)
    assert np.array_equal(by_pydicom(path, native), labels)
    assert np.array_equal(by_highdicom(path, native), labels)


def test_gaps_between_label_values_close_unless_the_file_is_a_label_map(tmp_path, writer):
    paths, native = scan(writer)
    labels, names = labels_on(native) * 300, {600: "spleen", 300: "liver"}
    remarks = write(labels, native, paths, tmp_path / "seg.dcm", names)
    assert remarks == (
        "Label 'liver': of value 300, is segment 1; segments count from 1.",
        "Label 'spleen': of value 600, is segment 2; segments count from 1.",
    )
    assert np.array_equal(by_pydicom(tmp_path / "seg.dcm", native), labels // 300)
    assert write(labels, native, paths, tmp_path / "map.dcm", names, kind="LABELMAP") == ()
    assert np.array_equal(by_pydicom(tmp_path / "map.dcm", native), labels)


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (np.full(SHAPE, 3), NAMES, "without a name: 3"),
        (np.full(SHAPE, -1), NAMES, "whole numbers"),
        (np.full(SHAPE, 70000), NAMES, "whole numbers"),
        (np.ones(SHAPE), NAMES, "whole numbers"),
        (np.ones(SHAPE, int), {0: "background"}, "no labels"),
    ],
)
def test_labels_that_make_no_segment_are_refused(tmp_path, writer, labels, names, words):
    paths, native = scan(writer)
    with pytest.raises(DataError, match=words):
        write(labels, native, paths, tmp_path / "seg.dcm", names)
    with pytest.raises(GeometryError, match="do not fit"):
        write(labels[1:], native, paths, tmp_path / "seg.dcm", names)
    assert not (tmp_path / "seg.dcm").exists()


def test_the_same_result_of_the_same_time_is_the_same_file_and_another_has_other_identifiers(tmp_path, writer):
    paths, native = scan(writer)
    when, labels = datetime(2026, 3, 4, 5, 6, 7), labels_on(native)
    files = [tmp_path / f"{name}.dcm" for name in "abcd"]
    write(labels, native, paths, files[0], when=when)
    write(np.asfortranarray(labels), native, paths[::-1], files[1], when=when)
    write(labels[::-1], native, paths, files[2], when=when)
    write(labels, native, paths, files[3])
    assert files[0].read_bytes() == files[1].read_bytes()
    results = [pydicom.dcmread(file) for file in files[1:]]
    assert len({each.SOPInstanceUID for each in results}) == len({each.SeriesInstanceUID for each in results}) == 3
    assert (results[0].ContentDate, results[0].ContentTime) == ("20260304", "050607")


def test_pixels_of_an_odd_number_of_bytes_end_with_a_zero(tmp_path, writer):
    paths, native = scan(writer)
    labels, path = np.zeros(native.shape, np.uint8), tmp_path / "seg.dcm"
    labels[:, :, 1:3] = 1  # 84 pixels, 11 bytes
    write(labels, native, paths, path, names={1: "liver"})
    assert pydicom.dcmread(path).PixelData == bytes([255] * 10 + [15, 0])


def test_a_disk_that_refuses_is_named_and_nothing_stays_behind(tmp_path, writer):
    paths, native = scan(writer)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write(labels_on(native), native, paths, tmp_path / "file" / "seg.dcm")
    (tmp_path / "taken.dcm").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write(labels_on(native), native, paths, tmp_path / "taken.dcm")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken.dcm", "tree"]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")  # of the writer of the series
def test_no_value_of_the_headers_reaches_remarks_or_warnings(tmp_path, writer):
    faults = {
        "PatientName": "Mustermann" * 9,
        "PatientBirthDate": "24.12.1961",
        "StudyDate": "19611224-20260315",
        "StudyTime": "x",
    }
    paths, native = scan(writer, **faults)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        remarks = write(labels_on(native), native, paths, tmp_path / "seg.dcm")
    said = " ".join([*remarks, *(str(each.message) for each in caught)])
    assert [name in said for name in faults] == [True] * 4
    assert not [secret for secret in SECRETS if secret in said]
    assert not caught


@pytest.mark.data
def test_real_series_come_back_exactly(tmp_path, data_root):
    folders = sorted((data_root / "dicom" / "Study1").iterdir())
    paths = sorted(folders[0].iterdir())
    raw = read_series(paths)
    labels = np.digitize(raw.array, np.quantile(raw.array, [0.9, 0.98])).astype(np.uint8)
    labels[:, :, :2] = 0
    remarks = write(labels, raw.native, paths, tmp_path / "seg.dcm", {1: "brain", 2: "glioma"})
    assert remarks == ()
    assert np.array_equal(by_pydicom(tmp_path / "seg.dcm", raw.native), labels)
    assert np.array_equal(by_highdicom(tmp_path / "seg.dcm", raw.native), labels)
