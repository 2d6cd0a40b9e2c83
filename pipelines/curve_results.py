"""What the rows of a label curve give: means and intervals, differences to the twins, labels saved, and what is chosen."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medae.metrics.label_curve import LabelsEqual, labels_equal
from medae.metrics.statistics import CrossedDifference, CrossedMean, crossed_difference, crossed_mean, holm
from pipelines.curve_cells import Design, Part, Row
from pipelines.curve_config import ALL, Count, Curve


@dataclass(frozen=True)
class Point:
    """An arm at a number of labels.

    dice, hd95, surface_dice, validation: the mean over labels, then cases, then draws; None where a row has none. HD95 and
    surface Dice have no interval where a row has no cases of them (rows of earlier versions had none). seconds: of a
    training, the median over the draws on the processor that most of the curve was measured on. difference: to the arm's
    twin, on the draws that both have; None for the baseline itself. p, holm: of the difference over draws and test subjects,
    and corrected for all comparisons that were planned; None until all draws of both are there. equal: at how many labels
    the twin scores as much.
    """

    arm: str
    count: Count
    rows: Mapping[int, Row]
    complete: bool
    rate: float
    seconds: float | None
    dice: CrossedMean
    hd95: CrossedMean | None
    surface_dice: CrossedMean | None
    validation: float | None
    difference: CrossedDifference | None = None
    p: float | None = None
    holm: float | None = None
    equal: LabelsEqual | None = None

    @property
    def labels(self) -> int | str:
        """As a number, also where all are meant, if the rows say it."""
        return next((row["labelled_subjects"] for row in self.rows.values() if "labelled_subjects" in row), self.count)


@dataclass(frozen=True)
class Found:
    """All points that were measured, by arm and number of labels.

    chosen: the arm at each number of labels whose validation Dice is the best, among the complete ones; oracle: the one
    whose test Dice is. planned: comparisons of the whole curve. doubled: by number of labels and arm, the chosen arm less
    the baseline, and less its twin, with twice as many, where both are complete.
    """

    design: Design
    points: Mapping[tuple[str, Count], Point]
    chosen: Mapping[Count, str]
    oracle: Mapping[Count, str]
    planned: int
    doubled: Mapping[tuple[Count, str], CrossedDifference]

    def of(self, count: Count) -> list[Point]:
        """Those at a number of labels."""
        return [point for (_, number), point in self.points.items() if number == count]


def evaluate(design: Design, part: Part) -> Found:
    """Compute everything that the table and the figure show from the rows."""
    curve = design.written.curve
    points = {}
    for name in part.arms:
        for count in part.counts_of(design.written, name):
            point = _point(design, name, count, part)
            if point is not None:
                points[name, count] = point
    planned = comparisons(design)
    points = _compared(_timed(points), design, planned)
    chosen, oracle = {}, {}
    for count in part.counts:
        here = [point for (_, number), point in points.items() if number == count and point.complete]
        validated = [point for point in here if point.validation is not None]
        if here:
            oracle[count] = max(here, key=lambda point: point.dice.mean).arm
        if validated and len(validated) == len(here):
            chosen[count] = max(validated, key=lambda point: float(point.validation or 0)).arm
    doubled = {
        (count, base): made
        for count, arm in chosen.items()
        for base in dict.fromkeys((curve.baseline, curve.twin_of(arm)))
        if (made := _doubled(points, arm, count, base)) is not None
    }
    return Found(design, points, chosen, oracle, planned, doubled)


def _doubled(points: Mapping[tuple[str, Count], Point], arm: str, count: Count, than: str) -> CrossedDifference | None:
    """An arm less another with twice as many labels, on the draws that both have; these contain the arm's cases.

    None where no other arm was measured with so few labels, so that nothing was chosen.
    """
    point, base = points[arm, count], None if count == ALL else points.get((than, 2 * int(count)))
    alone = sum(number == count for _, number in points) == 1
    if base is None or not base.complete or alone:
        return None
    draws = sorted(point.rows.keys() & base.rows.keys())
    table, subjects = _table([source.rows[draw] for source in (point, base) for draw in draws])
    return crossed_difference(table[: len(draws)], table[len(draws) :], subjects)


def comparisons(design: Design) -> int:
    """How many there are to correct for: arms with their twins, at each number of labels that has more than a draw.

    Arms whose trainings are the same, with another name, are compared once, and not at all with a twin that is the same.
    """
    curve = design.written.curve
    others = [name for name in curve.arms if curve.twin_of(name) != name]
    made = [(name, count) for name in others for count in curve.counts_of(name) if curve.draws_of(count) > 1]
    return len({_comparison(design, *each) for each in made if not _is_twin(design, *each)})


def _comparison(design: Design, name: str, count: Count) -> tuple[tuple[str, ...], ...]:
    """What an arm and its twin are trained as at a number of labels."""
    return _trainings(design, name, count), _trainings(design, design.written.curve.twin_of(name), count)


def _trainings(design: Design, name: str, count: Count) -> tuple[str, ...]:
    """The digests of an arm's draws; its name while its rate is not known."""
    cells = [design.cell(name, count, draw) for draw in range(design.written.curve.draws_of(count))]
    found = tuple(cell.digest for cell in cells if cell is not None)
    return found if len(found) == len(cells) else (name, str(count))


def _is_twin(design: Design, name: str, count: Count) -> bool:
    """Whether an arm is trained as its twin is: then there is nothing to compare."""
    one, other = _comparison(design, name, count)
    return one == other


def repeated(found: Found) -> dict[str, str]:
    """The arms whose trainings are all those of an earlier arm, with that one's name."""
    curve = found.design.written.curve
    seen: dict[tuple[tuple[str, ...], ...], str] = {}
    found_again: dict[str, str] = {}
    for name in curve.arms:
        key = tuple(_trainings(found.design, name, count) for count in curve.counts_of(name))
        if key in seen:
            found_again[name] = seen[key]
        seen.setdefault(key, name)
    return found_again


def _point(design: Design, name: str, count: Count, part: Part) -> Point | None:
    draws = part.draws_of(design.written, count)
    found = {draw: row for draw in draws if (row := design.row(name, count, draw)) is not None}
    rate = design.rate(name, count)[0]
    if not found or rate is None:
        return None
    table, subjects = _table(list(found.values()))
    validation = [row["validation"]["dice_mean"] for row in found.values() if "validation" in row]
    return Point(
        arm=name,
        count=count,
        rows=found,
        complete=len(found) == len(draws),
        rate=rate,
        seconds=None,
        dice=crossed_mean(table, subjects).within(0.0, 1.0),
        hd95=_of_surfaces(list(found.values()), "hd95", math.inf),
        surface_dice=_of_surfaces(list(found.values()), "surface_dice", 1.0),
        validation=statistics.mean(validation) if len(validation) == len(found) else None,
    )


def _of_surfaces(rows: Sequence[Row], metric: str, most: float) -> CrossedMean | None:
    """The mean of a metric of surfaces, with an interval where all rows have it by case. most: that it can be."""
    key = f"{metric}_cases"
    if all(row.get(key) for row in rows):
        return crossed_mean(*_table(rows, key)).within(0.0, most)
    values = [row[f"{metric}_mean"] for row in rows if row[f"{metric}_mean"] is not None]
    if not values:
        return None
    return CrossedMean(mean=statistics.mean(values), low=None, high=None, deviation=None, error=None, degrees=None)


def _table(rows: Sequence[Row], key: str = "cases") -> tuple[list[list[float]], list[str]]:
    """Dice (or what is under another key) by draw and case, of the cases that all rows have, and whom these are of."""
    cases = sorted(set.intersection(*(set(row[key]) for row in rows)))
    owners = rows[0].get("subjects", {})
    return [[row[key][case] for case in cases] for row in rows], [owners.get(case, case) for case in cases]


def _compared(points: dict[tuple[str, Count], Point], design: Design, planned: int) -> dict[tuple[str, Count], Point]:
    """With differences to the twins, corrected p-values, and the labels that are saved."""
    curve = design.written.curve
    compared: dict[tuple[str, Count], Point] = {}
    for (name, count), point in points.items():
        twin = points.get((curve.twin_of(name), count))
        shared = [] if twin is None else sorted(point.rows.keys() & twin.rows.keys())
        if twin is None or twin is point or not shared or _is_twin(design, name, count):
            continue
        table, subjects = _table([source.rows[draw] for source in (point, twin) for draw in shared])
        found = crossed_difference(table[: len(shared)], table[len(shared) :], subjects)
        p = found.p() if point.complete and twin.complete else None
        compared[name, count] = replace(point, difference=found, p=p)
    tested = {_comparison(design, *key): float(point.p) for key, point in compared.items() if point.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values()), planned), strict=True))
    compared = {key: replace(point, holm=corrected.get(_comparison(design, *key))) for key, point in compared.items()}
    return {key: replace(compared.get(key, point), equal=_saved(points, key, curve)) for key, point in points.items()}


def _saved(points: Mapping[tuple[str, Count], Point], key: tuple[str, Count], curve: Curve) -> LabelsEqual | None:
    """At how many labels the twin equals an arm; None where fewer than two numbers of labels of it are complete."""
    point, twin = points[key], curve.twin_of(key[0])
    base = {int(each.labels): each for (name, _), each in points.items() if name == twin and is_complete(each)}
    if twin == key[0] or len(base) < 2 or not is_complete(point):
        return None
    sources = [*base.values(), point]
    table, subjects = _table([row for source in sources for _, row in sorted(source.rows.items())])
    parts = iter(table)
    tables = [[next(parts) for _ in source.rows] for source in sources]
    labels = int(point.labels)
    return labels_equal(dict(zip(base, tables[:-1], strict=True)), {labels: tables[-1]}, labels, subjects)


def is_complete(point: Point) -> bool:
    """Whether all draws are there, and how many labels they have is known."""
    return point.complete and point.labels != ALL


def states(found: Found) -> list[str]:
    """The states of the code that the rows were measured with: of medae's source or, where that is not told, of git."""
    rows = [row for point in found.points.values() for row in point.rows.values()]
    return sorted({row.get("source") or row.get("revision") or "not recorded" for row in rows})


def processors(points: Mapping[tuple[str, Count], Point]) -> list[tuple[str, int]]:
    """What the draws were trained on, a GPU by its name, and how many on each; that of the most first.

    With their precision, if all of a processor's rows say it.
    """
    rows = {row["digest"]: row for point in points.values() for row in point.rows.values()}.values()
    silent = {_kind(row) for row in rows if not row.get("precision")}
    return Counter(_kind(row) if _kind(row) in silent else _processor(row) for row in rows).most_common()


def mixed_processors(found: Found) -> tuple[int, int]:
    """Of the pairs of an arm and its twin on a draw, those that were trained on two kinds of processor or, as far as they
    say it, in two precisions, and all."""
    curve, points = found.design.written.curve, found.points
    pairs = {
        (row["digest"], twin.rows[draw]["digest"]): (row, twin.rows[draw])
        for (name, count), point in points.items()
        if (twin := points.get((curve.twin_of(name), count))) is not None and twin is not point
        for draw, row in point.rows.items()
        if draw in twin.rows
    }
    return sum(_differ(pair) for pair in pairs.values()), len(pairs)


def mixed_paces(found: Found) -> list[str]:
    """In words: the arms with ``as_long_as`` whose steps hang on seconds of unlike processors or numbers of threads."""
    said = []
    for name, arm in found.design.written.curve.arms.items():
        rows = found.design.pacing(name)
        if rows is None:
            continue
        if _differ(rows) or len({row.get("threads") for row in rows}) > 1:
            encoder, mine, theirs = (f"{_processor(row)} ({row.get('threads', 'some')} threads)" for row in rows)
            said.append(
                f"{name} is not trained as long as {arm.as_long_as} for certain, as the seconds were taken on unlike "
                f"processors: of the pretraining on {encoder}, of its own search on {mine}, of that of {arm.as_long_as} on "
                f"{theirs}."
            )
    return said


def unequal_steps(found: Found) -> list[str]:
    """In words: the arms that are trained for more or fewer steps, or with more members, than their twin by their keys."""
    design, curve = found.design, found.design.written.curve
    said = []
    for name in curve.arms:
        twin = curve.twin_of(name)
        if any(curve.arms[each].as_long_as is not None for each in (name, twin)):
            continue
        steps, theirs = (_steps_in_all(design.configured(each)) for each in (name, twin))
        if steps != theirs:
            said.append(f"{name} is trained for {steps} steps in all, {twin} for {theirs}: not a fair pair.")
    return said


def _steps_in_all(content: Mapping[str, Any]) -> int:
    return int(content["fit"]["steps"] * content.get("members", 1))


def _kind(row: Row) -> str:
    """The processor that a row was trained on."""
    return str(row.get("gpus") or f"{row.get('cores', 'some')} CPU cores")


def _processor(row: Row) -> str:
    """The same, with the precision if the row says it."""
    return f"{_kind(row)} in {row['precision']}" if row.get("precision") else _kind(row)


def _differ(rows: Sequence[Row]) -> bool:
    """Whether rows are known to be of unlike processors, or of unlike precisions."""
    told = {row["precision"] for row in rows if row.get("precision")}
    return len({_kind(row) for row in rows}) > 1 or len(told) > 1


def _timed(points: Mapping[tuple[str, Count], Point]) -> dict[tuple[str, Count], Point]:
    """With their seconds, all of one processor."""
    used = Counter(_kind(row) for point in points.values() for row in point.rows.values()).most_common(1)
    timed = {}
    for place, point in points.items():
        rows = [row for row in point.rows.values() if _kind(row) == used[0][0] and row.get("training_seconds") is not None]
        timed[place] = replace(point, seconds=statistics.median(row["training_seconds"] for row in rows) if rows else None)
    return timed
