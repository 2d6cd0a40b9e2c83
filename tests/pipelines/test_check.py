"""What ``medae check`` leaves behind."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medae.data.finding import Finding
from medae.errors import DataError
from pipelines import check
from pipelines.check import grouped

NAMES = ("Mustermann_Erika", "Doe_John", "Roe_Jane")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scans with patients' names, one of them broken, one without a unit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDAE_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(NAMES):
        image = nib.Nifti1Image(np.random.default_rng(number).random((8, 9, 7), np.float32) * 90, np.eye(4))
        image.header.set_xyzt_units("unknown" if number == 1 else "mm")
        path = tmp_path / "data" / "scans" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    broken = tmp_path / "data" / "scans" / f"{NAMES[2]}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-30])
    return tmp_path / "data"


def run(folder: Path, **options: bool) -> None:
    check.run(folder, "auto", "given", [], Path("out"), workers=1, **options)


@pytest.mark.parametrize(
    ("ending", "harm"), [(".nii.gz", None), (".nii.gz", b"garbage" * 100), (".nii", b""), (".nrrd", b"")]
)
def test_names_are_on_the_screen_only(
    folder: Path, capsys: pytest.CaptureFixture[str], ending: str, harm: bytes | None
) -> None:
    broken = folder / "scans" / f"{NAMES[2]}.nii.gz"
    if harm is not None:
        broken.unlink()
        (folder / "scans" / f"{NAMES[2]}{ending}").write_bytes(harm)
    with pytest.raises(DataError, match="1 of 3 cases have an error"):
        run(folder)
    screen = capsys.readouterr().out
    assert f"scans/{NAMES[2]}{ending}" in screen
    written = {path.name: path.read_text() for path in Path("out").iterdir()}
    assert set(written) == {"report.html", "cases-001.html", "result.json", "manifest.json"}
    for content in written.values():
        assert not any(name in content for name in NAMES)
        assert str(folder) not in content


def test_every_case_that_can_be_read_has_its_picture_and_pages_are_of_bearable_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TILES", 1)
    with pytest.raises(DataError):
        run(folder)
    pages = sorted(Path("out").glob("cases-*.html"))
    assert [page.name for page in pages] == ["cases-001.html", "cases-002.html"]
    report = Path("out/report.html").read_text()
    assert all(f'href="{page.name}"' in report for page in pages)
    for page in pages:
        (source,) = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text())
        picture = Image.open(io.BytesIO(base64.b64decode(source)))
        assert picture.width > picture.height > 50
    monkeypatch.setattr(check, "TILES", 300)
    with pytest.raises(DataError):
        run(folder)
    assert [page.name for page in Path("out").glob("cases-*.html")] == ["cases-001.html"]  # no page of before is left


def test_the_result_holds_every_finding_and_the_facts_of_each_image(folder: Path) -> None:
    with pytest.raises(DataError):
        run(folder)
    result = json.loads(Path("out/result.json").read_text())
    assert {(row["level"], row["code"], row["role"]) for row in result["findings"]} == {
        ("error", "unreadable", "image image"),
        ("warning", "units", "image image"),
    }
    assert result["facts"]["cases"] == 3
    assert len(result["excluded"]) == 1
    facts = [found["images"]["image"] for found in result["cases"].values() if found["images"]]
    assert [(tuple(found["shape"]), found["orientation"]) for found in facts] == [((8, 9, 7), "RAS")] * 2
    assert result["excluded"][0] not in json.dumps(json.loads(Path("out/manifest.json").read_text())["cases"])


def test_each_data_set_has_a_folder_of_its_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "scans" / f"{NAMES[2]}.nii.gz").unlink()
    other = tmp_path / "elsewhere" / "data"
    shutil.copytree(folder, other)
    for data in (folder, other, folder / "scans", folder):
        check.run(data, "auto", "given", [], None, workers=1)
    roots = {path.parent.name: json.loads(path.read_text())["root"] for path in Path("runs/check").glob("*/result.json")}
    assert set(roots) == {"data", "data-2", "scans"}
    assert len(set(roots.values())) == 3
    monkeypatch.chdir(other)
    check.run(Path(), "auto", "given", [], tmp_path / "out", workers=1)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="check of another data set"):
        check.run(folder, "auto", "given", [], tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    check.run(other, "auto", "given", [], tmp_path / "out", workers=1)


def test_the_table_counts_empty_label_maps_and_a_broken_one_is_called_that(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = folder / "scans" / f"{NAMES[2]}.nii.gz"
    broken.write_bytes((folder / "scans" / f"{NAMES[1]}.nii.gz").read_bytes())
    (folder / "mask").mkdir()
    for value, name in enumerate(NAMES[:2]):
        nib.save(nib.Nifti1Image(np.full((8, 9, 7), value, np.uint8), np.eye(4)), folder / "mask" / f"{name}.nii.gz")
    (folder / "mask" / broken.name).write_bytes(b"no label map" * 9)
    with pytest.raises(DataError, match="1 of 3 cases have an error"):
        check.run(folder, "folder", "given", ["images=scans", "labels=mask"], Path("out"), workers=1)
    screen = " ".join(capsys.readouterr().out.split())
    assert "label (3 cases, 1 empty)" in screen
    assert "cannot be used: the label map cannot be read: it is not a gzip file" in screen


def test_equal_findings_are_one_row_and_errors_come_first() -> None:
    findings = [
        Finding(f"case{number}", f"scans/{number}.nii", level, "code", "is odd", "Look.", "image image")
        for number in range(5)
        for level in ("warning", "error")
    ]
    assert grouped(findings) == [
        ("error", "case0, case1, case2 and 2 more", "is odd", "Look."),
        ("warning", "case0, case1, case2 and 2 more", "is odd", "Look."),
    ]
    assert grouped(findings[:1], files=True) == [("warning", "scans/0.nii", "is odd", "Look.")]
    assert grouped([Finding("", "", "warning", "code", "is odd", "Look.")], files=True)[0][1] == "data set"
