"""Schedules, rates, members, moving average and mirror images as a fine-tuning's configuration promises them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from typer.testing import CliRunner

from medae.artifact import ArtifactMeta, load_artifact, save_artifact
from medae.config import apply_overrides, to_dict, validate
from medae.errors import ConfigError
from medae.inference.predict import predict_maps
from medae.models.ensemble import Ensemble
from medae.models.networks import NetworkConfig
from medae.plan import Plan
from medae.preprocessing.prepare import prepare_files
from medae.report.html import Report
from medae.training import checkpoint
from medae.training.finetuning import Together
from pipelines import finetune, finetune_training
from pipelines.cli import app
from pipelines.console import Screen
from pipelines.finetune import Config
from pipelines.finetune_results import _own_rates
from pipelines.members import member_names, member_seeds
from pipelines.networks import seeded_network
from pipelines.outcome import Finished
from pipelines.segmenting import refuse_mirrored_sides
from pipelines.stage import run_stage

SHAPE = {"spatial_dims": 3, "widths": [4, 4, 4], "strides": [[1] * 3, [2] * 3, [2] * 3], "kernels": [[3] * 3] * 3}
SIZE = 16


def settings(root: Path, *overrides: str) -> Config:
    content = {
        "name": "tuning",
        "data": {"format": "folder", "root": str(root), "images": "image", "labels": "mask", "label_names": {1: "ball"}},
        "split": {"seed": 0, "test": 1, "validation": 0},
        "labelled": 1,
        "plan": {"patch": [SIZE] * 3, "batch": 1, "widths": [4, 4, 4]},
        "network": {"kind": "unet"},
        "fit": {"steps": 4, "epoch_steps": 2, "ema": 0.9, "schedule": {"warmup": 1}, "precision": "fp32"},
        "device": "cpu",
    }
    return validate(Config, apply_overrides(content, overrides))


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[Path]:
    """A working folder with three small scans under ``data`` and an untrained encoder under ``encoder``."""
    folder = tmp_path_factory.mktemp("tuning")
    ball = (sum((axis - 7.5) ** 2 for axis in np.indices((SIZE,) * 3)) <= 16).astype(np.uint8)
    for number in range(3):
        noise = np.random.default_rng(number).normal(100.0, 5.0, ball.shape)
        for kind, array in (("image", (noise + 40.0 * ball).astype(np.float32)), ("mask", ball)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "data" / kind / f"scan{number}.nii.gz")
    network = seeded_network(TypeAdapter(NetworkConfig).validate_python({"kind": "autoencoder", "encoder": SHAPE}), 9)
    shape = {key: SHAPE[key] for key in ("widths", "strides", "kernels")}
    space = {"channels": ["image"], "spacing": [1.0] * 3}
    plan = Plan.model_validate({"space": space, "network": shape, "sampling": {"patch": [SIZE] * 3}})
    save_artifact(folder / "encoder", network, ArtifactMeta(kind="autoencoder", network=network.config, plan=plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


def test_schedules_and_rates_are_checked_before_anything_is_read(tmp_path):
    config = settings(tmp_path, "encoder=there", "tuning={kind: decoder_first, lasts: 0.5}", "rates.scratch=0.02")
    assert config.fit_of("scratch", 5).rate == 0.02
    assert config.fit_of("scratch", 5).seed == 5
    assert config.fit_of("pretrained", 5).rate == config.fit.rate
    assert config.tuning_of("scratch") is None, "the twin has nothing that needs care"
    assert settings(tmp_path, "encoder=there", "tuning.encoder=0.1").tuning == Together(encoder=0.1)
    with pytest.raises(ConfigError, match="leaves the encoder no step"):
        settings(tmp_path, "tuning={kind: decoder_first, lasts: 4}")
    with pytest.raises(ConfigError, match=r"tuning: kind 'slowly' is unknown: choose one of together, gentle"):
        settings(tmp_path, "tuning.kind=slowly")
    with pytest.raises(ConfigError, match="encoder_rate"):
        settings(tmp_path, "encoder_rate=0.1")


def test_a_frozen_encoder_does_not_learn_jointly(tmp_path):
    semi = ("tuning.kind=frozen", "unlabelled.kind=joint")
    with pytest.raises(ConfigError, match=r"tuning\.kind: frozen keeps it still.*mean_teacher"):
        settings(tmp_path, "encoder=there", *semi)
    assert settings(tmp_path, "encoder=none", *semi).tuning_of("joint") is None, "nothing is frozen then"
    settings(tmp_path, "encoder=there", "tuning.kind=frozen", "unlabelled.kind=mean_teacher")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["encoder=there"], []),
        (["encoder=none"], ["rates.pretrained", "tuning"]),
        (["encoder=there", "scratch=false"], ["rates.scratch"]),
        (["encoder=there", "unlabelled={kind: mean_teacher, twin: false}"], []),
    ],
)
def test_what_is_said_of_arms_that_are_not_trained_is_known(tmp_path, overrides, expected):
    rates = "rates={pretrained: 0.001, scratch: 0.01}"
    assert settings(tmp_path, rates, "tuning.kind=gentle", *overrides).without_effect() == expected
    assert settings(tmp_path, *overrides).without_effect() == []


def test_members_have_seeds_of_their_own_and_the_first_is_the_training_alone():
    assert member_seeds(3, 1) == (3,)
    assert member_seeds(3, 3)[0] == 3
    assert len({*member_seeds(0, 4), *member_seeds(1, 4)}) == 8
    assert member_names("scratch", 1) == ("scratch",)
    assert member_names("scratch", 2) == ("scratch-member-1", "scratch-member-2")


def test_labels_with_sides_are_not_trained_on_mirror_images(work):
    plan = load_artifact(work / "encoder").meta.plan
    sided = {0: "background", 1: "left lung", 2: "right lung"}
    with pytest.raises(ConfigError, match="labels have sides"):
        refuse_mirrored_sides((0.5, 0.0, 0.0), plan, sided)
    refuse_mirrored_sides((0.0, 0.5, 0.5), plan, sided)
    refuse_mirrored_sides((0.5, 0.5, 0.5), plan, {0: "background", 1: "lung"})
    refuse_mirrored_sides((), plan, sided)


def test_mirror_images_are_averaged_only_if_the_network_is_shown_some(work):
    with pytest.raises(ConfigError, match=r"set augmentation\.flip"):
        settings(work / "data", "encoder=none", "flips=true", "augmentation.flip=[0, 0, 0]")
    shown = settings(work / "data", "encoder=none", "flips=true", "augmentation.flip=[0, 0.5, 0]")
    assert shown.augmentation.mirrored == (1,)


# --- an ensemble, from its members to its use ---


@pytest.fixture(scope="module")
def ensemble(work) -> Finished:
    """Two arms of two members, stopped in the second member of the first arm and gone on with."""
    options = (
        "members=2",
        "flips=true",
        "augmentation.flip=[0.5, 0, 0.5]",
        "network.deep_supervision=true",
        "tuning={kind: decoder_first, lasts: 2}",
    )
    config = settings(work / "data", f"encoder={work / 'encoder'}", *options)
    folder = work / "runs"
    trained = finetune_training.fit

    def stop(*arguments: Any, folder: Path, **others: Any) -> Any:
        if folder.name == "pretrained-member-2":
            raise KeyboardInterrupt
        return trained(*arguments, folder=folder, **others)

    with pytest.MonkeyPatch.context() as rigged:
        rigged.setattr(finetune_training, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage("finetune", config, folder, Screen())
    (place,) = folder.glob("finetune-*")
    first = place / "pretrained-member-1" / "checkpoints" / "step-00000004" / "state.safetensors"
    written = first.stat().st_mtime_ns
    finished = run_stage("finetune", config, folder, Screen(), resume=True)
    assert first.stat().st_mtime_ns == written, "a finished member is not trained again"
    return finished


def test_an_ensemble_is_one_model_of_the_members_moving_averages(ensemble):
    for arm in ("pretrained", "scratch"):
        artifact = load_artifact(ensemble.folder / f"model-{arm}", kind="segmenter")
        assert isinstance(artifact.model(), Ensemble)
        assert artifact.meta.provenance["seeds"] == list(member_seeds(0, 2))
        tensors = artifact.tensors()
        for number in (0, 1):
            stored = checkpoint.load(ensemble.folder / f"{arm}-member-{number + 1}").tensors
            own = {name.removeprefix("ema/"): value for name, value in stored.items() if name.startswith("ema/")}
            assert all(torch.equal(tensors[f"members.{number}.{name}"], value) for name, value in own.items())
        assert not torch.equal(tensors["members.0.head.0.weight"], tensors["members.1.head.0.weight"])
    assert ensemble.result.models == {"pretrained": "model-pretrained", "scratch": "model-scratch"}


def test_the_members_stand_beside_what_they_reach_together(ensemble):
    assert set(ensemble.result.metrics) == {"pretrained", "scratch"}
    for arm, found in ensemble.result.facts["members"].items():
        assert set(found["each"]) == {f"{arm}-member-1", f"{arm}-member-2"}
        dice = [figures["dice_mean"] for figures in found["each"].values()]
        assert found["mean"]["dice_mean"] == pytest.approx(np.mean(dice))
    page = (ensemble.folder / "report.html").read_text()
    assert "mean of its members alone" in page
    assert "the encoder is still for 2 steps" in page
    assert (ensemble.folder / "figures" / "rates.png").is_file()


def test_only_the_pairs_that_differ_in_their_rates_are_said_to(tmp_path):
    own = settings(tmp_path, "encoder=there", "rates={pretrained: 0.004, scratch: 0.008}", "unlabelled={kind: mean_teacher}")
    pairs = [("mean_teacher", "pretrained"), ("mean_teacher", "scratch"), ("pretrained", "scratch")]
    said = _own_rates(SimpleNamespace(config=own), pairs)
    assert [line.split(" had")[0] for line in said] == ["mean_teacher and scratch", "pretrained and scratch"]
    assert "(0.004 and 0.008)" in said[0]


def test_the_schedule_is_the_pretrained_arms_alone(ensemble):
    """It is still in steps 0 and 1, so that the record of the first epoch has no rate, that of the second the full one."""
    for number in (1, 2):
        history = checkpoint.load(ensemble.folder / f"pretrained-member-{number}").facts["state"]["history"]
        assert history[0]["rate/encoder"] == 0.0
        assert history[1]["rate/encoder"] == history[1]["rate"] > 0
    scratch = checkpoint.load(ensemble.folder / "scratch-member-1").facts["state"]["history"]
    assert "rate/encoder" not in scratch[0]


def test_a_registered_ensemble_predicts_the_mean_of_its_members(ensemble, work, tmp_path):
    output = tmp_path / "out.nii.gz"
    address = ensemble.result.registered["pretrained"]
    image = work / "data" / "image" / "scan0.nii.gz"
    done = CliRunner().invoke(app, ["predict", address, str(image), str(output), "--json"])
    assert done.exit_code == 0, done.output
    artifact = load_artifact(ensemble.folder / "model-pretrained")
    plan, model = artifact.meta.plan, artifact.model()
    prepared = prepare_files({"image": [image]}, plan.space, "scan0", None)
    each = [predict_maps(member, prepared, plan, device="cpu", mirrored=(0, 2)) for member in model.members]
    expected = torch.stack(each).mean(0)
    assert torch.allclose(predict_maps(model, prepared, plan, device="cpu", mirrored=(0, 2)), expected, atol=1e-6)
    found = np.asarray(nib.load(output).dataobj)
    decided = (expected[0] - expected[1]).abs().numpy() > 1e-5
    np.testing.assert_array_equal(found[decided], expected.argmax(0).numpy()[decided])


@pytest.mark.parametrize("tuning", ["{kind: frozen}", "{kind: layerwise, decay: 0.5}"])
def test_what_a_schedule_leaves_of_the_encoder(work, tmp_path, monkeypatch, tuning):
    monkeypatch.setattr(finetune, "make_report", lambda *_, **__: Report("Fine-tuning", ""))
    config = settings(work / "data", f"encoder={work / 'encoder'}", f"tuning={tuning}", "scratch=false")
    finished = run_stage("finetune", config, tmp_path, Screen())
    before, artifact = load_artifact(work / "encoder").tensors(), load_artifact(finished.folder / "model-pretrained")
    after = artifact.tensors()
    encoder = [name for name in after if name.startswith("encoder.")]
    moved = [name for name in encoder if not torch.equal(after[name], before[name])]
    assert moved == ([] if config.tuning.kind == "frozen" else encoder)
    assert artifact.meta.provenance["tuning"] == to_dict(config.tuning)
