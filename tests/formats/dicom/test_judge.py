"""What is recognised in a series, and whether it is taken, taken with a warning, or refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
from dicomfiles import SECRETS, Geometry, compress, pixels, ramp

from medae.formats.dicom.headers import read_header
from medae.formats.dicom.judge import Rules, Verdict, judge

SHAPE = (6, 5, 4)


def verdict(paths, **rules) -> Verdict:
    found = judge([read_header(path) for path in paths], Rules(**rules))
    assert (found.problem is None) == bool(found.volumes)
    said = [*found.warnings, *([found.problem] if found.problem else [])]
    assert all(problem.remedy and problem.problem[0].islower() for problem in said)
    assert not any(word in repr(said) for word in SECRETS)
    return found


def code(paths, **rules) -> str | None:
    problem = verdict(paths, **rules).problem
    return problem and problem.code


def warned(paths, **rules) -> list[str]:
    return [warning.code for warning in verdict(paths, **rules).warnings]


def test_a_good_series(writer):
    found = verdict(writer.series(ramp(SHAPE)))
    assert found.warnings == ()
    assert found.volumes[0].shape == SHAPE


def colour(_: int, dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


def deleting(*names: str):
    def change(_: int, dataset) -> None:
        for name in names:
            delattr(dataset, name)

    return change


def unknown_syntax(_: int, dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # high-throughput JPEG 2000
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])


HEADERS = {
    "localiser": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "projection": {"ImageType": ["DERIVED", "SECONDARY", "MIP"]},
    "secondary-capture": {"kind": "SC"},
    "not-ct-or-mr": {"kind": "PT", "modality": "PT"},
    "mosaic": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]},
    "colour": {"change": colour},
    "monochrome1": {"PhotometricInterpretation": "MONOCHROME1"},
    "no-geometry": {"change": deleting("ImageOrientationPatient")},
    "transfer-syntax": {"change": unknown_syntax},
    "no-pixels": {"change": deleting("Rows", "Columns", "PixelData")},
}


@pytest.mark.parametrize("name", HEADERS)
def test_refused_by_what_the_headers_say(writer, name):
    assert code(writer.series(ramp(SHAPE), **HEADERS[name])) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "SR", "modality": "SR"},
        {"kind": "CT", "modality": "PT"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "modality": "CT"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"change": deleting("PixelSpacing")},
        {"change": deleting("ImagePositionPatient")},
    ],
)
def test_variants_of_them(writer, changes):
    expected = {"secondary-capture", "not-ct-or-mr", "modality-conflict", "colour", "no-geometry"}
    assert code(writer.series(ramp(SHAPE), **changes)) in expected


def test_encrypted_geometry(writer):
    from dicomfiles import item

    def encrypt(k: int, dataset) -> None:
        deleting("ImagePositionPatient", "ImageOrientationPatient")(k, dataset)
        dataset.EncryptedAttributesSequence = item(EncryptedContentTransferSyntaxUID="1.2.840.10008.1.2")

    assert code(writer.series(ramp(SHAPE), change=encrypt)) == "encrypted"

    def harmless(k: int, dataset) -> None:
        dataset.EncryptedAttributesSequence = item(EncryptedContentTransferSyntaxUID="1.2.840.10008.1.2")

    assert code(writer.series(ramp(SHAPE), number=2, change=harmless)) is None


def test_truncated(writer):
    paths = writer.series(ramp(SHAPE))
    paths[2].write_bytes(paths[2].read_bytes()[:-8])
    assert code(paths) == "truncated"


def test_two_patients_under_one_series(writer):
    paths = writer.series(ramp(SHAPE))
    dataset = pydicom.dcmread(paths[1])
    dataset.PatientID = "PID9999"
    dataset.save_as(paths[1])
    assert code(paths) == "swapped-subject"


@pytest.mark.parametrize(("issuers", "expected"), [("AAA", "none"), ("A A", "none"), ("ABA", "swapped-subject")])
def test_an_issuer_that_is_missing_makes_no_other_patient(writer, issuers, expected):
    def change(k: int, dataset) -> None:
        dataset.IssuerOfPatientID = issuers[k].strip()

    found = verdict(writer.series(ramp((6, 5, 3)), change=change))
    assert (found.problem.code if found.problem else "none") == expected


def test_an_object_that_contradicts_its_modality(writer):
    assert code(writer.series(ramp(SHAPE), kind="MR", modality="CT")) == "modality-conflict"


def test_a_scout_among_slices_is_left_out_with_a_warning(writer):
    paths = writer.series(ramp(SHAPE), modality="CT", uid="1.2.3")
    scout = writer.series(
        ramp((9, 9, 1)), Geometry(orientation=(1, 0, 0, 0, 0, -1)), modality="CT", uid="1.2.3", name="scout", first=9,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip
    found = verdict([*paths, *scout])
    assert found.volumes[0].shape == SHAPE
    assert [warning.code for warning in found.warnings] == ["localiser-within"]


def test_derived_images_are_taken_with_a_warning_or_refused(writer):
    paths = writer.series(ramp(SHAPE), ImageType=["DERIVED", "SECONDARY", "MPR"])
    assert warned(paths) == ["derived"]
    assert code(paths, derived="refuse") == "derived"


def test_mixed_orientations_sizes_and_single_slices(writer):
    axial = writer.series(ramp(SHAPE), uid="1.2.3")
    coronal = writer.series(ramp(SHAPE), Geometry(orientation=(1, 0, 0, 0, 0, -1)), uid="1.2.3", first=20)
    assert code([*axial, *coronal]) == "mixed-orientations"
    assert "2 orientations" in verdict([*axial, *coronal]).problem.problem
    large = writer.series(ramp((9, 9, 1)), uid="1.2.3", first=40)
    assert code([*axial, *large]) == "mixed-sizes"
    assert code(axial[:1]) == "single-slice"


def test_gaps_tilt_and_uneven_slices(writer):
    gap = writer.series(ramp(SHAPE), places=[0, 1, 3, 4])
    assert code(gap) == "missing-slices"
    assert warned(gap, resample_slices=True) == ["resampled-slices"]
    uneven = writer.series(ramp(SHAPE), places=[0, 1, 2.4, 3], number=2)
    assert code(uneven) == "uneven-slices"
    assert warned(uneven, resample_slices=True) == ["resampled-slices"]
    tilted = writer.series(ramp(SHAPE), Geometry(step=(0, 0.5, 2.5)), number=3)
    assert warned(tilted) == ["tilted"]
    assert code(tilted, tilt="refuse") == "tilted"


def test_the_same_slice_twice_is_taken_once(writer, tmp_path):
    paths = writer.series(ramp(SHAPE))
    copy = tmp_path / "copy"
    copy.write_bytes(paths[1].read_bytes())
    found = verdict([*paths, copy])
    assert [warning.code for warning in found.warnings] == ["copies"]
    assert found.volumes[0].shape == SHAPE
    dataset = pydicom.dcmread(copy)
    pixels(dataset, ramp((5, 6, 1))[:, :, 0])
    dataset.save_as(copy)
    assert code([*paths, copy]) == "duplicate-slices"


def phase(**tags):
    """Slices with these tags for every phase in turn: a series of phases one after another."""

    def change(k: int, dataset) -> None:
        dataset.ContentTime = f"{100000 + k}"
        for tag, values in tags.items():
            setattr(dataset, tag, values[k // SHAPE[2]])

    return change


PHASES = [
    ("echo time", 2, {"EchoTime": ["90", "20"]}, 1),
    ("acquisition number", 2, {"AcquisitionNumber": [1, 2]}, 0),
    ("temporal position", 3, {"TemporalPositionIdentifier": [1, 2, 3]}, 0),
    ("b-value", 2, {"DiffusionBValue": [1000.0, 0.0]}, 1),
    ("image type", 2, {"ImageType": [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]}, 0),
    ("b-value and gradient direction", 4, {
        "DiffusionBValue": [0.0, 1000.0, 1000.0, 2000.0],
        "DiffusionGradientOrientation": [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]],
    }, 0),
    ("instance number", 3, {"SeriesDescription": ["x", "x", "x"]}, 0),
]  # fmt: skip


@pytest.mark.parametrize(("by", "count", "tags", "first"), PHASES, ids=[row[0] for row in PHASES])
def test_phases_are_told_apart(writer, by, count, tags, first):
    volume = np.concatenate([ramp(SHAPE) + 7 * n for n in range(count)], axis=2).astype(np.int16)
    places = [*range(SHAPE[2])] * count
    paths = writer.series(volume, places=places, change=phase(**tags))
    problem = verdict(paths).problem
    assert problem.code == "multi-phase"
    assert f"{count} volumes, told apart by {by}" in problem.problem
    every = verdict(paths, phases="all")
    assert [stack.shape for stack in every.volumes] == [SHAPE] * count
    (one,) = verdict(paths, phases="first").volumes
    expected = [paths[first * SHAPE[2] + k] for k in range(SHAPE[2])]
    assert [item.path for item in one.slices] == expected, "the first is the one with the lowest value"
    assert [item.path for item in every.volumes[0].slices] == expected


def test_phases_of_unequal_length(writer):
    paths = writer.series(
        ramp((6, 5, 7)),
        places=[0, 1, 2, 3, 2, 3, 4],
        change=lambda k, dataset: setattr(dataset, "AcquisitionNumber", 1 + k // 4),
    )
    assert [stack.shape[2] for stack in verdict(paths, phases="all").volumes] == [4, 3]


def test_enhanced_files(writer):
    assert code([writer.enhanced([ramp(SHAPE)])]) is None
    two = [writer.enhanced([ramp(SHAPE), ramp(SHAPE)], number=2)]
    assert code(two) == code(two, phases="first") == "multi-phase"
    assert "2 volumes, told apart by temporal position, within one file" in verdict(two).problem.problem


def test_frames_without_functional_groups_have_no_geometry(writer):
    (path, *_) = writer.series(ramp(SHAPE))
    dataset = pydicom.dcmread(path)
    pixels(dataset, np.zeros((3, 5, 6), np.int16))
    dataset.NumberOfFrames = 3
    dataset.save_as(path)
    assert code([path]) == "no-geometry"


def test_compressed_files_are_judged_like_others(writer):
    paths = writer.series(ramp((32, 24, 3)))
    compress(paths[0], "JPEG2000")
    assert code(paths) is None


REAL = Path(pydicom.data.__file__).parent / "test_files"
"""Files of many vendors that come with pydicom; some have their pixels reduced to 16 x 16."""


def real(*parts: str) -> list[Path]:
    place = REAL.joinpath(*parts)
    return sorted(place.iterdir()) if place.is_dir() else [place]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("dicomdirtests/98892001/CT5N", None),
        ("dicomdirtests/98892001/CT2N", "localiser"),
        ("dicomdirtests/77654033/CT2", "missing-slices"),
        ("dicomdirtests/77654033/CR1", "not-ct-or-mr"),
        ("dicomdirtests/98892003/MR700", "projection"),
        ("dicomdirtests/98892003/MR1/5641", "localiser"),
        ("dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000", "no-pixels"),
        ("MR_small.dcm", "single-slice"),
        ("MR_truncated.dcm", "truncated"),
        ("SC_rgb_rle_16bit.dcm", "secondary-capture"),
        ("rtplan.dcm", "not-ct-or-mr"),
        ("liver_1frame.dcm", "not-ct-or-mr"),
    ],
)
def test_real_files_of_pydicom(place, expected):
    assert code(real(place)) == expected


def test_a_real_pilot_in_three_orientations():
    paths = [path for path in real("dicomdirtests/98892003/MR2") if read_header(path).description.startswith("T/S/C")]
    series = read_header(paths[0]).series
    found = verdict([path for path in paths if read_header(path).series == series])
    assert found.problem.problem == "has slices in 3 orientations"


def test_a_real_mosaic(tmp_path):
    source = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "siemens_dwi_0.dcm.gz"
    path = tmp_path / "mosaic"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    assert code([path]) == "mosaic"


@pytest.mark.data
def test_the_real_series_are_regular(data_root):
    for folder in (data_root / "dicom" / "Study1").iterdir():
        found = verdict(sorted(folder.iterdir()))
        assert found.warnings == ()
        (stack,) = found.volumes
        assert stack.is_regular
        assert (stack.shape, round(stack.step, 3)) == ((512, 512, 22), 6.5)
