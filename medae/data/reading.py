"""Read an image of a case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from medae.data.case import ImageRef, Manifest
from medae.errors import MedaeError
from medae.formats import header, read
from medae.volume import NativeGrid, Volume

T = TypeVar("T")


def read_image(manifest: Manifest, ref: ImageRef) -> Volume:
    """The image on nearest-RAS axes, as by `medae.formats.read.read_volume`; errors name files relative to the root."""
    paths = manifest.paths(ref)
    return _relative(manifest.root, lambda: read.read_volume(paths, ref.kind, resample_slices=ref.resample_slices))


def read_array(manifest: Manifest, ref: ImageRef) -> tuple[np.ndarray, NativeGrid]:
    """The same as an array ``[1, I, J, K]`` and the grid of its file."""
    paths = manifest.paths(ref)
    return _relative(manifest.root, lambda: read.read_array(paths, ref.kind, resample_slices=ref.resample_slices))


def read_grid(manifest: Manifest, ref: ImageRef) -> NativeGrid:
    """The image's grid from its header, as by `medae.formats.header.read_grid`."""
    paths = manifest.paths(ref)
    return _relative(manifest.root, lambda: header.read_grid(paths))


def _relative(root: Path, reading: Callable[[], T]) -> T:
    try:
        return reading()
    except MedaeError as error:
        raise type(error)(error.what, where=relative_to(root, error.where), remedy=error.remedy) from error


def relative_to(root: Path, where: str | None) -> str | None:
    """A place that an error names, relative to the root if it is beneath it."""
    if where is not None and Path(where).is_relative_to(root):
        return Path(where).relative_to(root).as_posix()
    return where
