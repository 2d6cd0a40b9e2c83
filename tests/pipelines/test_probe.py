"""The probe of a pretraining: labels of training subjects only, a baseline, a choice that is written down."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medae.artifact import load_artifact
from medae.config import validate
from medae.data.split import labelled_subset
from medae.errors import ConfigError
from pipelines import pretrain, probe, segmenting
from pipelines.configs import read_config
from pipelines.console import Screen
from pipelines.data import image_digests, open_dataset
from pipelines.networks import seeded_network
from pipelines.pretrain import Config
from pipelines.stage import run_stage

SMALL = (
    "experiment=probe",
    "data={format: phantom, root: runs/smoke-phantoms, subjects: 10, lesions: 0.5, spacing: 6.0}",
    "split.test=2",
    "split.validation=2",
    "plan={spatial_dims: 3, stem: space_to_depth, widths: [4, 8], patch: [24, 24, 24], batch: 2}",
    "validation_batches=1",
    "fit={steps: 3, epoch_steps: 1}",
)
SLICES = "plan={slice_axis: 2, stem: space_to_depth, widths: [4, 8], patch: [24, 24], batch: 4}"
LINEAR = "probe={kind: linear, target: tissue, labelled: 2, scored: 3, voxels: 100, every: 2}"
FINETUNE = "probe={kind: finetune, target: tissue, labelled: 2, scored: 2, steps: 2, batch: 2}"


def small(*overrides: str) -> Config:
    return validate(Config, read_config("phantoms", "pretrain", [*SMALL, *overrides]))


@pytest.fixture
def work(smoke, monkeypatch) -> Path:
    monkeypatch.chdir(smoke.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return smoke.folder


def history(folder: Path) -> list[dict[str, float]]:
    (state,) = folder.glob("checkpoints/step-*/state.json")
    return json.loads(state.read_text())["state"]["history"]


def test_a_probe_reads_the_labels_of_its_own_training_cases_and_may_choose(work, tmp_path, monkeypatch):
    stores, references = {}, set()
    for module in (pretrain, probe):

        def preprocess(manifest, space, targets, *rest, original=module.preprocess):
            stores.setdefault(tuple(targets), set()).update(case.id for case in manifest.cases)
            return original(manifest, space, targets, *rest)

        monkeypatch.setattr(module, "preprocess", preprocess)
    read = segmenting.reference
    monkeypatch.setattr(
        segmenting, "reference", lambda manifest, case, name: (references.add(case.id), read(manifest, case, name))[1]
    )
    config = small("name=chosen", LINEAR, "fit.monitor=probe/dice")
    done = run_stage("pretrain", config, tmp_path, Screen())

    dataset = open_dataset(config, Screen())
    order = labelled_subset(dataset.manifest, dataset.split.train, None, config.split.order_salt(), "tissue")
    fitted, scored = (dataset.subset(part) for part in (order[:2], order[2:5]))
    facts = done.result.facts["probe"]
    assert set(facts["fitted"]) == {case.id for case in fitted.cases}
    assert set(facts["scored"]) == {case.id for case in scored.cases}
    assert stores.pop(("tissue",)) == references == {*facts["fitted"], *facts["scored"]}
    assert set(stores) == {()}, "no other label map is prepared"

    records = history(done.folder)
    assert [record["step"] for record in records if "probe/dice" in record] == [2, 3]
    measured = {record["step"]: record["probe/dice"] for record in records if "probe/dice" in record}
    artifact = load_artifact(done.folder / "model")
    provenance, metrics = artifact.meta.provenance, artifact.meta.metrics
    assert metrics["probe_dice"] == max(measured.values())
    assert (provenance["probe_labelled"], provenance["chosen_by"]) == (5, "probe/dice")
    assert set(provenance["probe_images"]) == {*image_digests(fitted), *image_digests(scored)}
    assert "Probe Dice" in (done.folder / "report.html").read_text()

    stage = SimpleNamespace(dataset=dataset, device=torch.device("cpu"), screen=Screen())
    cases = probe.probed_cases(config.probe, stage, config.split.order_salt())
    drawing = config.drawing.sampler(artifact.meta.plan)
    fresh = seeded_network(artifact.meta.network, config.fit.seed)
    again = probe.Prober(config.probe, config.fit, cases, artifact.meta.plan, drawing, fresh, stage, None)
    assert again.untrained == metrics["probe_dice_untrained"] == records[-1]["probe/untrained"]
    assert again(artifact.model(), 2)["probe/dice"] == pytest.approx(metrics["probe_dice"], abs=1e-3)
    assert again(artifact.model(), 1) == {}

    warnings: list[str] = []
    warned = SimpleNamespace(warn=warnings.append)
    for count in (5, 4):
        probe.warn_of_more_labels(artifact, dataset.subset(order[:count]), warned)
    assert len(warnings) == 1 and "labels of 1 images" in warnings[0]
    assert probe.labels_not_shared({"probe_images": ["x"]}, []) == 0, "a probe that only watched chose nothing"


def test_a_fine_tuning_probe_of_slices_changes_no_weight(work, tmp_path):
    probed = run_stage("pretrain", small("name=probed", SLICES, FINETUNE), tmp_path, Screen())
    plain = run_stage("pretrain", small("name=plain", SLICES), tmp_path, Screen())
    one, two = (load_artifact(done.folder / "model") for done in (probed, plain))
    assert all(torch.equal(value, two.tensors()[name]) for name, value in one.tensors().items())
    assert 0 <= one.meta.metrics["probe_dice"] <= 1
    assert "chosen_by" not in one.meta.provenance
    assert len([record for record in history(probed.folder) if "probe/dice" in record]) == 3


def test_too_few_labels_are_said_before_any_training(work):
    config = small("probe={kind: linear, target: tissue, labelled: 4, scored: 3}")
    stage = SimpleNamespace(dataset=open_dataset(config, Screen()))
    with pytest.raises(ConfigError, match=r"asks for 7 labelled training subjects.* 6 of 6"):
        probe.probed_cases(config.probe, stage, "salt")


@pytest.mark.parametrize("monitor", ["loss", "validation_loss", "probe/untrained"])
def test_a_probe_does_not_let_a_reconstruction_loss_choose(monitor):
    mode = "min" if "loss" in monitor else "max"
    with pytest.raises(ConfigError, match="nothing is chosen by it"):
        small(LINEAR, f"fit={{steps: 1, monitor: {monitor}, mode: {mode}}}")


def test_the_smallest_value_of_a_probe_is_not_the_best():
    with pytest.raises(ConfigError, match="larger"):
        small(LINEAR, "fit={steps: 1, monitor: probe/dice, mode: min}")


def test_without_a_probe_nothing_chooses():
    with pytest.raises(ConfigError, match="nothing is chosen by it"):
        small("fit={steps: 1, monitor: probe/dice}")
