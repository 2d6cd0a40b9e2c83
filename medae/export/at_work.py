"""A trained model at work: from a new scan to layers on its own grid, for whoever reads scans and writes results.

``medae predict`` and the model that MLflow loads do the same thing by this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medae.anomaly.calibration import Calibration
from medae.anomaly.detector import Scoring, load_map, scan_maps
from medae.anomaly.findings import as_csv, findings_of
from medae.anomaly.scan import Scan
from medae.artifact import Artifact
from medae.config import digest, validate
from medae.data.case import Modality
from medae.errors import ArtifactError, ConfigError, DataError
from medae.inference.brainmask import extraction_of
from medae.inference.combine import Segmenter, segment
from medae.inference.contract import ANYWAY, Look, cut_off, differences, refuse
from medae.inference.native import labels_to_native
from medae.plan import SpacePlan
from medae.preprocessing.brain import BrainExtraction
from medae.preprocessing.prepare import Change, Prepared

Preparation = Callable[[SpacePlan, BrainExtraction | None, Change], Prepared]
"""Reads a scan and brings it into a space. The change is to be applied to its raw channels: it looks at them."""


@dataclass(frozen=True)
class Layer:
    """One result on the file's own axes, three of them.

    name: of what it is, empty for a segmenter's label map. labels: what the values of a label map are called, without the
    background; None for a map of numbers. meaning: of the numbers, in words. window: of the numbers that a viewer shows at
    first, lowest and highest.
    """

    name: str
    array: np.ndarray
    labels: Mapping[int, str] | None = None
    meaning: str = ""
    window: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Given:
    """A scan in the space of each model (the same object where spaces agree), and what is to be said of it."""

    prepared: list[Prepared]
    remarks: list[str]


@dataclass(frozen=True)
class Made:
    """What came out. layers: the main one first. said: numbers for a summary. findings: as CSV; None of a segmenter."""

    prepared: Prepared
    layers: list[Layer]
    said: dict[str, Any]
    remarks: list[str]
    findings: str | None = None


class AtWork(ABC):
    """Models on a device. layers: names of what they give of a scan."""

    layers: tuple[str, ...] = ("",)

    def __init__(self, artifacts: Sequence[Artifact], device: torch.device) -> None:
        self.artifacts, self.device = list(artifacts), device
        self._brains = [extraction_of(each.meta.plan.space) for each in artifacts]

    def take(self, prepare: Preparation, modality: Modality, where: str, anyway: bool = False, hint: str = ANYWAY) -> Given:
        """Prepare a scan. modality: as its files say. where: how errors name it. hint: how to have it ``anyway``.

        Raises DataError if it is not of the kind that the models were trained on, unless it is wanted ``anyway``.
        """
        known: dict[str, tuple[Prepared, Look]] = {}
        prepared, remarks = [], list[str]()
        for artifact, brain in zip(self.artifacts, self._brains, strict=True):
            space, look = artifact.meta.plan.space, Look()
            name = digest(space)
            if name not in known:
                known[name] = prepare(space, brain, look), look
            own, seen = known[name]
            remarks += refuse(differences(space, artifact.meta.domain, own, seen, modality), where, anyway, hint)
            prepared.append(own)
        return Given(prepared, list(dict.fromkeys(remarks)))

    def apply(self, given: Given, where: str) -> Made:
        """What the models make of a scan. Raises DataError if the memory of the GPU does not suffice."""
        try:
            return self._apply(given)
        except torch.OutOfMemoryError as error:
            raise DataError(
                "The memory of the GPU does not suffice for this scan.",
                where=where,
                remedy="Give --device cpu, or end what else runs on the GPU.",
            ) from error

    @abstractmethod
    def _apply(self, given: Given) -> Made: ...


class Segmenting(AtWork):
    """The label map, of several networks with the map of their disagreement; says the volume of each label."""

    def __init__(self, artifacts: Sequence[Artifact], device: torch.device, flips: bool = False) -> None:
        super().__init__(artifacts, device)
        self._segmenters = [self._segmenter(artifact, flips) for artifact in artifacts]
        if sum(len(each.members()) for each in self._segmenters) > 1:
            self.layers = ("", "disagreement")

    def _segmenter(self, artifact: Artifact, flips: bool) -> Segmenter:
        known = artifact.meta.provenance
        mirrored = known.get("mirrored", ()) if flips or known.get("flips") else ()
        if flips and not mirrored:
            raise ConfigError(
                "The model was shown no mirror images when it was trained, and would answer wrongly to them.",
                where="--flips",
                remedy="Leave it out, or fine-tune with augmentation.flip.",
            )
        return Segmenter(artifact.model().to(self.device), artifact.meta.plan, self.device, mirrored)

    def _apply(self, given: Given) -> Made:
        found, native = segment(self._segmenters, given.prepared), given.prepared[0].native
        names = {value: name for value, name in self.artifacts[0].meta.labels.items() if value}
        counts = np.bincount(found.labels.ravel(), minlength=max(names) + 1)
        volumes = {name: int(counts[value]) * native.voxel_ml for value, name in names.items()}
        layers, said = [Layer("", found.labels, names)], dict[str, Any](volume_ml=volumes)
        if found.disagreement is not None:
            meaning = "Disagreement of the networks: mutual information as a share of its largest value, 0 to 1."
            layers.append(Layer("disagreement", found.disagreement, meaning=meaning))
            inside = found.disagreement[found.labels > 0]
            said |= {"disagreement_mean": float(inside.mean()) if inside.size else None}
        remarks = list(given.remarks)
        if found.on_plan is not None:
            for artifact in self.artifacts:
                remarks += cut_off(found.on_plan, artifact.meta.domain, given.prepared[0], names)
        return Made(given.prepared[0], layers, said, list(dict.fromkeys(remarks)))


class Detecting(AtWork):
    """Heat map, flagged mask and the mask that was scored; says the scan's score and its findings."""

    layers = ("heatmap", "anomaly", "mask")

    def __init__(self, artifacts: Sequence[Artifact], device: torch.device, flips: bool = False) -> None:
        super().__init__(artifacts, device)
        (artifact,) = artifacts
        calibration = dict(artifact.meta.calibration or {})
        self.scoring = validate(Scoring, calibration.pop("scoring", {}), where=artifact.folder)
        self.calibration = validate(Calibration, calibration, where=artifact.folder)
        if flips and not self.scoring.flips:
            raise ConfigError(
                "The detector's threshold was set on maps without mirror images, and does not hold for others.",
                where="--flips",
                remedy="Leave it out, or set the threshold anew (medae detect with scoring.flips and this model).",
            )
        self._mirrored = artifact.meta.provenance.get("mirrored", ()) if self.scoring.flips else ()
        self._plan = artifact.meta.plan
        self._network = artifact.model().to(device)
        self._map = load_map(self.scoring, len(self._plan.space.channels), artifact.statistics())

    def _apply(self, given: Given) -> Made:
        (prepared,) = given.prepared
        scan = Scan(prepared, self._plan, self._network, self.device, mirrored=self._mirrored)
        maps = scan_maps(scan, self._map, self.scoring)
        flagged = maps.flagged(self.calibration.threshold, self.scoring)
        found, score = findings_of(maps.heat, flagged, prepared.native), maps.score(self.scoring, self.calibration)
        said = {
            "score": score,
            "percentile_among_normals": self.calibration.percentile(score),
            "threshold": self.calibration.threshold,
            "findings": [asdict(each) for each in found],
            "flagged_ml": int(flagged.sum()) * maps.voxel_ml,
            "flagged_share": float(flagged.sum() / maps.mask.sum()),
        }
        if prepared.doubtful is not None:
            doubtful = labels_to_native(prepared.doubtful.to(torch.int16), prepared) > 0
            said["doubtful_ml"] = int(np.count_nonzero(doubtful)) * maps.voxel_ml
            said["flagged_in_doubt_ml"] = int(np.count_nonzero(doubtful & flagged)) * maps.voxel_ml
        whole = self._plan.space.foreground == "brain" and self.scoring.postprocessing.erode == 0
        scored = "brain" if whole else "scored region"
        meaning = "Anomaly map, filtered, in the units of the detector's calibration."
        highest = 2 * self.calibration.threshold if self.calibration.threshold > 0 else max(1e-6, float(maps.heat.max()))
        layers = [
            Layer("heatmap", maps.heat, meaning=meaning, window=(0.0, highest)),
            Layer("anomaly", flagged.astype(np.uint8), {1: "anomaly"}),
            Layer("mask", maps.mask.astype(np.uint8), {1: scored}),
        ]
        return Made(prepared, layers, said, given.remarks, as_csv(found))


def put_to_work(
    artifacts: Sequence[Artifact], addresses: Sequence[str], device: torch.device, flips: bool = False
) -> AtWork:
    """A segmenter or several, or a detector. addresses: how errors name them.

    Raises ArtifactError for a model that predicts nothing, and for several that do not go together, ConfigError for flips of
    a segmenter that was shown none, or of a detector whose threshold was set without.
    """
    first = artifacts[0].meta
    for address, artifact in zip(addresses, artifacts, strict=True):
        if artifact.meta.kind == "autoencoder":
            raise ArtifactError(
                "A pretrained autoencoder segments nothing.",
                where=address,
                remedy="Fine-tune it (medae finetune), or score anomalies with it (medae detect --model).",
            )
        if len(artifacts) > 1 and artifact.meta.kind == "detector":
            raise ArtifactError(
                "Detectors are not averaged: the threshold of each holds for its own maps, and none for their mean.",
                where=address,
                remedy="Give one detector; to combine maps, use scoring.map: {kind: sum} in medae detect.",
            )
        if artifact.meta.labels != first.labels or artifact.meta.plan.space.channels != first.plan.space.channels:
            raise ArtifactError(
                "The models have other labels or channels than the first.",
                where=address,
                remedy="Average models of one task.",
            )
    return (Segmenting if first.kind == "segmenter" else Detecting)(artifacts, device, flips)
