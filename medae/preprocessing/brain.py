"""Brain masks: given with a case, made by a function that is handed in, or else refused."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medae.errors import DataError
from medae.plan import SpacePlan


class BrainExtraction(Protocol):
    """Finds the brain in a scan that comes without a mask; has to be picklable.

    name: what it is, with its version, such as the digest of a network's weights; it is part of a stored entry's key.
    """

    name: str

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Tensor:
        """Bool ``[1, I, J, K]``. image: float32, the channels that are there, on nearest-RAS axes, in the file's units;
        affine: 4x4, mm.
        """


def given_mask(labels_1IJK: np.ndarray) -> Tensor:
    """Bool ``[1, I, J, K]`` from a brain mask or the label map of a whole brain: what is above 0, with its holes filled."""
    return torch.from_numpy(ndimage.binary_fill_holes(labels_1IJK[0] > 0))[None]


def no_mask(case_id: str, space: SpacePlan) -> DataError:
    """The refusal for a case without a brain mask. A guess would be worse: skull and fat would be scored as brain."""
    names = " or ".join(f"'{name}'" for name in space.brain_from)
    return DataError(
        f"The foreground is the brain, and the case has no brain mask (target {names}).",
        where=case_id,
        remedy="Add brain masks to the data set (predict: --brain-mask), or name a whole-brain parcellation in "
        "space.brain_from; a tumour's label is none. Or set space.foreground to nonzero for skull-stripped scans, else "
        "to head.",
    )
