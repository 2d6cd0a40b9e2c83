"""The residual: where a scan differs from what the model makes of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medae.errors import GeometryError

ResidualKind = Literal["absolute", "bright", "dark", "squared"]


def residual_map(
    x_CIJK: Tensor | np.ndarray,
    y_CIJK: Tensor | np.ndarray,
    mask_1IJK: Tensor | np.ndarray,
    kind: ResidualKind = "absolute",
    present_C: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Voxel-wise difference of a scan and its reconstruction, averaged over the channels that are present.

    x: the scan, y: its reconstruction, both normalised, float ``[C, *S]``, tensors or arrays, S of two or three axes.
    mask: bool ``[1, *S]``, true inside the brain. present: bool ``[C]``; all unless given.
    kind: ``bright`` keeps max(x - y, 0), what is brighter than the model expects (FLAIR lesions); ``dark`` keeps
    max(y - x, 0); ``absolute`` is |x - y|; ``squared`` is (x - y)^2.
    Returns float32 ``[1, *S]``, never negative, zero outside the mask, in the units of x (squared: their square). It
    is not rescaled by the scan's own range: a scan without a lesion stays below a cohort's threshold.
    Raises GeometryError if the shapes differ. Source: Baur et al. 2021, section 3 (absolute); Kascenas et al. 2022.
    """
    if x_CIJK.shape != y_CIJK.shape or tuple(mask_1IJK.shape) != (1, *x_CIJK.shape[1:]):
        raise GeometryError(
            f"Scan {tuple(x_CIJK.shape)}, reconstruction {tuple(y_CIJK.shape)}, mask {tuple(mask_1IJK.shape)} do not fit.",
            remedy="Give the scan and the reconstruction as [C, *S] and the mask as [1, *S].",
        )
    difference = as_tensor(x_CIJK).float() - as_tensor(y_CIJK).float()
    if kind == "bright":
        difference = difference.clamp(min=0)
    elif kind == "dark":
        difference = (-difference).clamp(min=0)
    elif kind == "absolute":
        difference = difference.abs()
    else:
        difference = difference.square()
    if present_C is not None:
        present = as_tensor(present_C)
        if not bool(present.any()):
            raise GeometryError("No channel of the scan is present.", remedy="Give at least one of the model's channels.")
        difference = difference[present]
    return torch.where(as_tensor(mask_1IJK), difference.mean(dim=0, keepdim=True), 0.0)


def as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """An array as a tensor; a memory-mapped one is read."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
