"""The comparison at few labels: which cells there are, the search for rates, the table, and a real run on phantoms."""

from __future__ import annotations

from pathlib import Path

import few_labels
import pytest
from few_labels import COMPARISON, TIMED, Worker
from few_labels_cells import (
    Comparison,
    draw_cell,
    encoder_cell,
    expected,
    pending,
    rate_cell,
    read_comparison,
    read_rows,
    search,
    table,
)

from medae.config import validate
from medae.errors import ConfigError
from pipelines.configs import merge
from pipelines.stage import program_of

SHORT = {
    "data": {"subjects": 8, "spacing": 8.0, "root": "phantoms"},
    "split": {"test": 3, "validation": 1, "stratify": None},
    "plan": {"widths": [4, 8], "patch": [16, 16, 16], "batch": 2},
    "fit": {"steps": 2, "epoch_steps": 1, "schedule": {"warmup": 1}},
}


def comparison(**changes) -> Comparison:
    content = {
        "draws": 2,
        "baseline": "scratch",
        "pretrain": {"config": "phantoms", "set": {**SHORT, "validation_batches": 0}},
        "finetune": {"config": "phantoms", "set": {**SHORT, "labelled": 2}},
        "search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "set": {"fit": {"steps": 1}}},
        "encoders": {"masked": {}},
        "arms": {"scratch": {}, "masked": {"encoder": "masked"}, "flips": {"rate_of": "scratch", "set": {"flips": True}}},
    }
    return validate(Comparison, content | changes)


def searched(design: Comparison, name: str, dice: dict[float, float]) -> dict[str, dict]:
    """The rows of a search."""
    return {
        rate_cell(design, name, rate).digest: {"kind": "rate", "dice_mean": found, "seconds": 30.0}
        for rate, found in dice.items()
    }


def drawn(draw: int, cases: dict[str, float], seconds: float) -> dict:
    """A row of a draw."""
    scores = {"dice_mean": sum(cases.values()) / len(cases), "hd95_mean": 2.0, "surface_dice_mean": 0.9}
    return {"kind": "draw", "draw": draw, **scores, "cases": cases, "training_seconds": seconds, "seconds": seconds}


def test_the_shipped_comparison_is_valid_and_shares_what_must_be_shared():
    design = read_comparison(COMPARISON)
    for name in design.encoders:
        validate(program_of("pretrain").Config, encoder_cell(design, name).content)
    for name, arm in design.arms.items():
        cells = [draw_cell(design, name, draw, 4e-3) for draw in range(design.draws)]
        configs = []
        for cell in cells:
            configs.append(validate(program_of("finetune").Config, {**cell.content, "encoder": arm.encoder}))
        assert {config.labelled for config in configs} == {4}
        assert {config.fit.steps for config in configs} == {500}, "the same budget"
        assert len({config.labelled_salt for config in configs}) == design.draws, "every draw has its own labelled cases"
        assert all(config.scratch == (arm.encoder is None) for config in configs), "one arm a cell"
        timed = validate(program_of("finetune").Config, merge({**cells[0].content, "encoder": arm.encoder}, TIMED))
        assert timed.fit.steps >= 2 * timed.fit.epoch_steps, "more than the epoch that does not count"


def test_an_arm_and_its_baseline_share_labelled_cases_and_seed_on_a_draw():
    design = comparison()
    one, other = (draw_cell(design, name, 1, 1e-3).content for name in ("scratch", "masked"))
    assert one["labelled_salt"] == other["labelled_salt"]
    assert one["fit"]["seed"] == other["fit"]["seed"] == 1
    assert rate_cell(design, "scratch", 1e-3).content["labelled_salt"] not in {
        draw_cell(design, "scratch", draw, 1e-3).content["labelled_salt"] for draw in range(design.draws)
    }


def test_a_changed_arm_or_encoder_is_another_cell_and_more_draws_are_not():
    design = comparison()
    changed = comparison(encoders={"masked": {"set": {"objective": {"ratio": [0.4, 0.5]}}}}, draws=5)
    assert draw_cell(design, "masked", 0, 1e-3).digest != draw_cell(changed, "masked", 0, 1e-3).digest
    for rate in (1e-3, 2e-3):
        assert rate_cell(design, "scratch", rate).digest == rate_cell(changed, "scratch", rate).digest
    assert draw_cell(design, "scratch", 0, 1e-3).digest == draw_cell(changed, "scratch", 0, 1e-3).digest


def test_the_search_goes_on_while_the_best_rate_is_at_an_end():
    design = comparison(search={"rates": [1e-3, 2e-3], "bounds": [2.5e-4, 4e-3]})
    assert search(design, "scratch", {}) == (None, [1e-3, 2e-3])
    dice = {1e-3: 0.5, 2e-3: 0.6}
    assert search(design, "scratch", searched(design, "scratch", dice)) == (None, [4e-3])
    assert search(design, "scratch", searched(design, "scratch", dice | {4e-3: 0.55})) == (2e-3, [])
    assert search(design, "scratch", searched(design, "scratch", dice | {4e-3: 0.7})) == (4e-3, []), "the bound"
    falling = searched(design, "scratch", {1e-3: 0.6, 2e-3: 0.5, 5e-4: 0.6})
    assert search(design, "scratch", falling) == (None, [2.5e-4]), "of equal rates the smaller, which is an end"
    assert search(design, "flips", searched(design, "scratch", dice | {4e-3: 0.55})) == (2e-3, []), "rate_of"


def test_what_is_left_is_searched_first_and_then_run_draw_by_draw():
    design = comparison()
    assert [(cell.kind, cell.name) for cell in pending(design, {}, design.arms, (0, 1))] == [
        ("rate", "scratch"),
        ("rate", "scratch"),
        ("rate", "masked"),
        ("rate", "masked"),
    ]
    rows = searched(design, "scratch", {1e-3: 0.6, 2e-3: 0.5}) | searched(design, "masked", {1e-3: 0.5, 2e-3: 0.6})
    rows[draw_cell(design, "masked", 0, 2e-3).digest] = drawn(0, {"1": 0.8}, 60.0)
    left = pending(design, rows, design.arms, (0, 1))
    assert [(cell.name, cell.draw) for cell in left] == [
        ("scratch", 0),
        ("flips", 0),
        ("scratch", 1),
        ("masked", 1),
        ("flips", 1),
    ]
    assert "1 encoders, 0 rates, 5 draws. Time in one process: not known" in expected(design, rows, design.arms, (0, 1), 1)
    assert "0 encoders, 0 rates, 5 draws. Time in one process: 5 min" in expected(design, rows, design.arms, (0, 1), 0)


def test_the_table_by_hand():
    design = comparison()
    rows = searched(design, "scratch", {1e-3: 0.6, 2e-3: 0.5}) | searched(design, "masked", {1e-3: 0.5, 2e-3: 0.6})
    rows[encoder_cell(design, "masked").digest] = {"kind": "encoder", "training_seconds": 30.0, "seconds": None}
    for draw, (base, arm) in enumerate([((0.5, 0.7), (0.5, 0.8)), ((0.6, 0.8), (0.8, 0.9))]):
        rows[draw_cell(design, "scratch", draw, 1e-3).digest] = drawn(draw, dict(zip("ab", base, strict=True)), 10.0)
        rows[draw_cell(design, "masked", draw, 2e-3).digest] = drawn(draw, dict(zip("ba", arm[::-1], strict=True)), 12.0)
    for run, seconds in enumerate((0.4, 0.2, 0.3)):
        row = {"kind": "time", "of": encoder_cell(design, "masked").digest, "step_seconds": seconds}
        rows[f"time {run}"] = row
        rows[f"time again {run}"] = row | {"of": draw_cell(design, "scratch", 0, 1e-3).digest, "step_seconds": 2 * seconds}
    lines = table(design, rows).splitlines()
    assert lines[2] == "| scratch | 2 | 0.001 (bound) | 0.650 | 0.071 |  | 2.00 | 0.900 | – | 0.60 |"
    # differences by draw: (0, 0.1) and (0.2, 0.1): mean 0.1; MS_draws = 2 * 0.005, MS_cases = 0, so 1 degree of freedom
    half = 12.706 * (0.01 / 4) ** 0.5
    interval = f"+0.100 [{0.1 - half:+.3f}, {0.1 + half:+.3f}]"
    assert lines[3] == f"| masked | 2 | 0.002 (bound) | 0.750 | 0.141 | {interval} | 2.00 | 0.900 | 0.30 |  |"
    assert len(lines) == 4, "an arm that was not measured has no row"
    for place, row in enumerate(rows.values()):
        row["revision"] = "abc" if place else "def"
    assert table(design, rows).splitlines()[4:] == ["", "Measured with more than one state of the code: abc, def."]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("baseline", "nothing", "no arm nothing"),
        ("arms", {"scratch": {}, "a": {"encoder": "b"}}, "no encoder b"),
        ("arms", {"scratch": {"rate_of": "a"}, "a": {"rate_of": "scratch"}}, "a search of its own"),
    ],
)
def test_a_comparison_that_cannot_be_run_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        comparison(**{key: value})


@pytest.mark.slow
def test_cells_run_are_not_run_again_and_no_search_sees_a_test_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MEDAE_DATA", "MEDAE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///not-used.db")  # put back when the test is over
    pair = {"encoder": "masked", "rate_of": "masked", "set": {"members": 2}}
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "pair": pair}
    design = comparison(search={"rates": [1e-3], "bounds": [1e-3, 1e-3]}, draws=1, arms=arms)
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    assert Worker(design, tmp_path, work, results).measure(["masked", "pair"], [0]) == []
    rows = list(read_rows(results).values())
    assert [(row["kind"], row["arm"]) for row in rows] == [
        ("encoder", "masked"),
        ("rate", "masked"),
        ("draw", "masked"),
        ("draw", "pair"),
    ]
    assert all(row["training_seconds"] > 0 and row["threads"] > 0 for row in rows)
    assert len(rows[2]["cases"]) == rows[2]["n_test"] == 3
    assert rows[2]["dice_mean"] == pytest.approx(sum(rows[2]["cases"].values()) / 3, abs=1e-4)
    (searched,) = (work / rate_cell(design, "masked", 1e-3).label).glob("*/predictions")
    seen = {path.name.split(".")[0].rpartition("_")[2] for path in searched.rglob("*.nii.gz")}
    assert len(seen) == 1 and not seen & rows[2]["cases"].keys(), "the validation subject, none of the test subjects"
    plans = {path.read_text() for path in work.glob("*-*/*/plan.yaml")}
    assert len({"".join(line.partition("#")[0] for line in plan.splitlines()) for plan in plans}) == 1, "one plan for all"
    before = results.read_text()
    assert Worker(design, tmp_path, work, results).measure(["masked", "pair"], [0]) == []
    assert results.read_text() == before

    monkeypatch.setattr(few_labels, "TIMED_RUNS", 2)
    monkeypatch.setattr(few_labels, "TIMED", {"fit": {"steps": 3, "epoch_steps": 1}})
    assert Worker(design, tmp_path, work, results).time(["masked"]) == []
    timed = [row for row in read_rows(results).values() if row["kind"] == "time"]
    assert [(row["run"], row["of"]) for row in timed] == [
        (run, digest) for run in (0, 1) for digest in (rows[0]["digest"], rows[2]["digest"])
    ]
    assert all(row["step_seconds"] > 0 for row in timed)
    assert not list(work.glob("time-*")), "nothing is left behind"


def test_a_cell_that_another_process_is_at_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    design = comparison()
    one, other = (Worker(design, tmp_path, tmp_path / "work", tmp_path / "results.jsonl") for _ in range(2))
    cell = draw_cell(design, "scratch", 0, 1e-3)
    with one._claim(cell) as mine, other._claim(cell) as theirs:
        assert mine and not theirs
    with other._claim(cell) as free:
        assert free
