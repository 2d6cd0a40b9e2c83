"""The probe of a pretraining: what its encoder is worth for a segmentation, measured on labelled training subjects.

It is measured once before the training, as the baseline of all later values, and then as the training goes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medae.artifact import Artifact
from medae.config import to_dict
from medae.data.case import Manifest
from medae.data.split import labelled_subset
from medae.errors import ConfigError, DataError
from medae.models.networks import Network
from medae.plan import Plan
from medae.preprocessing.sampling import SamplerConfig
from medae.report.html import Report
from medae.training.config import FitConfig
from medae.training.loop import FitResult
from medae.training.probes.registry import Probe, ProbeConfig
from pipelines.console import Screen
from pipelines.data import image_digests, preprocess
from pipelines.segmenting import label_names, with_target
from pipelines.stage import Stage

MEASURED = "probe/dice"
"""The metric that may choose the weights to keep."""


def probed_cases(config: ProbeConfig, stage: Stage, salt: str) -> tuple[Manifest, Manifest]:
    """The labelled training cases to fit on, and those to score on: no subject is in both.

    salt: of the order in which subjects are taken, that of the split. Raises ConfigError if too few are labelled.
    """
    dataset = stage.dataset
    asked = config.labelled + config.scored
    subjects = labelled_subset(dataset.manifest, dataset.split.train, None, salt, config.target)
    if len(subjects) < asked:
        raise ConfigError(
            f"The probe asks for {asked} labelled training subjects, {config.labelled} to fit on and {config.scored} to "
            f"score on; {len(subjects)} of {len(dataset.split.train)} have '{config.target}'.",
            where="probe",
            remedy="Lower probe.labelled and probe.scored, name another probe.target, or leave the probe out.",
        )
    fitted, scored = subjects[: config.labelled], subjects[config.labelled : asked]
    return with_target(dataset.subset(fitted), config.target), with_target(dataset.subset(scored), config.target)


class Prober:
    """Called by ``fit`` at the end of each epoch; gives ``probe/...`` in those that it is due in.

    untrained: the probe's Dice of the encoder before its first step. seconds: of each probe so far.
    """

    def __init__(
        self,
        config: ProbeConfig,
        fit: FitConfig,
        cases: tuple[Manifest, Manifest],
        plan: Plan,
        drawing: SamplerConfig,
        network: Network,
        stage: Stage,
        workers: int | None,
    ) -> None:
        """network: with its first weights. Raises DataError if the patches to score hold nothing to be found."""
        self.config, self._fit, self._stage = config, fit, stage
        self.fitted, self.scored = cases
        everyone = self.fitted.model_copy(update={"cases": (*self.fitted.cases, *self.scored.cases)})
        self.images = image_digests(everyone)
        store = preprocess(everyone, plan.space, (config.target,), stage.screen, workers)
        fitted, scored = ([case.id for case in part.cases] for part in cases)
        labels = label_names(everyone, config.target)
        self._probe = Probe(config, store, fitted, scored, plan.space, drawing, labels)
        self.seconds: list[float] = []
        with torch.no_grad():
            untrained = self._measure(network.to(stage.device).eval())["dice"]
        if untrained is None:
            raise self._nothing_to_find(config)
        self.untrained = untrained
        stage.screen.note(f"Probe of the untrained encoder: Dice {untrained:.3f} ({self.seconds[-1]:.1f} s a probe)")

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """``probe/dice``, ``probe/dice/<label>``, ``probe/untrained`` and ``probe/seconds``; nothing when it is not due."""
        if step // self._fit.epoch_steps % self.config.every and step != self._fit.steps:
            return {}
        scores = self._measure(model)
        dice, seconds = float(scores["dice"]), self.seconds[-1]  # type: ignore[arg-type]  # None was refused before the training
        self._stage.screen.note(
            f"Probe after step {step}: Dice {dice:.3f} (untrained {self.untrained:.3f}), {seconds:.1f} s"
        )
        found = {f"probe/{name}": value for name, value in scores.items() if value is not None}
        return found | {MEASURED: dice, "probe/untrained": self.untrained, "probe/seconds": seconds}

    def _nothing_to_find(self, config: ProbeConfig) -> DataError:
        return DataError(
            f"The patches of the {len(self.scored.cases)} cases that the probe scores hold no voxel of '{config.target}'.",
            where="probe",
            remedy="Raise probe.patches or probe.scored, or name another probe.target.",
        )

    def _measure(self, model: nn.Module) -> dict[str, float | None]:
        began = time.perf_counter()
        scores = self._probe(model)  # type: ignore[arg-type]
        self.seconds.append(time.perf_counter() - began)
        return scores

    def provenance(self) -> dict[str, Any]:
        """For the model's record: how many labels the probe saw, of which images, and whether they chose the weights."""
        subjects = {case.subject for part in (self.fitted, self.scored) for case in part.cases}
        chosen = {} if self._fit.monitor is None else {"chosen_by": self._fit.monitor}
        return {"probe_labelled": len(subjects), "probe_images": list(self.images), **chosen}

    def facts(self) -> dict[str, Any]:
        """For ``result.json``: the probe's settings and cases."""
        cases = {"fitted": self.fitted, "scored": self.scored}
        return {"probe": to_dict(self.config) | {name: [case.id for case in part.cases] for name, part in cases.items()}}

    def describe(self, report: Report, result: FitResult, metrics: Mapping[str, Any]) -> None:
        """A card with the value of the weights that were kept, and what it stands on and cost."""
        report.card("Probe Dice", metrics["probe_dice"], f"untrained encoder {self.untrained:.3f}")
        mean = sum(self.seconds) / len(self.seconds)
        measured = f"{self.config.kind}, fitted on {len(self.fitted.cases)} and scored on {len(self.scored.cases)} labelled "
        measured += "training cases; no validation or test case"
        chosen = "the last weights" if self._fit.monitor is None else f"the best probe's weights, of step {result.best_step}"
        report.table(
            ["Probe", ""],
            [
                ["Measured", measured],
                ["Patches a case to score on", self.config.patches],
                ["Dice of the kept weights", metrics["probe_dice"]],
                ["Dice of the untrained encoder", self.untrained],
                ["Kept", chosen],
                ["Cost", f"{mean:.1f} s a probe, {len(self.seconds)} probes in this process"],
            ],
        )


def probe_metrics(record: Mapping[str, float]) -> dict[str, float]:
    """What a record of the history says of the probe, in the names of ``result.json``."""
    names = {MEASURED: "probe_dice", "probe/untrained": "probe_dice_untrained"}
    return {new: record[old] for old, new in names.items() if old in record}


def kept_record(result: FitResult) -> Mapping[str, float]:
    """The record of the history whose weights were kept."""
    return next(record for record in result.history if record["step"] == result.best_step)


def labels_not_shared(provenance: Mapping[str, Any], labelled: Sequence[str]) -> int:
    """How many images, whose labels chose an encoder's weights, are not among the labelled ones (short digests)."""
    return len(set(provenance.get("probe_images", ())) - set(labelled)) if "chosen_by" in provenance else 0


def warn_of_more_labels(encoder: Artifact, labelled: Manifest, screen: Screen) -> None:
    """Say so if the encoder was chosen by labels that a fine-tuning does not count: its scratch twin did without them."""
    more = labels_not_shared(encoder.meta.provenance, image_digests(labelled))
    if more:
        screen.warn(
            f"The encoder's weights were chosen by a probe with the labels of {more} images that are not among the labelled "
            f"ones here: against scratch, it has had more labels than {len(labelled.cases)}."
        )
