"""A real training, killed with SIGKILL and resumed, ends in the same bits as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS, PAUSE = 40, 0.02


def start(folder, *options):
    program = [sys.executable, Path(__file__).with_name("toy.py"), folder, f"steps={STEPS}", f"pause={PAUSE}", *options]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def kill_at(process, folder, step, delay):
    """SIGKILL ``delay`` seconds after the training has begun ``step``."""
    beat = folder / "beat"
    deadline = time.monotonic() + 120
    while not (beat.exists() and (text := beat.read_text()) and int(text) >= step):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    beat.unlink()
    return int(text)


@pytest.mark.slow
def test_killed_five_times(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    reference = start(unbroken)

    draw = random.Random(20)
    reached = [kill_at(start(broken), broken, step, draw.uniform(0, PAUSE)) for step in sorted(draw.sample(range(1, 23), 3))]
    torn = start(broken, "die_in_save=24")
    torn.communicate(timeout=120)
    assert torn.returncode == -signal.SIGKILL
    assert (broken / "checkpoints" / ".draft-00000024" / "state.safetensors").stat().st_size == 1000
    (broken / "beat").unlink()
    reached.append(kill_at(start(broken), broken, draw.randrange(25, 38), draw.uniform(0, PAUSE)))
    assert all(step < STEPS - 1 for step in reached)
    finish(start(broken))
    finish(reference)

    for name in ("result.safetensors", "result.json", "checkpoints/step-00000040/state.safetensors"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
    logged = [json.loads(line) for line in (broken / "tracker.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [8, 16, 24, 32, 40]
    assert len(json.loads((broken / "result.json").read_text())["history"]) == 5
    first = next(iter(json.loads((unbroken / "result.json").read_text())["history"]))
    assert first.items() <= logged[0].items()


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["none", "decoder_first"])
def test_two_processes_train_as_one(tmp_path, tuning):
    """Two processes over gloo with half of each batch end, but for rounding, in the weights of one with all of it.

    On the CPU, also where there is a GPU: two processes need two of those.
    """
    import torch
    from safetensors.torch import load_file

    toy = Path(__file__).with_name("toy.py")
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0", "--standalone"]
        done = subprocess.run(
            [sys.executable, *launch, toy, folder, "plain=1", "steps=12", f"tuning={tuning}"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr
        facts = json.loads(next((folder / "checkpoints").glob("step-*/state.json")).read_text())
        assert facts["environment"]["processes"] == processes
        results.append((load_file(folder / "result.safetensors"), facts["state"]["history"]))
    (weights, history), (other_weights, other_history) = results
    assert all(torch.allclose(value, other_weights[name], atol=1e-5) for name, value in weights.items())
    assert [record["loss"] for record in history] == pytest.approx([record["loss"] for record in other_history], rel=1e-4)
