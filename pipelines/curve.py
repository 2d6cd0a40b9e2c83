"""The label curve: with so many labels, does pretraining help, by how much, and what is the best that one can get?

    check the sides -> search every arm's rate -> train arms x numbers of labels x draws -> table, figure, words

Every cell is a run of the pretraining or the fine-tuning stage, and a line in the file of results; a curve that was stopped
goes on where it was, in as many processes as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from medae.errors import ConfigError, TrainingError
from pipelines.console import Screen, shown
from pipelines.curve_budget import in_words, seconds_of
from pipelines.curve_cells import Design, Part, Rows, part_of, read_rows
from pipelines.curve_checks import check
from pipelines.curve_config import Written, read_curve
from pipelines.curve_jobs import LOST, Task, on_slurm, side_by_side
from pipelines.curve_planning import plan_curve
from pipelines.curve_report import summary, write_results
from pipelines.curve_results import Found, evaluate
from pipelines.curve_work import Worker
from pipelines.outcome import open_mlflow
from pipelines.parent import Parent

Executor = Literal["processes", "slurm"]


def run(
    name: str,
    overrides: Sequence[str],
    runs: Path,
    *,
    results: Path | None = None,
    arms: Sequence[str] | None = None,
    labelled: Sequence[str] | None = None,
    draws: Sequence[int] | None = None,
    executor: Executor = "processes",
    jobs: int = 1,
    slurm: Sequence[str] = (),
    budget: str | None = None,
    format: str = "auto",
    report_only: bool = False,
    as_json: bool = False,
) -> Found:
    """Run what is missing of a curve, and report on all that is there.

    name: a YAML file, a shipped curve, or the folder of a data set, for which a curve is planned that fits the ``budget``.
    runs: the curve's folder is made below it. executor: ``jobs`` processes on this machine, or jobs of Slurm with the
    parameters ``slurm``. results: the file of the rows; ``results.jsonl`` in that folder by default.
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
        name = str(plan_curve(Path(name), format, overrides, runs, seconds_of(budget), executor, jobs, screen))
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
        failed = _measure(written, folder, file, part, executor, jobs, slurm, screen)
    design = Design(written, read_rows(file))
    for arm in design.stuck(part):
        other = written.curve.arms[arm].as_long_as
        screen.warn(
            f"The arm '{arm}' cannot be trained: every rate that was tried for it, or for '{other}', diverged, so nothing "
            "says how long a step takes. Write lower search.rates."
        )
    found = evaluate(design, part_of(written))
    if not found.points:
        if failed:
            raise failed_cells(failed)
        raise ConfigError(
            "Nothing has been measured yet.", where=file, remedy="Run it without --report, or name the file by --results."
        )
    write_results(found, folder, screen)
    screen.say(f"Rows:   {shown(file)}")
    screen.say(f"Look at the runs: {open_mlflow()}")
    screen.json(summary(found))
    if failed:
        raise failed_cells(failed)
    return found


def failed_cells(failed: dict[str, str]) -> TrainingError:
    """What went wrong, in some cells or with some processes."""
    lost = sum(label.startswith(LOST) for label in failed)
    cells = len(failed) - lost
    said = [f"{cells} cells failed{'' if lost else ', the others were run'}"] if cells else []
    said += [f"{lost} processes ended with a fault"] if lost else []
    lines = "\n".join(f"    {label}: {problem.splitlines()[0]}" for label, problem in failed.items())
    return TrainingError(
        f"{' and '.join(said)}:\n{lines}",
        remedy="Mend what they say, and run the same command again.",
    )


def _measure(
    written: Written,
    folder: Path,
    results: Path,
    part: Part,
    executor: Executor,
    jobs: int,
    slurm: Sequence[str],
    screen: Screen,
) -> dict[str, str]:
    """Run the cells of a part, under one MLflow run."""
    worker = Worker(written, folder, results, screen)
    check(worker)
    if not worker.left(part):
        screen.note("Every cell has been measured.")
        return {}
    screen.note(_left(worker.design, part))
    worker.forget_failures()
    with Parent(written.curve, folder, "curve", screen) as parent:
        run_id = parent.open()
        task, look = Task(written, folder, results, part, run_id, worker.data), _look(written, results, part, screen)
        if executor == "slurm":
            failed = on_slurm(task, jobs, slurm, look, screen)
        elif jobs > 1:
            failed = side_by_side(task, jobs, look, screen)
        else:
            alone = Worker(written, folder, results, screen, lambda: run_id, worker.data)
            failed = alone.measure(part, lambda *_: look())
        if failed:
            parent.end("FAILED")
    return failed


def _look(written: Written, results: Path, part: Part, screen: Screen) -> Callable[[], None]:
    """Tells of the cells that have been measured since it was called before."""
    known = set(read_rows(results))

    def look() -> None:
        rows = read_rows(results)
        for digest in rows.keys() - known:
            screen.note(_told(rows[digest], Design(written, rows), part))
        known.update(rows)

    return look


def _told(row: Rows | Any, design: Design, part: Part) -> str:
    """A line of a cell that was measured, and what is left."""
    found = "" if row.get("dice_mean") is None else f": Dice {row['dice_mean']:.3f}"
    took = "diverged" if "diverged" in row else f"{row['training_seconds']:.0f} s of training"
    labels = "" if row.get("labelled") is None else f", {row['labelled']} labels"
    draw = "" if row.get("draw") is None else f", draw {row['draw']}"
    return f"{row['kind']} {row['arm']}{labels}{draw}{found} ({took}). {_left(design, part)}"


def _left(design: Design, part: Part) -> str:
    """What is left, and how long it takes one process by what was measured."""
    counts, seconds = design.expected(part)
    told = "not known before one was measured" if seconds is None else f"about {in_words(seconds)}"
    return f"Left: {', '.join(f'{number} {kind}s' for kind, number in counts.items())}. Time in one process: {told}."
