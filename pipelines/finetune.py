"""Stage 2: transfer a pretrained encoder to a segmenter and fine-tune it on few labels, beside its scratch twin.

    encoder -> plan -> labelled subset -> for each arm: network, transfer, train -> score the test subjects -> compare

Both arms have the same labelled cases, plan, initial decoder, batches and steps; only the encoder's first weights differ,
and how the rate is spread over steps and weights (``tuning``, ``rates``). With ``unlabelled`` there is one arm more, which
also learns from unlabelled scans; with ``registration`` all arms see their labelled cases in further shapes. Test subjects
are read after training only, in their own space. An arm of several members is trained from as many seeds and is one model
afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.plan import Plan
from medae.preprocessing.store import Store
from pipelines.data import preprocess, refuse_idle_masks
from pipelines.deformed import open_deformed
from pipelines.files import write_text
from pipelines.finetune_config import Config
from pipelines.finetune_report import make_report
from pipelines.finetune_results import keep, score_test
from pipelines.finetune_sides import Sides, take_sides
from pipelines.finetune_training import Setting, train_arm, try_transfer
from pipelines.memory import estimator_of, refuse_beyond_memory
from pipelines.outcome import Outcome
from pipelines.probe import warn_of_more_labels
from pipelines.segmenting import label_names, refuse_mirrored_sides
from pipelines.stage import Stage
from pipelines.training import warn_before_training
from pipelines.unlabelled import open_unlabelled


def inputs(config: Config) -> dict[str, str]:
    """The models that the stage starts from."""
    return {} if config.encoder is None else {"encoder": config.encoder}


def run(config: Config, stage: Stage) -> Outcome:
    """Fine-tune each arm and compare them on the test subjects."""
    setting = _prepare(config, stage)
    warn_before_training(config.fit, setting.sampler(config.fit.seed), setting.shape.encoder.norm, stage.screen)
    moved = try_transfer(setting)
    trained = {}
    for place, arm in enumerate(arms := config.arms(), start=1):
        if len(arms) > 1:
            stage.screen.note(f"Training the arm {arm}, {place} of {len(arms)}.")
        trained[arm] = train_arm(setting, arm)
    results = score_test(setting, trained)
    folders = {name: keep(setting, arm, results.metrics[name]) for name, arm in trained.items()}
    report = make_report(setting, trained, results, moved)
    return Outcome(report, folders, results.metrics, results.facts)


def _prepare(config: Config, stage: Stage) -> Setting:
    """Sides, labels, plan and preprocessed scans: what all arms share."""
    salt = config.split.order_salt() if config.labelled_salt is None else config.labelled_salt
    sides = take_sides(
        stage,
        config.target,
        config.labelled,
        salt,
        config.selection,
        unlabelled=config.unlabelled is not None or config.registration is not None,
        scored=config.scored,
        folds=config.folds is not None,
    )
    _say_of_the_arms(config, stage, sides)
    labels = label_names(sides.labelled, config.target)
    plan = _plan(config, stage, sides.labelled, len(labels))
    refuse_idle_masks(config, plan.space)
    refuse_mirrored_sides(config.augmentation.flip, plan, labels)
    write_text(stage.folder / "plan.yaml", plan.as_yaml())
    store = preprocess(sides.labelled, plan.space, (config.target,), stage.screen, config.workers)
    for absent in _absent(labels, store, sides.training, config.target):
        stage.screen.warn(f"Label '{absent}' is in no training case, or lost at the plan's spacing: it cannot be learnt.")
    if lost := [case.id for case in sides.training.cases if store[case.id].beyond.get(config.target)]:
        stage.screen.warn(
            f"{len(lost)} of {len(sides.training.cases)} training cases, such as {lost[0]}, have labelled voxels beyond the "
            f"foreground ('{plan.space.foreground}'): they are not learnt from, yet scored."
            + (" plan.foreground: all keeps all." if config.encoder is None else "")
        )
    _refuse_empty_selection(config, store, sides.selection)
    stage.uses("training", sides.training)
    stage.uses("validation", sides.selection)
    stage.uses("validation", sides.validation)
    if sides.scored_as != "out-of-fold":
        stage.uses("validation" if sides.scored_as == "validation" else "testing", sides.scored)
    unlabelled = None
    if config.unlabelled is not None:
        unlabelled = open_unlabelled(config.unlabelled, config, stage, sides.unlabelled, plan)
    deformed = None
    if config.registration is not None:
        deformed = open_deformed(config.registration, config, stage, sides, plan, store)
    return Setting(config, stage, sides, plan, labels, store, unlabelled, deformed)


def _say_of_the_arms(config: Config, stage: Stage, sides: Sides) -> None:
    """What a user should know before the arms are trained."""
    if keys := config.without_effect():
        stage.screen.note(f"Without effect, since the arm that they are for is not trained: {', '.join(keys)}.")
    if "encoder" not in config.model_fields_set:
        stage.screen.note("No encoder is given, so nothing is transferred: all weights start at random.")
    if config.encoder is not None:
        warn_of_more_labels(stage.inputs["encoder"], sides.labelled, stage.screen)
    if config.unlabelled is not None and {case.id for case in sides.unlabelled.cases} <= {
        case.id for case in sides.training.cases
    }:
        stage.screen.warn(
            "Every training scan is labelled: the unlabelled stream shows no further scan. 'labelled' takes fewer of them."
        )


def _refuse_empty_selection(config: Config, store: Store, selection: Manifest) -> None:
    """Raises ConfigError if the cases that choose the weights hold nothing to be found: every answer would be as good."""
    if selection.cases and not any(store[case.id].foreground[config.target] for case in selection.cases):
        raise ConfigError(
            f"The {len(selection.cases)} cases that choose the weights hold no voxel of '{config.target}'.",
            where="selection",
            remedy="Raise selection, or choose another labelled_salt.",
        )


def _check_network(config: Config, plan: Plan) -> None:
    """Raises ConfigError if the network does not fit the plan, whose shape is the encoder's if there is one."""
    try:
        config.check_network(plan)
    except ConfigError as error:
        if config.encoder is None:
            raise
        raise ConfigError(
            f"The encoder's shape does not allow this network. {error.what}",
            where=f"encoder: {config.encoder}",
            remedy="Pretrain an encoder with the plan that it needs (for SegNet and max_unpool plan.downsampling: maxpool), "
            "choose another network, or train without an encoder (--encoder none).",
        ) from error


def _absent(labels: Mapping[int, str], store: Store, training: Manifest, target: str) -> list[str]:
    """Names of labels that no training case has in the plan's space."""
    found = {label for case in training.cases for label in store[case.id].foreground[target]}
    return [name for label, name in labels.items() if label and label not in found]


def _plan(config: Config, stage: Stage, labelled: Manifest, classes: int) -> Plan:
    """The pretrained encoder's space and network with sampling for this data; without an encoder, a plan of its own.

    Raises ConfigError if the network does not fit it, or a training step the memory.
    """
    beside = None if config.unlabelled is None else config.unlabelled.samples
    estimator = estimator_of(config.network, config.objective, config.fit, config.augmentation, classes, beside)
    if config.encoder is None:
        plan = config.plan.make(labelled, stage.screen, estimator, (config.target,))
    else:
        plan = config.plan.around(stage.inputs["encoder"].meta.plan, labelled, stage.screen, estimator)
    _check_network(config, plan)
    refuse_beyond_memory(plan, estimator, stage.device)
    return plan
