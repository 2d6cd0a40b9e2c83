"""Augmentation of a batch on the device it is on: one resampling for the whole spatial draw, then intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from medae.augmentation.draws import Draws
from medae.augmentation.elastic import Elastic
from medae.augmentation.intensity import BiasField, Brightness, Contrast, Gamma, InvertedGamma, Noise
from medae.augmentation.presets import Preset, Transforms, transforms_of
from medae.augmentation.resolution import Blur, LowResolution
from medae.augmentation.spatial import Rotation, Scale, Spatial, resample, still_axes
from medae.config import Config, to_dict
from medae.errors import ConfigError
from medae.plan import Plan
from medae.preprocessing.batch import Batch
from medae.seeding import Draw

GATES = ("blur", "gamma", "contrast", "brightness", "noise", "inverted_gamma", "low_resolution", "bias_field")
"""The order in which it is drawn what happens; a new one goes to the end, so that the draws of the others stay."""


class AugmentationConfig(Config):
    """What may happen to a sample, each with its probability: what the preset says, for each transformation that is null.

    One that is given replaces the preset's as a whole; its keys that are left out have the defaults below.

    preset: which transformations there are, and how strong; see the page on augmentation. modality: for the preset;
    ``auto`` is ``ct`` where the plan's intensity scheme is a CT window, else ``mr``.
    flip: probability of a mirror image along each spatial axis; in no preset, because labels and anatomy have sides.
    Mirroring is safe along left-right where no label has a side, and where orientation carries no meaning.
    margin: so much of the patch's extent is read beyond it on every side, so that what turns or shrinks brings image into
    the corners, where the scan has it; null takes the preset's.
    """

    preset: Preset = "light"
    modality: Literal["auto", "mr", "ct"] = "auto"
    flip: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    margin: float | None = Field(default=None, ge=0, le=1)
    rotation: Rotation | None = None
    scale: Scale | None = None
    elastic: Elastic | None = None
    bias_field: BiasField | None = None
    blur: Blur | None = None
    low_resolution: LowResolution | None = None
    gamma: Gamma | None = None
    inverted_gamma: InvertedGamma | None = None
    contrast: Contrast | None = None
    brightness: Brightness | None = None
    noise: Noise | None = None

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The spatial axes along which the network sees mirror images."""
        return tuple(axis for axis, probability in enumerate(self.flip) if probability > 0)

    def transforms(self, ct: bool) -> Transforms:
        """The preset's with what is given in its place. ct: what ``modality: auto`` is."""
        preset = transforms_of(self.preset, ct if self.modality == "auto" else self.modality == "ct")
        own: dict[str, Any] = {name: getattr(self, name) for name in vars(preset)}
        return replace(preset, **{name: value for name, value in own.items() if value is not None})


class Augmentation:
    """``augmentation(batch, draw)`` is the batch augmented, each sample by its place in the global batch.

    spacing: mm along the spatial axes, so that rotations are rigid and elastic shifts are as long along every axis;
    None (unknown) counts as the finest. Axes under a third of the longest extent are only ever flipped.
    patch: the result's shape, where batches come with a margin around it; None: that of the batch. ct: see
    ``AugmentationConfig.transforms``. Raises ConfigError if ``flip`` does not have an entry an axis.

    margin: voxels that the batch should have on each side of the patch; one that has none is augmented all the same.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        spatial_dims: int,
        spacing: Sequence[float | None] | None = None,
        patch: Sequence[int] | None = None,
        ct: bool = False,
    ) -> None:
        if config.flip and len(config.flip) != spatial_dims:
            raise ConfigError(
                f"flip has {len(config.flip)} entries for {spatial_dims} spatial dimensions.",
                where="augmentation.flip",
                remedy=f"Give {spatial_dims} probabilities, one an axis, or none at all.",
            )
        steps = [None] * spatial_dims if spacing is None else list(spacing)
        finest = min((step for step in steps if step is not None), default=1.0)
        self.transforms = config.transforms(ct)
        self.pitch = tuple(finest if step is None else step for step in steps)
        self.flip = config.flip or (0.0,) * spatial_dims
        self.patch = None if patch is None else tuple(patch)
        self.margin = self._margin()
        self.spatial = Spatial(
            self.flip, self.transforms.rotation, self.transforms.scale, self.transforms.elastic, self.pitch
        )

    @classmethod
    def of_plan(cls, config: AugmentationConfig, plan: Plan) -> Augmentation:
        """For the patches of a plan."""
        ct = plan.space.intensity.kind == "ct_window"
        return cls(config, plan.space.spatial_dims, plan.spatial_spacing, plan.sampling.patch, ct)

    @torch.no_grad()
    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """The augmented batch; image zero and mask false where the content came from outside what was read."""
        moved = self._move(batch, draw.scoped("spatial"))
        return self._colour(moved, draw.scoped("intensity"))

    def rows(self) -> list[tuple[str, float, str]]:
        """For a table: name, probability and strength of each transformation that can happen."""
        rows = [(f"flip, axis {axis}", chance, "") for axis, chance in enumerate(self.flip, start=1) if chance]
        for name, part in vars(self.transforms).items():
            if isinstance(part, Config) and (keys := to_dict(part)).pop("probability"):
                strength = ", ".join(f"{key} {value:g}" for key, value in keys.items())
                rows.append((name.replace("_", " "), part.model_dump()["probability"], strength))
        return rows

    def _margin(self) -> tuple[int, ...]:
        """None along axes that keep still, and none if nothing can move."""
        parts = (self.transforms.rotation, self.transforms.scale, self.transforms.elastic)
        if self.patch is None or not any(part.probability for part in parts):
            return (0,) * len(self.pitch)
        still = still_axes(self.patch, self.pitch)
        share = self.transforms.margin
        return tuple(0 if axis in still else math.ceil(share * size) for axis, size in enumerate(self.patch))

    def _move(self, batch: Batch, draw: Draw) -> Batch:
        window = tuple(batch.image.shape[2:])
        shape = window if self.patch is None else self.patch
        moves = self.spatial.moves(shape, len(batch), draw, batch.image.device)
        if window == shape and not moves.flipped and not moves.places:
            return batch
        maps = {"": batch.mask, **batch.target}
        image = _middle(batch.image, shape).clone()
        moved = {name: _middle(values, shape).clone() for name, values in maps.items()}
        for flips, places in moves.flipped.items():
            for values in (image, *moved.values()):
                values[places] = values[places].flip([2 + axis for axis in flips])
        if moves.places:
            places, lead = moves.places, [(have - want) // 2 for have, want in zip(window, shape, strict=True)]
            read = torch.cat([values[places].to(image.dtype) for values in maps.values()], dim=1)
            image[places], labels = resample(batch.image[places], read, moves.positions(lead))
            for n, values in enumerate(moved.values()):
                values[places] = labels[:, n : n + 1].to(values.dtype)
        return replace(batch, image=image, mask=moved.pop(""), target=moved)

    def _colour(self, batch: Batch, draw: Draw) -> Batch:
        parts = self.transforms.intensities()
        chances = torch.tensor([parts[name].probability for name in GATES])
        happens = draw.scoped("gates").uniform(len(batch), (len(GATES),)) < chances
        if not happens.any():
            return batch
        image = batch.image.clone()
        present = batch.present.view(*batch.present.shape, *[1] * (image.ndim - 2))
        mask = batch.mask & present
        if batch.slices > 1:  # of the neighbours, the foreground is what is not 0
            seen = [(part != 0) & present for part in image.chunk(batch.slices, dim=1)]
            seen[batch.slices // 2] = mask
            mask = torch.cat(seen, dim=1)
        for name, part in parts.items():
            places = happens[:, GATES.index(name)].nonzero().flatten().tolist()
            if places:
                draws = Draws(draw.scoped(type(part).__name__), places, image.device, batch.slices)
                image[places] = part.apply(image[places], mask[places], draws, self.pitch)
        return replace(batch, image=image)


def _middle(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of this shape in the middle of ``[B, C, *S]``."""
    for axis, size in enumerate(shape, start=2):
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x
