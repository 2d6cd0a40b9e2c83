"""Read an image of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from medae.data.case import ImageRef, Manifest
from medae.errors import MedaeError
from medae.formats import header, read
from medae.formats.labels import regroup
from medae.volume import NativeGrid, Volume

T = TypeVar("T")


def read_image(manifest: Manifest, ref: ImageRef) -> Volume:
    """The image on nearest-RAS axes, as by `medae.formats.read.read_volume`; errors name places as `place_of` does."""
    volume = _named(manifest, ref, lambda: read.read_volume(manifest.paths(ref), ref.kind, **_how(ref)))
    if ref.groups:
        volume.image.copy_(torch.from_numpy(regroup(volume.image.numpy(), ref.groups)))
    return volume


def read_array(manifest: Manifest, ref: ImageRef) -> tuple[np.ndarray, NativeGrid]:
    """The same as an array ``[1, I, J, K]`` and the grid of its file."""
    array, grid = _named(manifest, ref, lambda: read.read_array(manifest.paths(ref), ref.kind, **_how(ref)))
    return (regroup(array, ref.groups) if ref.groups else array), grid


def read_grid(manifest: Manifest, ref: ImageRef) -> NativeGrid:
    """The image's grid from its header, as by `medae.formats.header.read_grid`."""
    return _named(manifest, ref, lambda: header.read_grid(manifest.paths(ref), ref.component))


def _how(ref: ImageRef) -> dict[str, Any]:
    return {"resample_slices": ref.resample_slices, "component": ref.component}


def _named(manifest: Manifest, ref: ImageRef, reading: Callable[[], T]) -> T:
    try:
        return reading()
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
