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
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from medae.config import digest
from pipelines.configs import merge
from pipelines.console import Screen
from pipelines.curve_cells import Cell, Design, Part, part_of
from pipelines.curve_config import read_curve
from pipelines.curve_work import Worker, checkpoints_of

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
            for cell in timed(worker.design, part):
                measure(worker, cell)


@dataclass(frozen=True)
class Timed(Cell):
    """A training that is cut short. of: the one that is timed. run: which time it is."""

    of: str = ""
    run: int = 0

    @property
    def digest(self) -> str:
        """Also of which time it is."""
        return digest({"kind": "time", "of": self.of, "run": self.run, "content": self.content})[:12]


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


def timed(design: Design, part: Part) -> list[Timed]:
    """All once, then all again; without what has been measured."""
    short = [
        Timed(cell.kind, cell.name, merge(cell.content, SHORT), needs=cell.needs, of=cell.digest, run=run)
        for run in range(RUNS)
        for cell in cells(design, part).values()
    ]
    return [cell for cell in short if cell.digest not in design.rows]


def measure(worker: Worker, cell: Timed) -> None:
    """Train, add the line, leave nothing else behind."""
    load = os.getloadavg()[0]
    config, finished = worker.stage(cell)
    members = checkpoints_of(finished.folder)
    epochs = [record for member in members for record in member.facts["state"]["history"]]
    seconds = [record["seconds"] for record in epochs if record["step"] > config.fit.epoch_steps]
    step_seconds = round(len(members) * statistics.mean(seconds) / config.fit.epoch_steps, 4)
    row = {"kind": "time", "arm": cell.name, "of": cell.of, "run": cell.run, "steps": config.fit.steps}
    worker.add(row | {"step_seconds": step_seconds, "digest": cell.digest, "load": round(load, 2)})
    shutil.rmtree(worker.folder / cell.label)
    print(f"{cell.name}, run {cell.run}: {step_seconds:.3f} s a step, load before {load:.2f}", flush=True)


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
