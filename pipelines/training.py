"""What the training stages share: keys of their configuration, how patches are drawn, a loss on fixed batches, examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from medae.augmentation.augment import AugmentationConfig
from medae.config import Config, digest, to_dict
from medae.models.blocks import NormKind
from medae.objectives.base import Objective
from medae.plan import Plan
from medae.preprocessing.sampling import PatchSampler, SamplerConfig
from medae.seeding import Draw, seeded_step
from medae.training.config import FitConfig
from pipelines.console import Screen
from pipelines.plan import PlanChoice
from pipelines.stage import StageConfig


class Drawing(Config):
    """How patches are drawn; their size and number are the plan's. See ``SamplerConfig`` for the keys."""

    foreground: float = Field(default=0.5, ge=0, le=1)
    within: Literal["mask", "image"] = "mask"
    slice_foreground: float = Field(default=0.02, ge=0, le=1)

    def sampler(self, plan: Plan) -> SamplerConfig:
        """With the plan's patch and batch."""
        return SamplerConfig(patch=plan.sampling.patch, batch=plan.sampling.batch, **to_dict(self))


class TrainingConfig(StageConfig):
    """What the stages that train have beside what every stage has."""

    plan: PlanChoice = PlanChoice()
    augmentation: AugmentationConfig = AugmentationConfig()
    drawing: Drawing = Drawing()
    fit: FitConfig

    def decisive(self) -> dict[str, Any]:
        """Without what changes the speed only; a plan file counts by what it says."""
        return super().decisive() | {"plan": self.plan.decisive(), "fit": self.fit.decisive() | {"steps": self.fit.steps}}


def warn_before_training(fit: FitConfig, sampler: PatchSampler, norm: NormKind, screen: Screen) -> None:
    """Say what a user would not expect of the training.

    A rate that rises to the end, cases that are never drawn, batch norm without a batch.
    """
    if norm == "batch" and sampler.batch_size == 1:
        screen.warn(
            "A batch is a single patch, and batch norm works with the statistics of many once it is trained: the model may "
            "be much worse than its loss says. Set plan.batch, with a smaller plan.patch, or network.encoder.norm to group."
        )
    if fit.schedule.warmup >= fit.steps:
        screen.warn(
            f"The warm-up takes {fit.schedule.warmup} steps and the whole training {fit.steps}: the rate still rises when "
            f"it ends, at {fit.steps / fit.schedule.warmup:.0%} of its peak. Set fit.schedule.warmup with fit.steps, to a "
            "twentieth of them."
        )
    left_out = sampler.left_out
    if left_out:
        every = len(left_out) + len(sampler.case_ids)
        screen.warn(
            f"{len(left_out)} of {every} training cases have no slice to draw from and train nothing: "
            f"{', '.join(left_out[:5])} (drawing.slice_foreground; in a detection also slices with a lesion)."
        )


def fixed_loss(
    sampler: PatchSampler, objective: Objective, count: int, seed: int
) -> Callable[[nn.Module], dict[str, float]]:
    """A validation: the objective's mean loss on the same batches with the same draws every time."""

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        totals = []
        with torch.inference_mode():
            for step in range(count):
                draw = Draw(seed, step).scoped("validation")
                totals.append(float(objective(model, sampler.batch(step).to(device), draw)[0].total))
        return {"validation_loss": float(np.mean(totals))}

    return validate


def example(sampler: PatchSampler, objective: Objective, model: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """What the network saw and made of one batch, by name, ``[B, C, *S]``."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode(), seeded_step(seed, 0):
        shown = objective.example(model, sampler.batch(0).to(device), Draw(seed, 0).scoped("example"))
    return {name: value.float().cpu().numpy() for name, value in shown.items()}


def identity(fingerprint: str, arm: str) -> str:
    """What a resumed training must share with its checkpoint beside the settings of the fit."""
    return digest({"stage": fingerprint, "arm": arm})
