"""Which subjects train, which are chosen on, which are tested on. Never cases: a person is on one side only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StrictFloat, StrictInt

from medae.config import Config
from medae.data.case import ImageRef, Manifest
from medae.errors import ConfigError

Size = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0, lt=1)]


class SplitConfig(Config):
    """How subjects are divided.

    salt: decides the order of the subjects; ``medae-{seed}:`` if not given. test, validation: a number of subjects, or
    a share of them (0.2), of which a positive one is at least one subject; the rest trains. stratify: covariate or
    target (a covariate goes first) whose values get the same share in each part; of label maps: has one, or has none.
    """

    salt: str | None = None
    seed: int = 0
    test: Size = 0.2
    validation: Size = 0.1
    stratify: str | None = None

    def order_salt(self) -> str:
        """The salt that orders the subjects."""
        return f"medae-{self.seed}:" if self.salt is None else self.salt


@dataclass(frozen=True)
class Split:
    """Subjects of each part, in the order that the salt gives."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def ordered(subjects: Iterable[str], salt: str, keys: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The distinct subjects by the SHA-1 of salt + subject: an order that does not depend on who else is there.

    keys: the names by which hashed subjects are ordered.
    """

    def place(subject: str) -> str:
        return hashlib.sha1(f"{salt}{(keys or {}).get(subject, subject)}".encode(), usedforsecurity=False).hexdigest()

    return tuple(sorted(set(subjects), key=place))


def split_subjects(manifest: Manifest, config: SplitConfig) -> Split:
    """Divide the subjects: in the salt's order the first are test, the next validation, the rest training.

    With ``stratify`` this happens in each stratum, such that the parts' sizes stay what was asked for.
    Raises ConfigError if no subject would be left for training, or if the strata cannot be used.
    """
    subjects = ordered((case.subject for case in manifest.cases), config.order_salt(), _keys(manifest))
    n_test, n_validation = _count(config.test, len(subjects)), _count(config.validation, len(subjects))
    if n_test + n_validation >= len(subjects):
        raise ConfigError(
            f"{n_test} test and {n_validation} validation subjects of {len(subjects)} leave none for training.",
            where="split",
            remedy="Ask for fewer, or add subjects.",
        )
    strata = _strata(manifest, subjects, config.stratify)
    test = _take(strata, n_test)
    validation = _take({name: [s for s in members if s not in test] for name, members in strata.items()}, n_validation)
    return Split(
        train=tuple(s for s in subjects if s not in test and s not in validation),
        validation=tuple(s for s in subjects if s in validation),
        test=tuple(s for s in subjects if s in test),
    )


def fold_subjects(manifest: Manifest, config: SplitConfig, folds: int, fold: int) -> Split:
    """One fold of a cross-validation, in which every subject is tested once: ``test`` of the configuration has no effect.

    In the salt's order (of each stratum) every ``folds``-th subject is test, beginning with the fold's number; validation
    is taken from the next fold on, so that it changes too. Raises ConfigError if there are fewer subjects than folds, or
    none would be left for training.
    """
    subjects = ordered((case.subject for case in manifest.cases), config.order_salt(), _keys(manifest))
    n_validation = _count(config.validation, len(subjects))
    strata = _strata(manifest, subjects, config.stratify)
    dealt = [subject for members in strata.values() for subject in members]
    place = {subject: number % folds for number, subject in enumerate(dealt)}
    test = [subject for subject in subjects if place[subject] == fold]
    if not test or len(test) + n_validation >= len(subjects):
        raise ConfigError(
            f"{len(subjects)} subjects cannot be {folds} folds with {n_validation} for validation in each.",
            where="folds",
            remedy="Ask for fewer folds or fewer validation subjects.",
        )

    def others(members: list[str]) -> list[str]:
        rest = [subject for subject in members if place[subject] != fold]
        return sorted(rest, key=lambda subject: (place[subject] - fold) % folds)

    validation = _take({name: others(members) for name, members in strata.items()}, n_validation)
    return Split(
        train=tuple(s for s in subjects if place[s] != fold and s not in validation),
        validation=tuple(s for s in subjects if s in validation),
        test=tuple(test),
    )


def labelled_subset(
    manifest: Manifest, subjects: Iterable[str], count: int | None, salt: str, target: str = "label"
) -> tuple[str, ...]:
    """The first ``count`` (None: all) of the given subjects that have the target, in the salt's order.

    Of two subsets the smaller is contained in the larger. Raises ConfigError if fewer have the target.
    """
    having = {case.subject for case in manifest.cases if target in case.targets}
    candidates = ordered(having.intersection(subjects), salt, _keys(manifest))
    if count is not None and not 0 <= count <= len(candidates):
        raise ConfigError(
            f"{count} labelled subjects are asked for; {len(candidates)} of these subjects have '{target}'.",
            where="labelled subjects",
            remedy=f"Ask for at most {len(candidates)}.",
        )
    return candidates[:count]


def _keys(manifest: Manifest) -> dict[str, str]:
    return {case.subject: case.split_key or case.subject for case in manifest.cases}


def _count(size: int | float, n_subjects: int) -> int:
    if isinstance(size, int):
        return size
    return max(1, round(size * n_subjects)) if size > 0 else 0


def _strata(manifest: Manifest, subjects: tuple[str, ...], key: str | None) -> dict[str, list[str]]:
    """Subjects of each stratum, in the given order. A subject whose cases differ counts under all their values."""
    if key is None:
        return {"": list(subjects)}
    values: dict[str, set[str]] = {subject: set() for subject in subjects}
    known = {name for case in manifest.cases for name in (*case.covariates, *case.targets)}
    if key not in known:
        raise ConfigError(
            f"No case has a covariate or target '{key}'.",
            where="split.stratify",
            remedy=f"Choose one of: {', '.join(sorted(known)) or 'nothing is available'}.",
        )
    for case in manifest.cases:
        value = case.covariates[key] if key in case.covariates else case.targets.get(key)
        values[case.subject].add("labelled" if isinstance(value, ImageRef) else str(value))
    strata: dict[str, list[str]] = {}
    for subject in subjects:
        strata.setdefault(" & ".join(sorted(values[subject])), []).append(subject)
    if len(strata) > max(2, len(subjects) / 2):
        raise ConfigError(
            f"'{key}' has {len(strata)} values in {len(subjects)} subjects: too many to share them out.",
            where="split.stratify",
            remedy="Stratify by something with few values.",
        )
    return strata


def _take(strata: dict[str, list[str]], count: int) -> frozenset[str]:
    """The first subjects of each stratum, ``count`` in all, shared out by the largest remainders."""
    total = sum(len(members) for members in strata.values())
    quotas = {name: count * len(members) / total for name, members in strata.items()}
    numbers = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(strata, key=lambda name: (numbers[name] - quotas[name], name))
    for name in by_remainder[: count - sum(numbers.values())]:
        numbers[name] += 1
    return frozenset(subject for name, members in strata.items() for subject in members[: numbers[name]])
