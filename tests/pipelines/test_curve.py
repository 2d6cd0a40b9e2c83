"""The label curve: which cells there are, the search for rates, what the rows say, and real runs on phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medae.config import validate
from medae.data.phantom import PhantomSource
from medae.errors import ConfigError, DataError, TrainingError
from pipelines import curve as program
from pipelines import curve_planning
from pipelines.configs import shipped_folder
from pipelines.console import Screen
from pipelines.curve_budget import Matrix, Times, choose, content_of, resolves, seconds_of
from pipelines.curve_cells import Cell, Design, Part, part_of, read_rows
from pipelines.curve_config import Curve, Written, order_of, read_curve
from pipelines.curve_results import evaluate, markdown, sentences
from pipelines.curve_work import Worker
from pipelines.stage import program_of

SHORT = {
    "data": {"subjects": 9, "spacing": 8.0, "root": "phantoms"},
    "split": {"test": 3, "validation": 2, "stratify": None},
    "plan": {"widths": [4, 8], "patch": [16, 16, 16], "batch": 2},
    "fit": {"steps": 2, "epoch_steps": 1, "schedule": {"warmup": 1}},
}
CURVES = sorted(path.stem for path in (shipped_folder() / "curve").glob("*.yaml"))


def content(**changes) -> dict:
    return {
        "name": "tiny",
        "labelled": [1, 2],
        "draws": 2,
        "pretrain": {"config": "phantoms", "set": {**SHORT, "validation_batches": 0}},
        "finetune": {"config": "phantoms", "set": SHORT},
        "search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [2], "set": {"fit": {"steps": 1}}},
        "encoders": {"masked": {}},
        "arms": {"scratch": {}, "masked": {"encoder": "masked"}},
    } | changes


def curve(tmp_path: Path, **changes) -> Written:
    path = tmp_path / "curve.yaml"
    path.write_text(json.dumps(content(**changes)))
    return read_curve(str(path))


def design(written: Written, *rows: dict) -> Design:
    return Design(written, {row["digest"]: row for row in rows})


def searched(written: Written, name: str, count, dice: dict[float, float], seconds: float = 1.0) -> list[dict]:
    """The rows of a search."""
    cells = {rate: Design(written, {}).searched(name, count, rate) for rate in dice}
    row = {"kind": "rate", "arm": name, "seconds": 30.0, "training_seconds": seconds, "steps": 1}
    return [row | {"digest": cell.digest, "dice_mean": dice[rate]} for rate, cell in cells.items()]


def drawn(cell: Cell, cases: dict[str, float], validation: float = 0.5) -> dict:
    """The row of a draw."""
    scores = {"dice_mean": sum(cases.values()) / len(cases), "hd95_mean": 2.0, "surface_dice_mean": 0.9}
    row = {"kind": "draw", "arm": cell.name, "draw": cell.draw, "digest": cell.digest, "cases": cases, "seconds": 60.0}
    return (
        row | scores | {"validation": {"dice_mean": validation}, "training_seconds": 50.0, "labelled_subjects": cell.count}
    )


def known(written: Written) -> list[dict]:
    """Rows of all searches: 1e-3 is the best for scratch, 2e-3 for masked."""
    return [
        *searched(written, "scratch", 2, {1e-3: 0.6, 2e-3: 0.5}),
        *searched(written, "masked", 2, {1e-3: 0.5, 2e-3: 0.6}),
    ]


# --- the configuration ---


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
        ({"arms": {"scratch": {"set": {"fit": {"rate": 1}}}}}, "looked for on the validation subjects"),
        ({"arms": {"scratch": {"set": {"split": {"test": 9}}}}}, "must be the same in all arms"),
        ({"arms": {"scratch": {"set": {"scored": "test"}}}}, "must be the same in all arms"),
        ({"arms": {"scratch": {"as_long_as": "scratch"}}}, "as long as one with an encoder"),
        ({"search": {"rates": [1e-3], "bounds": [1e-3, 1e-3]}}, "nothing is chosen"),
        ({"search": {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [8]}}, "no such number of labels: 8"),
        ({"labelled": [2, 1]}, "must ascend"),
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
        Worker(written, tmp_path / "work", tmp_path / "rows.jsonl", Screen()).check()


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


def test_as_long_as_takes_the_seconds_of_pretraining_and_fine_tuning(tmp_path: Path) -> None:
    arms = {"scratch": {}, "masked": {"encoder": "masked"}, "long": {"as_long_as": "masked"}}
    short = {**SHORT, "fit": {"steps": 500, "epoch_steps": 50, "schedule": {"warmup": 1}}}
    written = curve(tmp_path, arms=arms, finetune={"config": "phantoms", "set": short})
    rows = [*known(written), *searched(written, "scratch", 2, {1e-3: 0.6, 2e-3: 0.5}, seconds=0.5)]
    assert design(written, *rows).steps("long", 1) == (None, False), "the pretraining was not measured yet"
    assert design(written, *rows).cell("long", 1, 0) is None
    encoder = {"digest": Design(written, {}).encoder("masked").digest, "kind": "encoder", "training_seconds": 300.0}
    # 300 s + 500 steps of 1 s are 800 s, at 0.5 s a step 1600 steps
    assert design(written, *rows, encoder).steps("long", 1) == (1600, True)
    cell = design(written, *rows, encoder).cell("long", 1, 0)
    assert cell is not None and cell.content["fit"]["steps"] == 1600 and cell.needs is None


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
    assert (left, seconds) == ({"encoder": 1, "rate": 0, "draw": 7}, None), "no pretraining was timed yet"
    encoder = {"digest": found.encoder("masked").digest, "kind": "encoder", "arm": "masked", "seconds": 9.0}
    assert design(written, *known(written), done, encoder).expected(everything)[1] == pytest.approx(7 * 60)
    assert found.expected(Part(("scratch",), (1,), (0,)))[0]["draw"] == 1


def test_a_part_that_the_curve_has_not_is_refused(tmp_path: Path) -> None:
    written = curve(tmp_path)
    assert part_of(written, ["scratch"], ["2"], [1]) == Part(("scratch",), (2,), (1,))
    with pytest.raises(ConfigError, match="no arm mask"):
        part_of(written, ["mask"])
    with pytest.raises(ConfigError, match="no 3 labels"):
        part_of(written, counts=["3"])


def test_a_broken_line_of_the_results_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"digest": "a"}\n{"dig\n')
    with pytest.raises(DataError, match="line 2"):
        read_rows(file)


# --- what the rows say ---


def rows_of(
    written: Written, scores: dict[tuple[str, int, int], dict[str, float]], validation: dict[str, float]
) -> list[dict]:
    rates = {"scratch": 1e-3, "masked": 2e-3}
    cells = Design(written, {})
    return [
        drawn(cells.drawn(name, count, draw, rates[name]), cases, validation[name])
        for (name, count, draw), cases in scores.items()
    ]


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


# --- running it ---


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medae.report.canvas.DPI", 30)
    for name in ("MLFLOW_TRACKING_URI", "MEDAE_DATA", "MEDAE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
def test_a_curve_runs_goes_on_and_sees_no_test_subject_while_it_chooses(work: Path) -> None:
    arms = {"scratch": {"rate": 1e-3}, "masked": {"encoder": "masked"}}
    (work / "curve.yaml").write_text(json.dumps(content(labelled=[2], draws=1, arms=arms)))
    run = {"name": str(work / "curve.yaml"), "overrides": [], "runs": work / "runs"}
    found = program.run(**run, arms=["masked"])
    assert [(arm, count) for arm, count in found.points] == [("masked", 2)]
    rows = list(read_rows(work / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows] == [
        ("encoder", "masked"),
        ("rate", "masked"),
        ("rate", "masked"),
        ("draw", "masked"),
    ]
    assert all(row["training_seconds"] > 0 and row["threads"] > 0 for row in rows)
    last = rows[-1]
    assert len(last["cases"]) == last["n_test"] == 3 and len(last["validation"]["cases"]) == 2
    assert last["labelled_subjects"] == 2
    assert not last["cases"].keys() & last["validation"]["cases"].keys()
    assert last["dice_mean"] == pytest.approx(sum(last["cases"].values()) / 3, abs=1e-4)
    for row in rows[1:3]:
        (result,) = (work / "runs" / "tiny").glob(f"rate-masked-2-{row['digest']}/*/result.json")
        seen = json.loads(result.read_text())["metrics"]["pretrained"]["cases"]
        assert seen.keys() == last["validation"]["cases"].keys(), "a search is scored on the validation subjects alone"
    plans = {path.read_text() for path in (work / "runs" / "tiny").glob("rate-*/*/plan.yaml")}
    assert len(plans) == 1, "one plan for all"
    assert (work / "runs" / "tiny" / "report.html").is_file() and (work / "runs" / "tiny" / "table.md").is_file()

    before = (work / "runs" / "tiny" / "results.jsonl").read_text()
    program.run(**run, arms=["masked"])
    assert (work / "runs" / "tiny" / "results.jsonl").read_text() == before, "what is there is not run again"
    program.run(**run, jobs=2)
    rows = list(read_rows(work / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows[4:]] == [("draw", "scratch")]


def test_a_cell_that_fails_is_told_at_the_end_and_the_others_are_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"scratch": {"rate": 1e-3}, "broken": {"rate": 1e-3, "set": {"network": {"decoder": {"skips": ["concat"] * 5}}}}}
    made = content(labelled=[2], draws=1, arms=arms, encoders={}, pretrain=None)
    (work / "curve.yaml").write_text(json.dumps(made))
    with pytest.raises(TrainingError, match=r"1 cells failed, the others were run:\n.*draw-broken-2-0"):
        program.run(str(work / "curve.yaml"), [], work / "runs")
    assert [row["arm"] for row in read_rows(work / "runs" / "tiny" / "results.jsonl").values()] == ["scratch"]
    assert (work / "runs" / "tiny" / "report.html").is_file()


def test_a_cell_that_another_process_is_at_is_left_to_it(work: Path) -> None:
    written = curve(work)
    one, other = (Worker(written, work / "work", work / "rows.jsonl", Screen()) for _ in range(2))
    cell = Design(written, {}).drawn("scratch", 1, 0, 1e-3)
    with one._claim(cell) as mine, other._claim(cell) as theirs:
        assert mine and not theirs
    with other._claim(cell) as free:
        assert free


# --- a curve for a stranger's data, in the time that there is ---


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400.0), ("2h", 7200.0), ("1.5 h", 5400.0), ("1d", 86400.0)])
def test_a_length_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "0h", "two hours", "-1h"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no length of time"):
        seconds_of(text)


def test_the_seconds_of_a_matrix_by_hand() -> None:
    matrix = Matrix(("scratch", "masked", "mean_teacher"), {1: 2, 4: 3}, steps=100, pretrain_steps=50)
    times = Times(pretrain=2.0, finetune=1.0, rest=10.0)
    search, draws = 3 * (50 * 1.0 + 10), 5 * (100 * 1.0 + 10)
    teacher = 3 * (50 * 2.0 + 10) + 5 * (100 * 2.0 + 10)
    assert matrix.seconds(times) == pytest.approx((50 * 2.0 + 10) + 2 * (search + draws) + teacher)


@pytest.mark.parametrize("hours", [0.5, 2, 8, 100])
@pytest.mark.parametrize("training", [3, 20, 200])
def test_what_is_planned_fits_the_time_and_more_time_plans_no_less(hours: float, training: int) -> None:
    times = Times(pretrain=0.3, finetune=0.3, rest=20.0)
    matrix = choose(hours * 3600, times, training)
    assert matrix.seconds(times) <= hours * 3600
    assert max(matrix.draws) <= max(1, training // 2), "no more labels than half of the training subjects"
    assert choose(2 * hours * 3600, times, training).seconds(times) >= matrix.seconds(times)
    assert len(resolves(matrix)) == len(matrix.draws)
    written = content_of(matrix, "x", {}, {})
    assert validate(Curve, written).draws_of(min(matrix.draws)) == matrix.draws[min(matrix.draws)]


def test_too_little_time_says_how_much_is_needed() -> None:
    with pytest.raises(ConfigError, match="smallest comparison that says anything takes about"):
        choose(60, Times(1.0, 1.0, 20.0), 100)


@pytest.mark.slow
def test_a_strangers_folder_is_planned_timed_and_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = validate(PhantomSource, {"root": work / "phantoms", "subjects": 12, "spacing": 8.0})
    for number, case in enumerate(source.manifest().cases):
        for kind, ref in (("imagesTr", next(iter(case.images.values()))), ("labelsTr", case.targets["lesion"])):
            end = "_0000" if kind == "imagesTr" else ""
            target = work / "stranger" / kind / f"case_{number:03d}{end}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "phantoms" / ref.files[0], target)
    described = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (work / "stranger" / "dataset.json").write_text(json.dumps(described))
    least = Matrix(("scratch", "masked"), {2: 2}, steps=2, pretrain_steps=2)
    monkeypatch.setattr(curve_planning, "choose", lambda *_: least)
    small = ["{}.set.plan.widths=[4, 8]", "{}.set.plan.patch=[16, 16, 16]", "{}.set.fit.epoch_steps=1"]
    overrides = [key.format(kind) for kind in ("pretrain", "finetune") for key in small]
    with pytest.raises(ConfigError, match="--budget 2h"):
        program.run("stranger", [], work / "runs")
    found = program.run("stranger", overrides, work / "runs", budget="1h")
    assert {arm for arm, _ in found.points} == {"scratch", "masked"}
    assert all(point.complete for point in found.points.values())
    text = (work / "runs" / "stranger-curve" / "curve.yaml").read_text()
    assert text.startswith("# In 1 h: scratch, masked; 2 draws of 2 labels; 2 steps each") and "would not be seen" in text
    before = (work / "runs" / "stranger-curve" / "results.jsonl").read_text()
    program.run("stranger", overrides, work / "runs", budget="1h")
    assert (work / "runs" / "stranger-curve" / "results.jsonl").read_text() == before, "planned and measured once"
