"""One label map from one segmenter or several: the mean of their probabilities, and how far they disagree.

Sources: Lakshminarayanan, Pritzel and Blundell 2017, "Simple and scalable predictive uncertainty estimation using deep
ensembles" (the mean); Houlsby et al. 2011, "Bayesian active learning for classification and preference learning" (the mutual
information between the label and the choice of the member, which is 0 where all members give the same probabilities, however
unsure they are).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medae.inference.native import labels_to_native, maps_to_native
from medae.inference.predict import predict_maps
from medae.models.ensemble import Ensemble
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared


@dataclass(frozen=True)
class Segmenter:
    """A network on a device, in evaluation mode. mirrored: axes whose mirror images it averages over."""

    network: nn.Module
    plan: Plan
    device: torch.device
    mirrored: Sequence[int] = ()

    def members(self) -> list[nn.Module]:
        """Those of an ensemble, else the network itself."""
        return list(self.network.members) if isinstance(self.network, Ensemble) else [self.network]

    def probabilities(self, prepared: Prepared) -> Iterator[Tensor]:
        """Of each member in turn: float32 ``[K, I, J, K]`` on the plan's grid."""
        for member in self.members():
            yield predict_maps(member, prepared, self.plan, device=self.device, mirrored=self.mirrored, activation="softmax")


@dataclass(frozen=True)
class Segmented:
    """labels: int16 ``[*shape]`` on the file's own axes. disagreement: float32, same shape, 0 (all alike) to 1 (each sure of
    another label); None of a single network. on_plan: the labels on the first plan's grid ``[I, J, K]``; None where the
    members do not share one. confidence: float32, same shape, the mean probability of the label; None unless asked for."""

    labels: np.ndarray
    disagreement: np.ndarray | None
    on_plan: np.ndarray | None
    confidence: np.ndarray | None = None


def segment(segmenters: Sequence[Segmenter], prepared: Sequence[Prepared], *, confidence: bool = False) -> Segmented:
    """What segmenters of the same labels make of a scan.

    prepared: the scan in each one's space. Where that is one space, probabilities are averaged there, else on the voxels of
    the file. Memory holds the sum of the probabilities and those of one member, never those of all.
    """
    shared = all(each is prepared[0] for each in prepared)
    total = _Mean(several=sum(len(each.members()) for each in segmenters) > 1)
    with torch.inference_mode():
        for segmenter, own in zip(segmenters, prepared, strict=True):
            for maps in segmenter.probabilities(own):
                total.add(maps if shared else torch.from_numpy(_whole(maps, own)))
        labels, disagreement = total.labels(), total.disagreement()
        sure = total.confidence() if confidence else None
    if not shared:
        arrays = [None if each is None else each.numpy() for each in (disagreement, sure)]
        return Segmented(labels.numpy(), arrays[0], None, arrays[1])

    def on_file(each: Tensor | None, fill: float) -> np.ndarray | None:
        return None if each is None else maps_to_native(each[None], prepared[0], fill)[0]

    native = labels_to_native(labels[None], prepared[0])
    return Segmented(native, on_file(disagreement, 0.0), labels.numpy(), on_file(sure, 1.0))


class _Mean:
    """Probabilities ``[K, ...]`` added up; of several members the entropies of each, too."""

    def __init__(self, *, several: bool) -> None:
        self.sum, self.entropies, self.count = torch.zeros(0), torch.zeros(0), 0
        self.several = several

    def add(self, maps: Tensor) -> None:
        self.sum = maps if self.count == 0 else self.sum.add_(maps)
        if self.several:
            self.entropies = _entropy(maps) if self.count == 0 else self.entropies.add_(_entropy(maps))
        self.count += 1

    def labels(self) -> Tensor:
        return self.sum.argmax(dim=0).to(torch.int16)

    def confidence(self) -> Tensor:
        return self.sum.amax(dim=0) / self.count

    def disagreement(self) -> Tensor | None:
        """The mutual information as a share of the most that so many members can have."""
        if not self.several:
            return None
        most = math.log(min(self.count, len(self.sum)))
        return ((_entropy(self.sum / self.count) - self.entropies / self.count) / most).clamp_(0.0, 1.0)


def _entropy(maps_KIJK: Tensor) -> Tensor:
    """In nats, ``[I, J, K]``; a class at a time, for maps may be many."""
    total = torch.zeros(maps_KIJK.shape[1:])
    for each in maps_KIJK:
        total -= torch.xlogy(each, each)
    return total


def _whole(maps: Tensor, prepared: Prepared) -> np.ndarray:
    """Probabilities on the voxels of the file; what lies outside the crop is background."""
    found = maps_to_native(maps, prepared)
    found[0] += np.maximum(0.0, 1.0 - found.sum(axis=0))
    return found
