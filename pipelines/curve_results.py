"""What the rows of a label curve say: means and intervals, differences to the baseline, labels saved, and what is chosen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medae.metrics.label_curve import LabelsEqual, labels_equal
from medae.metrics.statistics import CrossedDifference, CrossedMean, crossed_difference, crossed_mean, draws_test, holm
from pipelines.curve_cells import Design, Part, Rows
from pipelines.curve_config import ALL, Count

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """An arm at a number of labels.

    dice, validation: the mean over labels, then cases, then draws; validation None where a row has none. difference: to the
    baseline, on the draws that both have; None for the baseline itself. p, holm: of a paired t-test over draws, and
    corrected for all comparisons of the table. equal: at how many labels the baseline scores as much.
    """

    arm: str
    count: Count
    rows: Mapping[int, Row]
    complete: bool
    rate: float
    dice: CrossedMean
    hd95: float | None
    surface_dice: float | None
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
    """All points that were measured, by arm and number of labels. chosen: the arm at each number of labels whose validation
    Dice is the best, among the complete ones; oracle: the one whose test Dice is."""

    design: Design
    points: Mapping[tuple[str, Count], Point]
    chosen: Mapping[Count, str]
    oracle: Mapping[Count, str]

    def of(self, count: Count) -> list[Point]:
        """Those at a number of labels."""
        return [point for (_, number), point in self.points.items() if number == count]


def evaluate(design: Design, part: Part) -> Found:
    """Compute everything that the table and the figure show from the rows."""
    curve = design.written.curve
    points = {}
    for count in part.counts:
        for name in part.arms:
            point = _point(design, name, count, part)
            if point is not None:
                points[name, count] = point
    points = _compared(points, curve.baseline)
    chosen, oracle = {}, {}
    for count in part.counts:
        here = [point for (_, number), point in points.items() if number == count and point.complete]
        validated = [point for point in here if point.validation is not None]
        if here:
            oracle[count] = max(here, key=lambda point: point.dice.mean).arm
        if validated and len(validated) == len(here):
            chosen[count] = max(validated, key=lambda point: float(point.validation or 0)).arm
    return Found(design, points, chosen, oracle)


def _point(design: Design, name: str, count: Count, part: Part) -> Point | None:
    draws = part.draws_of(design.written, count)
    found = {draw: row for draw in draws if (row := design.row(name, count, draw)) is not None}
    rate = design.rate(name, count)[0]
    if not found or rate is None:
        return None
    table = _tables(found.values())
    validation = [row["validation"]["dice_mean"] for row in found.values() if "validation" in row]

    def mean(key: str) -> float | None:
        values = [row[key] for row in found.values() if row[key] is not None]
        return statistics.mean(values) if values else None

    return Point(
        arm=name,
        count=count,
        rows=found,
        complete=len(found) == len(draws),
        rate=rate,
        dice=crossed_mean(table),
        hd95=mean("hd95_mean"),
        surface_dice=mean("surface_dice_mean"),
        validation=statistics.mean(validation) if len(validation) == len(found) else None,
    )


def _tables(rows: Sequence[Row] | Any) -> list[list[float]]:
    """Dice by draw and case, of the cases that all rows have."""
    rows = list(rows)
    cases = sorted(set.intersection(*(set(row["cases"]) for row in rows)))
    return [[row["cases"][case] for case in cases] for row in rows]


def _compared(points: dict[tuple[str, Count], Point], baseline: str) -> dict[tuple[str, Count], Point]:
    """With differences to the baseline, corrected p-values, and the labels that are saved."""
    from dataclasses import replace

    compared: dict[tuple[str, Count], Point] = {}
    for (name, count), point in points.items():
        base = points.get((baseline, count))
        shared = [] if base is None else sorted(point.rows.keys() & base.rows.keys())
        if name == baseline or base is None or not shared:
            continue
        both = [[source.rows[draw] for draw in shared] for source in (point, base)]
        table = _tables([*both[0], *both[1]])
        one, other = table[: len(shared)], table[len(shared) :]
        p = draws_test([statistics.mean(row) for row in one], [statistics.mean(row) for row in other])
        compared[name, count] = replace(point, difference=crossed_difference(one, other), p=p)
    tested = [key for key, point in compared.items() if point.p is not None]
    for key, value in zip(tested, holm([float(compared[key].p or 0.0) for key in tested]), strict=True):
        compared[key] = replace(compared[key], holm=value)
    saved = _saved(points | compared, baseline)
    return {key: replace(compared.get(key, point), equal=saved.get(key)) for key, point in points.items()}


def _saved(points: Mapping[tuple[str, Count], Point], baseline: str) -> dict[tuple[str, Count], LabelsEqual]:
    """For every arm but the baseline; nothing where the baseline has fewer than two complete numbers of labels."""
    base = {int(point.labels): point for (name, _), point in points.items() if name == baseline and point.labels != ALL}
    if len(base) < 2:
        return {}
    every = [row for point in points.values() for row in point.rows.values()]
    cases = sorted(set.intersection(*(set(row["cases"]) for row in every)))

    def table(point: Point) -> list[list[float]]:
        return [[row["cases"][case] for case in cases] for row in point.rows.values()]

    curve = {labels: table(point) for labels, point in base.items()}
    return {
        key: labels_equal(curve, {int(point.labels): table(point)}, int(point.labels))
        for key, point in points.items()
        if key[0] != baseline and point.labels != ALL
    }


def sentences(found: Found) -> list[str]:
    """What the comparison says, in words; also where nothing was gained, and where too little was measured to say."""
    curve = found.design.written.curve
    said = []
    base = [point for (name, _), point in found.points.items() if name == curve.baseline]
    most = max((int(point.labels) for point in base if point.labels != ALL), default=0)
    for name in dict.fromkeys(arm for arm, _ in found.points):
        if name == curve.baseline:
            continue
        points = [point for (arm, _), point in found.points.items() if arm == name and point.difference is not None]
        gained = [p for p in points if p.holm is not None and p.holm < 0.05 and p.difference and p.difference.mean > 0]
        lost = [p for p in points if p.holm is not None and p.holm < 0.05 and p.difference and p.difference.mean < 0]
        untested = [p for p in points if p.holm is None]
        words = [f"better than {curve.baseline} at {_at(gained)}"] if gained else []
        words += [f"worse at {_at(lost)}"] if lost else []
        neither = [p for p in points if p not in gained and p not in lost and p not in untested]
        if neither:
            widest = max(_half(p) for p in neither)
            words.append(
                f"no difference could be shown at {_at(neither)} (an effect below about {widest:.3f} would not be seen)"
            )
        words += [f"one draw at {_at(untested)}: too few to say anything"] if untested else []
        if words:
            said.append(f"{name}: {'; '.join(words)}.")
        said += [point.equal.describe(name, curve.baseline, most) for point in points if point.equal is not None]
    return said


def _at(points: Sequence[Point]) -> str:
    return ", ".join(str(point.labels) for point in points) + (" label" if [p.labels for p in points] == [1] else " labels")


def _half(point: Point) -> float:
    """Half the width of the difference's interval."""
    found = point.difference
    return 0.0 if found is None or found.low is None or found.high is None else (found.high - found.low) / 2


def markdown(found: Found) -> str:
    """The table: a line a number of labels and arm."""
    curve = found.design.written.curve
    columns = ["labels", "arm", "draws", "rate", "Dice [95 %]", "spread", f"- {curve.baseline} [95 %]", "p (Holm)"]
    columns += [f"equals {curve.baseline} at", "HD95 (mm)", "surface Dice", "validation Dice"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for count in curve.labelled:
        for point in found.of(count):
            lines.append(f"| {' | '.join(_line(found, point))} |")
    return "\n".join(lines)


def _line(found: Found, point: Point) -> list[str]:
    curve = found.design.written.curve
    arm = curve.arms[point.arm]
    marks = [
        mark for mark, named in (("chosen", found.chosen), ("oracle", found.oracle)) if named.get(point.count) == point.arm
    ]
    name = f"{point.arm} ({', '.join(marks)})" if marks else point.arm
    how = [] if arm.rate_of is None else [f"of {arm.rate_of}"]
    how += ["fixed"] if arm.rate is not None else ["bound"] if point.rate in curve.search.bounds else []
    rate = f"{point.rate:g} ({', '.join(how)})" if how else f"{point.rate:g}"
    difference = point.difference
    equal = "" if point.equal is None else _equal(point.equal)
    return [
        str(point.labels),
        name,
        f"{len(point.rows)}{'' if point.complete else f' of {curve.draws_of(point.count)}'}",
        rate,
        _interval(point.dice.mean, point.dice.low, point.dice.high),
        "–" if point.dice.deviation is None else f"{point.dice.deviation:.3f}",
        "" if difference is None else _interval(difference.mean, difference.low, difference.high, sign="+"),
        "" if point.holm is None else f"{point.holm:.3f}",
        equal,
        "–" if point.hd95 is None else f"{point.hd95:.2f}",
        "–" if point.surface_dice is None else f"{point.surface_dice:.3f}",
        "–" if point.validation is None else f"{point.validation:.3f}",
    ]


def _equal(equal: LabelsEqual) -> str:
    if equal.below:
        return "fewer"
    if equal.equal is None:
        return "more"
    low, high = ("…" if bound is None else f"{bound:.1f}" for bound in (equal.low, equal.high))
    return f"{equal.equal:.1f} [{low}, {high}]"


def _interval(mean: float, low: float | None, high: float | None, sign: str = "") -> str:
    text = f"{mean:{sign}.3f}"
    return text if low is None or high is None else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def revisions(rows: Rows) -> list[str]:
    """The states of the code that the rows were measured with."""
    return sorted({row["revision"] for row in rows.values() if row.get("revision")})
