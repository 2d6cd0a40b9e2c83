"""A tree of DICOM files as a data set: cases, channels, findings, and nothing of the patient in any of them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomfiles import SECRETS, Geometry, Writer, ramp

from medae.data.case import Manifest
from medae.data.dicom import DICOMSource
from medae.data.dicom_scan import scan
from medae.data.finding import Finding
from medae.data.reading import read_image
from medae.data.sources import AutoSource, detect_format, open_manifest
from medae.data.split import SplitConfig, split_subjects
from medae.errors import DataError, MedaeError
from medae.plan import SpacePlan
from medae.preprocessing.prepare import prepare_case

SHAPE = (6, 5, 4)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MEDAE_CASE_SALT", "a key for tests")


@pytest.fixture
def writer(tmp_path) -> Writer:
    return Writer(tmp_path / "tree")


def opened(writer: Writer, **keys: Any) -> Manifest:
    manifest = open_manifest(DICOMSource(root=writer.folder, **keys))
    public = [vars(finding.public()) for finding in manifest.findings]
    said = json.dumps([manifest.model_dump(mode="json", exclude={"root", "findings"}), public])
    hidden = re.sub(r"Mustermann_Erika(/|\\\\)", "", said)  # files are named by where they are; nothing else may be
    assert not any(word in hidden for word in SECRETS), hidden
    return manifest


def codes(manifest: Manifest) -> dict[str, str]:
    """Level by code."""
    return {finding.code: finding.level for finding in manifest.findings}


def study(writer: Writer, **tags: Any) -> None:
    writer.series(ramp(SHAPE), number=2, SeriesDescription="AX T1 PRE", **tags)
    writer.series(ramp(SHAPE), number=3, SeriesDescription="AX FLAIR", **tags)
    writer.series(ramp(SHAPE), number=7, SeriesDescription="AX T1 POST GD", **tags)


def test_a_study_is_a_case_with_a_channel_a_contrast(writer):
    study(writer)
    manifest = opened(writer)
    assert manifest.channels == ("T1", "T1ce", "FLAIR")
    (case,) = manifest.cases
    assert re.fullmatch(r"sub-[0-9a-f]{12}_ses-[0-9a-f]{12}", case.id)
    assert case.id == f"{case.subject}_{case.session}"
    assert list(case.images) == ["T1", "T1ce", "FLAIR"]
    assert {ref.modality for ref in case.images.values()} == {"MR"}
    assert len({ref.series for ref in case.images.values()}) == 3
    assert all(re.fullmatch(r"ser-[0-9a-f]{12}", ref.series) for ref in case.images.values())
    assert case.covariates == {"age": 64.0, "sex": "F", "manufacturer": "MAKER", "model": "MODEL 1"}
    assert manifest.findings == ()
    for name, number in (("T1", 2), ("FLAIR", 3), ("T1ce", 7)):
        assert [Path(file).parent.name for file in case.images[name].files] == [f"s{number}"] * 4


def test_files_are_in_the_order_of_slices_and_are_read(writer):
    paths = writer.series(ramp(SHAPE)[:, :, ::-1], places=range(4)[::-1])
    manifest = opened(writer)
    (ref,) = manifest.cases[0].images.values()
    assert manifest.paths(ref) == paths[::-1]
    volume = read_image(manifest, ref)
    assert volume.native.shape == SHAPE
    assert sorted(volume.image.numpy().ravel()) == sorted(ramp(SHAPE).ravel())


def test_any_depth_and_the_same_digest_wherever_files_lie(writer, tmp_path):
    study(writer)
    first = opened(writer)
    other = Writer(tmp_path / "other")
    for number, path in enumerate(sorted(writer.folder.rglob("*"), reverse=True)):
        if path.is_file():
            target = other.folder.joinpath("a", *["deeper"] * (number % 4), f"{number}.ima")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    second = opened(other)
    assert second.digest() == first.digest()
    assert [case.id for case in second.cases] == [case.id for case in first.cases]
    path = next(path for path in other.folder.rglob("*.ima"))
    dataset = pydicom.dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path)
    assert opened(other).digest() != first.digest()


def test_it_is_recognised_when_nothing_else_is_there(writer, tmp_path):
    study(writer)
    assert detect_format(writer.folder) == "dicom"
    assert open_manifest(AutoSource(root=writer.folder)).source == "dicom"
    (tmp_path / "tree" / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "tree" / "sub-01" / "anat" / "sub-01_T1w.nii.gz").touch()
    assert detect_format(writer.folder) == "bids"


def test_two_subjects_and_two_studies_of_one(tmp_path):
    folder = tmp_path / "tree"
    writers = [Writer(folder), Writer(folder), Writer(folder, patient="PID9999")]
    for number, writer in enumerate(writers):
        writer.series(ramp(SHAPE), name=f"study{number}")
    manifest = opened(writers[0])
    assert len(manifest.cases) == 3
    by_subject = sorted(
        [case.subject for case in manifest.cases].count(subject) for subject in {c.subject for c in manifest.cases}
    )
    assert by_subject == [1, 2]
    assert all(case.split_key and case.split_key.startswith("PID") for case in manifest.cases)
    assert "PID" not in repr(manifest)
    assert "PID" not in manifest.model_dump_json()


@pytest.mark.parametrize(
    ("issuers", "people"),
    [
        (["A", ""], [0, 0]),  # one issuer in the tree: the PatientID says it all
        (["A", "A", "", "A"], [0, 0, 0, 0]),
        (["A", "B"], [0, 1]),
        (["A", "B", "A"], [0, 1, 0]),
        (["A", "B", ""], [0, 1, 2]),  # nobody knows whose
    ],
)
def test_an_issuer_counts_only_where_there_are_two(tmp_path, issuers, people):
    folder = tmp_path / "tree"
    for number, issuer in enumerate(issuers):
        Writer(folder).series(ramp(SHAPE), name=f"study{number}", IssuerOfPatientID=issuer)
    manifest = opened(Writer(folder))
    subjects = {next(iter(case.images.values())).files[0].split("/")[1]: case.subject for case in manifest.cases}
    found = [subjects[f"study{number}"] for number in range(len(issuers))]
    assert [found.index(subject) for subject in found] == [people.index(person) for person in people]
    assert len({case.split_key for case in manifest.cases}) == len(set(people))


def test_of_two_issuers_that_of_the_study_counts_and_other_patients_keep_their_names(tmp_path):
    folder = tmp_path / "tree"
    here, there, other = Writer(folder), Writer(folder), Writer(folder, patient="PID9999")
    other.series(ramp(SHAPE), name="other")
    alone = opened(other).cases[0].subject
    here.series(ramp(SHAPE), name="t1", number=1, SeriesDescription="T1", IssuerOfPatientID="A")
    here.series(ramp(SHAPE), name="t2", number=2, SeriesDescription="T2")
    there.series(ramp(SHAPE), name="there", IssuerOfPatientID="B")
    manifest = opened(other)
    assert sorted(len(case.images) for case in manifest.cases) == [1, 1, 2]
    assert len({case.subject for case in manifest.cases}) == 3
    assert alone in {case.subject for case in manifest.cases}
    assert manifest.findings == ()


def test_splits_stay_under_another_key(tmp_path, monkeypatch):
    folder = tmp_path / "tree"
    for number in range(8):
        Writer(folder, patient=f"PID{number}").series(ramp((4, 4, 2)), name=f"p{number}")

    def tested() -> set[str]:
        manifest = open_manifest(DICOMSource(root=folder))
        chosen = split_subjects(manifest, SplitConfig(test=3, validation=2)).test
        return {case.images["MR"].files[0] for case in manifest.cases if case.subject in chosen}

    before = tested()
    monkeypatch.setenv("MEDAE_CASE_SALT", "another key")
    assert tested() == before


def test_channels_by_pattern(writer):
    study(writer)
    manifest = opened(writer, channels={"post": "post", "pre": "t1"})
    assert manifest.channels == ("post", "pre")
    (case,) = manifest.cases
    assert case.images["post"].files[0].split("/")[1] == "s7"
    assert codes(manifest) == {"no-channel": "warning"}
    with pytest.raises(DataError, match="channels"):
        opened(writer, channels={"x": "nothing like it"})


def test_each_series_a_case(writer):
    study(writer)
    writer.series(ramp(SHAPE), number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    manifest = opened(writer, cases="series", channels={"image": "."})
    assert manifest.channels == ("image",)
    assert len(manifest.cases) == 3
    assert [(finding.case, finding.level, finding.code) for finding in manifest.findings] == [("", "warning", "localiser")]
    assert len({case.subject for case in manifest.cases}) == len({case.session for case in manifest.cases}) == 1
    assert all(case.id.startswith(f"{case.subject}_{case.session}_ser-") for case in manifest.cases)


def test_of_two_with_one_contrast_the_original_with_most_slices_is_taken(writer):
    writer.series(ramp((4, 4, 5)), number=4, SeriesDescription="AX T1")
    writer.series(ramp((4, 4, 6)), number=5, SeriesDescription="SAG T1")
    writer.series(ramp((4, 4, 9)), number=6, SeriesDescription="T1 MPR", ImageType=["DERIVED", "SECONDARY", "MPR"])
    manifest = opened(writer)
    (ref,) = manifest.cases[0].images.values()
    assert len(ref.files) == 6
    rivals = [finding for finding in manifest.findings if finding.code == "second-of-channel"]
    assert [finding.file for finding in rivals] == [
        "Mustermann_Erika/s4/0001 and 4 more",
        "Mustermann_Erika/s6/0001 and 8 more",
    ]
    assert [finding.role for finding in rivals] == ["series 4", "series 6"]
    assert all("series 5 is taken" in finding.problem and "channels" in finding.remedy for finding in rivals)
    assert codes(manifest) == {"second-of-channel": "warning", "derived": "warning"}


def test_a_refused_series_beside_good_ones_is_a_warning_alone_an_error(writer, tmp_path):
    writer.series(ramp(SHAPE), number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    writer.series(ramp(SHAPE), number=2, SeriesDescription="T1")
    manifest = opened(writer)
    (finding,) = manifest.findings
    (case,) = manifest.cases
    text = "is a localiser, a scout to plan others by"
    said = Finding(case.id, "Mustermann_Erika/s1/0001 and 3 more", "warning", "localiser", text, "Leave it out.", "series 1")
    assert finding == said
    Writer(writer.folder).series(ramp(SHAPE), name="other", places=[0, 1, 3, 4])
    manifest = opened(writer)
    assert codes(manifest) == {"localiser": "warning", "missing-slices": "error"}
    assert next(finding.case for finding in manifest.findings if finding.level == "error") not in {case.id}


def test_options_reach_the_verdict_and_the_reading(writer):
    writer.series(ramp(SHAPE), places=[0, 1, 3, 4], number=1, SeriesDescription="T1")
    writer.series(ramp(SHAPE), Geometry(step=(0, 0.5, 2.5)), number=2, SeriesDescription="T2")
    writer.series(ramp(SHAPE), number=3, SeriesDescription="FLAIR", ImageType=["DERIVED", "PRIMARY"])
    writer.series(ramp(SHAPE), places=[0, 1, 0, 1], number=4, SeriesDescription="PD")
    assert opened(writer).channels == ("T2", "FLAIR")
    strict = opened(writer, tilt="refuse", resample_slices=True, phases="first")
    assert strict.channels == ("T1", "FLAIR", "PD")
    assert {name: ref.resample_slices for name, ref in strict.cases[0].images.items()} == {
        "T1": True, "FLAIR": False, "PD": False,
    }  # fmt: skip
    assert read_image(strict, strict.cases[0].images["T1"]).native.shape == (6, 5, 5)
    assert opened(writer, derived="refuse", phases="all").channels == ("T2", "PD", "PD_2")


def test_echoes_become_channels_of_their_own_contrast(writer):
    def echo(k: int, dataset) -> None:
        dataset.EchoTime, dataset.RepetitionTime, dataset.ScanningSequence = ("15", "90")[k // 4], "3000", "SE"

    volume = np.concatenate([ramp(SHAPE), ramp(SHAPE)[::-1]], axis=2)
    writer.series(volume, places=[0, 1, 2, 3] * 2, change=echo)
    manifest = opened(writer, phases="all")
    assert manifest.channels == ("T2", "PD")
    assert [len(ref.files) for ref in manifest.cases[0].images.values()] == [4, 4]
    assert codes(manifest) == {"multi-phase": "warning"}


def test_files_that_are_no_slices_are_counted(writer):
    study(writer)
    (writer.folder / "Mustermann.txt").write_text("notes about the patient")
    (writer.folder / "empty").touch()
    (writer.folder / ".hidden").write_text("x")
    (writer.folder / "cut").write_bytes(next(writer.folder.rglob("0001")).read_bytes()[:200])
    index = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests" / "DICOMDIR"
    shutil.copy(index, writer.folder / "DICOMDIR")
    manifest = opened(writer)
    assert {finding.code: (finding.level, finding.problem[:2]) for finding in manifest.findings} == {
        "empty-file": ("error", "1 "),
        "damaged-file": ("error", "1 "),
        "not-dicom": ("warning", "1 "),
    }
    assert {finding.file for finding in manifest.findings} == {"empty", "cut", "Mustermann.txt"}
    assert not any(finding.case or finding.public().file for finding in manifest.findings)


def test_folders_that_cannot_be_read_or_are_links_are_counted(writer, monkeypatch):
    study(writer)
    Writer(writer.folder.with_name("elsewhere")).series(ramp(SHAPE))
    (writer.folder / "linked").symlink_to(writer.folder.with_name("elsewhere"), target_is_directory=True)
    closed = {Path(writer.folder, "Mustermann_Erika", name) for name in ("s3", "s7")}
    listed = os.scandir

    def refusing(folder):  # what the operating system does for a user without the right, and never for root
        if Path(folder) in closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    manifest = opened(writer)
    assert manifest.channels == ("T1",)
    assert [(finding.level, finding.code, finding.problem.split()[0]) for finding in manifest.findings] == [
        ("error", "unreadable-folder", "2"),
        ("warning", "linked-folder", "1"),
    ]
    assert [finding.file for finding in manifest.findings] == ["Mustermann_Erika/s3, Mustermann_Erika/s7", "linked"]
    closed.add(writer.folder)
    with pytest.raises(DataError, match="1 folders cannot be read"):
        opened(writer)


def test_a_file_that_may_not_be_read_is_an_error(writer, monkeypatch):
    (_, paths) = writer.series(ramp(SHAPE), number=1), writer.series(ramp(SHAPE), number=2)
    opening = Path.open

    def refusing(path, *arguments, **keys):
        if path == paths[0]:
            raise PermissionError(13, "Permission denied")
        return opening(path, *arguments, **keys)

    monkeypatch.setattr(Path, "open", refusing)
    assert scan(writer.folder).faults == {"damaged": [paths[0]]}


def test_a_study_without_any_scan_is_no_damaged_case(writer):
    writer.series(ramp(SHAPE), name="good")
    for number, tags in enumerate(({"kind": "SR", "modality": "SR"}, {"kind": "PT", "modality": "PT"}, {"kind": "SC"})):
        Writer(writer.folder).series(ramp(SHAPE), name=f"other{number}", **tags)
    Writer(writer.folder).series(ramp(SHAPE), name="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for cases in ("study", "series"):
        manifest = opened(writer, cases=cases)
        assert len(manifest.cases) == 1
        assert {(finding.case, finding.level) for finding in manifest.findings} == {("", "warning")}
        assert sorted(finding.code for finding in manifest.findings) == [
            "localiser", "not-ct-or-mr", "not-ct-or-mr", "secondary-capture",
        ]  # fmt: skip
        assert not manifest.excluded


def test_a_fault_beside_a_report_stays_an_error(writer):
    writer.series(ramp(SHAPE), name="good")
    other = Writer(writer.folder)
    other.series(ramp(SHAPE), name="report", kind="SR", modality="SR", number=1)
    other.series(ramp(SHAPE), name="gap", places=[0, 1, 3, 4], number=2)
    manifest = opened(writer)
    assert codes(manifest) == {"not-ct-or-mr": "warning", "missing-slices": "error"}
    assert len(manifest.excluded) == 1


def test_one_series_of_two_patients_belongs_to_nobody(writer):
    paths = writer.series(ramp(SHAPE), number=1)
    writer.series(ramp(SHAPE), number=2)
    dataset = pydicom.dcmread(paths[1])
    dataset.PatientID = "PID9999"
    dataset.save_as(paths[1])
    (finding,) = opened(writer).findings
    assert (finding.code, finding.level, finding.case) == ("swapped-subject", "error", "")
    assert finding.file == "Mustermann_Erika/s1/0001 and 3 more"


def test_no_patient_id(tmp_path):
    folder = tmp_path / "tree"
    for number in range(2):
        Writer(folder, patient="").series(ramp(SHAPE), name=f"s{number}")
    manifest = opened(Writer(folder))
    assert len({case.subject for case in manifest.cases}) == 2
    assert codes(manifest) == {"no-patient": "warning"}


def test_nothing_that_can_be_read(writer, tmp_path):
    writer.series(ramp(SHAPE), kind="PT", modality="PT")
    with pytest.raises(DataError, match=r"None of the 1 DICOM series.*\n.*1 x is no image of CT or MR \(PT\)"):
        opened(writer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM files"):
        open_manifest(DICOMSource(root=tmp_path / "empty"))


def test_modality_is_that_of_the_object_unless_stated(writer):
    writer.series(ramp(SHAPE), modality="CT", ContrastBolusAgent="Iopamidol")
    manifest = opened(writer)
    assert {name: ref.modality for name, ref in manifest.cases[0].images.items()} == {"CTce": "CT"}
    assert opened(writer, modality="unknown").cases[0].images["CTce"].modality == "unknown"


def test_errors_name_the_series_by_its_pseudonym(writer):
    paths = writer.series(ramp((32, 24, 3)), SeriesDescription="T1")
    manifest = opened(writer)
    (case,) = manifest.cases
    (ref,) = case.images.values()
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    for reading in (lambda: read_image(manifest, ref), lambda: prepare_case(manifest, case, SpacePlan(channels=("T1",)))):
        with pytest.raises(MedaeError) as error:
            reading()
        assert error.value.where == ref.series
        assert not any(word in str(error.value) for word in SECRETS)
        assert "Mustermann" not in str(error.value)


def test_many_processes_find_what_one_finds(writer, monkeypatch):
    study(writer)
    (writer.folder / "empty").touch()
    alone = scan(writer.folder)
    monkeypatch.setattr("medae.data.dicom_scan.WORTH_PROCESSES", 0)
    monkeypatch.setattr("medae.data.dicom_scan.CHUNK", 5)
    seen: list[tuple[int, int]] = []
    together = scan(writer.folder, 2, lambda done, of: seen.append((done, of)))
    assert together == alone
    assert list(together.headers) == list(alone.headers)
    assert seen[-1] == (13, 13)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_hashing_all_ids_changes_no_split(writer):
    study(writer)
    hashed = open_manifest(DICOMSource(root=writer.folder), "hashed")
    assert hashed.cases[0].id.startswith("case-")
    assert hashed.cases[0].split_key == open_manifest(DICOMSource(root=writer.folder)).cases[0].split_key


@pytest.mark.data
def test_the_real_study(data_root):
    manifest = open_manifest(AutoSource(root=data_root / "dicom"))
    assert (manifest.source, manifest.channels, manifest.findings) == ("dicom", ("T1ce", "FLAIR"), ())
    (case,) = manifest.cases
    assert {name: (len(ref.files), ref.modality) for name, ref in case.images.items()} == {
        "T1ce": (22, "MR"), "FLAIR": (22, "MR"),
    }  # fmt: skip
    dataset = pydicom.dcmread(manifest.paths(case.images["T1ce"])[0], stop_before_pixels=True)
    names = (dataset.PatientID, str(dataset.PatientName), dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    said = manifest.model_dump_json(exclude={"root"}) + repr(manifest)
    assert not any(str(name) in said for name in (*names, dataset.StudyDate, dataset.AccessionNumber))
    assert case.covariates["field_strength_t"] == 3.0
