"""What pretraining, its transfer and the options of a fine-tuning are worth when few scans have labels.

    python benchmarks/few_labels.py DATA                                   run every cell that has not been measured
    python benchmarks/few_labels.py DATA --arms scratch,masked --draws 0   those of some arms and draws
    python benchmarks/few_labels.py DATA --arms scratch,joint --seconds    how long their steps take, on an idle machine
    python benchmarks/few_labels.py --table                                what has been measured, as Markdown

DATA is the folder that holds the data set's. The arms are in ``few_labels.yaml``. Each is trained by the fine-tuning
stage on several draws of labelled cases, at a rate of its own that is looked for on the validation subjects, and scored
on the test subjects. Arms share the plan, and on a draw the labelled cases, the seed and so the batches.

A line is added to ``results/few_labels.jsonl`` for each cell. It can be stopped and started again: a cell that is there
is not run again, one that was begun goes on. Several processes can run side by side; each takes what no other is at. A
cell that failed is told at the end, the others go on. What the stages leave behind lies in ``--work``.

``--seconds`` is for afterwards: the same trainings for a few steps, one after the other, with nothing beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from platform import machine, python_version
from typing import TYPE_CHECKING, Any

from few_labels_cells import (
    Cell,
    Comparison,
    encoder_cell,
    expected,
    pending,
    read_comparison,
    read_rows,
    table,
    timed_cells,
)

if TYPE_CHECKING:
    from medae.training.checkpoint import Checkpoint

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "few_labels.jsonl"
COMPARISON = HERE / "few_labels.yaml"
TIMED_RUNS, TIMED = 3, {"fit": {"steps": 30, "epoch_steps": 10, "schedule": {"warmup": 5}}}
"""How often, and in which trainings, steps are timed. The first epoch does not count."""

PATIENCE = 10.0
"""Seconds until it is looked again whether another process has finished what a cell waits for."""


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds the data sets")
    parser.add_argument("--arms", help="only these, such as scratch,masked")
    parser.add_argument("--draws", help="only these, such as 0,1")
    parser.add_argument("--work", type=Path, default=Path("runs/few_labels"), help="where the runs lie")
    parser.add_argument("--seconds", action="store_true", help="time the steps of the arms, once their rates are known")
    parser.add_argument("--table", action="store_true", help="print the table of the results")
    chosen = parser.parse_args()
    comparison = read_comparison(COMPARISON)
    if chosen.table:
        print(table(comparison, read_rows(RESULTS)))
        return
    if chosen.data is None:
        parser.error("name the folder that holds the data sets")
    arms = list(comparison.arms) if chosen.arms is None else chosen.arms.split(",")
    if unknown := set(arms) - set(comparison.arms):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}")
    draws = range(comparison.draws) if chosen.draws is None else [int(draw) for draw in chosen.draws.split(",")]
    worker = Worker(comparison, chosen.data.resolve(), chosen.work.resolve(), RESULTS)
    failed = worker.time(arms) if chosen.seconds else worker.measure(arms, draws)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


class Worker:
    """Runs cells in its own process. work: folder of the runs and of the locks by which processes share out the cells."""

    def __init__(self, comparison: Comparison, data: Path, work: Path, results: Path) -> None:
        from pipelines.console import Screen

        self.comparison, self.data, self.work, self.results = comparison, data, work, results
        self.screen = Screen(as_json=True)
        (work / "locks").mkdir(parents=True, exist_ok=True)

    def measure(self, arms: Sequence[str], draws: Sequence[int]) -> list[str]:
        """Run what is left to run until nothing is. Returns the cells that failed."""
        failed: dict[str, str] = {}
        self._move_in()
        print(self._expected(arms, draws), flush=True)
        while True:
            busy = done = False
            for cell in self._left(arms, draws):
                if cell.digest in failed or (cell.needs is not None and self._model(cell.needs) is None):
                    continue
                with self._claim(cell) as mine:
                    if not mine:
                        busy = True
                    elif not self._is_done(cell):
                        try:
                            self._run(cell)
                            print(self._expected(arms, draws), flush=True)
                        except Exception as error:
                            _stop_if_asked(error)
                            traceback.print_exc()
                            failed[cell.digest] = cell.label
                        done = True
                if done:
                    break
            if not busy and not done:
                return list(failed.values())
            if not done:
                time.sleep(PATIENCE)

    def time(self, arms: Sequence[str]) -> list[str]:
        """Seconds a step of the arms and of their encoders, ``TIMED_RUNS`` times in turn. Returns what failed."""
        from filelock import FileLock

        self._move_in()
        failed: dict[str, str] = {}
        with FileLock(self.work / "locks" / "time"):  # one at a time, or they would time each other
            load = os.getloadavg()[0]
            for cell in timed_cells(self.comparison, read_rows(self.results), arms, TIMED, TIMED_RUNS):
                if self._is_done(cell) or (cell.needs is not None and self._model(cell.needs) is None):
                    continue
                try:
                    self._time(cell, load)
                except Exception as error:
                    _stop_if_asked(error)
                    traceback.print_exc()
                    failed[cell.digest] = cell.label
        return list(failed.values())

    def _time(self, cell: Cell, load: float) -> None:
        """The mean over all epochs but the first, in which memory is allocated and kernels are chosen."""
        config, finished = self._stage(cell)
        members = _checkpoints(finished.folder)
        epochs = [record for member in members for record in member.facts["state"]["history"]]
        seconds = [record["seconds"] for record in epochs if record["step"] > config.fit.epoch_steps]
        step_seconds = round(len(members) * statistics.mean(seconds) / config.fit.epoch_steps, 4)
        row = {"kind": "time", "arm": cell.name, "of": cell.of and cell.of.digest, "run": cell.run}
        self._add(row | {"steps": config.fit.steps, "step_seconds": step_seconds}, cell, load)
        shutil.rmtree(self.work / cell.label)

    def _move_in(self) -> None:
        """Work in the folder of the runs, with a store of its own for MLflow: a user's is not filled."""
        from filelock import FileLock

        from medae.tracking.client import open_client

        os.chdir(self.work)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.work / 'mlflow.db'}"
        with FileLock(self.work / "locks" / "mlflow"):  # two processes must not both make the tables
            open_client().search_experiments(max_results=1)

    def _left(self, arms: Sequence[str], draws: Sequence[int]) -> list[Cell]:
        """What is left, the encoders first."""
        cells = pending(self.comparison, read_rows(self.results), arms, draws)
        needed = {cell.needs.digest: cell.needs for cell in cells if cell.needs is not None}
        return [*(encoder for encoder in needed.values() if not self._is_done(encoder)), *cells]

    def _expected(self, arms: Sequence[str], draws: Sequence[int]) -> str:
        names = {self.comparison.arms[name].encoder for name in arms} - {None}
        encoders = [encoder_cell(self.comparison, str(name)) for name in names]
        count = sum(not self._is_done(encoder) for encoder in encoders)
        return expected(self.comparison, read_rows(self.results), arms, draws, count)

    def _is_done(self, cell: Cell) -> bool:
        measured = cell.digest in read_rows(self.results)
        return measured and (cell.kind != "encoder" or self._model(cell) is not None)

    @contextmanager
    def _claim(self, cell: Cell) -> Iterator[bool]:
        """Whether the cell is this process' own for now. A process that ends lets go of it, however it ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.work / "locks" / cell.label, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _model(self, encoder: Cell) -> Path | None:
        """The artifact of a pretraining that is finished, whatever became of the code since."""
        for record in (self.work / encoder.label).glob("*/run.json"):
            if json.loads(record.read_text(encoding="utf-8"))["finished"]:
                return record.parent / "model"
        return None

    def _run(self, cell: Cell) -> None:
        """Train, score, and add the line."""
        start, load = time.perf_counter(), os.getloadavg()[0]
        begun = any((self.work / cell.label).rglob("run.json"))
        config, finished = self._stage(cell)
        (metrics,) = finished.result.metrics.values()
        row = {"kind": cell.kind, "arm": cell.name, "draw": cell.draw, "seed": config.fit.seed}
        row |= {"steps": config.fit.steps, "rate": config.fit.rate}
        row |= {} if cell.kind == "encoder" else _scores(metrics, cell.kind)
        row |= {"training_seconds": _training_seconds(finished.folder)}
        row |= {"seconds": None if begun else round(time.perf_counter() - start, 1)}
        self._add(row, cell, load)
        for folder in finished.folder.rglob("checkpoints"):
            shutil.rmtree(folder)

    def _stage(self, cell: Cell) -> tuple[Any, Any]:
        """The configuration with which the cell's stage ran, and what it left."""
        from medae.config import validate
        from pipelines.stage import program_of, run_stage

        print(f"{cell.label} …", flush=True)
        config = validate(program_of(cell.stage).Config, self._located(cell), where=cell.label)
        return config, run_stage(cell.stage, config, self.work / cell.label, self.screen, resume=True)

    def _add(self, row: dict[str, Any], cell: Cell, load: float) -> None:
        """Add a line. load: of the machine, before."""
        from filelock import FileLock

        row = row | {"digest": cell.digest, **_facts(), "load": round(load, 2)}
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.work / "locks" / "results"), self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        print({key: value for key, value in row.items() if key not in ("cases", "labels")}, flush=True)

    def _located(self, cell: Cell) -> dict[str, Any]:
        """The cell's configuration with the places of data, plan and encoder on this machine."""
        content = dict(cell.content)
        content |= {"name": cell.label, "experiment": "few labels"}
        content["data"] = content["data"] | {"root": str(self.data / content["data"]["root"])}
        content["plan"] = {"file": str(self._plan(content, cell.stage))}
        if cell.needs is not None:
            content["encoder"] = str(self._model(cell.needs))
        if cell.kind == "rate":
            content["data"], content["split"] = self._development(content)
        return content

    def _plan(self, content: dict[str, Any], kind: str) -> Path:
        """The plan for the training subjects: one file for all arms that ask for the same data set, split and hints."""
        from medae.config import validate
        from pipelines.data import open_dataset
        from pipelines.files import write_text
        from pipelines.stage import program_of

        file = self.work / "plans" / f"{_short(content, 'data', 'split', 'plan')}.yaml"
        if not file.is_file():
            config = validate(program_of(kind).Config, content, where=content["name"])
            dataset = open_dataset(config, self.screen)
            write_text(file, config.plan.make(dataset.subset(dataset.split.train), self.screen).as_yaml())
        return file

    def _development(self, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Data and split without the test subjects: the validation subjects are scored, the same ones train."""
        from medae.config import validate
        from medae.data.sources import write_manifest
        from medae.data.split import split_subjects
        from medae.errors import ConfigError
        from pipelines.data import DataConfig, open_dataset

        file = self.work / f"development-{_short(content, 'data', 'split')}.json"
        split = content["split"] | {"test": content["split"]["validation"], "validation": 0}
        if not file.is_file():
            config = validate(DataConfig, {"data": content["data"], "split": content["split"]}, where="data")
            dataset = open_dataset(config, self.screen)
            kept = dataset.subset([*dataset.split.train, *dataset.split.validation])
            found = split_subjects(kept, validate(DataConfig, {"data": content["data"], "split": split}).split)
            if (found.train, found.test) != (dataset.split.train, dataset.split.validation):
                raise ConfigError("Without the test subjects the split is another one.", where="split.stratify")
            write_manifest(kept, config.data, file)
        return {"format": "manifest", "root": content["data"]["root"], "file": str(file)}, split


def _short(content: dict[str, Any], *keys: str) -> str:
    """For the name of a file that stands for these parts of a configuration."""
    from medae.config import digest

    return digest({key: content[key] for key in keys})[:12]


def _scores(metrics: dict[str, Any], kind: str) -> dict[str, Any]:
    """The scores of an arm: of a search the Dice alone, of a draw everything and each case's mean Dice."""
    from medae.metrics.segmentation import case_dice

    kept = {"n_test": metrics["n_test"], "dice_mean": metrics["dice_mean"]}
    if kind == "rate":
        return kept
    kept |= {name: metrics[name] for name in ("hd95_mean", "surface_dice_mean", "labels")}
    return kept | {"cases": {case.rpartition("_")[2]: round(dice, 5) for case, dice in case_dice(metrics).items()}}


def _training_seconds(folder: Path) -> float:
    """Seconds in the training loop, all members and all parts of a resumed training together."""
    return round(sum(checkpoint.facts["state"]["seconds"] for checkpoint in _checkpoints(folder)), 1)


def _checkpoints(folder: Path) -> list[Checkpoint]:
    """The last one of each member. Raises TrainingError if one is gone."""
    from medae.errors import TrainingError
    from medae.training.checkpoint import load

    found = [load(checkpoints.parent) for checkpoints in folder.rglob("checkpoints")]
    if not found or None in found:
        raise TrainingError(
            "The run is finished, but its checkpoint is gone.", where=folder, remedy="Remove it, to run the cell again."
        )
    return [checkpoint for checkpoint in found if checkpoint is not None]


def _facts() -> dict[str, Any]:
    """The code and the machine."""
    from medae.tracking.provenance import provenance

    found = provenance()
    facts: dict[str, Any] = {
        "revision": found.get("git.revision", "")[:10] + ("+" if found.get("git.dirty") == "true" else ""),
        "threads": int(found["machine.threads"]),
        "torch": found["version.torch"],
        "python": python_version(),
        "machine": machine(),
        "cores": os.cpu_count(),
    }
    return facts | ({"gpus": found["machine.gpus"]} if "machine.gpus" in found else {})


def _stop_if_asked(error: Exception) -> None:
    """An interruption is for the whole program, not for the cell."""
    from medae.errors import Interrupted

    if isinstance(error, Interrupted):
        sys.exit(str(error))


if __name__ == "__main__":
    main()
