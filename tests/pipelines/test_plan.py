"""``medae plan``: real sets, the files that it writes, and a memory target in a stage's plan."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from medae.augmentation.augment import AugmentationConfig
from medae.data.finding import Finding
from medae.errors import ConfigError, DataError
from medae.objectives.masked import MaskedConfig
from medae.objectives.segmentation import SegmentationConfig
from medae.plan import NetworkPlan, Plan, SamplingPlan
from medae.planning.fingerprint import fingerprint
from medae.planning.memory import Estimator, usable
from medae.planning.rules import make_plan
from medae.training.config import FitConfig
from pipelines import memory
from pipelines import plan as program
from pipelines.console import Screen
from pipelines.data import open_folder
from pipelines.memory import default_estimator, estimator_of, margin_bytes, refuse_beyond_memory
from pipelines.plan import PlanChoice

GIB = 2**30


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "keys", "dims", "spacing", "scheme", "stored"),
    [
        ("hippocampus", {}, 3, (1.0, 1.0, 1.0), "zscore", {"RAS"}),
        ("lgg", {}, 2, (1.0, 1.0, None), "robust_z", {"PLS"}),
        ("ixi_t1", {}, 3, (2.0, 2.0, 2.0), "zscore", {"PSR"}),
        ("lidc", {"subject": "^.{14}", "modality": "CT"}, 3, None, "ct_window", {"LPS", "RAS"}),
    ],
)
def test_real_sets_get_a_sensible_plan(data_root, name, keys, dims, spacing, scheme, stored):
    found = fingerprint(open_folder(data_root / name, "auto", keys), limit=4)
    plan = make_plan(found, default_estimator(found))
    assert plan.space.spatial_dims == dims
    assert spacing is None or plan.space.spacing == spacing
    assert plan.space.intensity.kind == scheme
    assert set(found.orientations) <= stored
    assert set(plan.reasons) == {key for key, _, _ in plan.rows()}
    assert "a training step of the unet" in plan.reasons["sampling.batch"]
    if name == "lidc":
        in_plane, slices = plan.space.spacing[0], plan.space.spacing[2]
        assert 0.5 <= in_plane <= 1.0 <= slices <= 3.0
        assert plan.network.strides[-1] == (2, 2, 1), "thin: the last halving is in the plane"
        assert -1025 < plan.space.intensity.lower < -900 < 200 < plan.space.intensity.upper
    if name == "lgg":
        assert any("distance of the slices" in note for note in plan.notes)
        assert found.intensities["FLAIR"].eight_bit == 4


@pytest.fixture
def folder(tmp_path):
    """Four scans with a label, as a plain folder."""
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(4):
        draw = np.random.default_rng(number)
        label = np.zeros((48, 56, 40), np.uint8)
        label[20:30, 20:30, 15:20] = 1
        nib.save(
            nib.Nifti1Image(draw.normal(100, 10, label.shape).astype(np.float32), np.eye(4)), root / f"s{number}_T1w.nii"
        )
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / f"s{number}_dseg.nii")
    return root


def test_the_plan_and_the_fingerprint_are_written_side_by_side(folder, tmp_path, capsys):
    out = tmp_path / "made" / "knees.yaml"
    plan = program.run(folder, "folder", ["batch=3"], out, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert Plan.read(out).choices() == plan.choices()
    beside = (tmp_path / "made" / "knees.fingerprint.yaml").read_text()
    assert yaml.safe_load(beside)["labels of label"][1]["volume"] == [500.0, 500.0, 500.0]
    assert printed["fingerprint"]["labels"]["label"]["1"]["cases"] == 4
    assert printed["sampling"] == {"patch": [48, 56, 40], "batch": 3}
    assert str(tmp_path) not in out.read_text() + beside + json.dumps(printed)
    assert "s0" not in beside, "no file's name"


def test_one_bad_file_is_named_and_left_out(folder, tmp_path, capsys):
    (folder / "s1_T1w.nii").write_bytes(b"not an image")
    (folder / "s2_dseg.nii").unlink()
    plan = program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=True)
    out, notes = capsys.readouterr()
    assert plan.sampling.patch == (48, 56, 40)
    found = json.loads(out)["fingerprint"]
    assert (found["cases"], found["labels"]["label"]["1"]["cases"]) == (3, 2)
    assert "s1_T1w.nii" in notes
    for image in folder.glob("*_T1w.nii"):
        image.write_bytes(b"not an image")
    with pytest.raises(DataError, match="No case is left"):
        program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=True)


def test_what_the_source_noticed_is_said(folder, tmp_path, capsys, monkeypatch):
    noticed = Finding("", "stray.nii", "warning", "stray", "belongs to no case", "Remove it.")
    manifest = open_folder(folder, "folder").model_copy(update={"findings": (noticed,)})
    monkeypatch.setattr(program, "open_folder", lambda *_: manifest)
    program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=True)
    assert "belongs to no case" in capsys.readouterr().err


@pytest.mark.parametrize("taken", ["", "plan.fingerprint.yaml"])
def test_a_folder_in_place_of_the_plan_is_refused(folder, tmp_path, taken):
    (tmp_path / "made" / taken).mkdir(parents=True)
    out = tmp_path / "made" / "plan.yaml" if taken else tmp_path / "made"
    with pytest.raises(ConfigError, match="this is a folder"):
        program.run(folder, "folder", [], out, as_json=True)


def test_keys_of_the_source_are_honoured_or_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="format"):
        program.run(folder, "auto", ["data.format=nothing"], tmp_path / "plan.yaml", as_json=True)
    assert open_folder(folder, "auto", {"format": "folder", "ids": "names"}).source == "folder"
    with pytest.raises(ConfigError, match=r"leave out data\.root"):
        program.run(folder, "auto", [f"data.root={tmp_path}"], tmp_path / "plan.yaml", as_json=True)


def test_a_memory_target_on_the_command_line(folder, tmp_path, capsys):
    plan = program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=False, memory="1G")
    screen = " ".join(capsys.readouterr().out.split())
    found = fingerprint(open_folder(folder, "folder"))
    one_more = plan.sampling.model_copy(update={"batch": plan.sampling.batch + 1})
    fits, does_not = (
        default_estimator(found).bytes(each) for each in (plan, plan.model_copy(update={"sampling": one_more}))
    )
    assert fits <= usable(GIB) < does_not
    assert "cases read" in screen
    assert plan.reasons["sampling.batch"].endswith(" of 1 GiB")
    half = program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=True, memory="1G", precision="bf16")
    assert half.sampling.batch > plan.sampling.batch


def test_a_plan_file_can_be_looked_at_again(folder, tmp_path):
    program.run(folder, "folder", [], tmp_path / "first.yaml", as_json=True)
    again = program.run(folder, "folder", [f"file={tmp_path / 'first.yaml'}"], tmp_path / "second.yaml", as_json=True)
    assert set(again.reasons.values()) == {"as in the plan file"}


def test_a_pretrained_encoder_keeps_its_network_when_memory_is_short(folder):
    manifest = open_folder(folder, "folder")
    own = make_plan(fingerprint(manifest))
    network = NetworkPlan(widths=(16, 32), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2)
    pretrained = own.model_copy(update={"network": network, "sampling": SamplingPlan(patch=(8, 8, 8))})
    asked: list[Plan] = []
    estimator = estimator_of({"kind": "autoencoder"}, MaskedConfig(), FitConfig(steps=1), AugmentationConfig())

    def size(plan: Plan) -> int:
        asked.append(plan)
        return estimator.bytes(plan)

    choice = PlanChoice(spatial_dims=3, memory="0.5G")
    made = choice.around(pretrained, manifest, Screen(), Estimator(size, "a step"))
    assert {plan.network for plan in asked} == {network}
    assert made.network == network
    assert estimator.bytes(made) <= usable(GIB // 2)
    assert made.reasons["sampling.batch"].endswith(" of 0.5 GiB")


def test_where_brains_come_from_is_the_new_datas_affair(folder, tmp_path):
    """An encoder pretrained with masks meets scans without: what the user says of these counts."""
    manifest = open_folder(folder, "folder")
    own = make_plan(fingerprint(manifest), foreground="brain", brain_from=("label",))
    asked = PlanChoice(foreground="brain", brain_from=("skull_strip",), brain_extraction="deepbet")
    made = asked.around(own, manifest, Screen())
    assert (made.space.brain_from, made.space.brain_extraction) == (("skull_strip",), "deepbet")
    assert made.reasons["space.brain_from"] == "given"
    assert made.reasons["space.foreground"] == "kept from the encoder"
    assert PlanChoice().around(own, manifest, Screen()).space == own.space
    part = PlanChoice(brain_extraction="deepbet").around(own, manifest, Screen())
    assert (part.space.brain_from, part.space.brain_extraction) == (("label",), "deepbet")
    (tmp_path / "brains.yaml").write_text(made.as_yaml())
    filed = PlanChoice(file=tmp_path / "brains.yaml").around(own, manifest, Screen())
    assert filed.space == made.space
    assert filed.reasons["space.brain_from"] == "as in the plan file"
    heads = made.model_copy(update={"space": made.space.model_copy(update={"foreground": "head"})})
    (tmp_path / "heads.yaml").write_text(heads.as_yaml())
    assert PlanChoice(file=tmp_path / "heads.yaml").around(own, manifest, Screen()).space == own.space


@pytest.mark.parametrize("memory", ["a lot", "0"])
def test_an_unreadable_target_is_refused(memory):
    with pytest.raises(ValueError, match="no amount of memory"):
        PlanChoice(memory=memory)


def test_a_target_that_nothing_fits_names_what_the_smallest_would_need(folder, tmp_path):
    with pytest.raises(ConfigError, match="the smallest, is estimated at"):
        program.run(folder, "folder", [], tmp_path / "plan.yaml", as_json=True, memory="256M")


def test_the_margin_around_a_patch_takes_memory(folder):
    """0.25 of 16 voxels is 4 more on each side: 24^3 - 16^3 voxels of two channels, a mask and a label map."""
    plan = make_plan(fingerprint(open_folder(folder, "folder"))).model_copy(
        update={"sampling": SamplingPlan(patch=(16,) * 3)}
    )
    wide = AugmentationConfig(preset="strong", margin=0.25)
    assert margin_bytes(plan, wide, 2, labels=True) == (24**3 - 16**3) * (2 * 4 + 1 + 8)
    assert margin_bytes(plan, wide, 1, labels=False) == (24**3 - 16**3) * 5
    assert margin_bytes(plan, AugmentationConfig(), 1, labels=True) == 0
    network, goal, fit = {"kind": "unet"}, SegmentationConfig(), FitConfig(steps=1)
    with_it, without = (
        estimator_of(network, goal, fit, config, 2, lambda labelled: labelled).bytes(plan)
        for config in (wide, AugmentationConfig())
    )
    assert with_it - without == 2 * plan.sampling.batch * margin_bytes(plan, wide, len(plan.space.channels), labels=True)


def test_a_step_that_no_machine_can_hold_is_refused_before_it_is_tried(monkeypatch):
    network = {"widths": (16, 32), "strides": ((1,) * 3, (2,) * 3), "kernels": ((3,) * 3,) * 2}
    estimator = default_estimator_of_a_step()

    def made(size: int, batch: int = 2) -> Plan:
        space = {"channels": ["T1w"], "spacing": [1.0] * 3}
        return Plan.model_validate({"space": space, "network": network, "sampling": {"patch": [size] * 3, "batch": batch}})

    machine = type("Memory", (), {"total": 8 * GIB})
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    refuse_beyond_memory(made(48), estimator, torch.device("cpu"))
    with pytest.raises(
        ConfigError, match=r"With 2 patches of 512x512x512.* GiB; this machine has 8\.[\s\S]*plan.memory: 5G"
    ):
        refuse_beyond_memory(made(512), estimator, torch.device("cpu"))
    assert estimator.bytes(made(128)) > estimator.bytes(made(48))


def test_no_more_memory_than_the_container_may_have(tmp_path):
    groups = tmp_path / "cgroup"
    (groups / "docker" / "x").mkdir(parents=True)
    (groups / "memory" / "job").mkdir(parents=True)
    (groups / "docker" / "x" / "memory.max").write_text("max\n")
    (groups / "memory" / "job" / "memory.limit_in_bytes").write_text(f"{3 * GIB}\n")
    (groups / "memory.max").write_text(f"{4 * GIB}\n")
    own = tmp_path / "own"
    own.write_text("5:devices:/\n4:memory:/job\n0::/docker/x\n")
    assert sorted(memory._limits(groups, own)) == [3 * GIB, 4 * GIB]
    assert memory._limits(tmp_path / "none", tmp_path / "none") == []


def default_estimator_of_a_step() -> Estimator:
    return estimator_of({"kind": "unet"}, SegmentationConfig(), FitConfig(steps=1), AugmentationConfig(), classes=2)
