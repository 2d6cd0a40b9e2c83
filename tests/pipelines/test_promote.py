"""An alias moves to a model that is no worse on the same test cases, and to no other unless it is said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medae.errors import ConfigError, DataError, TrackingError
from medae.tracking.client import open_client
from medae.tracking.mlflow import MlflowTracker
from pipelines import promote

SCORES = (0.80, 0.85, 0.90, 0.70, 0.75, 0.60)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def here(store: Path, monkeypatch) -> None:
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")


def trained(
    folder: Path,
    name: str,
    scores=SCORES,
    *,
    cases: str = "digest",
    stage: str = "finetune",
    arm: str = "a",
    labels: tuple[str, ...] = (),
) -> str:
    """A run as a stage leaves it, with a registered model."""
    tracker = MlflowTracker.start("project", stage, folder=folder / f"run{len(list(folder.iterdir()))}", system_seconds=None)
    tracker.dataset("msd-testing", cases, "testing", {})
    client, run_id = open_client(), tracker.run_id
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, str(folder), run_id=run_id).version
    if stage == "finetune":
        values = {
            f"c{place}": {"one": {"dice": score + 0.1}, "two": {"dice": score - 0.1}} for place, score in enumerate(scores)
        }
    else:
        values = {f"c{place}": {"average_precision": score, "dice": None} for place, score in enumerate(scores)}
    content = {"stage": stage, "registered": {arm: f"models:/{name}/{version}"}}
    content["metrics"] = {"detector" if stage == "detect" else arm: {"cases": values}}
    if labels:
        own = {label: {"dice": 0.5, "n": 6} for label in labels}
        scored = {"volume_ml_reference": 1.0, "volume_ml_prediction": 1.0, "hd95": 1.0, "surface_dice": 1.0}
        values = {f"c{place}": {label: {"dice": score, **scored} for label in labels} for place, score in enumerate(scores)}
        content["metrics"] = {arm: {"cases": values, "labels": own}}
    (folder / "result.json").write_text(json.dumps(content))
    tracker.artifact(folder / "result.json")
    tracker.end()
    return run_id


def promoted(run_id: str, alias: str = "champion", arm: str | None = None, force: bool = False):
    return promote.run(run_id, alias, arm, force, as_json=False)


def holder(name: str) -> str:
    return str(open_client().get_model_version_by_alias(name, "champion").version)


@pytest.mark.parametrize("stage", ["finetune", "detect"])
def test_the_alias_goes_to_the_better_and_stays_with_it(store, tmp_path, capsys, stage):
    name = f"model-{stage}"
    first = trained(tmp_path, name, stage=stage)
    assert promoted(first)["before"] is None and holder(name) == "1"
    better = trained(tmp_path, name, [score + 0.02 for score in SCORES], stage=stage)
    said = promoted(f"runs:/{better}")
    assert said["before"] == f"models:/{name}/1" and said["difference"]["mean"] == pytest.approx(0.02)
    assert holder(name) == "2"
    shown = capsys.readouterr().out
    assert "on the same 6 test cases, less that of" in shown and "+0.020" in shown
    worse = trained(tmp_path, name, [score - 0.01 for score in SCORES], stage=stage)
    with pytest.raises(DataError, match=r"The model is worse than the one that has the alias\. .*-0.030"):
        promoted(worse)
    assert holder(name) == "2"
    promoted(worse, force=True)
    assert holder(name) == "3"
    assert promoted(worse)["before"] == f"models:/{name}/3", "it is there already"
    assert promoted(f"models:/{name}/2", force=True)["model"] == f"models:/{name}/2"
    open_client().set_registered_model_alias(name, "trial", "3")
    with pytest.raises(DataError, match="worse"):
        promoted(f"models:/{name}@trial")


def test_labels_that_no_reference_has_do_not_count_and_autoencoders_are_not_compared(store, tmp_path):
    score = {"hd95": 1.0, "surface_dice": 1.0, "volume_ml_reference": 1.0, "volume_ml_prediction": 1.0}
    absent = {"dice": 0.0, "hd95": 9.0, "surface_dice": 0.0, "volume_ml_reference": 0.0, "volume_ml_prediction": 1.0}
    cases = {f"c{place}": {"one": {"dice": 0.9, **score}, "two": absent} for place in range(6)}
    labels = {"one": {"dice": 0.9}, "two": {"dice": None}}
    result = {"stage": "finetune", "metrics": {"a": {"cases": cases, "labels": labels}}}
    tested = promote._tested(open_client(), "m", "1", trained(tmp_path, "m"), "a", result)
    assert tested.scores == dict.fromkeys(cases, 0.9)
    with pytest.raises(DataError, match="A model of pretrain is not tested"):
        promoted(trained(tmp_path, "encoder", stage="pretrain"))


def test_a_difference_that_chance_gives_is_called_so(store, tmp_path):
    promoted(trained(tmp_path, "chance"))
    with pytest.raises(DataError, match="by no more than chance gives"):
        promoted(trained(tmp_path, "chance", (0.70, 0.90, 0.85, 0.79, 0.72, 0.63)))


def test_other_labels_are_no_comparison(store, tmp_path):
    """Two targets of one data set have the same test cases."""
    promoted(trained(tmp_path, "targets", labels=("lesion",)))
    other = trained(tmp_path, "targets", [0.99] * 6, labels=("white matter", "grey matter"))
    with pytest.raises(DataError, match=r"other labels \(white matter, grey matter and lesion\)"):
        promoted(other)
    assert holder("targets") == "1"
    promoted(other, force=True)
    assert holder("targets") == "2"


def test_other_test_cases_are_no_comparison(store, tmp_path):
    promoted(trained(tmp_path, "cases"))
    other = trained(tmp_path, "cases", [0.99] * 6, cases="another digest")
    with pytest.raises(DataError, match="not tested on the same cases") as caught:
        promoted(other)
    assert "--force" in caught.value.remedy and holder("cases") == "1"
    promoted(other, force=True)
    assert holder("cases") == "2"


def test_what_is_no_run_no_arm_or_no_alias_is_said(store, tmp_path):
    run_id = trained(tmp_path, "named")
    with pytest.raises(DataError, match="no model of the arm 'b'") as caught:
        promoted(run_id, arm="b")
    assert "--arm): a" in caught.value.remedy
    with pytest.raises(TrackingError, match="has no result"):
        promoted("0" * 32)
    for alias in ("newest", "latest", "1st"):
        with pytest.raises(ConfigError, match="is no alias to give"):
            promoted(run_id, alias)
