"""The cells of a curve in several processes: here, and as jobs of Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import curves
import pytest
from curves import TOO_HIGH, Endless, Failing, Killed, content, curve, drawn

from medae.errors import ConfigError, Interrupted, TrainingError
from medae.training.faults import Interrupts
from pipelines import curve as program
from pipelines import curve_jobs
from pipelines.console import Screen
from pipelines.curve_cells import Part, part_of, read_rows
from pipelines.curve_work import Worker

# --- Several processes ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_workers_as_it_stops_a_training(
    empty: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(curve_jobs, "LOOK", 0.1)
    task, sent = Endless(empty), []

    def look() -> None:
        if task.begun() == 1 and not sent:
            sent.append(number)
            signal.raise_signal(number)

    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # a shell that starts the tests in the background has SIGINT ignored
    try:
        with pytest.raises(Interrupted, match="The same command goes on with it"):
            curve_jobs.side_by_side(task, 1, look, Screen())
        assert task.stopped() == 1, "it had time to write a checkpoint"
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)


def test_a_fault_here_leaves_no_worker_behind(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "LOOK", 0.1)
    task = Endless(empty)

    def look() -> None:
        if task.begun() == 1:
            raise OSError("The disk of the results is gone.")

    with pytest.raises(OSError, match="is gone"):
        curve_jobs.side_by_side(task, 1, look, Screen())
    assert until(lambda: task.stopped() == 1)


@pytest.mark.timeout(120)
def test_many_failures_are_all_told_and_hold_no_worker_up(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "LOOK", 0.1)
    told = curve_jobs.side_by_side(Failing(empty), 1, lambda: None, Screen())
    assert set(told) == {f"cell-{number}" for number in range(10)}


def test_a_worker_that_was_killed_is_told_beside_what_failed(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "LOOK", 0.1)
    told = curve_jobs.side_by_side(Killed(empty), 1, lambda: None, Screen())
    assert list(told) == ["cell-0", "process worker-1"]
    assert "killed" in told["process worker-1"] and "worker-1.log" in told["process worker-1"]


def test_the_report_is_written_although_workers_were_lost(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = content(labelled=[2], draws=2, arms={"scratch": {"rate": 1e-3}}, encoders={}, pretrain=None)
    written = curve(empty, **made)
    worker = Worker(written, empty / "runs" / "tiny", empty / "runs" / "tiny" / "results.jsonl", Screen())
    worker.add(drawn(worker.left(part_of(written))[0], {"a": 0.5, "b": 0.6}))
    monkeypatch.setattr(program, "side_by_side", lambda *_: {"process worker-1": "It was killed.", "draw": "It broke."})
    with pytest.raises(TrainingError, match="1 cells failed and 1 processes ended with a fault:\n    process worker-1: It"):
        program.run(str(empty / "curve.yaml"), [], empty / "runs", jobs=2)
    assert (empty / "runs" / "tiny" / "report.html").is_file()


def started(folder: Path, seconds: float = 0.0) -> subprocess.Popen:
    """Another process, in a group of its own, with a worker without end."""
    program = (
        "import sys; from pathlib import Path; from curves import Endless; from pipelines import curve_jobs\n"
        "from pipelines.console import Screen\n"
        "if __name__ == '__main__':\n"
        "    curve_jobs.LOOK = 0.1\n"
        "    task = Endless(Path(sys.argv[1]), float(sys.argv[2]))\n"
        "    curve_jobs.side_by_side(task, 1, lambda: None, Screen())\n"
    )
    (folder / "start.py").write_text(program)
    paths = os.pathsep.join([str(Path(curves.__file__).parent), str(Path(curve_jobs.__file__).parents[1])])
    command = [sys.executable, "start.py", str(folder), str(seconds)]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, start_new_session=True)


def test_workers_end_when_the_process_that_started_them_is_killed(empty: Path) -> None:
    process = started(empty)
    try:
        assert until(lambda: Endless(empty).begun() == 1)
    finally:
        process.kill()
        process.wait()
    assert until(lambda: Endless(empty).stopped() == 1)


def test_a_signal_to_the_whole_group_is_one_signal_to_a_worker(empty: Path) -> None:
    process = started(empty, seconds=1.0)
    try:
        assert until(lambda: Endless(empty).begun() == 1)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    finally:
        process.kill()
        process.wait()
    assert Endless(empty).stopped() == 1, "it had time to write a checkpoint"


def until(holds: Callable[[], bool]) -> bool:
    """Wait until something holds; whether it came to hold in a minute."""
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


# --- Slurm, through submitit, which can run its jobs on this machine too ---


@pytest.mark.slow
def test_jobs_of_submitit_measure_a_curve_and_tell_what_failed(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "CLUSTER", "local")
    arms = {"scratch": {"rate": 1e-3}, "broken": {"rate": TOO_HIGH}}
    made = content(labelled=[1, 2], draws=1, arms=arms, encoders={}, pretrain=None)
    (empty / "curve.yaml").write_text(json.dumps(made))
    with pytest.raises(TrainingError, match=r"2 cells failed, the others were run:\n.*draw-broken-"):
        program.run(str(empty / "curve.yaml"), [], empty / "runs", executor="slurm", jobs=2, slurm=["timeout_min=5"])
    rows = read_rows(empty / "runs" / "tiny" / "results.jsonl").values()
    assert sorted((row["arm"], row["labelled"]) for row in rows) == [("scratch", 1), ("scratch", 2)]
    assert len(list((empty / "runs" / "tiny" / "slurm").glob("*_result.pkl"))) == 2, "one a job"


def test_where_there_is_no_slurm_it_is_said(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(ConfigError, match="There is no Slurm here"):
        curve_jobs._executor(empty / "slurm", [])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="not installed") as refusal:
        curve_jobs._executor(empty / "slurm", [])
    assert "medae[slurm]" in str(refusal.value.remedy)


@pytest.fixture
def slurm(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of Slurm's names that take every job, and the folder that they are in."""
    folder = empty / "bin"
    folder.mkdir()
    for name, text in (
        ("srun", ""),
        ("sbatch", "echo Submitted batch job 7"),
        ("sacct", ""),
        ("scancel", "echo $@ >> cancelled"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def a_task(folder: Path) -> curve_jobs.Task:
    return curve_jobs.Task(curve(folder), folder / "work", folder / "rows.jsonl", Part(("scratch",), (1,)), "run")


def test_parameters_reach_sbatch_as_they_were_written(empty: Path, slurm: Path) -> None:
    given = [
        "partition=gpu",
        "gpus_per_node=1",
        "mem_gb=8",
        "timeout_min=90",
        "mail-user=a@b.org",
        "account=0123",
        "qos=24:00",
    ]
    executor = curve_jobs._executor(empty / "slurm", given)
    executor.submit(a_task(empty))
    (script,) = (empty / "slurm").glob("*_submission.sh")
    lines = script.read_text().splitlines()
    for line in ("partition=gpu", "gpus-per-node=1", "mem=8GB", "time=90", "mail-user=a@b.org", "account=0123", "qos=24:00"):
        assert f"#SBATCH --{line}" in lines
    assert executor._executor.max_num_timeout >= 100, "a job whose time is over is queued again, and again"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("partition", "not of the form key=value"),
        ("time=24:00:00", "'time' cannot be set[\\s\\S]*timeout_min"),
        ("nodes=2", "one process: --jobs"),
        ("mem_gb=lots", "submitit does not take this"),
        ("timeout_min=1-00:00:00", "submitit does not take this"),
    ],
)
def test_what_a_job_cannot_have_is_refused(empty: Path, slurm: Path, given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        curve_jobs._executor(empty / "slurm", [given])


def test_what_sbatch_says_is_said(empty: Path, slurm: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho invalid partition specified: nonesuch >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="invalid partition specified: nonesuch"):
        curve_jobs.on_slurm(a_task(empty), 1, ["partition=nonesuch"], lambda: None, Screen())


def test_jobs_are_cancelled_when_who_waits_for_them_ends(empty: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "LOOK", 0.0)

    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curve_jobs.on_slurm(a_task(empty), 2, [], stopped, Screen())
    assert (empty / "cancelled").read_text().split() == ["7_0", "7_1"]


def test_a_training_leaves_sigterm_to_who_answers_it() -> None:
    """submitit passes over the SIGTERM by which Slurm says that it wants the machine, and waits for its own signal."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.received is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM]


def test_a_job_that_is_queued_again_is_the_same(empty: Path) -> None:
    task = a_task(empty)
    assert task.checkpoint().function == task
