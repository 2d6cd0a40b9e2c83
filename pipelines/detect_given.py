"""A detection by a model that is given: what it must be, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medae.anomaly.calibration import Normals
from medae.anomaly.detector import Scoring
from medae.artifact import Artifact
from medae.errors import ConfigError


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


def given_in_words(origin: Mapping[str, Any], normals: Normals) -> str:
    """What a given model learnt from, beside what its threshold was set on."""
    words = {
        "all_scans": "all scans of its pretraining, with lesions where they have some",
        "lesion_free_scans": "scans without a lesion",
        "lesion_free_slices": "lesion-free slices of patients",
    }
    learnt = words.get(origin["learnt_from"], "scans that are not recorded")
    return f"The model was given. It learnt from {learnt}; the threshold was set here, on {words[normals]}."
