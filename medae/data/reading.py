"""Read an image of a case."""

from __future__ import annotations

from pathlib import Path

from medae.data.case import ImageRef, Manifest
from medae.errors import MedaeError
from medae.formats.read import read_volume
from medae.volume import Volume


def read_image(manifest: Manifest, ref: ImageRef) -> Volume:
    """The image on nearest-RAS axes, as by `medae.formats.read.read_volume`; errors name files relative to the root."""
    try:
        return read_volume(manifest.paths(ref), ref.kind, resample_slices=ref.resample_slices)
    except MedaeError as error:
        raise type(error)(error.what, where=relative_to(manifest.root, error.where), remedy=error.remedy) from error


def relative_to(root: Path, where: str | None) -> str | None:
    """A place that an error names, relative to the root if it is beneath it."""
    if where is not None and Path(where).is_relative_to(root):
        return Path(where).relative_to(root).as_posix()
    return where
