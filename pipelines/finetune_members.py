"""The members of an arm: the same training from other seeds, kept apart while they train, one model afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medae.models.ensemble import Ensemble, EnsembleConfig
from medae.models.networks import Network
from medae.seeding import seed_for
from medae.training.loop import FitResult
from pipelines.finetune_results import summary


@dataclass(frozen=True)
class Member:
    """One training of an arm. name: the arm's, and which member if there are several."""

    name: str
    seed: int
    network: Network
    result: FitResult


def member_seeds(seed: int, members: int) -> tuple[int, ...]:
    """The seed of each member; the first has the configuration's own, so that it is the training without others.

    The further ones are far from it: an ensemble of seed 1 shares no member with that of seed 0.
    """
    return (seed, *(seed_for(seed, "member", number) for number in range(2, members + 1)))


def member_names(arm: str, members: int) -> tuple[str, ...]:
    """The arm's name, or one a member."""
    return (arm,) if members == 1 else tuple(f"{arm}-member-{number}" for number in range(1, members + 1))


def as_one(members: Sequence[Network]) -> Network:
    """The network of an arm: its only member, or the ensemble of them."""
    if len(members) == 1:
        return members[0]
    return Ensemble(EnsembleConfig(member=members[0].config, members=len(members)), members)


def to_score(trained: Mapping[str, Sequence[Member]]) -> dict[str, Network]:
    """What is applied to the test cases: each arm as one model and, where it has several members, each alone too."""
    models = {arm: as_one([member.network for member in members]) for arm, members in trained.items()}
    alone = {member.name: member.network for members in trained.values() if len(members) > 1 for member in members}
    return models | alone


def of_members(members: Sequence[Member], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The members' figures of the test cases one by one, and their mean: what one training alone is expected to reach."""
    each = {member.name: {"seed": member.seed, **summary(metrics[member.name])} for member in members}
    means: dict[str, float | None] = {}
    for key in summary(metrics[members[0].name]):
        values = [figures[key] for figures in each.values() if figures[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return {"mean": means, "each": each}


def facts_of(members: Sequence[Member]) -> dict[str, Any]:
    """What a model's record says of how it was trained."""
    if len(members) == 1:
        return {"steps": members[0].result.steps, "seed": members[0].seed}
    return {
        "members": len(members),
        "steps": [member.result.steps for member in members],
        "seeds": [member.seed for member in members],
    }
