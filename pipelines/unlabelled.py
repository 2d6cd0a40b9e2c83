"""The semi-supervised arm of a fine-tuning: the unlabelled stream, its objective, and what it showed the network.

Every training subject's images are unlabelled scans here, whether somebody labelled them or not: no label map is read. The
cases that choose the weights are left out, as are validation and test subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medae.data.case import Manifest
from medae.errors import ConfigError, TrainingError
from medae.models.autoencoder import AutoencoderConfig
from medae.models.networks import Network, NetworkConfig
from medae.objectives.base import Objective, Trained
from medae.objectives.joint import JointConfig
from medae.objectives.mean_teacher import MeanTeacherConfig
from medae.objectives.registry import build_objective, check_objective
from medae.objectives.segmentation import SegmentationConfig
from medae.objectives.unlabelled import UNLABELLED
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.preprocessing.store import Store
from medae.report.figures_training import reconstruction_grid
from medae.report.figures_unlabelled import teacher_and_student
from medae.report.html import Report
from medae.seeding import Draw, seed_for, seeded_step
from medae.training import checkpoint
from medae.training.config import FitConfig
from pipelines.data import preprocess
from pipelines.finetune_members import Member
from pipelines.stage import Stage
from pipelines.training import Drawing

UnlabelledConfig = Annotated[JointConfig | MeanTeacherConfig, Field(discriminator="kind")]


@dataclass(frozen=True)
class Unlabelled:
    """The unlabelled stream of a fine-tuning of so many steps."""

    config: UnlabelledConfig
    cases: Manifest
    store: Store
    plan: Plan
    sampling: SamplerConfig
    steps: int

    def sampler(self, seed: int, margin: tuple[int, ...] | None = None) -> PatchSampler:
        """The stream of a training of this seed; its draws are independent of the labelled stream's."""
        cases = [case.id for case in self.cases.cases]
        return PatchSampler(self.store, cases, self.plan.space, self.sampling, seed_for(seed, UNLABELLED), margin=margin)

    def objective(self, supervised: Objective, network: Network, seed: int) -> Objective:
        """The objective on both streams, of which the supervised one is a part."""
        encoder = network.encoder.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, UNLABELLED, "initial weights"))
            if self.config.kind == "joint":
                return self.config.build(supervised, encoder, self.steps)
            ct = self.plan.space.intensity.kind == "ct_window"
            return self.config.build(supervised, self.plan.spatial_spacing, self.steps, ct=ct)


class Semisupervised(Protocol):
    """What of a fine-tuning's configuration decides the unlabelled stream."""

    drawing: Drawing
    fit: FitConfig
    workers: int | None


def check_unlabelled(config: UnlabelledConfig, network: NetworkConfig, fit: FitConfig) -> None:
    """Raises ConfigError if the objective on unlabelled scans does not fit the network or the training."""
    if config.kind == "joint":
        check_objective(config.pretext, AutoencoderConfig(encoder=network.encoder))
    elif fit.ema is None:
        raise ConfigError(
            "The teacher is the moving average of the weights, and fit.ema is not set.",
            where="unlabelled",
            remedy="Set fit.ema, such as 0.99.",
        )


def open_unlabelled(
    choice: UnlabelledConfig, config: Semisupervised, stage: Stage, cases: Manifest, plan: Plan
) -> Unlabelled:
    """Prepare the images, without label maps."""
    stage.uses("unlabelled", cases)
    store = preprocess(cases, plan.space, (), stage.screen, config.workers)
    sampling = config.drawing.sampler(plan)
    sampling = sampling.model_copy(update={"batch": choice.samples(sampling.batch)})
    return Unlabelled(choice, cases, store, plan, sampling, config.fit.steps)


def describe(
    report: Report,
    stage: Stage,
    unlabelled: Unlabelled,
    supervised: SegmentationConfig,
    member: Member,
    labels: Mapping[int, str],
) -> None:
    """A section of the report: what the network saw and said of unlabelled patches after the last step."""
    config = unlabelled.config
    objective = unlabelled.objective(build_objective(supervised, member.network.config), member.network, member.seed)
    shown = _example(stage, unlabelled, objective, member)
    space = unlabelled.plan.space
    first, second, third = (1.0 if step is None else step for step in space.spacing)
    steps, axis = (first, second, third), space.slice_axis
    path = stage.figure(f"unlabelled-{config.kind}")
    report.section("Unlabelled scans")
    report.text(
        f"The arm {config.kind} drew {unlabelled.sampling.batch} unlabelled patches a step, beside the labelled "
        f"ones, from {len(unlabelled.cases.cases)} scans of training subjects. Their label maps were not read."
    )
    if config.kind == "joint":
        images = {name: value[:, 0] for name, value in shown.items()}
        grid = reconstruction_grid(images, path, difference=None, spacing=steps, slice_axis=axis)
        report.figure(grid, "Unlabelled patches: what the shared encoder saw, and what the branch made of it.")
    else:
        threshold = config.threshold if config.consistency == "pseudo_labels" else None
        figure = teacher_and_student(shown, path, labels, threshold=threshold, spacing=steps, slice_axis=axis)
        report.figure(figure, "Unlabelled patches after the last step: what teacher and student saw, and what they said.")


def _example(stage: Stage, unlabelled: Unlabelled, objective: Objective, member: Member) -> dict[str, np.ndarray]:
    """The objective's example of one batch, with the weights of the last step: the network holds those that were kept."""
    network, seed = member.network, member.seed
    device = next(network.parameters()).device
    last = checkpoint.load(stage.folder / member.name)
    if last is None:
        raise TrainingError("The checkpoint of the last step is gone.", where=stage.folder, remedy="Train again (--force).")

    def state(part: str) -> dict[str, Tensor]:
        return {name.removeprefix(part): value for name, value in last.tensors.items() if name.startswith(part)}

    student, average = deepcopy(network).eval(), deepcopy(network).eval()
    student.load_state_dict(state("model/"))
    if unlabelled.config.kind == "mean_teacher":
        average.load_state_dict(state("ema/"))
    objective.load_state_dict(state("objective/"))
    objective.to(device).eval().attach(Trained(student, average, lambda module: module))
    batch = unlabelled.sampler(seed).batch(0).to(device)
    with torch.inference_mode(), seeded_step(seed, 0):
        shown = objective.example(student, replace(batch, streams={UNLABELLED: batch}), Draw(seed, 0).scoped("example"))
    return {name: value.float().cpu().numpy() for name, value in shown.items()}
