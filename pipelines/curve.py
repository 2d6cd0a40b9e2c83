"""The label curve: with so many labels, does pretraining help, by how much, and what is the best that one can get?

    check the sides -> search every arm's rate -> train arms x numbers of labels x draws -> table, figure, words

Every cell is a run of the pretraining or the fine-tuning stage, and a line in the file of results; a curve that was stopped
goes on where it was, in as many processes as one likes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from medae.errors import ConfigError, Interrupted, TrainingError
from medae.parallel import usable_cores
from pipelines.console import Screen, shown
from pipelines.curve_budget import seconds_of
from pipelines.curve_cells import Cell, Design, Part, Rows, part_of, read_rows
from pipelines.curve_config import Written, read_curve
from pipelines.curve_planning import plan_curve
from pipelines.curve_report import summary, write_results
from pipelines.curve_results import Found, evaluate
from pipelines.curve_work import Worker
from pipelines.outcome import open_mlflow
from pipelines.parent import Parent

INTERRUPTED = 130
LOOK = 2.0
"""Seconds between two looks at what the worker processes have done."""


def run(
    name: str,
    overrides: Sequence[str],
    runs: Path,
    *,
    results: Path | None = None,
    arms: Sequence[str] | None = None,
    labelled: Sequence[str] | None = None,
    draws: Sequence[int] | None = None,
    jobs: int = 1,
    budget: str | None = None,
    format: str = "auto",
    report_only: bool = False,
    as_json: bool = False,
) -> Found:
    """Run what is missing of a curve, and report on all that is there.

    name: a YAML file, a shipped curve, or the folder of a data set, for which a curve is planned that fits the ``budget``.
    runs: the curve's folder is made below it. results: the file of the rows; ``results.jsonl`` in that folder by default.
    Raises TrainingError, after everything else was run and reported, if a cell failed.
    """
    screen = Screen(as_json)
    if Path(name).is_dir():
        if budget is None:
            raise ConfigError(
                "For the folder of a data set a curve is planned, and it has to fit some time.",
                where=name,
                remedy="Say how long it may take, such as --budget 2h, or name the YAML file of a curve.",
            )
        name = str(plan_curve(Path(name), format, overrides, runs, seconds_of(budget), jobs, screen))
        overrides = ()
    elif budget is not None:
        raise ConfigError(
            "A curve that is written already takes the time that it takes.",
            where="--budget",
            remedy="Name the folder of a data set, or lower draws, labelled or steps in the file.",
        )
    written = read_curve(name, list(overrides))
    folder = runs / written.curve.name
    file = folder / "results.jsonl" if results is None else results
    part = part_of(written, arms, labelled, draws)
    failed: dict[str, str] = {}
    if not report_only:
        failed = _measure(written, folder, file, part, jobs, screen)
    found = evaluate(Design(written, read_rows(file)), part_of(written))
    if not found.points:
        raise (
            failed_cells(failed)
            if failed
            else ConfigError(
                "Nothing has been measured yet.",
                where=file,
                remedy="Run it without --report, or name the file by --results.",
            )
        )
    write_results(found, folder, screen)
    screen.say(f"Rows:   {shown(file)}")
    screen.say(f"Look at the runs: {open_mlflow()}")
    screen.json(summary(found))
    if failed:
        raise failed_cells(failed)
    return found


def failed_cells(failed: dict[str, str]) -> TrainingError:
    """What went wrong in some cells."""
    lines = "\n".join(f"    {label}: {problem.splitlines()[0]}" for label, problem in failed.items())
    return TrainingError(
        f"{len(failed)} cells failed, the others were run:\n{lines}",
        remedy="Mend what they say, and run the same command again.",
    )


def _measure(written: Written, folder: Path, results: Path, part: Part, jobs: int, screen: Screen) -> dict[str, str]:
    """Run the cells of a part, under one MLflow run."""
    worker = Worker(written, folder, results, screen)
    worker.check()
    if not worker.left(part):
        screen.note("Every cell has been measured.")
        return {}
    screen.note(_left(worker.design, part))
    with Parent(written.curve, folder, "curve") as parent:
        run_id = parent.open()
        if jobs > 1:
            return _side_by_side(written, folder, results, part, jobs, run_id, screen)
        alone = Worker(written, folder, results, screen, lambda: run_id)
        return alone.measure(part, lambda design, cell: _say(screen, design, part, cell))


def _side_by_side(
    written: Written, folder: Path, results: Path, part: Part, jobs: int, run_id: str, screen: Screen
) -> dict[str, str]:
    """Run in several processes of a share of the cores each; their notes go to files, their cells are told here."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    context = get_context("spawn")
    told = context.Queue()
    workers: list[BaseProcess] = []
    for number in range(1, jobs + 1):
        log = folder / f"worker-{number}.log"
        workers.append(
            context.Process(target=_worker, args=(written, folder, results, part, run_id, log, told), name=f"{number}")
        )
    screen.note(f"{jobs} processes; what each is doing is in {shown(folder / 'worker-N.log')}")
    for worker in workers:
        worker.start()
    known = set(read_rows(results))
    while any(worker.is_alive() for worker in workers):
        time.sleep(LOOK)
        known = _tell_new(written, results, part, known, screen)
    _tell_new(written, results, part, known, screen)
    failed: dict[str, str] = {}
    while not told.empty():
        failed |= told.get()
    if any(worker.exitcode == INTERRUPTED for worker in workers):
        raise Interrupted("The curve was interrupted. The same command goes on with it.")
    if lost := [worker.name for worker in workers if worker.exitcode]:
        raise TrainingError(
            f"Worker {', '.join(lost)} ended with a fault.",
            where=folder / f"worker-{lost[0]}.log",
            remedy="Its last lines say why. The same command goes on with the curve.",
        )
    return failed


def _worker(written: Written, folder: Path, results: Path, part: Part, run_id: str, log: Path, told: Any) -> None:
    """A process that runs cells. told: a queue for what went wrong."""
    with log.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
        os.dup2(file.fileno(), sys.stdout.fileno())
        try:
            told.put(Worker(written, folder, results, Screen(as_json=True), lambda: run_id).measure(part))
        except (KeyboardInterrupt, Interrupted):
            sys.exit(INTERRUPTED)


def _tell_new(written: Written, results: Path, part: Part, known: set[str], screen: Screen) -> set[str]:
    rows = read_rows(results)
    for digest in rows.keys() - known:
        screen.note(_told(rows[digest], Design(written, rows), part))
    return set(rows)


def _say(screen: Screen, design: Design, part: Part, cell: Cell) -> None:
    screen.note(_told(design.rows[cell.digest], design, part))


def _told(row: Rows | Any, design: Design, part: Part) -> str:
    """A line of a cell that was measured, and what is left."""
    found = "" if row.get("dice_mean") is None else f": Dice {row['dice_mean']:.3f}"
    took = f"{row['training_seconds']:.0f} s of training"
    labels = "" if row.get("labelled") is None else f", {row['labelled']} labels"
    draw = "" if row.get("draw") is None else f", draw {row['draw']}"
    return f"{row['kind']} {row['arm']}{labels}{draw}{found} ({took}). {_left(design, part)}"


def _left(design: Design, part: Part) -> str:
    """What is left, and how long it takes one process by what was measured."""
    counts, seconds = design.expected(part)
    told = "not known before one of each kind was measured" if seconds is None else _duration(seconds)
    return f"Left: {', '.join(f'{number} {kind}s' for kind, number in counts.items())}. Time in one process: {told}."


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
