"""Series that are read: every voxel where its header has it, with its stored value x slope + intercept."""

from __future__ import annotations

import random
import sys
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk
from dicomfiles import SECRETS, Geometry, Writer, compress, item, ramp, world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medae.data.remarks import corners_apart
from medae.errors import DataError, GeometryError, MedaeError
from medae.formats.dicom import convert
from medae.formats.dicom.headers import read_header
from medae.formats.dicom.judge import Rules, judge
from medae.formats.dicom.read import read_series
from medae.formats.dicom.verify import same_grid
from medae.formats.read import read_raw, read_volume

AXES = np.concatenate([np.eye(3), -np.eye(3)])
ORIENTATIONS = [(*row, *column) for row, column in permutations(AXES, 2) if abs(row @ column) < 0.5]


def coordinates(raw) -> np.ndarray:
    """RAS mm of every voxel of a raw image."""
    places = np.stack(np.meshgrid(*map(np.arange, raw.array.shape), indexing="ij"), axis=-1)
    affine = raw.native.matrix()
    return places @ affine[:3, :3].T + affine[:3, 3]


def stack_of(paths):
    """The stack of files that are one volume."""
    (stack,) = judge([read_header(path) for path in paths], Rules()).volumes
    return stack


def by_simpleitk_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array ``[columns, rows, slices]`` and affine (RAS) as SimpleITK's own series reader has them."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    step = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return array, np.diag([-1, -1, 1, 1]) @ nib.affines.from_matvec(step, image.GetOrigin())


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda row: "".join(f"{value:+.0f}" for value in row))
def test_every_voxel_is_where_its_header_has_it(writer, orientation, is_reversed):
    geometry, volume = Geometry(orientation=orientation), ramp()
    written = volume[:, :, ::-1] if is_reversed else volume
    places = range(5)[::-1] if is_reversed else range(5)
    paths = writer.series(written, geometry, places=places)
    random.Random(0).shuffle(paths)
    raw = read_series(paths)
    assert np.array_equal(raw.array, volume)
    assert np.abs(coordinates(raw) - world(geometry, volume.shape)).max() < 1e-6
    array, affine = by_simpleitk_series(paths[0].parent)
    assert np.array_equal(raw.array, array)
    assert corners_apart(array.shape, raw.native.matrix(), affine) < 0.01


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    step=st.floats(0.3, 9),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9), st.integers(2, 6)),
)
def test_oblique_series_of_any_spacing(tmp_path_factory, turn, spacing, step, origin, shape):
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    orientation = [float(f"{value:.6f}") for value in (*matrix[:, 0], *matrix[:, 1])]  # as scanners round them
    geometry = Geometry(origin, orientation, spacing, step)
    paths = Writer(tmp_path_factory.mktemp("oblique")).series(ramp(shape), geometry)
    raw = read_series(paths[::-1])
    assert np.abs(coordinates(raw) - world(geometry, shape)).max() < 0.01
    assert np.array_equal(raw.array, ramp(shape))


def test_slices_with_positions_rounded_to_hundredths_are_regular(writer):
    geometry = Geometry(step=0.625)

    def rounded(_: int, dataset) -> None:
        dataset.ImagePositionPatient = [f"{float(value):.2f}" for value in dataset.ImagePositionPatient]

    raw = read_series(writer.series(ramp((4, 4, 16)), geometry, change=rounded))
    assert np.abs(coordinates(raw) - world(geometry, (4, 4, 16))).max() < 0.01


def test_rescaling_of_ct_and_of_each_slice_by_itself(writer):
    ct = read_series(writer.series(ramp(), modality="CT"))
    assert np.array_equal(ct.array, ramp() - 1024.0)
    assert ct.array.dtype == np.float32

    def scale(k: int, dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{1.5 + k}", f"{-k}"

    mr = read_series(writer.series(ramp(), number=2, change=scale))
    factors = 1.5 + np.arange(5)
    assert np.allclose(mr.array, ramp() * factors - np.arange(5), rtol=1e-6)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_slope_of_two_slices_that_are_neither_first_middle_nor_last(writer, modality, empty):
    """dcm2niix applies the first slice's to all. An empty slice, with nothing but zeros, does not show it."""

    def scale(k: int, dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "2" if k in (2, 3) else "1", "0"

    volume = ramp((7, 6, 9))
    volume[:, :, 2] *= not empty
    found = read_series(writer.series(volume, modality=modality, change=scale))
    assert np.array_equal(found.array, volume * np.array([1.0, 1, 2, 2, 1, 1, 1, 1, 1]))


def test_slopes_that_differ_and_cannot_be_verified_are_refused(writer, monkeypatch):
    def scale(k: int, dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "2" if k in (2, 3) else "1", "0"

    paths = writer.series(ramp((7, 6, 9)), change=scale)
    monkeypatch.setattr("medae.formats.dicom.verify.values_of", lambda _: None)
    monkeypatch.setattr(convert, "_read", _undecodable)
    with pytest.raises(DataError, match=r"dcm2niix: its values in slice 1, where slopes differ .*; SimpleITK: "):
        read_series(paths)


def _undecodable(_):
    raise convert.Unconverted("its pixels cannot be decoded")


@pytest.mark.parametrize("way", [convert.by_dcm2niix, convert.by_simpleitk])
@pytest.mark.parametrize("kind", ["RLE", "JPEG2000", "JPEG"])
def test_compressed_series(writer, kind, way):
    paths = writer.series(ramp((32, 24, 3)))
    syntaxes = {compress(path, kind) for path in paths}
    assert all(pydicom.uid.UID(syntax).is_compressed for syntax in syntaxes)
    assert np.array_equal(way(stack_of(paths)), ramp((32, 24, 3)))


REAL = Path(pydicom.data.__file__).parent / "test_files"


@pytest.mark.parametrize("way", [convert.by_dcm2niix, convert.by_simpleitk])
@pytest.mark.parametrize("kind", ["RLE", "implicit", "bigendian", "jp2klossless", "jpeg_ls_lossless"])
def test_pixels_of_a_scanner_in_several_transfer_syntaxes(tmp_path, kind, way):
    """One slice of an MR that comes with pydicom, put in three places."""
    paths = []
    for k in range(3):
        dataset = pydicom.dcmread(REAL / f"MR_small_{kind}.dcm")
        dataset.ImagePositionPatient[2] += k * 5
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        paths.append(tmp_path / f"{k}")
        dataset.save_as(paths[-1])
    expected = pydicom.dcmread(REAL / "MR_small.dcm").pixel_array.T
    found = way(stack_of(paths))
    assert all(np.array_equal(found[:, :, k], expected) for k in range(3))


@pytest.mark.parametrize("way", [convert.by_dcm2niix, convert.by_simpleitk])
@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_both_ways_by_themselves(writer, way, orientation):
    paths = writer.series(ramp(), Geometry(orientation=orientation), modality="CT")
    assert np.array_equal(way(stack_of(paths)), ramp() - 1024.0)


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_deflated_files(writer):
    paths = writer.series(ramp())
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    assert np.array_equal(read_series(paths).array, ramp())


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_unsigned_and_eight_bit_values(writer, dtype):
    top = np.iinfo(dtype).max

    def store(k: int, dataset) -> None:
        values = (np.arange(42).reshape(6, 7) + top - 45 - k).astype(dtype)
        dataset.PixelRepresentation = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * dtype().itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelData = values.tobytes()
        dataset["PixelData"].VR = "OB" if dtype is np.uint8 else "OW"

    raw = read_series(writer.series(ramp(), change=store))
    expected = np.arange(42).reshape(6, 7).T[:, :, None] + top - 45 - np.arange(5)
    assert np.array_equal(raw.array, expected)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_one_volume_of_many_frames(writer, modality, shuffle):
    geometry = Geometry(orientation=(0, 1, 0, 0, 0, -1))
    path = writer.enhanced([ramp()], geometry, modality=modality, shuffle=shuffle)
    raw = read_series([path])
    assert np.array_equal(raw.array, ramp() * 2.0 - 10)
    assert np.abs(coordinates(raw) - world(geometry, ramp().shape)).max() < 0.01


def test_frames_with_a_slope_of_their_own(writer):
    path = writer.enhanced([ramp()])
    dataset = pydicom.dcmread(path)
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence = item(RescaleSlope=f"{1 + k}", RescaleIntercept=f"{-k}", RescaleType="US")
    dataset.save_as(path)
    assert np.array_equal(read_series([path]).array, ramp() * (1.0 + np.arange(5)) - np.arange(5))


def scaled_otherwise(writer, modality: str) -> tuple[Path, np.ndarray]:
    """An enhanced file whose frames 2 and 6 have a slope and an intercept of their own, and its values."""
    volume = ramp((7, 6, 9))
    path = writer.enhanced([volume], modality=modality)
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0].pop("PixelValueTransformationSequence")
    assert shared is not None
    slopes, intercepts = np.ones(9), np.zeros(9)
    slopes[[2, 6]], intercepts[[2, 6]] = 3, 7
    for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        group.PixelValueTransformationSequence = item(
            RescaleSlope=f"{slopes[k]:g}", RescaleIntercept=f"{intercepts[k]:g}", RescaleType="US"
        )
    dataset.save_as(path)
    return path, volume * slopes + intercepts


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_two_frames_that_are_scaled_otherwise(writer, modality):
    path, expected = scaled_otherwise(writer, modality)
    assert np.array_equal(read_series([path]).array, expected)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_two_frames_that_are_scaled_otherwise_without_pydicom_are_refused(writer, monkeypatch, modality):
    path, _ = scaled_otherwise(writer, modality)
    for module in ("verify", "convert"):
        monkeypatch.setattr(f"medae.formats.dicom.{module}.values_of", lambda _: None)
    with pytest.raises(DataError, match=r"dcm2niix: .*SimpleITK: .*slope of its own"):
        read_series([path])


def test_the_same_without_dcm2niix(writer, monkeypatch):
    geometry = Geometry(orientation=(0, 0.6, -0.8, 0, 0.8, 0.6))
    paths = writer.series(ramp(), geometry, modality="CT")
    expected = read_series(paths)
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    found = read_series(paths)
    assert np.array_equal(found.array, expected.array)
    assert found.native == expected.native


class Program:
    """Stands for a converter's result that is wrong in one way."""

    def __init__(self, change) -> None:
        self.change = change

    def __call__(self, array, affine, stack):
        return same_grid(*self.change(array, affine), stack)


WRONG = {
    "moved": lambda array, affine: (array, nib.affines.from_matvec(affine[:3, :3], affine[:3, 3] + 0.02)),
    "mirrored": lambda array, affine: (array[::-1], affine),
    "cut": lambda array, affine: (array[1:], affine),
    "two volumes": lambda array, affine: (np.stack([array, array], axis=-1), affine),
    "other values": lambda array, affine: (array + 0.5, affine),
    "slices exchanged": lambda array, affine: (array[:, :, ::-1], affine),
    "singular": lambda array, affine: (array, affine * 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_of_dcm2niix_is_noticed_and_simpleitk_read_instead(writer, monkeypatch, name):
    paths = writer.series(ramp())
    expected = read_series(paths)
    monkeypatch.setattr(convert, "same_grid", Program(WRONG[name]))
    with pytest.raises(convert.Unconverted):
        convert.by_dcm2niix(stack_of(paths))
    assert np.array_equal(read_series(paths).array, expected.array)


def test_when_neither_agrees_both_reasons_are_named(writer, monkeypatch):
    paths = writer.series(ramp())
    monkeypatch.setattr(convert, "same_grid", Program(WRONG["moved"]))
    monkeypatch.setattr(convert, "same_plane", lambda *_: "it lies elsewhere")
    with pytest.raises(
        DataError, match=r"dcm2niix: its corners .* 0\.0346 mm .*SimpleITK: slice 1: it lies elsewhere"
    ) as error:
        read_series(paths)
    assert not any(word in error.value.what for word in SECRETS)


def test_dcm2niix_that_hangs_or_fails(writer, monkeypatch, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    paths = writer.series(ramp())
    monkeypatch.setattr("dcm2niix.bin", str(slow))
    monkeypatch.setattr(convert, "SECONDS", 0.2)
    monkeypatch.setattr(convert, "SECONDS_A_FILE", 0.0)
    assert np.array_equal(read_series(paths).array, ramp())
    monkeypatch.setattr("dcm2niix.bin", str(tmp_path / "nowhere"))
    assert np.array_equal(read_series(paths).array, ramp())


def test_dcm2niix_leaves_nothing_behind(writer, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = {path: path.read_bytes() for path in writer.series(ramp())}
    read_series(list(before))
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path: path.read_bytes() for path in before} == before


def test_gaps_and_uneven_slices_are_refused_or_resampled(writer):
    gap = writer.series(ramp((4, 4, 6)), places=[0, 1, 2, 5, 6, 7], number=1)
    with pytest.raises(GeometryError, match="lacks 2 slices"):
        read_series(gap)
    filled = read_series(gap, resample_slices=True)
    assert filled.array.shape == (4, 4, 8)
    assert np.abs(coordinates(filled) - world(Geometry(), (4, 4, 8))).max() < 0.01
    volume = ramp((4, 4, 6)).astype(float)
    assert np.allclose(filled.array[:, :, [0, 1, 2, 5, 6, 7]], volume, atol=1e-3)
    assert np.allclose(filled.array[:, :, 3], volume[:, :, 2] * 2 / 3 + volume[:, :, 3] / 3, atol=1e-3)

    uneven = writer.series(ramp((4, 4, 5)), places=[0, 1, 2.2, 3, 4.4], number=2)
    with pytest.raises(GeometryError, match="uneven distances"):
        read_series(uneven)
    even = read_series(uneven, resample_slices=True)
    assert np.allclose(np.diff(coordinates(even)[0, 0, :, 2]), 2.5 * 4.4 / 4)
    assert np.allclose(even.array[:, :, [0, -1]], ramp((4, 4, 5))[:, :, [0, -1]], atol=1e-3)


def test_resampling_keeps_a_ramp_along_the_normal(writer):
    places = [0, 1, 2.3, 3.1, 4, 6]
    values = np.broadcast_to(np.rint(np.array(places) * 100), (5, 4, 6)).astype(np.int16)
    raw = read_series(writer.series(values, places=places), resample_slices=True)
    depth = (coordinates(raw)[..., 2] - 31.0) / 2.5
    assert np.allclose(raw.array, depth * 100, atol=0.01)


@pytest.mark.parametrize("angle", [-25.0, 8.0, 20.0])
def test_a_sphere_in_a_tilted_series_stays_a_sphere(writer, angle):
    """CT with the gantry tilted: slices are turned about the x axis, the table moves along z."""
    tilt = np.radians(angle)
    orientation = (1.0, 0.0, 0.0, 0.0, np.cos(tilt), np.sin(tilt))
    shape, centre, radius, step = (64, 64, 36), np.array([1.0, 3.0, 2.0]), 18.0, np.array([0.0, 0.0, 1.5])
    corner = centre + np.array([0.3, -0.2, 0.4]) - 31.5 * (np.array(orientation[:3]) + orientation[3:]) - 17.5 * step
    geometry = Geometry(corner, orientation, (1.0, 1.0), step)
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    lps = geometry.origin + i[..., None] * np.array(orientation[:3]) + j[..., None] * np.array(orientation[3:])
    lps = lps + k[..., None] * step
    soft = np.clip(radius - np.linalg.norm(lps - centre, axis=-1) + 0.5, 0, 1)  # partial volume at the surface
    raw = read_series(writer.series((soft * 1000).astype(np.int16), geometry, modality="CT"))
    affine = raw.native.matrix()
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6), "the grid is upright"
    assert raw.array.shape[1] > shape[1], "the field of view grew"
    assert raw.array.min() == -1024.0
    weight = np.clip((raw.array + 1024.0) / 1000.0, 0, 1)
    where = coordinates(raw)
    volume = weight.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    middle = (where * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    assert np.allclose(middle, centre * (-1, -1, 1), atol=0.05)
    apart = (where - middle).reshape(-1, 3)
    moments = apart.T @ (apart * weight.reshape(-1, 1)) / weight.sum()
    assert np.allclose(moments, np.eye(3) * radius**2 / 5, atol=0.02 * radius**2 / 5)
    extent = np.array([np.ptp(axis[weight > 0.5]) for axis in np.moveaxis(where, -1, 0)])
    assert np.allclose(extent, 2 * radius, atol=2.0)


def test_a_tilted_series_keeps_every_slice_at_its_place(writer):
    geometry = Geometry(step=(0.0, 1.6, 2.5), spacing=(0.8, 1.2))  # two whole rows from slice to slice
    raw = read_series(writer.series(ramp(), geometry))
    assert raw.array.shape == (7, 6 + 2 * 4, 5)
    for k in range(5):
        assert np.array_equal(raw.array[:, 2 * k : 2 * k + 6, k], ramp()[:, :, k])
    outside = raw.array.copy()
    for k in range(5):
        outside[:, 2 * k : 2 * k + 6, k] = ramp().min()
    assert (outside == ramp().min()).all()
    first = world(geometry, ramp().shape)
    assert np.abs(coordinates(raw)[:, :6, 0] - first[:, :, 0]).max() < 1e-6
    assert np.abs(coordinates(raw)[:, 8:14, 4] - first[:, :, 4]).max() < 1e-6


def test_tilted_with_a_gap(writer):
    geometry = Geometry(step=(0.0, 1.6, 2.5))
    paths = writer.series(ramp(), geometry, places=[0, 1, 3, 4, 5])
    with pytest.raises(GeometryError, match="lacks 1 slice"):
        read_series(paths)
    raw = read_series(paths, resample_slices=True)
    assert raw.array.shape == (7, 6 + 2 * 5, 6)
    assert np.array_equal(raw.array[:, 10:, 5], ramp()[:, :, 4])


def test_a_pixel_file_cut_short_is_named_without_names(writer):
    paths = writer.series(ramp((32, 24, 3)))
    compress(paths[1], "RLE")
    compress(paths[0], "RLE")
    compress(paths[2], "RLE")
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    with pytest.raises(MedaeError) as error:
        read_series(paths)
    assert "SimpleITK" in error.value.what
    assert not any(word in error.value.what + (error.value.remedy or "") for word in SECRETS)


def test_a_volume_from_dicom_lies_on_ras_axes(writer):
    geometry = Geometry(orientation=(0, 1, 0, 0, 0, -1))  # sagittal
    volume = read_volume(writer.series(ramp(), geometry), "intensity")
    affine = volume.image.affine.numpy()
    assert np.array_equal(np.sign(np.diag(affine)[:3]), [1, 1, 1])
    assert volume.native.shape == (7, 6, 5)
    expected = world(geometry, (7, 6, 5))
    at = np.linalg.inv(affine) @ [*expected[2, 3, 4], 1]
    assert volume.image[0][tuple(np.rint(at[:3]).astype(int))] == ramp()[2, 3, 4]


def test_files_that_are_no_series(writer, tmp_path):
    paths = writer.series(ramp())
    other = tmp_path / "notes.txt"
    other.write_text("no image")
    with pytest.raises(DataError, match="not DICOM"):
        read_raw([*paths, other])
    with pytest.raises(DataError, match="does not exist"):
        read_raw([*paths, tmp_path / "gone"])
    with pytest.raises(DataError, match="one file"):
        read_raw([other, other])


def test_a_real_ct_of_five_slices():
    """SmartScore CT, its pixels reduced to 16 x 16, that comes with pydicom."""
    folder = REAL / "dicomdirtests" / "98892001" / "CT5N"
    raw = read_series(sorted(folder.iterdir()))
    array, affine = by_simpleitk_series(folder)
    assert np.array_equal(raw.array, array)
    assert corners_apart(array.shape, raw.native.matrix(), affine) < 0.01


@pytest.mark.data
def test_real_series(data_root):
    folders = sorted(path for path in (data_root / "dicom" / "Study1").iterdir())
    assert len(folders) == 2
    for folder in folders:
        paths = sorted(folder.iterdir())
        raw = read_series(paths)
        array, affine = by_simpleitk_series(folder)
        assert np.array_equal(raw.array, array)
        assert corners_apart(array.shape, raw.native.matrix(), affine) < 0.01
        found = coordinates(raw)
        place_of = {raw.array[:, :, k].tobytes(): k for k in range(raw.array.shape[2])}
        i, j = np.meshgrid(np.arange(512), np.arange(512), indexing="ij")
        seen = set()
        for path in paths:  # directly, file by file, against the slice that has the file's pixels
            dataset = pydicom.dcmread(path)
            row, column = np.array(dataset.ImageOrientationPatient[:3]), np.array(dataset.ImageOrientationPatient[3:])
            place = place_of[dataset.pixel_array.T.astype(np.float32).tobytes()]
            seen.add(place)
            lps = np.array(dataset.ImagePositionPatient, dtype=float)
            lps = lps + i[..., None] * row * dataset.PixelSpacing[1] + j[..., None] * column * dataset.PixelSpacing[0]
            assert np.abs(found[:, :, place] - lps * (-1, -1, 1)).max() < 0.01
        assert seen == set(range(22))


def test_all_orientations_are_there():
    assert len(set(ORIENTATIONS)) == 24
