"""Sixty ways in which data arrive damaged: each has its message, none a traceback, and no file is changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicomfiles import SECRETS, Writer, ramp
from pydicom.dataset import Dataset

from pipelines import cli

SHAPE = (12, 10, 8)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
CASES = ("ann", "bob", "cyd", "dee", "eve", "fay")
LABELS = {"background": 0, "left lung": 1, "right lung": 2}


def image(name: str, scale: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(ord(name[0]))
    return (generator.random(SHAPE) * 200 * scale).astype(np.float32)


def labels(name: str = "bob", shift: int = 0) -> np.ndarray:
    """Left is where the first axis, which points right, is small; the two lie 6 mm apart."""
    found = np.zeros(SHAPE, np.uint8)
    row = 1 + ord(name[0]) % 5
    found[1:4, row : row + 4, 2:6], found[7:10, row : row + 4, 2:6] = 1, 2
    return np.roll(found, shift, axis=2)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE, units: str = "mm") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = nib.Nifti1Image(voxels, affine)
    file.header.set_xyzt_units(units)
    nib.save(file, path)


def patch_header(path: Path, **fields: object) -> None:
    """Write header fields past nibabel's own care."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))


@dataclass(frozen=True)
class Set:
    """A sound nnU-Net data set; damage is done to bob."""

    root: Path

    @property
    def image(self) -> Path:
        """Bob's scan."""
        return self.root / "imagesTr" / "bob_0000.nii.gz"

    @property
    def label(self) -> Path:
        """Bob's label map."""
        return self.root / "labelsTr" / "bob.nii.gz"

    def declare(self, **changes: object) -> None:
        """Change the data set's description."""
        path = self.root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for name in CASES:
        save(root / "imagesTr" / f"{name}_0000.nii.gz", image(name))
        save(root / "labelsTr" / f"{name}.nii.gz", labels(name, shift=CASES.index(name) % 2))
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"})
    )
    return Set(root)


def state(root: Path) -> dict[str, str]:
    """Every file of a data set with a digest of its contents."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def check(data: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, dict]:
    """Exit status, everything on the screen, and the result for programs."""
    root = data if data.is_dir() else data.parent
    before, arguments = state(root), sys.argv
    result = Path("runs/check") / data.stem / "result.json"
    result.unlink(missing_ok=True)
    sys.argv = ["medae", "check", str(data), "--workers", "1", *options]
    try:
        cli.main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = arguments
    assert state(root) == before
    printed = capsys.readouterr()
    screen = re.sub(r"\s+", " ", printed.out + printed.err)
    assert "Traceback" not in screen
    assert "fault of medae" not in screen
    return status, screen, json.loads(result.read_text()) if result.is_file() else {}


def test_the_sound_set_has_no_finding(sound: Set, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, result = check(sound.root, capsys)
    assert status == 0
    assert result["findings"] == []


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def turned() -> np.ndarray:
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


def with_values(array: np.ndarray, *values: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed.flat[: len(values)] = values
    return changed


def moved(axis: int, mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[axis, 3] += mm
    return affine


def as_nrrd(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(image("bob")), str(path))


ONE_CASE: dict[str, tuple[Callable[[Set], object], str, str, str]] = {
    # name: damage, level, code, what the screen says
    "zero bytes": (lambda s: s.image.write_bytes(b""), "error", "unreadable", "cannot be used"),
    "truncated gzip": (lambda s: damage(s.image, lambda b: b[: len(b) // 2]), "error", "unreadable", "cannot be used"),
    "broken gzip": (
        lambda s: damage(s.image, lambda b: b[:60] + bytes(255 - x for x in b[60:90]) + b[90:]),
        "error",
        "unreadable",
        "cannot be used",
    ),
    "text": (lambda s: s.image.write_text("<html>Please log in</html>"), "error", "unreadable", "cannot be used"),
    "truncated label map": (lambda s: damage(s.label, lambda b: b[:-30]), "error", "unreadable", "cannot be used"),
    "voxels missing": (
        lambda s: s.image.write_bytes(gzip.compress(gzip.decompress(s.image.read_bytes())[:-500])),
        "error",
        "unreadable",
        "cannot be used",
    ),
    "no voxels": (lambda s: save(s.image, np.zeros((0, 5, 4), np.float32)), "error", "unreadable", "not one 3D volume"),
    "four dimensions": (
        lambda s: save(s.image, np.zeros((*SHAPE, 3), np.float32)),
        "error",
        "unreadable",
        "its size is 12 x 10 x 8 x 3",
    ),
    "colour": (
        lambda s: save(s.image, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "error",
        "unreadable",
        "not one 3D volume",
    ),
    "complex numbers": (lambda s: save(s.image, image("bob") * 1j), "error", "complex", "holds complex numbers"),
    "not a number": (
        lambda s: save(s.image, with_values(image("bob"), np.nan, np.nan)),
        "error",
        "not_finite",
        "has 2 voxels that are not a number",
    ),
    "infinite": (lambda s: save(s.image, with_values(image("bob"), np.inf)), "error", "not_finite", "has 1 voxels"),
    "constant": (lambda s: save(s.image, np.full(SHAPE, 7.0)), "error", "constant", "has the value 7 everywhere"),
    "empty": (lambda s: save(s.image, np.zeros(SHAPE)), "error", "constant", "has the value 0 everywhere"),
    "singular affine": (
        lambda s: patch_header(s.image, sform_code=1, qform_code=0, srow_z=[0, 0, 0, 0]),
        "error",
        "geometry",
        "singular",
    ),
    "affine not a number": (
        lambda s: patch_header(s.image, sform_code=1, qform_code=0, srow_x=[np.nan, 0, 0, 0]),
        "error",
        "geometry",
        "not finite",
    ),
    "sform and qform": (
        lambda s: (save(s.image, image("bob")), patch_header(s.image, qform_code=1, qoffset_x=25.0)),
        "warning",
        "sform_qform",
        "25 mm apart",
    ),
    "pixdim": (
        lambda s: patch_header(s.image, qform_code=0, pixdim=[1, 1, 1.5, 9, 0, 0, 0, 0]),
        "warning",
        "pixdim",
        "1 x 1.5 x 9 mm in pixdim",
    ),
    "no unit": (lambda s: save(s.image, image("bob"), units="unknown"), "warning", "units", "states no unit"),
    "label map of another shape": (lambda s: save(s.label, labels()[:-1]), "error", "grid", "shape (11, 10, 8), not (12"),
    "label map of another spacing": (
        lambda s: save(s.label, labels(), np.diag([1, 1.5, 2.4, 1])),
        "error",
        "grid",
        "spacing 1 x 1.5 x 2.4 mm, not 1 x 1.5 x 2 mm",
    ),
    "label map at another place": (
        lambda s: save(s.label, labels(), moved(1, 12.0)),
        "error",
        "grid",
        "corners lie up to 12 mm apart",
    ),
    "label map turned": (lambda s: save(s.label, labels(), turned()), "error", "grid", "turned by up to 20 degrees"),
    "label fractions": (
        lambda s: save(s.label, labels() * np.float32(0.5)),
        "error",
        "labels",
        "not whole numbers from 0 to 32767, such as 0.5",
    ),
    "negative labels": (lambda s: save(s.label, with_values(labels(), -1)), "error", "labels", "such as -1"),
    "label not a number": (lambda s: save(s.label, with_values(labels(), np.nan)), "error", "labels", "such as nan"),
    "undeclared label": (
        lambda s: save(s.label, labels() * np.uint8(3)),
        "error",
        "undeclared",
        "labels that are not declared: 3, 6",
    ),
    "empty label map": (lambda s: save(s.label, np.zeros(SHAPE, np.uint8)), "warning", "empty_labels", "is empty"),
    "left and right swapped": (
        lambda s: save(s.label, np.ascontiguousarray(labels()[::-1])),
        "error",
        "sides",
        "'left lung' 6 mm to the right of 'right lung'",
    ),
    "another subject's scan": (
        lambda s: s.image.write_bytes((s.root / "imagesTr/ann_0000.nii.gz").read_bytes()),
        "error",
        "duplicate",
        "as the case ann, of another subject",
    ),
    "another case's label map": (
        lambda s: s.label.write_bytes((s.root / "labelsTr/ann.nii.gz").read_bytes()),
        "warning",
        "duplicate_labels",
        "the same label map 'label' as the case ann",
    ),
    "far brighter than all others": (
        lambda s: save(s.image, image("bob", scale=4.0).clip(0, 900) * 6),
        "warning",
        "outlier",
        "over 20 times the median",
    ),
    "far coarser than all others": (
        lambda s: (save(s.image, image("bob"), AFFINE * 5), save(s.label, labels(), AFFINE * 5)),
        "warning",
        "spacing_outlier",
        "the median case of 1 x 1.5 x 2 mm",
    ),
    "link to nowhere": (
        lambda s: (s.image.unlink(), s.image.symlink_to(s.root / "never-downloaded")),
        "error",
        "unreadable",
        "",
    ),
}


@pytest.mark.parametrize("name", ONE_CASE)
def test_damage_of_one_case_is_named_and_leaves_the_others(
    sound: Set, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    harm, level, code, said = ONE_CASE[name]
    harm(sound)
    status, screen, result = check(sound.root, capsys)
    of_bob = {(finding["level"], finding["code"]) for finding in result["findings"] if finding["case"] == "bob"}
    assert (level, code) in of_bob, result["findings"]
    assert {finding["case"] for finding in result["findings"]} <= {"bob", ""}
    assert status == (2 if level == "error" else 0)
    assert result["excluded"] == (["bob"] if level == "error" else [])
    assert said in screen
    assert "bob" in screen


WHOLE_SET: dict[str, tuple[Callable[[Set], object], int, str]] = {
    # name: damage, exit status, what the screen says
    "no description": (lambda s: (s.root / "dataset.json").unlink(), 2, "no dataset.json beside it"),
    "broken description": (lambda s: (s.root / "dataset.json").write_text("{'labels'"), 2, "dataset.json cannot be read"),
    "declared and never seen": (
        lambda s: s.declare(labels=LABELS | {"heart": 3}),
        0,
        "no label map has the declared label 3 (heart)",
    ),
    "label map without image": (
        lambda s: save(s.root / "labelsTr/zoe.nii.gz", labels()),
        2,
        "has no image [labelsTr/zoe.nii.gz]",
    ),
    "image without channel number": (
        lambda s: save(s.root / "imagesTr/zoe.nii.gz", image("zoe")),
        2,
        "does not end in the number of a declared channel [imagesTr/zoe",
    ),
    "one channel missing": (
        lambda s: (
            s.declare(channel_names={"0": "T1", "1": "T2"}),
            [save(s.root / f"imagesTr/{name}_0001.nii.gz", image(name, 0.9)) for name in CASES if name != "bob"],
        ),
        0,
        "1 of 6 cases lack the channel 'T2'",
    ),
    "in training and in test": (
        lambda s: (s.root / "imagesTs").mkdir() or save(s.root / "imagesTs/bob2_0000.nii.gz", image("zoe")),
        0,
        "1 subjects are in the training folder and in the test folder",
    ),
    "eight bit beside wide": (
        lambda s: [save(s.root / f"imagesTr/{name}_0000.nii.gz", image(name, 8.0)) for name in CASES[:4]],
        0,
        "2 of 6 images of 'T1' have values from 0 to 255",
    ),
    "CT beside MR": (lambda s: save(s.image, image("bob") - 1000), 0, "look like CT"),
    "CT without Hounsfield units": (lambda s: s.declare(channel_names={"0": "CT"}), 0, "these are no Hounsfield units"),
    "another file ending": (
        lambda s: as_nrrd(s.root / "imagesTr/zoe_0000.nrrd"),
        0,
        "1 of the images in imagesTr do not end in",
    ),
    "absurd spacing": (lambda s: save(s.image, image("bob"), np.diag([1, 1, 900.0, 1])), 2, "has voxels of 1 x 1 x 900 mm"),
    "metres": (lambda s: save(s.image, image("bob"), units="meter"), 2, "states its lengths in meters"),
}


@pytest.mark.parametrize("name", WHOLE_SET)
def test_damage_of_the_set_is_named(sound: Set, capsys: pytest.CaptureFixture[str], name: str) -> None:
    harm, expected, said = WHOLE_SET[name]
    harm(sound)
    options = ("--set", "subject='^[a-z]+'") if name == "in training and in test" else ()
    status, screen, _ = check(sound.root, capsys, *options)
    assert said in screen
    assert status == expected, screen


def test_strict_fails_for_warnings_and_everything_is_written(sound: Set, capsys: pytest.CaptureFixture[str]) -> None:
    save(sound.image, image("bob"), units="unknown")
    assert check(sound.root, capsys)[0] == 0
    status, screen, result = check(sound.root, capsys, "--strict")
    assert status == 2
    assert "--strict was asked for" in screen
    assert [finding["code"] for finding in result["findings"]] == ["units"]
    assert {path.name for path in Path("runs/check/data").iterdir()} == {
        "report.html",
        "cases-001.html",
        "result.json",
        "manifest.json",
    }


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sound DICOM studies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for patient in ("one", "two"):
        Writer(tmp_path / "clinic" / patient, patient).series(ramp() + np.int16(len(patient) * ord(patient[0])))
    return tmp_path / "clinic"


def third(clinic: Path, **keys: object) -> list[Path]:
    """A third study, with a fault."""
    return Writer(clinic / "three", "three").series(ramp() * np.int16(2), **keys)  # type: ignore[arg-type]


def of_two_patients(clinic: Path) -> None:
    third(clinic, uid="1.2.3.4")
    Writer(clinic / "four", "four").series(ramp() * np.int16(2), uid="1.2.3.4", first=20, places=range(5, 10))


def turned_midway(k: int, dataset: Dataset) -> None:
    if k > 2:
        dataset.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]


def without_position(_: int, dataset: Dataset) -> None:
    del dataset.ImagePositionPatient


TREES: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda root: third(root)[2].write_bytes(b""), "1 files are empty"),
    "no series left of a text": (lambda root: (root / "three").write_text("not DICOM"), "1 files are not DICOM"),
    "cut short": (lambda root: damage(third(root)[2], lambda b: b[:-20]), "has a file that is cut short"),
    "missing slice": (lambda root: third(root)[2].unlink(), "lacks 1 slice"),
    "uneven slices": (lambda root: third(root, places=[0, 1, 2.3, 3, 4]), "uneven"),
    "slices in two orientations": (lambda root: third(root, change=turned_midway), "2 orientations"),
    "no position": (lambda root: third(root, change=without_position), "no usable position"),
    "two patients in one series": (of_two_patients, "files of several patients or studies under one series"),
    "localiser": (lambda root: third(root, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"),
    "colour": (lambda root: third(root, PhotometricInterpretation="RGB", SamplesPerPixel=3), "is in colour"),
    "positron emission": (lambda root: third(root, kind="PT", modality="PT"), "is no image of CT or MR (PT)"),
    "projection": (lambda root: third(root, ImageType=["DERIVED", "PRIMARY", "MIP"]), "is a projection"),
}


NO_FAULT = {"no series left of a text", "localiser", "positron emission"}
"""Nothing of these is damaged: a third study that was never meant as a scan, or none."""


@pytest.mark.parametrize("name", TREES)
def test_damage_of_dicom_is_named_and_leaves_the_others(clinic: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    harm, said = TREES[name]
    harm(clinic)
    status, screen, result = check(clinic, capsys)
    assert said in screen
    assert status == (0 if name in NO_FAULT else 2)
    assert len(result["cases"]) - len(set(result["cases"]) & set(result["excluded"])) == 2
    said = screen.replace("/Mustermann_Erika/", "/")  # the user's own folder is named on the screen, and nothing else is
    assert not any(secret in said + json.dumps(result) for secret in SECRETS)


def test_a_bids_file_in_another_subjects_folder_and_a_table_row_without_file(
    sound: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sound.root.parent / "bids"
    for name in CASES:
        save(root / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", image(name))
    (root / "sub-bob/anat/sub-bob_T1w.nii.gz").rename(root / "sub-bob/anat/sub-zoe_T1w.nii.gz")
    status, screen, _ = check(root, capsys)
    assert status == 2
    assert "subject" in screen and "sub-zoe_T1w.nii.gz" in screen
    table = sound.root / "cases.csv"
    table.write_text("subject,image\nann,imagesTr/ann_0000.nii.gz\nbob,imagesTr/gone.nii.gz\n")
    status, screen, _ = check(table, capsys)
    assert status == 2
    assert "imagesTr/gone.nii.gz" in screen
