"""A curve's configuration, which cells it has, and the search for rates."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from threading import Thread

import pytest
from curves import SHORT, content, curve, design, drawn, known, searched
from filelock import FileLock

from medae.config import validate
from medae.errors import ConfigError, DataError
from pipelines.configs import shipped_folder
from pipelines.console import Screen
from pipelines.curve_cells import Cell, Design, Part, part_of, read_rows
from pipelines.curve_checks import check
from pipelines.curve_config import Curve, Written, order_of, read_curve
from pipelines.curve_work import Worker
from pipelines.stage import program_of

CURVES = sorted(path.stem for path in (shipped_folder() / "curve").glob("*.yaml"))


@pytest.mark.parametrize("name", CURVES)
def test_a_shipped_curve_is_valid_and_its_arms_share_what_they_must(name: str) -> None:
    written = read_curve(name)
    cells = Design(written, {})
    for encoder in written.curve.encoders:
        validate(program_of("pretrain").Config, cells.encoder(encoder).content)
    for count in written.curve.labelled:
        for arm, keys in written.curve.arms.items():
            drawn_cells = [cells.drawn(arm, count, draw, 4e-3) for draw in range(written.curve.draws_of(count))]
            configs = [
                validate(program_of("finetune").Config, {**cell.content, "encoder": keys.encoder}) for cell in drawn_cells
            ]
            assert {config.labelled for config in configs} == {None if count == "all" else count}
            assert len({config.labelled_salt for config in configs}) == len(configs), "every draw has its own labelled cases"
            assert [config.fit.seed for config in configs] == list(range(len(configs)))
            assert all(config.scratch == (keys.encoder is None) for config in configs), "one arm a cell"
            assert len({json.dumps(cell.content["split"]) for cell in drawn_cells}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "nothing"}, "no arm nothing"),
        ({"arms": {"scratch": {}, "a": {"encoder": "b"}}}, "no encoder b"),
        ({"arms": {"scratch": {}, "a": {"rate_of": "scratch"}}}, "without a rate of its own"),
        ({"arms": {"scratch": {"rate_of": "a"}, "a": {"rate_of": "scratch"}}, "shared_rates": True}, "search of its own"),
        ({"arms": {"scratch": {"rate": 1e-6}, "a": {"encoder": "masked"}}}, "arm with a fixed rate loses"),
        ({"arms": {"scratch": {"rate": 1e-6}, "a": {"twin": "b"}, "b": {"rate": 1e-6}}}, "arms.b.rate: a, which"),
        ({"arms": {"scratch": {"set": {"fit": {"rate": 1}}}}}, "looked for on the validation subjects"),
        ({"arms": {"scratch": {"set": {"split": {"test": 9}}}}}, "must be the same in all arms"),
        ({"arms": {"scratch": {"set": {"scored": "test"}}}}, "must be the same in all arms"),
        ({"arms": {"scratch": {"as_long_as": "scratch"}}}, "as long as one with an encoder"),
        ({"arms": {"scratch": {"set": {"max_cases": 5}}}}, "max_cases must be the same in all arms"),
        ({"arms": {"scratch": {"set": {"tolerance": 3.0}}}}, "tolerance must be the same in all arms"),
        ({"arms": {"scratch": {}, "a": {"encoder": "masked", "set": {"plan": {}}}}}, "the encoder's"),
        (
            {"arms": {"scratch": {}, "masked": {"encoder": "masked", "rate": 1e-3}, "a": {"as_long_as": "masked"}}},
            "fix no rate",
        ),
        ({"arms": {"scratch": {}, "a": {"twin": "b"}}}, "no arm b"),
        ({"arms": {"scratch": {}, "a": {"labelled": [3]}}}, "no such number of labels: 3"),
        ({"arms": {"scratch": {"labelled": [1]}, "a": {}}}, "twin scratch is not trained with 2 labels"),
        ({"arms": {"scratch": {}, "a": {"set": {"unlabelled": {"kind": "mean_teacher"}}}}}, "would bring a twin"),
        ({"encoders": {"masked": {"set": {"split": {"test": 1}}}}}, "split must be the same in all encoders"),
        ({"encoders": {"masked": {"set": {"fit": {"monitor": "probe/dice"}}}}}, "no arm is charged for"),
        ({"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "set": {"split": {"test": 1}}}}, "in its fit alone"),
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "rates": {"scratch": 1e-3}}}}, "the curve sets rates itself"),
        (
            {"finetune": {"config": "phantoms", "set": {**SHORT, "baseline": "central_ball"}}},
            "the curve sets baseline itself",
        ),
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "encoder": "masked"}}}, "the curve sets encoder itself"),
        ({"search": {"rates": [1e-3], "bounds": [1e-3, 1e-3]}}, "nothing is chosen"),
        ({"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [8]}}, "no such number of labels: 8"),
        ({"labelled": [2, 1]}, "must ascend"),
        ({"labelled": [1, "all", 2000]}, "must ascend"),
        ({"labelled": [0, 1]}, "labelled: an arm needs at least 1 label, and 0 is written"),
        ({"arms": {"scratch": {}, "mean teacher": {}}}, "arms: 'mean teacher' becomes the name of a folder"),
        ({"arms": {"scratch": {}, "a/b": {}}}, "arms: 'a/b' becomes the name of a folder"),
        ({"encoders": {"masked": {}, "..": {}}}, r"encoders: '\.\.' becomes the name of a folder"),
        ({"search": {"rates": [1e-3, 2e-3], "bounds": [2e-3, 1e-3]}}, "bounds: the smaller comes first"),
        ({"search": {"rates": [1e-3, 4e-3], "bounds": [1e-3, 2e-3]}}, "rates: 0.004 lies beyond the bounds, 0.001 to 0.002"),
        ({"search": {"rates": [1e-3, 1e-3], "bounds": [1e-3, 2e-3]}}, "0.001 is there more than once"),
        ({"search": {"rates": [-1e-3, 2e-3], "bounds": [-1e-3, 2e-3]}}, "must be positive numbers, not -0.001, -0.001"),
        (
            {"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "set": {"fit": {"rate": 5.0, "seed": 1}}}},
            "fit.rate and fit.seed: a search sets them itself",
        ),
        ({"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "set": {"fit": None}}}, "block of keys.*not null"),
        (
            {
                "arms": {
                    "scratch": {},
                    "masked": {"encoder": "masked"},
                    "long": {"as_long_as": "masked", "set": {"fit": {"steps": 9}}},
                }
            },
            "arms.long: set: fit.steps are as many as as_long_as has time for",
        ),
        ({"arms": {"scratch": {"set": {"fit": None}}}}, "arms.scratch: set: fit must be a block of keys"),
        ({"encoders": {"masked": {"set": {"fit": None}}}}, "encoders.masked: set: fit must be a block of keys"),
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "split": None}}}, "split must be a block of keys, not null"),
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "fit": None}}}, "fit must be a block of keys, not null"),
        ({"pretrain": {"config": "phantoms", "set": {**SHORT, "fit": 3}}}, "pretrain, fit"),
        ({"draws": {"1": 2}}, "draws says nothing of 2"),
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "split": {"validation": 0}}}}, "chosen on the test subjects"),
    ],
)
def test_a_curve_that_means_nothing_is_refused_with_a_reason(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        curve(tmp_path, **changes)


def test_an_encoder_that_would_see_a_test_subject_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = {**SHORT, "validation_batches": 0, "split": {**SHORT["split"], "salt": "another:"}}
    written = curve(tmp_path, pretrain={"config": "phantoms", "set": other})
    with pytest.raises(DataError, match="also among the pretraining cases"):
        check(Worker(written, tmp_path / "work", tmp_path / "rows.jsonl", Screen()))


# --- cells ---


def test_arms_share_labelled_cases_and_seed_on_a_draw_and_fewer_labels_are_contained_in_more(tmp_path: Path) -> None:
    cells = Design(curve(tmp_path), {})
    one, other, more = (
        cells.drawn(name, count, 1, 1e-3).content for name, count in (("scratch", 1), ("masked", 1), ("scratch", 2))
    )
    assert one["labelled_salt"] == other["labelled_salt"] == more["labelled_salt"]
    assert one["fit"]["seed"] == other["fit"]["seed"] == 1
    salts = {cells.drawn("scratch", 1, draw, 1e-3).content["labelled_salt"] for draw in range(2)}
    assert len(salts) == 2 and cells.searched("scratch", 2, 1e-3).content["labelled_salt"] not in salts


def test_a_changed_arm_or_encoder_is_another_cell_and_more_draws_or_arms_are_not(tmp_path: Path) -> None:
    cells = Design(curve(tmp_path), {})
    more = {"scratch": {}, "masked": {"encoder": "masked"}, "flips": {"set": {"flips": True}}}
    changed = Design(
        curve(tmp_path, encoders={"masked": {"set": {"objective": {"ratio": [0.4, 0.5]}}}}, draws=5, arms=more), {}
    )
    assert cells.drawn("masked", 1, 0, 1e-3).digest != changed.drawn("masked", 1, 0, 1e-3).digest
    assert cells.drawn("scratch", 1, 0, 1e-3).digest == changed.drawn("scratch", 1, 0, 1e-3).digest
    assert cells.searched("scratch", 2, 1e-3).digest == changed.searched("scratch", 2, 1e-3).digest


def test_the_search_goes_on_while_the_best_rate_is_at_an_end(tmp_path: Path) -> None:
    written = curve(tmp_path, search={"rates": [1e-3, 2e-3], "bounds": [2.5e-4, 4e-3], "labelled": [2]})

    def rate(dice: dict[float, float]) -> tuple[float | None, list[float]]:
        best, left = design(written, *searched(written, "scratch", 2, dice)).rate("scratch", 1)
        return best, [cell.content["fit"]["rate"] for cell in left]

    assert rate({}) == (None, [1e-3, 2e-3])
    assert rate({1e-3: 0.5, 2e-3: 0.6}) == (None, [4e-3])
    assert rate({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.55}) == (2e-3, [])
    assert rate({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.7}) == (4e-3, []), "the bound"
    assert rate({1e-3: 0.6, 2e-3: 0.5, 5e-4: 0.6}) == (None, [2.5e-4]), "of equal rates the smaller, which is an end"


def test_a_number_of_labels_takes_the_rate_of_the_nearest_search() -> None:
    made = {"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [4, "all"]}, "labelled": [1, 4, 16, "all"]}
    found = validate(Curve, content(**made))
    assert [found.search_count(count) for count in found.labelled] == [4, 4, 4, "all"]
    assert order_of("all") > order_of(500)
    assert validate(Curve, content(**made | {"labelled": [4, 2000, "all"]})).labelled == (4, 2000, "all")


def test_as_long_as_takes_the_seconds_of_pretraining_and_fine_tuning(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked"}}
    short = {**SHORT, "fit": {"steps": 500, "epoch_steps": 50, "schedule": {"warmup": 1}}}
    written = curve(tmp_path, arms=arms, finetune={"config": "phantoms", "set": short})
    rows = searched(written, "masked", 2, {1e-3: 0.5, 2e-3: 0.6})
    rows += searched(written, "scratch", 2, {1e-3: 0.6, 2e-3: 0.5}, seconds=0.5)
    assert design(written, *rows).steps("long") == (None, False), "the pretraining was not measured yet"
    assert design(written, *rows).cell("long", 1, 0) is None
    encoder = {"digest": Design(written, {}).encoder("masked").digest, "kind": "encoder", "arm": "masked"}
    encoder |= {"training_seconds": 300.0}
    # 300 s + 500 steps of 1 s are 800 s, at 0.5 s a step 1600 steps
    assert design(written, *rows, encoder).steps("long") == (1600, True)
    assert design(written, *rows[:-1], encoder).steps("long") == (None, False), "one search is not there yet"
    slow = {**rows[-1], "training_seconds": 9.0}
    assert design(written, *rows[:-1], slow, encoder).steps("long") == (1600, True), "the fastest search counts"
    first = drawn(design(written, *rows, encoder).drawn("long", 2, 1, 1e-3, 1600), {"a": 0.5})
    faster = [{**row, "training_seconds": 0.1} for row in rows[-2:]]
    assert design(written, *rows[:-2], *faster, encoder).steps("long") == (8000, True)
    first["paced_by"] = design(written).pace("long")
    assert design(written, *rows[:-2], *faster, encoder, first).steps("long") == (1600, True), "the first row fixes it"
    for other in ({"steps": 600}, {"ema": 0.9}):
        changed = curve(tmp_path, arms=arms, finetune={"config": "phantoms", "set": {**short, "fit": short["fit"] | other}})
        assert design(changed, encoder, first).steps("long") == (None, False), "what it is as long as has changed"
    cell = design(written, *rows, encoder).cell("long", 1, 0)
    assert cell is not None and cell.content["fit"]["steps"] == 1600 and cell.needs is None


def test_a_search_that_stopped_early_is_no_faster_for_it(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked"}}
    short = {**SHORT, "fit": {"steps": 500, "epoch_steps": 50, "schedule": {"warmup": 1}}}
    written = curve(tmp_path, arms=arms, finetune={"config": "phantoms", "set": short})
    encoder = {"digest": Design(written, {}).encoder("masked").digest, "kind": "encoder", "training_seconds": 300.0}
    rows = [*searched(written, "masked", 2, {1e-3: 0.5, 2e-3: 0.6}, seconds=250.0), encoder]
    rows += searched(written, "scratch", 2, {1e-3: 0.6, 2e-3: 0.5}, seconds=125.0)
    whole = [row | {"steps": 250, "steps_done": 250} for row in rows]
    assert design(written, *whole).steps("long") == (1600, True)
    early = {**whole[-1], "training_seconds": 50.0, "steps_done": 100}
    assert design(written, *whole[:-1], early).steps("long") == (1600, True)


def test_what_is_left_is_searched_first_and_then_run_draw_by_draw(tmp_path: Path) -> None:
    written = curve(tmp_path)
    everything = part_of(written)
    first = Design(written, {}).pending(everything)
    assert [(cell.kind, cell.name, cell.count) for cell in first] == [
        ("rate", "scratch", 2),
        ("rate", "scratch", 2),
        ("rate", "masked", 2),
        ("rate", "masked", 2),
    ]
    done = drawn(design(written, *known(written)).drawn("masked", 1, 0, 2e-3), {"a": 0.8})
    found = design(written, *known(written), done)
    assert [(cell.name, cell.count, cell.draw) for cell in found.pending(everything)] == [
        ("scratch", 1, 0),
        ("scratch", 2, 0),
        ("masked", 2, 0),
        ("scratch", 1, 1),
        ("masked", 1, 1),
        ("scratch", 2, 1),
        ("masked", 2, 1),
    ]
    left, seconds = found.expected(everything)
    assert left == {"encoder": 1, "rate": 0, "draw": 7}
    # a search of one step took 30 s, masked's draw of two steps 60 s: all take 30 s a step
    steps = found.encoder("masked").content["fit"]["steps"]
    assert seconds == pytest.approx(30 * (steps + 7 * 2))
    assert design(written).expected(everything)[1] is None, "nothing was measured"
    one = design(written, known(written)[0])
    assert one.expected(everything)[1] == pytest.approx(30 * (steps + 3 + 2 * 8)), "one cell tells of all, by their steps"
    encoder = {"digest": found.encoder("masked").digest, "kind": "encoder", "arm": "masked", "seconds": 9.0, "steps": steps}
    whole = design(written, *known(written), done, encoder)
    assert whole.expected(everything)[1] == pytest.approx(7 * 60)
    assert found.expected(Part(("scratch",), (1,), (0,)))[0]["draw"] == 1
    others = [{"digest": kind, "kind": kind, "arm": "masked", "seconds": 9e9} for kind in ("encoder", "rate", "draw")]
    beside = design(written, *known(written), done, encoder, *others)
    assert beside.expected(everything)[1] == pytest.approx(7 * 60), "rows of another curve say nothing of this one's seconds"


def test_rows_that_were_measured_under_another_name_tell_how_long_it_takes(tmp_path: Path) -> None:
    """A cell's digest has no name in it: what an arm is called may be changed."""
    written = curve(tmp_path, arms={"plain": {}, "masked": {"encoder": "masked"}}, baseline="plain")
    rows = [
        row if row["arm"] == "masked" else row | {"arm": "scratch"}
        for row in searched(written, "plain", 2, {1e-3: 0.6, 2e-3: 0.5})
    ]
    left, seconds = design(written, *rows).expected(Part(("plain",), (1, 2), (0, 1)))
    assert left == {"encoder": 0, "rate": 0, "draw": 4} and seconds == pytest.approx(4 * 2 * 30)


def test_a_length_is_known_by_the_searches_beyond_the_written_rates_too(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked"}}
    short = {**SHORT, "fit": {"steps": 500, "epoch_steps": 50, "schedule": {"warmup": 1}}}
    search = {"rates": [1e-2, 2e-2], "bounds": [5e-3, 2e-2], "labelled": [2], "set": {"fit": {"steps": 1}}}
    written = curve(tmp_path, arms=arms, search=search, finetune={"config": "phantoms", "set": short})
    encoder = {"digest": Design(written, {}).encoder("masked").digest, "kind": "encoder", "training_seconds": 300.0}
    masked = searched(written, "masked", 2, {1e-2: 0.6, 2e-2: 0.5, 5e-3: 0.4})
    diverged = [row | {"diverged": True} for row in searched(written, "scratch", 2, {1e-2: 0.0, 2e-2: 0.0})]
    beyond = searched(written, "scratch", 2, {5e-3: 0.6}, seconds=0.5)
    part = Part(("scratch", "masked", "long"), (2,), (0,))
    waiting = design(written, *masked, *diverged, encoder)
    assert waiting.steps("long") == (None, False) and waiting.stuck(part) == []
    found = design(written, *masked, *diverged, *beyond, encoder)
    assert found.steps("long") == (1600, True) and found.stuck(part) == []
    narrow = curve(
        tmp_path,
        arms=arms | {"long": {"as_long_as": "masked", "labelled": [2]}},
        search=search | {"labelled": [1, 2]},
        finetune={"config": "phantoms", "set": short},
    )
    both = [row for count in (1, 2) for row in searched(narrow, "masked", count, {1e-2: 0.6, 2e-2: 0.5, 5e-3: 0.4})]
    own = [row | {"diverged": True} for row in searched(narrow, "long", 2, {1e-2: 0.0, 2e-2: 0.0, 5e-3: 0.0})]
    assert design(narrow, *both, *own, encoder).stuck(part_of(narrow)) == ["long"], "it needs no search at 1"
    lost = design(written, *masked, *diverged, *[row | {"diverged": True} for row in beyond], encoder)
    assert lost.steps("long") == (None, False) and lost.stuck(part) == ["long"]


def test_what_is_not_measured_takes_as_long_a_step_as_what_is_most_like_it(tmp_path: Path) -> None:
    arms = {
        "scratch": {},
        "masked": {"encoder": "masked"},
        "three": {"set": {"members": 3}},
        "long": {"as_long_as": "masked"},
    }
    written = curve(tmp_path, labelled=[2], draws=1, arms=arms)
    rows = known(written)
    for row in rows:
        row["seconds"] = {"scratch": 10.0, "masked": 20.0}[row["arm"]]
    cells = design(written, *rows)
    draw = drawn(cells.drawn("scratch", 2, 0, 1e-3), {"a": 0.5}) | {"seconds": 8.0}  # of two steps, of one in a search
    found = design(written, *rows, draw)
    steps = found.encoder("masked").content["fit"]["steps"]

    def left(*names: str) -> float:
        part = Part(names, (2,))
        return found.expected(part)[1]

    assert left("scratch") == 0
    # its own searches before others' draws, the encoder as the median of all: 4, 10, 10, 20, 20 s a step
    assert left("masked") == pytest.approx(2 * 20 + 10 * steps)
    # two searches of three members of one step, and a draw of three of two, as searches (10, 10, 20, 20) and draws (4) are
    assert left("three") == pytest.approx(2 * 3 * 15 + 3 * 2 * 4)
    # as long as the pretraining and a draw of masked, and before that the pretraining; its searches are those of scratch
    assert left("long") == pytest.approx(10 * steps + (10 * steps + 2 * 20))


def test_a_part_that_the_curve_has_not_is_refused(tmp_path: Path) -> None:
    written = curve(tmp_path)
    assert part_of(written, ["scratch"], ["2"], [1]) == Part(("scratch",), (2,), (1,))
    with pytest.raises(ConfigError, match="no arm mask"):
        part_of(written, ["mask"])
    with pytest.raises(ConfigError, match="no draw 7"):
        part_of(written, draws=[0, 7])
    with pytest.raises(ConfigError, match="no 3 labels"):
        part_of(written, counts=["3"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"finetune": {"config": "phantoms", "set": {**SHORT, "plan": {"memory": "4G"}}}}, "finetune, plan.memory"),
        ({"pretrain": {"config": "phantoms", "set": {**SHORT, "plan": {"memory": "4G"}}}}, "pretrain, plan.memory"),
        ({"arms": {"scratch": {}, "small": {"set": {"plan": {"memory": "4G"}}}}}, "arms.small, plan.memory"),
    ],
)
def test_a_memory_target_is_refused_where_the_curve_is_read(empty: Path, changes: dict, key: str) -> None:
    with pytest.raises(ConfigError, match="one plan for all") as refusal:
        curve(empty, **changes)
    assert key in str(refusal.value) and "medae plan DATA --memory 4G" in str(refusal.value.remedy)


def test_what_a_plan_file_says_decides_and_not_where_it_is(empty: Path) -> None:
    def with_plan(file: Path) -> Written:
        hints = dict.fromkeys(("batch", "patch", "spatial_dims", "stem", "widths"))
        base = {**SHORT, "plan": {**hints, "file": str(file)}}
        arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked"}}
        bases = {kind: {"config": "phantoms", "set": base} for kind in ("pretrain", "finetune")}
        return curve(empty, arms=arms, **bases)

    def made(written: Written) -> tuple[Cell, str | None, Path]:
        design = Design(written, {})
        cell = design.drawn("scratch", 1, 0, 1e-3)
        return cell, design.pace("long"), Worker(written, empty / "work", empty / "rows.jsonl", Screen()).plan(cell)

    plain = curve(empty)
    own = Worker(plain, empty / "other", empty / "rows.jsonl", Screen()).plan(Design(plain, {}).drawn("scratch", 1, 0, 1e-3))
    file, moved = empty / "plan.yaml", empty / "moved.yaml"
    shutil.copy(own, file)
    shutil.copy(own, moved)
    written = with_plan(file)
    elsewhere, same, _ = made(with_plan(moved))
    before, pace, plan = made(written)
    known = before.digest
    assert (known, pace) == (elsewhere.digest, same)
    text = file.read_text()
    assert "batch: 2" in text
    file.write_text(text.replace("batch: 2", "batch: 3"))
    os.utime(file, (1, 1))
    after, changed, again = made(written)
    assert after.digest != known and changed != pace
    assert again != plan and "batch: 3" in again.read_text()


def test_a_line_is_not_joined_to_half_of_another(empty: Path) -> None:
    """A process that was killed, or a full disk, leaves half a line."""
    worker = Worker(curve(empty), empty / "work", empty / "repository" / "rows.jsonl", Screen())
    worker.add({"digest": "a"})
    with worker.results.open("a", encoding="utf-8") as file:
        file.write('{"digest": "b", "cas')
    worker.add({"digest": "c"})
    worker.add({"digest": "d"})
    assert list(read_rows(worker.results)) == ["a", "c", "d"]


def test_curves_that_share_their_results_wait_for_each_other(empty: Path) -> None:
    """Runs in other folders, and their locks with them."""
    results = empty / "rows.jsonl"
    one, other = (Worker(curve(empty), empty / name, results, Screen()) for name in ("one", "other"))
    one.add({"digest": "a"})
    (lock,) = empty.glob(".rows.jsonl*")
    adding = Thread(target=other.add, args=({"digest": "b"},))
    with FileLock(lock):
        adding.start()
        adding.join(0.3)
        assert list(read_rows(results)) == ["a"]
    adding.join()
    assert list(read_rows(results)) == ["a", "b"]


def test_a_whole_line_that_lacks_its_end_is_a_line(empty: Path) -> None:
    """Some editors save a file without the end of its last line."""
    worker = Worker(curve(empty), empty / "work", empty / "rows.jsonl", Screen())
    worker.results.write_text('{"digest": "a"}\n{"digest": "b"}')
    assert list(read_rows(worker.results)) == ["a", "b"]
    worker.add({"digest": "c"})
    assert list(read_rows(worker.results)) == ["a", "b", "c"] and worker.results.read_text().endswith("}\n")


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"digest": "a"}\n{"digest": "b", "ca')
    assert list(read_rows(file)) == ["a"]


def test_a_broken_line_of_the_results_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"digest": "a"}\n{"dig\n')
    with pytest.raises(DataError, match="line 2"):
        read_rows(file)
