"""Every shipped configuration is valid and builds its network and objective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medae.config import to_yaml, validate
from medae.errors import ConfigError
from medae.models.networks import shortcuts
from medae.objectives.registry import build_objective
from pipelines.configs import find_config, merge, read_config, shipped_folder
from pipelines.networks import network_config, seeded_network
from pipelines.run import read_pipeline, stage_config
from pipelines.stage import KINDS, program_of

SHIPPED = sorted(path.relative_to(shipped_folder()) for path in shipped_folder().rglob("*.yaml"))
STAGES = [path for path in SHIPPED if path.parts[0] in KINDS]
CURVES = [path for path in SHIPPED if path.parts[0] == "curve"]
PIPELINES = [path for path in SHIPPED if path.parts[0] in ("pipelines", "smoke")]


def assert_builds(config) -> None:
    plan = config.plan.placeholder()
    network = network_config(config.network, plan, classes=3)
    model = seeded_network(network, seed=0)
    assert sum(p.numel() for p in model.parameters()) > 100
    assert all(name in dict(model.named_children()) for name in ("encoder", "head"))
    build_objective(config.objective, network)
    assert config.objective.corrupts or not shortcuts(network), "what could be copied is corrupted first"


def test_every_shipped_file_is_a_stage_a_pipeline_or_a_curve():
    assert set(SHIPPED) == {*STAGES, *PIPELINES, *CURVES}, "curves are tested in test_curve.py"
    assert {path.parts[0] for path in STAGES} == set(KINDS)
    assert Path("pipelines/demo.yaml") in PIPELINES


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_a_stage_validates_and_builds(path):
    kind = path.parts[0]
    assert_builds(validate(program_of(kind).Config, read_config(path.stem, kind), where=path))


@pytest.mark.parametrize("path", PIPELINES, ids=str)
def test_a_pipeline_validates_and_builds(path):
    _, stages = read_pipeline(str(shipped_folder() / path))
    assert stages
    for label, (kind, content) in stages.items():
        assert_builds(stage_config(kind, content, dict.fromkeys(stages, "."), where=label))


def test_every_gpu_pipeline_has_its_small_sibling():
    names = {path.stem for path in PIPELINES}
    large = {name for name in names if name.endswith("_gpu")}
    assert {"hippocampus_gpu", "lgg_anomaly_gpu", "lidc_ct_gpu"} <= large
    assert {name.removesuffix("_gpu") for name in large} <= names


def test_a_written_configuration_is_read_back_equal(tmp_path):
    config = validate(program_of("finetune").Config, read_config("lidc", "finetune"))
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert validate(program_of("finetune").Config, read_config(str(tmp_path / "c.yaml"), "finetune")) == config


@pytest.mark.parametrize(
    ("kind", "override", "words"),
    [
        ("pretrain", "network.decoder.skips=concat", None),
        ("pretrain", "objective={kind: reconstruction}", None),
        ("pretrain", "network.encoder.widths=[8, 8]", "plan decides"),
        ("pretrain", "network.kind=unet", "segmenter"),
        ("pretrain", "network.decoder.upsampling=max_unpool", "max_unpool"),
        ("pretrain", "fit.stpes=3", "fit.stpes"),
        ("finetune", "network.kind=autoencoder", "segmenter"),
        ("finetune", "network.kind=segnet", "maxpool"),
        ("finetune", "selection=2", "monitor"),
        ("finetune", "name=../escape", "name"),
        ("pretrain", "fit.monitor=validation_loss", "nothing is chosen"),
        ("pretrain", "fit={steps: 1, monitor: validation_loss, mode: min}", "nothing is chosen"),
        ("finetune", "scratch=false", "nothing to train"),
        ("detect", "normals=lesion_free_slices", None),
        ("detect", "objective={kind: reconstruction}", "copy its input"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(kind, override, words):
    content = read_config("phantoms", kind, [override])
    if words is None:
        assert validate(program_of(kind).Config, content)
    else:
        with pytest.raises(ConfigError, match=words):
            validate(program_of(kind).Config, content)


def test_plain_reconstruction_refuses_skips_and_pooling_indices_and_says_why():
    plain = ["objective={kind: reconstruction}", "plan.downsampling=maxpool"]
    validate(program_of("pretrain").Config, read_config("phantoms", "pretrain", plain))
    for leak, name in (
        ("network.decoder.skips=sum", "skip connections"),
        ("network.decoder.upsampling=max_unpool", "indices"),
    ):
        with pytest.raises(ConfigError, match=f"{name}.*learns to copy"):
            validate(program_of("pretrain").Config, read_config("phantoms", "pretrain", [*plain, leak]))


PUBLISHED = {
    "baur2021_dense": ((5, 5), (32, 64, 128, 128), 8, 1e-4, 20_000, "percentile", 98.0),
    "baur2021_vae": ((5, 5), (32, 64, 128, 128), 8, 1e-4, 20_000, "percentile", 98.0),
    "kascenas2022": ((3, 3), (64, 128, 256, 512), 16, 1e-4, 67_200, "percentile", 99.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_papers_keep_their_settings(name):
    config = validate(program_of("detect").Config, read_config(name, "detect", []))
    network, intensity = config.plan.placeholder().network, config.plan.intensity
    found = (network.kernels[0], network.widths, config.plan.batch, config.fit.rate, config.fit.steps)
    assert (*found, intensity.kind, intensity.percentile) == PUBLISHED[name]


def test_an_unknown_name_lists_what_ships():
    with pytest.raises(ConfigError, match="hippocampus"):
        find_config("no-such", "pipelines")


def test_overrides_of_a_pipeline_begin_with_the_stage():
    _, stages = read_pipeline("demo", ["pretrain.fit.steps=3", "shared.data.seed=5"])
    assert stages["pretrain"][1]["fit"]["steps"] == 3
    assert stages["finetune"][1]["fit"]["steps"] != 3
    assert all(content["data"]["seed"] == 5 for _, content in stages.values())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "pretrin.fit.steps=5",
            r"no key 'pretrin'; did you mean pretrain\?[\s\S]*Begin with a stage \(pretrain, finetune, detect\)",
        ),
        ("fit.steps=5", "no stage and no key 'fit'"),
        ("pretrain.name=x", "stage has no name of its own"),
        ("shared.experiment=x", r"stage has no experiment of its own[\s\S]*shared\.experiment"),
    ],
)
def test_a_key_that_a_pipeline_cannot_take_says_where_it_belongs(override, words):
    with pytest.raises(ConfigError, match=words):
        read_pipeline("demo", [override])


def test_the_pipelines_name_and_experiment_are_those_of_its_stages():
    _, stages = read_pipeline("demo", ["name=trial", "experiment=ours"])
    assert {(content["name"], content["experiment"]) for _, content in stages.values()} == {("trial", "ours")}


def test_a_rule_that_two_keys_break_names_no_single_key():
    with pytest.raises(ConfigError, match=r"fit:\n    selection \(cases that choose\) and fit\.monitor"):
        validate(program_of("finetune").Config, read_config("phantoms", "finetune", ["selection=2"]))


def test_a_reference_to_a_later_stage_is_refused():
    with pytest.raises(ConfigError, match="earlier stage"):
        read_pipeline("demo", ["pretrain.encoder=stage:detect"])


def test_merging_replaces_a_part_of_another_kind_whole():
    base = {"objective": {"kind": "masked", "ratio": [0.5, 0.6]}, "fit": {"steps": 3, "rate": 1}}
    changes = {"objective": {"kind": "denoising"}, "fit": {"steps": 4}}
    assert merge(base, changes) == {"objective": {"kind": "denoising"}, "fit": {"steps": 4, "rate": 1}}
    assert base["fit"]["steps"] == 3


def test_initial_weights_depend_on_the_seed_only():
    config = validate(program_of("pretrain").Config, read_config("phantoms", "pretrain"))
    network = network_config(config.network, config.plan.placeholder())
    first, second = (seeded_network(network, seed=1).state_dict() for _ in range(2))
    other = seeded_network(network, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("finetune", ["network={kind: fcn, scored: 4}"]),
        ("finetune", ["network.decoder.skips=[concat, concat, concat, none]", "unlabelled=null"]),
        ("pretrain", ["objective={kind: masked, block: [16, 16]}"]),
    ],
)
def test_what_fits_a_plan_that_may_come_is_not_refused_before_the_plan_is_made(kind, overrides):
    """Dimensions and levels are left to the rules: four levels, or slices, are as likely as three levels in 3D."""
    content = read_config("phantoms", kind, overrides) | {"plan": {}}
    config = validate(program_of(kind).Config, content)
    with pytest.raises(ConfigError):
        config.check_network(config.plan.placeholder())
    with pytest.raises(ConfigError):
        validate(program_of(kind).Config, content | {"plan": {"spatial_dims": 3, "levels": 2}})
