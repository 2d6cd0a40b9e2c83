"""Running a curve's cells in several processes: side by side on this machine, or as jobs of Slurm through submitit.

The workers share out the cells by locks in the curve's folder; who started them only looks at the file of results.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from medae.errors import ConfigError, Interrupted
from medae.parallel import usable_cores
from medae.training.faults import Interrupts
from pipelines.console import Screen, shown
from pipelines.curve_cells import Part
from pipelines.curve_config import Written
from pipelines.curve_work import Worker, failures_in

CLUSTER = "slurm"
INTERRUPTED = 130
LOST = "process "
"""Before the name of a process or job that ended with a fault, among the labels of cells that failed."""

LOOK = 2.0
"""Seconds between two looks at what the workers have done."""

OF_SUBMITIT = ("name", "cpus_per_task", "mem_gb", "gpus_per_node", "timeout_min")
"""Parameters that submitit knows itself; all others go to sbatch under their long names."""

NOT_TAKEN = {
    "time": "submitit has to know it: say timeout_min, in minutes.",
    **dict.fromkeys(
        ("nodes", "ntasks", "tasks-per-node", "ntasks-per-node"), "Each job is one process: --jobs says how many."
    ),
}
OFTEN = 1000
"""How often a job whose time is over may be queued again."""


@dataclass(frozen=True)
class Task:
    """What a worker is told: the curve, where its runs and its rows are, which part of it, and the MLflow run above.

    data: short digests of the data sets, by stage.
    """

    written: Written
    folder: Path
    results: Path
    part: Part
    run_id: str
    data: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> dict[str, str]:
        """Run cells until none is left. Returns what went wrong, by the label of the cell."""
        return self._worker().measure(self.part)

    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return not self._worker().left(self.part)

    def _worker(self) -> Worker:
        screen = Screen(as_json=True)
        return Worker(self.written, self.folder, self.results, screen, lambda: self.run_id, self.data)

    def checkpoint(self) -> Any:
        """What submitit queues again when Slurm takes the machine away: the same; a begun training goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def side_by_side(task: Task, jobs: int, look: Callable[[], None], screen: Screen) -> dict[str, str]:
    """Run in several processes with a share of the cores each; their notes go to files. look: called from time to time.

    Ctrl-C and SIGTERM are passed on, once: the processes end after a step, with a checkpoint. None outlives this one.
    Returns what went wrong, by the label of the cell or, after LOST, the name of a process that ended with a fault.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    context = get_context("spawn")
    logs = [task.folder / f"worker-{number}.log" for number in range(1, jobs + 1)]
    workers = [context.Process(target=_process, args=(task, log), name=log.stem) for log in logs]
    screen.note(f"{jobs} processes; what each is doing is in {shown(task.folder / 'worker-N.log')}")
    stopping = False
    with Interrupts() as interrupts:
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                time.sleep(LOOK)
                if interrupts.received and not stopping:
                    stopping = True
                    screen.note("Stopping: each process ends after the step it is in.")
                    _end(workers)
                look()
        except BaseException:  # Ctrl-C a second time, or a fault here: then at once
            _end(workers)
            raise
    look()
    if stopping or any(worker.exitcode == INTERRUPTED for worker in workers):
        raise Interrupted("The curve was interrupted. The same command goes on with it.")
    ended = {worker.name: worker.exitcode for worker in workers if worker.exitcode}
    return failures_in(task.folder) | {
        f"{LOST}{name}": f"{_ended(code)} The last lines of {shown(task.folder / f'{name}.log')} say more."
        for name, code in ended.items()
    }


def _ended(code: int) -> str:
    """What a process' exit status says. code: as ``multiprocessing`` has it, negative for a signal."""
    if code == -9:
        return "It was killed, as a system does whose memory is exhausted."
    return f"It ended with a fault (exit status {code})."


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.terminate()


def _process(task: Task, log: Path) -> None:
    """A process that runs cells; what went wrong is told by files in the curve's folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes: who started this one answers it
    if hasattr(os, "setpgid"):  # and a manager of jobs SIGTERM to the group: passed on, a second one would kill at once
        os.setpgid(0, 0)
    Thread(target=_end_with_who_started_this, daemon=True).start()
    with log.open("a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
        os.dup2(file.fileno(), sys.stdout.fileno())
        try:
            task()
        except Interrupted:
            sys.exit(INTERRUPTED)


def _end_with_who_started_this() -> None:
    """Or a curve whose process was killed would go on unseen, and beside it the same curve started again."""
    started_by = parent_process()
    if started_by is not None:
        started_by.join()
        os.kill(os.getpid(), signal.SIGTERM)


def on_slurm(task: Task, jobs: int, parameters: Sequence[str], look: Callable[[], None], screen: Screen) -> dict[str, str]:
    """Run as so many jobs of Slurm. parameters: ``key=value`` of submitit or sbatch, such as ``partition=gpu``.

    Jobs that are not needed, because nothing is left to run or because this process ends, are cancelled. Returns what
    went wrong, as ``side_by_side`` does. Raises ConfigError without submitit or Slurm, and for parameters that these do not
    take.
    """
    executor = _executor(task.folder / "slurm", parameters)
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

    try:
        with executor.batch():
            submitted = [executor.submit(task) for _ in range(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ConfigError(
            f"sbatch did not take the jobs: {error}", where="--slurm", remedy="Correct what it names."
        ) from error
    screen.note(
        f"Jobs {', '.join(job.job_id for job in submitted)} are queued; what each is doing is in "
        f"{shown(task.folder / 'slurm')}. Ctrl-C cancels them."
    )
    try:
        while not all(job.done() for job in submitted) and not task.is_done():
            time.sleep(LOOK)
            look()
    finally:
        ended = [job for job in submitted if job.done()]
        for job in submitted:
            if job not in ended:
                job.cancel(check=False)
    look()
    failed = failures_in(task.folder)
    for job in ended:
        try:
            failed |= job.result()
        except (FailedJobError, UncompletedJobError):
            failed[f"{LOST}{job.job_id}"] = f"It ended with a fault. The last lines of {shown(job.paths.stderr)} say more."
    return failed


def _executor(folder: Path, parameters: Sequence[str]) -> Any:
    chosen = {"name": "medae-curve", "timeout_min": 24 * 60} | _parameters(parameters)
    try:
        from submitit import AutoExecutor
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Slurm is reached through submitit, which is not installed.",
            where="--executor slurm",
            remedy="pip install 'medae[slurm]'",
        ) from error
    try:
        executor = AutoExecutor(folder, cluster=CLUSTER, slurm_max_num_timeout=OFTEN)
    except RuntimeError as error:  # "Could not detect slurm, are you indeed on a slurm cluster?"
        raise ConfigError(
            f"There is no Slurm here: {error}",
            where="--executor slurm",
            remedy="Start it where sbatch is, or leave --executor out.",
        ) from error
    try:
        executor.update_parameters(**chosen)
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise ConfigError(
            f"submitit does not take this: {error}",
            where="--slurm",
            remedy="Write for example --slurm partition=gpu --slurm gpus_per_node=1 --slurm timeout_min=600.",
        ) from error
    return executor


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """``partition=gpu`` and the like, for submitit; its own by name, all others in one mapping for sbatch."""
    own: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        name = key.strip().replace("_", "-")
        if not equals or not name:
            raise ConfigError(
                f"'{each}' is not of the form key=value.", where="--slurm", remedy="Write for example --slurm partition=gpu."
            )
        if name in NOT_TAKEN:
            raise ConfigError(f"'{key}' cannot be set.", where="--slurm", remedy=NOT_TAKEN[name])
        if (known := name.replace("-", "_")) in OF_SUBMITIT:
            own[known] = int(text) if text.isdecimal() else text
        else:
            others[name] = text
    return own | ({"slurm_additional_parameters": others} if others else {})
