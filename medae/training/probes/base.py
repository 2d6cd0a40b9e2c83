"""What every probe shares: its settings, and the Dice of fixed patches.

A probe asks what the encoder of an autoencoder is worth for a segmentation, while it is still being trained. It fits a
small segmenter to its features on a few labelled cases and scores that on others: the same cases, patches and draws every
time, so that the value is a function of the encoder's weights alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medae.config import Config
from medae.models.base import Network
from medae.preprocessing.batch import Batch
from medae.preprocessing.sampling import PatchSampler, SamplerConfig

Segment = Callable[[Tensor], Tensor]
"""From an image ``[B, C, *S]`` to its label map, integer ``[B, *S]``."""


class ProbeSettings(Config):
    """Which label map, how many training subjects, how often.

    The subjects are the first in the order of the split, so that a later fine-tuning with at least ``labelled`` plus
    ``scored`` labels contains them.
    target: the label map to find. labelled: so many labelled training subjects to fit on. scored: so many others to score
    on. every: so many epochs from one probe to the next; the last epoch always has one. patches: of each case to score
    on, and, by a linear probe, to fit on. seed: of everything that the probe draws, whatever the training's own seed is.
    """

    target: str = "label"
    labelled: int = Field(default=4, ge=1)
    scored: int = Field(default=8, ge=1)
    every: int = Field(default=1, ge=1)
    patches: int = Field(default=2, ge=1)
    seed: int = 0

    def fitting(self, drawing: SamplerConfig) -> SamplerConfig:
        """How the patches to fit on are drawn: one a batch."""
        return drawing.model_copy(update={"batch": 1})

    def segmenter(self, network: Network, fitted: PatchSampler, classes: int) -> Segment:
        """A segmenter on top of the network's encoder, fitted to patches; the network is left as it was."""
        raise TypeError(f"{type(self).__name__} is an abstract probe")


def patches(sampler: PatchSampler, each: int) -> Iterable[Batch]:
    """``each`` patches of every case of a sampler that draws one a batch; the same ones every time."""
    return (sampler.batch(step) for step in range(each * len(sampler.case_ids)))


def dice_of_patches(
    segment: Segment, batches: Iterable[Batch], target: str, labels: Mapping[int, str], device: torch.device | str = "cpu"
) -> dict[str, float | None]:
    """``dice``, and ``dice/<label>`` of every label but 0.

    Voxels are counted over all patches of a case together. ``dice`` is the mean over the labels of a case, then over cases;
    a label that is missed or invented in a case counts as 0, one that is rightly absent as 1, so that the same labels and
    cases count whatever the network answers. A label that no patch holds has None, and so has ``dice`` if there is no other.
    """
    values = [value for value in labels if value != 0]
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((3, len(values)), dtype=np.int64))
    for batch in batches:
        found = segment(batch.image.to(device)).cpu().numpy()
        for key, mine, truth in zip(batch.keys, found, batch.target[target][:, 0].numpy(), strict=True):
            for place, value in enumerate(values):
                one, two = mine == value, truth == value
                counts[key][:, place] += ((one & two).sum(), one.sum(), two.sum())
    table = np.array(list(counts.values()))  # [cases, 3, labels]: in both, found, real
    both, answered, real = table[:, 0], table[:, 1], table[:, 2]
    dice = np.where(answered + real > 0, 2 * both / np.maximum(answered + real, 1), 1.0)
    there = np.asarray(real.any(axis=0))
    scores: dict[str, float | None] = {"dice": float(dice[:, there].mean()) if there.any() else None}
    return scores | {
        f"dice/{labels[value]}": float(dice[:, place].mean()) if there[place] else None for place, value in enumerate(values)
    }
