"""The artifact folder: round trip, privacy, and every way in which it can be broken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from medae.artifact import CARD, RECORD, WEIGHTS, Artifact, ArtifactMeta, load_artifact, save_artifact
from medae.errors import ArtifactError
from medae.models.networks import EnsembleConfig, Network, build_network
from medae.plan import Plan

ENCODER = {"widths": [4, 8], "strides": [[1, 1, 1], [2, 2, 2]], "kernels": [[3, 3, 3], [3, 3, 3]]}
PLAN = Plan.model_validate({"space": {"channels": ["T1"]}, "network": ENCODER, "sampling": {"patch": [8, 8, 8]}})


def describe(**changes: Any) -> ArtifactMeta:
    content = {"kind": "autoencoder", "network": {"kind": "autoencoder", "encoder": ENCODER}, "plan": PLAN}
    return ArtifactMeta.model_validate(content | changes)


def segmenter(**changes: Any) -> ArtifactMeta:
    network = {"kind": "unet", "encoder": ENCODER, "classes": 3}
    labels = {0: "background", 1: "anterior", 2: "posterior"}
    return describe(kind="segmenter", network=network, target="label", labels=labels, **changes)


def ensemble() -> ArtifactMeta:
    meta = segmenter()
    return meta.model_copy(update={"network": EnsembleConfig(member=meta.network, members=2)})


@pytest.fixture
def model() -> Network:
    torch.manual_seed(1)
    return build_network(describe().network)


@pytest.fixture
def saved(model: Network, tmp_path: Path) -> Artifact:
    return save_artifact(tmp_path / "model", model, describe())


@pytest.mark.parametrize("meta", [describe(), segmenter(), ensemble()], ids=["autoencoder", "segmenter", "ensemble"])
def test_a_loaded_model_gives_the_same_output(meta: ArtifactMeta, tmp_path: Path) -> None:
    model = build_network(meta.network).eval()
    stored = save_artifact(tmp_path / "deep" / "model", model, meta)
    loaded = load_artifact(tmp_path / "deep" / "model", kind=meta.kind)
    image = torch.randn(1, 1, 9, 8, 7)
    assert loaded.meta == stored.meta == meta
    assert loaded.digest == stored.digest
    with torch.no_grad():
        assert torch.equal(loaded.model()(image).finest, model(image).finest)
    assert not loaded.model().training
    assert {item.name for item in loaded.folder.iterdir()} == {WEIGHTS, RECORD, CARD}
    assert [item.name for item in loaded.folder.parent.iterdir()] == ["model"], "nothing is left beside"


def test_opening_a_model_leaves_the_random_state_as_it_was(saved: Artifact) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    saved.model()
    assert torch.equal(torch.rand(1), expected)


def test_batch_statistics_and_half_precision_survive(tmp_path: Path) -> None:
    meta = describe(network={"kind": "autoencoder", "encoder": ENCODER | {"norm": "batch"}})
    model = build_network(meta.network)
    model(torch.randn(2, 1, 8, 8, 8) + 3)
    loaded = save_artifact(tmp_path / "model", model, meta).model()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.encoder.levels[0][0].norm.running_mean.abs().sum() > 0


def test_the_digest_hangs_on_weights_and_record(saved: Artifact, model: Network, tmp_path: Path) -> None:
    same = save_artifact(tmp_path / "same", model, describe())
    assert same.digest == saved.digest
    assert save_artifact(tmp_path / "note", model, describe(metrics={"dice": 0.5})).digest != saved.digest
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    assert save_artifact(tmp_path / "weights", model, describe()).digest != saved.digest


def test_saving_again_replaces(saved: Artifact, model: Network) -> None:
    save_artifact(saved.folder, model, describe(metrics={"dice": 0.5}))
    assert load_artifact(saved.folder).meta.metrics == {"dice": 0.5}


def test_statistics_lie_beside_the_weights_and_are_checked_like_them(model: Network, tmp_path: Path) -> None:
    plain = save_artifact(tmp_path / "plain", model, describe(kind="detector"))
    assert plain.statistics() == {}
    assert "statistics" not in json.loads((plain.folder / "medae.json").read_text())
    learnt = {"mean": torch.arange(6.0).reshape(2, 3), "unit": torch.ones(2, dtype=torch.float64)}
    kept = save_artifact(tmp_path / "model", model, describe(kind="detector"), learnt)
    assert kept.digest != plain.digest
    again = load_artifact(kept.folder)
    assert again.digest == kept.digest
    assert all(torch.equal(again.statistics()[name], value) for name, value in learnt.items())
    path = kept.folder / "statistics.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="statistics are not those that were stored"):
        load_artifact(kept.folder)
    path.unlink()
    with pytest.raises(ArtifactError, match="statistics are missing"):
        load_artifact(kept.folder)
    save_artifact(kept.folder, model, describe(kind="detector"))
    assert load_artifact(kept.folder).statistics() == {}, "a model without statistics takes the place of one with them"


def test_a_folder_with_other_files_is_left_alone(model: Network, tmp_path: Path) -> None:
    precious = tmp_path / "model" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("words")
    with pytest.raises(ArtifactError, match="something else"):
        save_artifact(precious.parent, model, describe())
    assert precious.read_text() == "words"


def test_a_full_disk_leaves_the_old_model(saved: Artifact, model: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        save_artifact(saved.folder, model, describe(metrics={"dice": 0.5}))
    assert load_artifact(saved.folder).digest == saved.digest
    assert [item.name for item in saved.folder.parent.iterdir()] == ["model"]


def test_a_model_that_is_not_the_described_one_is_not_stored(model: Network, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not the one that its description builds"):
        save_artifact(tmp_path / "model", model, segmenter())
    assert not (tmp_path / "model").exists()


def test_what_does_not_fit_together_is_refused() -> None:
    flat = {"widths": [4, 8], "strides": [[1, 1], [2, 2]], "kernels": [[3, 3], [3, 3]], "spatial_dims": 2}
    with pytest.raises(ValidationError, match="dimensions"):
        describe(network={"kind": "autoencoder", "encoder": flat})
    with pytest.raises(ValidationError, match="channels"):
        describe(network={"kind": "autoencoder", "encoder": ENCODER | {"in_channels": 2}})
    with pytest.raises(ValidationError, match="target"):
        describe(kind="segmenter", network={"kind": "unet", "encoder": ENCODER, "classes": 2})


def without_record(folder: Path) -> None:
    (folder / RECORD).unlink()


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def cut_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))


def pickled_weights(folder: Path) -> None:
    torch.save({"encoder": torch.zeros(3)}, folder / WEIGHTS)


def cut_record(folder: Path) -> None:
    (folder / RECORD).write_text((folder / RECORD).read_text()[:100])


def binary_record(folder: Path) -> None:
    (folder / RECORD).write_bytes(b"\x80\x04\xff")


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / RECORD).read_text())
        change(content)
        (folder / RECORD).write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_record, "has no medae.json"),
        (without_weights, "has no weights.safetensors"),
        (cut_weights, "damaged: .* bytes instead of"),
        (flip_a_bit, "checksum differs"),
        (pickled_weights, "damaged"),
        (cut_record, "cannot be read"),
        (binary_record, "cannot be read"),
        (edit(lambda record: record.update(format=1)), "has format 1;"),
        (edit(lambda record: record.pop("format")), "not the record of a model"),
        (edit(lambda record: record["meta"]["network"].update(kind="transformer")), "is not valid"),
        (edit(lambda record: record["meta"].pop("plan")), "plan"),
        (lambda folder: (folder / RECORD).write_text("[]"), "not the record of a model"),
    ],
)
def test_each_damage_is_one_clear_error(saved: Artifact, damage: Callable[[Path], None], words: str) -> None:
    damage(saved.folder)
    with pytest.raises(ArtifactError, match=words) as caught:
        load_artifact(saved.folder)
    assert caught.value.where
    assert caught.value.remedy


def test_weights_of_another_network_are_named(saved: Artifact) -> None:
    edit(lambda record: record["meta"]["network"]["encoder"].update(blocks=2))(saved.folder)
    with pytest.raises(ArtifactError, match=r"encoder\.levels\.0\.1\.conv\.weight is missing"):
        load_artifact(saved.folder).model()


def test_no_such_folder_and_another_kind(saved: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model folder"):
        load_artifact(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="of the kind autoencoder; a model of the kind segmenter is needed"):
        load_artifact(saved.folder, kind="segmenter")


def test_no_absolute_path_and_no_invalid_number_is_stored(model: Network, tmp_path: Path) -> None:
    meta = describe(
        provenance={
            "data": {"root": tmp_path / "ward 7", "cases": [str(tmp_path / "doe.nii")]},
            "config": "see /home/doe/x",
        },
        metrics={"dice": float("nan"), "cases": {"c1": [1.0, float("inf")]}},
        calibration={"threshold": 1.5, "cohort": str(tmp_path)},
    )
    folder = save_artifact(tmp_path / "model", model, meta).folder
    for file in (RECORD, CARD):
        text = (folder / file).read_text()
        assert str(tmp_path) not in text
        assert "doe" not in text
        assert "NaN" not in text
    assert load_artifact(folder).meta.metrics == {"dice": None, "cases": {"c1": [1.0, None]}}


def test_the_card_says_what_matters(model: Network, tmp_path: Path) -> None:
    meta = segmenter(
        provenance={"data": {"name": "hippocampus", "subjects": 8, "a|b": "x|y"}},
        metrics={"dice_mean": 0.87654321, "dice_mean_low": 0.81, "dice_mean_high": 0.9, "absent": None, "n_low": 3},
    )
    card = (save_artifact(tmp_path / "model", build_network(meta.network), meta).folder / CARD).read_text()
    for words in (
        "Research only",
        "hippocampus",
        "0.8765 [0.81, 0.9] |",
        "| n_low | 3 |",
        "anterior",
        "T1",
        "medae predict",
        "a\\|b",
        "intensity.kind",
    ):
        assert words in card, words
    assert "dice_mean_low" not in card and "95 % intervals over the subjects that were scored" in card
    assert "phantom" not in card.lower()
    assert card.startswith("---\nlibrary_name: medae\n")


@pytest.mark.parametrize(
    "provenance", [{"data": {"source": {"format": "phantom"}}}, {"data": [{"phantom": True}]}, {"phantom": True}]
)
def test_phantoms_are_named_as_such(model: Network, tmp_path: Path, provenance: dict[str, Any]) -> None:
    folder = save_artifact(tmp_path / "model", model, describe(provenance=provenance)).folder
    assert "Trained on phantoms" in (folder / CARD).read_text()
