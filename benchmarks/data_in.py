"""How fast scans are checked and preprocessed, beside a plain loop over nibabel and dcm2niix alone.

    python benchmarks/data_in.py DATA                measure every cell, one fresh process after another
    python benchmarks/data_in.py DATA --only check   those whose names begin so
    python benchmarks/data_in.py --table             the table of what has been measured, as Markdown

DATA is the folder that holds the data sets of SETS. Cells: ``loop`` reads every image and label map by nibabel in one
process; ``check`` is what ``medae check`` does (digests, faults, thumbnails) with nothing remembered; ``prepare`` brings
every scan into the space of the data set's own plan and writes it to the store; ``dcm2niix`` converts the DICOM tree.
The number after the name is that of processes; starting them counts, importing medae does not. Files come from the disk
cache: every cell has read them once before. MB are those of the files as they are stored. A line is added to
``results/data_in.jsonl`` for each run.
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
from collections.abc import Callable
from pathlib import Path
from platform import machine, python_version
from typing import Any

RESULTS = Path(__file__).parent / "results" / "data_in.jsonl"
SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {},
    "ixi_t1": {},
    "lidc": {"subject": "^.{14}", "modality": "CT"},
    "dicom": {},
}
OPERATIONS = ("loop-1", "check-1", "check-2", "prepare-1", "prepare-2")
REPEATS = 3


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds the data sets")
    parser.add_argument("--only", default="", help="cells whose names begin so, such as check or prepare-2:lgg")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.table:
        print(table())
    elif chosen.cell:
        print(json.dumps(measured(chosen.cell, chosen.data.resolve())))
    else:
        for name in [name for name in cells() if name.startswith(chosen.only)]:
            for _ in range(REPEATS):
                command = [sys.executable, __file__, str(chosen.data), "--cell", name]
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                line = run.stdout.splitlines()[-1]
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                print(line, flush=True)


def cells() -> list[str]:
    """Names of all cells."""
    files = [f"{operation}:{name}" for name in SETS if name != "dicom" for operation in OPERATIONS]
    return [*files, "dcm2niix-1:dicom", "check-1:dicom", "check-2:dicom", "prepare-1:dicom"]


def measured(name: str, data: Path) -> dict[str, Any]:
    """Seconds of one run of a cell, and what it went through."""
    operation, _, data_set = name.partition(":")
    kind, _, workers = operation.partition("-")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDAE_CACHE"] = str(Path(scratch) / "cache")
        os.environ["XDG_CONFIG_HOME"] = str(Path(scratch) / "config")  # no key of the user's is touched
        job, files, cases = OPERATION[kind](data / data_set, SETS[data_set], int(workers), Path(scratch))
        megabytes = sum(len(path.read_bytes()) for path in files) / 1e6
        start = time.perf_counter()
        job()
        seconds = time.perf_counter() - start
    return {
        "cell": name,
        "seconds": round(seconds, 3),
        "cases": cases,
        "files": len(files),
        "megabytes": round(megabytes, 1),
        "python": python_version(),
        "machine": machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


Job = tuple[Callable[[], object], list[Path], int]


def _loop(root: Path, keys: dict[str, Any], _workers: int, _scratch: Path) -> Job:
    import nibabel as nib
    import numpy as np

    files, cases = _files(root, keys)

    def job() -> None:
        for path in files:
            np.asanyarray(nib.load(path).dataobj)

    return job, files, cases


def _check(root: Path, keys: dict[str, Any], workers: int, _scratch: Path) -> Job:
    from medae.data.check import check_manifest
    from medae.report.thumbnail import thumbnail

    files, cases = _files(root, keys)
    _forget()
    return lambda: check_manifest(_manifest(root, keys), workers, picture=thumbnail), files, cases


def _prepare(root: Path, keys: dict[str, Any], workers: int, scratch: Path) -> Job:
    from medae.planning.fingerprint import fingerprint
    from medae.planning.rules import make_plan
    from medae.preprocessing.store import build_store

    manifest = _manifest(root, keys)
    files, cases = _files(root, keys)
    space = make_plan(fingerprint(manifest, limit=4)).space
    targets = tuple(manifest.labels) or ("label",)
    return lambda: build_store(manifest, space, scratch / "store", targets, workers=workers), files, cases


def _dcm2niix(root: Path, keys: dict[str, Any], _workers: int, scratch: Path) -> Job:
    import dcm2niix

    files, cases = _files(root, keys)
    command = [dcm2niix.bin, "-f", "%s", "-b", "n", "-z", "n", "-o", str(scratch), str(root)]
    return lambda: subprocess.run(command, check=True, capture_output=True), files, cases


OPERATION: dict[str, Callable[[Path, dict[str, Any], int, Path], Job]] = {
    "loop": _loop,
    "check": _check,
    "prepare": _prepare,
    "dcm2niix": _dcm2niix,
}


def _manifest(root: Path, keys: dict[str, Any]) -> Any:
    from medae.data.sources import AutoSource, open_manifest

    return open_manifest(AutoSource(root=root, **keys))


def _files(root: Path, keys: dict[str, Any]) -> tuple[list[Path], int]:
    """Every file of the data set, and the number of cases."""
    manifest = _manifest(root, keys)
    refs = [ref for case in manifest.cases for ref in (*case.images.values(), *case.targets.values())]
    return sorted({path for ref in refs if hasattr(ref, "files") for path in manifest.paths(ref)}), len(manifest.cases)


def _forget() -> None:
    """What was remembered while the cell was set up does not count."""
    for path in Path(os.environ["MEDAE_CACHE"]).glob("*.sqlite"):
        path.unlink()


def table() -> str:
    """What has been measured: the median of the runs, with their range."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        runs.setdefault(json.loads(line)["cell"], []).append(json.loads(line))
    rows = ["| data | what | processes | seconds (range of runs) | cases/s | MB/s |", "|---|---|---|---|---|---|"]
    for name in [name for name in cells() if name in runs]:
        operation, _, data = name.partition(":")
        kind, _, processes = operation.partition("-")
        found, seconds = runs[name][-1], [run["seconds"] for run in runs[name]]
        middle = statistics.median(seconds)
        spread = f"{middle:.1f} ({min(seconds):.1f}-{max(seconds):.1f}, {len(seconds)} runs)"
        speeds = f"{found['cases'] / middle:.1f} | {found['megabytes'] / middle:.1f}"
        rows.append(f"| `{data}` | {kind} | {processes} | {spread} | {speeds} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
