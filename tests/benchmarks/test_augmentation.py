"""The program that times augmentation: its cells on tiny batches, and its table."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from monai.data import get_track_meta, set_track_meta


@pytest.fixture
def program() -> Iterator[ModuleType]:
    tracked, threads = get_track_meta(), torch.get_num_threads()
    yield importlib.import_module("augmentation")
    set_track_meta(tracked)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("system", ["medae", "monai"])
@pytest.mark.parametrize("shape", [(2, 12, 10), (1, 12, 10, 8)])
def test_every_transformation_and_the_preset_are_timed(program, monkeypatch, system, shape):
    monkeypatch.setattr(program, "SHAPES", {"tiny": shape})
    monkeypatch.setattr(program, "SINGLE", ("tiny",))
    monkeypatch.setattr(program, "RUNS", 1)
    lines = list(program.measured(system, 1))
    assert [line["part"] for line in lines] == [*program.PARTS, "strong"]
    assert all(line["seconds"] > 0 for line in lines)


@pytest.mark.parametrize("system", ["medae", "monai"])
def test_what_is_timed_changes_the_images(program, system):
    image = torch.rand(2, 1, 12, 10)
    labels = (image > 0.5).long()
    for part in program.PARTS:
        done = program.BUILD[system](part, (12, 10))(image.clone(), labels.clone(), 1)
        changed = done.image if system == "medae" else done[0]
        assert not torch.equal(torch.as_tensor(changed), image), part


def test_the_table_gives_median_and_range_in_milliseconds(program, monkeypatch, tmp_path):
    lines = [
        {"system": system, "part": "strong", "batch": "2x64x64x64", "threads": 1, "seconds": seconds}
        for system, times in {"medae": (0.01, 0.03, 0.02), "monai": (0.2,)}.items()
        for seconds in times
    ]
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(program, "RESULTS", results)
    assert program.table().splitlines()[-1] == "| strong | 2x64x64x64 | 1 | 20 (10-30) | 200 (200-200) | – |"
