"""``medae predict``: a trained model on new scans, results in each scan's own space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import Scoring, load_map, scan_maps
from medae.anomaly.scan import Scan as Scored
from medae.artifact import Artifact, load_artifact
from medae.config import Config, apply_overrides, validate
from medae.errors import ArtifactError, ConfigError, DataError
from medae.export.nifti import write_native
from medae.formats.endings import stem
from medae.inference.brainmask import extraction_of
from medae.plan import SpacePlan
from medae.preprocessing.prepare import Prepared
from medae.tracking.models import resolve_model
from pipelines.console import Screen
from pipelines.detect_scoring import write_maps
from pipelines.inputs import Inputs, Scan, find_inputs, work_through
from pipelines.networks import device_of
from pipelines.segmenting import segment


class Options(Config):
    """Choices of a prediction. format: layout of the input. data: further keys of that layout, such as the channels of a
    DICOM tree. flips: average over mirror images, even if the model's own recipe does not. brain_mask: of a plain file,
    or a folder with those of plain files, for a model whose foreground is the brain; a data set's masks are among its
    targets.
    """

    format: str = "auto"
    data: dict[str, Any] = Field(default_factory=dict)
    flips: bool = False
    brain_mask: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run(
    model: str, source: Path, output: Path, options: Mapping[str, Any], overrides: Sequence[str] = (), as_json: bool = False
) -> dict[str, Any]:
    """Predict every scan. A scan that fails is listed at the end, and the others are done."""
    screen = Screen(as_json)
    choice = validate(Options, apply_overrides(options, overrides), where="--set")
    artifact = load_artifact(resolve_model(model))
    if artifact.meta.kind == "autoencoder":
        raise ArtifactError(
            "A pretrained autoencoder segments nothing.",
            where=model,
            remedy="Fine-tune it (medae finetune), or score anomalies with it (medae detect --model).",
        )
    space = artifact.meta.plan.space
    inputs = find_inputs(source, output, screen, choice.format, choice.data)
    if not inputs.is_data_set and len(space.channels) != 1:
        raise DataError(
            f"The model takes the channels {', '.join(space.channels)}; plain files have one.",
            where=source,
            remedy="Lay the scans out as a data set (nnU-Net raw or BIDS) and give its folder.",
        )
    mask_of, brain = _mask_of(inputs, space, choice.brain_mask), extraction_of(space)
    tool = _Segmenter if artifact.meta.kind == "segmenter" else _Detector
    work = tool(artifact, choice.flips, choice.device)

    def predicted(scan: Scan, path: Path) -> dict[str, Any]:
        return work(scan.prepare(space, brain, mask_of(scan)), path)

    result = {"stage": "predict", "metrics": {}, "kind": artifact.meta.kind}
    return work_through(inputs, output, screen, "Predicting", predicted, result)


def _mask_of(inputs: Inputs, space: SpacePlan, brain_mask: Path | None) -> Callable[[Scan], Path | None]:
    """The brain mask that a user gives for a scan. Raises ConfigError where one cannot have an effect, or is not enough."""
    if brain_mask is None:
        return lambda scan: None
    if space.foreground != "brain":
        raise ConfigError(
            f"The model's foreground is '{space.foreground}', so a brain mask has no effect.",
            where="--brain-mask",
            remedy="Leave it out.",
        )
    if inputs.is_data_set:
        raise ConfigError(
            "A data set's masks are among its targets, so a brain mask beside it has no effect.",
            where="--brain-mask",
            remedy="Leave it out, and keep the masks in the data set, or give the folder of images itself.",
        )
    if brain_mask.is_dir():
        return lambda scan: None if scan.file is None else brain_mask / scan.file.name
    if len(inputs.scans) > 1:
        raise ConfigError(
            f"One brain mask is given for {len(inputs.scans)} scans.",
            where="--brain-mask",
            remedy="Give the folder of the masks, each with the name of its scan.",
        )
    return lambda scan: brain_mask


class _Segmenter:
    """Writes the label map; returns the volume of each label."""

    def __init__(self, artifact: Artifact, flips: bool, device: str) -> None:
        self.meta, self.device = artifact.meta, device_of(device)
        known = artifact.meta.provenance
        self.mirrored = known.get("mirrored", ()) if flips or known.get("flips") else ()
        if flips and not self.mirrored:
            raise ConfigError(
                "The model was shown no mirror images when it was trained, and would answer wrongly to them.",
                where="--flips",
                remedy="Leave it out, or fine-tune with augmentation.flip.",
            )
        self.model = artifact.model().to(self.device)

    def __call__(self, prepared: Prepared, path: Path) -> dict[str, Any]:
        labels = segment(self.model, prepared, self.meta.plan, self.device, self.mirrored)
        write_native(labels, prepared.native, path, labels=True)
        voxel_ml = prepared.native.voxel_ml
        names = {value: name for value, name in self.meta.labels.items() if value}
        return {"volume_ml": {name: int(np.count_nonzero(labels == value)) * voxel_ml for value, name in names.items()}}


class _Detector:
    """Writes heat map, flagged mask and the mask that was scored; returns the scan's score."""

    def __init__(self, artifact: Artifact, flips: bool, device: str) -> None:
        calibration = dict(artifact.meta.calibration or {})
        self.scoring = validate(Scoring, calibration.get("scoring", {}), where=artifact.folder)
        self.flips = flips or self.scoring.flips
        self.calibration = validate(
            Calibration, {key: value for key, value in calibration.items() if key != "scoring"}, where=artifact.folder
        )
        self.plan, self.device = artifact.meta.plan, device_of(device)
        self.model = artifact.model().to(self.device)
        self.map = load_map(self.scoring, len(self.plan.space.channels), artifact.statistics())

    def __call__(self, prepared: Prepared, path: Path) -> dict[str, Any]:
        maps = scan_maps(Scored(prepared, self.plan, self.model, self.device, flips=self.flips), self.map, self.scoring)
        flagged = maps.flagged(self.calibration.threshold, self.scoring)
        found = write_maps(maps, flagged, prepared, path.with_name(stem(path)))
        score = maps.score(self.scoring, self.calibration)
        return {
            "score": score,
            "percentile_among_normals": self.calibration.percentile(score),
            "threshold": self.calibration.threshold,
            "findings": [asdict(each) for each in found],
            "flagged_ml": int(flagged.sum()) * maps.voxel_ml,
            "flagged_share": float(flagged.sum() / maps.mask.sum()),
        }
