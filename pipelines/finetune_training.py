"""Training the arms of a fine-tuning: what they share, their first weights, and their members one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medae.augmentation.augment import Augmentation
from medae.augmentation.streams import augment_streams
from medae.data.case import Manifest
from medae.errors import TransferError
from medae.metrics.reliability import Reliability
from medae.metrics.segmentation import LabelScore, summarise
from medae.models.networks import Network, NetworkConfig
from medae.objectives.base import Objective
from medae.objectives.registry import build_objective
from medae.objectives.unlabelled import UNLABELLED
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler
from medae.preprocessing.store import Store
from medae.preprocessing.streams import Streams
from medae.tracking.base import Arm
from medae.training.loop import FitResult, fit
from medae.training.run import Augment
from medae.training.source import BatchSource
from medae.transfer import TransferReport, transfer
from pipelines.deformed import Deformed
from pipelines.files import write_text
from pipelines.finetune_config import CHOOSER, Config
from pipelines.finetune_members import Member, Share, TrainedArm, shares_of
from pipelines.finetune_sides import Sides
from pipelines.networks import network_config, seeded_network
from pipelines.segmenting import score_arms
from pipelines.stage import Stage
from pipelines.training import identity
from pipelines.unlabelled import Unlabelled


@dataclass(frozen=True)
class Setting:
    """What the arms of a fine-tuning have in common. labels: value -> name. store: of the labelled cases. deformed: of them,
    too, in other shapes."""

    config: Config
    stage: Stage
    sides: Sides
    plan: Plan
    labels: Mapping[int, str]
    store: Store
    unlabelled: Unlabelled | None
    deformed: Deformed | None = None

    @property
    def augmentation(self) -> Augmentation:
        """Of the labelled patches."""
        return Augmentation.of_plan(self.config.augmentation, self.plan)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The axes whose mirror images predictions are averaged over."""
        return tuple(self.config.augmentation.mirrored) if self.config.flips else ()

    @property
    def shape(self) -> NetworkConfig:
        """Of the network."""
        return network_config(self.config.network, self.plan, classes=len(self.labels))

    def network(self, seed: int) -> Network:
        """With its first weights, before anything is transferred."""
        return seeded_network(self.shape, seed)

    def sampler(self, seed: int, cases: Manifest | None = None, held: Manifest | None = None) -> PatchSampler:
        """The labelled patches of a training of this seed, as large as augmentation needs them.

        cases: of these only, with their deformed cases. held: in whose shapes there is none.
        """
        labelled = [case.id for case in (cases or self.sides.training).cases]
        return PatchSampler(
            self.store if self.deformed is None else self.deformed.beside(self.store),
            labelled,
            self.plan.space,
            self.config.drawing.sampler(self.plan),
            seed,
            target=self.config.target,
            margin=self.augmentation.margin,
            beside=() if self.deformed is None else self.deformed.of(labelled, held.cases if held else ()),
            share=0.0 if self.deformed is None else self.deformed.config.share,
        )

    def score(
        self,
        models: Mapping[str, nn.Module],
        cases: Manifest,
        folder: Path,
        *,
        mirrored: Sequence[int] = (),
        reliability: dict[str, Reliability] | None = None,
    ) -> dict[str, dict[str, dict[str, LabelScore]]]:
        """Scores by model, case and label, in each scan's own space; the predictions are left in the folder.
        reliability: see ``score_arms``."""
        return score_arms(
            models,
            cases,
            self.config.target,
            self.labels,
            self.plan,
            self.stage.device,
            mirrored=mirrored,
            tolerance=self.config.tolerance,
            folder=folder,
            screen=self.stage.screen,
            reliability=reliability,
        )


def try_transfer(setting: Setting) -> TransferReport | None:
    """What an arm that begins with the encoder takes over; written and shown, of one training among many only where not all
    was loaded as it is. None without an encoder."""
    if setting.config.encoder is None:
        return None
    moved = _transfer(setting, setting.network(setting.config.fit.seed))
    write_text(setting.stage.folder / "transfer.json", moved.to_json())
    if not (setting.stage.screen.brief and moved.is_plain):
        setting.stage.screen.notes.print(moved.table())
    return moved


def train_arm(setting: Setting, arm: str) -> TrainedArm:
    """Train the members of an arm; the same member of every arm draws the same labelled batches."""
    config = setting.config
    members = []
    for share in shares_of(arm, config.fit.seed, config.members, config.folds, setting.sides.training):
        network = setting.network(share.seed)
        if config.arms()[arm]:
            _transfer(setting, network)
        result = _train(setting, network, arm, share)
        members.append(Member(share.name, share.seed, share.held, network, result))
    return TrainedArm(arm, tuple(members))


def _transfer(setting: Setting, network: Network) -> TransferReport:
    try:
        return transfer(setting.stage.inputs["encoder"], network, setting.plan.space, setting.config.transfer)
    except TransferError as error:  # which names the folder that the model was fetched to
        raise TransferError(error.what, where=f"encoder: {setting.config.encoder}", remedy=error.remedy) from error


def _train(setting: Setting, network: Network, arm: str, share: Share) -> FitResult:
    """Train one member, in a folder of its name."""
    name, seed = share.name, share.seed
    config, stage = setting.config, setting.stage
    goal = config.objective.model_copy(update={"target": config.target})
    objective: Objective = build_objective(goal, network.config)
    augmentation = setting.augmentation
    augment: Augment = augmentation
    drawn = setting.sampler(seed, share.training, share.held)
    source: BatchSource = drawn
    if (beside := setting.unlabelled) is not None and arm == beside.config.kind:
        objective, augment = beside.objective(objective, network, seed), augment_streams(augment)
        source = Streams(drawn, {UNLABELLED: beside.sampler(seed, augmentation.margin)})
    selection = setting.sides.selection

    def choose(model: Any) -> dict[str, float]:
        """Scores on the labelled cases that are kept for choosing the weights."""
        found = setting.score({name: model}, selection, stage.folder / "selection")
        return {CHOOSER: summarise(found[name])["dice_mean"]}  # not None: an empty selection was refused

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
