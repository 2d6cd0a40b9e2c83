"""Opening a data set for a stage: manifest, check, split, and the preprocessed store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medae.artifact import Artifact
from medae.config import Config, digest, validate
from medae.data.brain_masks import BRAIN_MASK
from medae.data.case import Manifest
from medae.data.check import Check, check_manifest
from medae.data.digests import cache_folder, reporting
from medae.data.finding import Finding
from medae.data.sources import SourceConfig, open_manifest
from medae.data.split import Split, SplitConfig, split_subjects
from medae.errors import ConfigError, DataError
from medae.inference.brainmask import extraction_of
from medae.parallel import usable_cores
from medae.plan import SpacePlan
from medae.preprocessing.estimate import free_bytes, readable
from medae.preprocessing.store import Store, build_store
from pipelines.console import Screen, shown

MOST_WORKERS = 4
"""Processes that prepare scans: each holds several copies of one."""


class DataConfig(Config):
    """Which data, and who is for what.

    case_ids: ``given`` keeps the data set's own pseudonyms, ``hashed`` hides them. max_cases: only the first so many
    cases (after sorting by id), for a trial. workers: processes that check and prepare scans, at most; without it one a
    core, and 4 for preparing, since each holds several copies of a scan in memory. They change the speed only.
    """

    data: SourceConfig
    case_ids: Literal["given", "hashed"] = "given"
    max_cases: int | None = None
    split: SplitConfig = SplitConfig()
    workers: int | None = Field(default=None, ge=1)

    def divide(self, manifest: Manifest) -> Split:
        """Who trains, who is chosen on, who is tested on."""
        return split_subjects(manifest, self.split)


class Opened(Config):
    """A source by itself."""

    data: SourceConfig


DIGITS = 16
MADE = ("phantom", "rendered")
"""Layouts whose files medae makes where they are missing."""


@dataclass(frozen=True)
class Dataset:
    """A checked data set. manifest: without the cases that have an error; its labels are named, by their values where nobody
    declared them. digest: of what was opened."""

    manifest: Manifest
    findings: tuple[Finding, ...]
    excluded: tuple[str, ...]
    split: Split
    digest: str

    def subset(self, subjects: Iterable[str]) -> Manifest:
        """The cases of some subjects."""
        return self.manifest.of_subjects(subjects)


def located(source: SourceConfig) -> SourceConfig:
    """What is made is made in the working folder, whatever MEDAE_DATA says: a data folder may be read-only."""
    if source.format in MADE and not source.root.expanduser().is_absolute():
        return source.model_copy(update={"root": Path.cwd() / source.root})
    return source


def open_folder(folder: Path, format: str = "auto", keys: Mapping[str, Any] | None = None) -> Manifest:
    """The data set in a folder that was named on the command line: relative to the working folder.

    keys: of the source; a ``format`` among them overrules. Raises ConfigError for a ``root`` among them.
    """
    keys = keys or {}
    if "root" in keys:
        raise ConfigError(
            "The root of the data is the folder that the command names.",
            where="data.root",
            remedy="Name the folder on the command line, and leave out data.root.",
        )
    content = {"format": format, **keys, "root": folder.expanduser().absolute()}
    return open_manifest(validate(Opened, {"data": content}, where="--format").data)


def open_dataset(config: DataConfig, screen: Screen) -> Dataset:
    """Open, check and split. Cases with an error are left out and named."""
    made = config.data.format in MADE
    with screen.progress("Making and reading files" if made else "Reading files") as report, reporting(report):
        manifest = open_manifest(located(config.data), config.case_ids)
    if config.max_cases is not None:
        manifest = manifest.model_copy(update={"cases": manifest.cases[: config.max_cases]})
    check = checked(manifest, config.data.root, screen, config.workers)
    kept = check.usable
    total = digest({"manifest": manifest.digest(), "ids": [case.id for case in kept.cases]})
    kept = kept.model_copy(update={"labels": _found_labels(check) | kept.labels})
    return Dataset(kept, check.findings, check.excluded, config.divide(kept), total)


def _found_labels(check: Check) -> dict[str, dict[int, str]]:
    """Names of the values that the label maps of all usable cases hold, by target: what the labels are does not depend on
    which cases are trained on."""
    values: dict[str, set[int]] = {}
    for case in check.usable.cases:
        for target, facts in check.inspections[case.id].targets.items():
            values.setdefault(target, set()).update(facts.labels or {})
    return {target: {value: name_of(target, value) for value in sorted({0, *found})} for target, found in values.items()}


def name_of(target: str, value: int) -> str:
    """What a label is called that nobody named."""
    return f"{target} {value}" if value else "background"


def checked(manifest: Manifest, root: Path, screen: Screen, workers: int | None = None) -> Check:
    """Check all scans and say what is wrong. root: for the DataError that is raised if no case is usable."""
    with screen.progress("Checking scans") as report:
        check = check_manifest(manifest, workers=workers or usable_cores(), progress=report)
    for finding in check.findings:
        if finding.level == "error":
            said = f"{finding.case or 'A file'} left out: {finding.problem} ({finding.file}) {finding.remedy}"
            screen.warn(said, str(root))
    for problem, count in Counter(finding.problem for finding in check.findings if finding.level == "warning").items():
        times = "once" if count == 1 else f"{count} times"
        screen.warn(f"{problem} (found {times}; medae check says where)", str(root))
    if not check.usable.cases:
        raise DataError("No case is left after the check.", where=str(root), remedy="Run medae check to see why.")
    return check


def preprocess(
    manifest: Manifest, space: SpacePlan, targets: Sequence[str], screen: Screen, workers: int | None = None
) -> Store:
    """The scans in plan space, from the cache where they are there already."""

    def starting(cases: int, needed: int) -> None:
        text = f"Preprocessing {cases} cases, at most {readable(needed)} in {shown(cache_folder())}"
        free = free_bytes(cache_folder())
        if free < needed:
            screen.warn(f"{text}, where {readable(free)} are free: it may not be enough. MEDAE_CACHE sets another folder.")
        else:
            screen.note(text)

    workers = workers or min(MOST_WORKERS, usable_cores())
    brain = extraction_of(space)
    with screen.progress("Preprocessing") as report:
        return build_store(manifest, space, cache_folder(), targets, workers, report, brain=brain, starting=starting)


def refuse_idle_masks(config: DataConfig, space: SpacePlan) -> None:
    """Raises ConfigError if the configuration gives brain masks that the plan has no use for."""
    if getattr(config.data, "brain_masks", None) is None or (space.foreground == "brain" and BRAIN_MASK in space.brain_from):
        return
    used = f"the foreground is '{space.foreground}'"
    if space.foreground == "brain":
        used = f"the brain is taken from {', '.join(space.brain_from)}"
    raise ConfigError(
        f"The brain masks that are given would not be used: {used}.",
        where="data.brain_masks",
        remedy=f"Set plan.foreground to brain and plan.brain_from to [{BRAIN_MASK}], or leave the masks out.",
    )


def image_digests(manifest: Manifest) -> tuple[str, ...]:
    """Short digests of the images' contents: enough to recognise a scan, not to find out whose it is."""
    return tuple(sorted({ref.sha256[:DIGITS] for case in manifest.cases for ref in case.images.values()}))


def seen_cases(cases: Manifest, artifact: Artifact) -> tuple[str, ...]:
    """The ids of the cases of which a model was made with any image."""
    return _with_images(cases, artifact.meta.seen)


def _with_images(cases: Manifest, digests: Iterable[str]) -> tuple[str, ...]:
    """The ids of the cases with any of these images."""
    known = set(digests)
    return tuple(case.id for case in cases.cases if any(ref.sha256[:DIGITS] in known for ref in case.images.values()))


def refuse_seen(cases: Manifest, artifact: Artifact, what: str, part: str) -> None:
    """Raises DataError, with the cases' ids, if a model was made with any image of a part of the split."""
    known = seen_cases(cases, artifact)
    if known:
        raise DataError(
            f"The {what} has seen {len(known)} of {len(cases.cases)} {part} scans before: {', '.join(known[:5])}.",
            where="split",
            remedy="Use the split that it was trained with, or train it again without these subjects.",
        )


def refuse_learnt(cases: Manifest, artifact: Artifact, what: str) -> None:
    """Raises DataError, with the cases' ids, if a model has learnt from any image of scans that a threshold is to be set on.

    Those that its own threshold was set on, and nothing else, may serve again.
    """
    known = _with_images(cases, artifact.meta.learnt)
    if known:
        raise DataError(
            f"The {what} has learnt from {len(known)} of {len(cases.cases)} calibration scans: {', '.join(known[:5])}.",
            where="split",
            remedy="Use the split that it was trained with, or give validation subjects that are new to it.",
        )


def description(dataset: Dataset) -> Mapping[str, Any]:
    """For reports: what the data set is."""
    manifest, split = dataset.manifest, dataset.split
    return {
        "Source": f"{manifest.source}{' (phantoms, not patients)' if manifest.phantom else ''}",
        "Cases": len(manifest.cases),
        "Left out": len(dataset.excluded),
        "Subjects (train / validation / test)": f"{len(split.train)} / {len(split.validation)} / {len(split.test)}",
        "Channels": ", ".join(manifest.channels),
        "Digest": manifest.digest()[:12],
    }
