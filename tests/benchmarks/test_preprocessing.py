"""The program that measures preprocessing: what it measures, on small data, and the tables that it prints."""

from __future__ import annotations

import importlib
import json
from itertools import count
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("MEDAE_CACHE", "XDG_CONFIG_HOME"):  # which the program sets
        monkeypatch.setenv(name, "")
    return importlib.import_module("preprocessing")


def save(path: Path, array: np.ndarray, spacing: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([spacing, spacing, spacing, 1.0])), path)


def test_n4_is_measured_inside_white_matter_only(program: ModuleType, tmp_path: Path) -> None:
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij"))
    radius = np.sqrt((index**2).sum(axis=0))
    tissue = np.select([radius < 0.55, radius < 0.9], [200.0, 120.0], 0.0)
    image = (tissue * np.exp(0.35 * index[0])).astype(np.float32)
    labels = np.select([radius < 0.55, radius < 0.9], [84, 46], 0).astype(np.uint8)
    save(tmp_path / "ixi_t1" / "sub-1" / "anat" / "sub-1_T1w.nii.gz", image, 6.0)
    save(tmp_path / "ixi_t1" / "derivatives" / "dlmuse" / "sub-1" / "anat" / "sub-1_dseg.nii.gz", labels, 6.0)
    found = program.measured("n4:brain:sub-1", tmp_path)
    white = image[radius < 0.55].astype(np.float64)
    assert found["before"][0] == pytest.approx(white.std() / white.mean(), abs=1e-5)
    assert found["after"][0] < 0.3 * found["before"][0]
    assert found["voxels"] == np.count_nonzero(radius < 0.9)
    assert found["white_matter"][0] == len(white) > found["white_matter"][1] > found["white_matter"][2] > 0


@pytest.mark.parametrize("cell", ["sampler:patch", "read-ahead:patch", "whole:patch", "sampler:slice", "read-ahead:slice"])
def test_every_way_of_reading_gives_what_was_written(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    places = {"patch": ((8, 16), (4, 12), (1, 9)), "slice": ((0, 24), (0, 20), (5, 6))}
    monkeypatch.setattr(program, "SHAPE", (24, 20, 16))
    monkeypatch.setattr(program, "PLACES", places)
    counter = count(step=10_000)
    monkeypatch.setattr(program, "_fetched", lambda: next(counter))  # the tests' folder may lie in memory
    found = program.measured(f"read:{cell}", None)
    assert found["read_bytes"] == 10_000
    assert found["wanted_bytes"] == 4 * np.prod([stop - start for start, stop in places[cell.partition(":")[2]]])
    assert found["file_bytes"] == 4 * 24 * 20 * 16 + 128


def test_what_came_from_memory_is_no_result(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SHAPE", (24, 20, 16))
    monkeypatch.setattr(program, "PLACES", {"patch": ((8, 16), (4, 12), (1, 9))})
    monkeypatch.setattr(program, "_fetched", lambda: 0)
    with pytest.raises(SystemExit, match="TMPDIR"):
        program.measured("read:sampler:patch", None)


def test_a_scan_under_two_names_counts_once(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "small"
    image = np.random.default_rng(0).uniform(1, 9, (16, 16, 16)).astype(np.float32)
    for name, values in (("a", image), ("b", image), ("c", image + 1)):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", values, 1.0)
        save(root / "labelsTr" / f"{name}.nii.gz", (values > 5).astype(np.uint8), 1.0)
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**content, "numTraining": 3}), encoding="utf-8")
    monkeypatch.setattr(program, "SETS", {"small": {}})
    found = program.measured("size:small", tmp_path)
    assert found["cases"] == 2
    arrays = 2 * 16**3 * (4 + 1 + 2)
    assert arrays < found["written_bytes"] <= found["estimated_bytes"]
    assert 1 <= found["least"] <= found["estimated_bytes"] / found["written_bytes"] <= found["most"]


def test_the_tables(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    n4 = {"cell": "n4:head:sub-IXI034", "before": [0.16, 0.12, 0.104], "after": [0.08, 0.05, 0.04]}
    read = {"cell": "read:sampler:patch", "wanted_bytes": 1_048_576}
    size = {"cell": "size:lgg", "cases": 2, "foreground": "head", "least": 1.2, "most": 3.0}
    lines = [
        *({**n4, "cpu_seconds": seconds} for seconds in (30.0, 20.0, 24.0)),
        *({**read, "seconds": seconds, "read_bytes": 5_000_000} for seconds in (0.01, 0.03)),
        {**size, "estimated_bytes": 3_000_000, "written_bytes": 2_000_000, "occupied_bytes": 2_100_000},
    ]
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results.jsonl")
    program.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = program.table().splitlines()
    assert "| `sub-IXI034` | head | 16.0 to 8.0 % | 12.0 to 5.0 % | 10.4 to 4.0 % | 24.0 (20.0-30.0, 3 runs) |" in rows
    assert "| patch | sampler | 1.0 | 5.0 (5.0-5.0, 2 runs) | 0.020 (0.010-0.030, 2 runs) |" in rows
    assert "| `lgg` | 2 | head | 3.0 | 2.0 | 2.1 | 1.50 | 1.20-3.00 |" in rows
