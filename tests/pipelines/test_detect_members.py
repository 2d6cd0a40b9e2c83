"""A detector of several networks: each is trained as it would be alone, and all answer together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medae.artifact import load_artifact
from medae.config import validate
from medae.errors import ConfigError
from medae.models.ensemble import AutoencoderEnsemble
from medae.tracking.client import open_client
from pipelines import detect
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.detect import Config
from pipelines.outcome import Finished
from pipelines.stage import run_stage

SMALL = (
    "experiment=members",
    "data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}",
    "split.test=2",
    "split.validation=2",
    "plan.widths=[4, 8]",
    "plan.patch=[32, 40]",
    "plan.batch=8",
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


@pytest.fixture(scope="module")
def several(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Stopped in its second training, and gone on with."""
    folder, own, count = tmp_path_factory.mktemp("several"), detect.train, 0

    def stopped(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return own(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_stage("detect", small("members=2"), folder, Screen())
    return run_stage("detect", small("members=2"), folder, Screen(), resume=True)


def test_the_first_member_is_the_network_that_is_trained_alone(place: Path, several: Finished, tmp_path: Path) -> None:
    alone = run_stage("detect", small(), tmp_path, Screen())
    single = load_artifact(alone.folder / "model").model().state_dict()
    together = load_artifact(several.folder / "model").model()
    assert isinstance(together, AutoencoderEnsemble)
    first, second = (member.state_dict() for member in together.members)
    assert first.keys() == single.keys()
    assert all(torch.equal(first[name], single[name]) for name in single)
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_what_was_trained_is_not_trained_again(several: Finished) -> None:
    folders = sorted(path.name for path in several.folder.iterdir() if path.name.startswith("member"))
    assert folders == ["member-1", "member-2"]
    for name in folders:
        assert (several.folder / name / "checkpoints").is_dir()
    assert not (several.folder / "checkpoints").exists()


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


def test_of_several_encoders_none_is_the_one_that_compares() -> None:
    asked = "scoring.compare={seen: {kind: perceptual}}"
    assert small(asked).members == 1
    with pytest.raises(ConfigError, match="several encoders"):
        small(asked, "members=2")
