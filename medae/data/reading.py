"""Read an image of a case."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medae.data.case import ImageRef, Manifest
from medae.errors import MedaeError
from medae.formats.read import read_volume
from medae.volume import Volume


def read_image(manifest: Manifest, ref: ImageRef) -> Volume:
    """The image on nearest-RAS axes, as by `medae.formats.read.read_volume`; errors name places as `place_of` does."""
    try:
        return read_volume(manifest.paths(ref), ref.kind, resample_slices=ref.resample_slices, component=ref.component)
    except MedaeError as error:
        raise type(error)(error.what, where=place_of(manifest, [ref], error.where), remedy=error.remedy) from error


def place_of(manifest: Manifest, refs: Iterable[ImageRef], where: str | None) -> str | None:
    """A place that an error names: the pseudonym of the series that it is a file of, else relative to the root.

    Files and folders of DICOM series are often called like patients.
    """
    for ref in refs:
        if ref.series is not None and where in {str(path) for path in manifest.paths(ref)}:
            return ref.series
    return relative_to(manifest.root, where)


def relative_to(root: Path, where: str | None) -> str | None:
    """A place that an error names, relative to the root if it is beneath it."""
    if where is not None and Path(where).is_relative_to(root):
        return Path(where).relative_to(root).as_posix()
    return where
