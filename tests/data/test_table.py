"""A table of cases: columns, paths, and rows that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medae.data.case import ImageRef, Manifest
from medae.data.sources import AutoSource, detect_format, open_manifest
from medae.data.table import TableSource
from medae.data.tables import value
from medae.errors import ConfigError, DataError


def table(root: Path, *rows: str, name: str = "cases.csv", **fields: Any) -> Manifest:
    (root / name).write_text("\n".join(rows))
    return open_manifest(TableSource(root=root, table=Path(name), **fields))


def names(manifest: Manifest) -> dict[str, tuple[list[str], list[str]]]:
    """Case id -> its channels and targets."""
    return {case.id: (list(case.images), list(case.targets)) for case in manifest.cases}


@pytest.mark.parametrize("name", ["/data/P1", "../P1", "2021/0345", "a\\b", ".hidden"])
def test_an_id_that_is_a_path_is_refused_unless_it_is_hashed(listing: Path, name: str) -> None:
    """Results are named after their case: they could take the place of the scan itself."""
    rows = ["case,subject,image", f"{name},P1,a/1.nii.gz"]
    with pytest.raises(DataError, match="cannot be the name of a file"):
        table(listing, *rows, name="ids.csv")
    source = TableSource(root=listing, table=Path("ids.csv"))
    (case,) = open_manifest(source, "hashed").cases
    assert case.id.startswith("case-")


@pytest.mark.parametrize("text", ["NAN", "Nan", "inf", "-Infinity", "n/a", ""])
def test_a_number_that_is_none_is_missing(text: str) -> None:
    assert value(text) is None
    assert value("1_2") == "1_2" and value("3_1") == "3_1"
    assert [value(number) for number in ("0", "08", "-3", "1e3", "10")] == [0.0, 8.0, -3.0, 1000.0, 10.0]
    assert value(" 61.5 ") == 61.5 and value("infant") == "infant"


def test_a_table_named_itself(listing):
    manifest = open_manifest(AutoSource(root=listing / "cases.csv"))
    assert detect_format(listing / "cases.csv") == manifest.source == "table"
    assert manifest.findings == ()
    assert manifest.channels == ("T1", "FLAIR")
    assert names(manifest) == {
        "P1_1": (["T1", "FLAIR"], ["brain_mask", "label"]),
        "P1_2": (["T1"], []),
        "P2": (["T1"], []),
    }
    assert [(case.subject, case.session) for case in manifest.cases] == [("P1", "1"), ("P1", "2"), ("P2", None)]
    assert [case.covariates for case in manifest.cases] == [
        {"age": 61.5, "site": "north"},
        {"age": 62.0, "site": None},
        {"age": None, "site": "south"},
    ]
    case = manifest.case("P1_1")
    assert {name: ref.kind for name, ref in case.targets.items() if isinstance(ref, ImageRef)} == {
        "brain_mask": "mask",
        "label": "labels",
    }
    assert case.images["FLAIR"].files == ("a/2.nrrd",)
    assert case.images["FLAIR"].modality == "MR"


def test_the_same_table_under_a_root(listing):
    named = open_manifest(AutoSource(root=listing / "cases.csv"))
    for table_file in (Path("cases.csv"), listing / "cases.csv"):
        assert open_manifest(TableSource(root=listing, table=table_file)) == named
    assert open_manifest(TableSource(root=listing / "cases.csv")) == named
    with pytest.raises(DataError, match="which file is the table"):
        open_manifest(TableSource(root=listing))
    with pytest.raises(DataError, match="The table does not exist"):
        open_manifest(TableSource(root=listing, table=Path("other.csv")))
    with pytest.raises(ConfigError, match="'table' states its subjects"):
        open_manifest(AutoSource(root=listing / "cases.csv", subject="."))


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.csv", ";"), ("x.csv", "\t"), ("x.tsv", "\t")])
def test_delimiters_quotes_and_case_of_names(tmp_path, touch, name, delimiter):
    touch(tmp_path, "a, b.nii", "c.nii")
    rows = [["Case", "Subject", "Image", "Label : lesion", "note"], ["k1", "P1", '"a, b.nii"', "c.nii", "x"]]
    manifest = table(
        tmp_path, *(delimiter.join(row) for row in rows), "", name=name, label_names={0: "background", 1: "lesion"}
    )
    assert names(manifest) == {"k1": (["image"], ["lesion"])}
    assert manifest.case("k1").covariates == {"note": "x"}
    assert manifest.labels == {"lesion": {0: "background", 1: "lesion"}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([""], "has no rows"),
        (["subject,image"], "has no rows"),
        (["person,image", "P1,a.nii"], "no column 'subject'"),
        (["subject,age", "P1,3"], "no column of images"),
        (["subject,image,seg", "P1,a.nii,a.nii"], "column 'seg' holds files"),
        (["subject,image,image", "P1,a.nii,a.nii"], "columns of different names"),
        (["subject,image,Image:image", "P1,a.nii,a.nii"], "Two columns have the same name"),
        (["subject,image,label:x,mask:x", "P1,a.nii,a.nii,a.nii"], "Two columns have the same name"),
        (["subject,image", "P1,a.nii,3"], "columns of different names"),
        (["subject,image", 'P1,"a.nii'], "cannot be read"),
        (["subject,image", "P1,gone.nii"], r"(?s)every one has an error.*gone.nii: is not there"),
    ],
)
def test_tables_of_another_form(tmp_path, touch, rows, message):
    touch(tmp_path, "a.nii")
    with pytest.raises(DataError, match=message):
        table(tmp_path, *rows)


@pytest.mark.parametrize(
    ("row", "code", "case", "problem"),
    [
        (",,a.nii,", "row", "", "states no subject, in line 3"),
        ("x,,a.nii,", "row", "x", "states no subject, in line 3"),
        ("x,P2,,b.nii", "row", "x", "names no image, in line 3"),
        ("x,P2,/etc/a.nii,", "outside", "x", "outside the data set, in line 3"),
        ("x,P2,../a.nii,", "outside", "x", "outside the data set, in line 3"),
        ("x,P2,a.txt,", "ending", "x", "no image by its ending, in line 3"),
        ("x,P2,gone.nii,", "unreadable", "x", "is not there"),
        ("x,P2,a.nii,gone.nii", "unreadable", "x", "is not there"),
    ],
)
def test_a_bad_row_leaves_out_its_case(tmp_path, touch, row, code, case, problem):
    touch(tmp_path, "a.nii", "b.nii")
    manifest = table(tmp_path, "case,subject,image,label", "good,P1,b.nii,", row)
    assert names(manifest) == {"good": (["image"], [])}
    found = [finding for finding in manifest.findings if finding.code != "orphan"]
    assert [(finding.level, finding.code, finding.case) for finding in found] == [("error", code, case)]
    assert problem in found[0].problem


def test_two_rows_of_one_case(tmp_path, touch):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    manifest = table(tmp_path, "subject,image", "P1,a.nii", "P1,b.nii", "P2,c.nii")
    assert list(names(manifest)) == ["P2"]
    assert [(finding.case, finding.problem) for finding in manifest.findings] == [("P1", "has a second row, in line 3")]
    assert "'case'" in manifest.findings[0].remedy


@pytest.mark.data
def test_real_scans_of_two_sets_in_one_table(data_root, tmp_path):
    rows = ["subject,image,label"]
    rows += [f"{name},ixi_t1/{name}/anat/{name}_T1w.nii.gz," for name in ("sub-IXI034", "sub-IXI048")]
    rows += ["1002,oasis_t1/sub-1002_T1w.nii.gz,oasis_t1/sub-1002_dseg.nii.gz"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    manifest = open_manifest(TableSource(root=data_root, table=tmp_path / "cases.csv"))
    assert names(manifest) == {
        "1002": (["image"], ["label"]),
        "sub-IXI034": (["image"], []),
        "sub-IXI048": (["image"], []),
    }
