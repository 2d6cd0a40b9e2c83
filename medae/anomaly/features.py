"""What a perceptual distance compares by: the features of an encoder, or of VGG-16 where a user has its weights.

An encoder that stage 1 trained on the user's own scans takes the place that VGG has in the work on photographs. Whichever it
is travels with the detector: its shape in the record, its weights among what the map has learnt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medae.artifact import load_artifact
from medae.config import Config
from medae.errors import ArtifactError, ConfigError
from medae.models.encoder import Encoder, EncoderConfig
from medae.tracking.models import resolve_model

WEIGHT_FILES = ".safetensors"
"""Other formats of weights run the code that is in them."""
VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Channels of the convolutions of VGG-16; 0 is a max-pooling. Source: Simonyan and Zisserman 2015, configuration D."""

PHOTOGRAPH_MEAN, PHOTOGRAPH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""That published weights of VGG-16 expect of red, green and blue from 0 to 1."""

BLACK, WHITE = -3.0, 3.0
"""Normalised intensities that are black and white to VGG."""


class EncoderFeatures(Config):
    """An encoder of medae. encoder: its shape."""

    kind: Literal["encoder"] = "encoder"
    encoder: EncoderConfig


class VGGFeatures(Config):
    """VGG-16, of slices; each channel is a grey picture, from -3 (black) to 3 (white) in normalised units."""

    kind: Literal["vgg16"] = "vgg16"


Features = Annotated[EncoderFeatures | VGGFeatures, Field(discriminator="kind")]


class Extractor(nn.Module):
    """Features of images ``[B, slices x C, *S]``, a map a level, the finest first. slices: that it sees at a time."""

    def __init__(self, spatial_dims: int, levels: int, slices: int = 1, channels: int | None = None) -> None:
        super().__init__()
        self.spatial_dims, self.levels, self.slices, self.channels = spatial_dims, levels, slices, channels

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps ``[B, F, *S']`` of all levels."""
        raise TypeError(f"{type(self).__name__} is an abstract extractor")


class EncoderExtractor(Extractor):
    """The levels of an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        config = encoder.config
        super().__init__(config.spatial_dims, config.levels, config.slices, config.channels)
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As of `Extractor`."""
        return tuple(self.encoder(image, None).levels)


class VGGExtractor(Extractor):
    """What the last convolution before each pooling, and the last of all, let through; names are those of torchvision."""

    def __init__(self) -> None:
        pictures: list[nn.Module] = []
        width = 3
        for wanted in VGG_WIDTHS:
            if wanted:
                pictures += [nn.Conv2d(width, wanted, 3, padding=1), nn.ReLU()]
                width = wanted
            else:
                pictures.append(nn.MaxPool2d(2))
        super().__init__(spatial_dims=2, levels=VGG_WIDTHS.count(0) + 1)
        self.features = nn.Sequential(*pictures)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """As of `Extractor`; the features of several channels stand side by side."""
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (PHOTOGRAPH_MEAN, PHOTOGRAPH_STD))
        grey = ((image - BLACK) / (WHITE - BLACK)).clamp(0, 1).flatten(0, 1)[:, None]
        x, found = (grey - mean) / std, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return tuple(level.unflatten(0, (len(image), -1)).flatten(1, 2) for level in (*found, x))


def extractor_of(features: str | EncoderFeatures | VGGFeatures) -> Extractor:
    """An extractor. A text names a trained model, or a file of VGG-16's weights, and comes with them; else they are random.

    Raises ArtifactError for what is no model and no such file.
    """
    if isinstance(features, EncoderFeatures):
        return EncoderExtractor(Encoder(features.encoder))
    if isinstance(features, VGGFeatures):
        return VGGExtractor()
    if features.endswith(WEIGHT_FILES):
        return _vgg(Path(features).expanduser())
    artifact = load_artifact(resolve_model(features))
    if not isinstance(encoder := getattr(artifact.model(), "encoder", None), Encoder):
        raise ArtifactError(
            "The model has several encoders, and none is the one to compare by.",
            where=features,
            remedy="Give a model that was trained alone.",
        )
    return EncoderExtractor(encoder)


def stored(extractor: Extractor) -> EncoderFeatures | VGGFeatures:
    """What builds an extractor again, without its weights."""
    return EncoderFeatures(encoder=extractor.encoder.config) if isinstance(extractor, EncoderExtractor) else VGGFeatures()


def check_fits(extractor: Extractor, spatial_dims: int, slices: int, channels: int) -> None:
    """Raises ConfigError for an extractor that cannot see the scans of a plan."""
    sees = extractor.spatial_dims, extractor.channels in (None, channels), extractor.slices in (1, slices)
    if sees != (spatial_dims, True, True):
        raise ConfigError(
            f"The features are of images with {extractor.spatial_dims} dimensions, {extractor.channels or 'any'} channels, "
            f"{extractor.slices} slices at a time; the plan has {spatial_dims}, {channels} and {slices}.",
            where="scoring.map.features",
            remedy="Name a model of such images, or leave features out: then the model's own encoder compares.",
        )


def _vgg(file: Path) -> Extractor:
    remedy = "Give the weights of VGG-16 by torchvision's names (features.0.weight and so on), saved by safetensors."
    try:
        kept = {name: value for name, value in load_file(file).items() if name.startswith("features.")}
        extractor = VGGExtractor()
        extractor.load_state_dict(kept)
    except OSError as error:
        raise ArtifactError(f"The file cannot be read: {error.strerror or error}", where=file, remedy=remedy) from error
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"The file does not hold VGG-16: {error}", where=file, remedy=remedy) from error
    return extractor
