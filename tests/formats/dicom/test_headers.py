"""Reading headers: what is taken, what is refused, and what is never shown."""

from __future__ import annotations

import gzip
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nibabel
import pydicom
import pydicom.data
import pytest
from dicomfiles import SECRETS, Writer, compress, ramp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medae.errors import DataError
from medae.formats.dicom.headers import IndexFile, read_header
from medae.formats.dicom.judge import Rules, judge
from medae.formats.dicom.sniff import is_dicom


def test_a_header_shows_no_identity(writer):
    (path, *_) = writer.series(ramp(), SeriesDescription="T1 Mustermann", ContentTime="101112", StudyID="ACC0815")
    header = read_header(path)
    assert not any(word in repr(header) for word in SECRETS)
    assert "101112" not in repr(header)
    assert (header.patient, header.issuer) == ("PID4711", "")
    assert header.covariates == {"age": 64.0, "sex": "F", "manufacturer": "MAKER", "model": "MODEL 1"}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("age", "years"), [("030Y", 30.0), ("018M", 1.5), ("026W", 0.5), ("099Y", 90.0), ("", None), ("old", None), ("Y", None)]
)
def test_ages_in_years_and_very_old_people_not_told_apart(writer, age, years):
    (path, *_) = writer.series(ramp(), PatientAge=age)
    assert read_header(path).covariates.get("age") == years


@pytest.mark.parametrize("agent", ["", "NO", "none"])
def test_no_contrast_agent(writer, agent):
    (path, *_) = writer.series(ramp(), ContrastBolusAgent=agent)
    assert not read_header(path).has_contrast


def test_files_without_preamble_are_read(writer, tmp_path):
    (path, *_) = writer.series(ramp(), modality="CT")
    dataset = pydicom.dcmread(path)
    bare = tmp_path / "bare"
    del dataset.file_meta
    dataset.preamble = None
    dataset.save_as(bare, implicit_vr=True, little_endian=True)
    assert bare.read_bytes()[:2] == b"\x08\x00"
    assert is_dicom(bare)
    header = read_header(bare)
    assert (header.modality, header.slices[0].intercept, header.missing_bytes) == ("CT", -1024.0, 0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"PNG" * 100, "is not DICOM"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\x08\0text that begins by chance like that", "is not DICOM"),
        (b"\0" * 200, "is not DICOM"),
    ],
)
def test_files_that_are_not_read(tmp_path, content, what):
    path = tmp_path / "Mustermann"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_header(path)
    assert what in error.value.what
    assert "Mustermann" not in error.value.what
    with pytest.raises(DataError, match="cannot be read"):
        read_header(tmp_path / "gone")


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
def test_a_header_cut_anywhere_is_refused_or_lacks_its_pixels(writer, share):
    (path, *_) = writer.series(ramp((4, 4, 1)))
    whole = path.read_bytes()
    path.write_bytes(whole[: 140 + int((len(whole) - 172) * share)])
    with suppress(DataError):
        header = read_header(path)
        assert header.missing_bytes or not header.slices


@pytest.mark.parametrize("kind", ["plain", "RLE"])
def test_missing_pixels_are_counted(writer, kind):
    (path, *_) = writer.series(ramp((16, 8, 1)))
    if kind != "plain":
        compress(path, kind)
    assert read_header(path).missing_bytes == 0
    if kind == "plain":
        path.write_bytes(path.read_bytes()[:-10])
        assert read_header(path).missing_bytes == 10
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    assert read_header(path).missing_bytes > 0


@pytest.mark.parametrize("value", [[1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0] * 6])
def test_impossible_orientations_and_spacings_are_no_geometry(writer, value):
    (path, *_) = writer.series(ramp(), ImageOrientationPatient=value)
    assert not read_header(path).slices[0].has_geometry
    (path, *_) = writer.series(ramp(), number=2, PixelSpacing=[0, 1])
    assert not read_header(path).slices[0].has_geometry


REAL = Path(pydicom.data.__file__).parent / "test_files"


def test_an_index_is_told_from_an_image():
    with pytest.raises(IndexFile):
        read_header(REAL / "dicomdirtests" / "DICOMDIR")


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"],
)
def test_real_files_in_several_transfer_syntaxes(name):
    header = read_header(REAL / name)
    assert (header.modality, header.size, header.missing_bytes, len(header.slices)) == ("MR", (64, 64), 0, 1)
    assert header.slices[0].has_geometry


def test_a_real_enhanced_file(tmp_path):
    """Philips, 176 frames; its pixels were zeroed by nibabel's authors."""
    source = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "philips_mprage.dcm.gz"
    path = tmp_path / "frames"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    header = read_header(path)
    assert len(header.slices) == 176
    assert header.slices[0].orientation is not None
    assert header.slices[0].orientation[1] == pytest.approx(0.99788552522659)
    assert header.slices[0].slope == pytest.approx(2.1079365079365)


def test_pydicom_says_nothing_of_a_file_that_quotes_it(writer):
    """Its warnings hold values, which can be names."""
    (path, *_) = writer.series(ramp((4, 4, 1)))
    path.write_bytes(path.read_bytes().replace(b"064Y", b"Erik").replace(b"ORIGINAL", b"original"))
    code = f"from pathlib import Path; from medae.formats.dicom.headers import read_header; read_header(Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_raises_data_errors_only(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damage"
    if not folder.exists():
        writer = Writer(folder)
        writer.series(ramp((4, 4, 1)), modality="CT")
        writer.enhanced([ramp((3, 3, 2))], number=2)
        (deflated,) = writer.series(ramp((4, 4, 1)), number=3)
        dataset = pydicom.dcmread(deflated)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        dataset.save_as(deflated)
    sources = [REAL / "MR_small_implicit.dcm", *sorted(path for path in folder.rglob("*") if path.is_file())]
    content = bytearray(data.draw(st.sampled_from(sources)).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, min(len(content), 3000) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path = folder.with_name("damaged")
    path.write_bytes(content)
    with suppress(DataError):
        judge([read_header(path)], Rules())
