"""The cells of a label curve: one training each, named by a digest of all that decides its outcome but the code.

Encoders are trained once. Rates are looked for on the validation subjects, with labelled cases of a draw of its own and no
test subject. Then every arm is trained on every draw of every number of labels. What has been measured is a list of rows;
what is left to run is a function of it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from medae.config import digest
from medae.errors import ConfigError, DataError
from medae.plan import Plan
from pipelines.configs import merge
from pipelines.curve_config import ALL, Count, Written
from pipelines.files import read_lines

Row = Mapping[str, Any]
Rows = Mapping[str, Row]
"""What has been measured, by the digest of its cell."""

SEARCH, SEARCH_SEED = "search", 1000
"""The draw that rates are looked for on, and its seed: none of the compared ones."""

ROUND = 50
"""``as_long_as`` takes a multiple of so many steps."""


@dataclass(frozen=True)
class Cell:
    """One training. content: its configuration, before data, plan and encoder are located. needs: the encoder's cell.

    count, draw: the number of labels and the draw of them; of a search the number alone.
    """

    kind: Literal["encoder", "rate", "draw"]
    name: str
    content: dict[str, Any] = field(hash=False)
    count: Count | None = None
    draw: int | None = None
    needs: Cell | None = None

    @property
    def digest(self) -> str:
        """A cell whose configuration changed is another one."""
        content = {"kind": self.kind, "content": decisive(self.content), "needs": self.needs and self.needs.digest}
        return digest(content)[:12]

    @property
    def stage(self) -> Literal["pretrain", "finetune"]:
        """What runs it."""
        return "pretrain" if self.kind == "encoder" else "finetune"

    @property
    def label(self) -> str:
        """For the name of a folder."""
        parts = (self.kind, self.name, self.count, self.draw, self.digest)
        return "-".join(str(part) for part in parts if part is not None)


def decisive(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage's configuration with what its plan file says in the place of the file: one that is edited is another plan."""
    plan = content.get("plan")
    if not isinstance(plan, Mapping) or plan.get("file") is None:
        return content
    file = Path(plan["file"])
    return {**content, "plan": {**plan, "file": _choices(file, file.stat().st_mtime_ns if file.is_file() else 0)}}


@lru_cache
def _choices(file: Path, _changed: int) -> dict[str, Any]:
    """Read again when the file was changed. Raises ConfigError if it is no plan."""
    return Plan.read(file).choices()


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """What has been measured; of a cell that was run twice, the last. A last line that is still being written is left out.

    Raises DataError if a line is not JSON.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(line)
            rows[row["digest"]] = row
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                "This line is no result of a cell.",
                where=f"{path}, line {number}",
                remedy="Remove it: its cell is measured again, or its row taken from its run.",
            ) from error
    return rows


@dataclass(frozen=True)
class Design:
    """A curve, its cells, and the rows that some of them have."""

    written: Written
    rows: Rows

    def encoder(self, name: str) -> Cell:
        """The pretraining of an encoder."""
        assert self.written.pretrain is not None
        return Cell("encoder", name, merge(self.written.pretrain, self.written.curve.encoders[name].set))

    def searched(self, name: str, count: Count, rate: float) -> Cell:
        """A fine-tuning that tries a rate."""
        changes = merge(self.written.curve.search.set, {"fit": {"rate": rate, "seed": SEARCH_SEED}})
        return self._finetune("rate", name, count, SEARCH, changes)

    def drawn(self, name: str, count: Count, draw: int, rate: float, steps: int | None = None) -> Cell:
        """An arm on one draw of labelled cases. steps: where they are not the configuration's."""
        own = {"rate": rate, "seed": draw} | ({} if steps is None else {"steps": steps})
        return self._finetune("draw", name, count, draw, {"fit": own})

    def _finetune(
        self, kind: Literal["rate", "draw"], name: str, count: Count, draw: int | str, changes: Mapping[str, Any]
    ) -> Cell:
        curve, arm = self.written.curve, self.written.curve.arms[name]
        content: Mapping[str, Any] = self.written.finetune
        labelled = None if count == ALL else count
        own = {"labelled": labelled, "labelled_salt": f"{curve.salt}-{draw}:", "scratch": arm.encoder is None}
        for keys in (arm.set, own, changes):
            content = merge(content, keys)
        needs = None if arm.encoder is None else self.encoder(arm.encoder)
        return Cell(kind, name, dict(content), count, draw if isinstance(draw, int) else None, needs)

    def rate(self, name: str, count: Count) -> tuple[float | None, list[Cell]]:
        """The rate of an arm with so many labels (None while it is looked for), and the cells that still look for it.

        Of rates with the same Dice the smaller is taken.
        """
        curve = self.written.curve
        name = curve.arms[name].rate_of or name
        if (fixed := curve.arms[name].rate) is not None:
            return fixed, []
        best, cells = self._search(name, curve.search_count(count))
        return best, [cell for cell in cells if cell.digest not in self.rows]

    def _search(self, name: str, place: Count) -> tuple[float | None, list[Cell]]:
        """The best rate with ``place`` labels, and every cell that tries one: those that are written, and beyond the best
        one where that is at an end. The best is None while a cell is not measured."""
        low, high = self.written.curve.search.bounds
        rates = list(self.written.curve.search.rates)
        while True:
            cells = {rate: self.searched(name, place, rate) for rate in rates}
            found = {rate: self.rows[cell.digest]["dice_mean"] for rate, cell in cells.items() if cell.digest in self.rows}
            if len(found) < len(rates):
                return None, list(cells.values())
            best = max(sorted(rates), key=lambda rate: found[rate])
            beyond = [best * 2] if best == max(rates) else [best / 2] if best == min(rates) else []
            if len(rates) == 1 or not beyond or not low <= beyond[0] <= high:
                return best, list(cells.values())
            rates += beyond

    def steps(self, name: str) -> tuple[int | None, bool]:
        """The steps of an arm if they are not the configuration's, and whether they are known yet.

        ``as_long_as``: so many that they take the seconds of the other arm's pretraining and fine-tuning together, by the
        fastest search of either, since what else a machine does only slows; the same with every number of labels. They are
        fixed by the first row that was trained with the same pace: a later search, or a slower machine, changes nothing.
        """
        curve = self.written.curve
        other, pace = curve.arms[name].as_long_as, self.pace(name)
        if other is None:
            return None, True
        for row in self.rows.values():
            if row.get("paced_by") == pace:
                return row["steps"], True
        if (rows := self.pacing(name)) is None:
            return None, False
        encoder, mine, theirs = rows
        seconds = encoder["training_seconds"] + _step_seconds(theirs) * self.configured(other)["fit"]["steps"]
        return max(ROUND, round(seconds / _step_seconds(mine) / ROUND) * ROUND), True

    def stuck(self, part: Part) -> list[str]:
        """The arms that will never be trained: of the seconds that decide their length there are none, since every rate of
        theirs, or of the other arm, diverged."""
        long = [name for name in part.arms if not self.steps(name)[1]]
        measured = all(cell.digest in self.rows for cell in self.encoders(part))
        counts = {name: part.counts_of(self.written, name) for name in long}
        return [name for name in long if measured and not any(self._searches(name, count) for count in counts[name])]

    def pacing(self, name: str) -> tuple[Row, Row, Row] | None:
        """The rows by whose seconds an arm with ``as_long_as`` is trained: of the encoder, and of the fastest search of
        either arm, its own first. None until all of them are there, and for another arm."""
        other = self.written.curve.arms[name].as_long_as
        if other is None:
            return None
        encoder = self.rows.get(self.encoder(str(self.written.curve.arms[other].encoder)).digest)
        mine, theirs = (self._fastest(arm) for arm in (name, other))
        return None if encoder is None or mine is None or theirs is None else (encoder, mine, theirs)

    def pace(self, name: str) -> str | None:
        """Digest of what decides how long an arm with ``as_long_as`` is trained: itself, the other arm and its encoder."""
        other = self.written.curve.arms[name].as_long_as
        if other is None:
            return None
        encoder = self.encoder(str(self.written.curve.arms[other].encoder)).digest
        arm, than = (decisive(self.configured(each)) for each in (name, other))
        return digest({"arm": arm, "other": than, "encoder": encoder})[:12]

    def configured(self, name: str) -> dict[str, Any]:
        """An arm's fine-tuning, before its rate, labels and draw."""
        return dict(merge(self.written.finetune, self.written.curve.arms[name].set))

    def _fastest(self, name: str) -> Row | None:
        """The fastest of an arm's searches; None until all of them are there, and where every one diverged."""
        curve = self.written.curve
        name = curve.arms[name].rate_of or name
        places = dict.fromkeys(curve.search_count(count) for count in curve.counts_of(name))
        cells = [cell for place in places for cell in self._search(name, place)[1]]
        found = [self.rows.get(cell.digest) for cell in cells]
        whole = [row for row in found if row is not None and "diverged" not in row]
        return min(whole, key=_step_seconds) if whole and None not in found else None

    def cell(self, name: str, count: Count, draw: int) -> Cell | None:
        """An arm on a draw; None while its rate or its length is not known."""
        rate, _ = self.rate(name, count)
        steps, known = self.steps(name)
        return None if rate is None or not known else self.drawn(name, count, draw, rate, steps)

    def row(self, name: str, count: Count, draw: int) -> Row | None:
        """What an arm scored on a draw; None if it was not measured yet."""
        cell = self.cell(name, count, draw)
        return None if cell is None else self.rows.get(cell.digest)

    def pending(self, part: Part) -> list[Cell]:
        """The fine-tunings that can be named now and were not measured yet: searches first, then draw by draw."""
        searches: dict[str, Cell] = {}
        waiting: list[Cell] = []
        for name in part.arms:
            for count in part.counts_of(self.written, name):
                searches |= {cell.digest: cell for cell in self._searches(name, count)}
        for draw in range(max((self.written.curve.draws_of(count) for count in part.counts), default=0)):
            for count in part.counts:
                if draw in part.draws_of(self.written, count):
                    arms = [name for name in part.arms if count in part.counts_of(self.written, name)]
                    cells = [self.cell(name, count, draw) for name in arms]
                    waiting += [cell for cell in cells if cell is not None and cell.digest not in self.rows]
        return [*searches.values(), *waiting]

    def _searches(self, name: str, count: Count) -> list[Cell]:
        """Also those of the arm whose time this one must know."""
        curve = self.written.curve
        other = curve.arms[name].as_long_as
        needed = self.rate(name, count)[1]
        if other is None:
            return needed
        timed = [each for arm in (name, other) for place in curve.counts_of(arm) for each in self.rate(arm, place)[1]]
        return needed + timed

    def encoders(self, part: Part) -> list[Cell]:
        """The pretrainings that arms of a part start from, or take their time from."""
        arms = self.written.curve.arms
        used = {
            name: arms[name].encoder or (arms[str(arms[name].as_long_as)].encoder if arms[name].as_long_as else None)
            for name in part.arms
        }
        return [self.encoder(name) for name in dict.fromkeys(used.values()) if name is not None]

    def expected(self, part: Part) -> tuple[dict[str, int], float | None]:
        """What is left by kind, and the seconds that it takes one process by the cells that were measured.

        Draws of arms whose rate is not known yet count too. What was not measured yet takes as long a step as what is most
        like it. None before the first cell.
        """
        pending = self.pending(part)
        encoders = [cell for cell in self.encoders(part) if cell.digest not in self.rows]
        left: dict[str, list[tuple[str, int]]] = {"encoder": [(cell.name, 1) for cell in encoders], "rate": [], "draw": []}
        left["rate"] = [(cell.name, 1) for cell in pending if cell.kind == "rate"]
        for name in part.arms:
            for count in part.counts_of(self.written, name):
                draws = part.draws_of(self.written, count)
                missing = sum(self.row(name, count, draw) is None for draw in draws)
                left["draw"].append((name, missing))
        counts = {kind: sum(number for _, number in found) for kind, found in left.items()}
        measured = self._measured()
        if not measured:
            return counts, None
        return counts, sum(
            number * self._seconds(kind, name, measured) for kind, found in left.items() for name, number in found
        )

    def _seconds(self, kind: str, name: str, measured: Sequence[Row]) -> float:
        """Of a cell of a kind, by the median a step of the rows that are most like it: of the arm and the kind, of the arm,
        of the kind, any. An arm whose steps hang on seconds that are not known yet takes those that it is to take."""
        other = self.written.curve.arms[name].as_long_as if kind == "draw" else None
        if other is not None and not self.steps(name)[1]:
            encoder = str(self.written.curve.arms[other].encoder)
            return self._seconds("encoder", encoder, measured) + self._seconds("draw", other, measured)
        pretraining = kind == "encoder"  # an encoder's name may be an arm's too
        likeness = [
            (row["arm"] == name and (row["kind"] == "encoder") == pretraining, row["kind"] == kind) for row in measured
        ]
        best = max(likeness)
        alike = [row for row, like in zip(measured, likeness, strict=True) if like == best]
        return self._steps(kind, name) * statistics.median(row["seconds"] / self._steps_of(row) for row in alike)

    def _steps(self, kind: str, name: str) -> int:
        """That a cell of a kind is given, all members together."""
        if kind == "encoder":
            return int(self.encoder(name).content["fit"]["steps"])
        content = self.configured(name)
        if kind == "rate":
            content = dict(merge(content, self.written.curve.search.set))
        steps = self.steps(name)[0] if kind == "draw" else None
        return int(steps or content["fit"]["steps"]) * int(content.get("members", 1))

    def _steps_of(self, row: Row) -> int:
        """That a row was trained for, all members together."""
        members = 1 if row["kind"] == "encoder" else self.configured(row["arm"]).get("members", 1)
        return int(row.get("steps_done", row["steps"])) * int(members)

    def _measured(self) -> list[Row]:
        """The timed rows of this curve's cells: the same file may have others, of a curve with other steps. An arm goes by
        the name that it has here: its rows may have been measured under another."""
        curve = self.written.curve
        every = [(name, count) for name in curve.arms for count in curve.counts_of(name)]
        searches = {(name, curve.search_count(count)) for name, count in every}
        cells: list[Cell | None] = [self.encoder(name) for name in curve.encoders]
        cells += [self.searched(name, count, rate) for name, count in searches for rate in curve.search.rates]
        cells += [self.cell(name, count, draw) for name, count in every for draw in range(curve.draws_of(count))]
        timed = {
            cell.digest: {**row, "arm": cell.name}
            for cell in cells
            if cell is not None and (row := self.rows.get(cell.digest)) is not None and row.get("seconds") is not None
        }
        return list(timed.values())  # two arms may be the same training


def _step_seconds(row: Row) -> float:
    """Of a training. One that stopped early (``fit.patience``) has done fewer steps than it was given."""
    return float(row["training_seconds"] / row.get("steps_done", row["steps"]))


@dataclass(frozen=True)
class Part:
    """Which cells of a curve are meant: arms, numbers of labels, and draws (None: all of each)."""

    arms: tuple[str, ...]
    counts: tuple[Count, ...]
    draws: tuple[int, ...] | None = None

    def counts_of(self, written: Written, name: str) -> list[Count]:
        """The numbers of labels that an arm is trained with."""
        return [count for count in self.counts if count in written.curve.counts_of(name)]

    def draws_of(self, written: Written, count: Count) -> list[int]:
        """Those of a number of labels."""
        return [draw for draw in range(written.curve.draws_of(count)) if self.draws is None or draw in self.draws]


def part_of(
    written: Written,
    arms: Iterable[str] | None = None,
    counts: Iterable[str] | None = None,
    draws: Sequence[int] | None = None,
) -> Part:
    """The part that was asked for. Raises ConfigError for what the curve has not."""
    curve = written.curve
    chosen = tuple(curve.arms) if arms is None else tuple(arms)
    if unknown := [name for name in chosen if name not in curve.arms]:
        raise ConfigError(
            f"The curve has no arm {', '.join(unknown)}.", where="--arms", remedy=f"It has: {', '.join(curve.arms)}."
        )
    wanted = None if counts is None else [count.strip() for count in counts]
    known = {str(count): count for count in curve.labelled}
    if wanted is not None and (strange := [count for count in wanted if count not in known]):
        raise ConfigError(
            f"The curve has no {', '.join(strange)} labels.", where="--labelled", remedy=f"It has: {', '.join(known)}."
        )
    numbers = curve.labelled if wanted is None else tuple(known[count] for count in wanted)
    most = max(curve.draws_of(count) for count in curve.labelled)
    if too_high := [str(draw) for draw in draws or () if not 0 <= draw < most]:
        raise ConfigError(
            f"The curve has no draw {', '.join(too_high)}.", where="--draws", remedy=f"It has 0 to {most - 1}."
        )
    return Part(chosen, numbers, None if draws is None else tuple(draws))
