"""What a label curve says: its sentences and its table."""

from __future__ import annotations

from collections.abc import Sequence

from medae.metrics.label_curve import LabelsEqual
from medae.metrics.statistics import CrossedMean
from pipelines.curve_results import Found, Point, is_complete, repeated


def sentences(found: Found) -> list[str]:
    """What the comparison says, in words; also where nothing was gained, and where too little was measured to say."""
    curve = found.design.written.curve
    said = []
    for name in dict.fromkeys(arm for arm, _ in found.points):
        twin = curve.twin_of(name)
        if name == twin:
            continue
        points = [point for (arm, _), point in found.points.items() if arm == name and point.difference is not None]
        gained = [p for p in points if p.holm is not None and p.holm < 0.05 and p.difference and p.difference.mean > 0]
        lost = [p for p in points if p.holm is not None and p.holm < 0.05 and p.difference and p.difference.mean < 0]
        untested = [p for p in points if p.holm is None]
        words = [f"better than {twin} at {_at(gained)}"] if gained else []
        words += [f"worse than {twin} at {_at(lost)}"] if lost else []
        neither = [p for p in points if p not in gained and p not in lost and p not in untested]
        if neither:
            halves = [p.difference.half(found.planned) or 0.0 for p in neither if p.difference is not None]
            size = ", ".join(f"{half:.3f}" for half in halves)
            words.append(
                f"no difference to {twin} could be shown at {_at(neither)} (a true one of {size} would be missed half the "
                f"time among {found.planned} comparisons)"
            )
        words += [f"not tested at {_at(untested)}, as there are not all draws, or one alone"] if untested else []
        if words:
            said.append(f"{name}: {'; '.join(words)}.")
        base = [int(point.labels) for (arm, _), point in found.points.items() if arm == twin and is_complete(point)]
        said += [point.equal.describe(name, twin, min(base), max(base)) for point in points if point.equal is not None]
    for (count, than), made in found.doubled.items():
        said.append(
            f"{found.chosen[count]}, chosen at {count} labels, less {than} at {2 * int(count)}: "
            f"{_interval(made.mean, made.low, made.high, sign='+')} over {made.n_draws} draws."
        )
    same = {name: twin for name, twin in repeated(found).items() if any(arm == name for arm, _ in found.points)}
    said += [f"{name} is the same training as {twin}: it counts once." for name, twin in same.items()]
    return said


def _at(points: Sequence[Point]) -> str:
    return ", ".join(str(point.labels) for point in points) + (" label" if [p.labels for p in points] == [1] else " labels")


def markdown(found: Found) -> str:
    """The table: a line a number of labels and arm."""
    curve = found.design.written.curve
    twin = curve.baseline if all(arm.twin is None for arm in curve.arms.values()) else "twin"
    columns = ["labels", "arm", "draws", "rate", "Dice [95 %]", "spread", f"- {twin} [95 %]", "p (Holm)"]
    columns += [f"equals {twin} at", "HD95 (mm)", "surface Dice", "validation Dice", "seconds"]
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
    against = "" if arm.twin is None else f" (to {arm.twin})"
    equal = "" if point.equal is None else _equal(point.equal)
    return [
        str(point.labels),
        name,
        f"{len(point.rows)}{'' if point.complete else f' of {curve.draws_of(point.count)}'}",
        rate,
        _interval(point.dice.mean, point.dice.low, point.dice.high),
        "–" if point.dice.deviation is None else f"{point.dice.deviation:.3f}",
        "" if difference is None else _interval(difference.mean, difference.low, difference.high, sign="+") + against,
        "" if point.holm is None else f"{point.holm:.3f}",
        equal,
        _of_surfaces(point.hd95, digits=2),
        _of_surfaces(point.surface_dice, digits=3),
        "–" if point.validation is None else f"{point.validation:.3f}",
        "–" if point.seconds is None else f"{point.seconds:.0f}",
    ]


def _equal(equal: LabelsEqual) -> str:
    said = {"within": f"{equal.equal or 0:.1f}", "below": "fewer", "above": "more"}[equal.side]
    if equal.apart or not equal.certain:
        return said
    low, high = ("…" if bound is None else f"{bound:.1f}" for bound in (equal.low, equal.high))
    return f"{said} [{low}, {high}]"


def _interval(mean: float, low: float | None, high: float | None, sign: str = "", digits: int = 3) -> str:
    how = f"{sign}.{digits}f"
    return f"{mean:{how}}" if low is None or high is None else f"{mean:{how}} [{low:{how}}, {high:{how}}]"


def _of_surfaces(found: CrossedMean | None, digits: int) -> str:
    return "–" if found is None else _interval(found.mean, found.low, found.high, digits=digits)
