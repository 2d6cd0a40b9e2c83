"""Writing a label curve for a data set folder: its splits, its configurations, and the matrix that fits the time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml

from medae.config import apply_overrides, read_yaml, validate
from medae.data.case import ImageRef, Manifest
from medae.data.roots import absolute_root
from medae.data.sources import source_format
from medae.errors import ConfigError
from pipelines.console import Screen, shown
from pipelines.curve_budget import Matrix, Times, choose, content_of, describe, resolves
from pipelines.curve_cells import Design
from pipelines.curve_config import Written, written_of
from pipelines.curve_timing import cut_short, measure, threads_of_a_job
from pipelines.curve_work import Worker
from pipelines.data import DataConfig, open_dataset
from pipelines.files import write_text
from pipelines.networks import device_of

FEWEST = 8
"""Labelled subjects below which there is nothing to compare: some train, some choose, some test."""

SHORT = {"fit": {"steps": 15, "epoch_steps": 5, "schedule": {"warmup": 2}}}
SMALL = {"stem": "space_to_depth", "widths": [24, 48, 96], "batch": 2}
"""Hints for the plan where there is no GPU."""


def plan_curve(
    folder: Path,
    format: str,
    overrides: Sequence[str],
    runs: Path,
    budget: float,
    executor: str,
    jobs: int,
    screen: Screen,
) -> Path:
    """Write the curve of a data set to ``curve.yaml`` in its folder below ``runs``, unless there is one; returns the file.

    budget: seconds. overrides: keys of the curve, such as ``finetune.set.plan.widths=[16,32]``. executor, jobs: what will
    run it; with ``jobs`` processes there is so much more time on CPUs, and no more on a GPU, which they share.
    Raises ConfigError for jobs of Slurm, of whose machines this one says nothing, if the file that is there is of other data
    or another budget, if the data set has too few labelled subjects, or if nothing fits the time.
    """
    if executor == "slurm":
        raise ConfigError(
            "Steps would be timed on this machine, not on those that Slurm gives.",
            where="--budget with --executor slurm",
            remedy="Plan it in a job on one of them (--budget with --jobs 1), then run the curve.yaml that was written with "
            "--executor slurm.",
        )
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', folder.resolve().name).strip('-.') or 'data'}-curve"
    place = runs / name
    file = place / "curve.yaml"
    data = {"format": format, "root": str(folder.resolve())}
    if file.is_file():
        _go_on(file, data, budget, overrides, screen)
        return file
    split, target, training = _sides(data, screen)
    shared = {"name": name, "data": data, "split": split, "plan": {} if torch.cuda.is_available() else SMALL}
    pretrain = shared | {"network": {"kind": "autoencoder", "encoder": {"block": "residual"}}}
    pretrain |= {"objective": {"kind": "masked", "ratio": [0.6, 0.75]}, "fit": {"rate": 2.0e-3}}
    finetune = deepcopy(shared) | {"target": target, "network": {"kind": "unet", "encoder": {"block": "residual"}}}
    finetune |= {"fit": {"rate": 4.0e-3, "ema": 0.99}}
    first = Matrix(("scratch", "masked"), {1: 1}, 200, 300)
    content = apply_overrides(content_of(first, name, pretrain, finetune), overrides)
    written = written_of(content, file)
    side = _side_by_side(written, jobs, screen)
    times = _time(written, place, jobs, screen)
    matrix = choose(budget, times, training, side)
    pretrain, finetune = (content[kind]["set"] for kind in ("pretrain", "finetune"))
    content = apply_overrides(content_of(matrix, name, pretrain, finetune), overrides)
    written_of(content, file)
    takes = f"about {matrix.takes(times, side) / 3600:.1f} h"
    lines = [f"In {_hours(budget)}: {describe(matrix)}; {takes}.", *resolves(matrix, training)]
    for line in lines:
        screen.note(line)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    write_text(file, "".join([*(f"# {line}\n" for line in lines), text]))
    screen.note(f"The plan is {shown(file)}; edit it as you like, and run medae curve with it.")
    return file


def _go_on(file: Path, data: Mapping[str, str], budget: float, overrides: Sequence[str], screen: Screen) -> None:
    """Raises ConfigError unless a plan that was written before is what is asked for now."""
    planned = file.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
    before = written_of(read_yaml(file), file).finetune.get("data", {})
    root, layout = str(absolute_root(Path(before.get("root", ""))).resolve()), str(source_format(before))
    time = re.match(r"In (.+?): ", planned)  # a file whose first line was changed does not tell it
    pairs = {"the data": (root, data["root"]), "their format": (layout, data["format"])}
    pairs |= {"the budget": (time[1], _hours(budget))} if time else {}
    if differ := [f"{what} {old}, not {new}" for what, (old, new) in pairs.items() if old != new]:
        raise ConfigError(
            f"The plan that is there was written for something else: {'; '.join(differ)}.",
            where=shown(file),
            remedy=f"Give another folder for the runs (--out), run this plan by its file (medae curve {shown(file)}), or "
            "remove it to plan anew.",
        )
    if overrides:
        raise ConfigError(
            f"The plan is {shown(file)}, written before, and --set would not change it.",
            where="--set",
            remedy="Edit that file, or remove it to plan anew.",
        )
    screen.note(f"The plan is {shown(file)}, written before. {planned} Edit it, or remove it to plan anew.")


def _hours(seconds: float) -> str:
    """As the first line of a plan tells its budget."""
    return f"{seconds / 3600:g} h"


def _sides(data: Mapping[str, Any], screen: Screen) -> tuple[dict[str, Any], str, int]:
    """Split, target, and the number of labelled training subjects. A third is tested on, 60 at most; a tenth chooses, 10."""
    config = validate(DataConfig, {"data": data, "split": {"test": 1, "validation": 1}}, where="data")
    manifest = open_dataset(config, screen).manifest
    target = _target(manifest)
    labelled = {case.subject for case in manifest.cases if isinstance(case.targets.get(target), ImageRef)}
    if len(labelled) < FEWEST:
        raise ConfigError(
            f"{len(labelled)} subjects have the label map '{target}'; {FEWEST} is the least for a comparison.",
            where=str(data["root"]),
            remedy="Label more, or use all of them: medae finetune --folds 5 --set split.test=0 --set split.validation=0.",
        )
    subjects = {case.subject for case in manifest.cases}
    test, validation = min(60, len(labelled) // 3), max(2, min(10, len(labelled) // 10))
    split: dict[str, Any] = {"salt": "curve:", "test": test, "validation": validation}
    if labelled != subjects:  # shares of the labelled ones are in each part
        share = len(subjects) / len(labelled)
        split |= {"test": round(test * share), "validation": round(validation * share), "stratify": target}
    return split, target, len(labelled) - test - validation


def _target(manifest: Manifest) -> str:
    found = sorted({name for case in manifest.cases for name, ref in case.targets.items() if isinstance(ref, ImageRef)})
    if len(found) != 1:
        raise ConfigError(
            f"A case of the data set has {len(found)} label maps: {', '.join(found)}." if found else "It has no label maps.",
            where="target",
            remedy="Write the curve's file yourself, with finetune.set.target: docs/how-to/curve.md.",
        )
    return found[0]


def _side_by_side(written: Written, jobs: int, screen: Screen) -> int:
    """How many processes' time there is: on a GPU one's, whatever several of them gain there."""
    devices = [device_of((content or {}).get("device", "auto")) for content in (written.pretrain, written.finetune)]
    if jobs == 1 or all(device.type == "cpu" for device in devices):
        return jobs
    screen.note(f"{jobs} processes share one GPU: the plan counts on the time of one.")
    return 1


def _time(written: Written, folder: Path, jobs: int, screen: Screen) -> Times:
    """Steps of a pretraining and of a fine-tuning from scratch, and what a cell takes beside."""
    worker = Worker(written, folder, folder / "results.jsonl", screen)
    design = Design(written, {})
    count = written.curve.labelled[0]
    cells = [design.encoder("masked"), design.drawn("scratch", count, 0, written.curve.search.rates[0])]
    with threads_of_a_job(jobs) as threads:
        screen.note(f"Timing a few steps ({'1 thread' if threads == 1 else f'{threads} threads'}) …")
        before, after = (measure(worker, cell) for cell in cut_short(cells, SHORT, 1))
    return Times(before.step, after.step, after.rest)
