"""Perceptual distance: how differently an encoder sees a scan and its reconstruction.

The content loss of Johnson et al. 2016, by voxel as in Zhang et al. 2018 (LPIPS), with an encoder that was trained on the
user's own scans in the place of one trained on photographs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medae.anomaly.features import EncoderExtractor, Extractor, Features, check_fits, extractor_of, stored
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
    """features: whose encoder compares: the detector's own model's (null), that of another trained model (a folder,
    ``runs:/...`` or ``models:/...``), or VGG-16 by a file of its weights (.safetensors, with torchvision's names; of
    slices). levels: of the encoder, 0 the finest; all of them unless given. place: take the distance that normal
    training scans have at the same place for granted, in deviations of it.
    """

    kind: Literal["perceptual"] = "perceptual"
    features: str | Features | None = None
    levels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    place: PlaceConfig | None = None

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError for levels that a network's own encoder does not have, and for several encoders."""
        if self.features is not None:
            return
        if network.kind == "autoencoder_ensemble":
            raise ConfigError(
                "An ensemble has several encoders, and none is the one that a perceptual map compares by.",
                where="scoring.map.features",
                remedy="Name a trained model whose encoder compares, leave the map out, or train one network (members: 1).",
            )
        self.check_levels(network.encoder.levels)

    def check_levels(self, levels: int) -> None:
        """Raises ConfigError for levels that an encoder of so many does not have."""
        if self.levels is not None and max(self.levels) >= levels:
            raise ConfigError(
                f"The encoder has the levels 0 to {levels - 1}.", where="scoring.map.levels", remedy="Name some of these."
            )


class PerceptualMap(SignedMap):
    """See ``PerceptualConfig``. It has no dark side: a distance is never below 0."""

    def __init__(self, config: PerceptualConfig, side: Side, channels: int) -> None:
        super().__init__(side, channels, config.place)
        self.extractor = None if config.features is None else extractor_of(config.features).eval()
        if self.extractor is not None:
            config.check_levels(self.extractor.levels)
        self.config = config

    @property
    def features(self) -> Features | None:
        """What the map compares by, to be stored; None for the model's own encoder."""
        return None if self.extractor is None else stored(self.extractor)

    def signal(self, scan: Scan) -> Tensor:
        """The distance, the same for every channel. Raises ConfigError if the features are of other images."""
        space = scan.plan.space
        extractor = self.extractor
        if extractor is None:
            extractor = EncoderExtractor(_encoder(scan))
        else:
            check_fits(extractor, space.spatial_dims, space.slices, len(space.channels))
            extractor.to(scan.device)
        # nothing trains what a model makes outside the mask, or of an absent channel
        made = torch.where(scan.prepared.counted, scan.reconstruction, scan.image)
        both = replace(scan.prepared, image=torch.cat([scan.image, made]))
        found = scan.through(Distance(extractor, self.config.levels, space.slices), both)
        return found.expand(len(scan.image), *found.shape[1:])


class Distance(nn.Module):
    """From images ``[B, slices x 2C, *S]``, in each slice scan and reconstruction, to the distance ``[B, 1, *S]``.

    Features are scaled to length 1 over the channels at each place; the squared lengths of their differences, from 0 to 4,
    are interpolated linearly to the image's size and averaged over levels. Where an extractor sees single slices, it sees
    the middle one.
    """

    def __init__(self, extractor: Extractor, levels: tuple[int, ...] | None, slices: int = 1) -> None:
        super().__init__()
        self.extractor, self.slices = extractor, slices
        self.levels = tuple(range(extractor.levels)) if levels is None else levels

    def forward(self, pairs: Tensor) -> Output:
        """The mean distance over levels."""
        both = pairs.unflatten(1, (self.slices, 2, -1))
        if self.extractor.slices == 1:
            both = both[:, self.slices // 2, None]
        one, other = (self.extractor(both[:, :, place].flatten(1, 2)) for place in (0, 1))
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
