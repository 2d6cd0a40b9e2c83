"""Where a scan differs from what is expected of it: the side that counts, and measures other than the plain difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import Tensor

from medae.errors import GeometryError

Side = Literal["absolute", "bright", "dark", "squared"]
Measure = Literal["difference", "ssim", "gradient", "multiscale"]

SCALES = (0.0, 1.0, 2.0, 4.0)
"""Standard deviations in voxels of the Gaussians of ``multiscale``."""

SSIM_RANGE = 6.0
"""Intensities that SSIM takes for the darkest to the brightest: from -3 to 3, in units of z-scores. Fixed, so that the scans
of a cohort are measured by one rule. SSIM compares means by their ratio, so they are moved to begin at 0."""


def residual_map(
    x_CIJK: Tensor | np.ndarray,
    y_CIJK: Tensor | np.ndarray,
    mask_1IJK: Tensor | np.ndarray,
    side: Side = "absolute",
    present_C: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Voxel-wise difference of a scan and its reconstruction, averaged over the channels that are present.

    x: the scan, y: its reconstruction, both normalised, float ``[C, *S]``, tensors or arrays, S of two or three axes.
    mask: bool ``[1, *S]``, true inside the brain. present: bool ``[C]``; all unless given. side: see ``one_sided``.
    Returns float32 ``[1, *S]``, never negative, zero outside the mask, in the units of x (squared: their square). It
    is not rescaled by the scan's own range: a scan without a lesion stays below a cohort's threshold.
    Raises GeometryError if the shapes differ. Source: Baur et al. 2021, section 3 (absolute); Kascenas et al. 2022.
    """
    x_CIJK, y_CIJK = as_tensor(x_CIJK), as_tensor(y_CIJK)
    if x_CIJK.shape != y_CIJK.shape:
        raise GeometryError(
            f"Scan {tuple(x_CIJK.shape)} and reconstruction {tuple(y_CIJK.shape)} do not fit.",
            remedy="Give both as [C, *S].",
        )
    return one_sided(x_CIJK.float() - y_CIJK.float(), mask_1IJK, side, present_C)


def one_sided(
    signed_CIJK: Tensor | np.ndarray,
    mask_1IJK: Tensor | np.ndarray,
    side: Side,
    present_C: Tensor | np.ndarray | None = None,
) -> Tensor:
    """The side of a signed map that counts, averaged over the present channels; float32 ``[1, *S]``, zero outside the mask.

    side: ``bright`` keeps max(s, 0), what is brighter than expected (FLAIR lesions); ``dark`` keeps max(-s, 0);
    ``absolute`` is |s|; ``squared`` is s^2. Shapes and errors as in ``residual_map``.
    """
    signed = as_tensor(signed_CIJK).float()
    mask = as_tensor(mask_1IJK)
    if tuple(mask.shape) != (1, *signed.shape[1:]):
        raise GeometryError(
            f"A map {tuple(signed.shape)} and a mask {tuple(mask.shape)} do not fit.",
            remedy="Give the map as [C, *S] and the mask as [1, *S].",
        )
    if side == "bright":
        kept = signed.clamp(min=0)
    elif side == "dark":
        kept = (-signed).clamp(min=0)
    elif side == "absolute":
        kept = signed.abs()
    else:
        kept = signed.square()
    if present_C is not None:
        present = as_tensor(present_C)
        if not bool(present.any()):
            raise GeometryError("No channel of the scan is present.", remedy="Give at least one of the model's channels.")
        kept = kept[present]
    return torch.where(mask, kept.mean(dim=0, keepdim=True), 0.0)


def signed_residual(x_CIJK: Tensor, y_CIJK: Tensor, mask_1IJK: Tensor, measure: Measure, slice_axis: int | None) -> Tensor:
    """How a scan differs from its reconstruction, by channel: float32 ``[C, *S]``; what is measured in slices stays in them.

    x, y: as in ``residual_map``, three spatial axes; outside the mask they are taken to be alike.
    slice_axis: of a plan of slices; None measures in 3D.
    measure: ``difference`` is x - y, in the units of x. ``multiscale`` is the mean of the difference and its Gaussian blurs
    inside the mask (1, 2, 4 voxels): noise averages out, a lesion does not. ``gradient`` is the magnitude of the gradient of
    x less that of y, per voxel: its bright side is what is sharper than expected. ``ssim`` is (1 - SSIM) / 2 with Gaussian
    weights of 1.5 voxels, from 0 (alike) to 1, and has no dark side.
    Source: Wang et al. 2004 (SSIM, by scikit-image); Xue et al. 2014 (gradient magnitude).
    """
    x = x_CIJK.float()
    y = torch.where(mask_1IJK, y_CIJK.float(), x)  # nothing trains what a model makes outside the mask
    if measure == "difference":
        return x - y
    if measure == "multiscale":
        blurs = [blurred(x - y, mask_1IJK, sigma, slice_axis) if sigma else x - y for sigma in SCALES]
        return torch.stack(blurs).mean(dim=0)
    if measure == "gradient":
        return _gradient(x, slice_axis) - _gradient(y, slice_axis)
    return torch.stack([_dissimilarity(one, other, slice_axis) for one, other in zip(x, y, strict=True)])


def blurred(image_CIJK: Tensor, mask_1IJK: Tensor, sigma: float, slice_axis: int | None) -> Tensor:
    """The image smoothed with a Gaussian inside the mask: what is outside neither takes part nor pulls towards 0.

    image: float ``[C, *S]``; mask: bool ``[1, *S]``; sigma: standard deviation in voxels. Zero outside the mask.
    """
    inside = mask_1IJK[0].numpy().astype(np.float32)
    sigmas = [0.0 if axis == slice_axis else sigma for axis in range(inside.ndim)]
    weight = ndimage.gaussian_filter(inside, sigmas, mode="constant")
    smooth = [ndimage.gaussian_filter(channel.numpy() * inside, sigmas, mode="constant") for channel in image_CIJK.float()]
    found = np.stack([channel / np.maximum(weight, 1e-6) for channel in smooth])
    return torch.from_numpy(np.where(inside > 0, found, 0).astype(np.float32))


def as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """An array as a tensor; a memory-mapped one is read."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))


def _gradient(image_CIJK: Tensor, slice_axis: int | None) -> Tensor:
    axes = [1 + axis for axis in range(image_CIJK.ndim - 1) if axis != slice_axis and image_CIJK.shape[1 + axis] > 1]
    parts = torch.gradient(image_CIJK, dim=axes) if axes else ()
    return torch.stack([part.square() for part in parts]).sum(dim=0).sqrt() if parts else torch.zeros_like(image_CIJK)


def _dissimilarity(x_IJK: Tensor, y_IJK: Tensor, slice_axis: int | None) -> Tensor:
    def of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        margin = [(0, max(0, 11 - size)) for size in x.shape]  # scikit-image's window is of 11 voxels and has to fit
        padded = (np.pad(image + SSIM_RANGE / 2, margin, mode="edge") for image in (x, y))
        found = structural_similarity(
            *padded, data_range=SSIM_RANGE, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1]
        return np.asarray(found[tuple(slice(size) for size in x.shape)])

    similar = _by_slice(of, (x_IJK.numpy(), y_IJK.numpy()), slice_axis)
    return torch.from_numpy(((1 - similar) / 2).astype(np.float32))


def _by_slice(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], arrays: Sequence[np.ndarray], slice_axis: int | None
) -> np.ndarray:
    if slice_axis is None:
        return function(*arrays)
    slices = zip(*(np.moveaxis(array, slice_axis, 0) for array in arrays), strict=True)
    return np.moveaxis(np.stack([function(*pair) for pair in slices]), 0, slice_axis)
