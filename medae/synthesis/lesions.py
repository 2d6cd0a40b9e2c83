"""Synthetic lesions: irregular connected blobs of given size, edge blur and contrast.

A lesion is a soft map in [0, 1] on the image's grid: 1 in its core, 0.5 at its edge. Its label is ``map > 0.5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator
from scipy import ndimage

from medae.config import Config
from medae.synthesis.deformation import smooth_field

# A logistic edge rises from 10 % to 90 % over ln(81) times its scale.
LOGISTIC_WIDTH = float(np.log(81))
LARGEST_MM = 60.0


class LesionConfig(Config):
    """What lesions are drawn; each range is (lowest, highest), uniform in between.

    number: lesions in an affected image. size_mm: diameter of the sphere of equal volume. blur_mm: width of the edge,
    from 10 to 90 % of the contrast. contrast: absolute difference from the surroundings as a share of the white matter's
    intensity. bright: probability that a lesion is brighter than its surroundings rather than darker.
    """

    number: tuple[int, int] = (1, 3)
    size_mm: tuple[float, float] = (10.0, 32.0)
    blur_mm: tuple[float, float] = (2.0, 6.0)
    contrast: tuple[float, float] = (0.15, 0.4)
    bright: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("number", "size_mm", "blur_mm", "contrast"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive values, the lower one first, not {low} and {high}")
        if self.size_mm[1] > LARGEST_MM:
            raise ValueError(f"size_mm is at most {LARGEST_MM}, not {self.size_mm[1]}: a third of a brain's length")
        return self


def random_lesion(
    shape: Sequence[int],
    spacing: Sequence[float],
    centre: Sequence[float],
    rng: np.random.Generator,
    *,
    size_mm: float,
    blur_mm: float,
    roughness: float = 0.55,
) -> np.ndarray:
    """The soft map ``[I, J, K]``, float32, of one lesion: a random ellipsoid with an uneven surface.

    centre: in voxels. size_mm: diameter of the sphere of equal volume; parts outside the grid are lost. blur_mm: about
    the width of the edge from 10 to 90 %. roughness: how far the surface leaves the ellipsoid; 0 is smooth. The lesion
    is star-shaped around its centre, hence connected.
    """
    radius = size_mm / 2
    half = np.ceil((3 * radius + 2 * blur_mm) / np.asarray(spacing)).astype(int)
    box = tuple(2 * half + 1)
    start = np.round(centre).astype(int) - half
    offsets = np.indices(box, dtype=np.float32) + (start - np.asarray(centre, dtype=np.float32)).reshape(3, 1, 1, 1)

    axes = np.exp(rng.uniform(-0.35, 0.35, size=3))
    axes /= np.cbrt(axes.prod())
    to_sphere = np.diag(1 / axes) @ _rotation(rng) @ np.diag(spacing)
    stretched = np.tensordot(to_sphere.astype(np.float32), offsets.astype(np.float32), axes=1)
    distance = np.linalg.norm(stretched, axis=0)
    surface = np.exp(2 * roughness * _by_direction(stretched, distance, rng))

    # depth > 0 inside; the scale of the surface that gives the wanted volume is a quantile of distance / surface.
    ratio = distance / surface
    voxels = round(float(np.pi / 6 * size_mm**3 / np.prod(spacing)))
    scale = np.partition(ratio, max(voxels - 1, 0), axis=None)[max(voxels - 1, 0)]
    depth = scale * surface - distance
    soft = 1 / (1 + np.exp(-np.clip(depth * LOGISTIC_WIDTH / blur_mm, -30, 30)))
    soft[soft < 0.01] = 0

    lesion = np.zeros(shape, dtype=np.float32)
    low, high = np.maximum(start, 0), np.minimum(start + box, shape)
    if (high > low).all():
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        lesion[inside] = soft[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
    return lesion


def ball(
    shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float], *, radius_mm: float, blur_mm: float
) -> np.ndarray:
    """The soft map ``[I, J, K]``, float32, of a ball; 0.5 at its surface.

    centre: in voxels. blur_mm: width of the edge from 10 to 90 %; 0 for a sharp one.
    """
    axes = [(np.arange(size) - place) * step for size, place, step in zip(shape, centre, spacing, strict=True)]
    distance = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
    depth = radius_mm - distance
    if blur_mm == 0:
        return (depth >= 0).astype(np.float32)
    soft = 1 / (1 + np.exp(-np.clip(depth * LOGISTIC_WIDTH / blur_mm, -30, 30)))
    soft[soft < 0.01] = 0
    return np.asarray(soft, dtype=np.float32)


def _by_direction(offsets: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random number for each voxel that depends on its direction from the centre only, within (-1, 1)."""
    cube = sum(smooth_field((33, 33, 33), (1, 1, 1), rng, lattice_mm=lattice)[0] / 2 for lattice in (14.0, 7.0))
    directions = offsets / np.maximum(distance, 1e-6)
    sampled: np.ndarray = ndimage.map_coordinates(np.asarray(cube), 16 + 15 * directions, order=1)
    return sampled


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix ``[3, 3]``."""
    return np.linalg.qr(rng.standard_normal((3, 3)))[0]


def insert_lesion(
    image: np.ndarray, lesion: np.ndarray, *, contrast: float, reference: float, uniformity: float = 0.7
) -> np.ndarray:
    """The image ``[*S]`` with a lesion, float32, not below zero.

    lesion: soft map ``[*S]``. contrast: signed difference from the surroundings as a share of ``reference``, the
    intensity of a healthy tissue. uniformity: how much of the anatomy inside gives way to its mean: 0 adds the
    contrast to the structures below, 1 replaces them. Where the map is 0 the image is unchanged.
    """
    weight = float(lesion.sum())
    if weight == 0:
        return image.astype(np.float32)
    mean = float((image * lesion).sum()) / weight
    inside = (1 - uniformity) * image + uniformity * mean + contrast * reference
    return np.maximum(image + lesion * (inside - image), 0).astype(np.float32)
