"""Tilted and uneven stacks on upright, even grids."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import shift

from medae.formats.dicom.stack import Stack, affine_of, in_plane, normal_of


def upright(array: np.ndarray, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """A stack's voxels on a grid whose slices lie above each other at even distances, and its 4x4 affine (RAS mm).

    array: ``[columns, rows, slices]``, float32. Each slice is shifted within its plane to where its header has it, by
    linear interpolation; the field of view grows so that nothing is cut, and is filled with the array's minimum. Slices
    at uneven distances are then interpolated linearly along the normal, to the median distance (missing slices: to the
    smallest), adjusted so that the first and the last stay where they are.
    """
    columns, rows = in_plane(stack.slices[0])
    normal = normal_of(stack.slices[0])
    origins = np.array([item.position for item in stack.slices], dtype=np.float64)
    sideways = origins - origins[0] - stack.depths[:, None] * normal
    offsets = np.linalg.lstsq(np.stack([columns, rows], axis=1), sideways.T, rcond=None)[0].T  # pixels: column, row
    low = np.floor(offsets.min(axis=0) + 1e-6).astype(int)
    high = np.ceil(offsets.max(axis=0) - 1e-6).astype(int)
    size = np.array(array.shape[:2]) + high - low
    fill = array.min()
    shifted = np.full((*size, array.shape[2]), fill, dtype=np.float32)
    for place, offset in enumerate(offsets):
        moved = shifted[:, :, place]
        moved[: array.shape[0], : array.shape[1]] = array[:, :, place]
        if np.abs(offset - low).max() > 1e-6:
            shift(moved.copy(), offset - low, output=moved, order=1, mode="grid-constant", cval=fill, prefilter=False)
    even, step = (shifted, stack.step) if stack.spacing == "even" else _evenly(shifted, stack)
    first = origins[0] + low[0] * columns + low[1] * rows
    return even, affine_of(stack.slices[0], first, step * normal)


def _evenly(array: np.ndarray, stack: Stack) -> tuple[np.ndarray, float]:
    """Slices at even distances between the first and the last, and the distance (mm)."""
    count = max(1, round(stack.depths[-1] / stack.step)) + 1
    step = float(stack.depths[-1] / (count - 1))
    at = np.interp(np.arange(count) * step, stack.depths, np.arange(len(stack.depths)))
    below = np.clip(np.floor(at).astype(int), 0, array.shape[2] - 2)
    weight = (at - below).astype(np.float32)
    return array[:, :, below] * (1 - weight) + array[:, :, below + 1] * weight, step
