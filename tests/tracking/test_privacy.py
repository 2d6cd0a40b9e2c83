"""What leaves for the store: no absolute path, MLflow's alphabet, its lengths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medae.errors import DataError
from medae.tracking.privacy import MAX_KEY, MAX_PARAM, as_name, as_params, as_tags, public, public_error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/ward 7/John Doe.nii.gz", "<path>"),
        ("/data", "<path>"),
        ("~/scans", "<path>"),
        ("~doe/scans", "<path>"),
        ("C:\\Users\\doe\\scan.nii", "<path>"),
        ("C:/Users/doe/scan.nii", "<path>"),
        ("\\\\server\\share\\doe", "<path>"),
        ("file:///home/doe/x", "<path>"),
        ("cannot read '/data/doe/x.nii': no file", "cannot read '<path>': no file"),
        ("root=/data/doe, steps=3", "root=<path>, steps=3"),
        ("root:/data/doe", "root:<path>"),
        ("store sqlite:////home/doe/mlflow.db here", "store <path> here"),
        ("see ~/log and D:\\doe\\x", "see <path> and <path>"),
        # and what is no absolute path stays
        ("hippocampus/imagesTr", "hippocampus/imagesTr"),
        ("../shared/data", "../shared/data"),
        ("runs:/0a1b/model", "runs:/0a1b/model"),
        ("from models:/encoder@newest", "from models:/encoder@newest"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("mm/s, 1 / 2", "mm/s, 1 / 2"),
        ("**/*.nii.gz", "**/*.nii.gz"),
    ],
)
def test_absolute_paths_are_taken_out(text: str, expected: str) -> None:
    assert public(text) == expected


def test_paths_in_nested_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = {"a": [Path("/data/doe"), {"/data/doe": 1}], "b": Path("runs/x"), "c": tmp_path / "out" / "model", "d": 1.5}
    assert public(value) == {"a": ["<path>", {"<path>": 1}], "b": "runs/x", "c": "out/model", "d": 1.5}


def test_the_place_of_an_error_is_a_path_to_its_end() -> None:
    """In the middle of a text a blank would end it, and folders are named after wards and patients."""
    where = "/data/st lukas/Meier Hans/ct.nii.gz"
    said = public_error(DataError("It cannot be read.", where=where, remedy="See /data/x, then try again."))
    assert said == "It cannot be read.\n  where:  <path>\n  remedy: See <path>, then try again."
    assert public_error(DataError("It is empty.", where="imagesTr/a.nii.gz")).endswith("imagesTr/a.nii.gz")


def test_the_root_as_working_folder_makes_no_path_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert public("/data/doe/x") == "<path>"


@given(st.text(max_size=400))
def test_every_name_is_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    clean = as_name(name)
    assert len(clean) <= MAX_KEY
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(clean)


@given(st.lists(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, max_size=5))
def test_no_posix_path_survives(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    for text in (path, f"see {path}", f"({path})", f"a='{path}'"):
        assert path not in public(text)
        assert not re.search(r"(^|[ ('])/\w", public(text))


def test_long_values_say_that_they_are_cut_short() -> None:
    rows, shortened = as_params({"a": "x" * (MAX_PARAM + 1), "b": "x" * MAX_PARAM, "c": {"d": True, "e": {}}})
    assert shortened == ["a"]
    assert len(rows["a"]) == MAX_PARAM
    assert rows["a"].endswith(f"... ({MAX_PARAM + 1} characters, cut short)")
    assert rows["b"] == "x" * MAX_PARAM
    assert (rows["c.d"], rows["c.e"]) == ("true", "{}")
    assert as_tags({"a:b": 3}) == {"a_b": "3"}
