"""What the rows of a curve say: table, choice, words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from curves import curve, design, drawn, known, rows_of, searched

from pipelines.console import Screen
from pipelines.curve_cells import part_of
from pipelines.curve_report import write_results
from pipelines.curve_results import evaluate, mixed_paces, mixed_processors, processors, unequal_steps
from pipelines.curve_words import markdown, sentences


def test_the_table_by_hand(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    scores = {("scratch", 2, 0): {"a": 0.5, "b": 0.7}, ("scratch", 2, 1): {"a": 0.6, "b": 0.8}}
    scores |= {("masked", 2, 0): {"b": 0.8, "a": 0.5}, ("masked", 2, 1): {"a": 0.8, "b": 0.9}}
    found = evaluate(
        design(written, *known(written), *rows_of(written, scores, {"scratch": 0.7, "masked": 0.6})), part_of(written)
    )
    lines = markdown(found).splitlines()
    # differences by draw: (0, 0.1) and (0.2, 0.1): mean 0.1; MS_draws = 2 * 0.005, MS_cases = 0, so 1 degree of freedom;
    # so t = 2, and p = 0.295
    half = 12.706 * (0.01 / 4) ** 0.5
    assert "| 2 | scratch (chosen) | 2 | 0.001 (bound) | 0.650 [" in lines[2] and lines[2].endswith(
        "| 0.071 |  |  |  | 2.00 | 0.900 | 0.700 | 50 |"
    )
    assert "| 2 | masked (oracle) | 2 | 0.002 (bound) | 0.750 [" in lines[3]
    assert f"| 0.141 | +0.100 [{0.1 - half:+.3f}, {0.1 + half:+.3f}] | 0.295 |" in lines[3]
    assert found.chosen == {2: "scratch"}, "by the validation subjects, although masked is better on the test subjects"
    assert found.oracle == {2: "masked"}
    assert sentences(found) == [
        f"masked: no difference to scratch could be shown at 2 labels (a true one of {half:.3f} would be missed half the "
        "time among 1 comparisons)."
    ]


def test_labels_saved_and_a_gain_are_said_in_words(tmp_path: Path) -> None:
    written = curve(tmp_path, draws=4)
    cases = [f"c{place}" for place in range(8)]

    def table(level: float) -> dict[str, float]:
        return {case: level + 0.01 * place for place, case in enumerate(cases)}

    scores = {
        ("scratch", count, draw): table(0.5 + 0.1 * (count - 1) + 0.001 * draw) for count in (1, 2) for draw in range(4)
    }
    scores |= {("masked", 1, draw): table(0.55 + 0.001 * draw + 0.0005 * (draw % 2)) for draw in range(4)}
    rows = rows_of(written, scores, {"scratch": 0.5, "masked": 0.6})
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    words = sentences(found)
    assert words[0] == "masked: better than scratch at 1 label."
    assert words[1].startswith("masked at 1 label equals scratch at 1.4 labels [")
    assert found.chosen[1] == "masked"
    less = found.doubled[1, "scratch"]
    assert less.mean == pytest.approx(-0.05, abs=1e-3) and less.n_draws == 4
    assert words[-1].startswith("masked, chosen at 1 labels, less scratch at 2: -0.050 [") and "over 4 draws" in words[-1]
    assert found.points["masked", 1].equal.equal == pytest.approx(2**0.5, abs=0.01), "half way, by the logarithm"


def test_an_arm_of_which_a_draw_is_missing_is_not_chosen(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    scores = {("scratch", 2, 0): {"a": 0.5}, ("scratch", 2, 1): {"a": 0.6}, ("masked", 2, 0): {"a": 0.9}}
    found = evaluate(
        design(written, *known(written), *rows_of(written, scores, {"scratch": 0.1, "masked": 0.9})), part_of(written)
    )
    assert found.chosen == found.oracle == {2: "scratch"}
    assert "| 1 of 2 |" in markdown(found).splitlines()[3]
    assert sentences(found) == ["masked: not tested at 2 labels, as there are not all draws, or one alone."]


def test_what_is_not_complete_is_not_tested_and_what_was_planned_is_corrected_for(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "strong": {"set": {"augmentation": {"preset": "strong"}}}}
    written = curve(tmp_path, draws=3, arms=arms)
    levels = {("scratch", 2): 0.5, ("masked", 2): 0.6, ("scratch", 1): 0.5, ("masked", 1): 0.6}
    scores = {
        (name, count, draw): {
            case: level + 0.01 * (draw + place) ** 2 * (name == "masked") for place, case in enumerate("abcd")
        }
        for (name, count), level in levels.items()
        for draw in range(3)
        if (name, count, draw) != ("masked", 1, 2)
    }
    rows = [*known(written), *rows_of(written, scores, {"scratch": 0.5, "masked": 0.6})]
    found = evaluate(design(written, *rows), part_of(written))
    early, whole = found.points["masked", 1], found.points["masked", 2]
    assert early.difference is not None and early.p is early.holm is None
    assert found.planned == 4, "two arms with a twin, two numbers of labels"
    assert whole.p is not None and whole.holm == pytest.approx(4 * whole.p)
    assert whole.p == pytest.approx(whole.difference.p())
    assert early.equal is None


def test_arms_that_are_the_same_trainings_are_compared_once(tmp_path: Path) -> None:
    masked = {"encoder": "masked"}
    written = curve(
        tmp_path, draws=3, labelled=[2], arms={"scratch": {}, "masked": masked, "fixed": masked | {"rate": 2e-3}}
    )
    scores = {
        (name, 2, draw): {case: 0.5 + 0.01 * (draw + place) * (name == "masked") for place, case in enumerate("abcd")}
        for name in ("scratch", "masked")
        for draw in range(3)
    }
    rows = rows_of(written, scores, {"scratch": 0.5, "masked": 0.6})
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    one, other = (found.points[name, 2] for name in ("masked", "fixed"))
    assert found.planned == 1 and one.p is not None
    assert one.holm == other.holm == pytest.approx(one.p)
    assert sentences(found)[-1] == "fixed is the same training as masked: it counts once."
    assert mixed_processors(found) == (0, 3), "pairs count once too"


def test_an_arm_that_is_its_twin_is_not_compared(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2], arms={"scratch": {}, "masked": {"encoder": "masked"}, "fixed": {"rate": 1e-3}})
    scores = {(name, 2, draw): {"a": 0.5 + 0.1 * draw, "b": 0.6} for name in ("scratch", "masked") for draw in range(2)}
    rows = rows_of(written, scores, {"scratch": 0.5, "masked": 0.6})
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    assert found.planned == 1 and found.points["fixed", 2].difference is None
    assert sentences(found)[-1] == "fixed is the same training as scratch: it counts once."


def test_surfaces_have_intervals_where_their_cases_are_kept(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    scores = {("scratch", 2, draw): {"a": 0.5, "b": 0.7} for draw in range(2)}
    rows = rows_of(written, scores, {"scratch": 0.7})
    for draw, row in enumerate(rows):
        row["hd95_cases"] = {"a": 2.0 + draw, "b": 4.0 + draw}
        row["surface_dice_mean"] = None
    point = evaluate(design(written, *known(written), *rows), part_of(written)).points["scratch", 2]
    # MS_draws = 2 * 0.5, MS_cases = 2 * 2: an error of (5 / 4) ** 0.5, 1 / (0.2 ** 2 + 0.8 ** 2) degrees of freedom
    assert point.hd95.mean == pytest.approx(3.5) and point.hd95.error == pytest.approx(1.25**0.5)
    assert point.hd95.degrees == pytest.approx(1 / 0.68) and point.surface_dice is None
    del rows[1]["hd95_cases"]
    kept = evaluate(design(written, *known(written), *rows), part_of(written)).points["scratch", 2]
    assert (kept.hd95.mean, kept.hd95.low) == (2.0, None), "the mean of the rows, without an interval"


def test_unlike_steps_and_precisions_are_said(tmp_path: Path) -> None:
    written = curve(
        tmp_path, labelled=[2], arms={"scratch": {}, "masked": {"encoder": "masked", "set": {"fit": {"steps": 6}}}}
    )
    empty = design(written)
    cells = [empty.drawn(name, 2, draw, rate) for name, rate in (("scratch", 1e-3), ("masked", 2e-3)) for draw in range(2)]
    rows = [drawn(cell, {"a": 0.5, "b": 0.6}) | {"cores": 2} for cell in cells]
    rows[0]["precision"], rows[1]["precision"], rows[2]["precision"] = "float32", "float32", "bfloat16"
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    assert unequal_steps(found) == ["masked is trained for 6 steps in all, scratch for 2: not a fair pair."]
    assert mixed_processors(found) == (1, 2), "a row that does not say its precision is not known to differ"
    assert processors(found.points) == [("2 CPU cores", 4)], "not told apart where one does not say it"
    assert found.points["masked", 2].seconds == 50
    rows[3]["precision"] = "bfloat16"
    told = evaluate(design(written, *known(written), *rows), part_of(written))
    assert dict(processors(told.points)) == {"2 CPU cores in float32": 2, "2 CPU cores in bfloat16": 2}
    assert mixed_processors(told) == (2, 2)
    write_results(found, tmp_path / "out", Screen())
    text = (tmp_path / "out" / "table.md").read_text()
    assert "not a fair pair" in text and "for choosing. chosen: the arm" in text


def test_volumes_of_one_person_are_one_subject_and_are_counted_once_for_choosing(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    cases = [f"{person}{volume}" for person in "abcdef" for volume in range(5)]
    rng = np.random.default_rng(0)
    people = {person: rng.normal(0, 0.05) for person in "abcdef"}
    scores = {
        (name, 2, draw): {case: 0.5 + people[case[0]] * (name == "masked") + 0.01 * draw for case in cases}
        for name in ("scratch", "masked")
        for draw in range(2)
    }
    rows = rows_of(written, scores, {"scratch": 0.5, "masked": 0.6})
    for row in rows:
        row["validation"]["cases"] = {"v0": 0.5, "v1": 0.5, "w": 0.5}
    alone = evaluate(design(written, *known(written), *rows), part_of(written)).points["masked", 2]
    for row in rows:
        row["subjects"] = {case: case[0] for case in [*cases, "v0", "v1"]}
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    together = found.points["masked", 2]
    assert together.difference.mean == pytest.approx(alone.difference.mean)
    assert together.difference.n_subjects == 6
    assert together.difference.half() > 2 * alone.difference.half()
    write_results(found, tmp_path / "out", Screen())
    assert "2 labels + 2 for the rate + 2 for choosing" in (tmp_path / "out" / "report.html").read_text()


def test_an_arm_has_a_twin_and_numbers_of_labels_of_its_own(tmp_path: Path) -> None:
    arms = {
        "scratch": {},
        "other": {"set": {"flips": False}},
        "masked": {"encoder": "masked", "twin": "other", "labelled": [2]},
    }
    written = curve(tmp_path, arms=arms)
    scores = {("scratch", 2, 0): 0.1, ("scratch", 2, 1): 0.2, ("other", 2, 0): 0.5, ("other", 2, 1): 0.6}
    scores |= {("masked", 2, 0): 0.7, ("masked", 2, 1): 0.8}
    rates = {"scratch": 1e-3, "other": 1e-3, "masked": 2e-3}
    empty = design(written)
    cells = [
        drawn(empty.drawn(name, count, draw, rates[name]), {"a": dice, "b": dice})
        for (name, count, draw), dice in scores.items()
    ]
    known_rows = [*known(written), *searched(written, "other", 2, {1e-3: 0.6, 2e-3: 0.5})]
    found = evaluate(design(written, *known_rows, *cells), part_of(written))
    assert found.points["masked", 2].difference.mean == pytest.approx(0.2), "to its twin, not to the baseline"
    assert found.points["other", 2].difference.mean == pytest.approx(0.4)
    assert found.planned == 3
    assert "| - twin [95 %] |" in markdown(found) and "(to other)" in markdown(found)
    left = design(written, *known_rows).pending(part_of(written))
    assert {(cell.name, cell.count) for cell in left} == {
        ("scratch", 1),
        ("scratch", 2),
        ("other", 1),
        ("other", 2),
        ("masked", 2),
    }


def test_seconds_are_those_of_one_processor(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2], draws=3)
    rows = rows_of(written, {("scratch", 2, draw): {"a": 0.5, "b": 0.6} for draw in range(3)}, {"scratch": 0.5})
    rows[0] |= {"training_seconds": 400.0, "cores": 2}
    rows[1] |= {"training_seconds": 420.0, "cores": 2}
    rows[2] |= {"training_seconds": 20.0, "cores": 16, "gpus": "NVIDIA H200"}
    found = evaluate(design(written, *known(written), *rows), part_of(written))
    assert found.points["scratch", 2].seconds == 410.0
    write_results(found, tmp_path, Screen(as_json=True))
    words = "Measured on more than one processor: 2 draws on 2 CPU cores, 1 draws on NVIDIA H200. seconds"
    assert words in (tmp_path / "table.md").read_text()


def test_an_arm_that_was_paced_on_unlike_processors_is_named(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked", "rate_of": "scratch"}}
    written = curve(tmp_path, labelled=[2], draws=3, arms=arms, shared_rates=True)
    encoder = {"digest": design(written).encoder("masked").digest, "kind": "encoder", "training_seconds": 9.0}
    rows = rows_of(written, {("scratch", 2, draw): {"a": 0.5, "b": 0.6} for draw in range(3)}, {"scratch": 0.5})
    paces = [row | {"cores": 2, "threads": 1} for row in (*known(written), encoder)]
    found = evaluate(design(written, *paces, *rows), part_of(written))
    assert mixed_paces(found) == []
    paces[-1] |= {"threads": 2}
    found = evaluate(design(written, *paces, *rows), part_of(written))
    write_results(found, tmp_path, Screen(as_json=True))
    words = "long is not trained as long as masked for certain"
    assert words in (tmp_path / "table.md").read_text() and words in (tmp_path / "report.html").read_text()
    assert "pretraining on 2 CPU cores (2 threads), of its own search on 2 CPU cores (1 threads)" in mixed_paces(found)[0]
