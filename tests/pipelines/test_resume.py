"""A stage that is killed goes on by --resume: the same weights, the same MLflow run, no step twice.

The objective is a combination of all of them, so that none has random numbers that a kill would shift, and a probe chooses
the weights, whose values and baseline must survive too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch

from medae.artifact import load_artifact

ARGUMENTS = (
    "pretrain",
    "phantoms",
    "--set=data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}",
    "--set=plan.widths=[4, 8]",
    "--set=plan.patch=[24, 24, 24]",
    "--set=network={kind: vae, encoder: {dropout: 0.1}}",
    "--set=objective={kind: combined, parts: [{objective: {kind: masked, sparse: true}}, {objective: {kind: restoration}}, "
    "{objective: {kind: denoising, noise: both}}, {objective: {kind: variational}}, {objective: {kind: reconstruction}}]}",
    "--set=split={test: 2, validation: 2}",
    "--set=probe={kind: linear, target: tissue, labelled: 2, scored: 2, voxels: 100, every: 2}",
    "--set=fit={steps: 24, epoch_steps: 4, ema: 0.9, monitor: probe/dice}",
)


def medae(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", *ARGUMENTS, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_had_happened(smoke, medae_here):
    folder = smoke.folder
    whole = medae_here(*ARGUMENTS, "--out=whole", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    process = medae(folder, "--out=broken")
    deadline = time.monotonic() + 200
    while not list(folder.glob("broken/demo/*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (unfinished,) = (folder / "broken" / "demo").glob("pretrain-*")
    assert not (unfinished / "result.json").exists()

    refused = medae_here(*ARGUMENTS, "--out=broken", cwd=folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr

    resumed = medae(folder, "--out=broken", "--resume")
    _, shown = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, shown
    (whole,) = (folder / "whole" / "demo").glob("pretrain-*")
    a, b = (load_artifact(place / "model").tensors() for place in (whole, unfinished))
    assert all(torch.equal(a[name], b[name]) for name in a)

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "medae"]
    runs = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "demo/pretrain"]
    assert len(runs) == 2
    for name, steps in {"loss": range(4, 25, 4), "probe/dice": range(8, 25, 8), "probe/untrained": range(8, 25, 8)}.items():
        one, two = ([(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)] for run in runs)
        assert [step for step, _ in sorted(one)] == list(steps)
        assert sorted(one) == sorted(two)
