"""Stage 2: transfer a pretrained encoder to a segmenter and fine-tune it on few labels, beside its scratch twin.

    encoder -> plan -> labelled subset -> for each arm: network, transfer, train -> score the test subjects -> compare

Both arms have the same labelled cases, plan, initial decoder, batches and steps; only the encoder's first weights (and
``encoder_rate``) differ. Test subjects are read after training only, in their own space.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.data.case import Manifest
from medae.data.split import labelled_subset
from medae.errors import ConfigError
from medae.metrics.segmentation import summarise
from medae.models.networks import Network
from medae.objectives.registry import SEGMENTERS, build_objective
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from medae.tracking.base import Arm
from medae.training.config import FitConfig
from medae.training.loop import FitResult, fit
from medae.transfer import TransferConfig, TransferReport, transfer
from pipelines.baselines import ball_scores
from pipelines.data import preprocess, refuse_seen
from pipelines.files import write_text
from pipelines.finetune_report import make_report
from pipelines.finetune_results import PRETRAINED, SCRATCH, compare_arms, keep, summary
from pipelines.memory import estimator_of
from pipelines.networks import NetworkChoice, network_config, seeded_network
from pipelines.outcome import Outcome
from pipelines.plan import PlanChoice
from pipelines.segmenting import label_names, score_arms, with_target
from pipelines.stage import Stage, StageConfig
from pipelines.training import Drawing, identity

BALL = "central ball"


class Config(StageConfig):
    """The configuration of a fine-tuning.

    target: the label map to learn. labelled: so many labelled training subjects (None: all), the first in the salt's
    order, so that a smaller number is contained in a larger one. labelled_salt: of that order; another one is another
    draw from the same training subjects; None takes the split's. selection: so many of these are not trained on but
    choose the weights, by ``fit.monitor`` (``dice_mean``). encoder: the pretrained model; None trains from scratch only.
    scratch: whether the twin without it is trained too. encoder_rate: of the pretrained encoder, as a share of
    ``fit.rate``. flips: average predictions over mirrored inputs. tolerance: mm, of the surface Dice. baseline: a fixed
    rule to compare with.
    """

    target: str = "label"
    labelled: int | None = Field(default=None, ge=1)
    labelled_salt: str | None = None
    selection: int = Field(default=0, ge=0)
    encoder: str | None = None
    scratch: bool = True
    encoder_rate: float = Field(default=1.0, ge=0)
    transfer: TransferConfig = TransferConfig()
    plan: PlanChoice = PlanChoice()
    network: NetworkChoice = Field(default_factory=lambda: {"kind": "unet"})
    objective: SegmentationConfig = SegmentationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    drawing: Drawing = Drawing()
    fit: FitConfig
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
        if self.objective.target not in ("label", self.target):
            raise ValueError("objective.target is set by target: leave it out")
        try:
            network_config(self.network, self.plan.placeholder(), classes=2)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def decisive(self) -> dict[str, Any]:
        """Without what changes the speed only; a plan file counts by what it says."""
        return super().decisive() | {"plan": self.plan.decisive(), "fit": self.fit.decisive() | {"steps": self.fit.steps}}


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from."""
    return {} if config.encoder is None else {"encoder": config.encoder}


def run(config: Config, stage: Stage) -> Outcome:
    """Fine-tune each arm and compare them on the test subjects."""
    dataset, split = stage.dataset, stage.dataset.split
    salt = config.split.order_salt() if config.labelled_salt is None else config.labelled_salt
    subjects = labelled_subset(dataset.manifest, split.train, config.labelled, salt, config.target)
    labelled = with_target(dataset.subset(subjects), config.target)
    test = with_target(dataset.subset(split.test), config.target)
    if config.encoder is not None:
        refuse_seen(test, stage.inputs["encoder"], "encoder", "test")
    labels = label_names(labelled, config.target)
    plan = _plan(config, stage, labelled, len(labels))
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    store = preprocess(labelled, plan.space, (config.target,), stage.screen, config.workers)
    training = labelled.of_subjects(subjects[: len(subjects) - config.selection])
    selection = labelled.of_subjects(subjects[len(subjects) - config.selection :])

    stage.uses("training", training)
    stage.uses("validation", selection)
    stage.uses("testing", test)

    trained: dict[str, tuple[Network, FitResult]] = {}
    moved: TransferReport | None = None
    for arm in [*([PRETRAINED] if config.encoder else []), *([SCRATCH] if config.scratch else [])]:
        network = seeded_network(network_config(config.network, plan, classes=len(labels)), config.fit.seed)
        if arm == PRETRAINED:
            moved = transfer(stage.inputs["encoder"], network, plan.space, config.transfer)
            write_text(stage.folder / "transfer.json", moved.to_json())
            stage.screen.notes.print(moved.table())
        trained[arm] = (network, _train(config, stage, plan, store, training, selection, network, labels, arm))

    scores = score_arms(
        {arm: network.to(stage.device) for arm, (network, _) in trained.items()},
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
    facts: dict[str, Any] = {"labelled_subjects": len(subjects), "selection_subjects": config.selection}
    if config.baseline == "central_ball":
        facts["central_ball_radius_mm"], scores[BALL] = ball_scores(training, test, config.target, labels, config.tolerance)
    metrics = {arm: summarise(cases) for arm, cases in scores.items()}
    for arm, values in metrics.items():
        numbers = {f"{arm}/test/{key}": float(value) for key, value in summary(values).items() if value is not None}
        stage.tracker.metrics(numbers, trained[arm][1].steps if arm in trained else 0)
    difference = compare_arms(metrics, test)
    if difference is not None:
        facts["pretrained_minus_scratch"] = difference.model_dump()

    models = {}
    for arm, (network, result) in trained.items():
        made = {"steps": result.steps, "labelled": config.labelled, "flips": config.flips}
        models[arm] = keep(stage, plan, config.target, labels, labelled, arm, network, made, metrics[arm])
    histories = {arm: result.history for arm, (_, result) in trained.items()}
    report = make_report(config.name, stage, plan, test, config.target, labels, metrics, facts, difference, moved, histories)
    return Outcome(report, models, metrics, facts)


def _plan(config: Config, stage: Stage, labelled: Manifest, classes: int) -> Plan:
    """The pretrained encoder's space and network with sampling for this data; without an encoder, a plan of its own."""
    estimator = estimator_of(config.network, config.objective, config.fit, classes)
    if config.encoder is None:
        return config.plan.make(labelled, stage.screen, estimator)
    return config.plan.around(stage.inputs["encoder"].meta.plan, labelled, stage.screen, estimator)


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
) -> FitResult:
    """Train one arm; both draw the same batches."""
    objective = config.objective.model_copy(update={"target": config.target})
    cases = [case.id for case in training.cases]
    source = PatchSampler(store, cases, plan.space, config.drawing.sampler(plan), config.fit.seed, target=config.target)

    def choose(model: Any) -> dict[str, float]:
        """Scores on the labelled cases that are kept for choosing the weights."""
        found = score_arms(
            {arm: model},
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
        return {"dice_mean": summarise(found[arm])["dice_mean"] or 0.0}

    return fit(
        network,
        build_objective(objective, network.config),
        source,
        config.fit,
        folder=stage.folder / arm,
        tracker=Arm(stage.tracker, arm),
        augment=Augmentation(config.augmentation, plan.space.spatial_dims, plan.spatial_spacing),
        validate=choose if selection.cases else None,
        rate_scale={"encoder.": config.encoder_rate} if arm == PRETRAINED and config.encoder_rate != 1 else None,
        identity=identity(stage.fingerprint, arm),
        resume=stage.resume,
        cpu=stage.device.type == "cpu",
        name=f"{config.name} {arm}",
        console=stage.screen.notes,
    )
