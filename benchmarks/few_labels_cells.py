"""The cells of ``few_labels.py``: what is compared, what is left to run, and the table of what has been measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medae.config import Config, digest, load
from medae.metrics.statistics import crossed_difference
from pipelines.configs import merge, read_config

Rows = Mapping[str, Mapping[str, Any]]
"""What has been measured, by the digest of its cell."""

SALT = "few-labels-{}:"
SEARCH, SEARCH_SEED = "search", 1000
"""The draw that rates are looked for on, and its seed: none of the compared ones."""


class Encoder(Config):
    """A pretraining. set: keys over the shipped one."""

    set: dict[str, Any] = Field(default_factory=dict)


class Arm(Config):
    """A fine-tuning. See few_labels.yaml for the keys."""

    encoder: str | None = None
    rate_of: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Base(Config):
    """What all start from. config: a shipped configuration. set: keys over it."""

    config: str
    set: dict[str, Any] = Field(default_factory=dict)


class Search(Config):
    """How an arm comes to its rate. rates: the first to try, ascending. bounds: never beyond them."""

    rates: tuple[float, ...] = Field(min_length=1)
    bounds: tuple[float, float]
    set: dict[str, Any] = Field(default_factory=dict)


class Comparison(Config):
    """few_labels.yaml. baseline: the arm that the others are compared with."""

    pretrain: Base
    finetune: Base
    draws: int = Field(ge=1)
    baseline: str
    search: Search
    encoders: dict[str, Encoder]
    arms: dict[str, Arm]

    @model_validator(mode="after")
    def _known(self) -> Comparison:
        named = {self.baseline} | {arm.rate_of for arm in self.arms.values() if arm.rate_of is not None}
        if unknown := named - set(self.arms):
            raise ValueError(f"there is no arm {', '.join(sorted(unknown))}")
        if unknown := {arm.encoder for arm in self.arms.values() if arm.encoder is not None} - set(self.encoders):
            raise ValueError(f"there is no encoder {', '.join(sorted(unknown))}")
        if any(arm.rate_of and self.arms[arm.rate_of].rate_of for arm in self.arms.values()):
            raise ValueError("rate_of must name an arm that has a search of its own")
        return self


@dataclass(frozen=True)
class Cell:
    """One training. content: its configuration, before data, plan and encoder are located. needs: the encoder's cell.

    of, run: the training that this one times, and which time it is.
    """

    kind: Literal["encoder", "rate", "draw", "time"]
    name: str
    content: dict[str, Any] = field(hash=False)
    draw: int | None = None
    needs: Cell | None = None
    of: Cell | None = None
    run: int | None = None

    @property
    def digest(self) -> str:
        """Of all that decides the outcome but the code: a cell whose configuration changed is another one."""
        content = {"kind": self.kind, "content": self.content, "needs": self.needs and self.needs.digest}
        return digest(content | ({} if self.run is None else {"run": self.run}))[:12]

    @property
    def stage(self) -> Literal["pretrain", "finetune"]:
        """What runs it."""
        return "pretrain" if (self.of or self).kind == "encoder" else "finetune"

    @property
    def label(self) -> str:
        """For the name of a folder."""
        return "-".join(str(part) for part in (self.kind, self.name, self.draw, self.run, self.digest) if part is not None)


def read_comparison(path: Path) -> Comparison:
    """The comparison in a YAML file."""
    return load(path, Comparison)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """What has been measured; of a cell that was run twice, the last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {row["digest"]: row for row in map(json.loads, lines)}


@cache
def _shipped(name: str, section: str) -> Mapping[str, Any]:
    return read_config(name, section)


def encoder_cell(comparison: Comparison, name: str) -> Cell:
    """The pretraining of an encoder."""
    content = merge(_shipped(comparison.pretrain.config, "pretrain"), comparison.pretrain.set)
    return Cell("encoder", name, merge(content, comparison.encoders[name].set))


def rate_cell(comparison: Comparison, name: str, rate: float) -> Cell:
    """A short fine-tuning at a rate."""
    return _finetune(comparison, "rate", name, SEARCH, comparison.search.set, rate)


def draw_cell(comparison: Comparison, name: str, draw: int, rate: float) -> Cell:
    """An arm on one draw of labelled cases."""
    return _finetune(comparison, "draw", name, draw, {}, rate)


def _finetune(
    comparison: Comparison,
    kind: Literal["rate", "draw"],
    name: str,
    draw: int | str,
    changes: Mapping[str, Any],
    rate: float,
) -> Cell:
    arm = comparison.arms[name]
    content: Mapping[str, Any] = _shipped(comparison.finetune.config, "finetune")
    seed = draw if isinstance(draw, int) else SEARCH_SEED
    own = {"labelled_salt": SALT.format(draw), "scratch": arm.encoder is None, "fit": {"rate": rate, "seed": seed}}
    for keys in (comparison.finetune.set, arm.set, changes, own):
        content = merge(content, keys)
    needs = None if arm.encoder is None else encoder_cell(comparison, arm.encoder)
    return Cell(kind, name, dict(content), draw if isinstance(draw, int) else None, needs)


def search(comparison: Comparison, name: str, rows: Rows) -> tuple[float | None, list[float]]:
    """The rate of an arm (None while it is looked for), and the rates that are still to be tried.

    Of rates with the same Dice the smaller is taken.
    """
    name = comparison.arms[name].rate_of or name
    low, high = comparison.search.bounds
    rates = list(comparison.search.rates)
    while True:
        found = {rate: rows.get(rate_cell(comparison, name, rate).digest) for rate in rates}
        if wanted := [rate for rate, row in found.items() if row is None]:
            return None, wanted
        best = max(sorted(rates), key=lambda rate: found[rate]["dice_mean"])  # type: ignore[index]
        beyond = [best * 2] if best == max(rates) else [best / 2] if best == min(rates) else []
        if len(rates) == 1 or not beyond or not low <= beyond[0] <= high:
            return best, []
        rates += beyond


def pending(comparison: Comparison, rows: Rows, arms: Iterable[str], draws: Iterable[int]) -> list[Cell]:
    """The fine-tunings that can be named now and were not measured yet: searches first, then draw by draw."""
    arms, draws = list(arms), list(draws)
    searches: dict[str, Cell] = {}
    found: dict[str, float] = {}
    for name in arms:
        best, wanted = search(comparison, name, rows)
        cells = [rate_cell(comparison, comparison.arms[name].rate_of or name, rate) for rate in wanted]
        searches |= {cell.digest: cell for cell in cells}
        if best is not None:
            found[name] = best
    waiting = [draw_cell(comparison, name, draw, rate) for draw in draws for name, rate in found.items()]
    return [*searches.values(), *(cell for cell in waiting if cell.digest not in rows)]


def timed_cells(
    comparison: Comparison, rows: Rows, arms: Iterable[str], changes: Mapping[str, Any], runs: int
) -> list[Cell]:
    """Shorter trainings whose steps are timed: of each arm with a known rate the first draw, and its encoder.

    changes: keys over theirs. All once, then all again.
    """
    found: dict[str, Cell] = {}
    for name in arms:
        best, _ = search(comparison, name, rows)
        if best is not None:
            cell = draw_cell(comparison, name, 0, best)
            found |= {each.digest: each for each in (cell.needs, cell) if each is not None}
    return [
        Cell("time", cell.name, merge(cell.content, changes), needs=cell.needs, of=cell, run=run)
        for run in range(runs)
        for cell in found.values()
    ]


def expected(comparison: Comparison, rows: Rows, arms: Iterable[str], draws: Iterable[int], encoders: int) -> str:
    """One line: what is left, and how long it may take by the cells that were measured.

    encoders: so many are to be trained. Draws of arms whose rate is not known yet count too.
    """
    arms, draws = list(arms), list(draws)
    cells = pending(comparison, rows, arms, draws)
    unknown = [name for name in arms if search(comparison, name, rows)[0] is None]
    rates = sum(cell.kind == "rate" for cell in cells)
    left = {"encoder": encoders, "rate": rates, "draw": len(cells) - rates + len(unknown) * len(draws)}
    seconds: dict[str, list[float]] = {kind: [] for kind in left}
    for row in rows.values():
        if row.get("seconds") is not None:
            seconds[row["kind"]].append(row["seconds"])
    if any(count and not seconds[kind] for kind, count in left.items()):
        told = "not known before one of each kind was measured"
    else:
        told = f"{sum(count * statistics.mean(seconds[kind]) for kind, count in left.items() if count) / 60:.0f} min"
    return f"Left: {', '.join(f'{count} {kind}s' for kind, count in left.items())}. Time in one process: {told}."


def table(comparison: Comparison, rows: Rows) -> str:
    """What has been measured, as Markdown. A rate at a bound of the search is marked."""
    columns = ["arm", "draws", "rate", "Dice", "spread", f"- {comparison.baseline} [95 %]", "HD95 (mm)", "surface Dice"]
    columns += ["pretraining (s a step)", "fine-tuning (s a step)"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    base = _draws(comparison, comparison.baseline, rows)
    for name, arm in comparison.arms.items():
        found, (best, _) = _draws(comparison, name, rows), search(comparison, name, rows)
        if best is None or not found:
            continue

        def mean(key: str, found: Mapping[int, Mapping[str, Any]] = found) -> float:
            return statistics.mean(row[key] for row in found.values())

        dice = [row["dice_mean"] for row in found.values()]
        spread = f"{statistics.stdev(dice):.3f}" if len(dice) > 1 else "–"
        against = "" if name == comparison.baseline else _against(found, base)
        before = "–" if arm.encoder is None else _step_seconds(encoder_cell(comparison, arm.encoder), rows)
        during = _step_seconds(draw_cell(comparison, name, 0, best), rows)
        rate = f"{best:g}{' (bound)' if best in comparison.search.bounds else ''}"
        lines.append(
            f"| {name} | {len(found)} | {rate} | {mean('dice_mean'):.3f} | {spread} | {against} | {mean('hd95_mean'):.2f} "
            f"| {mean('surface_dice_mean'):.3f} | {before} | {during} |"
        )
    revisions = sorted({row["revision"] for row in rows.values() if "revision" in row and row["kind"] != "time"})
    if len(revisions) > 1:
        lines += ["", f"Measured with more than one state of the code: {', '.join(revisions)}."]
    return "\n".join(lines)


def _step_seconds(cell: Cell, rows: Rows) -> str:
    """Of the runs that were timed."""
    found = [row["step_seconds"] for row in rows.values() if row["kind"] == "time" and row["of"] == cell.digest]
    return f"{statistics.median(found):.2f}" if found else ""


def _draws(comparison: Comparison, name: str, rows: Rows) -> dict[int, Mapping[str, Any]]:
    """The rows of an arm by draw."""
    rate = search(comparison, name, rows)[0]
    if rate is None:
        return {}
    found = {draw: rows.get(draw_cell(comparison, name, draw, rate).digest) for draw in range(comparison.draws)}
    return {draw: row for draw, row in found.items() if row is not None}


def _against(found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> str:
    """The difference on the draws that both arms have."""
    draws = sorted(found.keys() & base.keys())
    if not draws:
        return "–"
    cases = sorted(set.intersection(*(set(row["cases"]) for draw in draws for row in (found[draw], base[draw]))))
    both = [[[arm[draw]["cases"][case] for case in cases] for draw in draws] for arm in (found, base)]
    difference = crossed_difference(*both)
    if difference.low is None:
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
