"""What N4 does to white matter, what reading a patch takes from disk, and how large entries become beside their estimate.

    python benchmarks/preprocessing.py DATA               measure every cell, each run in a fresh process
    python benchmarks/preprocessing.py DATA --only n4     those whose names begin so: n4, size, or one such as n4:head
    python benchmarks/preprocessing.py --only read        the cells that need no data
    python benchmarks/preprocessing.py --table            the tables of what has been measured, as Markdown

DATA is the folder that holds the data sets of SETS. Cells:

- ``n4:MASK:HEAD``: a T1 scan of ``ixi_t1`` corrected inside the head mask that the plan's rule finds, or inside its
  brain mask (the parcellation, holes filled). Variation is the standard deviation over the mean of the white matter, as
  the parcellation has it: whole, and without its outermost one and two voxels, which hold grey matter too. CPU seconds
  are those of the correction, of all threads.
- ``read:HOW:PLACE``: from opening a written entry of 512 x 512 x 300 voxels (random values, one channel) to the image
  values of a place in memory. ``sampler`` is what sampling does, ``read-ahead`` the same mapping sliced without advice to
  the system, ``whole`` the image file read as it is. Before each run the entry is synced and taken out of the disk
  cache; that of a virtual machine's host, and of the disk itself, may still hold it. The entry lies in the folder for
  temporary files (TMPDIR). Bytes are what the kernel fetched for the process; Linux only.
- ``size:SET``: every case prepared with the plan that ``medae plan`` makes, in a fresh store. The estimate, made from
  the headers, is compared with the lengths of the entries' files. What these occupy on the disk is more by what the
  file system rounds up, and stands beside.

A line is added to ``results/preprocessing.jsonl`` for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from platform import machine, python_version
from typing import Any

RESULTS = Path(__file__).parent / "results" / "preprocessing.jsonl"
HEADS = ("sub-IXI034", "sub-IXI168", "sub-IXI267", "sub-IXI537", "sub-IXI646")
"""Evenly spread over the sorted list of 43."""

MASKS = ("head", "brain")
WHITE_MATTER = range(81, 89)
"""Labels of DLMUSE: frontal, occipital, parietal and temporal, right and left."""

PEELED = (0, 1, 2)
"""Voxels that are taken off the surface of the white matter."""

SHAPE = (512, 512, 300)
PLACES = {"patch": ((224, 288), (224, 288), (118, 182)), "slice": ((0, 512), (0, 512), (150, 151))}
"""Voxels along I, J, K. The patch is read from an entry of a plan of volumes, the slice from one of slices across K."""

READS = ("sampler:patch", "read-ahead:patch", "whole:patch", "sampler:slice", "read-ahead:slice")
SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {},
    "ixi_t1": {},
    "lgg": {},
    "lidc": {"subject": "^.{14}", "modality": "CT"},
}
REPEATS = {"n4": 3, "read": 5, "size": 1}
"""A size is the same each time."""


def main() -> None:
    """Measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds the data sets; read needs none")
    parser.add_argument("--only", default="", help="cells whose names begin so, such as read or size:lidc")
    parser.add_argument("--table", action="store_true", help="print the tables of the results")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    names = [chosen.cell] if chosen.cell else [name for name in cells() if name.startswith(chosen.only)]
    if chosen.table:
        print(table())
        return
    if not names:
        parser.error(f"no cell begins with {chosen.only}")
    if chosen.data is None and not all(name.startswith("read") for name in names):
        parser.error("DATA is needed for n4 and size")
    if chosen.cell:
        print(json.dumps(measured(chosen.cell, chosen.data)))
        return
    for name in names:
        for _ in range(REPEATS[name.partition(":")[0]]):
            command = [sys.executable, __file__, *([str(chosen.data)] if chosen.data else []), "--cell", name]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            line = run.stdout.splitlines()[-1]
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(line, flush=True)


def cells() -> list[str]:
    """Names of all cells."""
    n4 = [f"n4:{mask}:{head}" for mask in MASKS for head in HEADS]
    return [*n4, *(f"read:{how}" for how in READS), *(f"size:{name}" for name in SETS)]


def measured(name: str, data: Path | None) -> dict[str, Any]:
    """The figures of one run of a cell, and the machine's."""
    part, *rest = name.split(":")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDAE_CACHE"] = str(Path(scratch) / "cache")
        os.environ["XDG_CONFIG_HOME"] = str(Path(scratch) / "config")  # no key of the user's is touched
        if part == "read":
            figures = _read(Path(scratch), *rest)
        else:
            assert data is not None
            figures = {"n4": _n4, "size": _size}[part](data.resolve(), Path(scratch), *rest)
    about = {"python": python_version(), "machine": machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    return {"cell": name, **figures, **about}


def _n4(data: Path, _scratch: Path, rule: str, head: str) -> dict[str, Any]:
    import numpy as np
    import torch
    from scipy import ndimage

    from medae.formats.read import read_array
    from medae.preprocessing.bias import correct_bias
    from medae.preprocessing.brain import given_mask
    from medae.preprocessing.foreground import foreground_mask
    from medae.volume import spacing_of

    root = data / "ixi_t1"
    image, grid = read_array([next((root / head / "anat").glob("*_T1w.nii.gz"))], "intensity")
    labels, _ = read_array([next((root / "derivatives" / "dlmuse" / head / "anat").glob("*_dseg.nii.gz"))], "labels")
    raw, spacing = torch.from_numpy(image), spacing_of(grid.ras()[1])
    mask = given_mask(labels) if rule == "brain" else foreground_mask(raw, "head")
    start = time.process_time()
    corrected = correct_bias(raw, mask, spacing)
    seconds = time.process_time() - start
    white = np.isin(labels[0], list(WHITE_MATTER))
    regions = [ndimage.binary_erosion(white, iterations=peeled) if peeled else white for peeled in PEELED]

    def variation(array_1IJK: np.ndarray) -> list[float]:
        inside = [array_1IJK[0][region].astype(np.float64) for region in regions]
        return [round(float(values.std() / values.mean()), 5) for values in inside]

    return {
        "cpu_seconds": round(seconds, 2),
        "spacing": [round(step, 3) for step in spacing],
        "voxels": int(mask.sum()),
        "white_matter": [int(region.sum()) for region in regions],
        "before": variation(image),
        "after": variation(corrected.numpy()),
    }


def _read(scratch: Path, how: str, place: str) -> dict[str, Any]:
    import numpy as np

    from medae.preprocessing.entry import open_entry
    from medae.preprocessing.mapped import piece

    folder = scratch / "entry"
    expected = _write(folder, place)
    i, j, k = (slice(*limits) for limits in PLACES[place])
    _forget(folder)
    before, start = _fetched(), time.perf_counter()
    if how == "whole":
        values = np.load(folder / "image.npy")[:, i, j, k]
    else:
        image = open_entry(folder, "case", "subject").image
        values = np.array(piece(image, (i, j, k)) if how == "sampler" else image[:, i, j, k])
    seconds, fetched = time.perf_counter() - start, _fetched() - before
    if not np.array_equal(values, expected):
        raise SystemExit("What was read is not what was written.")
    if fetched < values.nbytes:
        raise SystemExit(f"{scratch.parent} is not on a disk, or stayed in its cache. Set TMPDIR to a folder on a disk.")
    return {
        "seconds": round(seconds, 5),
        "read_bytes": fetched,
        "wanted_bytes": values.nbytes,
        "file_bytes": (folder / "image.npy").stat().st_size,
        "read_ahead_kib": _read_ahead(folder),
    }


def _write(folder: Path, place: str) -> Any:
    """Write an entry of noise in the layout of the place's plan. Returns the image values of the place."""
    import numpy as np
    import torch

    from medae.preprocessing.entry import write_entry
    from medae.preprocessing.prepare import Prepared
    from medae.seeding import numpy_generator
    from medae.volume import NativeGrid

    noise = numpy_generator(0, "benchmark of reading").standard_normal((1, *SHAPE), dtype=np.float32)
    mask = torch.ones((1, *SHAPE), dtype=torch.bool)
    native = NativeGrid(shape=SHAPE, affine=np.eye(4))
    image = torch.from_numpy(noise)
    folder.mkdir()
    prepared = Prepared("case", image, torch.ones(1, dtype=torch.bool), mask, {}, native, np.eye(4))
    write_entry(folder, prepared, "noise", 2 if place == "slice" else None)
    i, j, k = (slice(*limits) for limits in PLACES[place])
    return noise[:, i, j, k].copy()


def _forget(folder: Path) -> None:
    """Take the files of an entry out of the disk cache, which holds on to what is not yet written."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fetched() -> int:
    """Bytes that the kernel has fetched from disks for this process so far."""
    (line,) = [row for row in Path("/proc/self/io").read_text().splitlines() if row.startswith("read_bytes:")]
    return int(line.split()[1])


def _read_ahead(folder: Path) -> int | None:
    """How far the system reads ahead on the folder's disk, KiB; None where it does not say."""
    device = folder.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) if setting.is_file() else None


def _size(data: Path, scratch: Path, name: str) -> dict[str, Any]:
    from medae.data.sources import AutoSource, open_manifest
    from medae.planning.rules import make_plan
    from medae.preprocessing.estimate import entry_bytes
    from medae.preprocessing.store import build_store

    manifest = open_manifest(AutoSource(root=data / name, **SETS[name]))
    space = make_plan(manifest).space
    targets = tuple(manifest.labels) or ("label",)  # a parcellation may come without a table of its regions
    store = build_store(manifest, space, scratch / "store", targets)
    cases = {store.keys[case.id][1]: case for case in manifest.cases}  # one scan under two names is one entry
    estimated = [entry_bytes(manifest, case, space, targets) for case in cases.values()]
    files = [[path.stat() for path in (store.folder / key).iterdir()] for key in cases]
    written = [sum(file.st_size for file in entry) for entry in files]
    occupied = [sum(512 * file.st_blocks for file in entry) for entry in files]
    ratios = [most / size for most, size in zip(estimated, written, strict=True)]
    return {
        "cases": len(cases),
        "foreground": space.foreground,
        "targets": targets,
        "estimated_bytes": sum(estimated),
        "written_bytes": sum(written),
        "occupied_bytes": sum(occupied),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }


def table() -> str:
    """What has been measured: seconds as the median of the runs with their range, the rest of the latest run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        runs.setdefault(json.loads(line)["cell"], []).append(json.loads(line))
    known = [name for name in cells() if name in runs]
    tables = [_n4_rows, _read_rows, _size_rows]
    return "\n\n".join("\n".join(rows(runs, known)) for rows in tables)


Runs = dict[str, list[dict[str, Any]]]


def _n4_rows(runs: Runs, known: list[str]) -> Iterator[str]:
    peeled = [f"less {voxels} voxel{'s' * (voxels > 1)}" if voxels else "white matter" for voxels in PEELED]
    yield f"| head | mask | {' | '.join(peeled)} | CPU s (range of runs) |"
    yield "|" + "---|" * (3 + len(PEELED))
    for name in (name for name in known if name.startswith("n4:")):
        _, mask, head = name.split(":")
        last = runs[name][-1]
        pairs = zip(last["before"], last["after"], strict=True)
        changes = " | ".join(f"{100 * before:.1f} to {100 * after:.1f} %" for before, after in pairs)
        yield f"| `{head}` | {mask} | {changes} | {_spread(runs[name], 'cpu_seconds', 1)} |"


def _read_rows(runs: Runs, known: list[str]) -> Iterator[str]:
    yield "| place | how | MB wanted | MB from disk (range of runs) | seconds (range of runs) |"
    yield "|---|---|---|---|---|"
    for name in (name for name in known if name.startswith("read:")):
        _, how, place = name.split(":")
        found = [{**run, "megabytes": run["read_bytes"] / 1e6} for run in runs[name]]
        sizes = f"{found[-1]['wanted_bytes'] / 1e6:.1f} | {_spread(found, 'megabytes', 1)}"
        yield f"| {place} | {how} | {sizes} | {_spread(found, 'seconds', 3)} |"


def _size_rows(runs: Runs, known: list[str]) -> Iterator[str]:
    yield "| data | cases | foreground | MB estimated | MB written | MB occupied | estimated / written | of single cases |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in (name for name in known if name.startswith("size:")):
        last = runs[name][-1]
        most, size = last["estimated_bytes"], last["written_bytes"]
        what = f"`{name.partition(':')[2]}` | {last['cases']} | {last['foreground']}"
        sizes = f"{most / 1e6:.1f} | {size / 1e6:.1f} | {last['occupied_bytes'] / 1e6:.1f}"
        yield f"| {what} | {sizes} | {most / size:.2f} | {last['least']:.2f}-{last['most']:.2f} |"


def _spread(runs: list[dict[str, Any]], key: str, digits: int) -> str:
    values = [run[key] for run in runs]
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}-{high}, {len(values)} runs)" if len(values) > 1 else f"{middle} (1 run)"


if __name__ == "__main__":
    main()
