"""What is checked of a label curve before anything is trained: ``check(worker)``."""

from __future__ import annotations

from typing import Any

from medae.config import flatten, to_dict, validate
from medae.data.case import Manifest
from medae.data.split import labelled_subset
from medae.errors import ConfigError, DataError
from medae.plan import Plan
from pipelines.apart import keep_apart
from pipelines.curve_cells import Cell, read_rows
from pipelines.curve_config import ALL
from pipelines.curve_work import Worker
from pipelines.data import Dataset
from pipelines.segmenting import reference, with_target
from pipelines.stage import program_of


def check(worker: Worker) -> Dataset:
    """Open the data sets and read every configuration before anything is trained: what would be chosen by or tested on
    must not be trained on, and arms that are compared must be alike but for what they are named after.

    Returns the fine-tuning's. Raises DataError, with the cases' names, where a scan is on two sides, where no validation
    or test subject has a voxel of the target, and for rows of other data; ConfigError for what cannot be trained or
    compared.
    """
    finetune = worker.written.finetune
    dataset = worker.open("finetune", finetune)
    sides = {name: dataset.subset(getattr(dataset.split, name)) for name in ("train", "validation", "test")}
    for name in ("validation", "test"):
        _refuse_empty(sides[name], str(finetune.get("target", "label")), name)
    keep_apart({"training": sides["train"], "validation": sides["validation"], "test": sides["test"]})
    _check_rows(worker)
    _check_cells(worker, dataset)
    if worker.written.pretrain is not None and worker.written.curve.encoders:
        other = worker.open("pretrain", worker.written.pretrain)
        _check_encoders(worker)
        pretrained = other.subset(other.split.train)
        keep_apart({"pretraining": pretrained, "validation": sides["validation"], "test": sides["test"]})
        _check_plans(worker)
    return dataset


def _refuse_empty(side: Manifest, target: str, name: str) -> None:
    """Raises DataError where no subject to choose by or to test on has the target, or where it is empty in all of them."""
    cases = with_target(side, target).cases
    if not any(reference(side, case, target)[0].any() for case in cases):
        raise DataError(
            f"The label maps '{target}' of all {len(cases)} {name} cases hold nothing but background: no Dice is defined.",
            where="split",
            remedy=f"Give {name} subjects that have it, such as by split.stratify or another split.salt.",
        )


def _check_rows(worker: Worker) -> None:
    """Raises DataError for rows that were measured on another state of the data; rows that do not say are believed."""
    today = worker.data["finetune"]
    rows = [row for row in read_rows(worker.results).values() if row.get("kind") != "encoder"]
    others = [row for row in rows if row.get("data") not in (None, today)]
    if others:
        raise DataError(
            f"{len(others)} rows are of another state of the data: scans, label maps or who takes part differ.",
            where=worker.results,
            remedy="Give another file for the results (--results), or take these rows out.",
        )


def _check_encoders(worker: Worker) -> None:
    """Raises DataError for pretrainings that saw another state of the data; rows that do not say are believed."""
    design, today = worker.design, worker.data["pretrain"]
    cells = {name: design.encoder(name) for name in worker.written.curve.encoders}
    others = [name for name, cell in cells.items() if design.rows.get(cell.digest, {}).get("data") not in (None, today)]
    if others:
        raise DataError(
            f"The data set of pretraining has changed since these encoders were trained: {', '.join(others)}.",
            where=worker.results,
            remedy="Give another file for the results (--results), or take out their rows and those of the arms that "
            "start from them.",
        )


def _check_cells(worker: Worker, dataset: Dataset) -> None:
    """Raises ConfigError for an arm or an encoder that cannot be trained, and for more labels than there are."""
    design, curve = worker.design, worker.written.curve
    rate = curve.search.rates[0]
    for name in curve.encoders:
        _valid(design.encoder(name), f"encoders.{name}")
    for name in curve.arms:
        for count in curve.counts_of(name):
            _valid(design.drawn(name, count, 0, rate), f"arms.{name}")
            _valid(design.searched(name, count, rate), "search")
    target = str(worker.written.finetune.get("target", "label"))
    for count in curve.labelled:
        labelled_subset(dataset.manifest, dataset.split.train, None if count == ALL else int(count), "", target)


def _valid(cell: Cell, where: str) -> None:
    start = {} if cell.needs is None else {"encoder": cell.needs.name}
    validate(program_of(cell.stage).Config, {**cell.content, "name": "check", **start}, where=where)


def _check_plans(worker: Worker) -> None:
    """Raises ConfigError where an encoder and the twin of an arm that starts from it have other networks or voxels."""
    design, curve = worker.design, worker.written.curve
    rate = curve.search.rates[0]
    for name, arm in curve.arms.items():
        if arm.encoder is None:
            continue
        twin = curve.twin_of(name)
        cells = (design.encoder(arm.encoder), design.drawn(twin, curve.counts_of(name)[0], 0, rate))
        own, other = (_shared(Plan.read(worker.plan(cell))) for cell in cells)
        if curve.arms[twin].encoder is None and own != other:
            differ = [f"{key} {own.get(key)} and {other.get(key)}" for key in own | other if own.get(key) != other.get(key)]
            raise ConfigError(
                f"Its encoder has another plan than its twin {twin}, so that the two would differ in more than their "
                f"start: {', '.join(differ)}.",
                where=f"arms.{name}",
                remedy="Give pretrain.set.plan and finetune.set.plan the same keys, or one file (plan: {file: …}).",
            )


def _shared(plan: Plan) -> dict[str, Any]:
    """What two arms must have in common to differ in their start alone: voxels and network."""
    return flatten({"space": to_dict(plan.space), "network": to_dict(plan.network)})
