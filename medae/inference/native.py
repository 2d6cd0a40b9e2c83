"""From the plan's space back to the voxels of the file."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medae.errors import GeometryError
from medae.preprocessing.resample import resample_linear, resample_nearest
from medae.volume import NativeGrid, from_ras


class Placed(Protocol):
    """What knows its grid and its file: a prepared case or an entry of the store."""

    @property
    def native(self) -> NativeGrid:
        """The grid of the file, and the crop."""

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel of the plan grid -> world mm."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the plan grid along I, J, K."""


def maps_to_native(maps_KIJK: Tensor | np.ndarray, prepared: Placed, fill: float = 0.0) -> np.ndarray:
    """Maps on the plan grid, interpolated linearly onto the file's voxels: float32 ``[K, *file shape]``.

    The result is in the file's own array order. Voxels outside the crop get ``fill``. Where the plan grid is the file's
    own, the values are the same bits. Raises GeometryError if the maps do not have the plan grid's shape.
    """
    maps = torch.as_tensor(np.asarray(maps_KIJK, dtype=np.float32))
    _check_shape(maps, prepared)
    shape, affine = prepared.native.cropped()
    maps = resample_linear(maps, prepared.affine, shape, affine, extrapolate=False, smooth=False)
    return _whole_file(maps.numpy(), prepared.native, fill)


def labels_to_native(label_1IJK: Tensor | np.ndarray, prepared: Placed) -> np.ndarray:
    """A label map on the plan grid, nearest neighbour onto the file's voxels: the same type, ``[*file shape]``.

    The result is in the file's own array order, 0 outside the crop.
    Raises GeometryError if the map does not have the plan grid's shape.
    """
    label = torch.as_tensor(np.asarray(label_1IJK))
    _check_shape(label, prepared)
    shape, affine = prepared.native.cropped()
    label = resample_nearest(label, prepared.affine, shape, affine)
    return _whole_file(label.numpy(), prepared.native, 0)[0]


def _check_shape(maps: Tensor, prepared: Placed) -> None:
    if maps.ndim != 4 or tuple(maps.shape[1:]) != prepared.shape:
        raise GeometryError(
            f"Maps of shape {tuple(maps.shape)} do not lie on the plan grid {prepared.shape}.",
            remedy="Give [channels, I, J, K] on the grid of the prepared case.",
        )


def _whole_file(cropped_KIJK: np.ndarray, native: NativeGrid, fill: float) -> np.ndarray:
    if native.crop is not None:
        whole = np.full((len(cropped_KIJK), *native.ras()[0]), fill, dtype=cropped_KIJK.dtype)
        whole[(slice(None), *(slice(*limits) for limits in native.crop))] = cropped_KIJK
        cropped_KIJK = whole
    return from_ras(cropped_KIJK, native.matrix())
