"""How long a training step of a curve's arms and of their pretrainings takes, one after the other, on an idle machine.

    python benchmarks/step_seconds.py CURVE --results FILE --arms scratch,plain_stem
    python benchmarks/step_seconds.py CURVE --results FILE --table

CURVE is a YAML file or the name of a shipped curve, FILE holds its rows. The trainings are the curve's own, of the first
draw at the fewest labels, cut to 30 steps, each three times in turn; the first epoch, in which memory is allocated and
kernels are chosen, does not count. Arms whose rate is not known yet are left out. A line is added to the file for each.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from filelock import FileLock

from pipelines.console import Screen
from pipelines.curve_cells import Cell, Design, Part, part_of
from pipelines.curve_config import read_curve
from pipelines.curve_timing import Timed, cut_short, measure
from pipelines.curve_work import Worker

RUNS, SHORT = 3, {"fit": {"steps": 30, "epoch_steps": 10, "schedule": {"warmup": 5}}}


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", help="a YAML file, or the name of a shipped curve")
    parser.add_argument("--results", type=Path, required=True, help="file of the curve's rows")
    parser.add_argument("--arms", help="only these, such as scratch,masked")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder that holds the runs")
    parser.add_argument("--table", action="store_true", help="print what has been measured, as Markdown")
    chosen = parser.parse_args()
    written = read_curve(chosen.curve)
    part = part_of(written, None if chosen.arms is None else chosen.arms.split(","), [str(written.curve.labelled[0])], [0])
    worker = Worker(written, chosen.out / written.curve.name, chosen.results, Screen(as_json=True))
    if chosen.table:
        print(table(worker.design, part))
    else:
        with FileLock(worker.folder / "locks" / "time"):  # one at a time, or they would time each other
            for cell in cut_short(cells(worker.design, part).values(), SHORT, RUNS):
                if cell.digest not in worker.design.rows:
                    timed(worker, cell)


def cells(design: Design, part: Part) -> dict[str, Cell]:
    """The trainings whose steps are timed, by name: each arm and each encoder once."""
    found: dict[str, Cell] = {}
    for name in part.arms:
        cell = design.cell(name, part.counts[0], 0)
        if cell is not None:
            found[name] = cell
            if cell.needs is not None:
                found[f"pretraining {cell.needs.name}"] = cell.needs
    return found


def timed(worker: Worker, cell: Timed) -> None:
    """Train, and add the line."""
    load = os.getloadavg()[0]
    found = measure(worker, cell)
    row = {"kind": "time", "arm": cell.name, "of": cell.of, "run": cell.run, "steps": found.steps}
    worker.add(row | {"step_seconds": round(found.step, 4), "digest": cell.digest, "load": round(load, 2)})
    print(f"{cell.name}, run {cell.run}: {found.step:.3f} s a step, load before {load:.2f}", flush=True)


def table(design: Design, part: Part) -> str:
    """Median and range of the runs."""
    lines = ["| training | seconds a step | range | runs |", "|---|---|---|---|"]
    for name, cell in cells(design, part).items():
        found = [
            row["step_seconds"] for row in design.rows.values() if row.get("kind") == "time" and row["of"] == cell.digest
        ]
        if found:
            median = statistics.median(found)
            lines.append(f"| {name} | {median:.2f} | {min(found):.2f}-{max(found):.2f} | {len(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
