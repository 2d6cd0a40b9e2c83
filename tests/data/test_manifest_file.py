"""Manifest files: what was checked is what is opened, and what changed since is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medae.data.case import Manifest
from medae.data.folder import FolderSource
from medae.data.manifest_file import Record
from medae.data.phantom import PhantomSource
from medae.data.sources import AutoSource, CaseIds, ManifestSource, open_manifest, write_manifest
from medae.data.split import SplitConfig, split_subjects
from medae.data.table import TableSource
from medae.errors import ConfigError, DataError

LAYOUTS = ("msd", "nnunet", "bids", "plain", "listing")


def write(root: Path, file: Path, case_ids: CaseIds = "given", **fields: Any) -> Manifest:
    source = AutoSource(root=root, **fields)
    manifest = open_manifest(source, case_ids)
    write_manifest(manifest, source, file, case_ids)
    return manifest


def rewrite(path: Path) -> None:
    path.write_text("other contents")


@pytest.fixture
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("check") / "manifest.json"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case_ids", ["given", "hashed"])
def test_round_trip(layout, case_ids, request, file):
    root = request.getfixturevalue(layout)
    manifest = write(root / "cases.csv" if layout == "listing" else root, file, case_ids)
    again = open_manifest(ManifestSource(root=root, file=file))
    assert again == manifest
    assert again.digest() == manifest.digest() == json.loads(file.read_text())["digest"]


def test_a_split_is_the_same_from_the_manifest_file(tmp_path, touch, file):
    """Splits are ordered by the names that the hashes hide; the file holds no name, and opening finds them again."""
    people = [f"patient{number:02d}" for number in range(20)]
    touch(tmp_path, *(f"image/{name}.nii.gz" for name in people))
    manifest = write(tmp_path, file)
    again = open_manifest(ManifestSource(root=tmp_path, file=file))
    config = SplitConfig(seed=4)
    assert split_subjects(again, config) == split_subjects(manifest, config)
    assert not any(name in file.read_text() for name in people)


@pytest.mark.parametrize("case_ids", ["given", "hashed"])
def test_the_file_holds_neither_the_root_nor_names_that_are_hidden(bids, file, case_ids):
    write(bids, file, case_ids)
    text = file.read_text()
    assert str(bids) not in text
    assert "nii" not in text
    assert ("sub-01" in text) == (case_ids == "given")


def test_a_data_set_that_moved(msd, tmp_path_factory, file):
    manifest = write(msd, file)
    moved = tmp_path_factory.mktemp("elsewhere") / "set"
    msd.rename(moved)
    again = open_manifest(ManifestSource(root=moved, file=file))
    assert (again.cases, again.root) == (manifest.cases, moved)


@pytest.mark.parametrize(
    ("change", "code", "file_of", "role"),
    [
        (lambda root: (root / "imagesTr/la_1.nii.gz").write_text("other"), "changed", "imagesTr/la_1.nii.gz", "image MRI"),
        (
            lambda root: (root / "labelsTr/la_1.nii.gz").write_text("other"),
            "changed",
            "labelsTr/la_1.nii.gz",
            "target label",
        ),
        (lambda root: (root / "imagesTr/la_1.nii.gz").unlink(), "unreadable", "imagesTr/la_1.nii.gz", "image MRI"),
    ],
)
def test_what_changed_since_the_check_is_left_out_and_named(msd, file, change, code, file_of, role):
    write(msd, file)
    change(msd)
    again = open_manifest(ManifestSource(root=msd, file=file))
    assert [case.id for case in again.cases] == ["la_2", "la_3"]
    (finding,) = again.findings
    assert (finding.level, finding.code, finding.case, finding.file, finding.role) == ("error", code, "la_1", file_of, role)
    assert again.excluded == ("la_1",)


def test_a_case_that_went_and_one_that_came(msd, file, touch):
    write(msd, file)
    (msd / "imagesTr/la_2.nii.gz").unlink()
    touch(msd, "imagesTr/la_7.nii.gz", "labelsTr/la_2.nii.gz")
    (msd / "labelsTr/la_2.nii.gz").unlink()
    again = open_manifest(ManifestSource(root=msd, file=file))
    assert [case.id for case in again.cases] == ["la_1", "la_3"]
    assert [(found.level, found.code, found.case) for found in again.findings] == [
        ("error", "gone", "la_2"),
        ("warning", "new", "la_7"),
    ]


def test_ids_that_were_written_are_not_hashed_later_without_a_word(bids, file):
    source = ManifestSource(root=bids, file=file)
    write(bids, file)
    with pytest.raises(ConfigError, match=r"(?s)written with given ones.*--case-ids hashed"):
        open_manifest(source, "hashed")
    manifest = write(bids, file, "hashed")
    assert open_manifest(source, "hashed") == open_manifest(source, "given") == manifest


@pytest.mark.parametrize("source", [{"format": "other"}, {"format": None}, {}])
def test_a_file_with_an_unknown_layout(bids, file, source):
    write(bids, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"source": source}))
    with pytest.raises(DataError, match="names the unknown layout"):
        open_manifest(ManifestSource(root=bids, file=file))


def test_two_checks_that_write_one_file_do_not_collide(msd, file, monkeypatch):
    """The second writes all of its file just before the first gives its own the name."""
    manifest = write(msd, file)
    replace = Path.replace

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        Record.of(manifest, {"format": "msd"}, "given").write(file)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    Record.of(manifest, {"format": "msd"}, "hashed").write(file)
    assert Record.read(file).case_ids == "hashed"
    assert list(file.parent.iterdir()) == [file]


def test_cases_that_the_check_left_out_stay_out(bids, file):
    source = AutoSource(root=bids)
    checked = open_manifest(source).select(lambda case: case.id != "sub-02_ses-a")
    write_manifest(checked, source, file)
    again = open_manifest(ManifestSource(root=bids, file=file))
    assert again.cases == checked.cases
    assert [(found.level, found.code, found.case) for found in again.findings] == [("warning", "new", "sub-02_ses-a")]


def test_covariates_are_those_of_the_check_and_a_new_subject_is_a_change(listing, file):
    table = listing / "cases.csv"
    rows = "case,subject,image,site\nx,P1,a/1.nii.gz,north\ny,P2,b/4.nii,south"
    table.write_text(rows)
    manifest = write(table, file)
    table.write_text(rows.replace("north", "south"))
    assert open_manifest(ManifestSource(root=listing, file=file)).cases == manifest.cases
    table.write_text(rows.replace("P1", "P2"))
    again = open_manifest(ManifestSource(root=listing, file=file))
    assert [(found.code, found.case, found.problem) for found in again.findings] == [
        ("changed", "x", "has another subject since the check")
    ]
    assert [case.id for case in again.cases] == ["y"]


def test_other_labels_or_another_salt_are_refused(msd, file, edit_json, monkeypatch):
    write(msd, file, "hashed")
    with monkeypatch.context() as patched:
        patched.setenv("MEDAE_CASE_SALT", "secret")
        with pytest.raises(
            DataError, match=r"(?s)No case of the data set is as it was in the manifest file.*MEDAE_CASE_SALT"
        ):
            open_manifest(ManifestSource(root=msd, file=file))
    edit_json(msd, labels={"0": "background", "1": "ventricle"})
    with pytest.raises(DataError, match=r"channels or labels .* manifest file\.\n"):  # hashed: it names no folder
        open_manifest(ManifestSource(root=msd, file=file))


def test_a_manifest_file_of_another_data_set_says_of_which(msd, file, edit_json, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere") / "knees"
    shutil.copytree(msd, other)
    write(other, file)
    assert str(other) not in file.read_text()
    edit_json(msd, labels={"0": "background", "1": "ventricle"})
    with pytest.raises(DataError, match=rf"(?s)which was made from a folder called 'knees'\..*{msd}.*own manifest file"):
        open_manifest(ManifestSource(root=msd, file=file))


@pytest.mark.parametrize("text", [None, "", "{", "{}", '{"medae_manifest": 2}'])
def test_a_file_that_is_none(msd, file, text):
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match="The manifest file cannot be read"):
        open_manifest(ManifestSource(root=msd, file=file))


def test_keys_of_the_source_are_kept(plain, file):
    source = FolderSource(root=plain, images="image", labels="mask", subject="^[a-z]+_[a-z]+", ids="names", modality="CT")
    manifest = open_manifest(source)
    write_manifest(manifest, source, file)
    assert open_manifest(ManifestSource(root=plain, file=file)) == manifest


def test_a_table_given_by_its_absolute_path_is_recorded_relative_to_the_root(listing, file):
    for source in (TableSource(root=listing, table=listing / "cases.csv"), TableSource(root=listing / "cases.csv")):
        manifest = open_manifest(source)
        write_manifest(manifest, source, file)
        assert str(listing) not in file.read_text()
        assert open_manifest(ManifestSource(root=listing, file=file)) == manifest


def test_phantoms(tmp_path, file):
    source = PhantomSource(root=tmp_path / "cohort", subjects=1, spacing=8.0)
    manifest = open_manifest(source)
    write_manifest(manifest, source, file)
    assert open_manifest(ManifestSource(root=tmp_path / "cohort", file=file)) == manifest


@pytest.mark.data
@pytest.mark.parametrize("name", ["lgg_3ch", "oasis_t1"])
def test_real_round_trip(data_root, name, file):
    manifest = write(data_root / name, file)
    assert open_manifest(ManifestSource(root=data_root / name, file=file)) == manifest
