"""An image as it lies in its file, before its axes are turned and its values are judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medae.errors import DataError, GeometryError
from medae.formats.endings import stem
from medae.volume import NativeGrid, Rows


@dataclass(frozen=True)
class RawImage:
    """array: ``[*native.shape]`` on the file's own axes, in the file's units and type. native: its grid."""

    array: np.ndarray
    native: NativeGrid


def three_dimensional(array: np.ndarray, path: Path) -> np.ndarray:
    """Three axes: trailing axes of one are dropped, a single slice gets its third axis. Raises DataError for others."""
    if array.dtype.fields or array.ndim < 2 or 0 in array.shape or any(size != 1 for size in array.shape[3:]):
        raise not_three_dimensional(path, array.shape)
    return array.reshape((*array.shape, 1)[:3])


def rows_of(affine: np.ndarray, path: Path) -> Rows:
    """A 4x4 affine as plain numbers. Raises GeometryError if it is singular or not finite."""
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise GeometryError(
            "The affine (voxel to world) of the image is singular or not finite.",
            where=path,
            remedy="Correct the header's sform or qform, or convert the image again from its source.",
        )
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that its library could not read. What is wrong does not name the file, as libraries do."""
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    alone = stem(path) if len(stem(path)) > 3 else ""  # a short one may be a word of the reason
    for name in filter(None, (str(path.resolve()), str(path), path.name, alone)):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "it", reason)
    reason = re.sub(r"^File it ", "it ", reason)
    return DataError(f"The image cannot be read: {reason}", where=path, remedy="Copy or export the file again.")


def no_component(path: Path, component: int, shape: Sequence[int]) -> DataError:
    """The error for a file that does not hold the channel that is wanted of it."""
    return DataError(
        f"The image has no channel {component} (counted from 0): its size is {' x '.join(map(str, shape))}.",
        where=path,
        remedy="Give every channel that the data set declares: one volume each along the file's fourth axis.",
    )


def not_three_dimensional(path: Path, shape: Sequence[int]) -> DataError:
    """The error for an image that is not one volume of one channel."""
    return DataError(
        f"The image is not one 3D volume: its size is {' x '.join(map(str, shape))}.",
        where=path,
        remedy="Give one file a channel, each with a single 3D volume.",
    )
