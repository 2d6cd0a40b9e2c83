"""Curves that are run, on phantoms."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from curves import SHORT, TOO_HIGH, content, curve, drawn

from medae.errors import ConfigError, DataError, TrackingError, TrainingError
from medae.tracking.client import open_client
from medae.training.precision import resolve_precision
from pipelines import curve as program
from pipelines import curve_work
from pipelines.console import Screen
from pipelines.curve_cells import Cell, Design, Part, part_of, read_rows
from pipelines.curve_checks import check
from pipelines.curve_config import Written
from pipelines.curve_work import Worker, unpaused


def test_seconds_in_which_a_training_was_stopped_do_not_count() -> None:
    epochs = [60.0, 10.0, 11.0, 1000.0, 9.0, 30.0]  # reads the scans, three as usual, stopped in one, slowed in another
    state = {"seconds": 1125.0, "history": [{"step": 50, "seconds": seconds} for seconds in epochs]}
    assert unpaused(state) == 1125.0 - 1000.0 + 11.0
    assert unpaused({"seconds": 7.0, "history": []}) == 7.0
    few = {"seconds": 1070.0, "history": [{"step": 50, "seconds": seconds} for seconds in (60.0, 10.0, 1000.0)]}
    assert unpaused(few) == 80.0, "of two epochs the shorter is as usual"


@pytest.mark.slow
def test_a_curve_runs_goes_on_and_sees_no_test_subject_while_it_chooses(empty: Path) -> None:
    arms = {"scratch": {"rate": 1e-3}, "masked": {"encoder": "masked"}}
    (empty / "curve.yaml").write_text(json.dumps(content(labelled=[2], draws=1, arms=arms, shared_rates=True)))
    run = {"name": str(empty / "curve.yaml"), "overrides": [], "runs": empty / "runs"}
    found = program.run(**run, arms=["masked"])
    assert [(arm, count) for arm, count in found.points] == [("masked", 2)]
    rows = list(read_rows(empty / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows] == [
        ("encoder", "masked"),
        ("rate", "masked"),
        ("rate", "masked"),
        ("draw", "masked"),
    ]
    here = str(resolve_precision("auto", torch.device("cpu"))).removeprefix("torch.")  # bfloat16 where the processor has it
    assert all(row["training_seconds"] > 0 and row["threads"] > 0 and row["precision"] == here for row in rows)
    last = rows[-1]
    assert len(last["cases"]) == last["n_test"] == 3 and len(last["validation"]["cases"]) == 2
    assert last["labelled_subjects"] == 2
    assert not last["cases"].keys() & last["validation"]["cases"].keys()
    assert last["dice_mean"] == pytest.approx(sum(last["cases"].values()) / 3, abs=1e-4)
    for metric in ("hd95", "surface_dice"):
        by_case = last[f"{metric}_cases"]
        assert by_case.keys() == last["cases"].keys()
        assert last[f"{metric}_mean"] == pytest.approx(sum(by_case.values()) / 3, abs=1e-4)
    for row in rows[1:3]:
        (result,) = (empty / "runs" / "tiny").glob(f"rate-masked-2-{row['digest']}/*/result.json")
        seen = json.loads(result.read_text())["metrics"]["pretrained"]["cases"]
        assert seen.keys() == last["validation"]["cases"].keys(), "a search is scored on the validation subjects alone"
    plans = {path.read_text() for path in (empty / "runs" / "tiny").glob("rate-*/*/plan.yaml")}
    assert len(plans) == 1, "one plan for all"
    assert {row["data"] for row in rows[1:]} == {rows[1]["data"]} and all(row["source"] for row in rows)
    (model,) = (empty / "runs" / "tiny").glob("encoder-masked-*/*/model/medae.json")
    trained_on = json.loads(model.read_text())["meta"]["provenance"]["data"]
    assert len(rows[0]["data"]) == 12 and trained_on.startswith(rows[0]["data"])
    assert (empty / "runs" / "tiny" / "report.html").is_file() and (empty / "runs" / "tiny" / "table.md").is_file()

    before = (empty / "runs" / "tiny" / "results.jsonl").read_text()
    program.run(**run, arms=["masked"])
    assert (empty / "runs" / "tiny" / "results.jsonl").read_text() == before, "what is there is not run again"
    (encoder,) = (empty / "runs" / "tiny").glob("encoder-masked-*")
    shutil.rmtree(encoder)
    program.run(**run, arms=["masked"])
    assert not encoder.exists(), "nothing waits for it"
    changed = {**content(labelled=[2], draws=2, arms=arms, shared_rates=True)}
    (empty / "curve.yaml").write_text(json.dumps(changed))
    program.run(**run, arms=["masked"])
    again = (empty / "runs" / "tiny" / "results.jsonl").read_text().removeprefix(before).splitlines()
    assert encoder.exists() and [json.loads(line)["kind"] for line in again] == ["draw"], "its time is the first one's"
    (empty / "curve.yaml").write_text(json.dumps(content(labelled=[2], draws=1, arms=arms, shared_rates=True)))
    program.run(**run, jobs=2)
    rows = list(read_rows(empty / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"]) for row in rows[5:]] == [("draw", "scratch")]


def test_a_cell_that_fails_is_told_at_the_end_and_the_others_are_run(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")  # as on Windows
    arms = {"scratch": {}, "broken": {"rate": TOO_HIGH}}
    search = {"rates": [1e-3, TOO_HIGH], "bounds": [1e-3, TOO_HIGH], "labelled": [2]}
    made = content(labelled=[2], draws=1, arms=arms, encoders={}, pretrain=None, search=search)
    (empty / "curve.yaml").write_text(json.dumps(made))
    with pytest.raises(TrainingError, match=r"1 cells failed, the others were run:\n.*draw-broken-2-0"):
        program.run(str(empty / "curve.yaml"), [], empty / "runs")
    rows = list(read_rows(empty / "runs" / "tiny" / "results.jsonl").values())
    assert [(row["kind"], row["arm"], row["rate"]) for row in rows] == [
        ("rate", "scratch", 1e-3),
        ("rate", "scratch", TOO_HIGH),
        ("draw", "scratch", 1e-3),
    ], "a rate at which training diverges has been tried"
    assert rows[1]["dice_mean"] == 0 and "diverged" in rows[1]["diverged"]
    assert rows[0]["data"] == rows[1]["data"], "so that it counts for these scans alone"
    assert all(row["load"] is None for row in rows)
    parent = json.loads((empty / "runs" / "tiny" / "curve.json").read_text())
    assert parent["status"] == "FAILED" and open_client().get_run(parent["run_id"]).info.status == "FAILED"
    assert (empty / "runs" / "tiny" / "report.html").is_file()


def test_a_row_that_was_lost_is_that_of_the_run_or_the_cell_is_run_again(empty: Path) -> None:
    arms = {"scratch": {"rate": 1e-3}}
    (empty / "curve.yaml").write_text(json.dumps(content(labelled=[2], draws=1, arms=arms, encoders={}, pretrain=None)))
    folder, results = empty / "runs" / "tiny", empty / "elsewhere.jsonl"

    def run(**keys: Path) -> None:
        program.run(str(empty / "curve.yaml"), [], empty / "runs", **keys)

    run()
    (ended,) = folder.glob("draw-scratch-*/finetune-*/run.json")
    before, first = ended.stat().st_mtime_ns, (folder / "results.jsonl").read_text()
    run(results=results)
    assert results.read_text() == first and ended.stat().st_mtime_ns == before, "nothing was trained"

    (ended.parent / "row.json").unlink()
    results.unlink()
    run(results=results)
    (again,) = read_rows(results).values()
    assert again["steps_done"] == again["steps"] == 2
    assert ended.stat().st_mtime_ns > before and again["dice_mean"] == json.loads(first)["dice_mean"]
    assert len(list(folder.glob("draw-scratch-*-old1/finetune-*/run.json"))) == 1, "nothing is thrown away"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"scratch": {"set": {"network": {"decoder": {"skips": ["concat"] * 5}}}}}}, "5 entries"),
        ({"labelled": [1, 5]}, "5 labelled subjects are asked for; 4 of these"),
        (
            {"pretrain": {"config": "phantoms", "set": {**SHORT, "plan": {"widths": [4, 4], "batch": 2}}}},
            "another plan than",
        ),
    ],
)
def test_what_cannot_be_trained_or_compared_is_refused_before_anything_is_trained(
    empty: Path, changes: dict, message: str
) -> None:
    search = {"rates": [1e-3, 2e-3], "bounds": [1e-3, 2e-3], "labelled": [1]}
    written = curve(empty, **{"search": search, **changes})
    with pytest.raises(ConfigError, match=message):
        check(Worker(written, empty / "work", empty / "rows.jsonl", Screen()))


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_side_on_which_no_dice_is_defined_is_refused(empty: Path, side: str) -> None:
    worker = Worker(curve(empty), empty / "work", empty / "rows.jsonl", Screen())
    dataset = worker.open("finetune", worker.written.finetune)
    for case in dataset.subset(getattr(dataset.split, side)).cases:
        file = Path(dataset.manifest.root) / case.targets[worker.written.finetune["target"]].files[0]
        scan = nib.load(file)
        nib.save(nib.Nifti1Image(np.zeros(scan.shape, dtype="uint8"), scan.affine), file)
    with pytest.raises(DataError, match=f"all [23] {side} cases hold nothing but background"):
        check(worker)


def test_rows_of_other_data_are_not_mixed_in(empty: Path) -> None:
    worker = Worker(curve(empty), empty / "work", empty / "rows.jsonl", Screen())
    old = {"digest": "a", "kind": "draw"}
    worker.results.write_text(json.dumps(old) + "\n")
    digest = check(worker).digest
    worker.results.write_text(json.dumps(old | {"data": digest[:12]}) + "\n")
    check(worker)
    worker.results.write_text(json.dumps(old | {"data": "b"}) + "\n")
    with pytest.raises(DataError, match="1 rows are of another state of the data"):
        check(worker)


def test_an_encoder_of_other_scans_is_refused(empty: Path) -> None:
    written = curve(empty)
    worker = Worker(written, empty / "work", empty / "rows.jsonl", Screen())
    row = {"digest": Design(written, {}).encoder("masked").digest, "kind": "encoder", "arm": "masked"}
    worker.results.write_text(json.dumps(row) + "\n")
    check(worker)
    worker.results.write_text(json.dumps(row | {"data": worker.data["pretrain"]}) + "\n")
    check(worker)
    worker.results.write_text(json.dumps(row | {"data": "b"}) + "\n")
    with pytest.raises(DataError, match="has changed since these encoders were trained: masked") as refusal:
        check(worker)
    assert "those of the arms that start from them" in str(refusal.value.remedy)
    worker.results.write_text(json.dumps(row | {"data": "b", "digest": "of another encoder"}) + "\n")
    check(worker)


def a_pretraining(folder: Path, seconds: int, data: str | None, finished: bool = True) -> Path:
    """What a pretraining leaves in its folder: when it ended, and which data it says it was trained on."""
    (folder / "model").mkdir(parents=True)
    provenance = {} if data is None else {"data": data * 64}
    (folder / "model" / "medae.json").write_text(json.dumps({"meta": {"provenance": provenance}}))
    (folder / "run.json").write_text(json.dumps({"finished": finished}))
    os.utime(folder / "run.json", (seconds, seconds))
    return folder / "model"


def test_of_several_pretrainings_the_newest_that_is_whole_and_of_these_scans_is_taken(empty: Path) -> None:
    written = curve(empty)
    cell = Design(written, {}).encoder("masked")
    folder = empty / "work" / cell.label

    def taken(**data: str) -> Path | None:
        return Worker(written, empty / "work", empty / "rows.jsonl", Screen(), data=data)._model(cell)

    assert taken() is None
    oldest = a_pretraining(folder / "c", 1000, None)
    newer = a_pretraining(folder / "a", 3000, "a")
    a_pretraining(folder / "b", 2000, "b")
    a_pretraining(folder / "d", 9000, "a", finished=False)
    assert taken() == newer
    assert taken(pretrain="b" * 12) == folder / "b" / "model", "the newest is of other scans"
    assert taken(pretrain="c" * 12) == oldest, "which does not say"
    shutil.rmtree(newer)
    assert taken() == folder / "b" / "model", "a run without its model is none"


def test_a_plan_is_made_anew_when_scans_have_changed(empty: Path) -> None:
    written = curve(empty)
    cell = Design(written, {}).drawn("scratch", 1, 0, 1e-3)

    def plan() -> Path:
        return Worker(written, empty / "work", empty / "rows.jsonl", Screen()).plan(cell)

    first = plan()
    assert plan() == first and list(first.parent.iterdir()) == [first]
    image = next((empty / "phantoms").rglob("*T1w.nii.gz"))
    scan = nib.load(image)
    nib.save(nib.Nifti1Image(2 * scan.get_fdata(dtype="float32"), scan.affine), image)
    assert plan() != first


def test_a_cell_that_another_process_is_at_is_left_to_it(empty: Path) -> None:
    written = curve(empty)
    one, other = (Worker(written, empty / "work", empty / "rows.jsonl", Screen()) for _ in range(2))
    cell = Design(written, {}).drawn("scratch", 1, 0, 1e-3)
    with one._claim(cell) as mine, other._claim(cell) as theirs:
        assert mine and not theirs
    with other._claim(cell) as free:
        assert free


def test_arms_that_share_a_search_share_its_lock(empty: Path) -> None:
    written = curve(empty, arms={"scratch": {}, "twin": {}, "masked": {"encoder": "masked"}})
    one, other = (Worker(written, empty / "work", empty / "rows.jsonl", Screen()) for _ in range(2))
    cells = Design(written, {})
    own, same, another = (cells.searched(name, 2, 1e-3) for name in ("scratch", "twin", "masked"))
    assert own.label != same.label
    with one._claim(own), other._claim(same) as shared, other._claim(another) as free:
        assert free and not shared


BROKE = TrainingError("It broke.", remedy="Mend it.")


class Pretended(Worker):
    """A worker that trains nothing. tried: the cells that it ran. broken: digests of those that fail, with ``fault``."""

    def __init__(self, written: Written, folder: Path, broken: tuple[str, ...] = (), fault: Exception = BROKE) -> None:
        super().__init__(written, folder, folder / "rows.jsonl", Screen())
        self.tried: list[Cell] = []
        self.broken = broken
        self.fault = fault

    def _run(self, cell: Cell) -> None:
        self.tried.append(cell)
        if cell.digest in self.broken:
            raise self.fault
        self.add(drawn(cell, {"a": 0.5}))


def test_a_worker_goes_on_when_another_was_faster(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell is finished by another process after it was listed and before it is claimed."""
    written = curve(empty, arms={"scratch": {"rate": 1e-3}}, encoders={}, pretrain=None, labelled=[2], draws=2)
    worker, other = (Pretended(written, empty / "work") for _ in range(2))
    first, second = worker.left(part_of(written))
    listed = worker.left

    def left_and_overtaken(part: Part) -> list[Cell]:
        cells = listed(part)
        if cells == [first, second]:
            other._run(first)
            return [first]  # as if the second could not be named before the first was there
        return cells

    monkeypatch.setattr(worker, "left", left_and_overtaken)
    assert worker.measure(part_of(written)) == {}
    assert worker.tried == [second] and listed(part_of(written)) == []


def test_a_cell_that_failed_is_tried_by_one_process_and_told_by_all_of_them_alike(empty: Path) -> None:
    written = curve(empty, arms={"scratch": {"rate": 1e-3}}, encoders={}, pretrain=None, labelled=[2], draws=2)
    part = part_of(written)
    broken, other = Worker(written, empty / "work", empty / "rows.jsonl", Screen()).left(part)
    workers = [Pretended(written, empty / "work", (broken.digest,)) for _ in range(3)]
    told = [worker.measure(part) for worker in workers]
    assert [worker.tried for worker in workers] == [[broken, other], [], []]
    assert told == [{broken.label: "It broke.\n  remedy: Mend it."}] * 3
    again = Pretended(written, empty / "work")
    again.forget_failures()
    assert again.measure(part) == {} and again.tried == [broken]


def two_draws(folder: Path) -> Written:
    return curve(folder, arms={"scratch": {"rate": 1e-3}}, encoders={}, pretrain=None, labelled=[2], draws=2)


def test_a_fault_that_nobody_foresaw_is_one_cells(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = two_draws(empty)
    part = part_of(written)
    broken, other = Worker(written, empty / "work", empty / "rows.jsonl", Screen()).left(part)
    worker = Pretended(written, empty / "work", (broken.digest,), IndexError("list index out of range"))
    told = worker.measure(part)
    assert worker.tried == [broken, other]
    assert told == {broken.label: "This is a fault of medae, not of yours: IndexError: list index out of range"}
    assert "Traceback" in capsys.readouterr().err


def test_a_process_without_its_gpu_leaves_the_other_cells_to_others(empty: Path) -> None:
    written = two_draws(empty)
    part = part_of(written)
    broken, other = Worker(written, empty / "work", empty / "rows.jsonl", Screen()).left(part)
    fault = RuntimeError("CUDA error: device-side assert triggered")
    worker = Pretended(written, empty / "work", (broken.digest, other.digest), fault)
    with pytest.raises(RuntimeError, match="device-side"):
        worker.measure(part)
    again = Pretended(written, empty / "work")
    assert list(again.measure(part)) == [broken.label] and again.tried == [other]


class Untracked(Pretended):
    """A worker whose MLflow server is away for the first so many tries of a cell."""

    away = 3

    def _run(self, cell: Cell) -> None:
        self.away -= 1
        if self.away >= 0:
            raise TrackingError("The tracking server does not answer.")
        super()._run(cell)


def test_a_cell_waits_for_the_tracking_server(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curve_work, "PATIENCE", 0.01)
    written = two_draws(empty)
    worker = Untracked(written, empty / "work")
    assert worker.measure(part_of(written)) == {} and len(worker.tried) == 2
    assert capsys.readouterr().err.count("waits for MLflow, 10 min") == 1


def test_a_tracking_server_that_stays_away_ends_the_worker_and_fails_no_cell(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_work, "PATIENCE", 0.01)
    monkeypatch.setattr(curve_work, "AWAY", 0.1)
    written = two_draws(empty)
    worker = Untracked(written, empty / "work")
    worker.away = 1000
    with pytest.raises(TrackingError, match="does not answer"):
        worker.measure(part_of(written))
    again = Pretended(written, empty / "work")
    assert again.measure(part_of(written)) == {} and len(again.tried) == 2
