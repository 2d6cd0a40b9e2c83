"""What a scanner does to anatomy: tissue contrast, receive field, resolution, noise.

Images are ``[*S]`` float32 in arbitrary units, zero outside the body; spacings are in mm, an axis each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medae.synthesis.deformation import smooth_field

FWHM_PER_SIGMA = float(2 * np.sqrt(2 * np.log(2)))


def tissue_means(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean intensity of each tissue, voxels weighted by the square of its fuzzy map, so that pure ones dominate."""
    return {name: float(np.average(image, weights=share.astype(np.float64) ** 2)) for name, share in maps.items()}


def remap_tissues(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    texture: float = 1.0,
) -> np.ndarray:
    """Another tissue contrast for the same anatomy, with the image's own texture and partial volume kept.

    maps: fuzzy tissue maps ``[*S]`` in [0, 1] by name, whose sum is 1 inside and 0 outside the body. before, after: the
    mean of each tissue now and wanted. texture: factor for deviations from the tissue means; 1 keeps them.
    Each tissue's intensities become ``after + texture * (image - before)``, and a voxel's are mixed by its maps. With
    equal means and a texture of 1 the image is returned inside the body, 0 outside.
    """
    result = np.zeros(image.shape, dtype=np.float32)
    for name, share in maps.items():
        result += share * (after[name] + texture * (image - before[name]))
    return result


def bias_field(
    shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator, *, strength: float, lattice_mm: float = 80.0
) -> np.ndarray:
    """A smooth positive factor ``[*shape]``, float32, of geometric mean 1: the coil's uneven sensitivity.

    strength: logarithm of the ratio between the brightest and the darkest place, e.g. 0.3 for a ratio of 1.35.
    lattice_mm: distance over which it changes.
    """
    field = smooth_field(shape, spacing, rng, lattice_mm=lattice_mm)[0]
    span = float(np.ptp(field))
    scaled = (field - field.mean()) * (strength / span if span > 0 else 0.0)
    return np.exp(scaled).astype(np.float32)


def limit_resolution(image: np.ndarray, spacing: Sequence[float], resolution_mm: Sequence[float]) -> np.ndarray:
    """The image as seen with a point spread of the given width (full width at half maximum, mm) along each axis.

    A width at or below an axis' spacing changes nothing along it: the voxel itself is the point spread there.
    """
    sigma = [
        float(np.sqrt(max(width**2 - step**2, 0.0))) / FWHM_PER_SIGMA / step
        for width, step in zip(resolution_mm, spacing, strict=True)
    ]
    blurred: np.ndarray = ndimage.gaussian_filter(image.astype(np.float32, copy=False), sigma)
    return blurred


def rician_noise(image: np.ndarray, rng: np.random.Generator, *, sigma: float) -> np.ndarray:
    """The magnitude of the image after complex Gaussian noise of deviation ``sigma``, as in magnitude MR images.

    Source: Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995.
    """
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(image + real, imaginary).astype(np.float32)
