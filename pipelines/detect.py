"""Stage 3: score anomalies by reconstruction error, with a threshold from normal scans alone.

    plan -> train an autoencoder on normal anatomy (or take one) -> heat maps of normal validation scans -> threshold
    -> heat map, mask and score of each test scan, in its own space, beside the plain intensity as a baseline

Labels of test subjects are used for scoring only; those of training and validation subjects only to leave lesions out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from medae.anomaly.calibration import Calibration, calibrate
from medae.anomaly.detector import ScanMaps, Scoring, intensity_maps, model_maps, reconstruct
from medae.artifact import ArtifactMeta, save_artifact
from medae.config import to_dict
from medae.data.case import Manifest
from medae.errors import ConfigError, DataError
from medae.export.nifti import write_native
from medae.metrics.anomaly import AnomalyEvaluation
from medae.objectives.registry import SEGMENTERS
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared, prepare_case
from pipelines.data import preprocess
from pipelines.detect_report import INTENSITY, MODEL, make_report
from pipelines.files import write_text
from pipelines.networks import device_of
from pipelines.pretrain import Autoencoding, train
from pipelines.segmenting import reference, with_target
from pipelines.stage import Outcome, Stage


class Config(Autoencoding):
    """The configuration of a detection.

    target: label map of the lesions. normals: what the model learns and is calibrated on: whole scans without a lesion,
    or, where only patients are at hand, their slices without one (2D). false_positive_rate: flagged share of the mask
    of normal scans that the threshold is set for. model: a trained autoencoder or detector to score with; None trains.
    """

    target: str = "label"
    normals: Literal["lesion_free_scans", "lesion_free_slices"] = "lesion_free_scans"
    scoring: Scoring = Scoring()
    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    model: str | None = None

    @model_validator(mode="after")
    def _slices(self) -> Config:
        if self.normals == "lesion_free_slices" and self.plan.placeholder().space.spatial_dims != 2:
            raise ValueError("normals: lesion_free_slices needs a plan of slices (plan.spatial_dims: 2)")
        return self


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from."""
    return {} if config.model is None else {"model": config.model}


def run(config: Config, stage: Stage) -> Outcome:
    """Train or take a model, calibrate, score."""
    dataset, split = stage.dataset, stage.dataset.split
    cohort = {
        "train": _normal(with_target(dataset.subset(split.train), config.target), config),
        "validation": _normal(with_target(dataset.subset(split.validation), config.target), config),
    }
    test = with_target(dataset.subset(split.test), config.target)
    plan, model, history = _model(config, stage, cohort)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    device = device_of(config.device)
    model.to(device).eval()

    scorer = Scorer(model, plan, config, device)
    calibrations = _calibrate(scorer, cohort["validation"], config, stage)
    evaluations = _score(scorer, test, calibrations, config, stage)

    metrics = {}
    for arm, evaluation in evaluations.items():
        summary = evaluation.summary()
        metrics[arm] = {
            **_headline(summary),
            "threshold": calibrations[arm].threshold,
            "summary": summary,
            "cases": {scan.case: _case(scan) for scan in evaluation.scans},
        }
        numbers = {f"{arm}/test/{key}": float(value) for key, value in summary.items() if value is not None}
        stage.tracker.metrics(numbers, config.fit.steps)
    folder = stage.folder / "model"
    meta = ArtifactMeta(
        kind="detector",
        network=model.config,
        plan=plan,
        target=config.target,
        calibration={"scoring": to_dict(config.scoring), **to_dict(calibrations[MODEL])},
        provenance=stage.provenance | {"normals": config.normals, "objective": config.objective.kind},
        metrics=_headline(evaluations[MODEL].summary()),
    )
    save_artifact(folder, model, meta)
    report = make_report(config.name, stage, plan, test, config.target, config.scoring, history, evaluations, calibrations)
    facts = {"normals": config.normals, "calibration": {arm: to_dict(found) for arm, found in calibrations.items()}}
    return Outcome(report, {"detector": folder}, metrics, facts)


class Scorer:
    """The maps of a scan, of the model and of the baseline, through the same filter and mask."""

    def __init__(self, model: nn.Module, plan: Plan, config: Config, device: torch.device) -> None:
        self.model, self.plan, self.config, self.device = model, plan, config, device

    def maps(self, prepared: Prepared) -> dict[str, ScanMaps]:
        """By arm."""
        made = reconstruct(self.model, prepared, self.plan, self.config.scoring, self.device)
        return {
            MODEL: model_maps(prepared, made, self.plan, self.config.scoring),
            INTENSITY: intensity_maps(prepared, self.plan, self.config.scoring),
        }


def _normal(manifest: Manifest, config: Config) -> Manifest:
    """The scans that normal anatomy is learnt from: all of them when slices are left out, else those without lesion."""
    if config.normals == "lesion_free_slices":
        return manifest
    kept = manifest.select(lambda case: not reference(manifest, case, config.target)[0].any())
    if not kept.cases:
        raise DataError(
            f"None of {len(manifest.cases)} scans is without a lesion.",
            where="normals",
            remedy="Add normal scans, or use normals: lesion_free_slices with a plan of slices.",
        )
    return kept


def _model(config: Config, stage: Stage, cohort: dict[str, Manifest]) -> tuple[Plan, Any, list[dict[str, float]]]:
    if config.model is not None:
        artifact = stage.inputs["model"]
        if artifact.meta.network.kind in SEGMENTERS:
            raise ConfigError(
                "The model is a segmenter; anomalies are scored by an autoencoder.",
                where="model",
                remedy="Give an autoencoder.",
            )
        return artifact.meta.plan, artifact.model(), []
    plan = config.plan.make(cohort["train"], stage.screen)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    excluded = config.target if config.normals == "lesion_free_slices" else None
    everyone = stage.dataset.manifest.of_subjects(case.subject for part in cohort.values() for case in part.cases)
    store = preprocess(everyone, plan.space, (config.target,), stage.screen)
    training, validation = ([case.id for case in cohort[part].cases] for part in ("train", "validation"))
    model, _, result = train(config, stage, plan, store, training, validation, excluded)
    return plan, model, result.history


def _calibrate(scorer: Scorer, normal: Manifest, config: Config, stage: Stage) -> dict[str, Calibration]:
    """A threshold an arm from the normal validation scans; memory holds one scan, the maps wait on disk."""
    slices = config.normals == "lesion_free_slices"
    with TemporaryDirectory(dir=stage.folder) as folder, stage.screen.progress("Calibrating on normal scans") as report:
        kept: list[Path] = []
        for done, case in enumerate(normal.cases, start=1):
            found = scorer.maps(prepare_case(normal, case, scorer.plan.space))
            mask = found[MODEL].mask
            if slices:
                mask = mask & lesion_free(reference(normal, case, config.target)[0], found[MODEL].slice_axis)
            if mask.any():
                kept.append(Path(folder) / str(done))
                np.save(f"{kept[-1]}.mask.npy", mask)
                for arm, maps in found.items():
                    np.save(f"{kept[-1]}.{arm}.npy", maps.heat)
            report(done, len(normal.cases))

        def stored(what: str) -> Iterator[np.ndarray]:
            return (np.load(f"{path}.{what}.npy") for path in kept)

        words = "lesion-free slices of patients" if slices else "scans without a lesion"
        phantoms = ", phantoms" if normal.phantom else ""
        return {
            arm: calibrate(
                stored(arm),
                stored("mask"),
                config.false_positive_rate,
                cohort=f"{len(kept)} validation scans of '{config.name}' ({words}{phantoms})",
                normals="lesion_free_slices" if slices else "healthy_subjects",
            )
            for arm in (MODEL, INTENSITY)
        }


def lesion_free(lesion: np.ndarray, slice_axis: int) -> np.ndarray:
    """True in the slices without a lesion voxel: bool, same shape as the label map."""
    others = tuple(axis for axis in range(lesion.ndim) if axis != slice_axis)
    clean = ~(lesion > 0).any(axis=others, keepdims=True)
    return np.broadcast_to(clean, lesion.shape)


def _score(
    scorer: Scorer, test: Manifest, calibrations: dict[str, Calibration], config: Config, stage: Stage
) -> dict[str, AnomalyEvaluation]:
    """Score the test scans. ``maps/<case>_heatmap``, ``_anomaly`` (flagged) and ``_mask`` are in the scan's own space."""
    evaluations = {arm: AnomalyEvaluation() for arm in calibrations}
    folder = stage.folder / "maps"
    folder.mkdir(exist_ok=True)
    with stage.screen.progress("Scoring test scans") as report:
        for done, case in enumerate(test.cases, start=1):
            prepared = prepare_case(test, case, scorer.plan.space)
            lesion = reference(test, case, config.target)[0] > 0
            for arm, maps in scorer.maps(prepared).items():
                flagged = maps.flagged(calibrations[arm].threshold, config.scoring)
                evaluations[arm].add(
                    case.id,
                    maps.heat,
                    flagged,
                    maps.mask,
                    lesion,
                    voxel_ml=maps.voxel_ml,
                    scan_score=maps.score(config.scoring),
                    subject=case.subject,
                    error=maps.error if arm == MODEL else None,
                )
                if arm == MODEL:
                    write_native(maps.heat, prepared.native, folder / f"{case.id}_heatmap.nii.gz", labels=False)
                    for kind, mask in (("anomaly", flagged), ("mask", maps.mask)):
                        write_native(
                            mask.astype(np.uint8), prepared.native, folder / f"{case.id}_{kind}.nii.gz", labels=True
                        )
            report(done, len(test.cases))
    return evaluations


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table, first those that a user can reach."""
    names = (
        "average_precision_pooled",
        "average_precision_mean",
        "auroc_pooled",
        "auroc_scan",
        "dice_mean",
        "dice_oracle",
        "false_positive_rate_mean",
        "lesion_recall",
        "l1_ratio",
    )
    return {**{name: summary[name] for name in names}, "n_test": summary["n_scans"]}


def _case(scan: Any) -> dict[str, Any]:
    return {
        "score": scan.score,
        "has_lesion": scan.has_lesion,
        "average_precision": scan.average_precision,
        "dice": scan.dice,
        "recall": scan.recall,
        "precision": scan.precision,
        "false_positive_rate": scan.false_positive_rate,
    }
