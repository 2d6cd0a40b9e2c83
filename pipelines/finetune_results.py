"""What the arms of a fine-tuning came to: their figures, their difference, and the models that are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from medae.artifact import ArtifactMeta, save_artifact
from medae.config import to_dict
from medae.data.case import Manifest
from medae.metrics.reliability import Reliability
from medae.metrics.segmentation import LabelScore, case_dice, case_means, summarise
from medae.metrics.statistics import ONE_DRAW, PairedDifference, paired_difference
from medae.preprocessing.domain import domain_of
from pipelines.baselines import ball_scores
from pipelines.data import image_digests
from pipelines.finetune_config import PRETRAINED, SCRATCH
from pipelines.finetune_members import TrainedArm, of_members, summary
from pipelines.finetune_sides import Side
from pipelines.finetune_training import Setting

BALL = "central ball"


@dataclass(frozen=True)
class Results:
    """What the scored cases say.

    part: the side that was scored. metrics: by arm, also the fixed rule's. cautions: what a mean
    hides, in words. facts: the rest; its ``sentences`` say what the differences of the arms mean.
    """

    part: Side
    metrics: dict[str, dict[str, Any]]
    cautions: list[str]
    facts: dict[str, Any]


def score_test(setting: Setting, trained: Mapping[str, TrainedArm]) -> Results:
    """Score each arm as one model, each of its members alone, and the fixed rule; log and compare them.

    Out of fold, each member is scored on its own fold alone, and what they say together is the arm's.
    """
    config, stage, sides = setting.config, setting.stage, setting.sides
    part, folded = sides.scored_as, sides.scored_as == "out-of-fold"
    models = {arm: found.model for arm, found in trained.items()}
    models |= {member.name: member.network for found in trained.values() for member in found.alone}
    models = {name: model.to(stage.device) for name, model in models.items()}
    sure: dict[str, Reliability] = {}
    folder = stage.folder / "predictions"
    if folded:
        scores = {arm: _out_of_fold(setting, one, folder, sure) for arm, one in trained.items()}
    else:
        scores = setting.score(models, sides.scored, folder, mirrored=setting.mirrored, reliability=sure)
    facts: dict[str, Any] = {"labelled_subjects": sides.labelled_subjects, "selection_subjects": config.selection}
    facts |= {"data": stage.dataset.digest[:12], "subjects": _owners(sides.scored, sides.validation)}
    facts["reliability"] = {arm: {"error": sure[arm].error(), "bins": sure[arm].rows()} for arm in trained if arm in sure}
    if config.baseline == "central_ball":
        facts["central_ball_radius_mm"], scores[BALL] = ball_scores(
            sides.training, sides.scored, config.target, setting.labels, config.tolerance
        )
    found = {name: summarise(cases) for name, cases in scores.items()}
    if (config.members > 1 or config.folds) and not folded:
        facts["members"] = {arm: of_members(one.members, found) for arm, one in trained.items()}
    steps = {
        name: member.result.steps for arm, one in trained.items() for member in one.members for name in (arm, member.name)
    }
    for name, values in found.items():
        numbers = {f"{name}/{part}/{key}": float(value) for key, value in summary(values).items() if value is not None}
        stage.tracker.metrics(numbers, steps.get(name, 0))
    differences = compare_arms({arm: found[arm] for arm in trained}, sides.scored)
    if config.folds:
        beside = stage.folder / "out-of-fold"
        facts["out_of_fold"] = {
            arm: found[arm] if folded else summarise(_out_of_fold(setting, one, beside)) for arm, one in trained.items()
        }
    if config.scored == "both":
        facts["validation"] = _validation(setting, {arm: models[arm] for arm in trained})
    facts |= {f"{one}_minus_{other}": made.model_dump() for (one, other), made in differences.items()}
    metrics = {arm: values for arm, values in found.items() if arm in trained or arm == BALL}
    cautions = (
        ["The central ball's radius was chosen on the very cases that it is scored on."] if folded and BALL in found else []
    )
    for arm in metrics:
        if missed := [label for one, label in never_found(metrics) if one == arm]:
            whose = "its Dice is 0 in every case that has it" if len(missed) == 1 else "their Dice is 0 in every case"
            cautions.append(f"{arm} never found {', '.join(missed)}: {whose}.")
    compared = [made.describe(*pair) for pair, made in differences.items()]
    known = any(made.low is not None for made in differences.values())
    facts["sentences"] = [*cautions, *compared, *([ONE_DRAW] if known else []), *_own_rates(setting, differences)]
    return Results(part, metrics, cautions, facts)


def _owners(*scored: Manifest) -> dict[str, str]:
    """Whom cases are of whose name is not their subject's."""
    return {case.id: case.subject for part in scored for case in part.cases if case.id != case.subject}


def _own_rates(setting: Setting, compared: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each pair of arms that differ in their rates too."""
    config = setting.config
    rates = {arm: config.fit_of(arm, config.fit.seed).rate for arm in config.arms()}
    return [
        f"{one} and {other} had peak rates of their own ({rates[one]:g} and {rates[other]:g}): their difference is that of "
        "both together."
        for one, other in compared
        if rates[one] != rates[other]
    ]


def never_found(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arm and label of every structure that an arm missed in all cases that have it: a mean hides it."""
    missed = []
    for arm, values in metrics.items():
        for label in values["labels"]:
            scores = [case[label] for case in values["cases"].values() if label in case]
            having = [score["dice"] for score in scores if score["volume_ml_reference"] > 0]
            if having and not any(having):
                missed.append((arm, label))
    return missed


def _out_of_fold(
    setting: Setting, arm: TrainedArm, folder: Path, sure: dict[str, Reliability] | None = None
) -> dict[str, dict[str, LabelScore]]:
    """The scores of every labelled case, each segmented by the member that has not seen its label map, by case and label."""
    scores: dict[str, dict[str, LabelScore]] = {}
    for member in arm.members:
        networks = {arm.name: member.network.to(setting.stage.device)}
        scores |= setting.score(networks, member.held, folder, mirrored=setting.mirrored, reliability=sure)[arm.name]
    return scores


def _validation(setting: Setting, models: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """The figures of the validation subjects, as the test subjects have theirs."""
    scores = setting.score(models, setting.sides.validation, setting.stage.folder / "validation", mirrored=setting.mirrored)
    return {arm: summarise(cases) for arm, cases in scores.items()}


def compare_arms(metrics: Mapping[str, Mapping[str, Any]], test: Manifest) -> dict[tuple[str, str], PairedDifference]:
    """Each arm minus each plainer one: semi-supervised, then pretrained, then scratch is the order."""
    arms = [*(arm for arm in metrics if arm not in (PRETRAINED, SCRATCH)), PRETRAINED, SCRATCH]
    pairs = combinations([arm for arm in arms if arm in metrics], 2)
    return {(a, b): found for a, b in pairs if (found := _difference(metrics[a], metrics[b], test)) is not None}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], test: Manifest) -> PairedDifference | None:
    """One arm minus another, mean Dice of each test case in which both have one."""
    a, b = case_dice(one), case_dice(other)
    both = [case for case in test.cases if case.id in a and case.id in b]
    subjects = [case.subject for case in both]
    return paired_difference([a[case.id] for case in both], [b[case.id] for case in both], subjects) if both else None


def of_record(metrics: Mapping[str, Any], test: Manifest) -> dict[str, Any]:
    """An arm's figures as its model keeps them: means with 95 % intervals over subjects, and the Dice of each label."""
    owner = {case.id: case.subject for case in test.cases}
    kept: dict[str, Any] = {}
    for name, value in summary(metrics).items():
        kept[name] = value
        values = case_means(metrics, name.removesuffix("_mean")) if name.endswith("_mean") else {}
        if values:
            found = paired_difference(list(values.values()), [0.0] * len(values), [owner[case] for case in values])
            if found.low is not None and found.high is not None:
                highest = math.inf if name.startswith("hd95") else 1.0
                kept |= {f"{name}_low": max(found.low, 0.0), f"{name}_high": min(found.high, highest)}
    return {**kept, "dice": {label: score["dice"] for label, score in metrics["labels"].items()}}


def keep(setting: Setting, arm: TrainedArm, metrics: Mapping[str, Any]) -> Path:
    """Save an arm's segmenter with what it was made from; returns its folder."""
    config, stage, sides = setting.config, setting.stage, setting.sides
    pretrained = config.arms()[arm.name]
    alone = arm.name in (PRETRAINED, SCRATCH) and config.registration is None
    shown = sides.labelled if alone else sides.trainable
    seen = set(image_digests(shown))
    facts = arm.facts() | {"labelled": sides.labelled_subjects, "pretrained": pretrained}
    if config.selection:
        facts |= {"labelled_to_train_on": sides.labelled_subjects - config.selection}
        facts |= {"chosen_by": f"{config.fit.monitor} of {config.selection} labelled subjects"}
        facts |= {"kept_step": [member.result.best_step for member in arm.members]}
    facts |= {"scored": sides.scored_as, "flips": config.flips, "mirrored": list(config.augmentation.mirrored)}
    if pretrained:
        encoder = stage.inputs["encoder"].meta
        seen |= set(encoder.seen)
        facts |= {"tuning": to_dict(config.tuning), "encoder_run": encoder.provenance.get("run_id", "")}
    meta = ArtifactMeta(
        kind="segmenter",
        network=arm.model.config,
        plan=setting.plan,
        target=config.target,
        labels=dict(setting.labels),
        provenance=stage.provenance | {"arm": arm.name, **facts},
        seen=tuple(sorted(seen)),
        domain=domain_of(setting.sides.training, setting.store, config.target),
        metrics=of_record(metrics, sides.scored),
    )
    folder = stage.folder / f"model-{arm.name}"
    save_artifact(folder, arm.model, meta)
    return folder
