"""What libraries say of files that they cannot read, without the files' names."""

from __future__ import annotations

from pathlib import Path

import pytest

from medae.formats.raw import unreadable

SCAN = Path("scans") / "Doe_John.nii.gz"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (f"Empty file: '{SCAN}'", "Empty file: 'it'"),
        (f"Not a gzipped file ({SCAN.resolve()})", "Not a gzipped file (it)"),
        (f"File {SCAN} is not a gzip file", "it is not a gzip file"),
        ("long\nstory\nDoe_John.nii.gz: no header", "it: no header"),
        ("no data of Doe_John", "no data of it"),
        ("a word like Doe_Johnson", "a word like Doe_Johnson"),
    ],
)
def test_names_are_taken_out(message, said):
    error = unreadable(SCAN, OSError(message))
    assert (error.what, error.where) == (f"The image cannot be read: {said}", str(SCAN))
