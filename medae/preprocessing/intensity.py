"""Bringing intensities into a common scale: a window for CT, statistics of the foreground for MR.

Zero is the centre of every scheme (the window's ``mean``, the image's mean or median; of ``percentile`` it is the file's
own zero, air in MR) and at the same time the value of everything that is not the subject: the background outside the
foreground, absent channels, and the padding of patches. A network therefore meets one neutral value there, whatever lies
outside in the file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medae.errors import DataError
from medae.plan import CTWindow, IntensityScheme, Percentile, RobustZ, ZScore


def normalise(image_CIJK: Tensor, mask_1IJK: Tensor, scheme: IntensityScheme) -> Tensor:
    """Each channel in the units of the scheme, zero outside the mask; float32 ``[C, I, J, K]``.

    image: float32 in the file's units (HU for CT). mask: bool, true in the foreground.
    Raises DataError if the foreground is empty or has no contrast to scale by.
    """
    if not bool(mask_1IJK.any()):
        raise DataError("The image has no foreground.", remedy="Check the image, or set space.foreground to all.")
    channels = [_channel(channel, mask_1IJK[0], scheme) for channel in image_CIJK]
    return torch.where(mask_1IJK, torch.stack(channels), 0.0)


def _channel(image_IJK: Tensor, mask_IJK: Tensor, scheme: IntensityScheme) -> Tensor:
    match scheme:
        case CTWindow():
            return (image_IJK.clamp(scheme.lower, scheme.upper) - scheme.mean) / scheme.std
        case ZScore():
            inside = image_IJK[mask_IJK].double()
            lower, upper = _percentile(inside, scheme.lower_percentile), _percentile(inside, scheme.upper_percentile)
            inside = inside.clamp(lower, upper)
            centre, scale = float(inside.mean()), float(inside.std(correction=0))
            return (image_IJK.clamp(lower, upper) - centre) / _contrast(scale, "standard deviation")
        case RobustZ():
            inside = image_IJK[mask_IJK].double()
            centre = float(inside.median())
            scale = 1.4826 * float((inside - centre).abs().median())
            return ((image_IJK - centre) / _contrast(scale, "median absolute deviation")).clamp(-scheme.clip, scheme.clip)
        case Percentile():
            return image_IJK / _contrast(_percentile(image_IJK[mask_IJK].double(), scheme.percentile), "chosen percentile")


def _percentile(values: Tensor, percent: float) -> float:
    """The value at a rank of sorted values, between two ranks the lower (torch.quantile refuses large images)."""
    rank = int(percent / 100 * (values.numel() - 1))
    return float(values.kthvalue(rank + 1).values)


def _contrast(scale: float, name: str) -> float:
    if not scale > 0:
        raise DataError(
            f"The {name} of the image inside its foreground is {scale:g}, so it cannot be scaled.",
            remedy="Leave a constant image out; if most of it is background, set space.foreground to nonzero or head.",
        )
    return scale
