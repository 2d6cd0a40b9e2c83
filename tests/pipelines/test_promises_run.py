"""What running promises: nothing is done twice, nothing is lost when the store fails, a parent ends as its stages did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock

from medae.config import validate
from medae.errors import TrackingError, TrainingError
from medae.report.html import Report
from medae.tracking.client import open_client
from pipelines import finetune, outcome, pretrain
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import Opened, open_dataset
from pipelines.outcome import Finished, Outcome
from pipelines.parent import Named, Parent
from pipelines.run import run
from pipelines.stage import _fingerprint, program_of, run_stage

DATA = {"format": "phantom", "root": "runs/smoke-phantoms", "subjects": 10, "lesions": 0.5, "spacing": 6.0}
PLAN = {"spatial_dims": 3, "stem": "space_to_depth", "widths": [4, 8], "patch": [24, 24, 24], "batch": 2}
FIT = {"steps": 2, "epoch_steps": 1, "schedule": {"kind": "constant", "warmup": 0}}
EXPERIMENT = "promises"


def small(kind: str, *overrides: str):
    shared = [f"data={json.dumps(DATA)}", f"plan={json.dumps(PLAN)}", f"fit={json.dumps(FIT)}", f"experiment={EXPERIMENT}"]
    overrides = (*shared, "split.test=2", "split.validation=2", *overrides)
    return validate(program_of(kind).Config, read_config("phantoms", kind, overrides))


def without_figures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finetune, "make_report", lambda *_, **__: Report("Fine-tuning", ""))
    patch.setattr(pretrain, "describe_training", lambda *_, **__: None)


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    """The smoke run's working folder: its phantoms, its cache and its store are used again."""
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    without_figures(monkeypatch)
    return smoke.folder


@pytest.fixture(scope="module")
def done(smoke, tmp_path_factory) -> Iterator[Finished]:
    """A finished pretraining."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        without_figures(patch)
        yield run_stage("pretrain", small("pretrain", "name=done"), tmp_path_factory.mktemp("done"), Screen())


def never(*_, **__):
    raise AssertionError("a stage ran that had nothing to do")


# --- when a run stands for another ---


@pytest.mark.parametrize("override", ["fit.workers=2", "device=cpu", "experiment=elsewhere"])
def test_what_changes_the_speed_or_the_place_only_is_not_run_again(work, done, monkeypatch, override):
    monkeypatch.setattr(pretrain, "run", never)
    again = run_stage("pretrain", small("pretrain", "name=done", override), done.folder.parent, Screen())
    assert again.skipped
    assert again.result.run_id == done.result.run_id


@pytest.mark.parametrize("override", ["fit.steps=3", "fit.seed=1", "fit.rate=0.1", "split.salt='x:'", "max_cases=9"])
def test_what_changes_the_outcome_is_another_run(work, done, monkeypatch, override):
    found = []

    def stop(_, stage):
        found.append(stage)
        raise RuntimeError("stopped by the test")

    monkeypatch.setattr(pretrain, "run", stop)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_stage("pretrain", small("pretrain", "name=done", override), done.folder.parent, Screen())
    assert found[0].fingerprint != done.result.fingerprint
    assert found[0].folder != done.folder, "the finished run is not touched"
    assert found[0].tracker.run_id != done.result.run_id


def test_a_run_that_another_process_is_at_work_on_is_left_alone(work, done, monkeypatch):
    monkeypatch.setattr(pretrain, "run", never)
    client = open_client()
    (experiment,) = [found.experiment_id for found in client.search_experiments() if found.name == EXPERIMENT]
    before = len(client.search_runs([experiment], max_results=1000))
    files = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    config = small("pretrain", "name=done")
    with FileLock(done.folder.parent / f".{done.folder.name}.lock"):
        for options in ({}, {"resume": True}, {"force": True}):
            with pytest.raises(TrainingError, match="Another process is at work") as caught:
                run_stage("pretrain", config, done.folder.parent, Screen(), **options)
            assert "Wait for it" in caught.value.remedy
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == files, "--force moves nothing away either"
    assert len(client.search_runs([experiment], max_results=1000)) == before
    assert run_stage("pretrain", config, done.folder.parent, Screen()).skipped, "the lock is free again"


# --- a store that cannot take the model ---


def test_a_model_that_was_not_registered_is_registered_by_the_next_run(smoke, work, tmp_path, monkeypatch, capsys):
    config = small("finetune", f"encoder={smoke.stage('pretrain') / 'model'}", "name=later")
    register, refusals = outcome.log_pyfunc, []

    def refuse_once(folder, **options):
        if not refusals:
            refusals.append(folder)
            raise TrackingError("The store is away.")
        return register(folder, **options)

    monkeypatch.setattr(outcome, "log_pyfunc", refuse_once)
    first = run_stage("finetune", config, tmp_path, Screen())
    told = capsys.readouterr().err
    assert "not registered: The store is away." in told
    assert all(f"Training the arm {arm}, {place} of 2." in told for place, arm in enumerate(("pretrained", "scratch"), 1))
    assert first.result.registered == {"pretrained": None, "scratch": "models:/medae-later-finetune-scratch/1"}
    client = open_client()
    assert client.get_run(first.result.run_id).info.status == "FINISHED", "the stage itself did not fail"

    monkeypatch.setattr(finetune, "run", never)
    second = run_stage("finetune", config, tmp_path, Screen())
    assert second.skipped
    assert second.result.registered == {
        "pretrained": "models:/medae-later-finetune-pretrained/1",
        "scratch": "models:/medae-later-finetune-scratch/1",
    }, "and what was registered is not registered again"
    assert second.result.metrics == first.result.metrics
    version = client.get_model_version("medae-later-finetune-pretrained", "1")
    assert version.run_id == first.result.run_id
    assert client.get_run(first.result.run_id).info.status == "FINISHED"
    stored = client.download_artifacts(first.result.run_id, "result.json", str(tmp_path))
    for file in (Path(stored), first.folder / "result.json"):
        assert json.loads(file.read_text())["registered"] == second.result.registered

    monkeypatch.setattr(outcome, "log_pyfunc", never)
    assert run_stage("finetune", config, tmp_path, Screen()).result == second.result


# --- pipelines ---


@pytest.fixture
def chain(work, tmp_path) -> str:
    """A pipeline of a pretraining and a fine-tuning."""
    shared = {"data": DATA, "plan": PLAN, "fit": FIT, "split": {"test": 2, "validation": 2}}
    stages = {
        "pretrain": {"stage": "pretrain", "config": "pretrain/phantoms", "validation_batches": 0},
        "finetune": {
            "stage": "finetune",
            "config": "finetune/phantoms",
            "encoder": "stage:pretrain",
            "scratch": False,
        },
    }
    file = tmp_path / "chain.yaml"
    file.write_text(
        yaml.safe_dump({"name": "chain", "experiment": EXPERIMENT, "shared": shared, "stages": stages}, sort_keys=False)
    )
    return str(file)


class Runs:
    """The runs of one pipeline in MLflow, and what its folder says of the parent."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "pipeline.json"
        self.client = open_client()

    @property
    def parent(self) -> str:
        return json.loads(self.record.read_text())["run_id"]

    def status(self) -> tuple[str, str]:
        """Of the parent: in MLflow, and in the folder."""
        return self.client.get_run(self.parent).info.status, json.loads(self.record.read_text())["status"]

    def children(self) -> dict[str, tuple[str, str]]:
        """Run id and status by stage. A stage that had two runs would be an error of the test's subject."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT).experiment_id
        found = self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{self.parent}'")
        children = {run.data.tags["medae.stage"]: (run.info.run_id, run.info.status) for run in found}
        assert len(children) == len(found)
        return children


def fail(*_, **__):
    raise TrainingError("The loss is not a number.")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_pipeline_that_failed_goes_on_in_the_same_parent(chain, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    state = Runs(runs / "chain")
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "run", fail)
        with pytest.raises(TrainingError, match="not a number"):
            run(chain, [], runs)
    parent, first = state.parent, state.children()
    assert state.status() == ("FAILED", "FAILED")
    assert {stage: status for stage, (_, status) in first.items()} == {"pretrain": "FINISHED", "finetune": "FAILED"}
    assert not (runs / "chain" / "result.json").exists()

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "run", never)
        patch.setattr(finetune, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(chain, [], runs)
    assert (state.parent, state.status()) == (parent, ("KILLED", "KILLED"))
    assert state.children()["finetune"] == (first["finetune"][0], "KILLED"), "the failed stage went on in its own run"

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "run", never)
        finished = run(chain, [], runs)
    assert {label: stage.skipped for label, stage in finished.items()} == {"pretrain": True, "finetune": False}
    assert (state.parent, state.status()) == (parent, ("FINISHED", "FINISHED"))
    assert state.children() == {stage: (run_id, "FINISHED") for stage, (run_id, _) in first.items()}
    result = json.loads((runs / "chain" / "result.json").read_text())
    assert result["parent_run_id"] == parent
    assert set(result["metrics"]) == {"pretrain", "finetune"}

    # killed after the last stage had ended and before the parent had
    state.client.update_run(parent, status="RUNNING")
    state.record.write_text(json.dumps({"run_id": parent, "status": "RUNNING"}))
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "run", never)
        patch.setattr(finetune, "run", never)
        assert all(stage.skipped for stage in run(chain, [], runs).values())
        assert (state.parent, state.status()) == (parent, ("FINISHED", "FINISHED"))
        assert state.children() == {stage: (run_id, "FINISHED") for stage, (run_id, _) in first.items()}

        ended = state.client.get_run(parent).info.end_time
        assert all(stage.skipped for stage in run(chain, [], runs).values())
        assert state.client.get_run(parent).info.end_time == ended, "a parent that has ended is not opened again"


def test_new_work_after_a_finished_pipeline_has_a_parent_of_its_own(work, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "run", lambda *_: Outcome(Report("Pretraining", "")))
    stage = {"stage": "pretrain", "config": "pretrain/phantoms", "data": DATA, "plan": PLAN, "fit": FIT}
    stage |= {"split": {"test": 2, "validation": 2}}
    file = tmp_path / "single.yaml"
    file.write_text(yaml.safe_dump({"name": "single", "experiment": EXPERIMENT, "stages": {"pretrain": stage}}))
    runs = tmp_path / "runs"
    state = Runs(runs / "single")
    run(str(file), [], runs)
    first, children = state.parent, state.children()
    ended = state.client.get_run(first).info.end_time

    run(str(file), ["pretrain.fit.steps=3"], runs)
    assert state.parent != first
    assert state.status() == ("FINISHED", "FINISHED")
    assert state.children()["pretrain"][0] != children["pretrain"][0]
    assert state.client.get_run(first).info.end_time == ended


def test_a_pipeline_refuses_to_go_on_when_it_is_told_so(chain, tmp_path, monkeypatch):
    """``--no-resume``: a stage that was killed in its training is named and left as it is."""
    runs = tmp_path / "runs"

    def killed(_, stage):
        (stage.folder / "checkpoints").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        run(chain, [], runs)
    state = Runs(runs / "chain")
    monkeypatch.setattr(pretrain, "run", never)
    with pytest.raises(TrainingError, match="--resume"):
        run(chain, [], runs, resume=False)
    assert state.status() == ("KILLED", "KILLED")


def test_how_the_data_is_read_and_split_counts_where_it_lies_does_not(work, tmp_path):
    def fingerprint(*overrides: str) -> str:
        config = small("pretrain", *overrides)
        return _fingerprint("pretrain", config, open_dataset(config, Screen()), {})

    base = fingerprint()
    assert fingerprint("data.modality=CT") != base
    assert fingerprint("split.salt=another") != base
    shutil.copytree(work / "runs" / "smoke-phantoms", tmp_path / "elsewhere")
    assert fingerprint(f"data.root={tmp_path / 'elsewhere'}") == base


def test_a_corrected_age_of_a_test_subject_is_another_detection(work):
    """The groups of a report come from it; a training does not read it."""
    config = small("detect")
    dataset = open_dataset(config, Screen())
    older = {case.id: case.model_copy(update={"covariates": {"age": 99.0}}) for case in dataset.manifest.cases}

    def fingerprint(kind: str, ids: tuple[str, ...]) -> str:
        cases = tuple(older[case.id] if case.id in ids else case for case in dataset.manifest.cases)
        return _fingerprint(
            kind, config, replace(dataset, manifest=dataset.manifest.model_copy(update={"cases": cases})), {}
        )

    tested = tuple(case.id for case in dataset.subset(dataset.split.test).cases)
    trained = tuple(case.id for case in dataset.subset(dataset.split.train).cases)
    assert fingerprint("detect", tested) != fingerprint("detect", ()) == fingerprint("detect", trained)
    assert fingerprint("pretrain", tested) == fingerprint("pretrain", ())


def test_how_many_processes_read_headers_and_where_the_manifest_lies_do_not_count():
    """The digests cover the contents."""
    dataset = SimpleNamespace(digest="d", split=SimpleNamespace(train=("a",), validation=("b",), test=()))

    def fingerprint(**data):
        source = validate(Opened, {"data": data}, where="data").data
        return _fingerprint("pretrain", small("pretrain").model_copy(update={"data": source}), dataset, {})

    two, four = (fingerprint(format="dicom", root="clinic", workers=count) for count in (2, 4))
    assert two == four
    assert fingerprint(format="dicom", root="clinic", tilt="refuse") != two
    here, there = (fingerprint(format="manifest", root="clinic", file=folder + "/manifest.json") for folder in ("a", "b"))
    assert here == there


def test_a_finished_run_without_its_model_is_not_skipped(work, tmp_path, monkeypatch, capsys):
    without_figures(monkeypatch)
    done = run_stage("pretrain", small("pretrain"), tmp_path, Screen())
    shutil.rmtree(done.model)
    with pytest.raises(TrainingError, match="--resume"):
        run_stage("pretrain", small("pretrain"), tmp_path, Screen())
    assert "has lost model" in capsys.readouterr().err
    again = run_stage("pretrain", small("pretrain"), tmp_path, Screen(), resume=True)
    assert again.model == done.model
    assert again.model.is_dir()


def test_folds_and_a_pipeline_of_one_name_do_not_take_up_each_others_run(work, tmp_path):
    named = Named(name="shared", experiment=EXPERIMENT)

    def killed(kind: str) -> str:
        parent = Parent(named, tmp_path, kind, Screen())
        run_id = parent.open()
        parent.end("KILLED")
        return run_id

    pipeline, folds = killed("pipeline"), killed("folds")
    assert pipeline != folds
    assert (killed("pipeline"), killed("folds")) == (pipeline, folds), "each goes on in its own"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pipeline.json").write_text(json.dumps({"run_id": folds, "status": "KILLED"}))
    with Parent(named, tmp_path / "old", "folds", Screen()) as parent:
        assert parent.open() == folds, "a record of before there were kinds"
    assert Parent(named, tmp_path / "old", "folds", Screen()).run_id == folds


def test_a_parent_whose_run_the_store_has_lost_begins_anew(work, tmp_path, monkeypatch, capsys):
    """Another store, or one that was removed: neither keeps the stages, which have runs of their own, from going on."""
    named = Named(name="moved", experiment=EXPERIMENT)
    parent = Parent(named, tmp_path / "runs", "pipeline", Screen())
    first = parent.open()
    parent.end("FAILED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with Parent(named, tmp_path / "runs", "pipeline", Screen()) as again:
        second = again.open()
    assert second != first and "A new one is begun" in capsys.readouterr().err
    assert Parent(named, tmp_path / "runs", "pipeline", Screen()).run_id == second


def test_a_model_that_was_not_to_be_registered_may_be_later(work, tmp_path, monkeypatch):
    without_figures(monkeypatch)
    first = run_stage("pretrain", small("pretrain", "registered=false", "name=later-on"), tmp_path, Screen())
    assert first.result.registered == {"autoencoder": "not wanted"}
    kept = run_stage("pretrain", small("pretrain", "registered=false", "name=later-on"), tmp_path, Screen())
    assert kept.skipped and kept.result.registered == first.result.registered
    second = run_stage("pretrain", small("pretrain", "name=later-on"), tmp_path, Screen())
    assert second.skipped and second.result.registered == {"autoencoder": "models:/medae-later-on-pretrain/1"}
    assert json.loads((second.folder / "result.json").read_text())["registered"] == second.result.registered
