"""Stage 3: score anomalies by reconstruction error, with a threshold from normal scans alone.

    plan -> train an autoencoder on normal anatomy (or take one) -> heat maps of normal validation scans -> threshold
    -> heat map, mask and score of each test scan, in its own space, beside the plain intensity as a baseline

Labels of test subjects are used for scoring only; those of training and validation subjects only to leave lesions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from medae.anomaly.calibration import Calibration, calibrate
from medae.anomaly.detector import ScanMaps, Scoring, intensity_maps, model_maps, reconstruct
from medae.artifact import ArtifactMeta, save_artifact
from medae.config import to_dict
from medae.data.case import Manifest
from medae.errors import ConfigError, DataError
from medae.export.nifti import write_native
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.voxelscores import VoxelScores
from medae.models.networks import Network
from medae.plan import Plan
from medae.preprocessing.prepare import Prepared, prepare_case
from pipelines.apart import keep_apart
from pipelines.data import image_digests, preprocess, refuse_seen
from pipelines.detect_report import INTENSITY, MODEL, make_report
from pipelines.files import write_text
from pipelines.memory import estimator_of, refuse_beyond_memory
from pipelines.outcome import Outcome
from pipelines.pretrain import Autoencoding, train
from pipelines.segmenting import reference, with_target
from pipelines.stage import Stage

MapsOf = Callable[[Prepared], dict[str, ScanMaps]]


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
    keep_apart(
        {
            "training": dataset.subset(split.train),
            "validation": dataset.subset(split.validation),
            "test": dataset.subset(split.test),
        }
    )
    cohort = {
        "train": _normal(with_target(dataset.subset(split.train), config.target), config),
        "validation": _normal(with_target(dataset.subset(split.validation), config.target), config),
    }
    test = with_target(dataset.subset(split.test), config.target)
    stage.uses("validation", cohort["validation"])
    stage.uses("testing", test)
    plan, model, objective, history = _model(config, stage, cohort)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    model.to(stage.device).eval()
    steps = int(history[-1]["step"]) if history else 0

    def maps(prepared: Prepared) -> dict[str, ScanMaps]:
        """The maps of the model and of the baseline, through the same filter and mask."""
        made = reconstruct(model, prepared, plan, config.scoring, stage.device)
        return {
            MODEL: model_maps(prepared, made, plan, config.scoring),
            INTENSITY: intensity_maps(prepared, plan, config.scoring),
        }

    calibrations = _calibrate(maps, plan, cohort["validation"], config, stage)
    evaluations, unfiltered = _score(maps, plan, test, calibrations, config, stage)

    metrics = {}
    for arm, evaluation in evaluations.items():
        summary = evaluation.summary()
        metrics[arm] = {
            **_headline(summary),
            "average_precision_unfiltered": unfiltered[arm].average_precision(),
            "threshold": calibrations[arm].threshold,
            "summary": summary,
            "cases": {scan.case: _case(scan) for scan in evaluation.scans},
        }
        numbers = {f"{arm}/test/{key}": float(value) for key, value in summary.items() if value is not None}
        stage.tracker.metrics(numbers, steps)
    folder = stage.folder / "model"
    meta = ArtifactMeta(
        kind="detector",
        network=model.config,
        plan=plan,
        target=config.target,
        calibration={"scoring": to_dict(config.scoring), **to_dict(calibrations[MODEL])},
        provenance=stage.provenance | {"normals": config.normals, **objective},
        seen=_seen(config, stage, cohort),
        metrics=_headline(evaluations[MODEL].summary()),
    )
    save_artifact(folder, model, meta)
    scored = (evaluations, unfiltered, calibrations)
    report = make_report(config.name, stage, plan, test, config.target, config.scoring, history, *scored)
    facts = {"normals": config.normals, "calibration": {arm: to_dict(found) for arm, found in calibrations.items()}}
    return Outcome(report, {"detector": folder}, metrics, facts)


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


def _model(
    config: Config, stage: Stage, cohort: dict[str, Manifest]
) -> tuple[Plan, Network, dict[str, Any], list[dict[str, float]]]:
    """Plan, model, where it comes from, and the history of its training: taken if one is given, else trained."""
    if config.model is not None:
        artifact = stage.inputs["model"]
        if artifact.meta.kind == "segmenter":
            raise ConfigError(
                "The model is a segmenter; anomalies are scored by an autoencoder.",
                where="model",
                remedy="Give an autoencoder.",
            )
        refuse_seen(stage.dataset.subset(stage.dataset.split.test), artifact, "model", "test")
        if artifact.meta.kind == "autoencoder":  # a detector's own calibration scans are among those that it has seen
            refuse_seen(cohort["validation"], artifact, "model", "calibration")
        stage.screen.note(
            "The model is taken as it is: the configuration's plan, network, objective and fit have no effect."
        )
        source = artifact.meta.provenance
        origin = {"objective": source.get("objective", "not recorded"), "model_run": source.get("run_id", "")}
        return artifact.meta.plan, artifact.model(), origin, []
    stage.uses("training", cohort["train"])
    estimator = estimator_of(config.network, config.objective, config.fit, config.augmentation)
    plan = config.plan.make(cohort["train"], stage.screen, estimator)
    config.check_network(plan)
    refuse_beyond_memory(plan, estimator, stage.device)
    excluded = config.target if config.normals == "lesion_free_slices" else None
    everyone = stage.dataset.manifest.select(
        lambda case: any(case.id == kept.id for part in cohort.values() for kept in part.cases)
    )
    store = preprocess(everyone, plan.space, (config.target,), stage.screen, config.workers)
    training, validation = ([case.id for case in cohort[part].cases] for part in ("train", "validation"))
    model, _, result = train(config, stage, plan, store, training, validation, excluded)
    return plan, model, {"objective": config.objective.kind}, result.history


def _seen(config: Config, stage: Stage, cohort: dict[str, Manifest]) -> tuple[str, ...]:
    """Digests of the images that the weights and the threshold were made with."""
    training = stage.inputs["model"].meta.seen if config.model is not None else image_digests(cohort["train"])
    return tuple(sorted({*training, *image_digests(cohort["validation"])}))


def _calibrate(maps: MapsOf, plan: Plan, normal: Manifest, config: Config, stage: Stage) -> dict[str, Calibration]:
    """A threshold an arm from the normal validation scans; memory holds one scan, the maps wait on disk."""
    slices = config.normals == "lesion_free_slices"
    with TemporaryDirectory(dir=stage.folder) as folder, stage.screen.progress("Calibrating on normal scans") as report:
        kept: list[Path] = []
        subjects: list[str] = []
        for done, case in enumerate(normal.cases, start=1):
            found = maps(prepare_case(normal, case, plan.space))
            mask = found[MODEL].mask
            if slices:
                mask = mask & lesion_free(reference(normal, case, config.target)[0], found[MODEL].slice_axis)
            if mask.any():
                kept.append(Path(folder) / str(done))
                subjects.append(case.subject)
                np.save(f"{kept[-1]}.mask.npy", mask)
                for arm, own in found.items():
                    np.save(f"{kept[-1]}.{arm}.npy", own.heat)
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
                normals=config.normals,
                subjects=subjects,
            )
            for arm in (MODEL, INTENSITY)
        }


def lesion_free(lesion: np.ndarray, slice_axis: int) -> np.ndarray:
    """True in the slices without a lesion voxel: bool, same shape as the label map."""
    others = tuple(axis for axis in range(lesion.ndim) if axis != slice_axis)
    clean = ~(lesion > 0).any(axis=others, keepdims=True)
    return np.broadcast_to(clean, lesion.shape)


def _score(
    maps: MapsOf, plan: Plan, test: Manifest, calibrations: dict[str, Calibration], config: Config, stage: Stage
) -> tuple[dict[str, AnomalyEvaluation], dict[str, VoxelScores]]:
    """Score the test scans, filtered and not. ``maps/<case>_heatmap``, ``_anomaly`` (flagged) and ``_mask`` are written."""
    evaluations = {arm: AnomalyEvaluation() for arm in calibrations}
    unfiltered = {arm: VoxelScores() for arm in calibrations}
    (stage.folder / "maps").mkdir(exist_ok=True)
    with stage.screen.progress("Scoring test scans") as report:
        for done, case in enumerate(test.cases, start=1):
            prepared = prepare_case(test, case, plan.space)
            lesion = reference(test, case, config.target)[0] > 0
            for arm, own in maps(prepared).items():
                flagged = own.flagged(calibrations[arm].threshold, config.scoring)
                unfiltered[arm].add(own.raw, own.mask, lesion)
                evaluations[arm].add(
                    case.id,
                    own.heat,
                    flagged,
                    own.mask,
                    lesion,
                    voxel_ml=own.voxel_ml,
                    scan_score=own.score(config.scoring),
                    subject=case.subject,
                    error=own.error if arm == MODEL else None,
                )
                if arm == MODEL:
                    write_maps(own, flagged, prepared, stage.folder / "maps" / case.id)
            report(done, len(test.cases))
    return evaluations, unfiltered


def write_maps(maps: ScanMaps, flagged: np.ndarray, prepared: Prepared, base: Path) -> None:
    """Write ``<base>_heatmap``, ``_anomaly`` and ``_mask`` as NIfTI in the scan's own space."""
    write_native(maps.heat, prepared.native, base.with_name(f"{base.name}_heatmap.nii.gz"), labels=False)
    for kind, mask in (("anomaly", flagged), ("mask", maps.mask)):
        write_native(mask.astype(np.uint8), prepared.native, base.with_name(f"{base.name}_{kind}.nii.gz"), labels=True)


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
