"""A curve for a stranger's data, in the time that there is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow.entities import ViewType

from medae.config import validate
from medae.data.phantom import PhantomSource
from medae.errors import ConfigError
from medae.tracking.client import open_client
from pipelines import curve as program
from pipelines import curve_planning, curve_timing
from pipelines.console import Screen
from pipelines.curve_budget import ARMS, Matrix, Times, choose, content_of, resolves, seconds_of
from pipelines.curve_cells import Design
from pipelines.curve_config import Curve, written_of


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
    search, draws = 5 * (50 * 1.0 + 10), 5 * (100 * 1.0 + 10)  # three rates, and two more beyond an end
    teacher = 5 * (50 * 2.0 + 10) + 5 * (100 * 2.0 + 10)
    assert matrix.seconds(times) == pytest.approx((50 * 2.0 + 10) + 2 * (search + draws) + teacher)


def test_an_arm_as_long_as_pretraining_and_fine_tuning_costs_both_on_every_draw_and_no_search() -> None:
    times = Times(pretrain=2.0, finetune=1.0, rest=10.0)
    without = Matrix(("scratch", "masked"), {1: 2, 4: 3}, steps=100, pretrain_steps=60)
    matrix = replace(without, arms=(*without.arms, "scratch_long"))
    assert matrix.seconds(times) - without.seconds(times) == pytest.approx(5 * (200 * 1.0 + 10)), (
        "(60 * 2 + 100 * 1) / 1 is 220 steps, to the next 50"
    )
    cells = Design(written_of(content_of(matrix, "x", {}, {"split": {"validation": 3}}), Path("x")), {})
    looked_for, other = (cells.searched(name, 4, 2.0e-3).digest for name in ("scratch_long", "scratch"))
    assert looked_for == other, "the same training"


def test_many_processes_still_do_one_thing_after_the_other() -> None:
    times = Times(pretrain=2.0, finetune=1.0, rest=10.0)
    matrix = Matrix(("scratch", "masked"), {1: 8, 4: 3}, steps=100, pretrain_steps=60)
    chain = (60 * 2.0 + 10) + 3 * (50 * 1.0 + 10) + (100 * 1.0 + 10)  # the search goes on twice beyond an end
    assert matrix.chain(times) == pytest.approx(chain)
    assert matrix.takes(times, 1) == matrix.seconds(times) > chain == pytest.approx(matrix.takes(times, 100))
    long = replace(matrix, arms=(*matrix.arms, "scratch_long"))
    assert long.chain(times) == pytest.approx(chain + 100), "200 steps in the place of 100"
    for budget in (1500.0, 4000.0, 9000.0):
        assert choose(budget, times, 100, jobs=16).takes(times, 16) <= budget
    with pytest.raises(ConfigError, match="smallest comparison"):  # of 200 and 300 steps: 610 + 3 * 110 + 210 seconds
        choose(1150, times, 100, jobs=1000)


def test_scratch_is_trained_as_long_before_other_arms_are_added() -> None:
    times, orders = Times(0.3, 0.3, 20.0), {}
    for hours in range(1, 200):
        orders[choose(hours * 3600, times, 200).arms] = hours
    assert list(orders) == [tuple(ARMS)[:number] for number in (2, 3, 4, 5)]
    assert tuple(ARMS)[2] == "scratch_long"


def test_what_a_matrix_can_show_by_hand() -> None:
    (alone,) = resolves(Matrix(("scratch", "masked"), {4: 3}, 500, 800), 160)
    assert "about 0.012 would be missed half the time, if" in alone, "4.303 * 0.005 / sqrt(3)"
    one, other = resolves(Matrix(("scratch", "masked", "strong"), {1: 8, 4: 3}, 500, 800), 160)
    # of four comparisons the first has to pass 0.05 / 4: Student's 3.34 with 7 degrees of freedom, 8.86 with 2
    assert one.startswith(
        "1 label, 8 draws: a true difference in Dice of about 0.014 would be missed half the time among 4 "
    )
    assert "about 0.026" in other


@pytest.mark.parametrize("hours", [0.5, 2, 8, 100])
@pytest.mark.parametrize("training", [3, 20, 200])
def test_what_is_planned_fits_the_time_and_more_time_plans_no_less(hours: float, training: int) -> None:
    times = Times(pretrain=0.3, finetune=0.3, rest=20.0)
    matrix = choose(hours * 3600, times, training)
    assert matrix.seconds(times) <= hours * 3600
    most = training // 8 if training >= 32 else max(1, training // 4)
    assert max(matrix.draws) <= most, "or draws would share too many subjects"
    assert choose(2 * hours * 3600, times, training).seconds(times) >= matrix.seconds(times)
    assert sum("missed half the time" in line for line in resolves(matrix, training)) == len(matrix.draws)
    written = content_of(matrix, "x", {}, {})
    assert validate(Curve, written).draws_of(min(matrix.draws)) == matrix.draws[min(matrix.draws)]


@pytest.mark.parametrize(
    ("training", "numbers"), [(4, [1]), (8, [1, 2]), (20, [1, 4]), (40, [1, 4]), (160, [1, 4, 16]), (600, [1, 4, 16, 64])]
)
def test_the_numbers_of_labels_go_with_the_training_subjects(training: int, numbers: list[int]) -> None:
    assert list(choose(1e9, Times(0.3, 0.3, 20.0), training).draws) == numbers


def test_draws_that_overlap_are_told_of() -> None:
    three, eight = Matrix(("scratch", "masked"), {4: 3}, 500, 800), Matrix(("scratch", "masked"), {4: 8}, 500, 800)
    assert not any("overlap" in line for line in resolves(eight, 160))
    assert not any("overlap" in line for line in resolves(three, 32)), "an eighth"
    _, told = resolves(three, 20)  # sqrt((1 + 2 / 5) / (4 / 5))
    assert told == (
        "4 labels, 3 draws: draws of 4 of 20 training subjects overlap; the intervals are of these subjects, and for other "
        "ones up to 1.3 times too short."
    )


def test_too_little_time_says_how_much_is_needed() -> None:
    with pytest.raises(ConfigError, match="smallest comparison that says anything takes about"):
        choose(60, Times(1.0, 1.0, 20.0), 100)


@pytest.fixture
def quick(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which plans are made without reading or training anything."""
    split = {"salt": "curve:", "test": 10, "validation": 3}
    monkeypatch.setattr(curve_planning, "_sides", lambda *_: (split, "label", 40))
    monkeypatch.setattr(curve_planning, "_time", lambda *_: Times(0.3, 0.3, 20.0))
    for site in ("siteA", "siteB"):
        (empty / site / "images").mkdir(parents=True)
    return empty.resolve()


def planned(folder: Path, budget: float = 7200.0, format: str = "auto", jobs: int = 1, runs: str = "runs") -> Path:
    return curve_planning.plan_curve(folder, format, (), Path(runs), budget, "processes", jobs, Screen())


def test_a_plan_of_other_data_or_another_budget_is_not_taken_for_this_one(quick: Path) -> None:
    file = planned(quick / "siteA" / "images")
    before = file.read_text()
    assert planned(quick / "siteA" / "images") == planned(quick / "siteB" / ".." / "siteA" / "images") == file
    with pytest.raises(ConfigError) as other:
        planned(quick / "siteB" / "images")
    assert f"the data {quick}/siteA/images, not {quick}/siteB/images." in str(other.value)
    assert "where:  runs/images-curve/curve.yaml" in str(other.value)
    assert "(--out), run this plan by its file (medae curve runs/images-curve/curve.yaml), or remove it" in str(other.value)
    with pytest.raises(ConfigError, match=r"something else: the budget 2 h, not 1\.5 h\."):
        planned(quick / "siteA" / "images", budget=5400.0)
    with pytest.raises(ConfigError, match="something else: their format auto, not msd"):
        planned(quick / "siteA" / "images", format="msd")
    assert file.read_text() == before
    assert planned(quick / "siteB" / "images", runs="other") != file
    file.write_text(before.replace("# In 2 h:", "# Mine:"))
    assert planned(quick / "siteA" / "images", budget=5400.0) == file, "it does not say any more what time it is for"


def test_a_job_is_timed_with_the_threads_that_it_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_timing, "usable_cores", lambda: 6)
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for jobs, share in ((1, before), (2, 3), (4, 1), (9, 1)):
        with curve_timing.threads_of_a_job(jobs) as threads:
            assert torch.get_num_threads() == threads == share
        assert torch.get_num_threads() == before
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with curve_timing.threads_of_a_job(2) as threads:
        assert threads == before, "what the environment says is what the jobs get"


@pytest.mark.parametrize(("device", "side"), [("cpu", 4), ("cuda", 1)])
def test_several_processes_give_more_time_on_cpus_alone(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, side: int
) -> None:
    monkeypatch.setattr(curve_planning, "device_of", lambda _: torch.device(device))
    told: list[tuple] = []
    least = Matrix(("scratch", "masked"), {1: 3}, 200, 300)
    monkeypatch.setattr(curve_planning, "choose", lambda *given: told.append(given) or least)
    text = planned(quick / "siteA" / "images", jobs=4).read_text()
    assert told == [(7200.0, Times(0.3, 0.3, 20.0), 40, side)]
    assert f"about {least.seconds(told[0][1]) / side / 3600:.1f} h" in text.split("\n", 1)[0]
    assert ("4 processes share one GPU" in capsys.readouterr().err) == (device == "cuda")


def test_a_budget_is_not_planned_for_machines_that_slurm_will_give(quick: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)timed on this machine.*--budget with --jobs 1.*--executor slurm"):
        program.run("siteA", [], Path("runs"), budget="2h", executor="slurm")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_strangers_folder_is_planned_timed_and_run(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = validate(PhantomSource, {"root": empty / "phantoms", "subjects": 12, "spacing": 8.0})
    for number, case in enumerate(source.manifest().cases):
        for kind, ref in (("imagesTr", next(iter(case.images.values()))), ("labelsTr", case.targets["lesion"])):
            end = "_0000" if kind == "imagesTr" else ""
            target = empty / "stranger" / kind / f"case_{number:03d}{end}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(empty / "phantoms" / ref.files[0], target)
    described = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (empty / "stranger" / "dataset.json").write_text(json.dumps(described))
    least = Matrix(("scratch", "masked"), {2: 2}, steps=2, pretrain_steps=2)
    kept: list[str] = []

    def chosen(*_: object) -> Matrix:
        kept.extend(run.info.run_id for run in open_client().search_runs(experiments()))
        return least

    def experiments() -> list[str]:
        return [experiment.experiment_id for experiment in open_client().search_experiments()]

    monkeypatch.setattr(curve_planning, "choose", chosen)
    small = ["{}.set.plan.widths=[4, 8]", "{}.set.plan.patch=[16, 16, 16]", "{}.set.fit.epoch_steps=1"]
    overrides = [key.format(kind) for kind in ("pretrain", "finetune") for key in small]
    with pytest.raises(ConfigError, match="--budget 2h"):
        program.run("stranger", [], empty / "runs")
    capsys.readouterr()
    found = program.run("stranger", overrides, empty / "runs", budget="1h")
    said = capsys.readouterr().err.splitlines()
    assert not any("of the encoder's parameters moved" in line for line in said), "nothing but loaded tensors"
    trained = [line.split()[0] for line in said if "  step " in line]
    assert [name.startswith("timing-") for name in trained] == sorted(
        (n.startswith("timing-") for n in trained), reverse=True
    )
    assert {name.split("-")[1] for name in trained if name.startswith("timing-")} == {"encoder", "draw"}
    assert {arm for arm, _ in found.points} == {"scratch", "masked"}
    assert kept == [], "trainings that were only timed leave no run"
    assert len(open_client().search_runs(experiments(), run_view_type=ViewType.DELETED_ONLY)) == 2
    assert all(point.complete for point in found.points.values())
    text = (empty / "runs" / "stranger-curve" / "curve.yaml").read_text()
    assert text.startswith("# In 1 h: scratch, masked; 2 draws of 2 labels; 2 steps each") and "missed half the time" in text
    before = (empty / "runs" / "stranger-curve" / "results.jsonl").read_text()
    with pytest.raises(ConfigError, match="--set would not change it"):
        program.run("stranger", overrides, empty / "runs", budget="1h")
    program.run("stranger", [], empty / "runs", budget="1h")
    assert (empty / "runs" / "stranger-curve" / "results.jsonl").read_text() == before, "planned and measured once"
