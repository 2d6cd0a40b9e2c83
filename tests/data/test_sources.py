"""Recognising layouts, faults that all share, identity of cases, and the real data."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medae.data.bids import BIDSSource
from medae.data.case import Case, Manifest
from medae.data.dicom import DICOMSource
from medae.data.folder import FolderSource
from medae.data.msd import MSDSource
from medae.data.nnunet import NNUNetSource
from medae.data.phantom import PhantomSource
from medae.data.sources import AutoSource, ManifestSource, SourceConfig, open_manifest
from medae.data.table import TableSource
from medae.errors import ConfigError, DataError


def auto(root: Path, **fields: Any) -> Manifest:
    return open_manifest(AutoSource(root=root, **fields))


def test_nothing_recognised_lists_what_was_looked_for(tmp_path, touch):
    touch(tmp_path, "notes/readme.txt")
    with pytest.raises(DataError) as error:
        auto(tmp_path)
    for word in ("dataset.json", "sub-*", "image/ and mask/", "*_T1w.nii.gz", "phantom.json"):
        assert word in str(error.value)


def test_nothing_recognised_points_at_data_sets_inside(tmp_path, touch):
    touch(tmp_path, "series/1.dcm")  # its contents are no DICOM
    with pytest.raises(DataError, match="DICOM files, at any depth"):
        auto(tmp_path)
    touch(tmp_path, "Task04/dataset.json")
    with pytest.raises(DataError, match=r"folder inside it \(Task04\)"):
        auto(tmp_path)


def test_two_layouts(msd, touch):
    touch(msd, "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(DataError, match=r"Two layouts are recognised: msd .* and bids"):
        auto(msd)
    assert open_manifest(BIDSSource(root=msd)).source == "bids"


def test_two_plain_layouts(plain, touch):
    touch(plain, "loose.nii.gz")
    with pytest.raises(DataError, match="both in itself and in its subfolders"):
        auto(plain)


def test_images_without_dataset_json(msd):
    (msd / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"no dataset\.json"):
        auto(msd)
    with pytest.raises(DataError, match="cannot be read"):
        open_manifest(MSDSource(root=msd))


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_dataset_json_that_is_not_json(msd, text):
    (msd / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        auto(msd)


@pytest.mark.parametrize("layout", ["msd", "nnunet", "plain", "bids"])
def test_a_label_map_without_image_is_listed_and_changes_nothing_else(layout, request, touch):
    root = request.getfixturevalue(layout)
    whole = auto(root)
    lost = {"plain": "mask/lost.nii.gz", "bids": "derivatives/atlas/sub-09/anat/sub-09_dseg.nii.gz"}
    touch(root, file := lost.get(layout, "labelsTr/lost.nii.gz"))
    manifest = auto(root)
    assert [(found.level, found.code, found.file, found.role) for found in manifest.findings] == [
        ("warning" if layout == "bids" else "error", "orphan", file, "target label")  # a derivative's may cover others
    ]
    assert manifest.cases == whole.cases
    assert len(manifest.excluded) == (0 if layout == "bids" else 1)


@pytest.mark.parametrize(
    ("layout", "file", "case"),
    [
        ("msd", "imagesTr/la_1.nii", "la_1"),
        ("msd", "imagesTs/la_1.nii.gz", "la_1"),
        ("nnunet", "imagesTs/a_0000.nii.gz", "a"),
        ("plain", "image/jane_doe_1.nii", "jane_doe_1"),
        ("plain", "mask/jane_doe_1.nrrd", "jane_doe_1"),
        ("bids", "sub-01/anat/sub-01_ce-gd_T1w.nii.gz", "sub-01"),
    ],
)
def test_two_files_for_one_place_leave_out_their_case(layout, file, case, request, touch):
    root = request.getfixturevalue(layout)
    source = FolderSource(root=root, ids="names") if layout == "plain" else AutoSource(root=root)
    before = [found.id for found in open_manifest(source).cases]
    touch(root, file)
    manifest = open_manifest(source)
    assert {(found.level, found.code, found.case) for found in manifest.findings} == {("error", "ambiguous", case)}
    assert len(manifest.findings) == 2
    assert file in {found.file for found in manifest.findings}
    assert [found.id for found in manifest.cases] == [known for known in before if known != case]
    assert manifest.excluded == (case,)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("msd", "imagesTr/la_1.nii.gz"),
        ("nnunet", "labelsTr/a.nii.gz"),
        ("plain", "image/jane_doe_1.nii.gz"),
        ("bids", "sub-01/anat/sub-01_FLAIR.nii.gz"),
        ("listing", "c/head.nii.gz"),
    ],
)
def test_a_link_to_nothing_leaves_out_its_case(layout, file, request):
    root = request.getfixturevalue(layout)
    source = AutoSource(root=root / "cases.csv" if layout == "listing" else root)
    n_cases = len(open_manifest(source).cases)
    (root / file).unlink()
    (root / file).symlink_to("gone")  # how DataLad leaves a file that was not fetched
    manifest = open_manifest(source)
    assert [(found.level, found.code, found.file) for found in manifest.findings] == [("error", "unreadable", file)]
    assert "never downloaded" in manifest.findings[0].remedy
    assert len(manifest.cases) == n_cases - 1


def test_a_file_that_may_not_be_read_is_named(plain, monkeypatch):
    path_open = Path.open

    def guarded(path: Path, *args: Any, **keywords: Any) -> Any:
        if path.name == "jane_doe_2.nii.gz":
            raise PermissionError(13, "Permission denied", str(path))
        return path_open(path, *args, **keywords)

    monkeypatch.setattr(Path, "open", guarded)
    manifest = open_manifest(FolderSource(root=plain, ids="names"))
    assert [case.id for case in manifest.cases] == ["jane_doe_1"]
    assert [(found.case, found.problem) for found in manifest.findings] == [
        ("jane_doe_2", "cannot be read: Permission denied")
    ]


def test_findings_of_hashed_cases_name_no_one(plain, touch, monkeypatch):
    touch(plain, "mask/john_roe.nii.gz", "image/jane_doe_1.nii")
    manifest = auto(plain)
    public = json.dumps([dataclasses.asdict(found.public()) for found in manifest.findings])
    assert "jane" not in public
    assert "john" not in public
    assert "image image" in public
    assert {found.file for found in manifest.findings} == {
        "image/jane_doe_1.nii",
        "image/jane_doe_1.nii.gz",
        "mask/john_roe.nii.gz",
    }
    assert len(manifest.excluded) == 2
    assert manifest.excluded == auto(plain).excluded
    assert not set(manifest.excluded) & {case.id for case in manifest.cases}
    guess = hmac.new(b"", b"case\x1fjohn_roe", hashlib.sha256).hexdigest()[:12]
    assert f"case-{guess}" not in manifest.excluded
    monkeypatch.setenv("MEDAE_CASE_SALT", "secret")
    assert not set(manifest.excluded) & set(auto(plain).excluded)


def test_nothing_usable_names_the_errors(nnunet):
    for path in [*nnunet.glob("images*/*")]:
        path.unlink()
        path.symlink_to("gone")
    with pytest.raises(DataError, match=r"(?s)every one has an error.*imagesTr/a_0000.nii.gz: is a link to nothing"):
        auto(nnunet)
    for folder in ("imagesTr", "imagesTs"):
        shutil.rmtree(nnunet / folder)
    with pytest.raises(DataError, match="holds no images"):
        open_manifest(NNUNetSource(root=nnunet))


@given(order=st.permutations(range(6)), names=st.lists(st.text("abcxyz", min_size=1, max_size=6), min_size=6, unique=True))
@settings(max_examples=15, deadline=None)
def test_digest_depends_on_neither_order_nor_names_of_files(tmp_path_factory, order, names):
    """The same three cases of a table, once in files 0.nii to 5.nii, once under other names, written in another order."""
    digests = []
    for files, places in (([str(number) for number in range(6)], range(6)), (names[:6], order)):
        root = tmp_path_factory.mktemp("set")
        for place in places:
            (root / f"{files[place]}.nii").write_text(f"contents {place}")
        rows = [f"P{number},{files[number]}.nii,{files[number + 3]}.nii" for number in range(3)]
        rows = rows if places == range(6) else rows[::-1]
        (root / "cases.csv").write_text("\n".join(["subject,image,label", *rows]))
        digests.append(open_manifest(TableSource(root=root, table=Path("cases.csv"))).digest())
    assert digests[0] == digests[1]


def test_subject_pattern_where_subjects_are_stated(bids):
    with pytest.raises(ConfigError, match="states its subjects"):
        auto(bids, subject=".*")


@pytest.mark.parametrize("layout", ["msd", "nnunet", "bids", "plain", "listing"])
@pytest.mark.parametrize("case_ids", ["given", "hashed"])
def test_digest_depends_on_contents_only(layout, case_ids, request, tmp_path_factory):
    root = request.getfixturevalue(layout)
    other = tmp_path_factory.mktemp("other") / "elsewhere"
    other.mkdir()
    for path in sorted(root.rglob("*"), reverse=True):  # another root, files created in another order
        if path.is_file():
            (other / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, other / path.relative_to(root))
    roots = [folder / "cases.csv" if layout == "listing" else folder for folder in (root, other)]
    first, second = (open_manifest(AutoSource(root=folder), case_ids) for folder in roots)
    assert first.digest() == second.digest()
    assert [case.id for case in first.cases] == [case.id for case in second.cases] == sorted(case.id for case in first.cases)
    second.paths(next(iter(second.cases[0].images.values())))[0].write_text("other contents")
    assert open_manifest(AutoSource(root=roots[1]), case_ids).digest() != first.digest()


def test_hashed_ids_hide_names_and_keep_subjects_together(bids, monkeypatch):
    given, hashed = (open_manifest(AutoSource(root=bids), case_ids) for case_ids in ("given", "hashed"))

    def contents(case: Case) -> list[str]:
        return sorted(ref.sha256 for ref in case.images.values())

    partner = {case.id: next(other for other in hashed.cases if contents(other) == contents(case)) for case in given.cases}
    assert partner["sub-02_ses-a"].subject == partner["sub-02_ses-b"].subject != partner["sub-01"].subject
    assert len({case.id for case in hashed.cases}) == 3
    ids = json.dumps([(case.id, case.subject, case.session) for case in hashed.cases])
    assert "sub-0" not in ids
    assert "ses-" not in ids
    unsalted = hashlib.sha256(b"sub-01").hexdigest()[:12]
    assert unsalted not in ids
    monkeypatch.setenv("MEDAE_CASE_SALT", "secret")
    salted = open_manifest(AutoSource(root=bids), "hashed")
    assert {case.id for case in salted.cases}.isdisjoint(case.id for case in hashed.cases)


def test_salted_ids_stay_when_the_data_grow(plain, monkeypatch, touch):
    monkeypatch.setenv("MEDAE_CASE_SALT", "secret")
    before = auto(plain, subject="^[a-z]+_[a-z]+")
    touch(plain, "image/jane_doe_0.nii.gz")
    after = auto(plain, subject="^[a-z]+_[a-z]+")
    assert {case.subject for case in before.cases} == {case.subject for case in after.cases}
    assert {case.id for case in before.cases} < {case.id for case in after.cases}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"root": "x"}, AutoSource),
        ({"format": "auto", "root": "x", "subject": "^.{14}"}, AutoSource),
        ({"format": "msd", "root": "x"}, MSDSource),
        ({"format": "nnunet", "root": "x", "modality": "MR"}, NNUNetSource),
        ({"format": "bids", "root": "x", "derivatives": "dlmuse"}, BIDSSource),
        ({"format": "folder", "root": "x", "images": "image", "subject": "^.{14}"}, FolderSource),
        ({"format": "table", "root": "x", "table": "cases.csv"}, TableSource),
        ({"format": "manifest", "root": "x", "file": "manifest.json"}, ManifestSource),
        ({"format": "bids", "root": "x", "derivatives": ["atlas", "masks"]}, BIDSSource),
        ({"format": "phantom", "root": "x"}, PhantomSource),
        ({"format": "dicom", "root": "x", "channels": {"T1": "^t1"}, "phases": "first"}, DICOMSource),
    ],
)
def test_union_reads_and_writes_each_source(content, expected):
    adapter: TypeAdapter[Any] = TypeAdapter(SourceConfig)
    source = adapter.validate_python(content)
    assert type(source) is expected
    assert adapter.validate_json(adapter.dump_json(source)) == source


def test_union_refuses_unknown_formats_and_keys():
    adapter: TypeAdapter[Any] = TypeAdapter(SourceConfig)
    for content in ({"format": "parquet", "root": "x"}, {"format": "msd", "root": "x", "images": "y"}, {"format": "msd"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(content)


def test_phantoms_are_recognised_as_phantoms(tmp_path):
    made = open_manifest(PhantomSource(root=tmp_path / "cohort", subjects=1, spacing=8.0, seed=3))
    found = auto(tmp_path / "cohort")
    assert found.phantom
    assert found.digest() == made.digest()


REAL = {
    "hippocampus": ("msd", ("MRI",), 190, 190, {0: "background", 1: "Anterior", 2: "Posterior"}, {"MR"}),
    "lgg": ("nnunet", ("FLAIR",), 42, 42, {0: "background", 1: "FLAIR abnormality"}, {"MR"}),
    "lgg_3ch": ("nnunet", ("FLAIR", "T1", "T1ce"), 8, 8, {0: "background", 1: "FLAIR abnormality"}, {"MR"}),
    "ixi_t1": ("bids", ("T1w",), 43, 43, None, {"MR"}),
    "lidc": ("folder", ("image",), 452, 253, None, {"unknown"}),
    "oasis_t1": ("folder", ("T1w",), 6, 6, None, {"MR"}),
}


@pytest.mark.data
@pytest.mark.parametrize("case_ids", ["given", "hashed"])
@pytest.mark.parametrize("name", REAL)
def test_real_data_open_by_themselves(data_root, name, case_ids):
    layout, channels, n_cases, n_subjects, labels, modalities = REAL[name]
    subject = "^.{14}" if name == "lidc" else None
    manifest = open_manifest(AutoSource(root=data_root / name, subject=subject), case_ids)
    assert manifest.findings == ()
    assert (manifest.source, manifest.channels) == (layout, channels)
    assert (len(manifest.cases), len({case.subject for case in manifest.cases})) == (n_cases, n_subjects)
    assert manifest.labels == ({"label": labels} if labels else {})
    assert all(tuple(case.images) == channels and list(case.targets) == ["label"] for case in manifest.cases)
    assert {ref.modality for case in manifest.cases for ref in case.images.values()} == modalities
    assert all(path.is_file() for case in manifest.cases for ref in case.images.values() for path in manifest.paths(ref))
    is_hashed = case_ids == "hashed" or layout == "folder"
    assert all(case.id.startswith("case-") == is_hashed for case in manifest.cases)
