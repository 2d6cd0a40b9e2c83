"""MlflowTracker against a real server on this machine that is killed while a run goes on, and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from medae.tracking.client import open_client
from medae.tracking.mlflow import MlflowTracker


class Server:
    """``mlflow server`` on a free port of the loopback address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = (self.folder / "server.log").open("ab")
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.2)
        pytest.fail("the server did not start:\n" + (self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None


@pytest.fixture
def server(migrated_database: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "mlflow.db").write_bytes(migrated_database.read_bytes())
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_is_killed_and_comes_back(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr("medae.tracking.outbox.FIRST_PAUSE", 1.0)
    monkeypatch.setattr("medae.tracking.outbox.LONGEST_PAUSE", 1.0)
    tracker = MlflowTracker.start("project", "pretrain", folder=tmp_path / "run", system_seconds=0.5)
    assert tracker.uri == server.uri
    tracker.metrics({"loss": 1.0}, 1)

    server.kill()
    figure = tmp_path / "figure.png"
    figure.write_text("figure")
    began = time.monotonic()
    for step in range(2, 30):
        tracker.metrics({"loss": float(step)}, step)
    tracker.artifact(figure, "figures")
    took = time.monotonic() - began
    assert took < 20, "a training does not wait for a server that is gone (MLflow's own retries take minutes)"
    assert tracker.waiting >= 29
    assert len(caplog.records) == 1
    assert f"{server.uri} cannot be reached: no connection." in caplog.text

    server.start()
    time.sleep(1.5)
    tracker.metrics({"loss": 30.0}, 30)
    assert tracker.waiting == 0
    server.kill()
    tracker.metrics({"loss": 31.0}, 31)
    tracker.end()
    assert tracker.waiting >= 2

    server.start()
    again = MlflowTracker.start("project", "pretrain", folder=tmp_path / "run", run_id=tracker.run_id, system_seconds=None)
    again.end()

    client = open_client(server.uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted((row.step, row.value) for row in history) == [(step, float(step)) for step in range(1, 32)]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert [item.path for item in client.list_artifacts(tracker.run_id, "figures")] == ["figures/figure.png"]
    assert not list((tmp_path / "run").iterdir())
    assert capfd.readouterr() == ("", ""), "no noise of the libraries below"


@pytest.mark.slow
def test_a_server_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = MlflowTracker.start("project", "run", folder=tmp_path / "run", uri=server.uri, system_seconds=None)
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    for step in range(20):
        tracker.metrics({"loss": float(step)}, step)
    assert time.monotonic() - began < 10, "one attempt, then a pause: not a second for each of the 20"
    os.killpg(server.process.pid, signal.SIGCONT)
    time.sleep(1)
    tracker.end()
    history = open_client(server.uri).get_metric_history(tracker.run_id, "loss")
    assert sorted(row.step for row in history) == list(range(20)), (
        "also if the server did the work of the call that timed out"
    )
