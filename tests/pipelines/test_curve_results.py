"""What the rows of a curve say: table, choice, words."""

from __future__ import annotations

from pathlib import Path

import pytest
from curves import curve, design, known, rows_of

from pipelines.curve_cells import part_of
from pipelines.curve_results import evaluate, markdown, sentences


def test_the_table_by_hand(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    scores = {("scratch", 2, 0): {"a": 0.5, "b": 0.7}, ("scratch", 2, 1): {"a": 0.6, "b": 0.8}}
    scores |= {("masked", 2, 0): {"b": 0.8, "a": 0.5}, ("masked", 2, 1): {"a": 0.8, "b": 0.9}}
    found = evaluate(
        design(written, *known(written), *rows_of(written, scores, {"scratch": 0.7, "masked": 0.6})), part_of(written)
    )
    lines = markdown(found).splitlines()
    # differences by draw: (0, 0.1) and (0.2, 0.1): mean 0.1; MS_draws = 2 * 0.005, MS_cases = 0, so 1 degree of freedom;
    # by draw 0.05 and 0.15: t = 2 with 1 degree of freedom, p = 0.295
    half = 12.706 * (0.01 / 4) ** 0.5
    assert "| 2 | scratch (chosen) | 2 | 0.001 (bound) | 0.650 [" in lines[2] and lines[2].endswith(
        "| 0.071 |  |  |  | 2.00 | 0.900 | 0.700 |"
    )
    assert "| 2 | masked (oracle) | 2 | 0.002 (bound) | 0.750 [" in lines[3]
    assert f"| 0.141 | +0.100 [{0.1 - half:+.3f}, {0.1 + half:+.3f}] | 0.295 |" in lines[3]
    assert found.chosen == {2: "scratch"}, "by the validation subjects, although masked is better on the test subjects"
    assert found.oracle == {2: "masked"}
    assert sentences(found) == [
        f"masked: no difference could be shown at 2 labels (an effect below about {half:.3f} would not be seen)."
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
    assert words[1].startswith("masked at 1 labels equals scratch at 1.4 labels [")
    assert found.chosen[1] == "masked"
    assert found.points["masked", 1].equal.equal == pytest.approx(2**0.5, abs=0.01), "half way, by the logarithm"


def test_an_arm_of_which_a_draw_is_missing_is_not_chosen(tmp_path: Path) -> None:
    written = curve(tmp_path, labelled=[2])
    scores = {("scratch", 2, 0): {"a": 0.5}, ("scratch", 2, 1): {"a": 0.6}, ("masked", 2, 0): {"a": 0.9}}
    found = evaluate(
        design(written, *known(written), *rows_of(written, scores, {"scratch": 0.1, "masked": 0.9})), part_of(written)
    )
    assert found.chosen == found.oracle == {2: "scratch"}
    assert "| 1 of 2 |" in markdown(found).splitlines()[3]
    assert "one draw at 2 labels: too few to say anything" in sentences(found)[0]
