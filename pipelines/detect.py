"""Stage 3: score anomalies by reconstruction error, with a threshold from normal scans alone.

    plan -> train an autoencoder on normal anatomy (or take one) -> what maps learn from normal training scans
    -> heat maps of normal validation scans -> threshold
    -> heat map, mask and score of each test scan, in its own space, beside the baselines

Labels of test subjects are used for scoring only; those of training and validation subjects only to leave lesions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import DETECTOR, Rows
from medae.anomaly.diagnosis import DiagnosisConfig
from medae.anomaly.maps.base import AnomalyMap
from medae.anomaly.maps.registry import learns
from medae.artifact import ArtifactMeta, save_artifact
from medae.config import to_dict
from medae.data.case import Manifest
from medae.errors import ConfigError, DataError
from medae.metrics.anomaly import AnomalyEvaluation
from medae.metrics.evaluations import save_evaluation
from medae.models.ensemble import AutoencoderEnsemble, AutoencoderEnsembleConfig
from medae.models.networks import Network, StoredConfig
from medae.plan import Plan
from medae.preprocessing.domain import Domain, domain_of
from medae.preprocessing.store import Store
from medae.report.html import Report
from pipelines.data import image_digests, preprocess, refuse_idle_masks, refuse_learnt, refuse_seen
from pipelines.detect_checks import name_empty, that_count
from pipelines.detect_config import Config
from pipelines.detect_diagnosis import check_lesions, describe_failed, run_diagnosis
from pipelines.detect_diagnosis import describe as describe_diagnosis
from pipelines.detect_diagnosis import facts as diagnosis_facts
from pipelines.detect_given import check_given, describe_unlike, given_in_words, origin_of, unlike
from pipelines.detect_masks import describe as describe_masks
from pipelines.detect_masks import doubts_of
from pipelines.detect_masks import facts as mask_facts
from pipelines.detect_report import make_report, verdict
from pipelines.detect_results import evaluation_file, row_metrics, with_intervals
from pipelines.detect_scoring import Scorer
from pipelines.detect_scratch import check_disk, scratch
from pipelines.detect_sides import enough_to_learn_scores, sides
from pipelines.detect_strata import strata
from pipelines.files import write_text
from pipelines.members import member_names, member_seeds
from pipelines.memory import estimator_of, refuse_beyond_memory
from pipelines.outcome import Outcome
from pipelines.pretrain import train
from pipelines.stage import Stage


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from."""
    found = {} if config.model is None else {"model": config.model}
    return found | {f"features {number}": address for number, address in enumerate(config.scoring.features(), start=1)}


def run(config: Config, stage: Stage) -> Outcome:
    """Train or take a model, calibrate, score."""
    if config.folds is not None and config.fold is None:
        raise ConfigError(
            "The configuration asks for folds, and a stage is one of them.",
            where="folds",
            remedy="Run all folds with medae detect, or name one (fold).",
        )
    _refuse_seen_by_features(stage)
    cohort, test, examined = sides(config, stage.dataset)
    stage.uses("training", cohort["train"])
    stage.uses("validation", cohort["validation"])
    stage.uses("testing", test)
    plan, store, model, origin, histories = _model(config, stage, cohort, test, examined)
    remarks = _remarks(stage, (*cohort.values(), test), store)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    model.to(stage.device).eval()
    steps = int(histories[0][-1]["step"]) if histories else 0
    maps = _maps(config, plan, cohort["train"], stage)
    with scratch(stage.folder) as place:
        rows = Rows(maps, config.scoring, model, plan, stage.device, origin["mirrored"])
        scorer = Scorer(rows, store, config.target, config.normals, stage.folder, place, stage.screen)
        scorer.learn(cohort["train"], cohort["validation"])
        calibrations = scorer.calibrate(cohort["validation"], config.false_positive_rate, config.name)
        evaluations, unfiltered = scorer.score(test, calibrations)

    metrics = _kept(stage, evaluations, unfiltered, calibrations, steps)
    folder = stage.folder / "model"
    seen, calibrated = _seen(stage, cohort)
    meta = ArtifactMeta(
        kind="detector",
        network=model.config,
        plan=plan,
        target=config.target,
        calibration={"scoring": to_dict(config.scoring.stored(maps[DETECTOR])), **to_dict(calibrations[DETECTOR])},
        provenance=stage.provenance | {"normals": config.normals, **origin},
        seen=seen,
        calibrated=calibrated,
        domain=_domain(stage, cohort, store),
        metrics=with_intervals(evaluations[DETECTOR]),
    )
    save_artifact(folder, model, meta, maps[DETECTOR].state_dict())
    scored = (evaluations, unfiltered, calibrations)
    given = "" if config.model is None else given_in_words(origin, config.normals, model.config.encoder.norm)
    groups = strata(test, evaluations[DETECTOR])
    report = make_report(
        config.name, stage, plan, test, config.target, config.scoring, histories, *scored, groups, given, config.registered
    )
    facts: dict[str, Any] = {"normals": config.normals, "learnt_from": origin["learnt_from"]}
    facts["sentences"] = [verdict(evaluations)]
    facts |= {key: origin[key] for key in ("members", "seeds") if key in origin}
    facts["calibration"] = {row: to_dict(found) for row, found in calibrations.items()}
    if groups:
        facts["groups"] = [asdict(group) for group in groups]
    if remarks:
        describe_unlike(report, remarks)
        facts["remarks"] = remarks
    doubts = doubts_of(test, store, stage.folder / "maps")
    if doubts:
        describe_masks(report, doubts)
        facts["doubtful_masks"] = mask_facts(doubts)
    if config.diagnosis is not None and examined is not None:
        facts |= _diagnosis(config.diagnosis, stage, report, examined, rows, _left_out(config))
    return Outcome(report, {"detector": folder}, metrics, facts)


def _kept(
    stage: Stage,
    evaluations: Mapping[str, AnomalyEvaluation],
    unfiltered: Mapping[str, AnomalyEvaluation],
    calibrations: Mapping[str, Calibration],
    steps: int,
) -> dict[str, Any]:
    """Write the evaluations and log their figures; what ``result.json`` says of each row."""
    for kind, rows_of in (("filtered", evaluations), ("unfiltered", unfiltered)):
        (stage.folder / "evaluations").mkdir(exist_ok=True)
        for row, evaluation in rows_of.items():
            save_evaluation(evaluation, evaluation_file(stage.folder, kind, row))
    metrics = {}
    for row, evaluation in evaluations.items():
        metrics[row] = row_metrics(evaluation, unfiltered[row]) | {"threshold": calibrations[row].threshold}
        numbers = {f"{row}/test/{key}": float(v) for key, v in metrics[row]["summary"].items() if v is not None}
        stage.tracker.metrics(numbers, steps)
    return metrics


def _diagnosis(
    config: DiagnosisConfig, stage: Stage, report: Report, examined: Manifest, rows: Rows, left_out: str | None
) -> dict[str, Any]:
    """Diagnose, and put it into the report; what ``result.json`` says of it. A failure costs the diagnosis alone."""
    try:
        found = run_diagnosis(examined, rows, config, left_out, stage.screen)
    except DataError as error:
        said = describe_failed(report, error)
        stage.screen.warn(said)
        return {"diagnosis_failed": said}
    describe_diagnosis(report, stage.figure("diagnosis"), found, config)
    return {"diagnosis": diagnosis_facts(found)}


def _left_out(config: Config) -> str | None:
    """The label map whose slices are left out; None where whole scans are normal."""
    return config.target if config.normals == "lesion_free_slices" else None


def _refuse_seen_by_features(stage: Stage) -> None:
    """Encoders that compare are trained, too: they have seen no test scan, and learnt from no calibration scan."""
    dataset = stage.dataset
    for name, artifact in stage.inputs.items():
        if name != "model":
            refuse_seen(dataset.subset(dataset.split.test), artifact, name, "test")
            refuse_learnt(dataset.subset(dataset.split.validation), artifact, name)


def _maps(config: Config, plan: Plan, training: Manifest, stage: Stage) -> dict[str, AnomalyMap]:
    """The maps of all rows. Without training scans those that would learn from them are left out, and that is said."""
    maps = config.scoring.build(len(plan.space.channels))
    if training.cases:
        return maps
    idle = [row for row, each in maps.items() if learns(each)]
    if DETECTOR in idle:
        raise ConfigError(
            "The detector's map learns from normal training scans, and the split has none.",
            where="scoring.map",
            remedy="Give training subjects, or a map without place.",
        )
    stage.screen.note(f"Without training scans there is nothing to learn for: {', '.join(idle)}.")
    return {row: each for row, each in maps.items() if row not in idle}


def _model(
    config: Config, stage: Stage, cohort: dict[str, Manifest], test: Manifest, examined: Manifest | None
) -> tuple[Plan, Store, Network, dict[str, Any], list[list[dict[str, float]]]]:
    """Plan, prepared scans, model, where it comes from, and the histories of its trainings: given, else trained.

    examined: the scans of a diagnosis, which are looked at before a training.
    """
    everyone = _together(stage, (*cohort.values(), test))

    def prepared(plan: Plan, network: StoredConfig) -> Store:
        refuse_idle_masks(config, plan.space)
        targets = () if config.target is None else (config.target,)
        store = preprocess(everyone, plan.space, targets, stage.screen, config.workers)
        filters, left_out = config.scoring.postprocessing, _left_out(config)
        normal = that_count(cohort["validation"], store, plan, filters, left_out, stage.screen)
        enough_to_learn_scores(normal, config)
        name_empty(test, store, plan, filters, stage.screen)
        check_disk(stage.folder, {**cohort, "test": test}, store, config.scoring, network, stage.screen)
        if config.diagnosis is not None and examined is not None:
            check_lesions(examined, plan.space, filters.reach, config.diagnosis, left_out, stage.screen)
        return store

    if config.model is not None:
        artifact = stage.inputs["model"]
        check_given(artifact, config.scoring, config.normals)
        refuse_seen(stage.dataset.subset(stage.dataset.split.test), artifact, "model", "test")
        refuse_learnt(cohort["validation"], artifact, "model")
        stage.screen.note(
            "The model is taken as it is: the configuration's plan, network, objective and fit have no effect."
        )
        plan, store = artifact.meta.plan, prepared(artifact.meta.plan, artifact.meta.network)
        return plan, store, artifact.model(), origin_of(artifact), []
    estimator = estimator_of(config.network, config.objective, config.fit, config.augmentation)
    plan = config.plan.make(cohort["train"], stage.screen, estimator, (config.target or "",))
    config.check_network(plan)
    config.scoring.check_features(plan.space)
    refuse_beyond_memory(plan, estimator, stage.device)
    store = prepared(plan, config.scored(plan))
    model, histories = _trained(config, stage, plan, store, cohort)
    origin: dict[str, Any] = {"learnt_from": config.normals, "objective": config.objective.kind}
    origin["mirrored"] = list(config.augmentation.mirrored)
    if config.members > 1:
        origin |= {"members": config.members, "seeds": list(member_seeds(config.fit.seed, config.members))}
    return plan, store, model, origin, histories


def _trained(
    config: Config, stage: Stage, plan: Plan, store: Store, cohort: Mapping[str, Manifest]
) -> tuple[Network, list[list[dict[str, float]]]]:
    """The network, or the ensemble of its members, with the history of each training."""
    training, validation = ([case.id for case in cohort[part].cases] for part in ("train", "validation"))
    names = member_names("", config.members)
    members, histories = [], []
    for name, seed in zip(names, member_seeds(config.fit.seed, config.members), strict=True):
        own = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
        model, _, result = train(own, stage, plan, store, training, validation, _left_out(config), member=name)
        members.append(model)
        histories.append(result.history)
    shape = config.scored(plan)
    return (AutoencoderEnsemble(shape, members) if isinstance(shape, AutoencoderEnsembleConfig) else members[0]), histories


def _together(stage: Stage, parts: Iterable[Manifest]) -> Manifest:
    """The scans of some parts of the data set as one."""
    used = {case.id for part in parts for case in part.cases}
    return stage.dataset.manifest.select(lambda case: case.id in used)


def _remarks(stage: Stage, parts: Iterable[Manifest], store: Store) -> dict[str, list[str]]:
    """By case, how scans differ from those that a given model was trained on. Raises DataError, see ``unlike``."""
    if "model" not in stage.inputs:
        return {}
    return unlike(_together(stage, parts), stage.inputs["model"], lambda case: store[case.id].prepared(), stage.screen)


def _domain(stage: Stage, cohort: Mapping[str, Manifest], store: Store) -> Domain:
    """Of the scans that the model was trained on, as far as they are known; else of those that it is calibrated on."""
    if "model" in stage.inputs:
        return stage.inputs["model"].meta.domain or domain_of(cohort["validation"], store)
    return domain_of(cohort["train"], store)


def _seen(stage: Stage, cohort: dict[str, Manifest]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Digests of the images that the detector was made with, and of those among them that only thresholds were set with."""
    before = [artifact.meta for artifact in stage.inputs.values()]
    learnt = {*image_digests(cohort["train"]), *(digest for meta in before for digest in meta.learnt)}
    seen = {*learnt, *image_digests(cohort["validation"]), *(digest for meta in before for digest in meta.seen)}
    return tuple(sorted(seen)), tuple(sorted(seen - learnt))
