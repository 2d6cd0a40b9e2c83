"""The foreground: the voxels that normalisation, sampling and scoring count."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from medae.plan import Foreground


def foreground_mask(image_CIJK: Tensor, rule: Foreground) -> Tensor:
    """Bool ``[1, I, J, K]``, true in the foreground of an image in the file's units.

    ``all``: every voxel. ``nonzero``: voxels that are not 0 in some channel, with enclosed holes filled (a ventricle
    that is 0 in a skull-stripped scan). ``head``: a simple head mask, see `head_mask`; not a brain mask. Raises
    ValueError for ``brain``, which no rule finds: see `medae.preprocessing.brain`.
    """
    if rule == "brain":
        raise ValueError("the brain is not found by a rule")
    if rule == "all":
        mask = np.ones(image_CIJK.shape[1:], dtype=bool)
    elif rule == "nonzero":
        mask = ndimage.binary_fill_holes((image_CIJK != 0).any(dim=0).numpy())
    else:
        mask = head_mask(image_CIJK.numpy())
    return torch.from_numpy(mask)[None]


def head_mask(image_CIJK: np.ndarray) -> np.ndarray:
    """A simple head mask, bool ``[I, J, K]``: what is brighter than air, in one piece, with its holes filled.

    image: float32, any units. Otsu's threshold of the smoothed image, the largest connected component, then holes are
    filled slice by slice along each of the three axes. Skull, eyes and neck belong to it; dark air in the throat may.
    Nothing is true if the image is constant.
    """
    grey = np.mean([_grey(channel) for channel in image_CIJK], axis=0)
    if grey.max() == grey.min():
        return np.zeros(grey.shape, dtype=bool)
    components, _ = ndimage.label(grey > threshold_otsu(grey))
    mask: np.ndarray = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    for axis in range(3):
        planes = np.moveaxis(mask, axis, 0)
        for place, plane in enumerate(planes):
            planes[place] = ndimage.binary_fill_holes(plane)
    return mask


def _grey(image_IJK: np.ndarray) -> np.ndarray:
    """Smoothed and cut off at the usual brightness of tissue, from 0 to 1, so that the threshold parts tissue from air.

    Without the cut, fat or a lesion that is far brighter than the brain draws Otsu's threshold up into the brain.
    Axes with less than a third of the longest axis' voxels are not smoothed: their slices are thick.
    """
    sizes = np.asarray(image_IJK.shape)
    smooth = ndimage.gaussian_filter(image_IJK.astype(np.float64), np.where(3 * sizes >= sizes.max(), 1.0, 0.0))
    above = smooth[smooth > smooth.mean()]
    if above.size == 0:
        return np.zeros_like(smooth)
    low, high = smooth.min(), np.median(above)
    return (np.minimum(smooth, high) - low) / (high - low)
