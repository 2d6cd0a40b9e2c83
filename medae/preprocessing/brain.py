"""Brain masks: given with a case, else found by an extraction that was asked for, else refused."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medae.errors import DataError
from medae.plan import SpacePlan


@dataclass(frozen=True)
class Extracted:
    """A brain mask. mask: bool ``[1, I, J, K]``. doubtful: bool, same shape: what the extraction is not sure of, inside the
    mask and near it; None if that is not known."""

    mask: Tensor
    doubtful: Tensor | None = None


class BrainExtraction(Protocol):
    """Finds the brain in a scan that comes without a mask; has to be picklable."""

    @property
    def name(self) -> str:
        """What it is, with its version, such as the digest of a network's weights; part of a stored entry's key."""

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
        """Raises DataError if there is no brain.

        image: float32, the channels that are there, on nearest-RAS axes, in the file's units. affine: 4x4, mm.
        """


class Once:
    """A brain extraction for one scan that is prepared several times: it is made once. The scan is not looked at again."""

    def __init__(self, brain: BrainExtraction) -> None:
        self.brain = brain
        self.found: Extracted | None = None

    @property
    def name(self) -> str:
        """That of the extraction."""
        return self.brain.name

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
        """As in `BrainExtraction`, of the first image that it is given."""
        if self.found is None:
            self.found = self.brain(image_CIJK, affine)
        return self.found


class DeepBet:
    """deepbet: two small U-Nets whose weights are in the package. It looks at the first channel, on the CPU.

    Made for T1 of adults; see docs/decisions/0009-brain-masks.md for what it did on FLAIR. Source: Fisch et al. 2024,
    "deepbet: Fast brain extraction of T1-weighted MRI using Convolutional Neural Networks".
    """

    @property
    def name(self) -> str:
        """The package's version. Raises DataError if it is not installed."""
        try:
            return f"deepbet {version('deepbet')}"
        except PackageNotFoundError as error:
            raise DataError(
                "The plan finds brains with deepbet, and that is not installed.",
                where="space.brain_extraction",
                remedy="pip install 'medae[brain]', or add brain masks to the data set.",
            ) from error

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
        """As in `BrainExtraction`."""
        network = _deepbet(self.name)
        try:
            mask = network.run(nib.Nifti1Image(image_CIJK[0].numpy(), affine))[1]
        except (AssertionError, ValueError, IndexError) as error:  # its ways to say that nothing is above its threshold
            raise DataError(
                "deepbet finds no brain in the image.", remedy="Look at the image; give a brain mask, or leave it out."
            ) from error
        return Extracted(torch.from_numpy(np.asarray(mask.dataobj) > 0)[None])


@lru_cache(maxsize=1)
def _deepbet(_version: str) -> Any:
    from deepbet import BrainExtraction as Networks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which its weights are stored with
        return Networks(no_gpu=True)


def given_mask(labels_1IJK: np.ndarray) -> Tensor:
    """Bool ``[1, I, J, K]`` from a brain mask or the label map of a whole brain: what is above 0, with its holes filled."""
    return torch.from_numpy(ndimage.binary_fill_holes(labels_1IJK[0] > 0))[None]


def no_mask(case_id: str, space: SpacePlan) -> DataError:
    """The refusal for a case without a brain mask. A guess would be worse: skull and fat would be scored as brain."""
    names = " or ".join(f"'{name}'" for name in space.brain_from)
    return DataError(
        f"The foreground is the brain, and the case has no brain mask (target {names}).",
        where=case_id,
        remedy="Add brain masks to the data set (predict: --brain-mask), or set space.brain_extraction to medae for MR, "
        "or name a whole-brain parcellation in space.brain_from; a tumour's label is none.",
    )
