"""Sets of transformations to choose from by name; MR and CT each get what is physical."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from medae.augmentation.elastic import Elastic
from medae.augmentation.intensity import BiasField, Brightness, Contrast, Gamma, InvertedGamma, Noise
from medae.augmentation.resolution import Blur, LowResolution
from medae.augmentation.spatial import Rotation, Scale

Preset = Literal["none", "light", "strong"]
Intensity = BiasField | Blur | LowResolution | Gamma | InvertedGamma | Contrast | Brightness | Noise


@dataclass(frozen=True)
class Transforms:
    """Every transformation with its probability; a probability of 0 leaves it out. margin: see ``AugmentationConfig``."""

    rotation: Rotation
    scale: Scale
    elastic: Elastic
    bias_field: BiasField
    blur: Blur
    low_resolution: LowResolution
    gamma: Gamma
    inverted_gamma: InvertedGamma
    contrast: Contrast
    brightness: Brightness
    noise: Noise
    margin: float

    def intensities(self) -> dict[str, Intensity]:
        """Those of intensity by name, in the order in which they are applied: what the coil, the acquisition and the
        reconstruction do to the signal comes before the grey values that are made of it, noise last."""
        names = [field.name for field in fields(self)]
        return {name: getattr(self, name) for name in names[names.index("bias_field") : names.index("margin")]}


LIGHT_MR = Transforms(
    rotation=Rotation(),
    scale=Scale(),
    elastic=Elastic(),
    bias_field=BiasField(probability=0),
    blur=Blur(),
    low_resolution=LowResolution(probability=0),
    gamma=Gamma(),
    inverted_gamma=InvertedGamma(probability=0),
    contrast=Contrast(),
    brightness=Brightness(),
    noise=Noise(),
    margin=0.0,
)

NONE = Transforms(
    rotation=Rotation(probability=0),
    scale=Scale(probability=0),
    elastic=Elastic(probability=0),
    bias_field=BiasField(probability=0),
    blur=Blur(probability=0),
    low_resolution=LowResolution(probability=0),
    gamma=Gamma(probability=0),
    inverted_gamma=InvertedGamma(probability=0),
    contrast=Contrast(probability=0),
    brightness=Brightness(probability=0),
    noise=Noise(probability=0),
    margin=0.0,
)

STRONG_MR = Transforms(
    rotation=Rotation(probability=0.3, degrees=30),
    scale=Scale(probability=0.3, lower=0.7, upper=1.4),
    elastic=Elastic(probability=0.2, displacement=4, spacing=20),
    bias_field=BiasField(probability=0.2),
    blur=Blur(probability=0.2, lower=0.5, upper=1.0),
    low_resolution=LowResolution(probability=0.2),
    gamma=Gamma(probability=0.3, lower=0.7, upper=1.5),
    inverted_gamma=InvertedGamma(probability=0.1, lower=0.7, upper=1.5),
    contrast=Contrast(probability=0.2, lower=0.7, upper=1.3),
    brightness=Brightness(probability=0.2, shift=0.3),
    noise=Noise(probability=0.2, std=0.3),
    margin=0.2,
)

HOUNSFIELD: dict[str, Any] = {
    "bias_field": BiasField(probability=0),
    "gamma": Gamma(probability=0),
    "inverted_gamma": InvertedGamma(probability=0),
    "contrast": Contrast(probability=0.15, lower=0.9, upper=1.1),
    "brightness": Brightness(probability=0.15, shift=0.05),
}
"""HU are absolute: no curve, no field, and only as much shift and contrast as differs between scanners and tube voltages."""

LIGHT_CT, STRONG_CT = replace(LIGHT_MR, **HOUNSFIELD), replace(STRONG_MR, **HOUNSFIELD)


def transforms_of(preset: Preset, ct: bool) -> Transforms:
    """The transformations of a preset for CT or for MR."""
    light, strong = (LIGHT_CT, STRONG_CT) if ct else (LIGHT_MR, STRONG_MR)
    return {"none": NONE, "light": light, "strong": strong}[preset]
