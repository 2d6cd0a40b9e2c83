"""What the arms of a fine-tuning came to: their figures, their difference, and the models that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medae.artifact import ArtifactMeta, save_artifact
from medae.data.case import Manifest
from medae.metrics.statistics import PairedDifference, paired_difference
from medae.models.networks import Network
from medae.plan import Plan
from pipelines.data import image_digests
from pipelines.stage import Stage

PRETRAINED, SCRATCH = "pretrained", "scratch"


def case_dice(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice over the labels of each case of an arm's summary; cases without any are left out."""
    means = {}
    for case, labels in metrics["cases"].items():
        values = [score["dice"] for score in labels.values() if score["dice"] is not None]
        if values:
            means[case] = float(np.mean(values))
    return means


def compare_arms(metrics: Mapping[str, Mapping[str, Any]], test: Manifest) -> dict[tuple[str, str], PairedDifference]:
    """Each arm minus each plainer one: semi-supervised, then pretrained, then scratch is the order."""
    arms = [*(arm for arm in metrics if arm not in (PRETRAINED, SCRATCH)), PRETRAINED, SCRATCH]
    pairs = combinations([arm for arm in arms if arm in metrics], 2)
    return {(a, b): found for a, b in pairs if (found := _difference(metrics[a], metrics[b], test)) is not None}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], test: Manifest) -> PairedDifference | None:
    """One arm minus another, mean Dice of each test case in which both have one."""
    a, b = case_dice(one), case_dice(other)
    both = [case for case in test.cases if case.id in a and case.id in b]
    subjects = [case.subject for case in both]
    return paired_difference([a[case.id] for case in both], [b[case.id] for case in both], subjects) if both else None


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's figures over all cases."""
    return {key: value for key, value in metrics.items() if key.endswith("_mean") or key == "n_test"}


def keep(
    stage: Stage,
    plan: Plan,
    target: str,
    labels: Mapping[int, str],
    shown: Manifest,
    arm: str,
    network: Network,
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Save an arm's segmenter; returns its folder.

    shown: the cases whose images or labels were used. facts: of its training, with ``pretrained``: whether it began with
    the encoder's weights.
    """
    provenance = stage.provenance | {"arm": arm, **facts}
    seen = set(image_digests(shown))
    if facts["pretrained"]:
        seen |= set(stage.inputs["encoder"].meta.seen)
        provenance |= {"encoder_run": stage.inputs["encoder"].meta.provenance.get("run_id", "")}
    meta = ArtifactMeta(
        kind="segmenter",
        network=network.config,
        plan=plan,
        target=target,
        labels=dict(labels),
        provenance=provenance,
        seen=tuple(sorted(seen)),
        metrics=summary(metrics),
    )
    folder = stage.folder / f"model-{arm}"
    save_artifact(folder, network, meta)
    return folder
