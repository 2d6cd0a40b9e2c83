"""From a scan and an anomaly map to a heat map, a mask and a score, in the scan's own space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from medae.anomaly.calibration import Calibration
from medae.anomaly.features import WEIGHT_FILES, EncoderFeatures, VGGFeatures, check_fits, extractor_of
from medae.anomaly.maps.base import AnomalyMap
from medae.anomaly.maps.lesion import LesionHeadConfig
from medae.anomaly.maps.perceptual import PerceptualConfig, PerceptualMap
from medae.anomaly.maps.registry import (
    BASELINES,
    MapConfig,
    PartConfig,
    Rarity,
    SumConfig,
    baselines,
    build_map,
    build_maps,
    parts_of,
)
from medae.anomaly.maps.residual import ResidualConfig
from medae.anomaly.place import PlaceConfig
from medae.anomaly.postprocessing import RAW, PostprocessingConfig, eroded, native_slice_axis, process_map, threshold_map
from medae.anomaly.residual import Side, residual_map
from medae.anomaly.scan import Scan
from medae.anomaly.score import ScanScoreConfig, inside, largest_piece_ml, levels, top_mean, unlikeness
from medae.artifact import STATISTICS
from medae.config import Config, digest
from medae.errors import ArtifactError
from medae.inference.native import labels_to_native, maps_to_native
from medae.models.networks import StoredConfig
from medae.plan import Plan, SpacePlan
from medae.preprocessing.prepare import Prepared

DETECTOR = "detector"
"""The row of the map that the detector ships with, in every table."""


class Scoring(Config):
    """How scans are scored. It travels in a detector's artifact, beside the calibration.

    map: the detector's own. side: which differences count, in all maps alike: ``bright`` (than expected), ``dark``, both as
    ``absolute``, or ``squared``. rarity: give each voxel the share of normal voxels that score as high instead of the map's
    own units, as -log10: ``none``, among ``all`` normal voxels, or, for maps of a model, among those of its ``intensity``.
    compare: further maps
    by name, reported beside. place: how the voxel-wise baseline finds the same place in another head. postprocessing: of
    all maps alike. scan_score: how a map becomes the scan's score. flips: average reconstructions over
    mirror images along the axes of ``augmentation.flip``.
    """

    map: MapConfig = ResidualConfig()
    side: Side = "bright"
    rarity: Rarity = "none"
    compare: dict[str, MapConfig] = Field(default_factory=dict)
    place: PlaceConfig = PlaceConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    scan_score: ScanScoreConfig = ScanScoreConfig()
    flips: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, content: Any) -> Any:
        """Detectors that were stored before there was ``scan_score`` have ``top_share``."""
        if isinstance(content, Mapping) and "top_share" in content:
            others = {key: value for key, value in content.items() if key != "top_share"}
            return {"scan_score": {"share": content["top_share"]}, **others}
        return content

    @field_validator("compare")
    @classmethod
    def _named(cls, compare: dict[str, MapConfig]) -> dict[str, MapConfig]:
        for name in compare:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"'{name}' is no name for a map: use letters, digits, - and _")
            if name == DETECTOR or name in BASELINES:
                raise ValueError(f"'{name}' is a map that is reported anyway: choose another name")
        return compare

    @model_validator(mode="after")
    def _can_find(self) -> Scoring:
        for config in (self.map, *self.compare.values()):
            for part in parts_of(config):
                one_sided = isinstance(part, PerceptualConfig) or (
                    isinstance(part, ResidualConfig) and part.measure == "ssim"
                )
                if self.side == "dark" and one_sided and not getattr(part, "place", None):
                    raise ValueError(
                        "side: dark finds nothing by ssim or perceptual, which have no dark side; choose another side or map"
                    )
        return self

    def check(self, network: StoredConfig) -> None:
        """Raises ConfigError if a map asks for what a network cannot do."""
        for config in self.rows().values():
            for part in parts_of(config):
                if isinstance(part, ResidualConfig):
                    for own in (part.draws, part.restore):
                        if own is not None:
                            own.check(network)
                if isinstance(part, PerceptualConfig | LesionHeadConfig):
                    part.check(network)

    def check_features(self, space: SpacePlan) -> None:
        """Raises ConfigError, or ArtifactError, if features that a map asks for are not there or of other images."""
        for config in self.rows().values():
            for part in parts_of(config):
                if isinstance(part, PerceptualConfig) and part.features is not None:
                    extractor = extractor_of(part.features)
                    check_fits(extractor, space.spatial_dims, space.slices, len(space.channels))
                    part.check_levels(extractor.levels)

    def rows(self) -> dict[str, MapConfig]:
        """All maps that are reported, by name: the detector's own, those to compare, the baselines."""
        return {DETECTOR: self.map, **self.compare, **baselines(self.place)}

    def stored(self, anomaly: AnomalyMap) -> Scoring:
        """The scoring as it is kept beside the map that a detector ships with.

        Features are named by their shape, for their weights are in the map; maps to compare that ask for a model's features
        are left out, for those are not. The form that features are stored in is no way to ask for them: see ``asks``.
        """
        shapes = {digest(part.config): part.features for part in anomaly.modules() if isinstance(part, PerceptualMap)}

        def kept(part: PartConfig) -> PartConfig:
            return part.model_copy(update={"features": shapes[digest(part)]}) if isinstance(part, PerceptualConfig) else part

        parts = tuple(kept(part) for part in parts_of(self.map))
        own = self.map.model_copy(update={"of": parts}) if isinstance(self.map, SumConfig) else parts[0]
        compare = {name: config for name, config in self.compare.items() if not _features(config)}
        return self.model_copy(update={"map": own, "compare": compare})

    def features(self) -> list[str]:
        """Addresses of the models whose encoders compare, without those that are files of weights."""
        return [name for name in self._asked() if not name.endswith(WEIGHT_FILES)]

    def weight_files(self) -> list[str]:
        """The files of weights that maps compare by."""
        return [name for name in self._asked() if name.endswith(WEIGHT_FILES)]

    def asks(self) -> bool:
        """Whether features are asked for by a name, as a user does, and not by a shape without weights."""
        return all(isinstance(each, str) for each in self._every())

    def _asked(self) -> list[str]:
        return list(dict.fromkeys(each for each in self._every() if isinstance(each, str)))

    def _every(self) -> list[str | EncoderFeatures | VGGFeatures]:
        return [each for config in (self.map, *self.compare.values()) for each in _features(config)]

    def build(self, channels: int) -> dict[str, AnomalyMap]:
        """The maps of all rows, which have learnt nothing yet."""
        return build_maps(self.rows(), self.side, channels, self.rarity)


def _features(config: MapConfig) -> list[str | EncoderFeatures | VGGFeatures]:
    """What the parts of a map compare by, where it is not the model's own encoder."""
    parts = [part.features for part in parts_of(config) if isinstance(part, PerceptualConfig)]
    return [features for features in parts if features is not None]


def load_map(scoring: Scoring, channels: int, statistics: Mapping[str, Tensor]) -> AnomalyMap:
    """The map that a detector ships with. statistics: what it has learnt, from its artifact; raises ArtifactError if they do
    not fit."""
    found = build_map(scoring.map, scoring.side, channels, scoring.rarity)
    try:
        found.load_state_dict(dict(statistics))
    except RuntimeError as error:
        raise ArtifactError(
            "The detector's statistics do not fit its map.", where=STATISTICS, remedy="Fetch or train the model again."
        ) from error
    return found


@dataclass(frozen=True)
class ScanMaps:
    """Maps of one scan in the file's own grid and axis order, three axes each.

    heat: float32, filtered, zero outside the mask. mask: bool, where voxels count: the whole mask less what is eroded.
    raw: before filters and erosion, zero outside the whole mask. whole: bool, of the scan, before it was eroded.
    slice_axis: of the file's array. voxel_ml: millilitres of a voxel.
    """

    heat: np.ndarray
    raw: np.ndarray
    mask: np.ndarray
    whole: np.ndarray
    slice_axis: int
    voxel_ml: float

    def score(self, scoring: Scoring, calibration: Calibration) -> float:
        """The scan's score, see ``ScanScoreConfig``. Raises DataError (empty mask, too few normals to learn from)."""
        config, values = scoring.scan_score, inside(self.heat, self.mask)
        match config.kind:
            case "top":
                return top_mean(values, config.share)
            case "mean":
                return top_mean(values, 1.0)
            case "largest":
                return largest_piece_ml(self.flagged(calibration.threshold, scoring), self.voxel_ml)
            case "learned":
                return unlikeness(levels(values), calibration.normal_levels)

    def flagged(self, threshold: float, scoring: Scoring) -> np.ndarray:
        """The mask of what is at or above a threshold, bool."""
        return threshold_map(self.heat, self.mask, threshold, scoring.postprocessing, self.voxel_ml)


@dataclass(frozen=True)
class Rows:
    """The maps that are reported, by name, with the model that they ask, which is on the device in evaluation mode.

    mirrored: spatial axes along which the model was trained on mirror images; they have an effect with ``scoring.flips``.
    """

    maps: Mapping[str, AnomalyMap]
    scoring: Scoring
    model: nn.Module
    plan: Plan
    device: torch.device
    mirrored: Sequence[int] = ()

    def scan(self, prepared: Prepared, normal: Tensor | None = None, kept: Path | None = None) -> Scan:
        """A prepared scan as the maps see it. normal, kept: see ``Scan``."""
        mirrored = self.mirrored if self.scoring.flips else ()
        return Scan(prepared, self.plan, self.model, self.device, normal=normal, mirrored=mirrored, kept=kept)

    def scored(self, scan: Scan) -> Iterator[tuple[str, ScanMaps]]:
        """The maps of a scan by row, one at a time."""
        for row, each in self.maps.items():
            yield row, scan_maps(scan, each, self.scoring)


def scan_maps(scan: Scan, anomaly: AnomalyMap, scoring: Scoring) -> ScanMaps:
    """A map of a scan: computed in plan space, brought to the scan's own grid, and filtered there."""
    with torch.inference_mode():
        found = anomaly(scan)
    whole, axis = scan_mask(scan), slice_axis(scan)
    mask = eroded(whole, scoring.postprocessing.erode, axis)
    raw = maps_to_native(found, scan.prepared)[0]
    return ScanMaps(
        heat=process_map(raw, mask, scoring.postprocessing, axis),
        raw=process_map(raw, whole, RAW, axis),
        mask=mask,
        whole=whole,
        slice_axis=axis,
        voxel_ml=scan.prepared.native.voxel_ml,
    )


def scan_mask(scan: Scan) -> np.ndarray:
    """The mask of a scan, before it is eroded, on its file's own axes: bool."""
    return labels_to_native(scan.mask.to(torch.int16), scan.prepared) > 0


def slice_axis(scan: Scan) -> int:
    """The axis of the file's array across which the scan's slices lie."""
    return native_slice_axis(scan.prepared.native, scan.slice_axis)


def reconstruction_error(scan: Scan) -> np.ndarray:
    """Absolute reconstruction error on the scan's own grid, unfiltered: float32, zero outside the mask."""
    error = residual_map(scan.image, scan.reconstruction, scan.mask, "absolute", scan.prepared.present)
    return maps_to_native(error, scan.prepared)[0]
