"""From a scan and a model of normal anatomy to a heat map, a mask and a score, in the scan's own space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import nn

from medae.anomaly.baselines import intensity_map
from medae.anomaly.postprocessing import RAW, PostprocessingConfig, native_slice_axis, process_map, threshold_map
from medae.anomaly.residual import ResidualKind, residual_map
from medae.anomaly.score import scan_score
from medae.config import Config
from medae.inference.native import labels_to_native, maps_to_native
from medae.inference.predict import predict_maps
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared


class Scoring(Config):
    """How a residual becomes a score. It travels in a detector's artifact, beside the calibration.

    residual: which differences count. postprocessing: the same for the model and for the baseline. top_share: share
    of the mask whose mean is the scan's score. flips: average the reconstruction over mirrored copies.
    """

    residual: ResidualKind = "bright"
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    top_share: float = Field(default=0.01, gt=0, le=1)
    flips: bool = False


@dataclass(frozen=True)
class ScanMaps:
    """Maps of one scan in the file's own grid and axis order, three axes each.

    heat: float32, filtered, zero outside the mask. raw: the same before the filter. error: absolute reconstruction
    error. mask: bool, where voxels count. slice_axis: of the file's array. voxel_ml: millilitres of a voxel.
    """

    heat: np.ndarray
    raw: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    slice_axis: int
    voxel_ml: float

    def score(self, scoring: Scoring) -> float:
        """The scan's score, see ``anomaly.score``."""
        return scan_score(self.heat, self.mask, scoring.top_share)

    def flagged(self, threshold: float, scoring: Scoring) -> np.ndarray:
        """The mask of what is at or above a threshold, bool."""
        return threshold_map(self.heat, self.mask, threshold, scoring.postprocessing, self.voxel_ml)


def reconstruct(model: nn.Module, prepared: Prepared, plan: Plan, scoring: Scoring, device: torch.device) -> torch.Tensor:
    """What the model makes of a scan: normalised, plan grid, ``[C, I, J, K]``."""
    axes = range(plan.space.spatial_dims) if scoring.flips else ()
    return predict_maps(model, prepared, plan, device=device, mirrored=axes, activation="none")


def model_maps(prepared: Prepared, reconstruction_CIJK: torch.Tensor, plan: Plan, scoring: Scoring) -> ScanMaps:
    """The maps of a model: residual in plan space, brought to the native grid, then filtered there."""
    x, y, mask, present = prepared.image, reconstruction_CIJK.cpu(), prepared.mask, prepared.present
    raw = residual_map(x, y, mask, scoring.residual, present)
    return _native(prepared, raw, residual_map(x, y, mask, "absolute", present), plan, scoring)


def intensity_maps(prepared: Prepared, plan: Plan, scoring: Scoring) -> ScanMaps:
    """The maps of the baseline: the normalised intensity itself, through the same filter and mask."""
    raw = intensity_map(prepared.image, prepared.mask, scoring.residual, prepared.present)
    error = residual_map(prepared.image, torch.zeros_like(prepared.image), prepared.mask, "absolute", prepared.present)
    return _native(prepared, raw, error, plan, scoring)


def _native(prepared: Prepared, raw: torch.Tensor, error: torch.Tensor, plan: Plan, scoring: Scoring) -> ScanMaps:
    native = prepared.native
    mask = labels_to_native(prepared.mask.to(torch.int16), prepared) > 0
    maps = maps_to_native(torch.cat([raw, error]), prepared)
    axis = native_slice_axis(native, plan.space.slice_axis)
    return ScanMaps(
        heat=process_map(maps[0], mask, scoring.postprocessing, axis),
        raw=process_map(maps[0], mask, RAW, axis),
        error=maps[1],
        mask=mask,
        slice_axis=axis,
        voxel_ml=float(abs(np.linalg.det(native.matrix()[:3, :3]))) / 1000.0,
    )
