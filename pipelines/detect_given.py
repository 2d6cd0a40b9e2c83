"""A model that is given: what it must be, where it comes from, and whether scans are like those that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from medae.anomaly.calibration import Normals
from medae.anomaly.detector import Scoring
from medae.artifact import Artifact
from medae.data.case import Case, Manifest
from medae.data.reading import read_array
from medae.errors import ConfigError
from medae.inference.contract import Look, differences, refuse
from medae.models.blocks import NormKind
from medae.preprocessing.prepare import Prepared
from medae.report.html import Report
from pipelines.console import Screen


def check_given(artifact: Artifact, scoring: Scoring, normals: Normals) -> None:
    """Raises ConfigError if a model cannot score anomalies in the way that is asked for."""
    if artifact.meta.kind == "segmenter":
        raise ConfigError(
            "The model is a segmenter; anomalies are scored by an autoencoder.",
            where="model",
            remedy="Give an autoencoder.",
        )
    if normals == "lesion_free_slices" and artifact.meta.plan.space.slice_axis is None:
        raise ConfigError(
            "The model sees volumes, of which single slices cannot be left out.",
            where="normals",
            remedy="Use normals: lesion_free_scans, or a model of slices.",
        )
    if scoring.flips and not artifact.meta.provenance.get("mirrored"):
        raise ConfigError(
            "The model was shown no mirror images when it was trained, and would answer wrongly to them.",
            where="scoring.flips",
            remedy="Leave it out, or train the model with augmentation.flip.",
        )
    scoring.check(artifact.meta.network)
    scoring.check_features(artifact.meta.plan.space)


def origin_of(artifact: Artifact) -> dict[str, Any]:
    """What the record of a detection says of the model that it was given.

    learnt_from: a detector's own record of it; a pretraining leaves no lesion out.
    """
    known = artifact.meta.provenance
    learnt_from = known.get("learnt_from", "not recorded") if artifact.meta.kind == "detector" else "all_scans"
    return {
        "learnt_from": learnt_from,
        "objective": known.get("objective", "not recorded"),
        "mirrored": list(known.get("mirrored", ())),
        "model_run": known.get("run_id", ""),
    }


def given_in_words(origin: Mapping[str, Any], normals: Normals, norm: NormKind) -> str:
    """What a given model learnt from, beside what its threshold was set on, and whether its norm takes brightness out."""
    words = {
        "all_scans": "all scans of its pretraining, with lesions where they have some",
        "lesion_free_scans": "scans without a lesion",
        "lesion_free_slices": "lesion-free slices of patients",
    }
    learnt = words.get(origin["learnt_from"], "scans that are not recorded")
    said = f"The model was given. It learnt from {learnt}; the threshold was set here, on {words[normals]}."
    if norm == "instance":
        said += (
            " It has instance norm, which gives every image the same mean in every feature, and so hides how bright a "
            "lesion is: one that is pretrained with network.encoder.norm batch may find more."
        )
    return said


def unlike(
    manifest: Manifest, artifact: Artifact, prepared: Callable[[Case], Prepared], screen: Screen
) -> dict[str, list[str]]:
    """By case, in sentences, how scans differ from those that a model was trained on; those that do not are left out.

    prepared: a scan in the space of the model's plan. Raises DataError for a scan that medae predict refuses.
    """
    space, found = artifact.meta.plan.space, dict[str, list[str]]()
    with screen.progress("Comparing with the model's training scans") as report:
        for done, case in enumerate(manifest.cases, start=1):
            own, look = prepared(case), Look()
            refs = [case.images[name] for name in space.channels if name in case.images]
            for ref in refs:
                look(torch.from_numpy(read_array(manifest, ref)[0]), own.mask, own.affine)
            remarks = refuse(differences(space, artifact.meta.domain, own, look, refs[0].modality), case.id, False, hint="")
            if remarks:
                found[case.id] = remarks
            report(done, len(manifest.cases))
    if found:
        first, remarks = next(iter(found.items()))
        others = "" if len(found) == 1 else f" The report names {len(found) - 1} more that differ."
        screen.warn(f"{first} is unlike the scans that the model was trained on. {' '.join(remarks)}{others}")
    return found


def describe_unlike(report: Report, remarks: Mapping[str, list[str]]) -> None:
    """A section of the report; nothing where all scans are like those that the model was trained on."""
    if not remarks:
        return
    report.section("Scans unlike the model's training scans")
    report.table(["Case", "What differs"], [[case, " ".join(sentences)] for case, sentences in remarks.items()])
