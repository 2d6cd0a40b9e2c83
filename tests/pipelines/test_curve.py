"""Curves that are run, on phantoms."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from curves import content, curve

from medae.errors import ConfigError, TrainingError
from pipelines import curve as program
from pipelines import curve_jobs
from pipelines.console import Screen
from pipelines.curve_cells import Design, Part, read_rows
from pipelines.curve_work import Worker


@pytest.mark.slow
def test_a_curve_runs_goes_on_and_sees_no_test_subject_while_it_chooses(empty: Path) -> None:
    arms = {"scratch": {"rate": 1e-3}, "masked": {"encoder": "masked"}}
    (empty / "curve.yaml").write_text(json.dumps(content(labelled=[2], draws=1, arms=arms)))
    run = {"name": str(empty / "curve.yaml"), "overrides": [], "runs": empty / "runs"}
    found = program.run(**run, arms=["masked"])
    assert [(arm, count) for arm, count in found.points] == [("masked", 2)]
    rows = list(read_rows(empty / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows] == [
        ("encoder", "masked"),
        ("rate", "masked"),
        ("rate", "masked"),
        ("draw", "masked"),
    ]
    assert all(row["training_seconds"] > 0 and row["threads"] > 0 for row in rows)
    last = rows[-1]
    assert len(last["cases"]) == last["n_test"] == 3 and len(last["validation"]["cases"]) == 2
    assert last["labelled_subjects"] == 2
    assert not last["cases"].keys() & last["validation"]["cases"].keys()
    assert last["dice_mean"] == pytest.approx(sum(last["cases"].values()) / 3, abs=1e-4)
    for row in rows[1:3]:
        (result,) = (empty / "runs" / "tiny").glob(f"rate-masked-2-{row['digest']}/*/result.json")
        seen = json.loads(result.read_text())["metrics"]["pretrained"]["cases"]
        assert seen.keys() == last["validation"]["cases"].keys(), "a search is scored on the validation subjects alone"
    plans = {path.read_text() for path in (empty / "runs" / "tiny").glob("rate-*/*/plan.yaml")}
    assert len(plans) == 1, "one plan for all"
    assert (empty / "runs" / "tiny" / "report.html").is_file() and (empty / "runs" / "tiny" / "table.md").is_file()

    before = (empty / "runs" / "tiny" / "results.jsonl").read_text()
    program.run(**run, arms=["masked"])
    assert (empty / "runs" / "tiny" / "results.jsonl").read_text() == before, "what is there is not run again"
    program.run(**run, jobs=2)
    rows = list(read_rows(empty / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows[4:]] == [("draw", "scratch")]


def test_a_cell_that_fails_is_told_at_the_end_and_the_others_are_run(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"scratch": {"rate": 1e-3}, "broken": {"rate": 1e-3, "set": {"network": {"decoder": {"skips": ["concat"] * 5}}}}}
    made = content(labelled=[2], draws=1, arms=arms, encoders={}, pretrain=None)
    (empty / "curve.yaml").write_text(json.dumps(made))
    with pytest.raises(TrainingError, match=r"1 cells failed, the others were run:\n.*draw-broken-2-0"):
        program.run(str(empty / "curve.yaml"), [], empty / "runs")
    assert [row["arm"] for row in read_rows(empty / "runs" / "tiny" / "results.jsonl").values()] == ["scratch"]
    assert (empty / "runs" / "tiny" / "report.html").is_file()


def test_a_cell_that_another_process_is_at_is_left_to_it(empty: Path) -> None:
    written = curve(empty)
    one, other = (Worker(written, empty / "work", empty / "rows.jsonl", Screen()) for _ in range(2))
    cell = Design(written, {}).drawn("scratch", 1, 0, 1e-3)
    with one._claim(cell) as mine, other._claim(cell) as theirs:
        assert mine and not theirs
    with other._claim(cell) as free:
        assert free


# --- Slurm, through submitit, which can run its jobs on this machine too ---


@pytest.mark.slow
def test_jobs_of_submitit_measure_a_curve_and_tell_what_failed(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_jobs, "CLUSTER", "local")
    arms = {"scratch": {"rate": 1e-3}, "broken": {"rate": 1e-3, "set": {"network": {"decoder": {"skips": ["concat"] * 5}}}}}
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


def test_parameters_are_named_as_sbatch_names_them(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["partition=gpu", "gpus_per_node=1", "slurm_time=60", "account=lab:a"]
    assert curve_jobs._parameters(given) == {
        "slurm_partition": "gpu",
        "gpus_per_node": 1,
        "slurm_time": 60,
        "slurm_account": "lab:a",
    }
    with pytest.raises(ConfigError, match="not of the form key=value"):
        curve_jobs._parameters(["partition"])
    monkeypatch.setattr(curve_jobs, "CLUSTER", "local")
    with pytest.raises(ConfigError, match=r"submitit does not take this[\s\S]*partition=gpu"):
        curve_jobs._executor(empty / "slurm", ["no_such=1"])


def test_a_job_that_slurm_takes_away_is_queued_again_as_it_was(empty: Path) -> None:
    task = curve_jobs.Task(curve(empty), empty / "work", empty / "rows.jsonl", Part(("scratch",), (1,)), "run")
    assert task.checkpoint().function == task
