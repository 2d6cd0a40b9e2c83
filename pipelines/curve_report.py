"""What a label curve leaves: a table, a figure, words, a report, and the same for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import medae
from medae.config import to_dict
from medae.metrics.statistics import CrossedMean
from medae.report.figures_curve import CurvePoint, label_curves
from medae.report.html import Report
from pipelines.console import Screen, shown
from pipelines.curve_config import ALL, Count
from pipelines.curve_results import Found, Point, mixed_paces, mixed_processors, processors, states, unequal_steps
from pipelines.curve_words import markdown, sentences
from pipelines.files import write_json, write_text

DIFFERENCE = "Dice, difference to the twin"
OTHERS = {"HD95 (mm), lower is better": ("hd95", "hd95_mean"), "Surface Dice": ("surface_dice", "surface_dice_mean")}


def summary(found: Found) -> dict[str, Any]:
    """For programs: what the table shows."""
    curve = found.design.written.curve
    return {
        "name": curve.name,
        "baseline": curve.baseline,
        "chosen": {str(count): arm for count, arm in found.chosen.items()},
        "oracle": {str(count): arm for count, arm in found.oracle.items()},
        "points": [_entry(point) for point in found.points.values()],
        "comparisons": found.planned,
        "chosen_at_twice_the_labels": [
            {"labels": count, "less": base, "difference": to_dict(made)} for (count, base), made in found.doubled.items()
        ],
        "words": sentences(found),
        "states": states(found),
        "medae": medae.__version__,
    }


def _entry(point: Point) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "arm": point.arm,
        "labels": point.labels,
        "draws": len(point.rows),
        "complete": point.complete,
        "rate": point.rate,
        "seconds": point.seconds,
    }
    plain["dice"] = to_dict(point.dice)
    plain |= {name: None if (mean := getattr(point, name)) is None else to_dict(mean) for name in ("hd95", "surface_dice")}
    plain |= {"validation_dice": point.validation, "p": point.p, "p_holm": point.holm}
    plain["difference"] = None if point.difference is None else to_dict(point.difference)
    plain["equal"] = None if point.equal is None else to_dict(point.equal)
    return plain


def figure(found: Found, path: Path) -> Path:
    """Dice, its difference to the twin on the same draws, HD95 and surface Dice against labels, an arm a line."""
    curve = found.design.written.curve
    panels: dict[str, dict[str, list[CurvePoint]]] = {title: {} for title in ("Dice", DIFFERENCE, *OTHERS)}
    for point in found.points.values():
        if not isinstance(point.labels, int):
            continue

        def add(title: str, score: CrossedMean | None, draws: list[float], point: Point = point) -> None:
            if score is not None:
                made = CurvePoint(int(point.labels), score.mean, score.low, score.high, draws)
                panels[title].setdefault(point.arm, []).append(made)

        add("Dice", point.dice, _scores(point, "dice_mean"))
        if (gain := point.difference) is not None:
            twin = found.points[curve.twin_of(point.arm), point.count].rows
            changes = [row["dice_mean"] - twin[draw]["dice_mean"] for draw, row in point.rows.items() if draw in twin]
            add(DIFFERENCE, gain, changes)
        for title, (mean, key) in OTHERS.items():
            add(title, getattr(point, mean), _scores(point, key))
    drawn = {title: arms for title, arms in panels.items() if arms}
    return label_curves(drawn, path, baseline=curve.baseline, differences=[DIFFERENCE])


def _scores(point: Point, key: str) -> list[float]:
    return [row[key] for row in point.rows.values() if row.get(key) is not None]


def write_results(found: Found, folder: Path, screen: Screen) -> None:
    """Table, figure, words and report into the curve's folder."""
    written = found.design.written
    curve, choosing = written.curve, _choosing(found)
    table, words = markdown(found), sentences(found)
    if len(mixed := states(found)) > 1:
        words = [*words, f"Measured with more than one state of the code: {', '.join(mixed)}."]
    if len(used := processors(found.points)) > 1:
        draws = [f"{count} draws on {name}" for name, count in used]
        crossed, pairs = mixed_processors(found)
        words += [
            f"Measured on more than one processor: {', '.join(draws)}. seconds are those of the first. Of {pairs} pairs of "
            f"an arm and its twin on a draw {crossed} mix them."
        ]
    words += [*mixed_paces(found), *unequal_steps(found)]
    caption = _caption(found, choosing)
    write_text(folder / "table.md", "\n".join([table, "", caption, "", *(f"- {line}" for line in words), ""]))
    write_json(folder / "result.json", summary(found))
    report = Report(f"Label curve: {curve.name}", f"Dice against the number of labelled subjects, beside {curve.baseline}")
    for count, arm in found.chosen.items():
        point = found.points[arm, count]
        searched = _searching(found, arm, count)
        rate = f" + {searched} for the rate" if searched else ""
        report.card(f"{point.labels} labels{rate} + {choosing} for choosing", point.dice.mean, f"Dice, {arm}")
    report.section("Curve")
    report.figure(
        figure(found, folder / "figures" / "curve.png"),
        "Means over labels, then test cases, then draws. Bars: 95 % intervals over draws and test cases, where "
        "every row has its cases. Dots: draws.",
        "chart",
    )
    report.section("What it says")
    for line in words:
        report.text(line)
    report.section("Table")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    report.table(lines[0], lines[2:], caption=caption)
    report.write(folder / "report.html")
    screen.table(f"{curve.name}: Dice", ["arm", *map(str, curve.labelled)], [_overview(found, arm) for arm in curve.arms])
    for line in words:
        screen.say(line)
    screen.say(f"Report: {shown(folder / 'report.html')}")
    screen.say(f"Table:  {shown(folder / 'table.md')}")


def _overview(found: Found, arm: str) -> list[Any]:
    """An arm's Dice at every number of labels."""
    points = [found.points.get((arm, count)) for count in found.design.written.curve.labelled]
    return [arm, *(None if point is None else point.dice.mean for point in points)]


def _searching(found: Found, arm: str, count: Count) -> str:
    """How many labelled training cases an arm's rate was searched with, of another draw; with all labels no further ones."""
    curve = found.design.written.curve
    fixed = curve.arms[curve.arms[arm].rate_of or arm].rate is not None
    return "" if fixed or count == ALL else str(curve.search_count(count))


def _choosing(found: Found) -> int:
    """Subjects that were scored to choose by; their label maps come on top of the labels."""
    rows = [row for point in found.points.values() for row in point.rows.values()]
    owners = [
        {row.get("subjects", {}).get(case, case) for case in row.get("validation", {}).get("cases", ())} for row in rows
    ]
    return max(map(len, owners), default=0)


def _caption(found: Found, choosing: int) -> str:
    searched = ", ".join(map(str, found.design.written.curve.search.labelled))
    return (
        f"N labels + {choosing} for choosing. chosen: the arm with the best validation Dice at that number of labels. "
        f"Rates and arms are chosen on {choosing} labelled "
        "validation subjects, on top of the labels, and a rate is searched with labelled cases of another draw "
        f"({searched}); a rate that is fixed needs none. oracle: the best on the test "
        "subjects, which nobody can choose. Intervals and p are over draws of labelled cases from these training "
        "subjects, and over test subjects; with all labels the draws differ in their seeds alone, and each encoder was "
        f"trained once, with one seed. p is corrected for all {found.planned} comparisons that were planned (Holm), "
        "intervals are not; and it is the larger of two, over draws and subjects together and over draws alone, so with few "
        "draws an interval may lie beside 0 where p shows nothing. seconds: of a training, median over "
        "draws, whatever else the machine did; the pretraining comes on top."
    )
