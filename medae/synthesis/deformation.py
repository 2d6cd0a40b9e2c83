"""Smooth random deformations that cannot fold, and their application to images and labels.

Arrays are ``[*S]`` with two or three spatial axes; displacements are ``[D, *S]`` in mm along the array's axes, pulling:
the value at x of a deformed image is the original's value at ``x + displacement(x)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# A uniform cubic B-spline displacement is injective while every control value stays below lattice / K.
# Source: Choi and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", 2000.
INJECTIVITY = {2: 2.046392675, 3: 2.479472335}


def smooth_field(
    shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator, *, lattice_mm: float, channels: int = 1
) -> np.ndarray:
    """Random cubic B-spline fields ``[channels, *shape]``, float32, within (-1, 1), smooth at the scale of ``lattice_mm``.

    The control values are uniform in [-1, 1) on a lattice of that spacing whose phase is random too, so that no place
    of the image is favoured. The standard deviation is about 0.58 * 0.7 ** D.
    """
    bases = [_basis(n, step / lattice_mm, rng.uniform()) for n, step in zip(shape, spacing, strict=True)]
    field = rng.uniform(-1.0, 1.0, size=(channels, *(basis.shape[1] for basis in bases)))
    for axis, basis in enumerate(bases, start=1):
        field = np.moveaxis(np.tensordot(field, basis, axes=(axis, 1)), -1, axis)
    return field.astype(np.float32)


def _basis(voxels: int, step: float, phase: float) -> np.ndarray:
    """The cubic B-spline weights ``[voxels, controls]`` of points ``phase + step * i`` on a lattice of spacing 1."""
    points = phase + step * np.arange(voxels)
    first = np.floor(points).astype(int)
    t = points - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    basis = np.zeros((voxels, first[-1] + 4))
    basis[np.arange(voxels)[:, None], first[:, None] + np.arange(4)] = weights
    return basis


def random_displacement(
    shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator, *, lattice_mm: float, amplitude_mm: float
) -> np.ndarray:
    """A random displacement ``[D, *shape]`` in mm, float32: smooth, one-to-one, each component within the amplitude.

    lattice_mm: distance of the control points. amplitude_mm: bound of their displacement along each axis; a typical
    displacement is a fifth of it in 3D. Raises ValueError at amplitudes where the deformation might fold.
    """
    limit = lattice_mm / INJECTIVITY[len(shape)]
    if not 0 <= amplitude_mm < limit:
        raise ValueError(f"an amplitude of {amplitude_mm} mm may fold: it must be in [0, {limit:.2f}) mm at this lattice")
    return amplitude_mm * smooth_field(shape, spacing, rng, lattice_mm=lattice_mm, channels=len(shape))


def compose(first: np.ndarray, second: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The displacement of ``x -> y + second(y)`` with ``y = x + first(x)``; both ``[D, *S]`` in mm on the same grid.

    One-to-one if both are. Points outside the grid move as its nearest border point does.
    """
    coordinates = _coordinates(first, spacing)
    return first + np.stack([ndimage.map_coordinates(part, coordinates, order=1, mode="nearest") for part in second])


def warp(image: np.ndarray, displacement: np.ndarray, spacing: Sequence[float], *, labels: bool = False) -> np.ndarray:
    """The deformed image on its own grid: float32 by linear interpolation, or labels of their own type by nearest neighbour.

    image: ``[*S]``. displacement: ``[D, *S]`` in mm. Points that come from outside the image are 0.
    """
    return sample(image, _coordinates(displacement, spacing), labels=labels)


def sample(image: np.ndarray, coordinates: np.ndarray, *, labels: bool = False) -> np.ndarray:
    """The image's values at ``coordinates [D, ...]`` in voxels; see ``warp`` for types and borders."""
    if labels:
        return ndimage.map_coordinates(image, coordinates, order=0, mode="constant")
    return ndimage.map_coordinates(image.astype(np.float32, copy=False), coordinates, order=1, mode="constant")


def jacobian_determinant(displacement: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The deformation's local change of volume ``[*S]``: 1 where nothing changes, 0 or less where it folds.

    From central differences (one-sided at the border) of a displacement ``[D, *S]`` in mm.
    """
    size = len(displacement)
    jacobian = np.stack([np.stack(np.gradient(part.astype(np.float64), *spacing)) for part in displacement])
    jacobian += np.eye(size).reshape(size, size, *[1] * size)
    determinant: np.ndarray = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    return determinant


def _coordinates(displacement: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    size = len(displacement)
    voxels = np.indices(displacement.shape[1:], dtype=np.float32)
    return voxels + displacement / np.asarray(spacing, dtype=np.float32).reshape(size, *[1] * size)
