"""The configuration of a detection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from medae.anomaly.calibration import Normals
from medae.anomaly.detector import Scoring
from medae.anomaly.diagnosis import DiagnosisConfig
from medae.config import to_dict
from medae.data.case import Manifest
from medae.data.digests import sha256_of_files
from medae.data.split import Split, fold_subjects
from medae.models.ensemble import AutoencoderEnsembleConfig
from medae.models.networks import StoredConfig
from medae.plan import Plan
from pipelines.networks import NetworkChoice, network_config
from pipelines.pretrain import Autoencoding


class Config(Autoencoding):
    """The configuration of a detection.

    target: label map of the lesions; null where all scans are normal, and only a diagnosis can say what is found. normals:
    what a model that is trained here learns from, and what the threshold is set on: whole scans without a lesion, or, where
    only patients are at hand, their slices without one (2D). false_positive_rate: share of the mask of normal scans in which
    the threshold is to be reached. model: a trained autoencoder or detector to score with; None trains. members: so many
    networks are trained, from different seeds, and their reconstructions and lesion probabilities averaged.
    diagnosis: put lesions of known contrast, size and edge into normal test scans, and show which of them are found. folds:
    test every subject once, in so many trainings. fold: of these, the one that a training or a given model is for. Where
    network.encoder does not say its norm, it is batch norm: instance norm takes a slice's brightness out, and a
    lesion's with it.
    """

    target: str | None = "label"
    normals: Normals = "lesion_free_scans"
    scoring: Scoring = Scoring()
    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    model: str | None = None
    members: int = Field(default=1, ge=1)
    diagnosis: DiagnosisConfig | None = None
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)

    @field_validator("network")
    @classmethod
    def _sees_brightness(cls, network: NetworkChoice) -> NetworkChoice:
        encoder = network.get("encoder", {})
        return {**network, "encoder": {"norm": "batch", **encoder}} if isinstance(encoder, Mapping) else network

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        if self.normals == "lesion_free_slices" and self.plan.placeholder().space.spatial_dims != 2:
            raise ValueError("normals: lesion_free_slices needs a plan of slices (plan.spatial_dims: 2)")
        if self.normals == "lesion_free_slices" and self.target is None:
            raise ValueError("normals: lesion_free_slices needs a target, to know which slices have a lesion")
        if not self.scoring.asks():
            raise ValueError("scoring: features are named by a model's address or a file of weights, not by their shape")
        if self.fold is not None and not self.fold < (self.folds or 0):
            raise ValueError("fold: is one of folds, counted from 0")
        if self.folds is not None and self.fold is None and self.model is not None:
            raise ValueError("folds: each fold trains a model of its own; leave model out, or name the fold that it is of")
        if self.members > 1 and self.model is not None:
            raise ValueError("members: networks are trained, and a model is given; leave one of both out")
        if self.scoring.flips and self.model is None and not self.augmentation.mirrored:
            raise ValueError(
                "scoring.flips averages over mirror images, and the network is shown none: set augmentation.flip, a "
                "probability for each spatial axis, such as [0.5, 0] for left-right, or leave scoring.flips out"
            )
        return self

    def check_network(self, plan: Plan) -> None:
        """Raises ConfigError if network, objective or scoring do not fit a plan, or each other."""
        super().check_network(plan)
        if self.model is None:
            self.scoring.check(self.scored(plan))

    def scored(self, plan: Plan) -> StoredConfig:
        """The network that scores: the one that is trained, or several of them."""
        network = network_config(self.network, plan)
        if self.members == 1:
            return network
        return AutoencoderEnsembleConfig.model_validate({"member": to_dict(network), "members": self.members})

    def decisive(self) -> dict[str, Any]:
        """A file of weights counts by what it holds."""
        files = [Path(name).expanduser() for name in self.scoring.weight_files()]
        found = [digest for digest in sha256_of_files(files).values() if isinstance(digest, str)]
        return super().decisive() | ({"weights": found} if found else {})

    def divide(self, manifest: Manifest) -> Split:
        """The sides of a fold, else of the split."""
        if self.folds is None or self.fold is None:
            return super().divide(manifest)
        return fold_subjects(manifest, self.split, self.folds, self.fold)
