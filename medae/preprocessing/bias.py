"""N4: the slow shading that the coils of an MR scanner lay over an image, estimated and divided out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medae.errors import DataError

COARSE = 4.0
"""Voxel size in mm at which the field is estimated: it varies over centimetres, and the time goes with the voxels."""

FEWEST = 16
"""An axis is not made coarser than so many voxels."""


def correct_bias(image_CIJK: Tensor, mask_1IJK: Tensor, spacing: Sequence[float]) -> Tensor:
    """Each channel divided by its shading inside the mask; float32 ``[C, I, J, K]``, unchanged outside.

    image: float32, MR in the file's units. mask: bool, true in the foreground; only its voxels above 0 inform the
    estimate. spacing: mm along I, J, K. The field is estimated on voxels of about 4 mm with SimpleITK's defaults and one
    thread, since more change the last digits, and applied to the image as it is. Its mean logarithm inside the mask is 0,
    so the image keeps its scale.
    Raises DataError if half of the foreground is not above 0, as in an image that is centred at 0, and if no field can be
    fitted, as to a single slice.
    Source: Tustison et al. 2010, "N4ITK: Improved N3 bias correction".
    """
    inside = mask_1IJK[0].numpy()
    return torch.stack([torch.from_numpy(_corrected(channel.numpy(), inside, spacing)) for channel in image_CIJK])


def _corrected(image_IJK: np.ndarray, mask_IJK: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    bright = mask_IJK & (image_IJK > 0)
    if 2 * np.count_nonzero(bright) <= np.count_nonzero(mask_IJK):
        raise DataError(
            "The shading cannot be estimated: most of the foreground is not above 0.",
            remedy="Give the image as the scanner made it, or set space.bias_correction to none.",
        )
    if image_IJK[bright].min() == image_IJK[bright].max():
        return image_IJK
    image, mask = _itk(np.where(bright, image_IJK, 0), spacing), _itk(bright.astype(np.uint8), spacing)
    factors = [max(1, min(int(COARSE / step), size // FEWEST)) for step, size in zip(spacing, image_IJK.shape, strict=True)]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    try:
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).transpose(2, 1, 0)
    except RuntimeError as error:  # ITK's message names its own source files
        raise DataError(
            f"The shading cannot be estimated: no field fits {' x '.join(map(str, image_IJK.shape))} voxels, "
            f"{np.count_nonzero(bright)} of them bright foreground.",
            remedy="Set space.bias_correction to none.",
        ) from error
    field -= field[bright].mean()
    return np.where(mask_IJK, image_IJK / np.exp(field), image_IJK).astype(np.float32)


def _itk(array_IJK: np.ndarray, spacing: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array_IJK.transpose(2, 1, 0))
    image.SetSpacing([float(step) for step in spacing])
    return image
