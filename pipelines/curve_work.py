"""Running the cells of a label curve: in one process or several, each taking what no other is at.

    worker = Worker(written, folder, results, screen); worker.measure(part)

What has been measured is a line a cell in ``results``. A cell that is there is not run again, one that was begun goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from platform import machine, python_version
from typing import Any, Literal

from filelock import FileLock, Timeout

from medae.artifact import RECORD
from medae.config import digest, validate
from medae.errors import RESUME, DivergedError, Interrupted, MedaeError, TrackingError, TrainingError
from medae.metrics.segmentation import case_means
from medae.tracking.client import open_client
from medae.tracking.provenance import provenance
from medae.training.checkpoint import Checkpoint, load
from pipelines.console import Screen, shown
from pipelines.curve_cells import Cell, Design, Part, Rows, decisive, read_rows
from pipelines.curve_config import Written
from pipelines.data import DataConfig, Dataset, open_dataset
from pipelines.files import append_line, read_json, set_aside, source_digest, write_json, write_text
from pipelines.outcome import Finished
from pipelines.stage import StageConfig, program_of, run_stage

ROW = "row.json"
"""In a run's folder: its row. A file of results can be lost, and the checkpoints that a row is made from are not kept."""

PATIENCE = 10.0
"""Seconds until it is looked again whether another process has finished what a cell waits for."""

AWAY = 600.0
"""Seconds for which a cell waits for an MLflow server that does not answer, before the process ends."""

PAUSED = 5.0
"""How many times as long as the median epoch one takes only because its process was stopped, or its machine asleep."""


@dataclass(frozen=True)
class Ran:
    """A cell's stage: the configuration that it ran with, what it left, and the seconds that all of it took now."""

    config: Any
    finished: Finished
    seconds: float


class Worker:
    """Runs cells in its own process.

    folder: of the runs, and of the locks by which processes share out the cells. results: the file of the rows. parent:
    gives the MLflow run that the cells' runs belong to. data: short digests of the data sets, by stage, as far as they are
    known; the others are found when they are needed.
    """

    def __init__(
        self,
        written: Written,
        folder: Path,
        results: Path,
        screen: Screen,
        parent: Callable[[], str] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.written, self.folder, self.results, self.screen, self.parent = written, folder, results, screen, parent
        self.data = dict(data or {})
        self.screen.brief = True
        (folder / "locks").mkdir(parents=True, exist_ok=True)

    @property
    def design(self) -> Design:
        """The curve with what has been measured so far."""
        return Design(self.written, read_rows(self.results))

    def measure(self, part: Part, done: Callable[[Design, Cell], None] | None = None) -> dict[str, str]:
        """Run what is left to run of a part until nothing is. Returns what went wrong, by the label of the cell.

        done: called after every cell. A cell that failed, here or in another process, is not tried again, the others go on.
        """
        failed: dict[str, dict[str, str]] = {}
        with FileLock(self.folder / "locks" / "mlflow"):  # two processes must not both make the tables
            open_client().search_experiments(max_results=1)
        while True:
            busy = ran = False
            for cell in self.left(part):
                if self._has_failed(cell, failed) or (cell.needs is not None and self._model(cell.needs) is None):
                    continue
                with self._claim(cell) as mine:
                    if not mine:
                        busy = True
                    elif not self._has_failed(cell, failed):
                        ran = True  # by another process too, since the list was made: then there is a new list
                        if not self._is_done(cell, read_rows(self.results)):
                            self._attempt(cell, done, failed)
                if ran:
                    break
            if not busy and not ran:
                return {failure["label"]: failure["problem"] for failure in failed.values()}
            if not ran:
                time.sleep(PATIENCE)

    def forget_failures(self) -> None:
        """Let cells be tried again that failed when the curve was run before."""
        shutil.rmtree(_failed(self.folder), ignore_errors=True)

    def _attempt(self, cell: Cell, done: Callable[[Design, Cell], None] | None, failed: dict[str, dict[str, str]]) -> None:
        """Run a cell. If it fails, that is added to what failed, and told to the other processes."""
        try:
            self._run_when_tracked(cell)
        except (Interrupted, TrackingError):
            raise
        except MedaeError as error:
            self._tell(cell, str(error).replace(RESUME, "run the same command again"), failed)
        except Exception as error:  # whatever a library raises: else one process after another would end at this cell
            traceback.print_exc()
            self._tell(cell, f"This is a fault of medae, not of yours: {type(error).__name__}: {error}", failed)
            if "CUDA error" in str(error):  # after it, every cell of this process would fail
                raise
        else:
            if done is not None:
                done(self.design, cell)

    def _run_when_tracked(self, cell: Cell) -> None:
        """Run a cell, once MLflow answers: a server that is away is no fault of the cell, and would fail them all.

        Raises TrackingError when it has been away for AWAY.
        """
        end: float | None = None
        while True:
            try:
                return self._run(cell)
            except TrackingError as error:
                if end is None:
                    end = time.monotonic() + AWAY
                    self.screen.warn(f"{cell.label} waits for MLflow, {AWAY / 60:.0f} min at the most: {error}")
                elif time.monotonic() > end:
                    raise
                time.sleep(PATIENCE)

    def _tell(self, cell: Cell, problem: str, failed: dict[str, dict[str, str]]) -> None:
        self.screen.warn(f"{cell.label}: {problem}")
        failed[cell.digest] = {"label": cell.label, "problem": problem}
        write_json(self._failure_of(cell), failed[cell.digest])

    def _has_failed(self, cell: Cell, known: dict[str, dict[str, str]]) -> bool:
        """Whether a cell failed in any process. known: the failures that were met before, by digest; this one is added."""
        if cell.digest not in known:
            with suppress(FileNotFoundError):
                known[cell.digest] = read_json(self._failure_of(cell))
        return cell.digest in known

    def _failure_of(self, cell: Cell) -> Path:
        """The file that tells the other processes what went wrong."""
        return _failed(self.folder) / f"{cell.digest}.json"

    def left(self, part: Part) -> list[Cell]:
        """What is left, the encoders first; one that was measured only if its model is lost and something waits for it."""
        design = self.design
        pending = design.pending(part)
        waited_for = {cell.needs.digest for cell in pending if cell.needs is not None}
        encoders = [
            cell
            for cell in design.encoders(part)
            if cell.digest not in design.rows or (cell.digest in waited_for and self._model(cell) is None)
        ]
        return [*encoders, *pending]

    def _is_done(self, cell: Cell, rows: Rows) -> bool:
        return cell.digest in rows and (cell.kind != "encoder" or self._model(cell) is not None)

    @contextmanager
    def _claim(self, cell: Cell) -> Iterator[bool]:
        """Whether the cell is this process' own for now. A process that ends lets go of it, however it ends.

        By digest: arms that share a search call it by names of their own.
        """
        lock = FileLock(self.folder / "locks" / cell.digest, timeout=0)
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
        """The artifact of a pretraining that is finished, whatever became of the code since; of several the newest.

        One that was trained on another state of the data does not count, if today's is known.
        """
        found: list[tuple[float, Path]] = []
        for record in (self.folder / encoder.label).glob("*/run.json"):
            model = record.parent / "model"
            if not read_json(record).get("finished") or not (model / RECORD).is_file():
                continue
            state, today = _trained_on(model), self.data.get("pretrain")
            if state == today or None in (state, today):
                found.append((record.stat().st_mtime, model))
        return max(found)[1] if found else None

    def _run(self, cell: Cell) -> None:
        """Train, score, and add the line; of a cell that is finished the line that it had, if the file has lost it."""
        load = _load()
        begun = any((self.folder / cell.label).rglob("run.json"))
        row: dict[str, Any] = {"kind": cell.kind, "arm": cell.name, "labelled": cell.count, "draw": cell.draw}
        try:
            ran = self._trained(cell)
        except DivergedError as error:
            if cell.kind != "rate":
                raise
            # a rate that is too high has been tried: that is an answer, and the search goes on
            tried = {"rate": cell.content["fit"]["rate"], "dice_mean": 0.0, "diverged": error.what}
            self.add(row | tried | {"data": self._state_of(cell), "digest": cell.digest, "load": load})
            return
        kept = ran.finished.folder / ROW
        if not (ran.finished.skipped and kept.is_file()):
            row |= self._measured(cell, ran) | {"seconds": None if begun else round(ran.seconds, 1)}
            write_json(kept, row | {"digest": cell.digest, "load": load} | _facts())
        # of a pretraining whose folder was lost, the first line stays: compute-fair arms were given their steps by it
        if cell.kind != "encoder" or cell.digest not in read_rows(self.results):
            append_line(self.results, json.dumps(read_json(kept), allow_nan=False))
        for folder in ("checkpoints", *(("predictions", "validation") if cell.kind != "encoder" else ())):
            for place in ran.finished.folder.rglob(folder):
                shutil.rmtree(place)

    def _trained(self, cell: Cell) -> Ran:
        """Run a cell's stage. A finished run that has neither its row nor a checkpoint to make it from is run again."""
        ran = self.stage(cell)
        folder = ran.finished.folder
        if not ran.finished.skipped or (folder / ROW).is_file() or any(folder.rglob("checkpoints")):
            return ran
        moved = set_aside(self.folder / cell.label)
        self.screen.warn(f"{cell.label} is run again, as its row was lost. The earlier run was moved to {shown(moved)}.")
        return self.stage(cell)

    def _measured(self, cell: Cell, ran: Ran) -> dict[str, Any]:
        """What a row says of a training: settings, scores, seconds."""
        row = {key: ran.config.fit.model_dump()[key] for key in ("seed", "steps", "rate")}
        row |= {} if cell.kind == "encoder" else _scores(ran.finished, cell.kind)
        pace = self.design.pace(cell.name) if cell.kind == "draw" else None
        row |= {} if pace is None else {"paced_by": pace}
        trained = [checkpoint.facts for checkpoint in checkpoints_of(ran.finished.folder)]
        row |= {"steps_done": round(statistics.mean(facts["state"]["step"] for facts in trained))}
        row |= {"training_seconds": round(sum(unpaused(facts["state"]) for facts in trained), 3)}
        row |= {"precision": trained[0]["environment"]["precision"]}
        return row | ({"data": _trained_on(ran.finished.folder / "model")} if cell.kind == "encoder" else {})

    def stage(self, cell: Cell) -> Ran:
        """Run a cell's stage, or go on with it."""
        content = dict(cell.content) | {"name": cell.label, "experiment": self.written.curve.experiment}
        content |= {"registered": False, "plan": {"file": str(self.plan(cell))}}
        if cell.needs is not None:
            content["encoder"] = str(self._model(cell.needs))
        if cell.kind != "encoder":
            content["scored"] = "validation" if cell.kind == "rate" else "both"  # a search never sees a test subject
        config: StageConfig = validate(program_of(cell.stage).Config, content, where=cell.label)
        start = time.perf_counter()
        finished = run_stage(cell.stage, config, self.folder / cell.label, self.screen, resume=True, parent=self.parent)
        return Ran(config, finished, time.perf_counter() - start)

    def add(self, row: dict[str, Any]) -> None:
        """Add a line, with what the code and the machine are."""
        append_line(self.results, json.dumps(row | _facts(), allow_nan=False))

    def plan(self, cell: Cell) -> Path:
        """The plan for the training subjects: one file for all arms that ask for the same data set, split and hints.

        Scans that have changed are another data set.
        """
        file = (
            self.folder / "plans" / f"{_short(decisive(cell.content), 'data', 'split', 'plan')}-{self._state_of(cell)}.yaml"
        )
        with FileLock(self.folder / "locks" / "plan"):
            if not file.is_file():
                config = validate(program_of(cell.stage).Config, {**cell.content, "name": "plan"}, where=cell.label)
                dataset = open_dataset(config, self.screen)
                plan = config.plan.make(dataset.subset(dataset.split.train), self.screen)
                file.parent.mkdir(exist_ok=True)
                write_text(file, plan.as_yaml())
        return file

    def _state_of(self, cell: Cell) -> str:
        """The short digest of a cell's data set."""
        if cell.stage not in self.data:
            self.open(cell.stage, cell.content)
        return self.data[cell.stage]

    def open(self, stage: Literal["pretrain", "finetune"], content: Mapping[str, Any]) -> Dataset:
        """Open a stage's data set, and keep its digest. content: a configuration with the keys that say which, and who is
        for what."""
        keys = {key: content[key] for key in DataConfig.model_fields if key in content}
        dataset = open_dataset(validate(DataConfig, keys, where="data"), self.screen)
        self.data[stage] = _in_rows(dataset.digest)
        return dataset


def failures_in(folder: Path) -> dict[str, str]:
    """What went wrong in any process of the curve in a folder, by the label of the cell."""
    failures = [read_json(file) for file in sorted(_failed(folder).glob("*.json"))]
    return {failure["label"]: failure["problem"] for failure in failures}


def _failed(folder: Path) -> Path:
    return folder / "failed"


def _in_rows(data: str) -> str:
    """A data set's digest, as short as rows have it."""
    return data[:12]


def _trained_on(model: Path) -> str | None:
    """The short digest of the data set that a model was trained on; None if it does not say."""
    data = read_json(model / RECORD).get("meta", {}).get("provenance", {}).get("data")
    return None if data is None else _in_rows(data)


def _short(content: Mapping[str, Any], *keys: str) -> str:
    """For the name of a file that stands for these parts of a configuration."""
    return digest({key: content.get(key) for key in keys})[:12]


def _scores(finished: Finished, kind: str) -> dict[str, Any]:
    """The scores of an arm: of a search the Dice alone, of a draw everything, by case the means over labels."""
    (metrics,) = finished.result.metrics.values()
    facts = finished.result.facts
    kept = {"n_test": metrics["n_test"], "dice_mean": metrics["dice_mean"], "data": facts["data"]}
    if kind == "rate":
        return kept
    (chosen_by,) = facts["validation"].values()
    kept |= {name: metrics[name] for name in ("hd95_mean", "surface_dice_mean", "labels")}
    kept |= {"labelled_subjects": facts["labelled_subjects"], "cases": _cases(metrics)}
    kept |= {f"{metric}_cases": _cases(metrics, metric) for metric in ("hd95", "surface_dice")}
    kept |= {"subjects": facts["subjects"]} if facts["subjects"] else {}
    return kept | {"validation": {"dice_mean": chosen_by["dice_mean"], "cases": _cases(chosen_by)}}


def _cases(metrics: dict[str, Any], metric: str = "dice") -> dict[str, float]:
    return {case: round(value, 5) for case, value in case_means(metrics, metric).items()}


def unpaused(state: Mapping[str, Any]) -> float:
    """Seconds in a training loop, all parts of a resumed one together, without those in which its process was stopped.

    state: of ``TrainingState``. An epoch that took PAUSED times as long as the median one (of two epochs the shorter) counts
    as that one: the steps of a compute-fair arm hang on these seconds. The first one may be that slow by itself, as it reads
    the scans.
    """
    epochs = [epoch["seconds"] for epoch in state["history"][1:]]
    usual = statistics.median_low(epochs) if epochs else 0.0
    return float(state["seconds"]) - sum(seconds - usual for seconds in epochs if seconds > PAUSED * usual)


def checkpoints_of(folder: Path) -> list[Checkpoint]:
    """The last one of each member. Raises TrainingError if one is gone."""
    found = [load(checkpoints.parent) for checkpoints in folder.rglob("checkpoints")]
    if not found or None in found:
        raise TrainingError(
            "The run is finished, but its checkpoint is gone.", where=folder, remedy="Remove it, to run the cell again."
        )
    return [checkpoint for checkpoint in found if checkpoint is not None]


def _load() -> float | None:
    """How many processes the machine is at, over the last minute; None where it does not say (Windows)."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _facts() -> dict[str, Any]:
    """The code and the machine."""
    found = provenance()
    facts: dict[str, Any] = {
        "source": source_digest()[:10],
        "revision": found.get("git.revision", "")[:10] + ("+" if found.get("git.dirty") == "true" else ""),
        "threads": int(found["machine.threads"]),
        "torch": found["version.torch"],
        "python": python_version(),
        "machine": machine(),
        "cores": os.cpu_count(),
    }
    return facts | ({"gpus": found["machine.gpus"]} if "machine.gpus" in found else {})
