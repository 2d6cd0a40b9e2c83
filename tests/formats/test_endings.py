"""Names of image files."""

from __future__ import annotations

from pathlib import Path

import pytest

from medae.formats.endings import image_files, is_image, stem, without_previews


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", "a"),
        ("a.b.NII", "a.b"),
        ("a_0000.nrrd", "a_0000"),
        ("a.mha", "a"),
        ("a.png", "a"),
        ("a.tiff", "a"),
        ("a.txt", None),
        ("a.gz", None),
        (".a.nii.gz", None),
        ("nii", None),
    ],
)
def test_names(name, expected):
    assert is_image(Path(name)) == (expected is not None)
    assert stem(Path(name)) == (expected or name if name[0] != "." else ".a")


def test_only_a_picture_of_a_volumes_name_is_a_preview(tmp_path):
    for name in ("a.PNG", "a.tif", "b.png", "ab.tiff", "a.nii.gz", ".c.nii", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a.nii.gz", "ab.tiff", "b.png"]
    (tmp_path / "a.nii.gz").unlink()
    assert [path.name for path in image_files(tmp_path)] == ["a.PNG", "a.tif", "ab.tiff", "b.png"]
    elsewhere = [Path("x/a.nii"), Path("y/a.png")]
    assert without_previews(elsewhere) == elsewhere
    assert image_files(tmp_path / "none") == []
    assert without_previews([]) == []
