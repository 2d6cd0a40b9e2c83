"""Baselines that every model is reported beside.

Thresholding the intensity of FLAIR alone beat published autoencoders on two public test sets (Meissen et al. 2021), so
a model that does not beat it has shown nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medae.anomaly.residual import ResidualKind, as_tensor, residual_map


def intensity_map(
    x_CIJK: Tensor | np.ndarray,
    mask_1IJK: Tensor | np.ndarray,
    kind: ResidualKind = "bright",
    present_C: Tensor | np.ndarray | None = None,
) -> Tensor:
    """The normalised intensity itself as an anomaly map: the residual against a constant image.

    The constant is 0, which is the mean or median of the foreground after normalisation. ``bright`` thus ranks voxels
    by intensity above it, ``dark`` by intensity below it. Goes through the same filter, mask and calibration as a
    model's map. Shapes, units and errors as in ``residual_map``.
    """
    x_CIJK = as_tensor(x_CIJK)
    return residual_map(x_CIJK, torch.zeros_like(x_CIJK), mask_1IJK, kind, present_C)
