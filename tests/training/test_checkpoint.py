from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from medae.errors import TrainingError
from medae.training import checkpoint


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def state(value):
    return {"model/w": torch.full((3, 4), float(value)), "model/n": torch.tensor(value)}


def test_round_trip_of_layouts_types_and_shared_memory(tmp_path):
    weights = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    tied = torch.randn(3)
    tensors = {"a": weights, "b": tied, "c": tied, "n": torch.tensor(7), "mask": torch.tensor([True, False])}
    checkpoint.save(tmp_path, 12, tensors, {"note": [0.1, None]})
    found = checkpoint.load(tmp_path)
    assert found.step == 12
    assert found.facts["note"] == [0.1, None]
    for name, value in tensors.items():
        assert torch.equal(found.tensors[name], value)
        assert found.tensors[name].dtype == value.dtype


def test_only_the_last_one_is_kept_and_the_best_goes_along(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), {}, best={"w": torch.ones(2)})
    checkpoint.save(tmp_path, 2, state(2), {})
    checkpoint.save(tmp_path, 10, state(10), {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    assert torch.equal(checkpoint.load_best(tmp_path)["w"], torch.ones(2))
    checkpoint.save(tmp_path, 11, state(11), {}, best={"w": torch.zeros(2)})
    assert torch.equal(checkpoint.load_best(tmp_path)["w"], torch.zeros(2))


def test_the_best_goes_along_where_there_are_no_hard_links(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), {}, best={"w": torch.ones(2)})
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    checkpoint.save(tmp_path, 2, state(2), {})
    assert torch.equal(checkpoint.load_best(tmp_path)["w"], torch.ones(2))


@pytest.mark.parametrize("call", ["mkdir", "save_file", "_sync", "_sync_folder", "rename"])
def test_a_full_disk_at_any_point_leaves_the_old_checkpoint(tmp_path, monkeypatch, call):
    checkpoint.save(tmp_path, 1, state(1), {}, best={"w": torch.ones(2)})
    monkeypatch.setattr(type(tmp_path) if call in ("mkdir", "rename") else checkpoint, call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, state(2), {})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path).step == 1
    assert torch.equal(checkpoint.load_best(tmp_path)["w"], torch.ones(2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


FILL = """
import sys, torch
from pathlib import Path
from medae.errors import TrainingError
from medae.training import checkpoint
from medae.training.faults import explained
folder = Path(sys.argv[1])
try:
    with explained(folder):
        for step in (1, 2):
            checkpoint.save(folder, step, {"w": torch.full((step * 150_000,), float(step))}, {})
except TrainingError as error:
    found = checkpoint.load(folder)
    left = len(list((folder / "checkpoints").iterdir()))
    print(error.what, error.remedy, found.step, found.tensors["w"].sum().item(), left)
"""


def test_a_disk_that_is_really_full(tmp_path):
    """A 1 MB file system takes the first checkpoint (0.6 MB) and not the second (1.2 MB)."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare to mount a small file system")
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} || exit 77; exec {sys.executable} -c '{FILL}' {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert "The disk is full." in done.stdout, done.stderr
    assert "The checkpoint of step 1 is intact" in done.stdout
    assert done.stdout.split()[-3:] == ["1", "150000.0", "1"]


def test_leftovers_of_a_kill_are_ignored_and_cleared(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), {})
    for name in (".draft-00000002", ".removed-step-00000000"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / checkpoint.STATE).write_bytes(b"half")
    assert checkpoint.load(tmp_path).step == 1
    checkpoint.save(tmp_path, 2, state(2), {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_reader_beside_a_writer_always_sees_files_that_belong_together(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), {"value": 1}, best={"w": torch.ones(2)})
    done = threading.Event()

    def write():
        for step in range(2, 120):
            checkpoint.save(tmp_path, step, state(step), {"value": step})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        found = checkpoint.load(tmp_path)
        assert found.facts["value"] == found.step == int(found.tensors["model/n"])
        seen.add(found.step)
    writer.join()
    assert len(seen) > 3


@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.FACTS])
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_checkpoint_is_reported(tmp_path, name, damage):
    path = checkpoint.save(tmp_path, 1, state(1), {}) / name
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    with pytest.raises(TrainingError, match="cannot be used"):
        checkpoint.load(tmp_path)


def test_another_format_is_reported(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), {})
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(TrainingError, match="format is 1, this version of medae reads 2"):
        checkpoint.load(tmp_path)


def test_a_kill_before_the_predecessor_was_removed(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), {})
    monkeypatch.setattr(checkpoint, "_remove", lambda path: None)
    checkpoint.save(tmp_path, 2, state(2), {})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path).step == 2
    checkpoint.save(tmp_path, 3, state(3), {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_discard_and_run_id(tmp_path):
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.stored_run_id(tmp_path) is None
    checkpoint.save(tmp_path, 1, state(1), {"run_id": "abc"})
    assert checkpoint.stored_run_id(tmp_path) == "abc"
    checkpoint.discard(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    checkpoint.discard(tmp_path)
    with pytest.raises(TrainingError, match="no checkpoint"):
        checkpoint.load_best(tmp_path)
