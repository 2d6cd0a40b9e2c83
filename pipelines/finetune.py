"""Stage 2: transfer a pretrained encoder to a segmenter and fine-tune it on few labels, beside its scratch twin.

    encoder -> plan -> labelled subset -> for each arm: network, transfer, train -> score the test subjects -> compare

Both arms have the same labelled cases, plan, initial decoder, batches and steps; only the encoder's first weights differ,
and how the rate is spread over steps and weights (``tuning``, ``rates``). With ``unlabelled`` there is one arm more, which
also learns from unlabelled scans. Test subjects are read after training only, in their own space. An arm of several members
is trained from as many seeds and is one model afterwards.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.augmentation.streams import augment_streams
from medae.config import Config as BaseConfig
from medae.config import to_dict
from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.metrics.segmentation import summarise
from medae.models.networks import Network
from medae.objectives.base import Objective
from medae.objectives.joint import UNLABELLED
from medae.objectives.registry import SEGMENTERS, build_objective
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from medae.preprocessing.streams import Streams
from medae.tracking.base import Arm
from medae.training.config import FitConfig
from medae.training.finetuning import Together, TuningConfig
from medae.training.loop import FitResult, fit
from medae.training.run import Augment
from medae.training.source import BatchSource
from medae.transfer import TransferConfig, TransferReport, transfer
from pipelines.augmenting import show_augmentation
from pipelines.baselines import ball_scores
from pipelines.data import preprocess
from pipelines.files import write_text
from pipelines.finetune_members import Member, facts_of, member_names, member_seeds, of_members, to_score
from pipelines.finetune_report import make_report, training_of
from pipelines.finetune_results import PRETRAINED, SCRATCH, compare_arms, keep, summary
from pipelines.finetune_sides import take_sides
from pipelines.memory import estimator_of
from pipelines.networks import NetworkChoice, network_config, seeded_network
from pipelines.outcome import Outcome
from pipelines.plan import PlanChoice
from pipelines.probe import warn_of_more_labels
from pipelines.segmenting import label_names, refuse_mirrored_sides, score_arms
from pipelines.stage import Stage, StageConfig
from pipelines.training import Drawing, identity
from pipelines.unlabelled import Unlabelled, UnlabelledConfig, check_unlabelled, describe, open_unlabelled

BALL = "central ball"


class Rates(BaseConfig):
    """An arm's own peak learning rate; null is ``fit.rate``. pretrained, scratch: of that arm."""

    pretrained: float | None = Field(default=None, gt=0)
    scratch: float | None = Field(default=None, gt=0)


class Config(StageConfig):
    """The configuration of a fine-tuning.

    target: the label map to learn. labelled: so many labelled training subjects (None: all), the first in the salt's
    order, so that a smaller number is contained in a larger one. labelled_salt: of that order; another one is another
    draw from the same training subjects; None takes the split's. selection: so many of these are not trained on but
    choose the weights, by ``fit.monitor`` (``dice_mean``). encoder: the pretrained model; None trains from scratch only.
    scratch: whether the twin without it is trained too. tuning: how the pretrained arm's weights share its rate, step by
    step; the scratch arm trains all of them alike. rates: an arm's own peak. members: so many networks an arm, from other
    seeds (decoder at the start, batches, augmentation), averaged. unlabelled: one arm more, begun and tuned like the
    pretrained one (without an encoder, like scratch), that also learns from the images of all training subjects; null for
    none. flips: average predictions over mirrored inputs, not along left-right if labels have sides. tolerance: mm, of the
    surface Dice. baseline: a fixed rule to compare with.
    """

    target: str = "label"
    labelled: int | None = Field(default=None, ge=1)
    labelled_salt: str | None = None
    selection: int = Field(default=0, ge=0)
    encoder: str | None = None
    scratch: bool = True
    tuning: TuningConfig = Together()
    rates: Rates = Rates()
    members: int = Field(default=1, ge=1)
    transfer: TransferConfig = TransferConfig()
    plan: PlanChoice = PlanChoice()
    network: NetworkChoice = Field(default_factory=lambda: {"kind": "unet"})
    objective: SegmentationConfig = SegmentationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    drawing: Drawing = Drawing()
    fit: FitConfig
    unlabelled: UnlabelledConfig | None = None
    flips: bool = False
    tolerance: float = Field(default=1.0, gt=0)
    baseline: Literal["none", "central_ball"] = "none"

    @field_validator("encoder")
    @classmethod
    def _none(cls, encoder: str | None) -> str | None:
        return None if encoder == "none" else encoder

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.network.get("kind") not in SEGMENTERS:
            raise ValueError(f"network.kind must be a segmenter: {', '.join(SEGMENTERS)}")
        if self.encoder is None and not self.scratch:
            raise ValueError("there is nothing to train: give an encoder, or scratch: true")
        if (self.fit.monitor is not None) != (self.selection > 0):
            raise ValueError(
                "selection (cases that choose) and fit.monitor (the metric that they choose by) need each other"
            )
        if self.labelled is not None and self.selection >= self.labelled:
            raise ValueError("selection takes its cases from the labelled ones: at least one must be left to train on")
        if self.tuning.kind == "decoder_first" and self.tuning.factor(1, self.fit.steps - 1, self.fit.steps) == 0:
            raise ValueError(
                "tuning.lasts leaves the encoder no step of fit.steps: make it shorter, or say tuning.kind: frozen"
            )
        if self.tuning.kind == "frozen" and self.encoder and self.unlabelled is not None and self.unlabelled.kind == "joint":
            raise ValueError(
                "unlabelled.kind: joint teaches the encoder, and tuning.kind: frozen keeps it still: only the branch that "
                "is thrown away would learn. Choose another tuning, or unlabelled.kind: mean_teacher"
            )
        if self.objective.target not in ("label", self.target):
            raise ValueError("objective.target is set by target: leave it out")
        try:
            network = network_config(self.network, self.plan.placeholder(), classes=2)
            if self.unlabelled is not None:
                check_unlabelled(self.unlabelled, network, self.fit)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def arms(self) -> dict[str, bool]:
        """The arms, each with whether it begins with the pretrained encoder; the semi-supervised one begins as its twin."""
        arms = {PRETRAINED: True} if self.encoder else {}
        if self.scratch:
            arms[SCRATCH] = False
        if self.unlabelled is not None:
            if not self.unlabelled.twin:
                arms.pop(PRETRAINED if self.encoder else SCRATCH)
            arms[self.unlabelled.kind] = self.encoder is not None
        return arms

    def fit_of(self, arm: str, seed: int) -> FitConfig:
        """The training of one member of an arm."""
        rate = self.rates.pretrained if self.arms()[arm] else self.rates.scratch
        return self.fit.model_copy(update={"seed": seed, "rate": rate or self.fit.rate})

    def tuning_of(self, arm: str) -> TuningConfig | None:
        """How an arm is tuned; None trains all weights alike."""
        return self.tuning if self.arms()[arm] else None

    def without_effect(self) -> list[str]:
        """Keys that say something about an arm that is not trained."""
        begins = self.arms().values()
        keys = ["rates.pretrained"] if self.rates.pretrained is not None and True not in begins else []
        keys += ["rates.scratch"] if self.rates.scratch is not None and False not in begins else []
        return keys + (["tuning"] if self.tuning != Together() and True not in begins else [])

    def decisive(self) -> dict[str, Any]:
        """Without what changes the speed only; a plan file counts by what it says."""
        return super().decisive() | {"plan": self.plan.decisive(), "fit": self.fit.decisive() | {"steps": self.fit.steps}}


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from."""
    return {} if config.encoder is None else {"encoder": config.encoder}


def run(config: Config, stage: Stage) -> Outcome:
    """Fine-tune each arm and compare them on the test subjects."""
    salt = config.split.order_salt() if config.labelled_salt is None else config.labelled_salt
    sides = take_sides(
        stage, config.target, config.labelled, salt, config.selection, unlabelled=config.unlabelled is not None
    )
    labelled, training, selection, test = sides.labelled, sides.training, sides.selection, sides.test
    _say_of_the_arms(config, stage, labelled)
    labels = label_names(labelled, config.target)
    plan = _plan(config, stage, labelled, len(labels))
    refuse_mirrored_sides(config.augmentation.flip, plan, labels)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    store = preprocess(labelled, plan.space, (config.target,), stage.screen, config.workers)

    stage.uses("training", training)
    stage.uses("validation", selection)
    stage.uses("testing", test)

    trained: dict[str, list[Member]] = {}
    moved: TransferReport | None = None
    beside = None if config.unlabelled is None else open_unlabelled(config.unlabelled, config, stage, sides.unlabelled, plan)
    for arm, pretrained in config.arms().items():
        trained[arm] = []
        for name, seed in zip(member_names(arm, config.members), member_seeds(config.fit.seed, config.members), strict=True):
            network = seeded_network(network_config(config.network, plan, classes=len(labels)), seed)
            if pretrained:
                moved = _transfer(config, stage, plan, network, known=moved)
            second = beside if beside is not None and arm == beside.config.kind else None
            result = _train(config, stage, plan, store, training, selection, network, labels, arm, name, seed, second)
            trained[arm].append(Member(name, seed, network, result))

    models = to_score(trained)
    scores = score_arms(
        {name: network.to(stage.device) for name, network in models.items()},
        test,
        config.target,
        labels,
        plan,
        stage.device,
        flips=config.flips,
        tolerance=config.tolerance,
        folder=stage.folder / "predictions",
        screen=stage.screen,
    )
    facts: dict[str, Any] = {"labelled_subjects": sides.labelled_subjects, "selection_subjects": config.selection}
    if config.baseline == "central_ball":
        facts["central_ball_radius_mm"], scores[BALL] = ball_scores(training, test, config.target, labels, config.tolerance)
    found = {name: summarise(cases) for name, cases in scores.items()}
    metrics = {arm: values for arm, values in found.items() if arm in trained or arm == BALL}
    if config.members > 1:
        facts["members"] = {arm: of_members(members, found) for arm, members in trained.items()}
    steps = {
        name: member.result.steps for arm, members in trained.items() for member in members for name in (arm, member.name)
    }
    for name, values in found.items():
        numbers = {f"{name}/test/{key}": float(value) for key, value in summary(values).items() if value is not None}
        stage.tracker.metrics(numbers, steps.get(name, 0))
    differences = compare_arms({arm: metrics[arm] for arm in trained}, test)
    facts |= {f"{one}_minus_{other}": found.model_dump() for (one, other), found in differences.items()}

    folders = {}
    for arm, members in trained.items():
        made = facts_of(members) | {"labelled": config.labelled, "flips": config.flips}
        made |= {"pretrained": config.arms()[arm]}
        made |= {"tuning": to_dict(config.tuning)} if made["pretrained"] else {}
        shown = labelled if arm in (PRETRAINED, SCRATCH) else sides.trainable
        folders[arm] = keep(stage, plan, config.target, labels, shown, arm, models[arm], made, metrics[arm])
    trainings = {arm: training_of(config.fit_of(arm, 0), config.tuning_of(arm), members) for arm, members in trained.items()}
    report = make_report(
        config.name, stage, plan, test, config.target, labels, metrics, facts, differences, moved, trainings
    )
    if beside is not None:
        describe(report, stage, beside, config.objective, trained[beside.config.kind][0], plan, labels)
    cases, drawing = [case.id for case in training.cases], config.drawing.sampler(plan)
    show_augmentation(
        report, stage, config.augmentation, plan, store, cases, drawing, config.fit.seed, labels, config.target
    )
    return Outcome(report, folders, metrics, facts)


def _say_of_the_arms(config: Config, stage: Stage, labelled: Manifest) -> None:
    """What a user should know before the arms are trained."""
    if keys := config.without_effect():
        stage.screen.note(f"Without effect, since the arm that they are for is not trained: {', '.join(keys)}.")
    if config.encoder is not None:
        warn_of_more_labels(stage.inputs["encoder"], labelled, stage.screen)


def _plan(config: Config, stage: Stage, labelled: Manifest, classes: int) -> Plan:
    """The pretrained encoder's space and network with sampling for this data; without an encoder, a plan of its own."""
    beside = None if config.unlabelled is None else config.unlabelled.samples
    estimator = estimator_of(config.network, config.objective, config.fit, config.augmentation, classes, beside)
    if config.encoder is None:
        return config.plan.make(labelled, stage.screen, estimator)
    return config.plan.around(stage.inputs["encoder"].meta.plan, labelled, stage.screen, estimator)


def _transfer(config: Config, stage: Stage, plan: Plan, network: Network, known: TransferReport | None) -> TransferReport:
    """Move the pretrained weights; the report, written and shown once, because those of all members are alike."""
    moved = transfer(stage.inputs["encoder"], network, plan.space, config.transfer)
    if known is None:
        write_text(stage.folder / "transfer.json", moved.to_json())
        stage.screen.notes.print(moved.table())
    return moved


def _train(
    config: Config,
    stage: Stage,
    plan: Plan,
    store: Store,
    training: Manifest,
    selection: Manifest,
    network: Network,
    labels: dict[int, str],
    arm: str,
    name: str,
    seed: int,
    beside: Unlabelled | None,
) -> FitResult:
    """Train one member of an arm; the same member of every arm draws the same labelled batches. name: of its folder."""
    goal = config.objective.model_copy(update={"target": config.target})
    objective: Objective = build_objective(goal, network.config)
    augmentation = Augmentation.of_plan(config.augmentation, plan)
    augment: Augment = augmentation
    cases = [case.id for case in training.cases]
    drawn = PatchSampler(
        store, cases, plan.space, config.drawing.sampler(plan), seed, target=config.target, margin=augmentation.margin
    )
    source: BatchSource = drawn
    if beside is not None:
        objective, augment = beside.objective(objective, network, seed), augment_streams(augment)
        source = Streams(drawn, {UNLABELLED: beside.sampler(seed, augmentation.margin)})

    def choose(model: Any) -> dict[str, float]:
        """Scores on the labelled cases that are kept for choosing the weights."""
        found = score_arms(
            {name: model},
            selection,
            config.target,
            labels,
            plan,
            stage.device,
            flips=False,
            tolerance=config.tolerance,
            folder=stage.folder / "selection",
            screen=stage.screen,
        )
        return {"dice_mean": summarise(found[name])["dice_mean"] or 0.0}

    return fit(
        network,
        objective,
        source,
        config.fit_of(arm, seed),
        folder=stage.folder / name,
        tracker=Arm(stage.tracker, name),
        augment=augment,
        validate=choose if selection.cases else None,
        tuning=config.tuning_of(arm),
        identity=identity(stage.fingerprint, name),
        resume=stage.resume,
        cpu=stage.device.type == "cpu",
        name=f"{config.name} {name}",
        console=stage.screen.notes,
    )
