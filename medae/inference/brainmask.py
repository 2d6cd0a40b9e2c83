"""Brain masks by medae's own network, whose weights travel in the package: heads in any MR contrast, offline.

The network is a segmenter of axial slices of 2 mm that ``configs/finetune/brainmask.yaml`` trains on renderings of healthy
heads in random contrasts. What it does and where it fails is in docs/decisions/0013-own-brain-masks.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medae.artifact import Artifact, load_artifact
from medae.errors import ArtifactError, DataError
from medae.inference.native import maps_to_native
from medae.inference.predict import predict_maps
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction, DeepBet, Extracted
from medae.preprocessing.prepare import prepare_array
from medae.volume import spacing_of

SHIPPED = Path(__file__).with_name("brain_network")
"""The artifact in the package."""

SURE = 0.9
"""A voxel whose probability lies between this and its counterpart is doubtful."""

REACH_MM = 3.0
"""How far the brain goes beyond the voxels that are surely brain. In a head that a lesion has changed, orbits, neck muscles
and scalp are at times likelier brain than not, but never surely."""

SPAN_MM = 30.0
"""Bays of what is surely brain are brain if a disc of this radius does not fit into them: a lesion at the surface is seldom
surely brain."""

MOST_DOUBTFUL = 0.1
"""Share of the likely brain that may be left out for being far from what is sure. Where it is more, the network does not
know such images well, and the likely brain stays as it is."""

LEAST_ML = 50.0
"""A brain is larger, that of a newborn too; a part of one in a few slices is larger as well."""


class MaskNetwork:
    """A segmenter as a `medae.preprocessing.brain.BrainExtraction`. folder: its artifact. device: where it runs."""

    def __init__(self, folder: Path = SHIPPED, device: str = "cpu") -> None:
        self.folder, self.device = folder, device

    @property
    def name(self) -> str:
        """The digest of the network with its weights."""
        return f"medae {_artifact(self.folder).digest[:12]} near the sure"

    def __call__(self, image_CIJK: Tensor, affine: np.ndarray) -> Extracted:
        """The mask, one piece without holes, and where it is doubtful; of several channels, by the average of their
        probabilities.

        image: float32, on nearest-RAS axes, in the file's units. affine: 4x4, voxel -> world mm.
        Raises DataError if there is no brain.
        """
        probability = np.mean([self._probability(channel[None], affine) for channel in image_CIJK], axis=0)
        mask = _near_the_sure(probability, spacing_of(affine))
        if mask.sum() * abs(np.linalg.det(affine[:3, :3])) < 1000 * LEAST_ML:
            raise DataError(
                "No brain is found in the image.",
                remedy="Look at the image: its header may name the wrong axes. Give a brain mask, or leave it out.",
            )
        doubtful = (probability > 1 - SURE) & (probability < SURE)
        near = ndimage.binary_dilation(mask, iterations=3)
        return Extracted(torch.from_numpy(mask)[None], torch.from_numpy(doubtful & near)[None])

    def _probability(self, image_1IJK: Tensor, affine: np.ndarray) -> np.ndarray:
        """That of the brain, ``[I, J, K]``, on the voxels of the image."""
        meta = _artifact(self.folder).meta
        prepared = prepare_array(image_1IJK, affine, meta.plan.space)
        mirrored = meta.provenance.get("mirrored", ())
        network = _network(self.folder, self.device)
        maps = predict_maps(network, prepared, meta.plan, device=self.device, mirrored=mirrored, batch=16)
        return maps_to_native(maps[1:], prepared)[0]


def extraction_of(space: SpacePlan) -> BrainExtraction | None:
    """The brain extraction that a plan names; None where it names none or has no use for one."""
    if space.foreground != "brain" or space.brain_extraction == "none":
        return None
    return MaskNetwork() if space.brain_extraction == "medae" else DeepBet()


def _near_the_sure(probability: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """What is likelier brain than not, and in its axial slice near voxels that surely are; one piece without holes.

    probability: ``[I, J, K]`` on nearest-RAS axes; spacing: mm. The sure voxels are those of one piece that is nowhere
    thinner than twice the reach, with its bays. Where few are sure, the likely ones are the brain.
    """
    likely, step = _one_piece(probability > 0.5), tuple(spacing[:2])
    sure = _in_slices(lambda plane: _opened(plane, REACH_MM, step), probability > SURE)
    if not sure.any():
        return likely
    near = _in_slices(lambda plane: _within(_closed(plane, SPAN_MM, step), REACH_MM, step), _one_piece(sure))
    found = _one_piece(likely & near)
    return found if found.sum() >= (1 - MOST_DOUBTFUL) * likely.sum() else likely


def _in_slices(change: Callable[[np.ndarray], np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Each axial slice changed; those without a voxel stay."""
    return np.stack([change(plane) if plane.any() else plane for plane in np.moveaxis(mask, 2, 0)], axis=2)


def _within(mask: np.ndarray, distance: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The voxels of a plane that lie at most so far (mm) from the mask, which has some."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance)


def _opened(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The plane's mask where a disc of this radius (mm) fits into it; beyond the image it is taken to go on."""
    core = mask if mask.all() else ndimage.distance_transform_edt(mask, sampling=spacing) > radius
    return _within(core, radius, spacing) if core.any() else core


def _closed(mask: np.ndarray, radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The plane's mask with the bays into which a disc of this radius (mm) does not fit."""
    margin = [math.ceil(radius / step) + 1 for step in spacing]
    wide = _within(np.pad(mask, [(width, width) for width in margin]), radius, spacing)
    filled = ndimage.distance_transform_edt(wide, sampling=spacing) > radius
    return np.asarray(filled[tuple(slice(width, -width) for width in margin)] | mask)


def _one_piece(mask: np.ndarray) -> np.ndarray:
    """The largest component, with its holes filled."""
    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    return np.asarray(ndimage.binary_fill_holes(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))))


@lru_cache(maxsize=4)
def _artifact(folder: Path) -> Artifact:
    artifact = load_artifact(folder, "segmenter")
    if len(artifact.meta.plan.space.channels) != 1 or artifact.meta.plan.space.foreground == "brain":
        raise ArtifactError(
            "A network that finds the brain takes one channel, and no brain mask to begin with.",
            where=folder,
            remedy="Train it with configs/finetune/brainmask.yaml.",
        )
    return artifact


@lru_cache(maxsize=4)
def _network(folder: Path, device: str) -> torch.nn.Module:
    return _artifact(folder).model().to(device)
