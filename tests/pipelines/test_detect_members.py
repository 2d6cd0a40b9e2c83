"""A detector of several networks: each is trained as it would be alone, and all answer together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from detections import TINY
from typer.testing import CliRunner

from medae.artifact import load_artifact
from medae.config import validate
from medae.errors import ConfigError
from medae.models.ensemble import AutoencoderEnsemble
from medae.tracking.client import open_client
from pipelines import pretrain
from pipelines.cli import app
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.members import member_seeds
from pipelines.outcome import Finished
from pipelines.stage import run_stage

SMALL = (
    *TINY,
    "experiment=members",
    "split.test=2",
    "validation_batches=0",
    "network.lesion_head=true",
    "objective={kind: lesions}",
    "scoring.map={kind: sum, of: [{kind: residual}, {kind: lesion_head}]}",
    "fit={steps: 4, epoch_steps: 2}",
)


def small(*overrides: str) -> Config:
    return validate(Config, read_config("phantoms", "detect", [*SMALL, *overrides]))


@pytest.fixture(scope="module")
def place(smoke: Any) -> Iterator[Path]:
    """The smoke run's working folder: its phantoms, its cache and its store are used again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(smoke.folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield smoke.folder


@dataclass(frozen=True)
class Stopped:
    """A detection of two that was stopped in its second training, and gone on with. first: when files of the first were
    written, by name. reached: the step of the second's checkpoint."""

    finished: Finished
    first: dict[str, int]
    reached: list[str]


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder, own, count = tmp_path_factory.mktemp("several"), pretrain.fit, 0

    def fit(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1

        def stop(model: Any, step: int) -> None:
            if step == 4:
                raise KeyboardInterrupt

        return own(*given, **named, on_epoch=[stop] if count == 2 else [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            run_stage("detect", small("members=2"), folder, Screen())
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    first = written(run / "member-1")
    reached = [path.name for path in (run / "member-2" / "checkpoints").glob("step-*")]
    return Stopped(run_stage("detect", small("members=2"), folder, Screen(), resume=True), first, reached)


def written(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def several(stopped: Stopped) -> Finished:
    return stopped.finished


@pytest.mark.parametrize("number", [1, 2])
def test_each_member_is_the_network_that_is_trained_alone(
    number: int, place: Path, several: Finished, tmp_path: Path
) -> None:
    seed = member_seeds(0, 2)[number - 1]
    alone = run_stage("detect", small(f"fit.seed={seed}"), tmp_path, Screen())
    single = load_artifact(alone.folder / "model").model().state_dict()
    together = load_artifact(several.folder / "model").model()
    assert isinstance(together, AutoencoderEnsemble)
    own, other = together.members[number - 1].state_dict(), together.members[2 - number].state_dict()
    assert own.keys() == single.keys()
    assert all(torch.equal(own[name], single[name]) for name in single)
    assert not torch.equal(own["head.weight"], other["head.weight"])


def test_what_was_trained_is_not_trained_again(stopped: Stopped) -> None:
    folder = stopped.finished.folder
    assert stopped.reached == ["step-00000002"], "in its middle"
    assert stopped.first, "the first was done"
    assert written(folder / "member-1") == stopped.first
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("member")) == ["member-1", "member-2"]
    assert not (folder / "checkpoints").exists()


def test_how_it_was_made_is_kept(several: Finished) -> None:
    seeds = list(member_seeds(0, 2))
    assert (several.result.facts["members"], several.result.facts["seeds"]) == (2, seeds)
    assert load_artifact(several.folder / "model").meta.provenance["seeds"] == seeds


def test_each_training_is_logged_and_shown(place: Path, several: Finished) -> None:
    run = open_client().get_run(several.result.run_id)
    assert {"member-1/loss", "member-2/loss"} <= run.data.metrics.keys()
    report = (several.folder / "report.html").read_text(encoding="utf-8")
    for number in (1, 2):
        assert f"Training of autoencoder {number} of 2" in report
        assert (several.folder / "figures" / f"loss-member-{number}.png").is_file()


def test_the_detector_is_stored_and_given_as_one_model(place: Path, several: Finished, tmp_path: Path) -> None:
    given = run_stage("detect", small(f"model={several.folder / 'model'}"), tmp_path, Screen())
    for row in ("detector", "intensity"):
        before, after = (stage.result.metrics[row]["summary"] for stage in (several, given))
        assert after["average_precision_pooled"] == pytest.approx(before["average_precision_pooled"], abs=1e-6), row


def test_a_given_model_is_not_trained_several_times() -> None:
    with pytest.raises(ConfigError, match="members: networks are trained, and a model is given"):
        small("members=2", "model=somewhere")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kind": "perceptual"}, "several encoders"),
        ({"kind": "residual", "restore": {"over": "latent"}}, "several latents"),
        ({"kind": "residual", "draws": {"dropout": True}}, "drawn apart"),
    ],
)
def test_what_asks_for_one_encoder_or_latent_is_refused(asked: dict[str, Any], words: str) -> None:
    network = 'network={"kind": "autoencoder", "encoder": {"dropout": 0.1}}'
    plain = (
        "objective={kind: reconstruction}",
        "scoring.map={kind: residual}",
        network,
        f"scoring.compare={json.dumps({'seen': asked})}",
    )
    assert small(*plain).members == 1
    with pytest.raises(ConfigError, match=words):
        small(*plain, "members=2")


def test_several_vaes_have_no_prior_to_restore_by() -> None:
    vae = ('network={"kind": "vae", "latent": {"kind": "dense", "size": 4}}', "objective={kind: variational}")
    restore = 'scoring.map={"kind": "residual", "restore": {"over": "image"}}'
    assert small(*vae, restore).members == 1
    assert small(*vae, "scoring.map={kind: residual}", "members=2").members == 2
    with pytest.raises(ConfigError, match="several latents"):
        small(*vae, restore, "members=2")


def test_it_predicts(place: Path, several: Finished, tmp_path: Path) -> None:
    scan = next((place / "runs" / "smoke-phantoms").glob("sub-*/anat/*_T1w.nii.gz"))
    model = str(several.folder / "model")
    done = CliRunner().invoke(app, ["predict", model, str(scan), str(tmp_path / "found.nii.gz"), "--anyway"])
    assert done.exit_code == 0, done.output
    heat = np.asarray(nib.load(next(tmp_path.glob("*heatmap.nii.gz"))).dataobj)
    assert heat.shape == nib.load(scan).shape
    assert heat.max() > 0
