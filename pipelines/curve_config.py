"""The configuration of a label curve: which arms are compared, with how many labels, over how many draws of them.

An arm is a few keys over one fine-tuning, an encoder a few keys over one pretraining: all that is not named is shared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medae.config import Config, read_yaml, validate
from medae.errors import ConfigError
from pipelines.configs import find_config, merge, read_config
from pipelines.parent import Named
from pipelines.stage import NAME

ALL = "all"
Count = int | Literal["all"]
OWN = (
    "network",
    "objective",
    "augmentation",
    "drawing",
    "transfer",
    "tuning",
    "unlabelled",
    "registration",
    "members",
    "flips",
    "plan",
    "fit",
)
"""Keys of a fine-tuning that an arm may have its own way. All others are the curve's, or decide who is tested and how."""

OF_ENCODERS = ("network", "objective", "augmentation", "drawing", "fit", "validation_batches", "probe")
"""Keys of a pretraining that an encoder may have its own way."""

OF_BASE: dict[str, Any] = {"encoder": None, "rates": {}, "baseline": "none", "folds": None}
"""Keys of the fine-tuning that all start from which the curve sets itself, and what they may be."""


class Base(Config):
    """What all start from. config: a file beside the curve's, or a shipped name; None if set says all. set: keys over it."""

    config: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Encoder(Config):
    """A pretraining, which is trained once. set: keys over the one that all start from."""

    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own(self) -> Encoder:
        _refuse_others(self.set, OF_ENCODERS, "encoders")
        _fit_of(self.set)
        return self


class Arm(Config):
    """A fine-tuning.

    encoder: which pretraining it starts from; None from scratch. rate: a peak rate that was fixed elsewhere, instead of a
    search on validation subjects. rate_of: the arm whose rate it takes. as_long_as: an arm with an encoder, whose seconds of
    pretraining and fine-tuning together this one trains for. twin: the arm that it is compared with, the curve's baseline
    unless named. labelled: the numbers of labels that it is trained with, all of the curve's unless given. set: keys over
    the fine-tuning that all start from.
    """

    encoder: str | None = None
    rate: float | None = Field(default=None, gt=0)
    rate_of: str | None = None
    as_long_as: str | None = None
    twin: str | None = None
    labelled: tuple[Count, ...] | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own(self) -> Arm:
        _refuse_others(self.set, OWN, "arms")
        if self.encoder is not None and "plan" in self.set:
            raise ValueError("set: the plan of an arm with an encoder is the encoder's")
        fit = _fit_of(self.set)
        if "rate" in fit or "seed" in fit:
            raise ValueError(
                "set: fit.rate is looked for on the validation subjects (or fixed by rate), fit.seed is the draw"
            )
        if self.as_long_as is not None and "steps" in fit:
            raise ValueError("set: fit.steps are as many as as_long_as has time for; leave one of the two out")
        if self.rate is not None and self.rate_of is not None:
            raise ValueError("rate and rate_of contradict each other")
        return self


def _refuse_others(content: Mapping[str, Any], known: tuple[str, ...], whose: str) -> None:
    if named := [key for key in content if key not in known]:
        raise ValueError(
            f"set: {', '.join(named)} must be the same in all {whose}; see the keys of the curve and of the arm. Their own "
            f"are {', '.join(known)}"
        )


def _fit_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys of ``fit`` among those that are set. Raises ValueError if it is no block of keys."""
    fit = content.get("fit", {})
    if not isinstance(fit, Mapping):
        raise ValueError(f"set: fit must be a block of keys, such as fit: {{steps: 200}}, not {_in_file(fit)}")
    return fit


def _in_file(value: Any) -> str:
    """As it stands in the file."""
    return json.dumps(value, default=str)


class Search(Config):
    """How an arm comes to its rate.

    rates: the first to try, ascending. bounds: while the best is the smallest or the largest, its half or double is tried
    too, never beyond them. labelled: the numbers of labels at which it is looked for; a number between takes the nearest
    one's. set: ``fit`` over the fine-tuning's, such as fewer steps.
    """

    rates: tuple[float, ...] = Field(min_length=1)
    bounds: tuple[float, float]
    labelled: tuple[Count, ...] = ()
    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _only_shorter(self) -> Search:
        if others := [key for key in self.set if key != "fit"]:
            raise ValueError(f"set: {', '.join(others)}: a search differs from what it is for in its fit alone")
        if own := [f"fit.{key}" for key in ("rate", "seed") if key in _fit_of(self.set)]:
            raise ValueError(
                f"set: {' and '.join(own)}: a search sets them itself, the rate to each of search.rates in turn"
            )
        return self

    @model_validator(mode="after")
    def _can_be_tried(self) -> Search:
        low, high = self.bounds
        if strange := [rate for rate in (*self.rates, *self.bounds) if not (rate > 0 and math.isfinite(rate))]:
            raise ValueError(f"rates and bounds must be positive numbers, not {_listed(strange)}")
        if low > high:
            raise ValueError(f"bounds: the smaller comes first, and {low:g} is above {high:g}")
        if twice := {rate for rate in self.rates if self.rates.count(rate) > 1}:
            raise ValueError(f"rates: each is tried once, and {_listed(sorted(twice))} is there more than once")
        if beyond := [rate for rate in self.rates if not low <= rate <= high]:
            raise ValueError(f"rates: {_listed(beyond)} lies beyond the bounds, {low:g} to {high:g}")
        return self


def _listed(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


class Curve(Named):
    """What is compared.

    baseline: the arm that the others are compared with. labelled: numbers of labels. draws: of labelled cases, for each
    number, or one number for all. salt: of the draws; another one gives other draws. shared_rates: allow ``rate_of``, and
    a twin with a fixed rate beside arms with a search: comparisons in which not every arm has a rate of its own.
    """

    name: str = Field(pattern=NAME)
    pretrain: Base | None = None
    finetune: Base
    labelled: tuple[Count, ...] = Field(min_length=1)
    draws: int | dict[str, int] = 3
    salt: str = "curve"
    baseline: str = "scratch"
    search: Search
    shared_rates: bool = False
    encoders: dict[str, Encoder] = Field(default_factory=dict)
    arms: dict[str, Arm]

    @field_validator("draws", mode="before")
    @classmethod
    def _as_text(cls, draws: Any) -> Any:
        return {str(key): value for key, value in draws.items()} if isinstance(draws, Mapping) else draws

    @field_validator("labelled")
    @classmethod
    def _ascending(cls, labelled: tuple[Count, ...]) -> tuple[Count, ...]:
        if few := [count for count in labelled if count != ALL and int(count) < 1]:
            raise ValueError(f"an arm needs at least 1 label, and {few[0]} is written")
        if list(labelled) != sorted(set(labelled), key=lambda count: (count == ALL, order_of(count))):
            raise ValueError("must ascend, 'all' last")
        return labelled

    @field_validator("encoders", "arms")
    @classmethod
    def _names_of_folders(cls, named: dict[str, Any]) -> dict[str, Any]:
        if strange := [name for name in named if re.fullmatch(NAME, name) is None]:
            raise ValueError(
                f"'{strange[0]}' becomes the name of a folder and of a run: write it with letters, digits, '.', '_' "
                "and '-', the first a letter or a digit"
            )
        return named

    @model_validator(mode="after")
    def _fits(self) -> Curve:
        if unknown := {arm.encoder for arm in self.arms.values() if arm.encoder} - set(self.encoders):
            raise ValueError(f"there is no encoder {', '.join(sorted(map(str, unknown)))}")
        named = {self.baseline}
        arms = self.arms.values()
        named |= {other for arm in arms for other in (arm.rate_of, arm.as_long_as, arm.twin) if other is not None}
        if unknown := named - set(self.arms):
            raise ValueError(f"there is no arm {', '.join(sorted(map(str, unknown)))}")
        if self.encoders and self.pretrain is None:
            raise ValueError("encoders need pretrain: what their trainings start from")
        for name, arm in self.arms.items():
            self._check(name, arm)
        if isinstance(self.draws, dict) and (without := [count for count in self.labelled if str(count) not in self.draws]):
            raise ValueError(f"draws says nothing of {', '.join(map(str, without))} labels")
        if any(draws < 1 for draws in (self.draws.values() if isinstance(self.draws, dict) else [self.draws])):
            raise ValueError("draws must be at least 1")
        if strange := set(self.search.labelled) - set(self.labelled):
            raise ValueError(f"search.labelled: no such number of labels: {', '.join(sorted(map(str, strange)))}")
        return self

    def _check(self, name: str, arm: Arm) -> None:
        if arm.rate_of is not None and not self.shared_rates:
            raise ValueError(
                f"arms.{name}.rate_of: an arm without a rate of its own loses to one that has it; leave it out, or say "
                "shared_rates: true, which the table repeats"
            )
        if arm.rate_of is not None and self.arms[arm.rate_of].rate_of is not None:
            raise ValueError(f"arms.{name}.rate_of must name an arm that has a search of its own")
        twin = self.twin_of(name)
        if self.searching(name).rate is None and self.searching(twin).rate is not None and not self.shared_rates:
            raise ValueError(
                f"arms.{twin}.rate: {name}, which is compared with it, has its rate looked for, so that an arm with a fixed "
                "rate loses to it; look for both or fix both, or say shared_rates: true"
            )
        if arm.as_long_as is not None and (arm.encoder is not None or self.arms[arm.as_long_as].encoder is None):
            raise ValueError(f"arms.{name}.as_long_as: an arm from scratch can be as long as one with an encoder")
        if arm.as_long_as is not None and any(self.searching(each).rate is not None for each in (name, arm.as_long_as)):
            raise ValueError(
                f"arms.{name}.as_long_as: seconds are taken from the searches of both arms, so fix no rate of them"
            )
        if strange := set(arm.labelled or ()) - set(self.labelled):
            raise ValueError(f"arms.{name}.labelled: no such number of labels: {', '.join(sorted(map(str, strange)))}")
        if without := [count for count in self.counts_of(name) if count not in self.counts_of(self.twin_of(name))]:
            raise ValueError(
                f"arms.{name}: its twin {self.twin_of(name)} is not trained with {', '.join(map(str, without))} labels"
            )
        if arm.rate is None and arm.rate_of is None and len(self.search.rates) < 2:
            raise ValueError(f"arms.{name}: with one rate in search.rates nothing is chosen; fix it by arms.{name}.rate")

    def twin_of(self, name: str) -> str:
        """The arm that an arm is compared with; the baseline is its own."""
        return self.arms[name].twin or self.baseline

    def counts_of(self, name: str) -> tuple[Count, ...]:
        """The numbers of labels that an arm is trained with."""
        return self.arms[name].labelled or self.labelled

    def searching(self, name: str) -> Arm:
        """The arm whose rate an arm has."""
        return self.arms[self.arms[name].rate_of or name]

    def draws_of(self, count: Count) -> int:
        """How many draws of so many labels."""
        return self.draws[str(count)] if isinstance(self.draws, dict) else self.draws

    def search_count(self, count: Count) -> Count:
        """The number of labels whose search an arm of ``count`` labels takes its rate from: the nearest by ratio."""
        places = self.search.labelled or self.labelled
        return min(places, key=lambda place: (abs(order_of(place) - order_of(count)), order_of(place)))


def order_of(count: Count) -> float:
    """Numbers of labels by ratio; ``all`` is beyond any that is written as a number."""
    return math.log2(1000) if count == ALL else math.log2(int(count))


class Written(Config):
    """A curve whose configurations were read. bases: the pretraining and the fine-tuning, before arms and draws."""

    curve: Curve
    pretrain: dict[str, Any] | None
    finetune: dict[str, Any]


def read_curve(name: str, overrides: list[str] | None = None) -> Written:
    """A curve by path or shipped name, with what its stages start from. Raises ConfigError if they do not fit together."""
    path = find_config(name, "curve")
    return written_of(read_config(name, "curve", overrides or []), path)


def written_of(content: Mapping[str, Any], path: Path) -> Written:
    """A curve's keys, validated, with what its stages start from. path: of the file, which others may lie beside."""
    curve = validate(Curve, content, where=path)
    pretrain = None if curve.pretrain is None else _base(curve.pretrain, "pretrain", path)
    finetune = _base(curve.finetune, "finetune", path)
    for kind, base in (("pretrain", pretrain or {}), ("finetune", finetune)):
        _refuse_no_blocks(base, kind, path)
        _refuse_memory(base, f"{path}: {kind}, plan.memory")
    for name, arm in curve.arms.items():
        _refuse_memory(arm.set, f"{path}: arms.{name}, plan.memory")
    if not finetune.get("split", {}).get("validation"):
        raise ConfigError(
            "The curve has no validation subjects: rates and arms would be chosen on the test subjects.",
            where=f"{path}: finetune.split.validation",
            remedy="Give it some, such as 10: they train nothing and are not tested on.",
        )
    _one_training_a_cell(curve, pretrain or {}, finetune, path)
    return Written(curve=curve, pretrain=pretrain, finetune=finetune)


def _refuse_no_blocks(base: Mapping[str, Any], kind: str, path: Path) -> None:
    """Raises ConfigError where a block that the curve reads or adds keys to is something else."""
    for key in ("split", "fit"):
        if not isinstance(base.get(key, {}), Mapping):
            raise ConfigError(
                f"{key} must be a block of keys, not {_in_file(base[key])}.",
                where=f"{path}: {kind}, {key}",
                remedy=f"Write keys below it, or leave {key} out.",
            )


def _refuse_memory(content: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for a memory target: arms that share a plan take more or less than each other with it."""
    plan = content.get("plan")
    if isinstance(plan, Mapping) and plan.get("memory") is not None:
        raise ConfigError(
            "A curve has one plan for all its arms, and cannot make it to fit the memory that one of them takes.",
            where=where,
            remedy=f"Make the plan once (medae plan DATA --memory {plan['memory']} --out plan.yaml), and name it by plan: "
            "{file: plan.yaml}; or set plan.patch and plan.batch.",
        )


def _one_training_a_cell(curve: Curve, pretrain: Mapping[str, Any], finetune: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError where a cell would train more than its arm, or learn from labels that are not counted."""
    for key, value in OF_BASE.items():
        if finetune.get(key, value) != value:
            raise ConfigError(
                f"Every cell of a curve is one training of one arm, and the curve sets {key} itself.",
                where=f"{path}: finetune, {key}",
                remedy=f"Set finetune.set.{key} to {'null' if value is None else value}.",
            )
    for name, arm in curve.arms.items():
        extra = merge(finetune, arm.set).get("unlabelled")
        if isinstance(extra, Mapping) and extra and extra.get("twin", True):
            raise ConfigError(
                "Every cell of a curve is one training, and this arm would bring a twin.",
                where=f"{path}: arms.{name}",
                remedy="Add unlabelled: {twin: false}.",
            )
    for name, encoder in curve.encoders.items():
        if str(merge(pretrain, encoder.set).get("fit", {}).get("monitor", "")).startswith("probe"):
            raise ConfigError(
                "A probe would choose the encoder's weights by labels that no arm is charged for.",
                where=f"{path}: encoders.{name}",
                remedy="Leave fit.monitor out.",
            )


def _base(base: Base, kind: str, path: Path) -> dict[str, Any]:
    if base.config is None:
        return base.set
    beside = path.parent / base.config
    return merge(read_yaml(beside if beside.is_file() else find_config(base.config, kind)), base.set)
