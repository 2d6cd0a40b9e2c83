"""A tiny curve on phantoms, and the rows that its cells would leave."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from medae.errors import Interrupted
from medae.training.faults import Interrupts
from pipelines.curve_cells import Cell, Design
from pipelines.curve_config import Written, read_curve
from pipelines.files import write_json

SHORT = {
    "data": {"subjects": 9, "spacing": 8.0, "root": "phantoms"},
    "split": {"test": 3, "validation": 2, "stratify": None},
    "plan": {"widths": [4, 8], "patch": [16, 16, 16], "batch": 2},
    "fit": {"steps": 2, "epoch_steps": 1, "schedule": {"warmup": 1}},
}


TOO_HIGH = 1e35
"""A rate at which the second step's loss is no number."""


def content(**changes) -> dict:
    return {
        "name": "tiny",
        "labelled": [1, 2],
        "draws": 2,
        "pretrain": {"config": "phantoms", "set": {**SHORT, "validation_batches": 0}},
        "finetune": {"config": "phantoms", "set": SHORT},
        "search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [2], "set": {"fit": {"steps": 1}}},
        "encoders": {"masked": {}},
        "arms": {"scratch": {}, "masked": {"encoder": "masked"}},
    } | changes


def curve(tmp_path: Path, **changes) -> Written:
    path = tmp_path / "curve.yaml"
    path.write_text(json.dumps(content(**changes)))
    return read_curve(str(path))


def design(written: Written, *rows: dict) -> Design:
    return Design(written, {row["digest"]: row for row in rows})


def searched(written: Written, name: str, count, dice: dict[float, float], seconds: float = 1.0) -> list[dict]:
    """The rows of a search."""
    cells = {rate: Design(written, {}).searched(name, count, rate) for rate in dice}
    row = {"kind": "rate", "arm": name, "seconds": 30.0, "training_seconds": seconds, "steps": 1}
    return [row | {"digest": cell.digest, "dice_mean": dice[rate]} for rate, cell in cells.items()]


def drawn(cell: Cell, cases: dict[str, float], validation: float = 0.5) -> dict:
    """The row of a draw."""
    scores = {"dice_mean": sum(cases.values()) / len(cases), "hd95_mean": 2.0, "surface_dice_mean": 0.9}
    row = {"kind": "draw", "arm": cell.name, "labelled": cell.count, "draw": cell.draw, "digest": cell.digest}
    row |= {key: cell.content["fit"][key] for key in ("rate", "steps")} | {"cases": cases, "seconds": 60.0}
    return (
        row | scores | {"validation": {"dice_mean": validation}, "training_seconds": 50.0, "labelled_subjects": cell.count}
    )


def known(written: Written) -> list[dict]:
    """Rows of all searches: 1e-3 is the best for scratch, 2e-3 for masked."""
    return [
        *searched(written, "scratch", 2, {1e-3: 0.6, 2e-3: 0.5}),
        *searched(written, "masked", 2, {1e-3: 0.5, 2e-3: 0.6}),
    ]


def rows_of(
    written: Written, scores: dict[tuple[str, int, int], dict[str, float]], validation: dict[str, float]
) -> list[dict]:
    rates = {"scratch": 1e-3, "masked": 2e-3}
    cells = Design(written, {})
    return [
        drawn(cells.drawn(name, count, draw, rates[name]), cases, validation[name])
        for (name, count, draw), cases in scores.items()
    ]


@dataclass(frozen=True)
class Endless:
    """Stands for a ``Task``: a training without end, that is stopped as every training is. seconds: of its last step."""

    folder: Path
    seconds: float = 0.0

    def __call__(self) -> dict[str, str]:
        with Interrupts() as interrupts:
            (self.folder / f"{os.getpid()}.begun").touch()
            while interrupts.received is None:
                time.sleep(0.02)
            time.sleep(self.seconds)
        (self.folder / f"{os.getpid()}.{interrupts.received.name}").touch()
        raise Interrupted("Stopped.")

    def begun(self) -> int:
        return len(list(self.folder.glob("*.begun")))

    def stopped(self) -> int:
        return len(list(self.folder.glob("*.SIGTERM")))


@dataclass(frozen=True)
class Failing:
    """Stands for a ``Task`` whose cells all fail with long problems: more text than a pipe holds."""

    folder: Path
    cells: int = 10

    def __call__(self) -> dict[str, str]:
        problem = "It broke. " * 2000
        for number in range(self.cells):
            write_json(self.folder / "failed" / f"{number}.json", {"label": f"cell-{number}", "problem": problem})
        return {f"cell-{number}": problem for number in range(self.cells)}


@dataclass(frozen=True)
class Killed:
    """Stands for a ``Task`` of a process that the system kills, and that has told of a cell before."""

    folder: Path

    def __call__(self) -> dict[str, str]:
        Failing(self.folder, cells=1)()
        os.kill(os.getpid(), signal.SIGKILL)
        return {}
