"""Folders of images that medae makes: marked as its own, each file whole or not there, equal content in equal bytes."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medae.errors import DataError

MARK = 40
"""So many first characters of the README tell that a folder is ours."""


def claim(root: Path, readme: str, where: Path, what: str) -> None:
    """Make the folder if need be, and mark it by its README. Hidden files in it do not count.

    where: how errors name it. what: what it is for. Raises DataError if it holds anything else.
    """
    root.mkdir(parents=True, exist_ok=True)
    mark = root / "README"
    is_empty = all(path.name.startswith(".") for path in root.iterdir())
    if not is_empty and not (mark.is_file() and mark.read_bytes().startswith(readme[:MARK].encode())):
        raise DataError(
            f"The folder for {what} holds other files.", where=where, remedy="Name a new or empty folder as root."
        )
    write_whole(mark, readme.encode())


@contextmanager
def writing(where: Path, what: str) -> Iterator[None]:
    """Within this context a file that cannot be written is a DataError. where: how it is named. what: that is written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{what} cannot be written: {error.strerror or error}.",
            where=where,
            remedy="Choose a root that you may write to, on a disk with enough room.",
        ) from error


def nifti_bytes(array: np.ndarray, affine: np.ndarray, note: str) -> bytes:
    """A gzipped NIfTI-1 file in scanner space and mm. note: its description, 79 characters at most."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode()
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Indented JSON that ends in a line break."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole: beside its place, synced, then renamed. A file that holds the content already is left alone."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
