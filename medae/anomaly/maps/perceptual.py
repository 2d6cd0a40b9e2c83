"""Perceptual distance: how differently the model's own encoder sees a scan and its reconstruction.

The content loss of Johnson et al. 2016, by voxel as in Zhang et al. 2018 (LPIPS), with the encoder that was trained on the
user's own scans in the place of one trained on photographs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medae.anomaly.maps.base import SignedMap
from medae.anomaly.place import PlaceConfig
from medae.anomaly.residual import Side
from medae.anomaly.scan import Scan
from medae.config import Config
from medae.errors import ConfigError
from medae.models.encoder import Encoder
from medae.models.networks import StoredConfig
from medae.models.output import Output

TINY = 1e-6


class PerceptualConfig(Config):
    """levels: of the encoder, 0 the finest; all of them unless given. place: take the distance that normal training scans
    have at the same place for granted, in deviations of it."""

    kind: Literal["perceptual"] = "perceptual"
    levels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    place: PlaceConfig | None = None

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError for levels that a network's encoder does not have."""
        deepest = network.encoder.levels - 1
        if self.levels is not None and max(self.levels) > deepest:
            raise ConfigError(
                f"The encoder has the levels 0 to {deepest}.", where="scoring.map.levels", remedy="Name some of these."
            )


class PerceptualMap(SignedMap):
    """See ``PerceptualConfig``. It has no dark side: a distance is never below 0."""

    def __init__(self, config: PerceptualConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, config.place)
        self.config = config

    def signal(self, scan: Scan) -> Tensor:
        """The distance, the same for every channel."""
        # nothing trains what a model makes outside the mask
        made = torch.where(scan.mask, scan.reconstruction, scan.image)
        both = replace(scan.prepared, image=torch.cat([scan.image, made]))
        found = scan.through(Distance(_encoder(scan), self.config.levels), both)
        return found.expand(len(scan.image), *found.shape[1:])


class Distance(nn.Module):
    """From images ``[B, slices x 2C, *S]``, in each slice scan and reconstruction, to the distance ``[B, 1, *S]``.

    Features are scaled to length 1 over the channels at each place; the squared lengths of their differences, from 0 to 4,
    are interpolated linearly to the image's size and averaged over levels.
    """

    def __init__(self, encoder: Encoder, levels: tuple[int, ...] | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = tuple(range(encoder.config.levels)) if levels is None else levels

    def forward(self, pairs: Tensor) -> Output:
        """The mean distance over levels."""
        both = pairs.unflatten(1, (self.encoder.config.slices, 2, -1))
        one, other = (self.encoder(both[:, :, place].flatten(1, 2)).levels for place in (0, 1))
        mode = "bilinear" if pairs.ndim == 4 else "trilinear"
        total = torch.zeros_like(pairs[:, :1])
        for level in self.levels:
            apart = (_unit(one[level]) - _unit(other[level])).square().sum(dim=1, keepdim=True)
            total += functional.interpolate(apart, size=pairs.shape[2:], mode=mode, align_corners=False)
        return Output((total / len(self.levels),))


def _unit(features: Tensor) -> Tensor:
    return features.float() / (features.float().square().sum(dim=1, keepdim=True).sqrt() + TINY)


def _encoder(scan: Scan) -> Encoder:
    encoder = getattr(scan.network(), "encoder", None)
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            "The model has no encoder to compare by.", where="scoring.map", remedy="Take a model that medae has trained."
        )
    return encoder
