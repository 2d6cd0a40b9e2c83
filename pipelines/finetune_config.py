"""The configuration of a fine-tuning, and which arms it asks for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medae.config import Config as BaseConfig
from medae.objectives.registry import SEGMENTERS
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import Plan
from medae.preprocessing.deformed import RegistrationConfig
from medae.training.config import FitConfig
from medae.training.finetuning import Together, TuningConfig
from medae.transfer import TransferConfig
from pipelines.networks import NetworkChoice, fits_some, network_config
from pipelines.training import TrainingConfig
from pipelines.unlabelled import UnlabelledConfig, check_unlabelled

PRETRAINED, SCRATCH = "pretrained", "scratch"
CHOOSER = "dice_mean"
"""The metric by which selection cases choose the weights."""


class Rates(BaseConfig):
    """An arm's own peak learning rate; null is ``fit.rate``. pretrained, scratch: of that arm."""

    pretrained: float | None = Field(default=None, gt=0)
    scratch: float | None = Field(default=None, gt=0)


class Config(TrainingConfig):
    """The configuration of a fine-tuning.

    target: the label map to learn. labelled: so many labelled training subjects (None: all), the first in the salt's
    order, so that a smaller number is contained in a larger one. labelled_salt: of that order; another one is another
    draw from the same training subjects; None takes the split's. selection: so many of these are not trained on but
    choose the weights, by ``fit.monitor`` (``dice_mean``). encoder: the pretrained model; None trains from scratch only.
    scratch: whether the twin without it is trained too. tuning: how the pretrained arm's weights share its rate, step by
    step; the scratch arm trains all of them alike. rates: an arm's own peak. members: so many networks an arm, from other
    seeds (decoder at the start, batches, augmentation), averaged. folds: so many networks an arm instead, each trained
    without one fold of the labelled subjects and scored on it, averaged afterwards; where the split has no test subject
    these scores are the run's. unlabelled: one arm more, begun and
    tuned like the pretrained one (without an encoder, like scratch), that also learns from the images of all training
    subjects; null for none. registration: every arm is also trained on its labelled scans deformed into the shapes of other
    training subjects' scans, whose label maps are not read; null for none. flips: average predictions over mirror images
    along the axes of ``augmentation.flip``. scored: who is scored at the end: ``test`` subjects, ``validation`` subjects
    alone (what is to be chosen by them must not see a test subject), or ``both``, apart from each other. tolerance: mm, of
    the surface Dice. baseline: a fixed rule to compare with.
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
    folds: int | None = Field(default=None, ge=2)
    transfer: TransferConfig = TransferConfig()
    network: NetworkChoice = Field(default_factory=lambda: {"kind": "unet"})
    objective: SegmentationConfig = SegmentationConfig()
    unlabelled: UnlabelledConfig | None = None
    registration: RegistrationConfig | None = None
    flips: bool = False
    scored: Literal["test", "validation", "both"] = "test"
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
        if self.fit.monitor not in (None, CHOOSER) or (self.fit.monitor and self.fit.mode == "min"):
            raise ValueError(f"fit.monitor must be {CHOOSER} and fit.mode max: so the selection cases are scored")
        if self.folds is not None and (self.members > 1 or self.selection or self.unlabelled is not None):
            raise ValueError(
                "folds go with neither members (each fold is one), nor selection (its cases would be in a fold), nor "
                "unlabelled (its stream would show every member the images of its own fold)"
            )
        if self.folds is not None and self.labelled is not None and self.folds > self.labelled:
            raise ValueError("folds: there cannot be more of them than labelled subjects")
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
        if self.flips and not self.augmentation.mirrored:
            raise ValueError(
                "flips averages over mirror images, and the network is shown none: set augmentation.flip, a probability for "
                "each spatial axis, such as [0.5, 0, 0] for left-right, or leave flips out"
            )
        if self.objective.target not in ("label", self.target):
            raise ValueError("objective.target is set by target: leave it out")
        fits_some(self.check_network, self.plan.placeholders())
        return self

    def check_network(self, plan: Plan) -> None:
        """Raises ConfigError if the network, or what is learnt from unlabelled scans, does not fit a plan."""
        network = network_config(self.network, plan, classes=2)
        if self.unlabelled is not None:
            check_unlabelled(self.unlabelled, network, self.fit)

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
