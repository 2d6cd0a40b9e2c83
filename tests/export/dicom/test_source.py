"""Faults of a series are repaired in its results, or named, or the series is refused; grids are checked."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicomfiles import SECRETS, Geometry, ramp
from dicomresults import by_highdicom, by_pydicom
from pydicom.uid import generate_uid

from medae.errors import DataError, GeometryError
from medae.export.dicom.codes import ANOMALY_SCORE, NO_UNITS
from medae.export.dicom.identity import Algorithm
from medae.export.dicom.parametric_map import write_parametric_map
from medae.export.dicom.segmentation import write_segmentation
from medae.export.dicom.source import read_source
from medae.formats.dicom.read import read_series
from medae.volume import NativeGrid

SPACE = {"FrameOfReferenceUID": "1.2.3"}
ALGORITHM = Algorithm("ab" * 32)


def grid(paths) -> NativeGrid:
    return read_series(paths, resample_slices=True).native


def segment(native, paths, path) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = np.random.default_rng(1).integers(0, 3, native.shape).astype(np.uint8)
    names = {1: "liver", 2: "spleen"}
    return labels, write_segmentation(labels, native, paths, path, names=names, codes={}, algorithm=ALGORITHM)


def written(paths, path) -> tuple[pydicom.Dataset, str]:
    """A segmentation of a series with faults, and the remarks; both kinds of result are valid and say the same."""
    native = grid(paths)
    labels, remarks = segment(native, paths, path)
    assert np.array_equal(by_pydicom(path, native), labels)
    other = path.with_name("map.dcm")
    choices = {"quantity": ANOMALY_SCORE, "unit": NO_UNITS, "window": (0, 2), "algorithm": ALGORITHM}
    assert write_parametric_map(labels, native, paths, other, **choices) == remarks
    said = "\n".join(remarks)
    assert not [secret for secret in SECRETS if secret in said]
    return pydicom.dcmread(path), said


def test_missing_attributes_are_written_empty_or_made_and_named(tmp_path, writer):
    gone = ["PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "FrameOfReferenceUID", "PatientName"]

    def change(_, dataset):
        for name in gone:
            del dataset[name]

    paths = writer.series(ramp(), change=change)
    path = tmp_path / "seg.dcm"
    result, said = written(paths, path)
    for name in (*gone, "StudyID", "StudyTime", "ReferringPhysicianName", "SliceThickness"):
        assert f"{name}: not in the series" in said
    assert not any(result[name].value for name in gone if name != "FrameOfReferenceUID")
    assert result.FrameOfReferenceUID == pydicom.dcmread(path.with_name("map.dcm")).FrameOfReferenceUID
    assert result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientBirthDate", "24.12.1961", None),
        ("StudyDate", "20260230", None),
        ("StudyTime", "25:61", None),
        ("PatientSex", "female", None),
        ("PatientSex", "f", "F"),
        ("ReferringPhysicianName", "x" * 70, None),
        ("PatientAge", "64", "absent"),
        ("PatientWeight", "heavy", "absent"),
        ("StudyDescription", "y" * 65, "absent"),
        ("DeidentificationMethod", ["a", "b"], ["a", "b"]),
        ("PatientIdentityRemoved", "yes", "YES"),
        ("Laterality", "left", None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_invalid_values_are_left_out_and_named(tmp_path, writer, keyword, value, expected):
    def change(_, dataset):
        if keyword == "PatientWeight":
            dataset.add_new("PatientWeight", "LO", value)  # as a file of implicit representation would have it
        else:
            setattr(dataset, keyword, value)

    paths = writer.series(ramp(), change=change, **SPACE)
    result, said = written(paths, tmp_path / "seg.dcm")
    assert (f"{keyword}: not valid" in said) == (expected is None or expected == "absent")
    assert len(str(value)) < 5 or str(value) not in said
    if keyword != "Laterality":
        assert result.get(keyword, "absent") in ((expected,) if expected else ("", None))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_what_tells_whose_the_result_is_stays_as_it_is_and_is_named(tmp_path, writer):
    faults = {"PatientID": "P" * 65, "PatientName": "Q" * 65, "AccessionNumber": "A" * 17, "SeriesInstanceUID": "1.02.3"}
    paths = writer.series(ramp(), uid="1.02.3", **(faults | {"FrameOfReferenceUID": "no uid"}))
    result, said = written(paths, tmp_path / "seg.dcm")
    for name in ("PatientID", "PatientName", "AccessionNumber"):
        assert result[name].value == faults[name]
    assert result.FrameOfReferenceUID == "no uid"
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.02.3"
    for name in (*faults, "FrameOfReferenceUID"):
        assert f"{name}: not valid in the series; kept as it is" in said


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.parametrize("thickness", ["thick", "0"])
def test_a_thickness_that_is_none_is_the_distance_between_slices(tmp_path, writer, thickness):
    def change(_, dataset):
        dataset.add_new("SliceThickness", "LO", thickness)
        dataset.add_new("LossyImageCompressionRatio", "LO", "much")
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"

    result, said = written(writer.series(ramp(), change=change, **SPACE), tmp_path / "seg.dcm")
    assert result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5
    assert "SliceThickness: not in the series or not valid" in said
    assert "LossyImageCompressionRatio: not stated or not valid" in said


def test_a_small_shear_stays_as_it_was_read(tmp_path, writer):
    paths = writer.series(ramp(), Geometry(step=(0.0, 0.003, 2.5)), **SPACE)
    result, said = written(paths, tmp_path / "seg.dcm")
    assert "tilted" not in said
    first, last = (result.PerFrameFunctionalGroupsSequence[place].PlanePositionSequence[0] for place in (0, 4))
    assert abs(first.ImagePositionPatient[1] - last.ImagePositionPatient[1]) == pytest.approx(0.012)


def test_names_in_any_character_set_come_through(tmp_path, writer):
    paths = writer.series(ramp(), SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen", **SPACE)
    result, _ = written(paths, tmp_path / "seg.dcm")
    assert result.PatientName == "Müller^Jürgen"
    assert result.SpecificCharacterSet == "ISO_IR 192"


def test_a_removed_identity_and_lossy_pixels_are_passed_on(tmp_path, writer):
    tags = {"PatientIdentityRemoved": "YES", "LossyImageCompression": "01", "LossyImageCompressionRatio": "9.5"}
    paths = writer.series(ramp(), **tags, **SPACE)
    result, said = written(paths, tmp_path / "seg.dcm")
    assert (result.PatientIdentityRemoved, result.DeidentificationMethod) == ("YES", "unknown")
    assert (result.LossyImageCompression, result.LossyImageCompressionRatio) == ("01", 9.5)
    assert "DeidentificationMethod: not stated" in said
    assert "LossyImageCompressionMethod: not stated" in said


def test_spaces_that_differ_between_slices_are_named(tmp_path, writer):
    paths = writer.series(ramp())
    result, said = written(paths, tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID: differs between the slices" in said
    assert result.FrameOfReferenceUID == pydicom.dcmread(paths[0]).FrameOfReferenceUID


def test_a_tilted_series_has_its_results_on_the_grid_it_was_read_onto(tmp_path, writer):
    paths = writer.series(ramp(), Geometry(step=(0.0, 0.5, 2.0)), modality="CT", **SPACE)
    result, said = written(paths, tmp_path / "seg.dcm")
    assert "tilted or uneven" in said
    assert result.Rows > 6
    group = result.PerFrameFunctionalGroupsSequence[0]
    assert group.DerivationImageSequence[0].SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    assert len(result.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5


@pytest.mark.parametrize("places", [(0, 1, 2, 4, 5), (0, 1, 2.3, 3.1, 4)], ids=["missing", "uneven"])
def test_an_uneven_series_has_its_results_on_even_slices(tmp_path, writer, places):
    paths = writer.series(ramp(), places=places, **SPACE)
    native, path = grid(paths), tmp_path / "seg.dcm"
    labels, remarks = segment(native, paths, path)
    assert any("tilted or uneven" in each for each in remarks)
    assert np.array_equal(by_pydicom(path, native), labels)
    assert np.array_equal(by_highdicom(path, native), labels)


@pytest.mark.parametrize(("modality", "shuffle"), [("CT", False), ("MR", True)])
def test_results_refer_to_the_frames_of_a_multi_frame_file(tmp_path, writer, modality, shuffle):
    file = writer.enhanced([ramp()], Geometry(orientation=(0, 1, 0, 0, 0, -1)), modality=modality, shuffle=shuffle)
    native, path = grid([file]), tmp_path / "seg.dcm"
    labels, _ = segment(native, [file], path)
    assert np.array_equal(by_pydicom(path, native), labels)
    assert np.array_equal(by_highdicom(path, native), labels)
    source = pydicom.dcmread(file)
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        frame = source.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
        assert frame.PlanePositionSequence == group.PlanePositionSequence


def test_frames_with_groups_of_their_own_are_read(tmp_path, writer):
    file = writer.enhanced([ramp()])
    dataset = pydicom.dcmread(file)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence, group.PixelMeasuresSequence = (
            shared.PlaneOrientationSequence,
            shared.PixelMeasuresSequence,
        )
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    dataset.save_as(file)
    labels, remarks = segment(grid([file]), [file], tmp_path / "seg.dcm")
    assert np.array_equal(by_pydicom(tmp_path / "seg.dcm", grid([file])), labels)
    assert not any("SliceThickness" in each for each in remarks)


def test_series_that_nothing_can_refer_to_are_refused(tmp_path, writer):
    def refused(paths, native, words, kind=DataError):
        with pytest.raises(kind, match=words) as caught:
            read_source(paths, native)
        assert not [secret for secret in SECRETS if secret in caught.value.what]

    paths = writer.series(ramp(), **SPACE)
    native = grid(paths)
    refused(paths[:1], native, "single slice", GeometryError)
    refused(paths[:4], native, "grid", GeometryError)
    moved = writer.series(ramp(), Geometry(origin=(0, 0, 0.02)), number=2, **SPACE)
    refused(moved, native, "grid", GeometryError)
    far = Geometry(origin=(-12.5, 7.25, 31.0 + 2.5 * 5))
    other = writer.series(ramp(), far, number=3, **SPACE)
    refused([*paths, *other], native, "several DICOM series")
    refused(writer.series(ramp(), number=4, SOPInstanceUID="1.2.3", **SPACE), native, "StudyInstanceUID or SOPInstanceUID")
    refused(writer.series(ramp(), number=5, StudyInstanceUID="", **SPACE), native, "StudyInstanceUID or SOPInstanceUID")
    (tmp_path / "text").write_text("no DICOM")
    refused([tmp_path / "text"], native, "not DICOM")


def test_several_multi_frame_files_are_refused(writer):
    uid = generate_uid()
    files = [writer.enhanced([ramp((7, 6, 3))], Geometry(origin=(0, 0, 7.5 * place)), number=place) for place in (1, 2)]
    for file in files:
        one = pydicom.dcmread(file)
        one.SeriesInstanceUID = uid
        one.save_as(file)
    with pytest.raises(DataError, match="several files of many frames"):
        read_source(files, grid(files))
