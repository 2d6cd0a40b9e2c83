"""Stage 1: pretrain an autoencoder on unlabelled scans.

    plan -> preprocess -> train on random patches of the training subjects -> artifact

Validation subjects only give a loss for the log; no weights are chosen by it. Test subjects are not read. A probe, if
there is one, measures what the encoder is worth on labelled training subjects, and may choose the weights.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from medae.artifact import ArtifactMeta, save_artifact
from medae.augmentation.augment import Augmentation
from medae.models.networks import Network
from medae.objectives.base import Objective
from medae.objectives.registry import SEGMENTERS, ObjectiveConfig, build_objective, check_objective
from medae.plan import Plan
from medae.preprocessing.domain import domain_of
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from medae.report.figures_training import loss_curves, reconstruction_grid
from medae.report.html import Report
from medae.tracking.base import Arm
from medae.training.loop import FitResult, fit
from medae.training.probes.registry import ProbeConfig
from pipelines.apart import keep_apart
from pipelines.augmenting import show_augmentation
from pipelines.data import description, image_digests, preprocess, refuse_idle_masks
from pipelines.files import write_text
from pipelines.memory import estimator_of, refuse_beyond_memory
from pipelines.networks import NetworkChoice, fits_some, network_config, seeded_network
from pipelines.outcome import Outcome
from pipelines.probe import MEASURED, Prober, kept_record, probe_metrics, probed_cases
from pipelines.stage import Stage
from pipelines.training import TrainingConfig, example, fixed_loss, identity, warn_before_training


class Autoencoding(TrainingConfig):
    """What any training of an autoencoder is configured by.

    validation_batches: so many fixed batches of the validation subjects give ``validation_loss``; 0 for none.
    """

    network: NetworkChoice
    objective: ObjectiveConfig
    validation_batches: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _learns_something(self) -> Autoencoding:
        if self.network.get("kind") in SEGMENTERS:
            raise ValueError("network.kind is a segmenter; an autoencoder or vae is trained here")
        if self.fit.monitor not in (None, *self.choosers()):
            raise ValueError(
                "fit.monitor: a smaller reconstruction loss is no better encoder, so nothing is chosen by it; a pretraining "
                f"with a probe may choose by {MEASURED}"
            )
        if self.fit.monitor is not None and self.fit.mode == "min":
            raise ValueError(f"a larger {self.fit.monitor} is better: set fit.mode to max")
        fits_some(self.check_network, self.plan.placeholders())
        return self

    def check_network(self, plan: Plan) -> None:
        """Raises ConfigError if network or objective do not fit a plan."""
        check_objective(self.objective, network_config(self.network, plan))

    def choosers(self) -> tuple[str, ...]:
        """Metrics that may choose the weights to keep."""
        return ()


class Config(Autoencoding):
    """The configuration of a pretraining.

    probe: measure the encoder's worth on labelled training subjects as the training goes; None does without labels.
    """

    probe: ProbeConfig | None = None

    def choosers(self) -> tuple[str, ...]:
        """The probe's Dice, if there is a probe."""
        return () if self.probe is None else (MEASURED,)


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from: none."""
    return {}


def run(config: Config, stage: Stage) -> Outcome:
    """Pretrain. The outcome holds the autoencoder's artifact."""
    dataset, split = stage.dataset, stage.dataset.split
    training, validation = dataset.subset(split.train), dataset.subset(split.validation)
    keep_apart({"training": training, "validation": validation, "test": dataset.subset(split.test)})
    stage.uses("training", training)
    if config.validation_batches:
        stage.uses("validation", validation)
    estimator = estimator_of(config.network, config.objective, config.fit, config.augmentation)
    plan = config.plan.make(training, stage.screen, estimator, () if config.probe is None else (config.probe.target,))
    config.check_network(plan)
    refuse_idle_masks(config, plan.space)
    refuse_beyond_memory(plan, estimator, stage.device)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    prober = None if config.probe is None else _prober(config, config.probe, stage, plan)
    store = preprocess(dataset.subset([*split.train, *split.validation]), plan.space, (), stage.screen, config.workers)
    cases = {"train": [case.id for case in training.cases], "validation": [case.id for case in validation.cases]}
    model, objective, result = train(config, stage, plan, store, cases["train"], cases["validation"], probe=prober)
    metrics = _metrics(result)
    provenance = stage.provenance | {"objective": config.objective.kind, "steps": result.steps}
    provenance |= {"mirrored": list(config.augmentation.mirrored)}
    meta = ArtifactMeta(
        kind="autoencoder",
        network=model.config,
        plan=plan,
        provenance=provenance | ({} if prober is None else prober.provenance()),
        seen=image_digests(training),
        domain=domain_of(training, store),
        metrics=metrics,
    )
    save_artifact(stage.folder / "model", model, meta)

    report = Report(f"Pretraining: {config.name}", stage.subtitle("An autoencoder of unlabelled scans"))
    report.table(["Data", ""], [[key, value] for key, value in description(dataset).items()])
    if prober is not None:
        prober.describe(report, result, metrics)
    shown = cases["validation"] or cases["train"]
    sampler = PatchSampler(store, shown, plan.space, config.drawing.sampler(plan), config.fit.seed)
    describe_training(report, stage, plan, result, example(sampler, objective, model, config.fit.seed))
    augment, drawn = training_patches(config, plan, store, cases["train"])
    show_augmentation(report, stage, augment, drawn, plan)
    figures = {"autoencoder": metrics | {"steps": result.steps}}
    return Outcome(report, {"autoencoder": stage.folder / "model"}, figures, {} if prober is None else prober.facts())


def _metrics(result: FitResult) -> dict[str, float]:
    """The losses and the probe's Dice of the weights that are kept."""
    kept = kept_record(result)
    losses = {key: value for key, value in kept.items() if "loss" in key and not key.startswith("probe/")}
    return losses | probe_metrics(kept)


def _prober(config: Config, probe: ProbeConfig, stage: Stage, plan: Plan) -> Prober:
    """The probe, with its baseline measured on the weights that the training starts from."""
    untrained = seeded_network(network_config(config.network, plan), config.fit.seed)
    cases = probed_cases(probe, stage, config.split.order_salt())
    return Prober(probe, config.fit, cases, plan, config.drawing.sampler(plan), untrained, stage, config.workers)


def train(
    config: Autoencoding,
    stage: Stage,
    plan: Plan,
    store: Store,
    training: list[str],
    validation: list[str],
    exclude_target: str | None = None,
    probe: Prober | None = None,
    member: str = "",
) -> tuple[Network, Objective, FitResult]:
    """Train an autoencoder on the given cases of a store; on slices without ``exclude_target`` if it is named.

    member: of several that are trained in one stage, what its folder and its numbers are called.
    """
    seed, drawing = config.fit.seed, config.drawing.sampler(plan)
    network = network_config(config.network, plan)
    objective, model = build_objective(config.objective, network), seeded_network(network, seed)
    augment, source = training_patches(config, plan, store, training, exclude_target)
    warn_before_training(config.fit, source, network.encoder.norm, stage.screen)
    validate = None
    if validation and config.validation_batches:
        held = PatchSampler(store, validation, plan.space, drawing, seed, exclude_target=exclude_target)
        validate = fixed_loss(held, objective, config.validation_batches, seed)
    result = fit(
        model,
        objective,
        source,
        config.fit,
        folder=stage.folder / member,
        tracker=Arm(stage.tracker, member) if member else stage.tracker,
        augment=augment,
        validate=validate,
        probe=probe,
        identity=identity(stage.fingerprint, member) if member else stage.fingerprint,
        resume=stage.resume,
        cpu=stage.device.type == "cpu",
        name=f"{config.name} {member}".strip(),
        console=stage.screen.notes,
    )
    return model, objective, result


def training_patches(
    config: Autoencoding, plan: Plan, store: Store, cases: list[str], exclude_target: str | None = None
) -> tuple[Augmentation, PatchSampler]:
    """The patches that are trained on, as large as augmentation needs them, and the augmentation."""
    augment = Augmentation.of_plan(config.augmentation, plan)
    drawing, seed = config.drawing.sampler(plan), config.fit.seed
    return augment, PatchSampler(
        store, cases, plan.space, drawing, seed, exclude_target=exclude_target, margin=augment.margin
    )


def describe_training(report: Report, stage: Stage, plan: Plan, result: FitResult, shown: dict) -> None:
    """Loss curves, and what the network saw and made."""
    report.figure(
        loss_curves(result.history, stage.figure("loss"), None if result.best_value is None else result.best_step),
        "Loss of training and of fixed validation batches; with a probe, what the encoder is worth beside it.",
        "chart",
    )
    spacing = [1.0 if step is None else step for step in plan.space.spacing]
    images = {name: value[:, 0] for name, value in shown.items()}
    grid = reconstruction_grid(
        images,
        stage.figure("examples"),
        difference=("input", "output"),
        spacing=(spacing[0], spacing[1], spacing[2]),
        slice_axis=plan.space.slice_axis,
    )
    report.figure(grid, "What the network saw and made of patches; the middle slice of each.")
    report.table(["Plan", "", "Reason"], plan.rows())
