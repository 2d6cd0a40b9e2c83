"""What is moved, what is not, and what the report says about it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from medae.artifact import Artifact, ArtifactMeta, save_artifact
from medae.errors import TransferError
from medae.models.networks import EnsembleConfig, Network, NetworkConfig, build_network
from medae.plan import Plan, SpacePlan
from medae.transfer import TransferConfig, TransferReport, transfer

ENCODER: dict[str, Any] = {
    "widths": [4, 6, 8],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
}
LEVEL = ("conv.weight", "norm.weight", "norm.bias")
ALL = TransferConfig(minimum=0)


def encoder(**changes: Any) -> dict[str, Any]:
    return ENCODER | changes


def network(
    kind: str = "unet", *, seed: int = 7, decoder: dict[str, Any] | None = None, lesion_head: bool = False, **changes: Any
) -> Network:
    content: dict[str, Any] = {"kind": kind, "encoder": encoder(**changes)}
    if lesion_head:
        content["lesion_head"] = True
    if kind in ("unet", "segnet", "fcn"):
        content["classes"] = 2
    if decoder is not None:
        content["decoder"] = decoder
    torch.manual_seed(seed)
    return build_network(TypeAdapter(NetworkConfig).validate_python(content))


def space(**changes: Any) -> SpacePlan:
    return SpacePlan.model_validate(changes)


def artifact(
    folder: Path,
    *,
    space: SpacePlan | None = None,
    decoder: dict[str, Any] | None = None,
    lesion_head: bool = False,
    **changes: Any,
) -> Artifact:
    model = network("autoencoder", seed=1, decoder=decoder, lesion_head=lesion_head, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # as a training would leave norms and biases
    own = encoder(**changes)
    channels = [f"c{i}" for i in range(own.get("in_channels", 1))]
    plan = Plan.model_validate(
        {
            "space": space or {"channels": channels if len(channels) > 1 else ["image"]},
            "network": {key: own[key] for key in ("widths", "strides", "kernels")},
            "sampling": {"patch": [8, 8, 8]},
        }
    )
    return save_artifact(folder / "source", model, ArtifactMeta(kind="autoencoder", network=model.config, plan=plan))


def statuses(report: TransferReport) -> dict[str, str]:
    return {row.name: row.status for row in report.rows}


def state(model: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["unet", "fcn"])
def test_the_same_encoder_is_loaded_and_nothing_else(tmp_path: Path, kind: str) -> None:
    source, model = artifact(tmp_path), network(kind)
    before, theirs = state(model), source.tensors()
    report = transfer(source, model, space(), TransferConfig())
    assert report.share == 1
    assert report.differences == ()
    assert set(statuses(report)) == {f"encoder.levels.{i}.0.{name}" for i in range(3) for name in LEVEL}
    assert set(statuses(report).values()) == {"loaded"}
    assert report.is_plain
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name] if name.startswith("encoder.") else before[name]), name


def test_the_encoder_gives_the_same_features(tmp_path: Path) -> None:
    source, model = artifact(tmp_path), network()
    transfer(source, model, space(), TransferConfig())
    image = torch.randn(1, 1, 9, 8, 7)
    ours, theirs = model.encoder(image), source.model().encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(ours.levels, theirs.levels, strict=True))


def test_into_a_segnet(tmp_path: Path) -> None:
    source = artifact(tmp_path, downsampling="maxpool")
    assert transfer(source, network("segnet", downsampling="maxpool"), space(), TransferConfig()).count("loaded") == 9


def test_a_strided_encoder_fits_a_pooling_one_and_is_named(tmp_path: Path) -> None:
    source, model = artifact(tmp_path), network(downsampling="maxpool")
    report = transfer(source, model, space(), TransferConfig())
    assert report.share == 1
    assert [str(difference) for difference in report.differences] == ["encoder.downsampling: strided -> maxpool"]
    found = statuses(report)
    assert [found[f"encoder.levels.{i}.0.conv.weight"] for i in range(3)] == ["loaded", "adapted", "adapted"]
    assert torch.equal(
        model.state_dict()["encoder.levels.2.0.conv.weight"], source.tensors()["encoder.levels.2.0.conv.weight"]
    )


@pytest.mark.parametrize(
    ("change", "key", "loaded"),
    [
        ({"activation": "relu"}, "encoder.activation", 0),
        ({"norm": "group"}, "encoder.norm", 0),
        ({"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 1]]}, "encoder.strides", 6),
        ({"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}, "encoder.strides", 3),
        ({"dropout": 0.2}, None, 9),
    ],
)
def test_a_difference_of_configuration_is_never_loaded(
    tmp_path: Path, change: dict[str, Any], key: str | None, loaded: int
) -> None:
    report = transfer(artifact(tmp_path), network(**change), space(), TransferConfig())
    assert [difference.key for difference in report.differences] == ([] if key is None else [key])
    assert (report.count("loaded"), report.count("adapted")) == (loaded, 9 - loaded)
    assert all(key in row.reason for row in report.rows if key is not None and row.status == "adapted")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"spacing": [2.0, 1.0, 1.0]}, "space.spacing"),
        ({"intensity": {"kind": "robust_z"}}, "space.intensity"),
        ({"intensity": {"kind": "zscore", "upper_percentile": 99.0}}, "space.intensity"),
        ({"foreground": "head"}, "space.foreground"),
        ({"bias_correction": "n4"}, "space.bias_correction"),
    ],
)
def test_another_space_is_a_difference(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    report = transfer(artifact(tmp_path), network(), space(**change), TransferConfig())
    assert [difference.key for difference in report.differences] == [key]
    assert report.count("adapted") == 9


def test_an_encoder_with_another_width_at_the_end(tmp_path: Path) -> None:
    model = network(widths=[4, 6, 16])
    before = state(model)
    report = transfer(artifact(tmp_path), model, space(), ALL)
    assert [report.count(status) for status in ("loaded", "adapted", "random", "rejected")] == [6, 0, 0, 3]
    own = 1 * 4 * 27 + 8 + 4 * 6 * 27 + 12
    assert report.share == pytest.approx(own / (own + 6 * 16 * 27 + 32))
    name = "encoder.levels.2.0.conv.weight"
    assert torch.equal(model.state_dict()[name], before[name])
    row = next(row for row in report.rows if row.name == name)
    assert (row.source_shape, row.target_shape) == ((8, 6, 3, 3, 3), (16, 6, 3, 3, 3))


def test_encoders_of_different_depth(tmp_path: Path) -> None:
    shallow = {key: ENCODER[key][:2] for key in ENCODER}
    report = transfer(artifact(tmp_path), network(**shallow), space(), TransferConfig())
    assert report.share == 1
    assert report.count("loaded") == 6
    unused = [row for row in report.rows if row.target_shape is None]
    assert {row.name for row in unused} == {f"encoder.levels.2.0.{name}" for name in LEVEL}
    deep = {key: [*value, value[-1]] for key, value in ENCODER.items()}
    report = transfer(artifact(tmp_path / "deep"), network(**deep), space(), ALL)
    assert (report.count("loaded"), report.count("random")) == (9, 3)


@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_a_stem_takes_another_number_of_channels(tmp_path: Path, stem: str, block: str) -> None:
    first = [1, 1, 1] if stem == "plain" else [2, 2, 1]
    shape = {"stem": stem, "block": block, "strides": [first, [2, 2, 2], [2, 2, 2]]}
    source = artifact(tmp_path, in_channels=2, **shape)
    model = network(in_channels=3, **shape)
    report = transfer(source, model, space(channels=["a", "b", "c"]), TransferConfig())
    assert report.share == 1
    stems = 1 if block == "plain" else 2
    assert report.count("adapted") == stems
    assert report.count("loaded") == len(report.rows) - stems
    assert [difference.key for difference in report.differences] == ["space.channels"]
    # All channels equal: what the source makes of two of them, the target makes of three.
    image = torch.randn(1, 1, 8, 8, 8)
    theirs = source.model().encoder(image.expand(-1, 2, -1, -1, -1))
    ours = model.eval().encoder(image.expand(-1, 3, -1, -1, -1))
    for a, b in zip(theirs.levels, ours.levels, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_stems_of_different_kind_do_not_fit(tmp_path: Path) -> None:
    model = network(stem="space_to_depth", strides=[[2, 2, 2], [2, 2, 2], [2, 2, 2]])
    report = transfer(artifact(tmp_path), model, space(), ALL)
    assert statuses(report)["encoder.levels.0.0.conv.weight"] == "rejected"
    assert report.count("loaded") == 0
    assert "encoder.stem" in {difference.key for difference in report.differences}


def test_renamed_channels_concern_the_stem_alone(tmp_path: Path) -> None:
    report = transfer(artifact(tmp_path), network(), space(channels=["FLAIR"]), TransferConfig())
    adapted = [row.name for row in report.rows if row.status == "adapted"]
    assert adapted == ["encoder.levels.0.0.conv.weight"]
    assert str(report.differences[0]) == 'space.channels: ["image"] -> ["FLAIR"]'


def test_the_decoder_goes_along_when_asked(tmp_path: Path) -> None:
    source = artifact(tmp_path)
    model = network(decoder={"skips": "none"})
    assert transfer(source, model, space(), TransferConfig(decoder=True)).count("adapted") == 0
    theirs = source.tensors()
    assert all(
        torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items() if name.startswith("decoder.")
    )


def test_a_decoder_with_skips_takes_the_half_that_it_knows(tmp_path: Path) -> None:
    source, model = artifact(tmp_path), network(decoder={"skips": "concat"})
    before, theirs = state(model), source.tensors()
    report = transfer(source, model, space(), TransferConfig(decoder=True))
    name = "decoder.levels.0.blocks.0.conv.weight"
    row = next(row for row in report.rows if row.name == name)
    assert (row.status, row.reason) == ("adapted", "the half that sees the skip is left random")
    after = model.state_dict()[name]
    assert torch.equal(after[:, :4], theirs[name])
    assert torch.equal(after[:, 4:], before[name][:, 4:])
    found = statuses(report)
    assert {found[key] for key in found if key.startswith("decoder.")} == {"adapted"}
    assert {found[key] for key in found if key.startswith("encoder.")} == {"loaded"}
    assert [difference.key for difference in report.differences] == ["decoder.skips"]


@pytest.mark.parametrize("kind", ["autoencoder", "unet"])
def test_pretraining_with_skips_moves_the_whole_decoder(tmp_path: Path, kind: str) -> None:
    source = artifact(tmp_path, decoder={"skips": "concat"})
    model = network(kind, decoder={"skips": "concat"})
    report = transfer(source, model, space(), TransferConfig(decoder=True))
    assert report.differences == ()
    assert set(statuses(report).values()) == {"loaded"}
    theirs = source.tensors()
    moved = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("encoder.", "decoder."))}
    assert any(name.startswith("decoder.") for name in moved)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in moved.items())


def test_a_light_decoder_moves_what_fits_and_the_report_says_so(tmp_path: Path) -> None:
    source, model = artifact(tmp_path, decoder={"width": 4}), network()
    before = state(model)
    report = transfer(source, model, space(), TransferConfig(decoder=True))
    assert report.share == 1
    assert [str(row) for row in report.differences] == ["decoder.skips: none -> concat", "decoder.width: 4 -> null"]
    found = statuses(report)
    assert {status for name, status in found.items() if name.startswith("encoder.")} == {"loaded"}
    # The finest level is as narrow as the encoder's; the next has 6 channels instead of 4.
    assert found["decoder.levels.0.blocks.0.conv.weight"] == "adapted"
    assert not report.is_plain
    rejected = {row.name: row.reason for row in report.rows if row.status == "rejected"}
    assert "decoder.levels.1.blocks.0.conv.weight" in rejected
    assert set(rejected.values()) == {"the shapes differ"}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in rejected if name in before)


def test_the_head_of_lesions_becomes_that_of_the_foreground(tmp_path: Path) -> None:
    source = artifact(tmp_path, decoder={"skips": "concat"}, lesion_head=True)
    model = network("unet")
    report = transfer(source, model, space(), TransferConfig(decoder=True, head=True))
    image = torch.randn(2, 1, 16, 16, 16)
    finder = source.model()
    with torch.inference_mode():
        lesion = finder(image).extras["lesion"].sigmoid()
        found = model.eval()(image).maps[0].softmax(dim=1)
    torch.testing.assert_close(found[:, 1:], lesion)
    rows = {row.name: row for row in report.rows}
    assert {rows[name].status for name in ("head.0.weight", "head.0.bias")} == {"adapted"}
    assert rows["head.0.weight"].source_shape == (1, 4, 1, 1, 1) and rows["head.0.weight"].target_shape == (2, 4, 1, 1, 1)


def test_a_head_that_cannot_be_moved_is_refused(tmp_path: Path) -> None:
    both = TransferConfig(decoder=True, head=True)
    with pytest.raises(TransferError, match="no head of lesions"):
        transfer(artifact(tmp_path / "plain"), network("unet"), space(), both)
    source = artifact(tmp_path / "lesions", decoder={"skips": "concat"}, lesion_head=True)
    for kind, classes in (("fcn", 2), ("unet", 3)):
        model = build_network(
            TypeAdapter(NetworkConfig).validate_python({"kind": kind, "encoder": encoder(), "classes": classes})
        )
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(TransferError, match="one foreground class only"):
            transfer(source, model, space(), both)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for decoder in ({"skips": "sum"}, {"skips": "concat", "width": 5}):
        with pytest.raises(TransferError, match="not all of both can be moved"):
            transfer(source, network("unet", decoder=decoder), space(), both)
    tensors = load_file(source.folder / "weights.safetensors")
    tensors["head.weight"][-1, 0] = float("nan")
    save_file(tensors, source.folder / "weights.safetensors")
    with pytest.raises(TransferError, match="not finite"):
        transfer(source, network("unet"), space(), both)
    with pytest.raises(ValueError, match="decoder: true"):
        TransferConfig(head=True)


def test_an_ensemble_is_refused_in_words(tmp_path: Path) -> None:
    member = network("unet")
    ensemble = EnsembleConfig(member=member.config, members=2)
    plan = artifact(tmp_path).meta.plan
    meta = ArtifactMeta(kind="segmenter", network=ensemble, plan=plan, target="label", labels={0: "background", 1: "a"})
    source = save_artifact(tmp_path / "ensemble", build_network(ensemble), meta)
    with pytest.raises(TransferError, match=r"an ensemble: it has several encoders"):
        transfer(source, member, plan.space, TransferConfig())


def spoil(source: Artifact, changes: dict[str, Tensor | None]) -> None:
    """Weights that a training gone wrong, or a broken conversion, could have left."""
    path = source.folder / "weights.safetensors"
    tensors = load_file(path) | {name: tensor for name, tensor in changes.items() if tensor is not None}
    save_file({name: tensor for name, tensor in tensors.items() if name not in changes or changes[name] is not None}, path)


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (torch.full((8, 6, 3, 3, 3), float("nan")), "rejected", "1296 of 1296 values are not finite"),
        (torch.zeros(8, 6, 3, 3, 3), "rejected", "all values are 0"),
        (torch.full((8, 6, 3, 3, 3), 0.5), "rejected", "all values are 0.5"),
        (torch.randn(8, 6, 5, 5, 5), "rejected", "the shapes differ"),
        (torch.randn(48), "rejected", "the shapes differ"),
        (None, "random", "no such tensor"),
    ],
)
def test_a_broken_tensor_is_reported_and_left_out(tmp_path: Path, value: Tensor | None, status: str, words: str) -> None:
    name = "encoder.levels.2.0.conv.weight"
    source, model = artifact(tmp_path), network()
    spoil(source, {name: value})
    before = state(model)
    report = transfer(source, model, space(), ALL)
    row = next(row for row in report.rows if row.name == name)
    assert row.status == status
    assert words in row.reason
    assert torch.equal(model.state_dict()[name], before[name])
    assert report.count("loaded") == 8
    assert report.share < 0.5


def test_a_single_bad_number_and_a_dead_norm_are_found(tmp_path: Path) -> None:
    source, model = artifact(tmp_path), network()
    bad = source.tensors()["encoder.levels.1.0.conv.weight"]
    bad[0, 0, 0, 0, 0] = float("inf")
    spoil(source, {"encoder.levels.1.0.conv.weight": bad, "encoder.levels.2.0.norm.weight": torch.zeros(8)})
    report = transfer(source, model, space(), ALL)
    reasons = {row.name: row.reason for row in report.rows if row.status == "rejected"}
    assert reasons == {
        "encoder.levels.1.0.conv.weight": "broken: 1 of 648 values are not finite",
        "encoder.levels.2.0.norm.weight": "broken: all scales are 0",
    }
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_zero_biases_and_unit_scales_are_not_broken(tmp_path: Path) -> None:
    source = artifact(tmp_path)
    spoil(source, {"encoder.levels.0.0.norm.bias": torch.zeros(4), "encoder.levels.0.0.norm.weight": torch.ones(4)})
    assert transfer(source, network(), space(), TransferConfig()).count("loaded") == 9


def test_below_the_asked_share_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    source, model = artifact(tmp_path), network(widths=[4, 6, 16])
    before = state(model)
    with pytest.raises(TransferError, match="at least 50% is asked for") as caught:
        transfer(source, model, space(), TransferConfig())
    text = str(caught.value)
    assert "rejected: encoder.levels.2.0.conv.weight 8x6x3x3x3 -> 16x6x3x3x3, the shapes differ" in text
    assert "differs: encoder.widths: [4, 6, 8] -> [4, 6, 16]" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_nothing_but_nan_says_so(tmp_path: Path) -> None:
    source = artifact(tmp_path)
    spoil(source, {name: torch.full_like(tensor, float("nan")) for name, tensor in source.tensors().items()})
    with pytest.raises(TransferError, match=r"0\.0% of the encoder") as caught:
        transfer(source, network(), space(), TransferConfig())
    assert "not finite" in str(caught.value)
    assert caught.value.remedy is not None
    assert "broken" in caught.value.remedy


def test_the_report_as_json_and_as_a_table(tmp_path: Path) -> None:
    report = transfer(artifact(tmp_path), network(downsampling="maxpool"), space(), TransferConfig())
    content = json.loads(report.to_json())
    assert content["share"] == 1
    assert content["differences"] == [{"key": "encoder.downsampling", "source": "strided", "target": "maxpool", "level": 1}]
    assert content["tensors"][0] == {
        "name": "encoder.levels.0.0.conv.weight",
        "source_shape": [4, 1, 3, 3, 3],
        "target_shape": [4, 1, 3, 3, 3],
        "status": "loaded",
        "reason": "",
    }
    console = Console(file=io.StringIO(), width=150)
    console.print(report.table())
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100.0% of the encoder's parameters moved; tensors: 3 loaded, 6 adapted, 0 random, 0 rejected" in printed
    assert "encoder.downsampling: strided -> maxpool" in printed
    assert "4x1x3x3x3" in printed
