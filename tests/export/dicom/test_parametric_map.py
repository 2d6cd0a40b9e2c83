"""Maps of numbers keep every value in its place, and say what they measure."""

from __future__ import annotations

from datetime import datetime

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicomfiles import Geometry, ramp
from dicomresults import by_highdicom, by_pydicom

from medae.errors import DataError, GeometryError
from medae.export.dicom.codes import ANOMALY_SCORE, NO_UNITS, Code
from medae.export.dicom.identity import Algorithm
from medae.export.dicom.parametric_map import write_parametric_map
from medae.formats.dicom.read import read_series

OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)


def write(values, native, paths, path, window=(0.0, 2.0), quantity=ANOMALY_SCORE, when=None) -> tuple[str, ...]:
    return write_parametric_map(
        values,
        native,
        paths,
        path,
        quantity=quantity,
        unit=NO_UNITS,
        window=window,
        algorithm=Algorithm("ab" * 32),
        when=when,
    )


def scan(writer, **tags):
    tags = {"FrameOfReferenceUID": "1.2.3", "SliceThickness": "2", "StudyID": "1", "StudyTime": "10"} | tags
    tags |= {"ReferringPhysicianName": "A^B", "PositionReferenceIndicator": ""}
    paths = writer.series(ramp(), Geometry(orientation=OBLIQUE), places=range(5)[::-1], **tags)
    return paths, read_series(paths).native


@pytest.mark.parametrize("values", ["random", "constant", "double"])
def test_every_value_is_where_the_scan_has_it(tmp_path, writer, values):
    paths, native = scan(writer, Laterality="L")
    drawn = np.random.default_rng(0).normal(size=native.shape) * 1e3
    array = {"random": drawn.astype(np.float32), "constant": np.ones(native.shape, np.float32), "double": drawn}[values]
    path = tmp_path / "map.dcm"
    assert write(array, native, paths, path) == ()
    assert np.array_equal(by_pydicom(path, native), array.astype(np.float32))
    assert np.array_equal(by_highdicom(path, native), array.astype(np.float32))


def test_the_map_says_what_it_measures_and_how_to_show_it(tmp_path, writer):
    paths, native = scan(writer)
    path = tmp_path / "map.dcm"
    array = np.linspace(-3, 5, np.prod(native.shape)).reshape(native.shape)
    write(array, native, paths, path, (0.25, 0.75), Code.model_validate("99LONG A.1 " + "What it is " * 5))
    result = hd.pm.ParametricMap.from_file(path)
    shared = result.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "A.1"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert (mapping.DoubleFloatRealWorldValueFirstValueMapped, mapping.DoubleFloatRealWorldValueLastValueMapped) == (-3, 5)
    window = shared.FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth, window.VOILUTFunction) == (0.5, 0.5, "LINEAR_EXACT")
    source = pydicom.dcmread(paths[0])
    assert result.StudyInstanceUID == source.StudyInstanceUID and result.FrameOfReferenceUID == "1.2.3"
    assert result.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    group = result.PerFrameFunctionalGroupsSequence[0]
    assert group.DerivationImageSequence[0].SourceImageSequence[0].SpatialLocationsPreserved == "YES"


def test_the_same_map_of_the_same_time_is_the_same_file(tmp_path, writer):
    paths, native = scan(writer)
    array, when = np.zeros(native.shape), datetime(2026, 1, 2)
    for name in "ab":
        write(array, native, paths, tmp_path / name, when=when)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("bad", "window"), [(np.nan, (0, 1)), (np.inf, (0, 1)), (1e39, (0, 1)), (0.5, (1, 1)), (0.5, (0, np.nan))]
)
def test_values_and_windows_that_nothing_can_show_are_refused(tmp_path, writer, bad, window):
    paths, native = scan(writer)
    array = np.zeros(native.shape)
    array[1, 2, 3] = bad
    with pytest.raises(DataError, match="finite"):
        write(array, native, paths, tmp_path / "map.dcm", window)
    with pytest.raises(GeometryError, match="does not fit"):
        write(array[1:], native, paths, tmp_path / "map.dcm")


@pytest.mark.data
def test_a_map_of_a_real_series_comes_back_exactly(tmp_path, data_root):
    folders = sorted((data_root / "dicom" / "Study1").iterdir())
    paths = sorted(folders[1].iterdir())
    raw = read_series(paths)
    path = tmp_path / "map.dcm"
    assert write(raw.array / 7, raw.native, paths, path) == ()
    sparse = np.zeros(raw.array.shape, bool)
    sparse[::16, ::16] = True
    found = hd.pm.ParametricMap.from_file(path).get_volume()
    world = np.argwhere(sparse) @ raw.native.matrix()[:3, :3].T + raw.native.matrix()[:3, 3]
    inverse = np.linalg.inv(found.affine)
    places = world * (-1, -1, 1) @ inverse[:3, :3].T + inverse[:3, 3]
    nearest = np.rint(places).astype(int)
    assert (np.abs(places - nearest) * found.spacing).max() < 0.01
    assert np.array_equal(found.array[tuple(nearest.T)].astype(np.float32), (raw.array / 7)[sparse])
