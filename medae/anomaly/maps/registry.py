"""All anomaly maps: one union of their configurations, one function that builds them.

A new map is one file with its configuration, and a line in each of the two places here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medae.anomaly.maps.base import AnomalyMap, Scans, SignedMap
from medae.anomaly.maps.blur import BlurConfig, BlurMap
from medae.anomaly.maps.combined import SumMap
from medae.anomaly.maps.intensity import IntensityConfig, IntensityMap
from medae.anomaly.maps.lesion import LesionHeadConfig, LesionHeadMap
from medae.anomaly.maps.perceptual import PerceptualConfig, PerceptualMap
from medae.anomaly.maps.rarity import RarityMap
from medae.anomaly.maps.residual import ResidualConfig, ResidualMap
from medae.anomaly.place import PlaceConfig
from medae.anomaly.residual import Side
from medae.config import Config, digest

PartConfig = ResidualConfig | LesionHeadConfig | PerceptualConfig | IntensityConfig | BlurConfig
Part = Annotated[PartConfig, Field(discriminator="kind")]

PARTS: dict[type, Any] = {
    ResidualConfig: ResidualMap,
    LesionHeadConfig: LesionHeadMap,
    PerceptualConfig: PerceptualMap,
    IntensityConfig: IntensityMap,
    BlurConfig: BlurMap,
}
OF_A_MODEL = (ResidualConfig, LesionHeadConfig, PerceptualConfig)


class SumConfig(Config):
    """of: the maps that are added, each in units of what normal voxels have. weights: of them, equal unless given."""

    kind: Literal["sum"] = "sum"
    of: tuple[Part, ...] = Field(min_length=2)
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _weighted(self) -> SumConfig:
        if self.weights is not None and (len(self.weights) != len(self.of) or min(self.weights) <= 0):
            raise ValueError(f"weights: {len(self.of)} numbers above 0 are needed, one for each map in 'of'")
        return self


MapConfig = Annotated[PartConfig | SumConfig, Field(discriminator="kind")]

Rarity = Literal["none", "all", "intensity"]


def build_maps(rows: Mapping[str, MapConfig], side: Side, channels: int, rarity: Rarity = "none") -> dict[str, AnomalyMap]:
    """The maps of configurations by name, which have learnt nothing yet. Equal parts are one module and learn once.

    channels: of the plan. rarity: see ``RarityMap``; ``intensity`` is ``all`` for a map without a model, which would be
    compared with itself.
    """
    parts: dict[str, AnomalyMap] = {}

    def part(config: Any) -> AnomalyMap:
        key = digest(config)
        if key not in parts:
            parts[key] = PARTS[type(config)](config, side, channels)
        return parts[key]

    def whole(config: MapConfig) -> AnomalyMap:
        if not isinstance(config, SumConfig):
            return part(config)
        return SumMap([part(each) for each in config.of], config.weights or tuple(1.0 for _ in config.of))

    found = {name: whole(config) for name, config in rows.items()}
    if rarity == "none":
        return found
    return {
        name: RarityMap(each, by_intensity=rarity == "intensity" and needs_model(rows[name])) for name, each in found.items()
    }


def build_map(config: MapConfig, side: Side, channels: int, rarity: Rarity = "none") -> AnomalyMap:
    """One map, see ``build_maps``."""
    return build_maps({"": config}, side, channels, rarity)[""]


def learn_maps(maps: Iterable[AnomalyMap], training: Scans, calibration: Scans) -> None:
    """Let maps learn what is normal from training scans and their scales from calibration scans; equal parts learn once."""
    signed = {id(part): part for each in maps for part in each.modules() if isinstance(part, SignedMap) and part.learns}
    for part in signed.values():
        part.learn(training)
    for each in maps:
        if each.scales:
            each.scale(calibration)


def learns(anomaly: AnomalyMap) -> bool:
    """Whether a map takes anything from training scans."""
    return any(part.learns for part in anomaly.modules() if isinstance(part, SignedMap))


def needs_model(config: MapConfig) -> bool:
    """Whether the map asks for a model's reconstruction."""
    return any(isinstance(part, OF_A_MODEL) for part in parts_of(config))


def parts_of(config: MapConfig) -> tuple[PartConfig, ...]:
    """The maps that a sum is made of; any other is its own only part."""
    return config.of if isinstance(config, SumConfig) else (config,)


BASELINES = ("intensity", "equalised", "voxelwise", "blurred")
"""What every detector is reported beside, with the same mask, side, filter and calibration."""


def baselines(place: PlaceConfig) -> dict[str, MapConfig]:
    """The maps of the baselines. place: how the voxel-wise one finds the same place in another head."""
    found = (IntensityConfig(), IntensityConfig(equalise=True), IntensityConfig(place=place), BlurConfig())
    return dict(zip(BASELINES, found, strict=True))
