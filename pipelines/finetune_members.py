"""The members of an arm: the same training from other seeds or without other folds of the labelled cases, kept apart while
they train, one model afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medae.data.case import Manifest
from medae.errors import ConfigError
from medae.models.ensemble import Ensemble, EnsembleConfig
from medae.models.networks import Network
from medae.training.loop import FitResult
from pipelines.members import member_names, member_seeds


@dataclass(frozen=True)
class Share:
    """What one member trains on. name: the arm's, and which member if there are several. held: its fold, never seen."""

    name: str
    seed: int
    training: Manifest
    held: Manifest


def shares_of(arm: str, seed: int, members: int, folds: int | None, training: Manifest) -> list[Share]:
    """The shares of an arm's members: all of the cases each, or without a fold each, a fold being every so manieth subject.

    Raises ConfigError if there are fewer subjects than folds.
    """
    if folds is None:
        nobody = training.of_subjects([])
        pairs = zip(member_names(arm, members), member_seeds(seed, members), strict=True)
        return [Share(name, each, training, nobody) for name, each in pairs]
    subjects = list(dict.fromkeys(case.subject for case in training.cases))
    if len(subjects) < folds:
        raise ConfigError(
            f"{len(subjects)} labelled subjects cannot be {folds} folds.", where="folds", remedy=f"At most {len(subjects)}."
        )
    return [
        Share(
            f"{arm}-fold-{place + 1}",
            each,
            training.of_subjects(subject for number, subject in enumerate(subjects) if number % folds != place),
            training.of_subjects(subjects[place::folds]),
        )
        for place, each in enumerate(member_seeds(seed, folds))
    ]


@dataclass(frozen=True)
class Member:
    """One training of an arm. held: the labelled cases that it did not train on, none without folds."""

    name: str
    seed: int
    held: Manifest
    network: Network
    result: FitResult


@dataclass(frozen=True)
class TrainedArm:
    """An arm after its training."""

    name: str
    members: tuple[Member, ...]

    @cached_property
    def model(self) -> Network:
        """Its only member, or the ensemble of them."""
        networks = [member.network for member in self.members]
        if len(networks) == 1:
            return networks[0]
        return Ensemble(EnsembleConfig(member=networks[0].config, members=len(networks)), networks)

    @property
    def alone(self) -> tuple[Member, ...]:
        """The members that are scored beside the arm's model: none if there is but one."""
        return self.members if len(self.members) > 1 else ()

    def facts(self) -> dict[str, Any]:
        """What a model's record says of how it was trained."""
        if len(self.members) == 1:
            return {"steps": self.members[0].result.steps, "seed": self.members[0].seed}
        return {
            "members": len(self.members),
            "steps": [member.result.steps for member in self.members],
            "seeds": [member.seed for member in self.members],
        }


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A model's figures over all cases."""
    return {key: value for key, value in metrics.items() if key.endswith("_mean") or key == "n_test"}


def of_members(members: Sequence[Member], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The members' figures of the test cases one by one, and their mean: what one training alone is expected to reach."""
    each = {member.name: {"seed": member.seed, **summary(metrics[member.name])} for member in members}
    means: dict[str, float | None] = {}
    for key in summary(metrics[members[0].name]):
        values = [figures[key] for figures in each.values() if figures[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {"mean": means, "each": each}
