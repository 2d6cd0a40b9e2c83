"""Augmentation of a batch on the device it is on: one resampling for the whole spatial draw, then intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from medae.augmentation.elastic import Elastic
from medae.augmentation.intensity import Blur, Brightness, Contrast, Gamma, Noise
from medae.augmentation.spatial import Rotation, Scale, Spatial, resample
from medae.config import Config
from medae.errors import ConfigError
from medae.preprocessing.batch import Batch
from medae.seeding import Draw


class AugmentationConfig(Config):
    """What may happen to a sample, each with its probability.

    flip: probability of a mirror image along each spatial axis; none by default, because labels and anatomy have sides.
    Mirroring is safe along left-right where no label has a side, and where orientation carries no meaning.
    """

    flip: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    rotation: Rotation = Rotation()
    scale: Scale = Scale()
    elastic: Elastic = Elastic()
    noise: Noise = Noise()
    blur: Blur = Blur()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    gamma: Gamma = Gamma()


class Augmentation:
    """``augmentation(batch, draw)`` is the batch augmented, each sample by its place in the global batch.

    spacing: mm along the spatial axes, so that rotations are rigid and elastic shifts are as long along every axis;
    None (unknown) counts as the finest. Axes under a third of the longest extent are only ever flipped.
    Raises ConfigError if ``flip`` does not have an entry an axis.
    """

    def __init__(self, config: AugmentationConfig, spatial_dims: int, spacing: Sequence[float | None] | None = None) -> None:
        if config.flip and len(config.flip) != spatial_dims:
            raise ConfigError(
                f"flip has {len(config.flip)} entries for {spatial_dims} spatial dimensions.",
                where="augmentation.flip",
                remedy=f"Give {spatial_dims} probabilities, one an axis, or none at all.",
            )
        steps = [None] * spatial_dims if spacing is None else list(spacing)
        finest = min((step for step in steps if step is not None), default=1.0)
        self.config = config
        self.pitch = tuple(finest if step is None else step for step in steps)
        flip = config.flip or (0.0,) * spatial_dims
        self.spatial = Spatial(flip, config.rotation, config.scale, config.elastic, self.pitch)

    @torch.no_grad()
    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """The augmented batch; image zero and mask false where the content came from outside the patch."""
        moved = self._move(batch, draw.scoped("spatial"))
        return self._colour(moved, draw.scoped("intensity"))

    def _move(self, batch: Batch, draw: Draw) -> Batch:
        moves = self.spatial.moves(batch.image.shape[2:], len(batch), draw, batch.image.device)
        if not any(move.flips or move.positions is not None for move in moves):
            return batch
        names = list(batch.target)
        labels = torch.cat([batch.mask, *(batch.target[name] for name in names)], dim=1)
        image = batch.image.clone()
        for b, move in enumerate(moves):
            if move.flips and move.positions is None:
                axes = [1 + axis for axis in move.flips]
                image[b], labels[b] = batch.image[b].flip(axes), labels[b].flip(axes)
        warped = [b for b, move in enumerate(moves) if move.positions is not None]
        if warped:
            positions = torch.stack([move.positions for move in moves if move.positions is not None])
            image[warped], labels[warped] = resample(image[warped], labels[warped], positions)
        target = {name: labels[:, n : n + 1].to(batch.target[name].dtype) for n, name in enumerate(names, start=1)}
        return replace(batch, image=image, mask=labels[:, :1].bool(), target=target)

    def _colour(self, batch: Batch, draw: Draw) -> Batch:
        config, size = self.config, len(batch)
        parts: list[Blur | Gamma | Contrast | Brightness | Noise]
        parts = [config.blur, config.gamma, config.contrast, config.brightness, config.noise]
        chances = torch.tensor([part.probability for part in parts])
        happens = draw.scoped("gates").uniform(size, (len(parts),)) < chances
        if not happens.any():
            return batch
        image = batch.image.clone()
        # a sample at a time: sums over its foreground then do not depend on how the global batch was split
        for b in range(size):
            mask = batch.mask[b] & batch.present[b].view(-1, *[1] * (image.ndim - 2))
            own = replace(draw, first=draw.first + b)
            for part, chosen in zip(parts, happens[b].tolist(), strict=True):
                if chosen:
                    image[b] = part.apply(image[b], mask, own.scoped(type(part).__name__), self.pitch)
        return replace(batch, image=image)
