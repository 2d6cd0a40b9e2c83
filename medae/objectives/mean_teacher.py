"""Mean teacher: on unlabelled scans the network agrees with the moving average of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_serializer
from torch import Tensor, nn
from torch.nn import functional

from medae.augmentation.augment import Augmentation, AugmentationConfig
from medae.augmentation.intensity import Brightness, Contrast, Gamma, Noise
from medae.augmentation.resolution import Blur
from medae.config import Config, to_dict
from medae.objectives.base import Loss, Objective, Trained
from medae.objectives.reconstruction import weighted_mean
from medae.objectives.unlabelled import UNLABELLED, SemisupervisedConfig, SemisupervisedObjective, still_statistics
from medae.preprocessing.batch import Batch
from medae.preprocessing.streams import stream_draw
from medae.seeding import Draw

FOR_MR: dict[str, Config] = {
    "noise": Noise(probability=0.8, std=0.4),
    "blur": Blur(probability=0.3, lower=0.5, upper=1.5),
    "brightness": Brightness(probability=0.8, shift=0.5),
    "contrast": Contrast(probability=0.8, lower=0.6, upper=1.5),
    "gamma": Gamma(probability=0.5, lower=0.6, upper=1.7),
}
# HU are absolute, as in the presets of augmentation: no curve, and little shift and contrast
FOR_CT = FOR_MR | {
    "brightness": Brightness(probability=0.8, shift=0.05),
    "contrast": Contrast(probability=0.8, lower=0.9, upper=1.1),
    "gamma": Gamma(probability=0),
}


class Perturbation(Config):
    """What happens to the intensities that the student sees, on top of the augmentation that both see.

    Nothing here moves a voxel: the two answers have to lie on each other. Null, and a key that is left out, stand for what
    suits the modality, which is CT where the plan's intensity scheme is a CT window.
    noise: white noise; null is 0.8, 0 to 0.4 (probability, strength). blur: Gaussian blur; null is 0.3, 0.5 to 1.5.
    brightness: a shift; null is 0.8, up to 0.5 in MR and 0.05 in CT. contrast: a factor around the mean; null is 0.8, 0.6 to
    1.5 in MR and 0.9 to 1.1 in CT. gamma: a power of the range; null is 0.5, 0.6 to 1.7 in MR and nothing in CT, whose units
    are absolute.
    """

    noise: Noise | None = None
    blur: Blur | None = None
    brightness: Brightness | None = None
    contrast: Contrast | None = None
    gamma: Gamma | None = None

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """Without the keys that were left out: what they are, the modality decides."""
        return {name: part and part.model_dump(exclude_unset=True) for name, part in self}

    def augmentation(self, spacing: Sequence[float | None], ct: bool) -> Augmentation:
        """These intensity changes, and nothing spatial. spacing, ct: see ``Augmentation``."""
        defaults, given = FOR_CT if ct else FOR_MR, self.model_dump()
        parts = {name: {**to_dict(default), **(given[name] or {})} for name, default in defaults.items()}
        return Augmentation(AugmentationConfig.model_validate({"preset": "none", **parts}), len(spacing), spacing)


class MeanTeacherConfig(SemisupervisedConfig):
    """Ask on unlabelled scans for the answer that the moving average of the weights (the teacher) gives.

    The teacher is the average that ``fit.ema`` keeps; it sees the patch as augmented, the student sees it perturbed on top.
    consistency: squared difference of the probabilities (``squared``), or cross-entropy with the teacher's label where its
    probability reaches ``threshold`` (``pseudo_labels``, self-training). threshold: of ``pseudo_labels``. ramp: share of the
    training's steps over which the weight rises from nearly 0. perturbation: of the student's view.
    """

    kind: Literal["mean_teacher"] = "mean_teacher"
    consistency: Literal["squared", "pseudo_labels"] = "squared"
    threshold: float = Field(default=0.9, gt=0, lt=1)
    ramp: float = Field(default=0.3, ge=0, le=1)
    perturbation: Perturbation = Perturbation()

    def weight_at(self, step: int, steps: int) -> float:
        """The weight in ``step`` (from 0) of a training of ``steps``: exp(-5 (1 - t)^2) over the ramp, then constant.

        Source: Laine and Aila 2017, section 2.1, which Tarvainen and Valpola use too.
        """
        long = self.ramp * steps
        done = 1.0 if step >= long else step / long
        return self.weight * math.exp(-5 * (1 - done) ** 2)

    def build(self, supervised: Objective, spacing: Sequence[float | None], steps: int, *, ct: bool) -> MeanTeacherObjective:
        """The objective for a training of so many steps.

        spacing: mm along the spatial axes, see ``Augmentation``. ct: whether intensities are Hounsfield units.
        """
        return MeanTeacherObjective(self, supervised, self.perturbation.augmentation(spacing, ct), steps)


class MeanTeacherObjective(SemisupervisedObjective):
    """The supervised loss on the labelled batch plus the weighted disagreement with the teacher on the unlabelled one.

    The teacher answers in evaluation mode and without gradient; it moves only as the average of the weights does, after
    every step. Both terms count the foreground. Source: Tarvainen and Valpola 2017; the threshold: Sohn et al. 2020.
    """

    def __init__(self, config: MeanTeacherConfig, supervised: Objective, perturb: Augmentation, steps: int) -> None:
        super().__init__(supervised, steps)
        self.config = config
        self.perturb = perturb

    def attach(self, trained: Trained) -> None:
        """Take the moving average as the teacher. Raises TypeError if there is none."""
        if trained.average is None:
            raise TypeError("a mean teacher needs the moving average of the weights")
        super().attach(trained)

    @torch.no_grad()
    def teach(self, image: Tensor) -> Tensor:
        """The teacher's probabilities ``[B, K, *S]`` of an image ``[B, C, *S]``."""
        teacher = self.trained.mixed(cast(nn.Module, self.trained.average).eval())
        return teacher(image).finest.float().softmax(dim=1)

    def disagreement(self, logits: Tensor, taught: Tensor, mask: Tensor) -> Tensor:
        """How far the student is from the teacher, a mean over the mask.

        logits, taught: the student's logits and the teacher's probabilities, ``[B, K, *S]``. mask: bool ``[B, 1, *S]``.
        ``squared`` sums over the classes; under ``pseudo_labels`` voxels below the threshold count as 0.
        """
        if self.config.consistency == "squared":
            distance = (logits.softmax(dim=1) - taught).square().sum(dim=1, keepdim=True)
        else:
            sure, label = taught.max(dim=1)
            distance = functional.cross_entropy(logits, label, reduction="none") * (sure >= self.config.threshold)
            distance = distance[:, None]
        return weighted_mean(distance, mask.float())

    def forward(self, model: nn.Module, batch: Batch, draw: Draw) -> list[Loss]:
        """One loss over both batches; the labelled one goes first, so that its dropout is that of the supervised twin."""
        (labelled,) = self.supervised(model, batch, draw)
        other, own = batch.streams[UNLABELLED], stream_draw(draw, batch, UNLABELLED)
        taught = self.teach(other.image)
        with still_statistics(self.trained.network):
            logits = model(self.perturb(other, own.scoped("student")).image).finest.float()
        distance = self.disagreement(logits, taught, other.mask)
        weight = self.config.weight_at(draw.step, self.steps)
        return [Loss(labelled.total + weight * distance, {**labelled.terms, "consistency": distance})]

    def example(self, model: nn.Module, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """``teacher saw``, ``student saw``: images; ``teacher said``, ``student said``: probabilities ``[B, K, *S]``."""
        other = batch.streams[UNLABELLED]
        seen = self.perturb(other, stream_draw(draw, batch, UNLABELLED).scoped("student")).image
        return {
            "teacher saw": other.image,
            "student saw": seen,
            "teacher said": self.teach(other.image),
            "student said": model(seen).finest.float().softmax(dim=1),
        }
