"""MlflowTracker against a real SQLite store."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import socket
import sqlite3
import time
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medae.errors import TrackingError
from medae.tracking.client import experiment_id, open_client
from medae.tracking.mlflow import MlflowTracker


def begin(folder: Path, **options: object) -> MlflowTracker:
    return MlflowTracker.start("project", "pretrain", folder=folder, system_seconds=None, **options)  # type: ignore[arg-type]


def history(tracker: MlflowTracker, name: str) -> list[tuple[int, float]]:
    rows = open_client(tracker.uri).get_metric_history(tracker.run_id, name)
    return sorted((row.step, row.value) for row in rows)


def open_new(address: str, started: Barrier, found: Queue[str]) -> None:
    """In a process of its own: open a store that does not exist at the same time as another one."""
    started.wait(timeout=120)
    found.put(experiment_id(open_client(address), "project"))


def test_two_processes_may_make_one_database(tmp_path: Path) -> None:
    context = get_context("spawn")
    started, found = context.Barrier(2), context.Queue()
    address = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    processes = [context.Process(target=open_new, args=(address, started, found)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert found.get() == found.get()


def test_a_run_holds_what_was_logged(store: str, tmp_path: Path) -> None:
    figure = tmp_path / "loss.png"
    figure.write_bytes(b"png")
    report = tmp_path / "report"
    (report / "inner").mkdir(parents=True)
    (report / "inner" / "page.html").write_text("page")

    tracker = begin(tmp_path, tags={"stage": "pretrain"})
    tracker.params({"fit": {"steps": 200, "rate": 1e-3, "monitor": None}, "widths": (8, 16)})
    tracker.metrics({"loss": 0.5, "dice (label 1)": 0.25}, step=3)
    tracker.tags({"input.model": "models:/encoder@newest"})
    tracker.dataset("hippocampus", "ab" * 32, "training", {"cases": 8})
    tracker.artifact(figure, "figures")
    tracker.artifact(report)
    tracker.end()

    client = open_client(store)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.experiment_id == tracker.experiment_id
    assert run.data.params == {"fit.steps": "200", "fit.rate": "0.001", "fit.monitor": "null", "widths": "[8, 16]"}
    assert run.data.metrics == {"loss": 0.5, "dice _label 1_": 0.25}
    assert run.data.tags["input.model"] == "models:/encoder@newest"
    assert run.data.tags["stage"] == "pretrain"
    assert run.data.tags["mlflow.runName"] == "pretrain"
    assert run.data.tags["version.torch"]
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("hippocampus", ("ab" * 32)[:36])
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training", "medae.digest": "ab" * 32}
    assert json.loads(entry.dataset.profile) == {"cases": 8}
    assert [item.path for item in client.list_artifacts(tracker.run_id, "figures")] == ["figures/loss.png"]
    page = client.download_artifacts(tracker.run_id, "report/inner/page.html", str(tmp_path))
    assert Path(page).read_text() == "page"
    whole = client.download_artifacts(tracker.run_id, "params.yaml", str(tmp_path))
    assert yaml.safe_load(Path(whole).read_text())["fit"]["steps"] == 200
    assert Path("mlruns/project").is_dir(), "artifacts lie beside the database"


def test_child_runs_name_their_parent(store: str, tmp_path: Path) -> None:
    parent = begin(tmp_path / "a")
    child = begin(tmp_path / "b", parent=parent.run_id)
    found = open_client(store).get_parent_run(child.run_id)
    assert found is not None
    assert found.info.run_id == parent.run_id


def test_a_step_is_logged_once_within_and_across_processes(store: str, tmp_path: Path) -> None:
    first = begin(tmp_path)
    for step in (50, 100, 100):
        first.metrics({"loss": float(step)}, step)
    first.end("FAILED")

    second = begin(tmp_path, run_id=first.run_id)
    assert open_client(store).get_run(first.run_id).info.status == "RUNNING"
    second.metrics({"loss": -1.0, "dice": 0.5}, 100)
    second.metrics({"loss": 150.0}, 150)
    second.end()

    assert second.experiment_id == first.experiment_id
    assert history(second, "loss") == [(50, 50.0), (100, 100.0), (150, 150.0)]
    assert history(second, "dice") == [(100, 0.5)]
    assert open_client(store).get_run(first.run_id).info.status == "FINISHED"


def test_not_a_number_is_kept(store: str, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    tracker.metrics({"loss": float("nan"), "rate": float("inf")}, 1)
    assert tracker.waiting == 0
    assert set(open_client(store).get_run(tracker.run_id).data.metrics) == {"loss", "rate"}


def test_a_changed_parameter_of_a_resumed_run_becomes_a_tag(store: str, tmp_path: Path) -> None:
    begun = begin(tmp_path)
    begun.params({"fit": {"steps": 100, "seed": 0}})
    again = begin(tmp_path, run_id=begun.run_id)
    again.params({"fit": {"steps": 200, "seed": 0}, "note": "longer"})
    run = open_client(store).get_run(begun.run_id)
    assert run.data.params == {"fit.steps": "100", "fit.seed": "0", "note": "longer"}
    assert run.data.tags["changed.fit.steps"] == "200"
    assert "changed.fit.seed" not in run.data.tags


def test_long_and_many_values(store: str, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    tracker.params({"cases": [f"case-{i:05}" for i in range(2000)], "many": {f"key{i}": i for i in range(250)}})
    tracker.tags({"lineage": "x" * 20_000})
    run = open_client(store).get_run(tracker.run_id)
    assert tracker.waiting == 0
    assert len(run.data.params) == 251
    assert len(run.data.params["cases"]) == 6000
    assert run.data.params["cases"].endswith("characters, cut short)")
    assert run.data.tags["params.cut_short"] == "cases"
    assert run.data.tags["lineage"].endswith("characters, cut short)")
    whole = open_client(store).download_artifacts(tracker.run_id, "params.yaml", str(tmp_path))
    assert len(yaml.safe_load(Path(whole).read_text())["cases"]) == 2000


def test_nothing_private_reaches_the_store(store: str, tmp_path: Path) -> None:
    tracker = begin(tmp_path, tags={"source": f"{tmp_path}/ward 7/John Doe.nii.gz"})
    tracker.params(
        {"source": {"root": str(tmp_path / "cohort")}, "cache": tmp_path / "store", "command": f"--root={tmp_path}"}
    )
    tracker.tags({"error": f"cannot read '{tmp_path}/a.nii' (see ~/log)"})
    tracker.dataset("cohort", "0" * 64, "training", {"root": str(tmp_path), "files": [str(tmp_path / "x.nii.gz")]})
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end()

    allowed = {"experiments", "experiment_tags", "alembic_version"}  # where artifacts lie, which a local store has to know
    with sqlite3.connect("mlflow.db") as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        content = {name: str(database.execute(f"select * from {name}").fetchall()) for name in set(tables) - allowed}
    # A run's own row has the place of its artifacts too.
    content["runs"] = re.sub(r"'[^']*/mlruns/[^']*'", "", content["runs"])
    content["params.yaml"] = next(Path("mlruns").rglob("params.yaml")).read_text()
    assert "pretrain" in content["runs"]
    for name, text in content.items():
        for private in (str(tmp_path), str(Path.home()), socket.gethostname(), "John", "Doe", "~/", __file__, "test_mlflow"):
            assert private not in text, f"{private} in {name}: {text}"
        assert not re.search(rf"user['\"a-z_]*[,:]\s*['\"]{re.escape(getpass.getuser())}\b", text), f"the user is in {name}"
    tags = open_client(store).get_run(tracker.run_id).data.tags
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} & set(tags)


def test_experiments_are_shared_and_deleted_ones_named(store: str, tmp_path: Path) -> None:
    one, two = begin(tmp_path / "a"), begin(tmp_path / "b")
    assert one.experiment_id == two.experiment_id
    open_client(store).delete_experiment(one.experiment_id)
    with pytest.raises(TrackingError, match="was deleted"):
        begin(tmp_path / "c")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:////proc/no/mlflow.db", "cannot be written"),
        ("http://user:secret@127.0.0.1:9", "cannot be used"),
        ("nonsense://x", "cannot be opened"),
        ("./folder", "cannot be"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error(store: str, tmp_path: Path, uri: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match=words) as caught:
        begin(tmp_path, uri=uri)
    assert time.monotonic() - began < 10
    assert caught.value.remedy
    assert caught.value.where
    assert "secret" not in caught.value.where


def test_reopening_a_run_of_another_store(store: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="cannot be reopened"):
        begin(tmp_path, run_id="0" * 32)


def test_system_metrics_are_sampled_until_the_end(store: str, tmp_path: Path) -> None:
    tracker = MlflowTracker.start("project", "run", folder=tmp_path, system_seconds=0.2)
    time.sleep(1.5)
    tracker.end()
    names = set(open_client(store).get_run(tracker.run_id).data.metrics)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names
    before = history(tracker, "system/cpu_utilization_percentage")
    time.sleep(0.6)
    assert history(tracker, "system/cpu_utilization_percentage") == before, "it must stop at the end"
    tracker.end("FAILED")
    assert open_client(store).get_run(tracker.run_id).info.status == "FINISHED", "a second end does nothing"


def test_a_refused_entry_is_told_once_and_stops_nothing(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(tmp_path)
    open_client(store).delete_run(tracker.run_id)
    with caplog.at_level(logging.WARNING):
        tracker.metrics({"loss": 1.0}, 1)
        tracker.metrics({"loss": 1.0}, 2)
    assert len([row for row in caplog.records if "refuses metrics" in row.message]) == 1
    assert tracker.waiting == 0


def test_a_missing_file_is_an_error_of_the_caller(store: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no such file"):
        begin(tmp_path).artifact(tmp_path / "absent.png")


@pytest.mark.usefixtures("own_tables")
def test_a_fresh_store_is_made_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begin(tmp_path).end()
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "mlflow.db").is_file()


def test_telemetry_is_off(store: str) -> None:
    open_client(store)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


PAUSE = 0.3


class Faulty:
    """A store whose calls fail while ``broken``, before or after they have done their work."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.broken = False
        self.after = False
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        inner = getattr(self.client, name)
        if not callable(inner):
            return inner

        def call(*arguments: object, **options: object) -> object:
            self.calls += 1
            if self.broken and not self.after:
                raise MlflowException("connection refused")
            result = inner(*arguments, **options)
            if self.broken:
                raise MlflowException("timed out")
            return result

        return call


@pytest.fixture
def faulty(store: str, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    wrapped = Faulty(open_client(store))
    monkeypatch.setattr("medae.tracking.mlflow.open_client", lambda uri: wrapped)
    monkeypatch.setattr("medae.tracking.outbox.FIRST_PAUSE", PAUSE)
    monkeypatch.setattr("medae.tracking.outbox.LONGEST_PAUSE", PAUSE)
    return wrapped


def test_everything_waits_in_order_and_is_sent(faulty: Faulty, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    tracker = begin(folder)
    tracker.metrics({"loss": 0.0}, 0)
    figure = tmp_path / "figure.png"
    faulty.broken = True
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            tracker.metrics({"loss": float(step)}, step)
            figure.write_text(f"step {step}")
            tracker.artifact(figure, f"step{step}")
        tracker.params({"a": 1})
        tracker.tags({"b": "2"})
        tracker.dataset("d", "e" * 64, "testing", {})
        tracker.end()
    figure.unlink()
    told = [row.message for row in caplog.records]
    assert len(told) == 2, told
    assert "cannot be reached" in told[0]
    assert "9 entries" in told[1]
    assert str(tmp_path) not in "".join(told)
    assert tracker.waiting == 9
    assert (folder / "mlflow_waiting.jsonl").is_file()

    moved = folder.rename(tmp_path / "moved")
    faulty.broken = False
    again = begin(moved, run_id=tracker.run_id)
    again.metrics({"loss": 2.0}, 2)
    again.metrics({"loss": 3.0}, 3)
    assert again.waiting == 0
    run = faulty.client.get_run(tracker.run_id)
    assert run.info.status == "RUNNING", "the end that waited no longer holds"
    assert history(again, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert run.data.params == {"a": "1"}
    assert run.data.tags["b"] == "2"
    assert len(run.inputs.dataset_inputs) == 1
    for step in (1, 2):
        local = faulty.client.download_artifacts(tracker.run_id, f"step{step}/figure.png", str(tmp_path))
        assert Path(local).read_text() == f"step {step}", "the file as it was when it was logged"
    assert not list(moved.iterdir()), "nothing is left behind"


def test_a_store_that_comes_back_is_used_again_by_itself(
    faulty: Faulty, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(tmp_path)
    faulty.broken = True
    tracker.metrics({"loss": 1.0}, 1)
    calls = faulty.calls
    tracker.metrics({"loss": 2.0}, 2)
    assert faulty.calls == calls, "no attempt before the pause is over"
    faulty.broken = False
    time.sleep(1.1 * PAUSE)
    with caplog.at_level(logging.WARNING):
        tracker.metrics({"loss": 3.0}, 3)
    assert caplog.records[-1].message == "The tracking store answers again; all that waited has been sent."
    assert history(tracker, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    tracker.end()
    assert faulty.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_call_that_failed_after_its_work_doubles_nothing(faulty: Faulty, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    faulty.broken = faulty.after = True
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.waiting == 1
    faulty.broken = False
    time.sleep(1.1 * PAUSE)
    tracker.metrics({"loss": 2.0}, 2)
    assert history(tracker, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_file_store_that_fails_holds_no_number_up(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    figure = tmp_path / "figure.png"
    figure.write_text("figure")
    tracker = begin(tmp_path / "run")

    def no_library(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'boto3'")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(MlflowClient, "log_artifact", no_library)
        tracker.artifact(figure)
        tracker.artifact(figure, "again")
        tracker.metrics({"loss": 1.0}, 1)
        tracker.tags({"a": "b"})
        assert tracker.waiting == 2
    assert len(caplog.records) == 1
    assert "No module named 'boto3'" in caplog.text
    assert history(tracker, "loss") == [(1, 1.0)]
    tracker.end()
    assert tracker.waiting == 0
    assert sorted(item.path for item in open_client(store).list_artifacts(tracker.run_id)) == ["again", "figure.png"]


def test_a_run_is_resumed_while_the_store_is_gone(faulty: Faulty, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end("KILLED")
    faulty.broken = True
    again = begin(tmp_path, run_id=tracker.run_id)
    again.metrics({"loss": 1.0}, 1)
    again.metrics({"loss": 2.0}, 2)
    faulty.broken = False
    again.end()
    assert again.waiting == 0
    assert history(again, "loss") == [(1, 1.0), (2, 2.0)]
    assert faulty.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_what_an_earlier_run_left_goes_to_its_own_run(faulty: Faulty, tmp_path: Path) -> None:
    earlier = begin(tmp_path)
    faulty.broken = True
    earlier.metrics({"loss": 1.0}, 1)
    earlier.end()
    faulty.broken = False
    later = begin(tmp_path)
    later.metrics({"loss": 5.0}, 1)
    assert history(earlier, "loss") == [(1, 1.0)]
    assert history(later, "loss") == [(1, 5.0)]
    assert faulty.client.get_run(earlier.run_id).info.status == "FINISHED"


def test_a_long_outage_is_caught_up_in_few_calls(faulty: Faulty, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    faulty.broken = True
    for step in range(300):
        tracker.metrics({f"m{i}": float(step) for i in range(5)}, step)
    faulty.broken = False
    faulty.calls = 0
    tracker.end()
    assert faulty.calls <= 6
    assert len(history(tracker, "m4")) == 300


def test_a_cut_off_entry_is_left_out(faulty: Faulty, tmp_path: Path) -> None:
    tracker = begin(tmp_path)
    faulty.broken = True
    tracker.metrics({"loss": 1.0}, 1)
    waiting = tmp_path / "mlflow_waiting.jsonl"
    waiting.write_text(waiting.read_text() + '{"kind": "metrics", "run"')
    faulty.broken = False
    again = begin(tmp_path, run_id=tracker.run_id)
    assert again.waiting == 0
    assert history(again, "loss") == [(1, 1.0)]


def test_a_full_disk_keeps_entries_in_memory(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(tmp_path)
    faulty.broken = True

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr("medae.tracking.spool.os.fsync", full)
        tracker.metrics({"loss": 1.0}, 1)
        tracker.metrics({"loss": 2.0}, 2)
    assert len([row for row in caplog.records if "No space left" in row.message]) == 1
    faulty.broken = False
    tracker.end()
    assert history(tracker, "loss") == [(1, 1.0), (2, 2.0)]
